//! Where shard and transfer meet: carries out plans with the shard's lane, counts and reports.

use std::cell::Cell;
use std::ffi::CStr;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use futures_util::StreamExt;
use futures_util::future::{LocalBoxFuture, join};
use nix::errno::Errno;

use super::backup::BackupOptions;
use super::links::LinkTable;
use super::work::Work;
use crate::error::{Cause, Error, Side};
use crate::io::Handle;
use crate::model::{Carried, Ids, Item, Kind, Meta, What};
use crate::shard::{Child, Dirs, Hands, Job, Node, Plan, Presence, Shard, Step, Task, node, skip};
use crate::throttle::Budget;
use crate::transfer::{Buffers, Failure, Gear, LARGE_BYTES_MIN, Lane, LargeFiles, Spread};

/// Entries of one directory in work at once on a filesystem that blocks. On a fast one they go one by one: more
/// would only cost memory.
const ENTRIES_AT_ONCE_MAX: usize = 64;
/// Names of one directory that are made or removed at once where each takes its time. The kernel holds the directory for
/// each, so more would only keep others from their directories; files also have steps that need no lock.
const NAMES_AT_ONCE_MAX: usize = 4;

/// Names that are removed at once where they do not wait for each other, and go many in a request.
const REMOVALS_AT_ONCE_MAX: usize = 1000;

/// Large files of one directory in work at once where calls return at once. Each has its final size from the start, under a
/// temporary name, and that is lost when the run is interrupted; and memory is not faster than a few cores.
const LARGE_AT_ONCE_MAX: usize = 4;

/// What the hands may do.
#[derive(Clone)]
pub(super) struct HandsOptions {
    /// Tell, and change nothing.
    pub dry_run: bool,
    /// Directories that are in the way of something else may go with all they hold.
    pub may_supplant_trees: bool,
    /// Root: permissions of directories do not hold us up.
    pub privileged: bool,
    /// Extended attributes that are carried.
    pub extended: Carried,
    /// What `--hard-links` remembers; for all shards.
    pub links: Arc<LinkTable>,
    /// `--max-delete`.
    pub deletions: Option<Arc<Budget>>,
    /// Set when a deletion was refused because of `--max-delete`.
    pub deletions_refused: Arc<AtomicBool>,
    /// `--backup`.
    pub backup: Option<BackupOptions>,
}

/// The hands of one shard.
pub(super) struct LaneHands {
    pub lane: Lane,
    pub options: HandsOptions,
}

/// Has all shards copy large files.
pub(super) struct SpreadOverShards<'a>(pub &'a Rc<Shard>);

impl Spread for SpreadOverShards<'_> {
    fn spread<'a>(&'a self, files: &'a Arc<LargeFiles>) -> LocalBoxFuture<'a, ()> {
        let task = move || -> Task {
            let files = files.clone();
            Box::new(move |shard| {
                Box::pin(async move {
                    let coordinator = shard.shared.coordinator.clone();
                    let (instruments, kept_max) = (shard.instruments.clone(), files.copiers_max());
                    let gear = Gear {
                        source: &shard.source,
                        dest: &shard.dest,
                        buffers: &Buffers::new(instruments, coordinator, kept_max),
                    };
                    files.help(shard.id, gear).await;
                })
            })
        };
        Box::pin(self.0.on_all_shards(task))
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
            let work = Work::new(self, shard, dirs, plan);
            let add = |child: Option<Child>| {
                let mut all = children.take();
                all.extend(child);
                children.set(all);
            };
            let is_slow = shard.is_slow(Side::Destination, dirs);
            let (removed_at_once, at_once) = match (is_slow, shard.dest.locks_names()) {
                (false, _) => (1, 1),
                (true, true) => (NAMES_AT_ONCE_MAX, NAMES_AT_ONCE_MAX),
                (true, false) => (REMOVALS_AT_ONCE_MAX, ENTRIES_AT_ONCE_MAX),
            };
            for_each(removed_at_once, &plan.removals, async |removal| {
                add(work.remove(removal).await);
            })
            .await;
            for_each(at_once, &plan.dirs, async |step| {
                add(work.directory(step).await);
            })
            .await;
            let keeps = match dirs.node.presence {
                Presence::Made => plan.steps.is_empty() && plan.dirs.is_empty(),
                _ => plan.source.is_empty() && !plan.removals.is_empty(),
            };
            if let (true, false, Some(dest)) = (keeps, self.options.dry_run, &dirs.dest)
                && dirs.node.job == Job::Sync
                && let Err(failure) = self.lane.keep_empty_dir(dest).await
            {
                shard.report(&dirs.node, error(failure, dirs.node.path()));
            }
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
            let work = Work::new(self, shard, dirs, plan);
            // Asked again now and then: a filesystem shows only in use how fast it is.
            for steps in plan.steps.chunks(ENTRIES_AT_ONCE_MAX * 4) {
                let at_once = if self.lane.waits_for_device() {
                    ENTRIES_AT_ONCE_MAX
                } else if shard.is_slow(Side::Destination, dirs) && shard.dest.locks_names() {
                    NAMES_AT_ONCE_MAX
                } else if shard.is_slow(Side::Destination, dirs)
                    || shard.is_slow(Side::Source, dirs)
                {
                    ENTRIES_AT_ONCE_MAX
                } else {
                    1
                };
                let is_large = |step: &&Step| plan.meta(step).size >= LARGE_BYTES_MIN;
                let step = async |step| {
                    work.step(step).await;
                    shard.share();
                };
                // A large file for each core to write.
                let large_at_once = at_once.max(shard.count().min(LARGE_AT_ONCE_MAX));
                let large = for_each(large_at_once, steps.iter().filter(is_large), step);
                let others = steps.iter().filter(|step| !is_large(step));
                join(large, for_each(at_once, others, step)).await;
            }
        })
    }

    fn opened<'a>(&'a self, shard: &'a Shard, dirs: &'a Dirs) -> LocalBoxFuture<'a, ()> {
        Box::pin(self.directory_opened(shard, dirs))
    }

    fn finish<'a>(&'a self, shard: &'a Rc<Shard>, node: &'a Arc<Node>) -> LocalBoxFuture<'a, ()> {
        Box::pin(async move {
            match node.job {
                Job::Sync => {
                    let dest = self.finish_synced(shard, node).await;
                    if !self.options.dry_run {
                        skip::tell(shard, node, dest.as_ref()).await;
                    }
                }
                Job::Remove => self.finish_removed(shard, node).await,
            }
            if node.parent().is_none() {
                for failure in self.lane.flush_filesystems().await {
                    if let Some(rows) = shard.shared.options.passing.rows() {
                        rows.distrust();
                    }
                    shard.report(node, error(failure, Vec::new()));
                }
            }
        })
    }
}

/// Runs `work` on each item: one by one, or many at once where each waits.
async fn for_each<'a, T: 'a, F: Future<Output = ()>>(
    at_once: usize,
    items: impl IntoIterator<Item = &'a T>,
    work: impl Fn(&'a T) -> F,
) {
    if at_once > 1 {
        let all = futures_util::stream::iter(items);
        all.for_each_concurrent(at_once, work).await;
        return;
    }
    for item in items {
        work(item).await;
        glommio::executor().yield_if_needed().await;
    }
}

impl LaneHands {
    /// Takes one deletion from `--max-delete`.
    pub(super) fn may_delete(&self) -> bool {
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
    pub(super) async fn unlock(&self, node: &Node, dest: &Handle) -> Result<(), Failure> {
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

    async fn directory_opened(&self, shard: &Shard, dirs: &Dirs) {
        let node = &dirs.node;
        let (Some(source), Some(dest)) = (node.meta(Side::Source), node.meta(Side::Destination))
        else {
            return;
        };
        if node.presence != Presence::Existing {
            return;
        }
        let mut attrs = shard.shared.options.policy.attrs_differing(source, dest);
        if let (Some(source_dir), Some(dest_dir)) = (&dirs.source, &dirs.dest) {
            let differing = self.lane.dir_xattrs_differing(source_dir, dest_dir);
            match differing.await {
                Ok(xattrs) if xattrs.is_empty() => {}
                Ok(xattrs) => {
                    node.set_xattrs_differ();
                    attrs = attrs | xattrs;
                }
                Err(failure) => shard.report(node, error(failure, node.path())),
            }
        }
        if attrs.is_empty() {
            shard.tally().entries_equal.add(u64::from(node.depth() > 0));
        } else {
            shard.tally().entries_repaired.add(1);
            let told = || Told {
                path: node.path(),
                target: None,
                owners: Some((dest.ids(), source.ids())),
            };
            self.tell(shard, What::Repair(attrs), Kind::Dir, told);
        }
    }

    /// Gives a directory its attributes. Returns how the copy looks, unless this run has changed names in what was there before:
    /// who else did so meanwhile would not show.
    async fn finish_synced(&self, shard: &Rc<Shard>, node: &Arc<Node>) -> Option<Meta> {
        if self.options.dry_run || node.presence == Presence::Absent {
            return None;
        }
        self.finish_backup(shard, node).await;
        let source = node.meta(Side::Source)?;
        let touched = node.is_touched();
        let made = node.presence == Presence::Made;
        if let Some(dest) = node.meta(Side::Destination) {
            if node.parent().is_some() && Some(dest.identity()) == shard.shared.source_root() {
                return None;
            }
            let differs = !shard
                .shared
                .options
                .policy
                .attrs_differing(source, dest)
                .is_empty();
            if !(made || touched || differs || node.is_unlocked() || node.xattrs_differ()) {
                return Some(*dest);
            }
        }
        let result = node::open(shard, node, Side::Destination).await;
        let (dir, dest) = match (result, node.meta(Side::Destination)) {
            (Ok(dir), Some(dest)) => (dir, dest),
            (Err(error), _) => {
                shard.report(node, error);
                return None;
            }
            (Ok(_), None) => return None,
        };
        let mut now = *dest;
        if node.is_unlocked() {
            now.mode |= 0o700;
        }
        let needs_xattrs = !self.options.extended.is_nothing() && (made || node.xattrs_differ());
        let source_dir = if needs_xattrs {
            match node::open(shard, node, Side::Source).await {
                Ok(dir) => Some(dir),
                Err(error) => {
                    shard.report(node, error);
                    return None;
                }
            }
        } else {
            None
        };
        let is_ours = made && skip::is_as_filled(shard, node, &dir).await;
        let dirs = (source_dir.as_ref(), &dir);
        let existed = (!made).then_some(dest);
        let finish = self.lane.finish_dir(dirs, source, &now, existed, touched);
        let mut finished = finish.await;
        if finished.is_ok() {
            finished = self.lane.flush_dir(&dir).await;
        }
        if let Err(failure) = finished {
            shard.report(node, error(failure, node.path()));
            return None;
        }
        if !is_ours {
            return None;
        }
        skip::look_again(shard, node, &dir).await
    }

    /// Everything in the directory is gone, unless something had to stay.
    async fn finish_removed(&self, shard: &Rc<Shard>, node: &Arc<Node>) {
        let Some(parent) = node.parent() else { return };
        self.finish_backup(shard, node).await;
        if node.is_kept() || !self.may_delete() {
            // Nobody comes back to it but by way of its parent.
            parent.fail();
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
            match removed {
                Ok(()) => {}
                // Gone already, which is all that was wanted.
                Err(error) if error.cause == Cause::Errno(Errno::ENOENT) => return,
                Err(error) => {
                    parent.keep();
                    return shard.report(parent, error);
                }
            }
            parent.touch();
        }
        self.count_deleted(shard, Kind::Dir, || node.path());
    }

    pub(super) async fn remove_dir(
        &self,
        parent: &Node,
        dest: &Handle,
        name: &CStr,
    ) -> Result<(), Failure> {
        self.unlock(parent, dest).await?;
        self.lane.remove_dir(dest, name).await
    }

    pub(super) async fn unlink(
        &self,
        parent: &Node,
        dest: &Handle,
        name: &CStr,
    ) -> Result<(), Failure> {
        self.unlock(parent, dest).await?;
        self.lane.unlink(dest, name).await
    }

    /// Deletes a name, and keeps what it stands for if that is wanted.
    pub(super) async fn unlink_or_keep(
        &self,
        shard: &Shard,
        parent: &Arc<Node>,
        dest: &Handle,
        name: &CStr,
    ) -> Result<(), Failure> {
        self.unlock(parent, dest).await?;
        let backup = self.backup_of(shard, parent, dest).await?;
        self.lane.unlink_or_keep(dest, name, backup.as_ref()).await
    }

    /// Whether backups stay in the directory of their originals.
    pub(super) fn keeps_beside(&self) -> bool {
        let backup = self.options.backup.as_ref();
        backup.is_some_and(|backup| backup.root.is_none())
    }

    pub(super) fn count_deleted(&self, shard: &Shard, kind: Kind, path: impl FnOnce() -> Vec<u8>) {
        shard.tally().entries_deleted.add(1);
        self.tell(shard, What::Delete, kind, || (path(), None));
    }

    /// Tells a change, and counts it as a difference when it is only told.
    pub(super) fn tell<T: Into<Told>>(
        &self,
        shard: &Shard,
        what: What,
        kind: Kind,
        told: impl FnOnce() -> T,
    ) {
        if self.options.dry_run {
            shard.tally().entries_differing.add(1);
        }
        if shard.shared.sink.wants_items() {
            let Told {
                path,
                target,
                owners,
            } = told().into();
            shard.shared.sink.item(Item {
                what,
                kind,
                path,
                target,
                owners,
            });
        }
    }
}

/// What is told of a change besides its kind.
pub(super) struct Told {
    pub path: Vec<u8>,
    pub target: Option<Vec<u8>>,
    pub owners: Option<(Ids, Ids)>,
}

impl From<(Vec<u8>, Option<Vec<u8>>)> for Told {
    fn from((path, target): (Vec<u8>, Option<Vec<u8>>)) -> Self {
        Self {
            path,
            target,
            owners: None,
        }
    }
}

pub(super) fn error(failure: Failure, path: Vec<u8>) -> Error {
    Error::new(failure.op, failure.side, path, failure.cause)
}
