//! Looks over the shoulder of everyone who works in a simulated world, and notes what must never be done.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use nix::errno::Errno;
use ringsync::error::{OpKind, Side};
use ringsync::model::Kind;
use ringsync::transfer::temp::is_temp_name;

use super::{Inner, Plan, Rooted};

/// A failure that was given to the engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Injected {
    pub(crate) at: usize,
    pub(crate) side: Side,
    pub(crate) kind: OpKind,
    /// Relative to the side's root.
    pub(crate) path: String,
    pub(crate) errno: Errno,
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            at,
            side,
            kind,
            path,
            errno,
        } = self;
        write!(f, "{at}: {kind:?} of {side:?} {path:?} gave {errno:?}")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listed {
    Begun,
    Complete,
    Failed,
}

/// What happened in a world since its plan was set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watch {
    pub(crate) injected: Vec<Injected>,
    pub(crate) violations: Vec<String>,
    /// Source paths whose copies were installed although they are of no single moment: each must have been reported.
    pub(crate) torn: Vec<String>,
    pub(crate) changes_made: usize,
    pub(crate) repeated: usize,
    pub(crate) omitted: usize,
    /// Entries that the engine removed, by path.
    pub(crate) removed: Vec<String>,
    /// Everything that the source had when the watch began and nobody has changed since.
    pub(super) stable: BTreeMap<String, Kind>,
    /// By path, every content that a source file had at any moment.
    pub(super) whole: BTreeMap<String, Vec<Vec<u8>>>,
    pub(super) listed: BTreeMap<String, Listed>,
    pub(super) unstatted: BTreeSet<String>,
    pub(super) statted: BTreeSet<String>,
    /// What the destination had when the watch began and nobody else has taken away since.
    pub(super) had: BTreeSet<String>,
}

pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

pub(crate) fn basename(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

pub(crate) fn is_temp(path: &str) -> bool {
    is_temp_name(basename(path).as_bytes())
}

/// The path that a temporary file is to have in the end; other paths as they are.
pub(crate) fn final_path(path: &str) -> String {
    if !is_temp(path) {
        return path.to_owned();
    }
    let name = basename(path);
    let kept = &name[1..name.len() - ".rs-12345678".len()];
    super::join(parent(path), kept)
}

/// Whether `path` is `above` or below it.
pub(crate) fn is_within(path: &str, above: &str) -> bool {
    above.is_empty()
        || path
            .strip_prefix(above)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Watch {
    /// Whether the source had this path all the time, and all directories above it.
    pub(crate) fn is_stable(&self, path: &str) -> bool {
        self.stable.contains_key(path)
    }

    /// Whether the source has not told what it has there.
    fn is_unknown(&self, path: &str) -> bool {
        self.unstatted.contains(path) && !self.statted.contains(path)
    }

    pub(super) fn violation(&mut self, text: String) {
        self.violations.push(text);
    }

    /// Somebody else took away what had this path.
    pub(super) fn gone(&mut self, side: Side, path: &str) {
        match side {
            Side::Source => self.source_changed(path),
            Side::Destination => self.had.retain(|known| !is_within(known, path)),
        }
    }

    /// Somebody else changed the source under this path.
    pub(super) fn source_changed(&mut self, path: &str) {
        self.stable.retain(|known, _| !is_within(known, path));
    }
}

impl Inner {
    pub(super) fn begin_watch(&mut self) {
        let mut watch = Watch::default();
        for (path, inode) in self.all_below(Side::Source.root()) {
            let inode = &self.inodes[&inode];
            watch.stable.insert(path.clone(), inode.kind);
            if inode.kind == Kind::File {
                watch.whole.insert(path, vec![inode.data.clone()]);
            }
        }
        watch.had = self
            .all_below(Side::Destination.root())
            .into_keys()
            .collect();
        self.watch = watch;
    }

    /// The contents of the source's files are noted again after each change.
    pub(super) fn note_contents(&mut self) {
        for (path, inode) in self.all_below(Side::Source.root()) {
            let inode = &self.inodes[&inode];
            if inode.kind != Kind::File {
                continue;
            }
            let known = self.watch.whole.entry(path).or_default();
            if !known.contains(&inode.data) {
                known.push(inode.data.clone());
            }
        }
    }

    /// The engine is about to change something.
    pub(super) fn watch_change(&mut self, side: Side, kind: OpKind, path: &str) {
        if side == Side::Source {
            self.watch
                .violation(format!("the source was changed: {kind:?} {path}"));
        }
        let writes = matches!(
            kind,
            OpKind::Create | OpKind::Write | OpKind::Truncate | OpKind::CopyRange | OpKind::Clone
        );
        if writes && self.plan.atomic && !is_temp(path) {
            self.watch
                .violation(format!("{kind:?} under the final name {path}"));
        }
    }

    /// A file gets its final name.
    pub(super) fn watch_install(&mut self, inode: u64, to: &str) {
        let inode = &self.inodes[&inode];
        // A second name of something that has its final name was judged with the first one.
        if inode.kind != Kind::File || inode.nlink > 1 || is_temp(to) {
            return;
        }
        // A file whose directory was moved while it was open is known by its name only.
        let mut known = self.watch.whole.iter();
        let is_whole = known.any(|(path, contents)| {
            basename(path) == basename(to) && contents.contains(&inode.data)
        });
        if !is_whole {
            self.watch.torn.push(to.to_owned());
        }
    }

    /// The engine removes a name of the destination.
    pub(super) fn watch_removal(&mut self, path: &str, kind: Kind) {
        if is_temp(path) && kind != Kind::Dir {
            return;
        }
        self.watch.removed.push(path.to_owned());
        let complaint = self.complaint_about_removal(path, kind);
        if let Some(complaint) = complaint {
            self.watch
                .violation(format!("{path} ({kind:?}) was removed {complaint}"));
        }
    }

    fn complaint_about_removal(&self, path: &str, kind: Kind) -> Option<String> {
        let Plan {
            atomic,
            may_delete,
            may_supplant_trees,
            ..
        } = self.plan;
        if !self.watch.had.contains(path) {
            // Made in this run, and taken back.
            return None;
        }
        if let Some(of_source) = self.watch.stable.get(path) {
            if self.watch.is_unknown(path) {
                return Some(String::from("though its source could not be statted"));
            }
            let rewritten = !atomic && kind == Kind::File;
            return (*of_source == kind && !rewritten)
                .then(|| String::from("though the source has it"));
        }
        if self.watch.changes_made > 0 {
            return None;
        }
        let mut lacking = path;
        while !parent(lacking).is_empty()
            && self.watch.stable.get(parent(lacking)) != Some(&Kind::Dir)
        {
            lacking = parent(lacking);
        }
        if self.watch.is_unknown(lacking) {
            return Some(format!("though source {lacking} could not be statted"));
        }
        if self.watch.stable.contains_key(lacking) {
            return (!may_supplant_trees).then(|| format!("for the sake of {lacking}"));
        }
        if !may_delete {
            return Some(String::from("without --delete"));
        }
        let listing = self.watch.listed.get(parent(lacking));
        (listing != Some(&Listed::Complete))
            .then(|| format!("though the source listing is {listing:?}"))
    }
}
