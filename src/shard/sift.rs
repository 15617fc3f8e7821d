//! What rules and lists leave of a directory. The rules themselves are pure, in `model::filter`; here the merge files are read,
//! below the open source directory and following no symlink, and entries are asked about.

use std::ffi::{CStr, CString};
use std::sync::Arc;

use nix::errno::Errno;

use super::{Dirs, Node, Shard};
use crate::error::{Cause, Error, OpKind, Side};
use crate::io::{Buffer, Handle, Links, Op, OpError, Reply};
use crate::model::filter::{Entering, Filter, Judge, Scope};
use crate::model::{Kind, Listing, path};

/// Bytes of a merge file. More is no list of rules, and the rules of all directories on the way down stay in memory.
const MERGE_FILE_BYTES_MAX: usize = 1 << 20;
/// Bytes asked of one read. Most merge files fit.
const READ_BYTES: usize = 8 * 1024;

/// Finds out which rules hold in a directory of the source. Both sides are judged by them.
///
/// # Errors
/// A merge file that cannot be read or has a wrong rule. Then nobody knows what the directory's rules are, and nothing may be
/// copied, nor deleted, in it.
pub(super) async fn enter(shard: &Shard, dirs: &Dirs) -> Result<(), Error> {
    let (Some(filter), Some(source)) = (&shard.shared.options.filter, &dirs.source) else {
        return Ok(());
    };
    let node = &dirs.node;
    let above = scope_above(filter, node);
    let scope = if above.looks_for_files() {
        read_merge_files(shard, filter, &above, node, source).await?
    } else {
        above
    };
    node.set_scope(scope);
    Ok(())
}

/// The rules that a directory inherits.
fn scope_above(filter: &Filter, node: &Node) -> Arc<Scope> {
    let parent = node.parent().and_then(|parent| parent.scope());
    parent.unwrap_or_else(|| filter.top()).clone()
}

async fn read_merge_files(
    shard: &Shard,
    filter: &Filter,
    above: &Arc<Scope>,
    node: &Node,
    source: &Handle,
) -> Result<Arc<Scope>, Error> {
    let dir = node.path();
    let mut entering = Entering::new(filter, above, &dir);
    while let Some(name) = entering.next_file() {
        let name = name.to_owned();
        let failed = |op, cause| {
            let path = path::join(&dir, name.to_bytes());
            Error::new(op, Side::Source, path, cause)
        };
        let contents = match read_file(shard, source, name.clone()).await {
            Ok(contents) => contents,
            Err((op, cause)) => return Err(failed(op, cause)),
        };
        entering
            .found(contents.as_deref())
            .map_err(|message| failed(OpKind::ReadRules, Cause::WrongRule(message)))?;
    }
    Ok(entering.finish())
}

/// The contents of a merge file; nothing when there is none.
async fn read_file(
    shard: &Shard,
    at: &Handle,
    name: CString,
) -> Result<Option<Vec<u8>>, (OpKind, Cause)> {
    let failed = |error: OpError| (OpKind::ReadRules, Cause::Errno(error.errno));
    let (at, links) = (at.clone(), Links::Refuse);
    let file = match shard.source.start(Op::Open { at, name, links }).await {
        Ok(Reply::Opened(file, meta)) if meta.kind == Kind::File => file,
        Ok(Reply::Opened(..)) => {
            let message = String::from("it is not a regular file");
            return Err((OpKind::ReadRules, Cause::WrongRule(message)));
        }
        Ok(other) => unreachable!("an open does not reply {other:?}"),
        Err(error) if error.errno == Errno::ENOENT => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut contents = Vec::new();
    let mut buffer = Buffer::new(READ_BYTES);
    loop {
        let op = Op::Read {
            file: file.clone(),
            buffer,
            offset: contents.len() as u64,
        };
        let count;
        (buffer, count) = match shard.source.start(op).await {
            Ok(Reply::Moved(buffer, count)) => (buffer, count),
            Ok(other) => unreachable!("a read does not reply {other:?}"),
            Err(error) => return Err(failed(error)),
        };
        if count == 0 {
            return Ok(Some(contents));
        }
        contents.extend_from_slice(&buffer[..count]);
        if contents.len() > MERGE_FILE_BYTES_MAX {
            let message = format!("it has more than {MERGE_FILE_BYTES_MAX} bytes");
            return Err((OpKind::ReadRules, Cause::WrongRule(message)));
        }
    }
}

/// Answers for the entries of a directory whose rules are known; nothing when there are no rules.
pub(super) fn judge(shard: &Shard, node: &Node) -> Option<Judge> {
    let filter = shard.shared.options.filter.as_ref()?;
    Some(Judge::new(filter, node.scope()?, &node.path(), false))
}

/// Answers for the entries of a directory that is being removed. The source does not have it, so it inherits its parent's
/// rules, and those that perish do not protect what is in it.
pub(super) fn judge_removed(shard: &Shard, node: &Node) -> Option<Judge> {
    let filter = shard.shared.options.filter.as_ref()?;
    let scope = node.set_scope(scope_above(filter, node).below());
    Some(Judge::new(filter, scope, &node.path(), true))
}

/// Whether a rule protects something that would have to go from the directory `names[0]` of `node`, to make way for another
/// kind: the entry that is reached through `names`. One whose kind would have to be known is protected.
#[must_use]
pub fn is_protected_below(shard: &Shard, node: &Node, names: &[&CStr], kind: Option<Kind>) -> bool {
    let (Some(filter), [dirs @ .., name]) = (&shard.shared.options.filter, names) else {
        return false;
    };
    let Some(scope) = node.scope().filter(|_| !dirs.is_empty()) else {
        return false;
    };
    let mut dir = node.path();
    for name in dirs {
        dir = path::join(&dir, name.to_bytes());
    }
    let mut judge = Judge::new(filter, &scope.below(), &dir, true);
    judge.protects(name.to_bytes(), kind).unwrap_or(true)
}

/// The entries of a directory that are listed by name: nobody need read the whole directory for them.
pub(super) fn listed_names(shard: &Shard, node: &Node, mut listing: Listing) -> Listing {
    let selection = shard.shared.options.selection.as_ref();
    for name in selection
        .iter()
        .flat_map(|selection| selection.names(node.reach))
    {
        // A name with a NUL was refused when the list was read; one that is too long is reported as missing.
        if let Ok(name) = CString::new(name) {
            listing.push(&name, 0, None);
        }
    }
    listing
}

/// Reports what the list names in a directory that was read as a whole, and the source does not have. `is_mine` chooses names,
/// `has` knows those of the source.
pub(super) fn report_missing(
    shard: &Shard,
    node: &Node,
    judge: &mut Option<Judge>,
    has: impl Fn(&[u8]) -> bool,
) {
    let Some(selection) = &shard.shared.options.selection else {
        return;
    };
    for name in selection.names(node.reach) {
        let hidden = judge
            .as_mut()
            .is_some_and(|judge| judge.hides(name, None) != Some(false));
        if !hidden && !has(name) {
            report_not_in_source(shard, node, path::join(&node.path(), name));
        }
    }
}

pub(super) fn report_not_in_source(shard: &Shard, node: &Node, path: Vec<u8>) {
    let cause = Cause::NotInSource;
    shard.report(node, Error::new(OpKind::Stat, Side::Source, path, cause));
}
