//! One directory's plan, entry by entry: what the lane does about each, how it is counted and told.

use std::cell::OnceCell;
use std::ffi::CStr;
use std::rc::Rc;
use std::sync::Arc;

use nix::errno::Errno;

use super::hands::{LaneHands, SpreadOverShards, Told, error};
use super::links::DirPath;
use super::way::Way;
use crate::error::{Cause, Error, OpKind, Side};
use crate::io::Links;
use crate::model::{Action, Attrs, Kind, Meta, SkipReason, What, decide_contents};
use crate::shard::{Child, Dirs, Job, Mode, Plan, Presence, Removal, Shard, Step};
use crate::transfer::{Backup, Clearing, Failure, Place};

/// The plan of one directory, being carried out.
pub(super) struct Work<'a> {
    pub hands: &'a LaneHands,
    pub shard: &'a Rc<Shard>,
    pub dirs: &'a Dirs,
    pub plan: &'a Plan,
    /// The directory's path, once somebody needs it for longer.
    dir_path: OnceCell<DirPath>,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        hands: &'a LaneHands,
        shard: &'a Rc<Shard>,
        dirs: &'a Dirs,
        plan: &'a Plan,
    ) -> Self {
        Self {
            hands,
            shard,
            dirs,
            plan,
            dir_path: OnceCell::new(),
        }
    }
}

impl Work<'_> {
    pub(super) fn dir_path(&self) -> &DirPath {
        let path = || Arc::new(self.dirs.node.path().into_boxed_slice());
        self.dir_path.get_or_init(path)
    }

    pub(super) fn path_of(&self, name: &CStr) -> Vec<u8> {
        self.dirs.node.path_of(name)
    }

    fn report(&self, failure: Failure, name: &CStr) {
        let error = error(failure, self.path_of(name));
        self.shard.report(&self.dirs.node, error);
    }

    fn name(&self, step: &Step) -> &CStr {
        self.plan.source.name(self.plan.entry(step))
    }

    /// Removes a name; a directory comes back as a child to be emptied first.
    pub(super) async fn remove(&self, removal: &Removal) -> Option<Child> {
        let Removal {
            name,
            kind,
            stray,
            backup_taken,
        } = removal;
        let node = &self.dirs.node;
        let child = || {
            Some(Child {
                name: name.clone(),
                job: Job::Remove,
                presence: Presence::Existing,
                links: Links::Refuse,
            })
        };
        if self.shard.cancelled() {
            node.keep();
            return None;
        }
        if *kind == Kind::Dir {
            return child();
        }
        if *backup_taken && !stray {
            node.keep();
            self.report(backup_name_in_source(), name);
            return None;
        }
        if !stray && !self.hands.may_delete() {
            node.keep();
            node.fail();
            return None;
        }
        if let (false, Some(dest)) = (self.hands.options.dry_run, &self.dirs.dest) {
            let removed = if *stray {
                self.hands.unlink(node, dest, name).await
            } else {
                self.hands
                    .unlink_or_keep(self.shard, node, dest, name)
                    .await
            };
            match removed {
                Ok(()) => node.touch(),
                // Gone already, which is all that was wanted.
                Err(failure) if failure.cause == Cause::Errno(Errno::ENOENT) => return None,
                // The filesystem had not told that it is a directory.
                Err(failure) if failure.cause == Cause::Errno(Errno::EISDIR) => return child(),
                Err(failure) => {
                    node.keep();
                    self.report(failure, name);
                    return None;
                }
            }
        }
        if !stray && self.hands.keeps_beside() {
            // Its backup is in this directory, which therefore cannot go.
            node.keep();
        }
        if *stray {
            // A dry run meets it in each pass.
            let first_pass = self.shard.shared.options.mode == Mode::Sync;
            self.shard.tally().strays_removed.add(u64::from(first_pass));
        } else {
            let path = || self.path_of(name);
            self.hands.count_deleted(self.shard, *kind, path);
        }
        None
    }

    /// Sees to it that a directory of the source is there, and returns it to be visited.
    pub(super) async fn directory(&self, step: &Step) -> Option<Child> {
        if self.shard.cancelled() {
            return None;
        }
        let name = self.name(step);
        let presence = match step.action {
            Action::Create | Action::Supplant => self.make_directory(step, name).await?,
            _ => Presence::Existing,
        };
        let options = &self.shard.shared.options;
        if options.one_file_system && options.mode == Mode::Sync {
            let wanted = self.plan.meta(step);
            if wanted.dev != self.plan.source_dev {
                self.leave_mount_point(step, name, &wanted, presence).await;
                return None;
            }
        }
        Some(Child {
            name: name.to_owned(),
            job: Job::Sync,
            presence,
            links: self.plan.links(step),
        })
    }

    async fn make_directory(&self, step: &Step, name: &CStr) -> Option<Presence> {
        let mut presence = Presence::Absent;
        if let (false, Some(dest)) = (self.hands.options.dry_run, &self.dirs.dest) {
            let lane = &self.hands.lane;
            let mut result = self.hands.unlock(&self.dirs.node, dest).await;
            // Also when nothing can be made: what was in the way may be gone then.
            self.dirs.node.touch();
            if result.is_ok() && step.action == Action::Supplant {
                let (hands, node) = (self.hands, &self.dirs.node);
                let removed = if step.backup_taken {
                    Err(backup_name_in_source())
                } else {
                    hands.unlink_or_keep(self.shard, node, dest, name).await
                };
                result = match removed {
                    Err(failure) if failure.cause != Cause::Errno(Errno::ENOENT) => Err(failure),
                    _ => Ok(()),
                };
            }
            if result.is_ok() {
                result = lane
                    .make_dir(dest, name, lane.mode_of_new_dir(&self.plan.meta(step)))
                    .await;
            }
            match result {
                Ok(()) => {}
                // Made for a backup since it was listed, or by somebody else.
                Err(failure)
                    if failure.cause == Cause::Errno(Errno::EEXIST)
                        && lane.is_dir(dest, name).await =>
                {
                    return Some(Presence::Existing);
                }
                Err(failure) => {
                    self.report(failure, name);
                    return None;
                }
            }
            presence = Presence::Made;
        }
        self.shard.tally().dirs_made.add(1);
        let told = || (self.path_of(name), None);
        self.hands.tell(self.shard, What::Create, Kind::Dir, told);
        Some(presence)
    }

    /// `-x`: a mount point has its directory on the destination, with its attributes, and nothing in it is looked at.
    async fn leave_mount_point(&self, step: &Step, name: &CStr, wanted: &Meta, presence: Presence) {
        let dirs = (&self.dirs.source, &self.dirs.dest);
        let (false, (Some(source), Some(dest))) = (self.hands.options.dry_run, dirs) else {
            return;
        };
        let links = self.plan.links(step);
        let place = Place {
            source,
            dest,
            name,
            links,
            backup: None,
            backup_taken: false,
            way: None,
        };
        if presence != Presence::Made {
            return;
        }
        let lane = &self.hands.lane;
        let mut finished = lane.keep_empty_dir_at(dest, name).await;
        if let Ok(false) = finished {
            finished = lane.dress(place, name, wanted).await.map(|()| true);
        }
        if let Err(failure) = finished {
            self.report(failure, name);
        }
    }

    /// Carries out one step and reports its failure.
    pub(super) async fn step(&self, step: &Step) {
        if self.shard.cancelled() {
            return;
        }
        let name = self.name(step);
        let wanted = self.plan.meta(step);
        let (Some(source), Some(dest)) = (&self.dirs.source, &self.dirs.dest) else {
            // A dry run into a directory that is not there: everything in it would be made.
            self.count_made(wanted.kind, wanted.size);
            let told = || (self.path_of(name), None);
            return self.hands.tell(self.shard, What::Create, wanted.kind, told);
        };
        let place = Place {
            source,
            dest,
            name,
            links: self.plan.links(step),
            backup: None,
            backup_taken: step.backup_taken,
            way: None,
        };
        let existing = step.dest.as_deref();
        let acted = if self.shard.shared.options.policy.carry_links {
            self.linked(place, step.action, &wanted, existing).await
        } else {
            self.act(place, step.action, &wanted, existing).await
        };
        match acted {
            // Told once, for the whole run.
            Ok(())
            | Err(Failure {
                cause: Cause::Interrupted,
                ..
            }) => {}
            Err(failure) => self.report(failure, name),
        }
    }

    pub(super) async fn act(
        &self,
        place: Place<'_>,
        action: Action,
        wanted: &Meta,
        existing: Option<&Meta>,
    ) -> Result<(), Failure> {
        let lane = &self.hands.lane;
        match (action, existing) {
            (Action::CompareContents, Some(existing)) => {
                let equal = if wanted.kind == Kind::Symlink {
                    lane.symlinks_equal(place).await?
                } else {
                    lane.files_equal(place, wanted, existing).await?
                };
                let policy = &self.shard.shared.options.policy;
                let action = decide_contents(wanted, existing, equal, policy);
                Box::pin(self.act(place, action, wanted, Some(existing))).await
            }
            (Action::Repair(attrs), Some(existing)) => {
                let attrs = attrs | lane.xattrs_differing(place).await?;
                self.repair(place, attrs, wanted, existing).await
            }
            (Action::Skip(SkipReason::Equal), Some(existing)) => {
                let attrs = lane.xattrs_differing(place).await?;
                if !attrs.is_empty() {
                    return self.repair(place, attrs, wanted, existing).await;
                }
                self.plan.leave(place.name, existing);
                self.shard.tally().entries_equal.add(1);
                Ok(())
            }
            (Action::Skip(_), _) => {
                self.shard.tally().entries_skipped.add(1);
                Ok(())
            }
            (Action::Supplant, Some(existing)) if existing.kind == Kind::Dir => {
                if Some(existing.identity()) == self.shard.shared.source_root() {
                    return Err(Failure::loop_into_source());
                }
                let way = Way { work: self, place };
                let way = (!self.is_way_clear(place).await?).then_some(&way as &dyn Clearing);
                let place = Place { way, ..place };
                self.make(place, wanted, None, What::Create).await
            }
            (Action::Replace, Some(existing)) => {
                let policy = &self.shard.shared.options.policy;
                let what = What::Replace {
                    contents: policy.compare_contents && wanted.size == existing.size,
                    size: wanted.size != existing.size,
                    attrs: policy.attrs_differing(wanted, existing),
                };
                self.make(place, wanted, Some(existing), what).await
            }
            _ => self.make(place, wanted, existing, What::Create).await,
        }
    }

    async fn repair(
        &self,
        place: Place<'_>,
        attrs: Attrs,
        wanted: &Meta,
        existing: &Meta,
    ) -> Result<(), Failure> {
        if !self.hands.options.dry_run {
            let version = self.hands.lane.repair(place, wanted, existing).await?;
            self.plan.made(place.name, existing.size, version);
        }
        self.shard.tally().entries_repaired.add(1);
        let target = self.link_target(place, wanted.kind).await;
        let told = || Told {
            path: self.path_of(place.name),
            target,
            owners: Some((existing.ids(), wanted.ids())),
        };
        self.hands
            .tell(self.shard, What::Repair(attrs), wanted.kind, told);
        Ok(())
    }

    /// What a symlink's line shows; only asked for when somebody looks.
    async fn link_target(&self, place: Place<'_>, kind: Kind) -> Option<Vec<u8>> {
        if kind != Kind::Symlink || !self.shard.shared.sink.wants_items() {
            return None;
        }
        let target = self.hands.lane.read_link(place, Side::Source).await.ok()?;
        Some(target.into_bytes())
    }

    /// Makes or replaces an inode that is not a directory.
    async fn make(
        &self,
        place: Place<'_>,
        wanted: &Meta,
        existing: Option<&Meta>,
        what: What,
    ) -> Result<(), Failure> {
        let lane = &self.hands.lane;
        if self.hands.options.dry_run {
            self.count_made(wanted.kind, wanted.size);
        } else {
            let node = &self.dirs.node;
            self.hands.unlock(node, place.dest).await?;
            node.touch();
            let backup = self.backup_for(place, existing).await?;
            let place = Place {
                backup: backup.as_ref(),
                ..place
            };
            match wanted.kind {
                Kind::File => {
                    let spread = SpreadOverShards(self.shard);
                    let copy = async || lane.copy_file(place, wanted, existing, &spread).await;
                    let copied = match self.until_done(place, copy).await {
                        Err(failure) if failure.is_other_than_listed(wanted) => {
                            let wanted = lane.stat_in_source(place).await?;
                            if wanted.kind != Kind::Symlink {
                                return Err(failure);
                            }
                            return Box::pin(self.make(place, &wanted, existing, what)).await;
                        }
                        copied => copied?,
                    };
                    let tally = self.shard.tally();
                    self.plan.made(place.name, copied.bytes, copied.version);
                    if copied.cloned {
                        tally.bytes_cloned.add(copied.bytes);
                        self.count_made(Kind::File, 0);
                    } else {
                        tally.bytes_resumed.add(copied.resumed);
                        self.count_made(Kind::File, copied.bytes - copied.resumed);
                    }
                    if copied.unsettled {
                        let path = self.path_of(place.name);
                        let op = OpKind::Read;
                        let error = Error::new(op, Side::Source, path, Cause::Changing);
                        self.shard.report(node, error);
                    }
                    if let Some(failure) = copied.unset {
                        self.report(failure, place.name);
                    }
                }
                Kind::Symlink => {
                    let copy = async || lane.copy_symlink(place, wanted, existing).await;
                    let version = self.until_done(place, copy).await?;
                    self.plan.made(place.name, wanted.size, version);
                    self.count_made(Kind::Symlink, 0);
                }
                kind => {
                    let copy = async || lane.copy_special(place, wanted, existing).await;
                    self.until_done(place, copy).await?;
                    self.count_made(kind, 0);
                }
            }
        }
        let target = self.link_target(place, wanted.kind).await;
        let told = || Told {
            path: self.path_of(place.name),
            target,
            owners: existing.map(|existing| (existing.ids(), wanted.ids())),
        };
        self.hands.tell(self.shard, what, wanted.kind, told);
        Ok(())
    }

    /// Makes an inode, again after failures that may pass. Each attempt leaves nothing behind that the next would meet.
    async fn until_done<T>(
        &self,
        place: Place<'_>,
        make: impl AsyncFn() -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut attempt = 0;
        loop {
            let outcome = make().await;
            let Err(failure) = &outcome else {
                return outcome;
            };
            // If it was carried out, the next attempt would put what is new in place of the backup.
            let keeps = place.backup.is_some();
            if keeps && failure.may_be_done() {
                return outcome;
            }
            let pause = self.shard.pause_before_repeating(attempt, &failure.cause);
            if !pause.await {
                return outcome;
            }
            attempt += 1;
        }
    }

    /// Where what is to be replaced is kept.
    pub(super) async fn backup_for(
        &self,
        place: Place<'_>,
        existing: Option<&Meta>,
    ) -> Result<Option<Backup>, Failure> {
        if existing.is_none_or(|existing| existing.kind == Kind::Dir) {
            return Ok(None);
        }
        if place.backup_taken {
            return Err(backup_name_in_source());
        }
        let (hands, node) = (self.hands, &self.dirs.node);
        hands.backup_of(self.shard, node, place.dest).await
    }

    fn count_made(&self, kind: Kind, bytes: u64) {
        let tally = self.shard.tally();
        match kind {
            Kind::File => {
                tally.files_copied.add(1);
                tally.bytes_copied.add(bytes);
            }
            Kind::Symlink => tally.symlinks_made.add(1),
            _ => tally.specials_made.add(1),
        }
    }
}

/// Beside the entries there is no other name for this backup, and the source's own entry must not be lost for it.
fn backup_name_in_source() -> Failure {
    Failure {
        op: OpKind::Backup,
        side: Side::Destination,
        cause: Cause::BackupNameInSource,
    }
}
