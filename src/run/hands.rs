//! Where shard and transfer meet: carries out plans with the shard's lane, counts and reports.

use std::cell::Cell;
use std::ffi::CStr;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use nix::errno::Errno;

use crate::error::{Cause, Error, Side};
use crate::io::Handle;
use crate::model::{Action, Attrs, Item, Kind, Meta, SkipReason, What, decide_contents};
use crate::shard::{
    Child, Dirs, Hands, Job, Mode, Node, Plan, Presence, Removal, Shard, Step, Task, node,
};
use crate::throttle::Budget;
use crate::transfer::{Failure, Lane, LargeFile, Place, Spread, TreeRemoval};

/// Entries of one directory in work at once on a filesystem that blocks. On a fast one they go one by one: more
/// would only cost memory.
const ENTRIES_AT_ONCE_MAX: usize = 64;

/// What the hands may do.
#[derive(Clone, Debug)]
pub(super) struct HandsOptions {
    /// Tell, and change nothing.
    pub dry_run: bool,
    /// Directories that are in the way of something else may go with all they hold.
    pub may_supplant_trees: bool,
    /// Root: permissions of directories do not hold us up.
    pub privileged: bool,
    /// `--max-delete`.
    pub deletions: Option<Arc<Budget>>,
    /// Set when a deletion was refused because of `--max-delete`.
    pub deletions_refused: Arc<AtomicBool>,
}

/// The hands of one shard.
pub(super) struct LaneHands {
    pub lane: Lane,
    pub options: HandsOptions,
}

/// Hands large files to all shards.
struct SpreadOverShards<'a>(&'a Rc<Shard>);

impl Spread for SpreadOverShards<'_> {
    fn spread<'a>(&'a self, file: &'a Arc<LargeFile>) -> LocalBoxFuture<'a, ()> {
        let task = || -> Task {
            let file = file.clone();
            Box::new(move |shard: Rc<Shard>| {
                Box::pin(async move { file.pump(&shard.source, &shard.dest).await })
            })
        };
        Box::pin(self.0.on_other_shards(task))
    }
}

impl Hands for LaneHands {
    fn prepare<'a>(
        &'a self,
        shard: &'a Rc<Shard>,
        dirs: &'a Dirs,
        plan: &'a Plan,
    ) -> LocalBoxFuture<'a, Vec<Child>> {
        Box::pin(async move {
            let children = Cell::new(Vec::new());
            let work = Work {
                hands: self,
                shard,
                dirs,
                plan,
            };
            let slow = dirs
                .dest
                .as_ref()
                .is_some_and(|dest| shard.dest.is_slow(dest.dev()));
            let add = |child: Option<Child>| {
                let mut all = children.take();
                all.extend(child);
                children.set(all);
            };
            for_each(slow, &plan.removals, async |removal| {
                add(work.remove(removal).await);
            })
            .await;
            for_each(slow, &plan.dirs, async |step| {
                add(work.directory(step).await);
            })
            .await;
            children.into_inner()
        })
    }

    fn transfer<'a>(
        &'a self,
        shard: &'a Rc<Shard>,
        dirs: &'a Dirs,
        plan: &'a Plan,
    ) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            let work = Work {
                hands: self,
                shard,
                dirs,
                plan,
            };
            let is_slow = |fs: &dyn crate::io::Fs, dir: &Option<Handle>| {
                dir.as_ref().is_some_and(|dir| fs.is_slow(dir.dev()))
            };
            // Asked again now and then: a filesystem shows only in use how fast it is.
            for steps in plan.steps.chunks(ENTRIES_AT_ONCE_MAX * 4) {
                let slow =
                    is_slow(&*shard.source, &dirs.source) || is_slow(&*shard.dest, &dirs.dest);
                for_each(slow, steps, async |step| work.step(step).await).await;
            }
        })
    }

    fn opened(&self, shard: &Shard, dirs: &Dirs) {
        self.directory_opened(shard, dirs);
    }

    fn finish<'a>(&'a self, shard: &'a Rc<Shard>, node: &'a Arc<Node>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            match node.job {
                Job::Sync => self.finish_synced(shard, node).await,
                Job::Remove => self.finish_removed(shard, node).await,
            }
        })
    }
}

/// Runs `work` on each item: one by one, or many at once where each waits.
async fn for_each<'a, T: 'a, F: Future<Output = ()>>(
    at_once: bool,
    items: impl IntoIterator<Item = &'a T>,
    work: impl Fn(&'a T) -> F,
) {
    if at_once {
        let all = futures_util::stream::iter(items);
        all.for_each_concurrent(ENTRIES_AT_ONCE_MAX, work).await;
        return;
    }
    for item in items {
        work(item).await;
        glommio::executor().yield_if_needed().await;
    }
}

impl LaneHands {
    /// Takes one deletion from `--max-delete`.
    fn may_delete(&self) -> bool {
        let may = self
            .options
            .deletions
            .as_ref()
            .is_none_or(|left| left.spend());
        if !may {
            self.options.deletions_refused.store(true, SeqCst);
        }
        may
    }

    /// Before names change in a directory: one that its owner may not write to is opened up, and closed again when it is
    /// finished. Root needs no permission.
    async fn unlock(&self, node: &Node, dest: &Handle) -> Result<(), Failure> {
        let Some(now) = node.meta(Side::Destination) else {
            return Ok(());
        };
        let writable = self.options.privileged || now.mode & 0o700 == 0o700;
        if writable || node.presence != Presence::Existing || node.is_unlocked() {
            return Ok(());
        }
        // Two at once do the same, which does no harm.
        self.lane.unlock_dir(dest.clone(), now).await?;
        node.set_unlocked();
        Ok(())
    }

    fn directory_opened(&self, shard: &Shard, dirs: &Dirs) {
        let node = &dirs.node;
        let (Some(source), Some(dest)) = (node.meta(Side::Source), node.meta(Side::Destination))
        else {
            return;
        };
        if node.presence != Presence::Existing {
            return;
        }
        let attrs = shard.shared.options.policy.attrs_differing(source, dest);
        if attrs.is_empty() {
            shard.tally().entries_equal.add(u64::from(node.depth() > 0));
        } else {
            shard.tally().entries_repaired.add(1);
            self.tell(shard, What::Repair(attrs), Kind::Dir, || {
                (node.path(), None)
            });
        }
    }

    async fn finish_synced(&self, shard: &Rc<Shard>, node: &Arc<Node>) {
        if self.options.dry_run || node.presence == Presence::Absent {
            return;
        }
        let Some(source) = node.meta(Side::Source) else {
            return;
        };
        let touched = node.is_touched();
        let made = node.presence == Presence::Made;
        if let Some(dest) = node.meta(Side::Destination) {
            let differs = !shard
                .shared
                .options
                .policy
                .attrs_differing(source, dest)
                .is_empty();
            if !(made || touched || differs || node.is_unlocked()) {
                return;
            }
        }
        let result = node::open(shard, node, Side::Destination).await;
        let (dir, dest) = match (result, node.meta(Side::Destination)) {
            (Ok(dir), Some(dest)) => (dir, dest),
            (Err(error), _) => return shard.report(error),
            (Ok(_), None) => return,
        };
        let mut now = *dest;
        if node.is_unlocked() {
            now.mode |= 0o700;
        }
        let finished = self.lane.finish_dir(dir, source, &now, made, touched).await;
        if let Err(failure) = finished {
            shard.report(error(failure, node.path()));
        }
    }

    /// Everything in the directory is gone, unless something had to stay.
    async fn finish_removed(&self, shard: &Rc<Shard>, node: &Arc<Node>) {
        let Some(parent) = node.parent() else { return };
        if node.is_kept() || !self.may_delete() {
            return parent.keep();
        }
        if !self.options.dry_run {
            let removed = match node::open(shard, parent, Side::Destination).await {
                Ok(dest) => self
                    .remove_dir(parent, &dest, node.name())
                    .await
                    .map_err(|failure| error(failure, node.path())),
                Err(error) => Err(error),
            };
            if let Err(error) = removed {
                parent.keep();
                return shard.report(error);
            }
            parent.touch();
        }
        self.count_deleted(shard, Kind::Dir, || node.path());
    }

    async fn remove_dir(&self, parent: &Node, dest: &Handle, name: &CStr) -> Result<(), Failure> {
        self.unlock(parent, dest).await?;
        self.lane.remove_dir(dest, name).await
    }

    async fn unlink(&self, parent: &Node, dest: &Handle, name: &CStr) -> Result<(), Failure> {
        self.unlock(parent, dest).await?;
        self.lane.unlink(dest, name).await
    }

    fn count_deleted(&self, shard: &Shard, kind: Kind, path: impl FnOnce() -> Vec<u8>) {
        shard.tally().entries_deleted.add(1);
        self.tell(shard, What::Delete, kind, || (path(), None));
    }

    /// Tells a change, and counts it as a difference when it is only told.
    fn tell(
        &self,
        shard: &Shard,
        what: What,
        kind: Kind,
        path_and_target: impl FnOnce() -> (Vec<u8>, Option<Vec<u8>>),
    ) {
        if self.options.dry_run {
            shard.tally().entries_differing.add(1);
        }
        if shard.shared.sink.wants_items() {
            let (path, target) = path_and_target();
            shard.shared.sink.item(Item {
                what,
                kind,
                path,
                target,
            });
        }
    }
}

fn error(failure: Failure, path: Vec<u8>) -> Error {
    Error::new(failure.op, failure.side, path, failure.cause)
}

/// The plan of one directory, being carried out.
struct Work<'a> {
    hands: &'a LaneHands,
    shard: &'a Rc<Shard>,
    dirs: &'a Dirs,
    plan: &'a Plan,
}

impl Work<'_> {
    fn path_of(&self, name: &CStr) -> Vec<u8> {
        self.dirs.node.path_of(name)
    }

    fn report(&self, failure: Failure, name: &CStr) {
        self.shard.report(error(failure, self.path_of(name)));
    }

    fn name(&self, step: &Step) -> &CStr {
        self.plan.source.name(self.plan.entry(step))
    }

    /// Removes a name; a directory comes back as a child to be emptied first.
    async fn remove(&self, removal: &Removal) -> Option<Child> {
        let Removal { name, kind, stray } = removal;
        let node = &self.dirs.node;
        let child = || {
            Some(Child {
                name: name.clone(),
                job: Job::Remove,
                presence: Presence::Existing,
            })
        };
        if self.shard.cancelled() {
            node.keep();
            return None;
        }
        if *kind == Kind::Dir {
            return child();
        }
        if !stray && !self.hands.may_delete() {
            node.keep();
            return None;
        }
        if let (false, Some(dest)) = (self.hands.options.dry_run, &self.dirs.dest) {
            match self.hands.unlink(node, dest, name).await {
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
    async fn directory(&self, step: &Step) -> Option<Child> {
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
                self.leave_mount_point(name, &wanted, presence).await;
                return None;
            }
        }
        Some(Child {
            name: name.to_owned(),
            job: Job::Sync,
            presence,
        })
    }

    async fn make_directory(&self, step: &Step, name: &CStr) -> Option<Presence> {
        let mut presence = Presence::Absent;
        if let (false, Some(dest)) = (self.hands.options.dry_run, &self.dirs.dest) {
            let lane = &self.hands.lane;
            let mut result = self.hands.unlock(&self.dirs.node, dest).await;
            if result.is_ok() && step.action == Action::Supplant {
                result = match lane.unlink(dest, name).await {
                    Err(failure) if failure.cause != Cause::Errno(Errno::ENOENT) => Err(failure),
                    _ => Ok(()),
                };
            }
            if result.is_ok() {
                result = lane.make_dir(dest, name).await;
            }
            if let Err(failure) = result {
                self.report(failure, name);
                return None;
            }
            self.dirs.node.touch();
            presence = Presence::Made;
        }
        self.shard.tally().dirs_made.add(1);
        let told = || (self.path_of(name), None);
        self.hands.tell(self.shard, What::Create, Kind::Dir, told);
        Some(presence)
    }

    /// `-x`: a mount point has its directory on the destination, with its attributes, and nothing in it is looked at.
    async fn leave_mount_point(&self, name: &CStr, wanted: &Meta, presence: Presence) {
        let (false, Some(dest)) = (self.hands.options.dry_run, &self.dirs.dest) else {
            return;
        };
        if presence == Presence::Made
            && let Err(failure) = self.hands.lane.dress(dest, name, wanted).await
        {
            self.report(failure, name);
        }
    }

    /// Carries out one step and reports its failure.
    async fn step(&self, step: &Step) {
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
        let place = Place { source, dest, name };
        let acted = self
            .act(place, step.action, &wanted, step.dest.as_deref())
            .await;
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

    async fn act(
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
                    lane.files_equal(place).await?
                };
                let policy = &self.shard.shared.options.policy;
                let action = decide_contents(wanted, existing, equal, policy);
                Box::pin(self.act(place, action, wanted, Some(existing))).await
            }
            (Action::Repair(attrs), Some(existing)) => {
                self.repair(place, attrs, wanted, existing).await
            }
            (Action::Skip(reason), _) => {
                let tally = self.shard.tally();
                match reason {
                    SkipReason::Equal => tally.entries_equal.add(1),
                    _ => tally.entries_skipped.add(1),
                }
                Ok(())
            }
            (Action::Supplant, Some(existing)) if existing.kind == Kind::Dir => {
                self.clear_way(place).await?;
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
            self.hands.lane.repair(place, wanted, existing).await?;
        }
        self.shard.tally().entries_repaired.add(1);
        let target = self.link_target(place, wanted.kind).await;
        let told = || (self.path_of(place.name), target);
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
            self.hands.unlock(&self.dirs.node, place.dest).await?;
            self.dirs.node.touch();
            match wanted.kind {
                Kind::File => {
                    let spread = SpreadOverShards(self.shard);
                    let copied = lane.copy_file(place, existing, &spread).await?;
                    let tally = self.shard.tally();
                    if copied.cloned {
                        tally.bytes_cloned.add(copied.bytes);
                        self.count_made(Kind::File, 0);
                    } else {
                        self.count_made(Kind::File, copied.bytes);
                    }
                    if copied.unsettled {
                        let path = self.path_of(place.name);
                        let op = crate::error::OpKind::Read;
                        self.shard
                            .report(Error::new(op, Side::Source, path, Cause::Changing));
                    }
                }
                Kind::Symlink => {
                    lane.copy_symlink(place, wanted, existing).await?;
                    self.count_made(Kind::Symlink, 0);
                }
                kind => {
                    lane.copy_special(place, wanted, existing).await?;
                    self.count_made(kind, 0);
                }
            }
        }
        let target = self.link_target(place, wanted.kind).await;
        let told = || (self.path_of(place.name), target);
        self.hands.tell(self.shard, what, wanted.kind, told);
        Ok(())
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

    /// Removes a directory that is where another kind must go: an empty one always, a full one only when asked.
    async fn clear_way(&self, place: Place<'_>) -> Result<(), Failure> {
        let (lane, name) = (&self.hands.lane, place.name);
        if self.hands.options.dry_run {
            return Ok(());
        }
        let removed = self
            .hands
            .remove_dir(&self.dirs.node, place.dest, name)
            .await;
        let not_empty = match removed {
            Ok(()) => {
                self.shard.tally().entries_deleted.add(1);
                return Ok(());
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
        let may_remove = |kind: Kind, names: &[&CStr]| {
            let path = || {
                let names: Vec<&[u8]> = names.iter().map(|name| name.to_bytes()).collect();
                crate::model::path::join(&self.dirs.node.path(), &names.join(&b'/'))
            };
            if names.len() > 1 {
                self.hands.count_deleted(self.shard, kind, path);
            } else {
                // The name itself does not go: it is replaced, and told as that.
                self.shard.tally().entries_deleted.add(1);
            }
            !self.shard.cancelled()
        };
        match lane.remove_tree(place.dest, name, &may_remove).await? {
            TreeRemoval::Removed => Ok(()),
            TreeRemoval::Refused => Err(not_empty),
        }
    }
}
