//! What is to be done in one directory.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::time::Instant;

use crate::io::Links;
use crate::model::copies::{Expected, Version};
use crate::model::{Action, Entry, Kind, Listing, Meta, Time};
use crate::throttle::IndexLease;

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
    /// Whether one is the source's file of that name in part, which this run goes on with; nothing when none is.
    pub is_partial_of: Option<fn(&CStr, &CStr, &Meta) -> bool>,
}

impl StrayRule {
    /// Whether this run may go on with a temporary file of an entry of the source.
    pub(super) fn is_partial(&self, name: &CStr, entry: &CStr, source: &Meta) -> bool {
        self.is_partial_of.is_some_and(|is| is(name, entry, source))
    }

    pub(super) fn target(self, name: &[u8]) -> &[u8] {
        (self.target_of)(name)
    }

    /// Whether a run that is alive may be writing this. A time far ahead is not that of a write, but one that was set: the
    /// source's.
    pub(super) fn may_be_alive(&self, meta: &Meta) -> bool {
        let latest = self.before.sec.saturating_add(CLOCK_AHEAD_MAX_S);
        meta.kind != Kind::Dir && meta.mtime >= self.before && meta.mtime.sec <= latest
    }

    pub(super) fn covers(&self, meta: &Meta) -> bool {
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

/// What a directory holds while it is in hand.
#[derive(Debug)]
pub(super) struct InHand {
    /// Of the index: as much as there are entries in [`Plan::source`], or a little more while they are listed.
    pub(super) lease: IndexLease,
    /// When it began, in a run that is measured.
    pub(super) began: Option<Instant>,
}

/// Everything that is to be done in one directory.
#[derive(Debug, Default)]
pub struct Plan {
    /// Given back with the plan.
    pub(super) in_hand: Option<InHand>,
    pub source: Listing,
    /// The device of the source directory.
    pub source_dev: u64,
    /// Files, symlinks and specials with something to do.
    pub steps: Vec<Step>,
    /// All directories that are to be visited.
    pub dirs: Vec<Step>,
    pub removals: Vec<Removal>,
    /// Other shards have the other names of the directory.
    pub(super) is_split: bool,
    /// What a listing of the destination will tell, when somebody is to remember that.
    pub(super) expected: Cell<Option<Expected>>,
}

impl Plan {
    /// How much is to be done about names that are no directories in the source.
    pub(super) fn changes(&self) -> usize {
        self.steps.len() + self.removals.len()
    }

    /// The plan is made: what it does is expected.
    pub(super) fn expect_changes(&mut self) {
        let Some(expected) = self.expected.get_mut() else {
            return;
        };
        for step in &self.dirs {
            let name = self.source.name_bytes(&self.source.entries[step.entry]);
            expected.dir(name);
        }
        expected.change(self.steps.len() + self.removals.len());
    }

    /// A step has turned out to have nothing to do: the destination is as it should be.
    pub fn leave(&self, name: &CStr, dest: &Meta) {
        if let Some(mut expected) = self.expected.get() {
            expected.leave(name.to_bytes(), dest);
            self.expected.set(Some(expected));
        }
    }

    /// A step has made a file or symlink of so many bytes, or given it other attributes.
    pub fn made(&self, name: &CStr, size: u64, version: Option<Version>) {
        if let Some(mut expected) = self.expected.get()
            && let Some(version) = version
        {
            expected.write(name.to_bytes(), size, version);
            self.expected.set(Some(expected));
        }
    }

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
