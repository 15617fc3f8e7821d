//! Jobs of which one side is a bucket, or both.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::backup::BackupRoot;
use super::guards::{self, Looked};
use super::roots::{self, Root};
use super::start_local;
use super::{FsMaker, Job, Roots, StartError, Task, local_options, open_backup_root};
use crate::error::Side;
use crate::io::{Depth, Fs, Handle, LocalFs, Op, Reply, Target};
use crate::model::{Carried, Instruments, Symlinks};
use crate::s3::{self, Form, ObjectFs, Shared, Store, Url, Ways};
use crate::transfer::{Reflink, WriteMode};

/// One side of such a job.
enum End {
    Dir(Root),
    Bucket(Bucket),
}

struct Bucket {
    store: Arc<Store>,
    root: Handle,
}

/// `None` when no bucket is part of the job.
pub(super) fn open(
    job: &Job,
    depth: Arc<Depth>,
    shared: &Shared,
) -> Result<Option<(Roots, Option<BackupRoot>)>, StartError> {
    let source_url = url_of(&job.source)?;
    let dest_url = match &job.dest {
        Some(path) => url_of(path)?,
        None => None,
    };
    if source_url.is_none() && dest_url.is_none() {
        return Ok(None);
    }
    refuse_what_buckets_lack(job, source_url.is_some(), dest_url.is_some())?;
    if let (Some(source), Some(dest)) = (&source_url, &dest_url) {
        refuse_overlap(source, dest)?;
    }
    let connect = |url, side| Bucket::connect(job, url, side, shared.clone());
    let source = match &source_url {
        Some(url) => End::Bucket(connect(url, Side::Source)?),
        None => End::Dir(roots::open_source(job)?),
    };
    let dest = match (&dest_url, &job.dest) {
        (Some(url), _) => Some(End::Bucket(connect(url, Side::Destination)?)),
        (None, Some(path)) => roots::open_dest(job, None, path)?.map(End::Dir),
        (None, None) => None,
    };
    if let Some(dest) = &dest {
        source.look(&mut |source| {
            dest.look(&mut |dest| guards::refuse_emptied_source(job, source, dest))
        })?;
    }
    let backup = open_backup_root(job, None, dest.as_ref().and_then(End::dir))?;
    let roots = Roots {
        source: source.root().clone(),
        dest_identity: match &dest {
            Some(dest) => Some(dest.identity()?),
            None => None,
        },
        dest: dest.as_ref().map(|dest| dest.root().clone()),
        fs: fs_maker(job, depth, &source, dest.as_ref()),
    };
    Ok(Some((roots, backup)))
}

/// Changes what a job carries to what its destination can hold.
pub(super) fn suit_destination(job: &mut Job) -> Result<(), StartError> {
    let is_bucket = match &job.dest {
        Some(path) => url_of(path)?.is_some(),
        None => false,
    };
    if !is_bucket {
        return Ok(());
    }
    if job.write_mode != WriteMode::Atomic {
        return Err(StartError::location(String::from(
            "--inplace and --write-mode direct do not go with a bucket as destination: objects are replaced as a whole",
        )));
    }
    job.write_mode = WriteMode::Whole;
    // Every byte of an object is written.
    job.trust_holes = false;
    let policy = &mut job.policy;
    policy.carry_devices = false;
    policy.carry_specials = false;
    policy.carry_symlinks = job.s3.form == Form::Posix;
    policy.dest_keeps_no_times = job.s3.form == Form::None;
    Ok(())
}

fn fs_maker(job: &Job, depth: Arc<Depth>, source: &End, dest: Option<&End>) -> FsMaker {
    // A scan counts; what a listing tells is enough.
    let asks = job.task != Task::Scan && job.s3.form != Form::None;
    let store_of = |end: &End| match end {
        End::Bucket(bucket) => Some(bucket.store.clone()),
        End::Dir(_) => None,
    };
    let (source, dest) = (store_of(source), dest.and_then(store_of));
    let copies = dest.is_some() && job.reflink != Reflink::Never;
    let options = local_options(job, depth);
    Arc::new(move |instruments: &Instruments| {
        let local: Option<LocalFs> = if source.is_some() && dest.is_some() {
            None
        } else {
            Some(start_local(&options, instruments)?)
        };
        let fs_of = |store: &Option<Arc<Store>>, side, ways| -> Rc<dyn Fs> {
            match (store, &local) {
                (Some(store), _) => Rc::new(ObjectFs::new(
                    store.clone(),
                    instruments.clone(),
                    side,
                    ways,
                )),
                (None, Some(local)) => Rc::new(local.on(side)),
                (None, None) => unreachable!("a side without a bucket has the local filesystem"),
            }
        };
        let no_copies = Ways {
            asks,
            copies: false,
        };
        Ok((
            fs_of(&source, Side::Source, Ways { asks, copies }),
            fs_of(&dest, Side::Destination, no_copies),
        ))
    })
}

impl Bucket {
    fn connect(job: &Job, url: &Url, side: Side, shared: Shared) -> Result<Self, StartError> {
        let store = Store::connect(&job.s3, url, side, job.cpus.len(), shared);
        let store = Arc::new(store.map_err(StartError::location)?);
        let root = s3::root(&store, &url.prefix);
        Ok(Self { store, root })
    }
}

impl End {
    fn root(&self) -> &Handle {
        match self {
            Self::Dir(root) => &root.handle,
            Self::Bucket(bucket) => &bucket.root,
        }
    }

    fn dir(&self) -> Option<&Root> {
        match self {
            Self::Dir(root) => Some(root),
            Self::Bucket(_) => None,
        }
    }

    fn identity(&self) -> Result<(u64, u64), StartError> {
        let Bucket { store, root } = match self {
            Self::Dir(root) => return Ok(root.identity),
            Self::Bucket(bucket) => bucket,
        };
        let target = Target::Open(root.clone());
        match ObjectFs::run_blocking(store, Op::Stat { target }) {
            Ok(Reply::Meta(meta)) => Ok(meta.identity()),
            _ => Err(StartError::location(String::from("the bucket has no root"))),
        }
    }

    /// Shows how it can be looked at before the run.
    fn look<T>(&self, at: &mut dyn FnMut(Looked<'_>) -> T) -> T {
        match self {
            Self::Dir(root) => at(Looked::local(&root.handle)),
            Self::Bucket(bucket) => at(Looked {
                root: &bucket.root,
                ask: &|op| ObjectFs::run_blocking(&bucket.store, op),
                is_slow: true,
            }),
        }
    }
}

fn url_of(path: &Path) -> Result<Option<Url>, StartError> {
    let url = Url::parse(path.as_os_str().as_bytes()).transpose();
    url.map_err(|why| StartError::location(format!("'{}': {why}", path.display())))
}

/// One prefix in the other, or both the same.
fn refuse_overlap(source: &Url, dest: &Url) -> Result<(), StartError> {
    if source.bucket != dest.bucket {
        return Ok(());
    }
    if dest.prefix.starts_with(&source.prefix) {
        return Err(StartError::location(format!(
            "destination '{dest}' is or lies inside source '{source}', so it would be copied into itself; choose one outside"
        )));
    }
    if source.prefix.starts_with(&dest.prefix) {
        return Err(StartError::location(format!(
            "source '{source}' lies inside destination '{dest}', so it could be overwritten while it is read; choose another destination"
        )));
    }
    Ok(())
}

/// What an option would carry from objects that do not have it, it would take from the copies.
fn refuse_what_buckets_lack(
    job: &Job,
    from_bucket: bool,
    to_bucket: bool,
) -> Result<(), StartError> {
    let Carried { xattrs, acls, .. } = job.policy.extended;
    for (option, given) in [
        ("--xattrs", xattrs),
        ("--acls", acls),
        ("--hard-links", job.policy.carry_links),
        ("--reflink always", job.reflink == Reflink::Always),
        (
            "--sparse with a bucket as destination",
            to_bucket && job.sparse,
        ),
    ] {
        if given {
            return Err(StartError::location(format!(
                "{option} does not go with a bucket: objects have nothing of that kind"
            )));
        }
    }
    if from_bucket && job.symlinks != Symlinks::Keep {
        return Err(StartError::location(String::from(
            "--copy-links, --safe-links and their like do not go with a bucket as source: a listing does not tell symlinks from files",
        )));
    }
    if to_bucket && job.backup.is_some() {
        return Err(StartError::location(String::from(
            "--backup does not go with a bucket as destination: the versioning of the bucket keeps what is replaced and deleted",
        )));
    }
    Ok(())
}
