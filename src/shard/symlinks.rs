//! Symlinks of the source that are not simply carried: taken for what they lead to, or left out.

use std::ffi::CString;
use std::rc::Rc;

use nix::errno::Errno;

use super::{Node, Shard};
use crate::error::{Cause, Error, OpKind, Side};
use crate::io::{Handle, Links, Op, OpError, Reply, Target};
use crate::model::symlink::{Symlinks, is_unsafe_target};
use crate::model::{Kind, Listing, Meta, State};

/// Looks at the symlinks of a listing from position `from` on.
pub(super) async fn resolve(
    shard: &Rc<Shard>,
    node: &Node,
    dir: &Handle,
    listing: &mut Listing,
    from: usize,
) {
    let symlinks = shard.shared.options.symlinks;
    if symlinks == Symlinks::Keep {
        return;
    }
    for at in from..listing.len() {
        let entry = &listing.entries[at];
        if entry.kind() != Some(Kind::Symlink) || matches!(entry.state, State::Failed(_)) {
            continue;
        }
        let name = listing.name(entry).to_owned();
        let resolved = resolve_one(shard, node, dir, name.clone()).await;
        let entry = &mut listing.entries[at];
        match resolved {
            Ok(Resolved::Kept) => {}
            Ok(Resolved::Skipped) => {
                shard.tally().entries_skipped.add(1);
                entry.state = State::Ignored;
            }
            Ok(Resolved::Followed(meta)) => {
                entry.followed = true;
                entry.fill(&meta);
            }
            Err((kind, cause)) => {
                entry.state = State::Ignored;
                let path = node.path_of(&name);
                shard.report(node, Error::new(kind, Side::Source, path, cause));
            }
        }
    }
}

enum Resolved {
    Kept,
    Skipped,
    Followed(Meta),
}

async fn resolve_one(
    shard: &Rc<Shard>,
    node: &Node,
    dir: &Handle,
    name: CString,
) -> Result<Resolved, (OpKind, Cause)> {
    let symlinks = shard.shared.options.symlinks;
    if symlinks != Symlinks::Follow {
        let (at, name) = (dir.clone(), name.clone());
        let target = match shard.source.start(Op::ReadLink { at, name }).await {
            Ok(Reply::Link(target)) => target,
            Ok(other) => unreachable!("a readlink does not reply {other:?}"),
            Err(OpError { kind, errno }) => return Err((kind, Cause::Errno(errno))),
        };
        if !is_unsafe_target(target.to_bytes(), node.depth()) {
            return Ok(Resolved::Kept);
        }
        if symlinks == Symlinks::SkipUnsafe {
            return Ok(Resolved::Skipped);
        }
    }
    let target = Target::Followed(dir.clone(), name);
    match shard.source.start(Op::Stat { target }).await {
        Ok(Reply::Meta(meta)) => Ok(Resolved::Followed(meta)),
        Ok(other) => unreachable!("a stat does not reply {other:?}"),
        Err(OpError { kind, errno }) => Err((
            kind,
            match errno {
                Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP => Cause::NoReferent,
                errno => Cause::Errno(errno),
            },
        )),
    }
}

/// Whether a directory that a symlink led to is one of its own ancestors: following that would never end.
pub(super) fn is_loop(node: &Node) -> bool {
    let identity = |node: &Node| node.meta(Side::Source).map(|meta| (meta.dev, meta.ino));
    if node.links() == Links::Refuse {
        return false;
    }
    let own = identity(node);
    let mut at = node.parent();
    while let Some(ancestor) = at {
        if own.is_some() && identity(ancestor) == own {
            return true;
        }
        at = ancestor.parent();
    }
    false
}
