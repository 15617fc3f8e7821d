//! Counters of a run. Each shard has a block of its own; readers add them up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use crate::error::Class;

macro_rules! tally {
    ($($(#[doc = $doc:literal])* $name:ident,)+) => {
        /// The counters of one shard. Only that shard writes them, anybody may read them.
        #[derive(Debug, Default)]
        pub struct Tally {
            $($(#[doc = $doc])* pub $name: Counter,)+
            pub sizes: Sizes,
            pub levels: Levels,
        }

        /// The counters at one moment, added up over shards.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Totals {
            $($(#[doc = $doc])* pub $name: u64,)+
        }

        impl Totals {
            /// Each counter: its name, what it counts, its value.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, String, u64)> {
                let all = [$((stringify!($name), concat!($($doc),*), self.$name),)+];
                all.into_iter().map(|(name, doc, value)| {
                    let words = if doc.is_empty() { name.replace('_', " ") } else { doc.to_owned() };
                    (name, words.trim().trim_end_matches('.').to_owned(), value)
                })
            }

            /// The sum over all blocks.
            pub fn sum<'a>(tallies: impl IntoIterator<Item = &'a Tally>) -> Self {
                let mut totals = Self::default();
                for tally in tallies {
                    $(totals.$name += tally.$name.get();)+
                }
                totals
            }
        }
    };
}

tally! {
    /// Directories of the source that were listed.
    dirs_listed,
    /// Entries found in the source, directories included, the root not.
    entries_found,
    files_found,
    dirs_found,
    symlinks_found,
    specials_found,
    /// Bytes in regular files of the source.
    bytes_found,
    /// Entries that needed nothing.
    entries_equal,
    /// Directories whose copies were not listed, because an earlier run had found them equal (`--incremental`).
    dirs_unchanged,
    /// System calls on the destination that this saved.
    calls_saved,
    /// Entries left alone by a rule (`--update`, `--existing`, `--max-size`, excluded kinds).
    entries_skipped,
    /// Directories of the source that were met and not entered: they could not be opened, are on another filesystem, or lead
    /// in a circle.
    dirs_skipped,
    /// Entries of the source that a filter rule hides; nothing is known of what is below them.
    entries_excluded,
    files_copied,
    bytes_copied,
    /// Bytes that were cloned (reflink) instead of copied.
    bytes_cloned,
    /// Bytes of files that an interrupted run had copied already (`--partial`).
    bytes_resumed,
    dirs_made,
    /// Names that became hard links to another name of theirs.
    links_made,
    symlinks_made,
    specials_made,
    /// Entries whose metadata alone was repaired.
    entries_repaired,
    entries_deleted,
    /// Temporary files of an earlier run that were removed.
    strays_removed,
    /// Entries and directories that were tried again after a failure that might pass.
    retries,
    /// Entries that differ, in a dry run or check.
    entries_differing,
}

/// A counter with one writer, which is why it needs no atomic addition.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.store(self.get().wrapping_add(count), Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A number with one writer that goes up and down.
#[derive(Debug, Default)]
pub struct Level(AtomicU64);

impl Level {
    pub fn set(&self, level: u64) {
        self.0.store(level, Relaxed);
    }

    pub fn add(&self, count: u64) {
        self.set(self.get() + count);
    }

    pub fn sub(&self, count: u64) {
        debug_assert!(self.get() >= count);
        self.set(self.get().saturating_sub(count));
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// What is in hand on one shard now.
#[derive(Debug, Default)]
pub struct Levels {
    /// Directories that wait in its queue.
    pub dirs_queued: Level,
    /// Directories that it lists and compares.
    pub dirs_active: Level,
    /// Operations that are under way on its ring and its blocking pool.
    pub ops_in_flight: Level,
    /// Operations that its ring has completed.
    pub ring_completed: Counter,
    /// Their latencies, added up, in nanoseconds.
    pub ring_latency_ns: Counter,
    /// How often an operation had to wait because as many were in flight as may be.
    pub ring_full: Counter,
    /// Bytes in buffers for contents, those that are kept for reuse included.
    pub buffer_bytes: Level,
}

/// Regular files of the source by size: `2^(n-1) <= size < 2^n` bytes in place `n`, empty ones in place 0.
#[derive(Debug)]
pub struct Sizes([Counter; Sizes::PLACES]);

impl Sizes {
    pub const PLACES: usize = 65;

    pub fn add(&self, size: u64) {
        self.0[(u64::BITS - size.leading_zeros()) as usize].add(1);
    }

    /// Files in each place.
    #[must_use]
    pub fn read(&self) -> [u64; Self::PLACES] {
        std::array::from_fn(|at| self.0[at].get())
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

/// Errors by class, exact even when they come faster than they can be told. Any shard writes them, errors being rare.
#[derive(Debug, Default)]
pub struct ErrorTally {
    warnings: AtomicU64,
    vanished: AtomicU64,
    entry: AtomicU64,
    fatal: AtomicU64,
    pub unprinted: AtomicU64,
    /// Shards that wait for whoever reads the reports now.
    pub waiting: AtomicU64,
}

impl ErrorTally {
    #[must_use]
    pub fn of(&self, class: Class) -> &AtomicU64 {
        match class {
            Class::Warning => &self.warnings,
            Class::Vanished => &self.vanished,
            Class::Entry => &self.entry,
            Class::Fatal => &self.fatal,
        }
    }

    #[must_use]
    pub fn read(&self) -> ErrorCounts {
        ErrorCounts {
            warnings: self.warnings.load(Relaxed),
            vanished: self.vanished.load(Relaxed),
            entry: self.entry.load(Relaxed),
            fatal: self.fatal.load(Relaxed),
            unprinted: self.unprinted.load(Relaxed),
        }
    }
}

/// The errors of a run at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorCounts {
    /// Told, and no failure.
    pub warnings: u64,
    pub vanished: u64,
    pub entry: u64,
    pub fatal: u64,
    /// Errors that were counted and not printed, because they came faster than the terminal took them.
    pub unprinted: u64,
}

impl ErrorCounts {
    /// Entries that were not synced, whatever kept them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.vanished + self.entry + self.fatal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_go_where_their_highest_bit_says() {
        let sizes = Sizes::default();
        for size in [0, 1, 2, 3, 4, 7, 8, u64::MAX] {
            sizes.add(size);
        }
        let read = sizes.read();
        assert_eq!(read[..5], [1, 1, 2, 2, 1]);
        assert_eq!(read[64], 1);
    }
}
