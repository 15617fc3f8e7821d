//! Names that share an inode: the first one is transferred, the others become links to it.

use nix::errno::Errno;

use super::links::{InodeId, Made, Turn};
use super::way::Way;
use super::work::Work;
use crate::error::{Cause, Error, OpKind, Side};
use crate::io::Links;
use crate::model::{Action, Kind, Meta, What};
use crate::shard::node;
use crate::transfer::{Clearing, Failure, Place};

impl Work<'_> {
    /// Carries out a step under `--hard-links`.
    pub(super) async fn linked(
        &self,
        place: Place<'_>,
        action: Action,
        wanted: &Meta,
        existing: Option<&Meta>,
    ) -> Result<(), Failure> {
        // A symlink that is followed may lead to another filesystem, where the same number is another inode.
        if wanted.nlink <= 1 || place.links == Links::Follow {
            let action = self.claimed(action, wanted, existing);
            return self.act(place, action, wanted, existing).await;
        }
        let turn = self
            .hands
            .options
            .links
            .join(wanted.into(), wanted.nlink)
            .await;
        let lead = match turn {
            Turn::Follow(made) => return self.follow(place, &made, wanted, existing).await,
            Turn::Lead(lead) => lead,
        };
        let action = self.claimed(action, wanted, existing);
        self.act(place, action, wanted, existing).await?;
        let keeps_inode = matches!(action, Action::Skip(_) | Action::Repair(_));
        // Whether the contents are equal, a dry run knows and we do not; mostly they are.
        let compared = self.hands.options.dry_run && action == Action::CompareContents;
        let kept = existing.filter(|_| keeps_inode || compared);
        lead.done(self.made(place, wanted, kept).await?);
        Ok(())
    }

    /// What stands for an inode of the source from now on. `kept` is what the destination has had and still has.
    async fn made(
        &self,
        place: Place<'_>,
        wanted: &Meta,
        kept: Option<&Meta>,
    ) -> Result<Made, Failure> {
        let inode = match kept {
            Some(kept) => kept.into(),
            // Nothing was made; any identity will do that no inode of the destination has.
            None if self.hands.options.dry_run => wanted.into(),
            None => InodeId::from(&self.hands.lane.stat(place.dest, place.name).await?),
        };
        Ok(Made {
            inode,
            dir: self.dir_path().clone(),
            name: place.name.into(),
        })
    }

    /// An inode of the destination that stands for another one of the source already is not changed, but left to that.
    fn claimed(&self, action: Action, wanted: &Meta, existing: Option<&Meta>) -> Action {
        let keeps_inode = matches!(
            action,
            Action::Skip(_) | Action::Repair(_) | Action::CompareContents
        );
        let Some(existing) = existing.filter(|existing| keeps_inode && existing.nlink > 1) else {
            return action;
        };
        let links = &self.hands.options.links;
        if links.claim(existing.into(), existing.nlink, wanted.into()) {
            action
        } else {
            Action::Replace
        }
    }

    /// Makes a name a link to what was made for the first one.
    async fn follow(
        &self,
        place: Place<'_>,
        made: &Made,
        wanted: &Meta,
        existing: Option<&Meta>,
    ) -> Result<(), Failure> {
        if let Some(existing) = existing.filter(|existing| InodeId::from(*existing) == made.inode) {
            let links = &self.hands.options.links;
            links.claim(made.inode, existing.nlink, wanted.into());
            self.shard.tally().entries_equal.add(1);
            return Ok(());
        }
        if !self.hands.options.dry_run {
            let way = Way { work: self, place };
            let is_dir = existing.is_some_and(|existing| existing.kind == Kind::Dir);
            let is_full = is_dir && !self.is_way_clear(place).await?;
            let place = Place {
                way: is_full.then_some(&way as &dyn Clearing),
                ..place
            };
            match self.link(place, made, existing).await {
                Ok(()) => {}
                Err(failure) if is_no_link(&failure) => {
                    return self.copy_instead(place, wanted, existing, failure).await;
                }
                Err(failure) => return Err(failure),
            }
        }
        self.shard.tally().links_made.add(1);
        let told = || {
            let leader = crate::model::path::join(&made.dir, made.name.to_bytes());
            (self.path_of(place.name), Some(leader))
        };
        let what = What::Link {
            existed: existing.is_some(),
        };
        self.hands.tell(self.shard, what, wanted.kind, told);
        Ok(())
    }

    async fn link(
        &self,
        place: Place<'_>,
        made: &Made,
        existing: Option<&Meta>,
    ) -> Result<(), Failure> {
        let existing = existing.filter(|existing| existing.kind != Kind::Dir);
        let backup = self.backup_for(place, existing).await?;
        let place = Place {
            backup: backup.as_ref(),
            ..place
        };
        self.hands.unlock(&self.dirs.node, place.dest).await?;
        self.dirs.node.touch();
        let is_here = made.dir == *self.dir_path();
        let elsewhere = if is_here {
            None
        } else {
            let root = node::root_dir(&self.dirs.node, Side::Destination);
            let Some(root) = root else {
                unreachable!("what was made is below a root")
            };
            Some(self.hands.lane.open_below(&root, &made.dir).await?)
        };
        let from = elsewhere.as_ref().unwrap_or(place.dest);
        let is_it = |meta: &Meta| InodeId::from(meta) == made.inode;
        let lane = &self.hands.lane;
        let linked = lane.link(from, &made.name, place, existing, &is_it);
        linked.await
    }

    /// The first name's inode takes no more links, or is gone: this name gets an inode of its own, and those to come are
    /// linked to that.
    async fn copy_instead(
        &self,
        place: Place<'_>,
        wanted: &Meta,
        existing: Option<&Meta>,
        failure: Failure,
    ) -> Result<(), Failure> {
        if failure.cause != Cause::Errno(Errno::ENOENT) {
            let path = self.path_of(place.name);
            let cause = Cause::CopiedInstead(match failure.cause {
                Cause::Errno(errno) => errno,
                _ => Errno::EMLINK,
            });
            let error = Error::new(OpKind::Link, Side::Destination, path, cause);
            self.shard.report(&self.dirs.node, error);
        }
        let existing = existing.filter(|existing| existing.kind != Kind::Dir);
        let action = match existing {
            Some(existing) if existing.kind == wanted.kind => Action::Replace,
            Some(_) => Action::Supplant,
            None => Action::Create,
        };
        self.act(place, action, wanted, existing).await?;
        let made = self.made(place, wanted, None).await?;
        self.hands.options.links.set_made(wanted.into(), made);
        Ok(())
    }
}

/// Whether linking is not possible here, while copying is.
fn is_no_link(failure: &Failure) -> bool {
    matches!(
        failure.cause,
        Cause::Errno(
            Errno::EMLINK
                | Errno::EXDEV
                | Errno::EPERM
                | Errno::EOPNOTSUPP
                | Errno::ENOSYS
                | Errno::ENOENT
        )
    )
}
