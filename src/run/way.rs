//! A directory that is where another kind must go.

use std::ffi::CStr;

use futures_util::future::LocalBoxFuture;
use nix::errno::Errno;

use super::work::Work;
use crate::error::{Cause, OpKind, Side};
use crate::model::{Kind, path};
use crate::shard::sift;
use crate::transfer::{Clearing, Failure, Place, TreeRemoval};

/// Removes a full directory once what takes its place is complete: what fails before that loses nothing.
pub(super) struct Way<'a> {
    pub work: &'a Work<'a>,
    pub place: Place<'a>,
}

impl Clearing for Way<'_> {
    fn clear(&self) -> LocalBoxFuture<'_, Result<(), Failure>> {
        Box::pin(self.work.remove_way(self.place))
    }
}

impl Work<'_> {
    /// Removes a directory that is in the way if it is empty. `false` when it is full, and may go with what is in it.
    pub(super) async fn is_way_clear(&self, place: Place<'_>) -> Result<bool, Failure> {
        if self.hands.options.dry_run {
            return Ok(true);
        }
        let (node, name) = (&self.dirs.node, place.name);
        let not_empty = match self.hands.remove_dir(node, place.dest, name).await {
            Ok(()) => {
                self.shard.tally().entries_deleted.add(1);
                return Ok(true);
            }
            Err(failure) => failure,
        };
        let full = matches!(
            not_empty.cause,
            Cause::Errno(Errno::ENOTEMPTY | Errno::EEXIST)
        );
        if !full {
            return Err(not_empty);
        }
        if !self.hands.options.may_supplant_trees {
            let cause = Cause::DirectoryInTheWay;
            return Err(Failure { cause, ..not_empty });
        }
        // What is in it would be kept in it, and it would still be in the way.
        if self.hands.is_way_to_backups(node, name) || self.hands.keeps_beside() {
            return Err(not_empty);
        }
        Ok(false)
    }

    async fn remove_way(&self, place: Place<'_>) -> Result<(), Failure> {
        let (lane, name, node) = (&self.hands.lane, place.name, &self.dirs.node);
        let backup = self.hands.backup_of(self.shard, node, place.dest).await?;
        let may_remove = |kind: Kind, names: &[&CStr]| {
            if self.hands.leads_to_backups(node, names) {
                return false;
            }
            let path = || {
                let names: Vec<&[u8]> = names.iter().map(|name| name.to_bytes()).collect();
                path::join(&node.path(), &names.join(&b'/'))
            };
            if names.len() > 1 {
                // As in rsync: what is in the directory counts for --max-delete, the name that is replaced does not.
                if self.shard.cancelled() || !self.hands.may_delete() {
                    return false;
                }
                self.hands.count_deleted(self.shard, kind, path);
            } else {
                // The name itself does not go: it is replaced, and told as that.
                self.shard.tally().entries_deleted.add(1);
            }
            !self.shard.cancelled()
        };
        let must_stay = |kind: Option<Kind>, names: &[&CStr]| {
            sift::is_protected_below(self.shard, node, names, kind)
        };
        let spared = self.shard.shared.source_root();
        let backup = backup.as_ref();
        let removed = lane.remove_tree(place.dest, name, spared, &may_remove, &must_stay, backup);
        let cause = match removed.await? {
            TreeRemoval::Removed => return Ok(()),
            TreeRemoval::Refused if self.shard.cancelled() => Cause::Interrupted,
            TreeRemoval::Refused => Cause::Errno(Errno::ENOTEMPTY),
            TreeRemoval::Kept => Cause::Protected,
        };
        Err(Failure {
            op: OpKind::RemoveDir,
            side: Side::Destination,
            cause,
        })
    }
}
