//! Counters of a run. Each shard has a block of its own; readers add them up.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// The counters of one shard. Only that shard writes them, anybody may read them.
        #[derive(Debug, Default)]
        pub struct Tally {
            $($(#[$doc])* pub $name: Counter,)+
        }

        /// The counters at one moment, added up over shards.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Totals {
            $($(#[$doc])* pub $name: u64,)+
        }

        impl Totals {
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
    /// Entries left alone by a rule (`--update`, `--existing`, `--max-size`, excluded kinds).
    entries_skipped,
    /// Entries of the source that a filter rule hides; nothing is known of what is below them.
    entries_excluded,
    files_copied,
    bytes_copied,
    /// Bytes that were cloned (reflink) instead of copied.
    bytes_cloned,
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
    /// Entries that differ, in a dry run or check.
    entries_differing,
}

/// A counter with one writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}
