//! Names that only the destination has: which of them may go.

use std::ffi::CStr;
use std::rc::Rc;

use super::{ENOENT, Part};
use crate::error::{Cause, Error, OpKind, Side};
use crate::io::{Op, Reply, Target};
use crate::model::{Entry, Listing, State};
use crate::shard::Shard;
use crate::shard::batch::stat_all;
use crate::shard::plan::{Removal, Step};

impl Part {
    /// Only the destination has the name.
    pub(super) fn plan_removal(
        &mut self,
        shard: &Shard,
        dest_dev: u64,
        batch: &Listing,
        entry: &Entry,
        may_delete: bool,
    ) {
        let name = batch.name(entry);
        let rule = shard.shared.options.strays;
        let is_temp = rule.is_some_and(|rule| (rule.is_temp_name)(name.to_bytes()));
        let meta = entry.meta(dest_dev);
        let stray = is_temp
            && (self.source_complete || !self.dirs.node.reach.is_whole())
            && rule
                .zip(meta)
                .is_some_and(|(rule, meta)| rule.covers(&meta));
        // A temporary file that is being written belongs to a run that is alive.
        let alive = is_temp
            && rule
                .zip(meta)
                .is_some_and(|(rule, meta)| rule.may_be_alive(&meta));
        if alive {
            // What becomes of it is for the next run to see.
            self.dirs.node.fail();
        }
        if !stray && (!may_delete || alive) {
            return;
        }
        if let Some(judge) = &mut self.judge {
            // A temporary file is protected when the file is that it would have become.
            let target = rule
                .filter(|_| stray)
                .map(|rule| rule.target(name.to_bytes()));
            let name = target.unwrap_or(name.to_bytes());
            if judge.protects(name, entry.kind()) != Some(false) {
                return;
            }
        }
        let rule = shard.shared.options.backups.as_ref();
        let node = &self.dirs.node;
        if !stray && rule.is_some_and(|rule| rule.protects(node, name.to_bytes())) {
            return;
        }
        if let Some(kind) = entry.kind() {
            let removal = Removal {
                name: name.to_owned(),
                kind,
                stray,
                backup_taken: self.is_backup_taken(shard, name.to_bytes()),
            };
            let whole = stray.then(|| self.whole_of(shard, name)).flatten();
            match whole {
                Some(whole) => self.partials.push((whole, removal)),
                None => self.plan.removals.push(removal),
            }
        }
    }

    /// The entry of the source of which a temporary file may be a part to go on with.
    fn whole_of(&self, shard: &Shard, temp_name: &CStr) -> Option<usize> {
        let rule = shard.shared.options.strays?;
        rule.is_partial_of?;
        let source = &self.plan.source;
        let at = self.index.find(source, rule.target(temp_name.to_bytes()))?;
        let entry = &source.entries[at];
        let meta = entry.meta(self.plan.source_dev)?;
        rule.is_partial(temp_name, source.name(entry), &meta)
            .then_some(at)
    }

    /// Files in part are left over where the whole is not to be copied.
    pub(super) fn remove_needless_partials(&mut self) {
        for (whole, removal) in std::mem::take(&mut self.partials) {
            let is_copied = |step: &Step| step.entry == whole && step.action.copies();
            if !self.plan.steps.iter().any(is_copied) {
                self.plan.removals.push(removal);
            }
        }
    }

    /// Deletes nothing where the source may have what its listing did not show: because its names changed meanwhile, or
    /// because the filesystem left some out (as network filesystems may, when a directory changes).
    pub(super) async fn confirm_removals(&mut self, shard: &Rc<Shard>) {
        let Some(dir) = self.dirs.source.clone() else {
            return;
        };
        let mut names = shard.take_listing();
        // What a rule hides was never in the listing.
        let mut judge = self.judge.take();
        let mut is_hidden = |name: &[u8], kind| {
            judge
                .as_mut()
                .is_some_and(|judge| judge.hides(name, kind) == Some(true))
        };
        for removal in self.plan.removals.iter().filter(|removal| !removal.stray) {
            if is_hidden(removal.name.to_bytes(), None) {
                continue;
            }
            if names.push(&removal.name, 0, None) {
                let last = names.len() - 1;
                names.entries[last].state = State::Wanted;
            }
        }
        if names.is_empty() {
            return shard.keep_listing(names);
        }
        names = stat_all(shard, &shard.source, &dir, names, 0).await;
        if shard.cancelled() {
            // Not all were looked at, and nothing is removed any more.
            self.plan.removals.clear();
            return;
        }
        let is_shown = names.entries.iter().any(|entry| {
            entry.state == State::Known && !is_hidden(names.name_bytes(entry), entry.kind())
        });
        let unknown: Vec<&Entry> = names
            .entries
            .iter()
            .filter(|entry| matches!(entry.state, State::Failed(errno) if errno != ENOENT))
            .collect();
        for entry in &unknown {
            self.report_failed_stat(shard, Side::Source, &names, entry);
        }
        let mut is_certain = unknown.is_empty();
        shard.keep_listing(names);
        let before = self.dirs.node.meta(Side::Source).map(|meta| meta.mtime);
        // A listing that a client remembers lacks what others have made since.
        let target = Target::Anew(dir);
        let has_moved = match shard.source.start(Op::Stat { target }).await {
            Ok(Reply::Meta(now)) => Some(now.mtime) != before,
            Ok(other) => unreachable!("a stat does not reply {other:?}"),
            Err(error) => {
                self.report(shard, error.kind, Side::Source, error.errno);
                is_certain = false;
                false
            }
        };
        if is_certain && !is_shown && !has_moved {
            return;
        }
        self.plan.removals.retain(|removal| removal.stray);
        self.dirs.node.fail();
        if is_shown || has_moved {
            let (path, cause) = (self.dirs.node.path(), Cause::ListingMoved);
            shard.report(
                &self.dirs.node,
                Error::new(OpKind::ReadDir, Side::Source, path, cause),
            );
        }
    }
}
