//! One directory, or one shard's part of a split one: its source entries in an index, its destination entries matched
//! against them batch by batch, and the plan that comes out.

mod removals;
mod source;

use std::rc::Rc;

use nix::errno::Errno;

use super::batch::{read_batch, report_refused, stat_all, stat_range};
use super::index::NameIndex;
use super::plan::{InHand, Plan, Removal, Step};
use super::skip::Seen;
use super::{Dirs, Mode, Shard, sift, skip};
use crate::error::{Cause, Error, OpKind, Side};
use crate::io::Handle;
use crate::model::compare::needs_more;
use crate::model::filter::{Extent, Judge};
use crate::model::unchanged::Contents;
use crate::model::{Action, Entry, Kind, Listing, Meta, SkipReason, State, decide};

/// As a listing keeps it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It is 2.
const ENOENT: u16 = Errno::ENOENT as u16;

#[allow(clippy::struct_excessive_bools)] // Facts that are learned apart.
pub(super) struct Part {
    dirs: Dirs,
    plan: Plan,
    index: NameIndex,
    /// By position: the destination has the name, and it was dealt with.
    matched: Vec<bool>,
    /// Answers for filter rules, when there are any.
    judge: Option<Judge>,
    /// The source was listed to its end without an error; only then may names be missing from it.
    pub(super) source_complete: bool,
    /// The source has something that no tree can hold.
    pub(super) has_refused: bool,
    pub(super) dest_complete: bool,
    /// Temporary files that the copying of an entry may go on with, by its position.
    partials: Vec<(usize, Removal)>,
    /// The entries of the source, in a run that remembers.
    contents: Option<Contents>,
    /// The copy has exactly these names, so it is not listed.
    is_unchanged: bool,
}

/// How far a listing got.
pub(super) enum Read {
    Complete,
    Failed,
    /// More entries than one shard should hold.
    Giant,
}

impl Part {
    pub(super) fn new(shard: &Shard, dirs: Dirs, in_hand: InHand) -> Self {
        let judge = sift::judge(shard, &dirs.node);
        Self {
            contents: skip::contents(shard, &dirs.node),
            is_unchanged: false,
            plan: Plan {
                expected: skip::expected(shard, &dirs.node).into(),
                source: shard.take_listing(),
                source_dev: dirs.source.as_ref().map_or(0, Handle::dev),
                in_hand: Some(in_hand),
                ..Plan::default()
            },
            dirs,
            index: NameIndex::new(shard.shared.hasher.clone()),
            judge,
            matched: Vec::new(),
            partials: Vec::new(),
            source_complete: false,
            has_refused: false,
            dest_complete: false,
        }
    }

    /// Other shards have the other names of the directory.
    pub(super) fn set_split(&mut self) {
        self.plan.is_split = true;
    }

    /// The index has as many names as the source's listing now.
    pub(super) fn hold_lease(&mut self) {
        if let Some(in_hand) = &mut self.plan.in_hand {
            in_hand.lease.hold(self.plan.source.len());
        }
    }

    /// All names of this part are known.
    pub(super) fn trim_lease(&mut self) {
        if let Some(in_hand) = &mut self.plan.in_hand {
            in_hand.lease.trim(self.plan.source.len());
        }
    }

    /// All names of the source are known.
    pub(super) fn settle_lease(&mut self) {
        if let Some(in_hand) = &mut self.plan.in_hand {
            in_hand.lease.settle(self.plan.source.len());
        }
    }

    /// What the source directory was found to be; nothing when it was not seen whole, or nobody remembers.
    pub(super) fn seen(&self) -> Option<Seen> {
        let contents = self.contents.filter(|_| self.source_complete)?;
        let key = self.dirs.node.key();
        let source = &self.plan.source;
        let dirs = source.entries.iter();
        let dirs = dirs.filter(|entry| entry.kind() == Some(Kind::Dir));
        let subdirs = dirs.map(|entry| key.child(source.name_bytes(entry)).own());
        Some(Seen {
            contents,
            subdirs: subdirs.collect(),
        })
    }

    /// The destination has exactly the names of the source, and nothing in it is looked at.
    pub(super) fn set_unchanged(&mut self) {
        self.is_unchanged = true;
        self.dest_complete = true;
    }

    /// The destination directory was opened late.
    pub(super) fn set_dest(&mut self, dest: Handle) {
        self.dirs.dest = Some(dest);
    }

    /// Lists the destination and matches it, batch by batch; no batch is kept.
    pub(super) async fn read_dest(&mut self, shard: &Rc<Shard>) {
        let Some(dir) = self.dirs.dest.clone() else {
            self.dest_complete = true;
            return;
        };
        let mut batch = shard.take_listing();
        let extent = self.dirs.node.reach.extent;
        if matches!(extent, Extent::Listed | Extent::Itself) {
            if extent == Extent::Listed {
                batch = sift::listed_names(shard, &self.dirs.node, batch);
            }
            batch = self.match_dest(shard, &dir, batch).await;
            shard.keep_listing(batch);
            self.dest_complete = true;
            return;
        }
        loop {
            if shard.cancelled() {
                return;
            }
            match read_batch(&shard.dest, &dir, batch).await {
                Ok((mut listing, more)) => {
                    report_refused(shard, &self.dirs.node, Side::Destination, &mut listing);
                    batch = self.match_dest(shard, &dir, listing).await;
                    batch.clear();
                    if !more {
                        self.dest_complete = true;
                        break;
                    }
                }
                Err(errno) => {
                    self.report(shard, OpKind::ReadDir, Side::Destination, errno);
                    return;
                }
            }
        }
        shard.keep_listing(batch);
    }

    /// Decides about the names of one batch of the destination.
    pub(super) async fn match_dest(
        &mut self,
        shard: &Rc<Shard>,
        dir: &Handle,
        mut batch: Listing,
    ) -> Listing {
        let options = &shard.shared.options;
        let names_only = options.mode == Mode::DeleteOnly;
        // With -x, nothing goes from what is mounted in the destination.
        let is_mounted = options.dest_root.is_some_and(|(dev, _)| dev != dir.dev());
        let may_delete = options.delete
            && self.source_complete
            && self.dirs.node.reach.is_whole()
            && !(options.one_file_system && is_mounted);
        let listed = self.plan.expected.get().map(|_| batch.entries.clone());
        let mut found = Vec::with_capacity(batch.len());
        for at in 0..batch.len() {
            let name = batch.name_bytes(&batch.entries[at]);
            let position = self.index.find(&self.plan.source, name);
            let is_temp = options.strays.is_some_and(|rule| (rule.is_temp_name)(name));
            let entry = &mut batch.entries[at];
            let kind_unknown = entry.kind().is_none();
            let wanted = match position {
                Some(position) => {
                    let known = self.plan.source.entries[position].state == State::Known;
                    if names_only { kind_unknown } else { known }
                }
                None => is_temp || (may_delete && kind_unknown),
            };
            if wanted {
                entry.state = State::Wanted;
            }
            found.push(position);
        }
        let mut batch = stat_all(shard, &shard.dest, dir, batch, 0).await;
        if !names_only {
            if self.want_more(shard, dir.dev(), &mut batch, &found) {
                batch = stat_all(shard, &shard.dest, dir, batch, 0).await;
                self.ask_more_of_source(shard, &found).await;
            }
            if self.doubt_young(shard, dir.dev(), &batch, &found) {
                self.ask_more_of_source(shard, &found).await;
            }
        }
        for (at, (entry, position)) in batch.entries.iter().zip(found).enumerate() {
            self.report_failed_stat(shard, Side::Destination, &batch, entry);
            let changes = self.plan.changes();
            match position {
                Some(position) => self.match_entry(shard, dir.dev(), position, entry),
                None => self.plan_removal(shard, dir.dev(), &batch, entry, may_delete),
            }
            if let Some(listed) = &listed
                && self.plan.changes() == changes
            {
                self.expect_to_stay(position, batch.name_bytes(entry), &listed[at], entry);
            }
        }
        batch
    }

    /// Nothing is to be done about a name of the destination. `listed`: what its listing told; `now`: what is known of it.
    fn expect_to_stay(
        &mut self,
        position: Option<usize>,
        name: &[u8],
        listed: &Entry,
        now: &Entry,
    ) {
        let source = position.map(|position| &self.plan.source.entries[position]);
        // Those are in the plan.
        let is_dir = source.is_some_and(|source| source.kind() == Some(Kind::Dir));
        if let Some(expected) = self.plan.expected.get_mut()
            && !is_dir
        {
            expected.keep(name, listed, now);
        }
    }

    /// Marks the pairs, of an entry and a `found` position in the source, that cannot be decided about by what listings told.
    fn want_more(
        &mut self,
        shard: &Shard,
        dest_dev: u64,
        batch: &mut Listing,
        found: &[Option<usize>],
    ) -> bool {
        let policy = &shard.shared.options.policy;
        let mut any = false;
        for (dest, position) in batch.entries.iter_mut().zip(found) {
            let Some(position) = *position else { continue };
            let source = &mut self.plan.source.entries[position];
            if !source.is_unasked() && !dest.is_unasked() {
                continue;
            }
            let metas = (source.meta(self.plan.source_dev), dest.meta(dest_dev));
            let (Some(source_meta), Some(dest_meta)) = metas else {
                continue;
            };
            if needs_more(&source_meta, &dest_meta, policy) {
                any = true;
                source.ask_again_if_unasked();
                dest.ask_again_if_unasked();
            }
        }
        any
    }

    /// Marks files of the source whose contents seem equal, and that were changed so short ago that whoever did that may have done so
    /// again since a client last asked its server.
    fn doubt_young(
        &mut self,
        shard: &Shard,
        dest_dev: u64,
        batch: &Listing,
        found: &[Option<usize>],
    ) -> bool {
        let dir = self.dirs.source.as_ref();
        let Some(young_from) = dir.and_then(|dir| skip::young_from(shard, dir)) else {
            return false;
        };
        let policy = &shard.shared.options.policy;
        let mut any = false;
        for (dest, position) in batch.entries.iter().zip(found) {
            let Some(position) = *position else { continue };
            let source = &mut self.plan.source.entries[position];
            let metas = (source.meta(self.plan.source_dev), dest.meta(dest_dev));
            let (Some(source_meta), Some(dest_meta)) = metas else {
                continue;
            };
            // What a symlink leads to has been asked for by another name.
            let is_young = source_meta.kind == Kind::File
                && source_meta.ctime >= young_from
                && !source.followed;
            let trusts_it = |action| {
                use SkipReason::{DestinationNewer, Equal};
                matches!(
                    action,
                    Action::Skip(Equal | DestinationNewer) | Action::Repair(_)
                )
            };
            if is_young && trusts_it(decide(&source_meta, Some(&dest_meta), policy)) {
                any = true;
                source.state = State::Doubted;
            }
        }
        any
    }

    /// The same entries of the source; they lie together, where both sides are listed in one order.
    async fn ask_more_of_source(&mut self, shard: &Rc<Shard>, found: &[Option<usize>]) {
        let Some(dir) = self.dirs.source.clone() else {
            return;
        };
        let entries = &self.plan.source.entries;
        let wanted = |at: &usize| entries[*at].state.is_asked();
        let asked: Vec<usize> = found.iter().flatten().copied().filter(wanted).collect();
        let (Some(&first), Some(&last)) = (asked.iter().min(), asked.iter().max()) else {
            return;
        };
        let listing = std::mem::take(&mut self.plan.source);
        self.plan.source = stat_range(shard, &shard.source, &dir, listing, first..last + 1).await;
        for at in asked {
            let source = &self.plan.source;
            self.report_failed_stat(shard, Side::Source, source, &source.entries[at]);
        }
    }

    /// Source and destination have the name.
    fn match_entry(&mut self, shard: &Shard, dest_dev: u64, position: usize, entry: &Entry) {
        if std::mem::replace(&mut self.matched[position], true) {
            return;
        }
        let source = &self.plan.source;
        let name = source.name_bytes(&source.entries[position]);
        if self.is_backup_dir(shard, name) {
            return self.report_backup_dir(shard, name);
        }
        if shard.shared.options.mode == Mode::DeleteOnly {
            let source_kind = self.plan.source.entries[position].kind();
            if source_kind == Some(Kind::Dir) && entry.kind() == Some(Kind::Dir) {
                self.plan.dirs.push(Step {
                    entry: position,
                    action: Action::Skip(SkipReason::Equal),
                    dest: None,
                    backup_taken: false,
                });
            }
            return;
        }
        if let State::Failed(errno) = entry.state {
            if Errno::from_raw(i32::from(errno)) == Errno::ENOENT {
                // Gone since it was listed: as if it had not been.
                self.matched[position] = false;
            }
            return;
        }
        if let Some(dest) = entry.meta(dest_dev) {
            self.decide(shard, position, Some(&dest));
        }
    }

    /// Decides about what the destination lacks, and hands over the plan.
    pub(super) async fn finish(mut self, shard: &Rc<Shard>) -> Plan {
        self.report_missing(shard);
        self.confirm_removals(shard).await;
        match shard.shared.options.mode {
            Mode::Scan => {
                for at in 0..self.plan.source.len() {
                    if self.plan.source.entries[at].kind() == Some(Kind::Dir) {
                        self.push(shard, at, Action::Skip(SkipReason::Equal), None);
                    }
                }
            }
            Mode::Sync if self.is_unchanged => self.pass_over(shard),
            Mode::Sync if self.dest_complete => {
                for at in 0..self.plan.source.len() {
                    if !self.matched[at] {
                        self.decide(shard, at, None);
                    }
                }
            }
            // Without the whole destination listing nobody knows what is missing there.
            Mode::Sync | Mode::DeleteOnly => {}
        }
        self.remove_needless_partials();
        self.plan.expect_changes();
        // Contents lie on a disk in about the order of their inodes, and ext4 lists names in the order of their hashes.
        let entries = &self.plan.source.entries;
        let steps = &mut self.plan.steps;
        steps.sort_unstable_by_key(|step| entries[step.entry].ino);
        self.plan
    }

    /// Nothing is to be done here, and the subdirectories are to be visited.
    fn pass_over(&mut self, shard: &Shard) {
        let mut equal = 0;
        for at in 0..self.plan.source.len() {
            if self.matched[at] {
                continue;
            }
            if self.plan.source.entries[at].kind() == Some(Kind::Dir) {
                self.push(shard, at, Action::Skip(SkipReason::Equal), None);
            } else {
                equal += 1;
            }
        }
        shard.tally().entries_equal.add(equal);
    }

    /// Names of `--files-from` in a directory that was read as a whole.
    fn report_missing(&mut self, shard: &Shard) {
        let node = &self.dirs.node;
        let options = &shard.shared.options;
        let asked = options.selection.is_some() && options.mode == Mode::Sync;
        if !asked || !self.source_complete || !node.reach.is_whole() {
            return;
        }
        let (index, source, is_split) = (&self.index, &self.plan.source, self.plan.is_split);
        sift::report_missing(shard, node, &mut self.judge, |name| {
            let elsewhere = is_split && !shard.is_place_of(name);
            elsewhere || index.find(source, name).is_some()
        });
    }

    fn is_backup_dir(&self, shard: &Shard, name: &[u8]) -> bool {
        let rule = shard.shared.options.backups.as_ref();
        rule.is_some_and(|rule| rule.is_backup_dir(&self.dirs.node, name))
    }

    fn report_backup_dir(&self, shard: &Shard, name: &[u8]) {
        if shard.shared.options.mode == Mode::Sync {
            let path = crate::model::path::join(&self.dirs.node.path(), name);
            let cause = Cause::BackupDirectory;
            shard.report(
                &self.dirs.node,
                Error::new(OpKind::OpenDir, Side::Source, path, cause),
            );
        }
    }

    fn is_backup_taken(&self, shard: &Shard, name: &[u8]) -> bool {
        let rule = shard.shared.options.backups.as_ref();
        let backup_name = rule.and_then(|rule| rule.backup_name(name));
        backup_name.is_some_and(|name| self.index.find(&self.plan.source, &name).is_some())
    }

    fn decide(&mut self, shard: &Shard, at: usize, dest: Option<&Meta>) {
        if dest.is_none() && shard.shared.options.backups.is_some() {
            let name = self.plan.source.name_bytes(&self.plan.source.entries[at]);
            if self.is_backup_dir(shard, name) {
                return self.report_backup_dir(shard, name);
            }
        }
        if let Some(source) = self.plan.source.entries[at].meta(self.plan.source_dev) {
            let action = decide(&source, dest, &shard.shared.options.policy);
            let takes_tree =
                action == Action::Supplant && dest.is_some_and(|dest| dest.kind == Kind::Dir);
            if takes_tree && self.may_be_a_dir_too() {
                return self.dirs.node.fail();
            }
            self.push(shard, at, action, dest);
        }
    }

    /// Whether a name may be among what was refused: an object whose key is a directory of other keys too. That has been told.
    fn may_be_a_dir_too(&self) -> bool {
        self.has_refused || self.plan.is_split && !self.source_complete
    }

    fn push(&mut self, shard: &Shard, at: usize, action: Action, dest: Option<&Meta>) {
        let entry = &self.plan.source.entries[at];
        let name = self.plan.source.name_bytes(entry);
        let backup_taken = dest.is_some() && self.is_backup_taken(shard, name);
        let step = |dest: Option<&Meta>| Step {
            entry: at,
            action,
            dest: dest.copied().map(Box::new),
            backup_taken,
        };
        match (entry.kind(), action) {
            (kind, Action::Skip(reason)) if reason != SkipReason::Equal => {
                if kind == Some(Kind::Dir) {
                    // Who takes the directory for unchanged would expect it in the destination.
                    self.dirs.node.fail();
                }
                shard.tally().entries_skipped.add(1);
            }
            (Some(Kind::Dir), _) => self.plan.dirs.push(step(None)),
            (_, Action::Skip(_)) if !self.needs_a_look(shard, entry, dest) => {
                shard.tally().entries_equal.add(1);
            }
            _ => self.plan.steps.push(step(dest)),
        }
    }

    /// What statx calls equal may differ in extended attributes, or in which names belong together.
    fn needs_a_look(&self, shard: &Shard, source: &Entry, dest: Option<&Meta>) -> bool {
        let policy = &shard.shared.options.policy;
        let has_links = || {
            let source = source.meta(self.plan.source_dev);
            source.is_some_and(|meta| meta.nlink > 1) || dest.is_some_and(|meta| meta.nlink > 1)
        };
        !policy.extended.is_nothing() || (policy.carry_links && has_links())
    }

    /// A name of the destination that is gone since it was listed is no failure: it is as if it had not been.
    fn report_failed_stat(&self, shard: &Shard, side: Side, listing: &Listing, entry: &Entry) {
        let State::Failed(errno) = entry.state else {
            return;
        };
        let errno = Errno::from_raw(i32::from(errno));
        if (side, errno) != (Side::Destination, Errno::ENOENT) {
            let path = self.dirs.node.path_of(listing.name(entry));
            shard.report(
                &self.dirs.node,
                Error::errno(OpKind::Stat, side, path, errno),
            );
        }
    }

    fn report(&self, shard: &Shard, op: OpKind, side: Side, errno: Errno) {
        let path = self.dirs.node.path();
        shard.report(
            &self.dirs.node,
            Error::new(op, side, path, Cause::Errno(errno)),
        );
    }
}
