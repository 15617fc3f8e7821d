//! The source's side of a directory: its names, without those that rules hide, with their metadata, in the index.

use std::rc::Rc;

use nix::errno::Errno;

use super::{ENOENT, Part, Read};
use crate::error::{Error, OpKind, Side};
use crate::model::filter::Extent;
use crate::model::{Entry, Kind, Listing, State, Symlinks, path};
use crate::shard::batch::{read_batch, report_refused, stat_all};
use crate::shard::{Mode, Shard, sift, symlinks};

impl Part {
    /// Lists the source up to its end or to `entries_max`. The entries have names only; see [`Part::index_source`].
    pub(in crate::shard) async fn read_source(
        &mut self,
        shard: &Rc<Shard>,
        entries_max: usize,
    ) -> Read {
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
                Ok((mut listing, more)) => {
                    let node = &self.dirs.node;
                    self.has_refused |= report_refused(shard, node, Side::Source, &mut listing);
                    self.plan.source = listing;
                    self.hold_lease();
                    if !more {
                        self.source_complete = !self.has_refused;
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
    pub(in crate::shard) fn take_source(&mut self) -> Listing {
        if let Some(in_hand) = &mut self.plan.in_hand {
            in_hand.lease.clear();
        }
        std::mem::take(&mut self.plan.source)
    }

    /// Adds names from another listing. `false` when not all of them found room.
    pub(in crate::shard) fn append_source(&mut self, names: &Listing) -> bool {
        let source = &mut self.plan.source;
        let mut entries = names.entries.iter();
        let all = entries.all(|entry| source.push_from(names, entry));
        self.hold_lease();
        all
    }

    /// Drops what rules hide of the source entries from position `from` on, gets the metadata of the others, counts them, and
    /// makes them findable.
    pub(in crate::shard) async fn index_source(&mut self, shard: &Rc<Shard>, from: usize) {
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
            } else if let Some(contents) = &mut self.contents {
                let entry = &self.plan.source.entries[at];
                let carry_links = shard.shared.options.policy.carry_links;
                contents.add(self.plan.source.name_bytes(entry), entry, carry_links);
            }
        }
    }

    pub(in crate::shard) fn source(&self) -> &Listing {
        &self.plan.source
    }

    /// How many names the index has, or is to have next.
    pub(in crate::shard) fn source_len(&self) -> usize {
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
                shard.report(
                    node,
                    Error::errno(OpKind::OpenDir, Side::Source, path, errno),
                );
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
                    sift::report_not_in_source(shard, &self.dirs.node, path);
                }
            } else {
                self.report_failed_stat(shard, Side::Source, &self.plan.source, entry);
            }
            match entry.kind() {
                Some(Kind::File) => {
                    files += 1;
                    if let Some(meta) = entry.meta(0) {
                        bytes += meta.size;
                        if shard.shared.options.mode != Mode::DeleteOnly {
                            tally.sizes.add(meta.size);
                        }
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
