//! Sources that are buckets.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::backup::BackupRoot;
use super::guards::{self, Looked};
use super::{FsMaker, Job, Roots, StartError, Task, local_options, open_backup_root, roots};
use super::{roots::Root, start_local};
use crate::error::Side;
use crate::io::Depth;
use crate::model::Carried;
use crate::s3::{self, Form, ObjectFs, Store, Url};
use crate::transfer::Reflink;

/// `None` when no bucket is part of the job.
pub(super) fn open(
    job: &Job,
    depth: Arc<Depth>,
) -> Result<Option<(Roots, Option<BackupRoot>)>, StartError> {
    if let Some(dest) = &job.dest
        && url_of(dest)?.is_some()
    {
        let shown = dest.display();
        return Err(StartError::location(format!(
            "cannot write to '{shown}': a bucket can be the source only; for a directory of that name write './{shown}'"
        )));
    }
    let Some(url) = url_of(&job.source)? else {
        return Ok(None);
    };
    refuse_what_buckets_lack(job)?;
    let store = Store::connect(&job.s3, &url, job.cpus.len()).map_err(StartError::location)?;
    let store = Arc::new(store);
    let source = s3::root(&url.prefix);
    let dest = match &job.dest {
        Some(path) => roots::open_dest(job, None, path)?,
        None => None,
    };
    if let Some(dest) = &dest {
        let looked = Looked {
            root: &source,
            ask: &|op| ObjectFs::run_blocking(&store, op),
        };
        guards::refuse_emptied_source(job, looked, dest)?;
    }
    let backup = open_backup_root(job, None, dest.as_ref())?;
    // A scan counts; what a listing tells is enough.
    let asks = job.task != Task::Scan && job.s3.form != Form::None;
    let options = local_options(job, depth);
    let fs: FsMaker = Arc::new(move |instruments| {
        let source = ObjectFs::new(store.clone(), instruments.clone(), Side::Source, asks);
        let dest = start_local(&options, instruments)?.on(Side::Destination);
        Ok((Rc::new(source), Rc::new(dest)))
    });
    let identity = |root: &Root| root.identity;
    let roots = Roots {
        source,
        dest_identity: dest.as_ref().map(identity),
        dest: dest.map(|root| root.handle),
        fs,
    };
    Ok(Some((roots, backup)))
}

fn url_of(path: &Path) -> Result<Option<Url>, StartError> {
    let url = Url::parse(path.as_os_str().as_bytes()).transpose();
    url.map_err(|why| StartError::location(format!("'{}': {why}", path.display())))
}

/// What an option would carry from objects that do not have it, it would take from the copies.
fn refuse_what_buckets_lack(job: &Job) -> Result<(), StartError> {
    let Carried { xattrs, acls, .. } = job.policy.extended;
    for (option, given) in [
        ("--xattrs", xattrs),
        ("--acls", acls),
        ("--hard-links", job.policy.carry_links),
        ("--reflink always", job.reflink == Reflink::Always),
    ] {
        if given {
            return Err(StartError::location(format!(
                "{option} does not go with a bucket: objects have nothing of that kind"
            )));
        }
    }
    Ok(())
}
