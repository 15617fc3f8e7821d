//! One directory, or one shard's part of a split one: its source entries in an index, its destination entries matched
//! against them batch by batch, and the plan that comes out.

use std::ffi::CString;
use std::rc::Rc;

use nix::errno::Errno;

use super::index::NameIndex;
use super::{Dirs, Mode, Shard, sift, symlinks};
use crate::error::{Cause, Error, OpKind, Side};
use crate::io::{Fs, Handle, Links, Op, Outcome, Reply, Target};
use crate::model::filter::{Extent, Judge};
use crate::model::{
    Action, Entry, Kind, Listing, Meta, SkipReason, State, Symlinks, Time, decide, path,
};

/// Entries of one statx batch; between batches other tasks of the shard get their turn.
const STAT_BATCH: usize = 256;

/// As a listing keeps it.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // It is 2.
const ENOENT: u16 = Errno::ENOENT as u16;

/// How far the clock of a file server may be ahead of ours, in seconds.
const CLOCK_AHEAD_MAX_S: i64 = 24 * 60 * 60;

/// Temporary files that may be removed as left over: ours by name, not a directory, and not written since this run began.
/// Mode, owner and links say nothing: a killed run may have set those of the source already, and a hard link on its way
/// to its final name has the data of the names that stay.
#[derive(Clone, Copy, Debug)]
pub struct StrayRule {
    /// Whether a name is one that ringsync gives to temporary files.
    pub is_temp_name: fn(&[u8]) -> bool,
    pub before: Time,
    /// The name that a temporary file would have got.
    pub target_of: fn(&[u8]) -> &[u8],
}

impl StrayRule {
    fn target(self, name: &[u8]) -> &[u8] {
        (self.target_of)(name)
    }

    /// Whether a run that is alive may be writing this. A time far ahead is not that of a write, but one that was set: the
    /// source's.
    fn may_be_alive(&self, meta: &Meta) -> bool {
        let latest = self.before.sec.saturating_add(CLOCK_AHEAD_MAX_S);
        meta.kind != Kind::Dir && meta.mtime >= self.before && meta.mtime.sec <= latest
    }

    fn covers(&self, meta: &Meta) -> bool {
        meta.kind != Kind::Dir && !self.may_be_alive(meta)
    }
}

/// What is to be done about one source entry.
#[derive(Debug)]
pub struct Step {
    /// Its position in [`Plan::source`].
    pub entry: usize,
    pub action: Action,
    pub dest: Option<Box<Meta>>,
    /// The name that a backup of it would get is one of the source's.
    pub backup_taken: bool,
}

/// A name that is to go.
#[derive(Debug)]
pub struct Removal {
    pub name: CString,
    pub kind: Kind,
    /// A temporary file of an earlier run, not an entry of the user's.
    pub stray: bool,
    /// As in [`Step`].
    pub backup_taken: bool,
}

/// Everything that is to be done in one directory.
#[derive(Debug, Default)]
pub struct Plan {
    pub source: Listing,
    /// The device of the source directory.
    pub source_dev: u64,
    /// Files, symlinks and specials with something to do.
    pub steps: Vec<Step>,
    /// All directories that are to be visited.
    pub dirs: Vec<Step>,
    pub removals: Vec<Removal>,
}

impl Plan {
    #[must_use]
    pub fn entry(&self, step: &Step) -> &Entry {
        &self.source.entries[step.entry]
    }

    /// Whether the source's name is a symlink that is taken for what it leads to.
    #[must_use]
    pub fn links(&self, step: &Step) -> Links {
        if self.entry(step).followed {
            Links::Follow
        } else {
            Links::Refuse
        }
    }

    /// What the source says of a step's entry.
    #[must_use]
    pub fn meta(&self, step: &Step) -> Meta {
        match self.entry(step).meta(self.source_dev) {
            Some(meta) => meta,
            None => unreachable!("only entries with known metadata get into a plan"),
        }
    }
}

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
    pub(super) dest_complete: bool,
    /// Other shards have the other names of the directory.
    pub(super) is_split: bool,
}

/// How far a listing got.
pub(super) enum Read {
    Complete,
    Failed,
    /// More entries than one shard should hold.
    Giant,
}

impl Part {
    pub(super) fn new(shard: &Shard, dirs: Dirs) -> Self {
        let judge = sift::judge(shard, &dirs.node);
        Self {
            plan: Plan {
                source: shard.take_listing(),
                source_dev: dirs.source.as_ref().map_or(0, Handle::dev),
                ..Plan::default()
            },
            dirs,
            index: NameIndex::new(shard.shared.hasher.clone()),
            judge,
            matched: Vec::new(),
            source_complete: false,
            dest_complete: false,
            is_split: false,
        }
    }

    /// Lists the source up to its end or to `entries_max`. The entries have names only; see [`Part::index_source`].
    pub(super) async fn read_source(&mut self, shard: &Rc<Shard>, entries_max: usize) -> Read {
        let Some(dir) = self.dirs.source.clone() else {
            return Read::Failed;
        };
        match self.dirs.node.reach.extent {
            Extent::Tree | Extent::Contents => {}
            Extent::Listed => {
                let listing = std::mem::take(&mut self.plan.source);
                self.plan.source = sift::listed_names(shard, &self.dirs.node, listing);
                self.source_complete = true;
                return Read::Complete;
            }
            Extent::Itself => return Read::Complete,
        }
        loop {
            if shard.cancelled() {
                return Read::Failed;
            }
            let listing = std::mem::take(&mut self.plan.source);
            match read_batch(&shard.source, &dir, listing).await {
                Ok((listing, more)) => {
                    self.plan.source = listing;
                    if !more {
                        self.source_complete = true;
                        return Read::Complete;
                    }
                    if self.plan.source.len() > entries_max {
                        return Read::Giant;
                    }
                }
                Err(errno) => {
                    self.report(shard, OpKind::ReadDir, Side::Source, errno);
                    return Read::Failed;
                }
            }
        }
    }

    /// The names read so far, to be split over shards.
    pub(super) fn take_source(&mut self) -> Listing {
        std::mem::take(&mut self.plan.source)
    }

    /// Adds names from another listing.
    pub(super) fn append_source(&mut self, names: &Listing) {
        for entry in &names.entries {
            self.plan
                .source
                .push(names.name(entry), entry.ino, entry.kind());
        }
    }

    /// Drops what rules hide of the source entries from position `from` on, gets the metadata of the others, counts them, and
    /// makes them findable.
    pub(super) async fn index_source(&mut self, shard: &Rc<Shard>, from: usize) {
        let Some(dir) = self.dirs.source.clone() else {
            return;
        };
        if self.judge.is_some() {
            self.drop_hidden(shard, from);
        }
        let names_only = shard.shared.options.mode == Mode::DeleteOnly;
        let mut kinds_unknown = false;
        for entry in &mut self.plan.source.entries[from..] {
            kinds_unknown |= kind_for_rules(shard, entry).is_none();
            if !(names_only && entry.kind().is_some()) {
                entry.state = State::Wanted;
            }
        }
        let listing = std::mem::take(&mut self.plan.source);
        self.plan.source = stat_all(shard, &shard.source, &dir, listing, from).await;
        symlinks::resolve(shard, &self.dirs.node, &dir, &mut self.plan.source, from).await;
        if self.judge.is_some() && kinds_unknown {
            // Now they are known, and with them whether rules for directories apply.
            self.drop_hidden(shard, from);
        }
        if self.dirs.node.reach.extent == Extent::Listed {
            self.drop_detours(shard, from);
        }
        self.count(shard, from);
        if shard.shared.options.mode == Mode::Scan {
            return;
        }
        self.matched.resize(self.plan.source.len(), false);
        self.index
            .reserve(&self.plan.source, self.plan.source.len() - from);
        for at in from..self.plan.source.len() {
            if !self.index.insert(&self.plan.source, at) {
                // Listed twice: the first one stands for both.
                self.matched[at] = true;
            }
        }
    }

    /// How many names the index has, or is to have next.
    pub(super) fn source_len(&self) -> usize {
        self.plan.source.len()
    }

    fn drop_hidden(&mut self, shard: &Shard, from: usize) {
        let Some(judge) = &mut self.judge else { return };
        let reach = self.dirs.node.reach;
        let selection = shard.shared.options.selection.as_deref();
        // As in rsync, no rule hides the directories that lead to what is listed.
        let leads_on = |name: &[u8]| {
            let mention = selection.and_then(|list| list.mention(reach, name));
            mention.is_some_and(|mention| mention.leads_on)
        };
        let hidden = self.plan.source.retain_from(from, |name, entry| {
            judge.hides(name, kind_for_rules(shard, entry)) != Some(true) || leads_on(name)
        });
        if shard.shared.options.mode != Mode::DeleteOnly {
            shard.tally().entries_excluded.add(hidden);
        }
    }

    /// Drops what is listed only as a directory on the way to something else, and is none.
    fn drop_detours(&mut self, shard: &Shard, from: usize) {
        let node = &self.dirs.node;
        let Some(selection) = &shard.shared.options.selection else {
            return;
        };
        self.plan.source.retain_from(from, |name, entry| {
            let Some(mention) = selection.mention(node.reach, name) else {
                return true;
            };
            let is_detour = mention.leads_on && entry.kind().is_some_and(|kind| kind != Kind::Dir);
            if is_detour && shard.shared.options.mode != Mode::DeleteOnly {
                let path = path::join(&node.path(), name);
                let errno = Errno::ENOTDIR;
                shard.report(Error::errno(OpKind::OpenDir, Side::Source, path, errno));
            }
            mention.is_taken || !is_detour
        });
    }

    fn count(&self, shard: &Shard, from: usize) {
        let tally = shard.tally();
        let (mut files, mut dirs, mut symlinks, mut specials, mut bytes) = (0, 0, 0, 0, 0);
        let mut file_size_max = 0;
        for entry in &self.plan.source.entries[from..] {
            let is_asked_for = self.dirs.node.reach.extent == Extent::Listed;
            if is_asked_for && entry.state == State::Failed(ENOENT) {
                if shard.shared.options.mode != Mode::DeleteOnly {
                    let path = self.dirs.node.path_of(self.plan.source.name(entry));
                    sift::report_not_in_source(shard, path);
                }
            } else {
                self.report_failed_stat(shard, Side::Source, &self.plan.source, entry);
            }
            match entry.kind() {
                Some(Kind::File) => {
                    files += 1;
                    if let Some(meta) = entry.meta(0) {
                        bytes += meta.size;
                        file_size_max = meta.size.max(file_size_max);
                    }
                }
                Some(Kind::Dir) => dirs += 1,
                Some(Kind::Symlink) => symlinks += 1,
                Some(_) => specials += 1,
                None => {}
            }
        }
        if shard.shared.options.mode == Mode::DeleteOnly {
            return;
        }
        tally
            .entries_found
            .add((self.plan.source.len() - from) as u64);
        tally.files_found.add(files);
        tally.dirs_found.add(dirs);
        tally.symlinks_found.add(symlinks);
        tally.specials_found.add(specials);
        tally.bytes_found.add(bytes);
        shard.note_file_size(file_size_max);
        if self.plan.source.len() > from {
            shard.note_depth(self.dirs.node.depth() + 1);
        }
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
                Ok((listing, more)) => {
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
        let may_delete = options.delete && self.source_complete && self.dirs.node.reach.is_whole();
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
        let batch = stat_all(shard, &shard.dest, dir, batch, 0).await;
        for (entry, position) in batch.entries.iter().zip(found) {
            self.report_failed_stat(shard, Side::Destination, &batch, entry);
            match position {
                Some(position) => self.match_entry(shard, dir.dev(), position, entry),
                None => self.plan_removal(shard, dir.dev(), &batch, entry, may_delete),
            }
        }
        batch
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

    /// Only the destination has the name.
    fn plan_removal(
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
            && rule
                .zip(meta)
                .is_some_and(|(rule, meta)| rule.covers(&meta));
        // A temporary file that is being written belongs to a run that is alive.
        let alive = is_temp
            && rule
                .zip(meta)
                .is_some_and(|(rule, meta)| rule.may_be_alive(&meta));
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
            self.plan.removals.push(Removal {
                name: name.to_owned(),
                kind,
                stray,
                backup_taken: self.is_backup_taken(shard, name.to_bytes()),
            });
        }
    }

    /// Deletes nothing where the source may have what its listing did not show: because its names changed meanwhile, or
    /// because the filesystem left some out (as network filesystems may, when a directory changes).
    async fn confirm_removals(&mut self, shard: &Rc<Shard>) {
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
        let target = Target::Open(dir);
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
        if is_shown || has_moved {
            let (path, cause) = (self.dirs.node.path(), Cause::ListingMoved);
            shard.report(Error::new(OpKind::ReadDir, Side::Source, path, cause));
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
        self.plan
    }

    /// Names of `--files-from` in a directory that was read as a whole.
    fn report_missing(&mut self, shard: &Shard) {
        let node = &self.dirs.node;
        let options = &shard.shared.options;
        let asked = options.selection.is_some() && options.mode == Mode::Sync;
        if !asked || !self.source_complete || !node.reach.is_whole() {
            return;
        }
        let (index, source, is_split) = (&self.index, &self.plan.source, self.is_split);
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
            shard.report(Error::new(OpKind::OpenDir, Side::Source, path, cause));
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
            self.push(shard, at, action, dest);
        }
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
            (_, Action::Skip(reason)) if reason != SkipReason::Equal => {
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
            shard.report(Error::errno(OpKind::Stat, side, path, errno));
        }
    }

    fn report(&self, shard: &Shard, op: OpKind, side: Side, errno: Errno) {
        let path = self.dirs.node.path();
        shard.report(Error::new(op, side, path, Cause::Errno(errno)));
    }
}

/// The kind that rules see, when it is known: of a symlink that is followed, that of what it leads to.
fn kind_for_rules(shard: &Shard, entry: &Entry) -> Option<Kind> {
    let symlinks = shard.shared.options.symlinks;
    let may_follow = matches!(symlinks, Symlinks::Follow | Symlinks::FollowUnsafe);
    let is_resolved = entry.state != State::Named;
    entry
        .kind()
        .filter(|kind| *kind != Kind::Symlink || !may_follow || is_resolved)
}

/// Appends what one call lists.
pub(super) async fn read_batch(
    fs: &Rc<dyn Fs>,
    dir: &Handle,
    listing: Listing,
) -> Result<(Listing, bool), Errno> {
    let dir = dir.clone();
    match fs.start(Op::ReadDir { dir, listing }).await {
        Ok(Reply::Listed { listing, more }) => Ok((listing, more)),
        other => Err(unexpected(other)),
    }
}

/// statx for all `Wanted` entries from position `from` on. Failures are in the entries. In a run that ends, the rest stays
/// `Wanted`: nothing is decided about those.
pub(super) async fn stat_all(
    shard: &Shard,
    fs: &Rc<dyn Fs>,
    dir: &Handle,
    mut listing: Listing,
    from: usize,
) -> Listing {
    let mut start = from;
    while start < listing.len() && !shard.cancelled() {
        let end = listing.len().min(start + STAT_BATCH);
        let (dir, range) = (dir.clone(), start..end);
        let op = Op::StatMany {
            dir,
            listing,
            range,
        };
        listing = match fs.start(op).await {
            Ok(Reply::Listed { listing, .. }) => listing,
            other => unreachable!("statx failures are in the entries, not {other:?}"),
        };
        start = end;
        glommio::executor().yield_if_needed().await;
    }
    listing
}

fn unexpected(outcome: Outcome) -> Errno {
    match outcome {
        Err(error) => error.errno,
        Ok(reply) => unreachable!("a listing does not reply {reply:?}"),
    }
}
