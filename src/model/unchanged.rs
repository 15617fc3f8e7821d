//! Whether a directory may be taken for unchanged without a look at what its copy holds: the decision of `--incremental`.
//!
//! A [`Row`] says how a directory and its copy looked when they were equal. It is compared for equality and never with a
//! clock, so skewed clocks and trees that were moved here with old times mislead nobody. A clock is asked only about
//! whether to *write* a row: a change within the same tick of the clock would leave no trace.

use std::time::Duration;

use futures_util::future::BoxFuture;
use xxhash_rust::xxh3::{Xxh3, xxh3_64_with_seed, xxh3_128_with_seed};

use super::entry::{Kind, Meta, Time};
use super::listing::Entry;

/// A directory in the state: the hash of its parent's path in the high half, of its own in the low half. Siblings are
/// neighbours, so that those that vanished can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key(pub u128);

impl Key {
    /// No directory has children whose keys begin as this one does.
    pub const ROOT: Self = Self(u128::MAX << 64 | 1);

    /// The key of a subdirectory.
    #[must_use]
    pub fn child(self, name: &[u8]) -> Self {
        let own = xxh3_64_with_seed(name, self.own());
        Self(u128::from(self.own()) << 64 | u128::from(own))
    }

    /// The half that the keys of its subdirectories begin with.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // The half is wanted.
    pub fn own(self) -> u64 {
        self.0 as u64
    }
}

/// A directory and its copy, when they were last seen equal. Digests stand for what they looked like: only equality is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Inode, birth, mtime and ctime of the source directory.
    pub source: u64,
    /// Its entries: see [`Contents`].
    pub contents: u128,
    /// Inode, mtime and ctime of the destination directory; where those say nothing, all that a listing of it tells.
    pub dest: u64,
    /// The run that wrote this.
    pub run: u32,
}

/// What is known of a directory so far; each fact costs more than the one before.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub source: u64,
    /// Absent while it is not known.
    pub dest: Option<u64>,
    /// Absent while it is not known.
    pub contents: Option<u128>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Unchanged,
    /// What is known so far is as it was.
    Perhaps,
    Changed,
}

impl Row {
    /// Whether a directory is as this row says.
    #[must_use]
    pub fn judge(&self, now: &Now) -> Verdict {
        let dest = now.dest.map(|dest| dest == self.dest);
        let contents = now.contents.map(|contents| contents == self.contents);
        match (now.source == self.source, dest, contents) {
            (false, ..) | (_, Some(false), _) | (.., Some(false)) => Verdict::Changed,
            (true, Some(true), Some(true)) => Verdict::Unchanged,
            _ => Verdict::Perhaps,
        }
    }
}

/// How a source directory looks. A directory that was moved here or restored from a backup is another inode, or has another
/// ctime.
#[must_use]
pub fn source_digest(meta: &Meta) -> u64 {
    looks([meta.ino], [meta.btime, meta.mtime, meta.ctime]).digest()
}

/// How a destination directory looks: every change of its names moves its mtime.
#[must_use]
pub fn dest_digest(meta: &Meta) -> u64 {
    looks([meta.ino], [meta.mtime, meta.ctime]).digest()
}

/// What an inode looks like, by these of its attributes.
pub(super) fn looks<const NUMBERS: usize, const TIMES: usize>(
    numbers: [u64; NUMBERS],
    times: [Time; TIMES],
) -> Xxh3 {
    let mut hasher = Xxh3::new();
    for number in numbers {
        hasher.update(&number.to_le_bytes());
    }
    for time in times {
        hasher.update(&time.sec.to_le_bytes());
        hasher.update(&time.nsec.to_le_bytes());
    }
    hasher
}

/// The entries of a source directory, in any order: their digest, and what decides whether it may be relied upon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    sum: u128,
    /// Of the names alone.
    names: u64,
    /// The latest ctime among them.
    newest: Time,
    /// Something about an entry is not known, or is not all that there is to know.
    has_doubt: bool,
}

impl Contents {
    /// Adds an entry. Of a directory only what it is: what is in it, and how it looks, is its own row's to say.
    ///
    /// `carry_links`: names of one inode belong together, and those elsewhere are not seen from here.
    pub fn add(&mut self, name: &[u8], entry: &Entry, carry_links: bool) {
        let Some(meta) = entry.meta(0) else {
            self.has_doubt = true;
            return;
        };
        let is_dir = meta.kind == Kind::Dir;
        self.has_doubt |= !is_dir && !meta.tells_versions();
        self.has_doubt |= carry_links && !is_dir && meta.nlink > 1;
        let mut fields = [0; 9];
        fields[0] = u64::from(meta.kind.mode_bits() | meta.mode);
        fields[1] = meta.ino;
        fields[2] = u64::from(entry.followed);
        if is_dir {
            fields[0] = u64::from(meta.kind.mode_bits());
            fields[3] = meta.dev;
        } else {
            fields[3] = meta.rdev;
            fields[4] = meta.size;
            fields[5] = meta.mtime.sec.cast_unsigned();
            fields[6] = u64::from(meta.mtime.nsec);
            fields[7] = meta.ctime.sec.cast_unsigned();
            fields[8] = u64::from(meta.ctime.nsec);
            self.newest = self.newest.max(meta.ctime);
        }
        let mut bytes = [0; 9 * 8];
        for (to, field) in bytes.chunks_exact_mut(8).zip(fields) {
            to.copy_from_slice(&field.to_le_bytes());
        }
        let seed = name_digest(name);
        // Sums, so that the order does not matter, nor who adds what.
        self.names = self.names.wrapping_add(seed);
        self.sum = self.sum.wrapping_add(xxh3_128_with_seed(&bytes, seed));
    }

    /// Takes in the entries that another one has counted.
    pub fn merge(&mut self, other: &Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.names = self.names.wrapping_add(other.names);
        self.newest = self.newest.max(other.newest);
        self.has_doubt |= other.has_doubt;
    }

    /// The digest, unless there is doubt about an entry. `rules`: a digest of those that hold in the directory; under other
    /// rules, other entries take part.
    #[must_use]
    pub fn digest(&self, rules: u64) -> Option<u128> {
        let digest = self.sum.wrapping_add(u128::from(rules));
        (!self.has_doubt).then_some(digest)
    }

    /// The sum of [`name_digest`] over all names.
    #[must_use]
    pub fn names(&self) -> u64 {
        self.names
    }

    /// The latest ctime of the entries that are not directories; 1970 without any.
    #[must_use]
    pub fn newest(&self) -> Time {
        self.newest
    }
}

/// Stands for one name of a directory.
#[must_use]
pub fn name_digest(name: &[u8]) -> u64 {
    xxh3_64_with_seed(name, 0)
}

/// Whether a change made after the moment `clock` (by the clock of the filesystem) is sure to get a later ctime than
/// `newest`: the rule of git for entries as young as its index. Filesystems that count in seconds show it in their times.
#[must_use]
pub fn is_settled(newest: Time, clock: Time) -> bool {
    /// The kernel's clock for files moves with its timer, 100 to 1000 times a second.
    const TICK: Duration = Duration::from_millis(50);
    /// FAT counts by twos, others in seconds or hundredths.
    const TICK_COARSE: Duration = Duration::from_secs(2);
    const COARSE_NSEC: u32 = 10_000_000;
    let tick = if newest.nsec.is_multiple_of(COARSE_NSEC) {
        TICK_COARSE
    } else {
        TICK
    };
    newest.after(tick) < clock
}

/// What a directory was found to be in this run, until it is finished.
#[derive(Clone, Debug)]
pub struct Found {
    pub source: u64,
    /// Absent when it cannot be relied upon.
    pub contents: Option<u128>,
    /// As [`Contents::names`].
    pub names: u64,
    /// It was taken for unchanged; its row stays.
    pub is_unchanged: bool,
    /// The keys of its subdirectories, the low halves, sorted. Those with other keys have vanished.
    pub subdirs: Box<[u64]>,
}

/// What is told of a directory that is finished.
#[derive(Clone, Debug)]
pub struct Note {
    pub key: Key,
    /// Absent when nothing is to be relied upon; then an older row goes.
    pub row: Option<Row>,
    /// As in [`Found`]; absent when not all of them are known.
    pub subdirs: Option<Box<[u64]>>,
}

/// What earlier runs left about directories.
pub trait Rows: Send + Sync {
    /// The row of a directory, when it may be relied upon.
    fn row(&self, key: Key) -> Option<Row>;

    /// Takes a note, and may have the caller wait while there are too many.
    fn note(&self, note: Note) -> BoxFuture<'_, ()>;

    /// The number of this run.
    fn run(&self) -> u32;

    /// What this run has written may be lost, so nothing that it told of is to be relied upon.
    fn distrust(&self);
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::{Attrs, Listing, State};

    impl Contents {
        fn plain(&self) -> Option<u128> {
            self.digest(0)
        }
    }

    fn time(sec: i64, nsec: u32) -> Time {
        Time { sec, nsec }
    }

    pub(in crate::model) fn file() -> Meta {
        Meta {
            kind: Kind::File,
            mode: 0o644,
            uid: 0,
            gid: 0,
            nlink: 1,
            size: 7,
            mtime: time(100, 5),
            ctime: time(200, 6),
            btime: time(50, 0),
            atime: None,
            ino: 42,
            dev: 1,
            rdev: 0,
            has_holes: false,
            unknown: Attrs::NONE,
        }
    }

    fn contents(entries: &[(&std::ffi::CStr, Meta)]) -> Contents {
        let mut listing = Listing::default();
        let mut all = Contents::default();
        for (name, meta) in entries {
            listing.push(name, meta.ino, None);
            let at = listing.len() - 1;
            listing.entries[at].fill(meta);
            all.add(name.to_bytes(), &listing.entries[at], true);
        }
        all
    }

    #[test]
    fn all_three_must_be_equal_and_what_is_not_known_leaves_hope() {
        let row = Row {
            source: 1,
            contents: 2,
            dest: 3,
            run: 9,
        };
        let judge = |source, dest, contents| {
            row.judge(&Now {
                source,
                dest,
                contents,
            })
        };
        assert_eq!(judge(1, Some(3), Some(2)), Verdict::Unchanged);
        for (source, dest, contents) in [
            (9, Some(3), Some(2)),
            (1, Some(9), Some(2)),
            (1, Some(3), Some(9)),
            (9, None, None),
            (1, Some(9), None),
            (1, None, Some(9)),
        ] {
            assert_eq!(judge(source, dest, contents), Verdict::Changed);
        }
        assert_eq!(judge(1, None, None), Verdict::Perhaps);
        assert_eq!(judge(1, Some(3), None), Verdict::Perhaps);
        assert_eq!(judge(1, None, Some(2)), Verdict::Perhaps);
    }

    #[test]
    fn every_fact_of_a_file_counts_and_of_a_directory_only_what_it_is() {
        let base = contents(&[(c"a", file())]).plain();
        let changes: [fn(&mut Meta); 7] = [
            |meta| meta.mode = 0o600,
            |meta| meta.size += 1,
            |meta| meta.mtime.nsec += 1,
            |meta| meta.ctime.nsec += 1,
            |meta| meta.ctime.sec -= 1,
            |meta| meta.ino += 1,
            |meta| meta.kind = Kind::Symlink,
        ];
        for change in changes {
            let mut meta = file();
            change(&mut meta);
            assert_ne!(contents(&[(c"a", meta)]).plain(), base, "{meta:?}");
        }
        assert_ne!(contents(&[(c"b", file())]).plain(), base);
        let dir = Meta {
            kind: Kind::Dir,
            ..file()
        };
        let base = contents(&[(c"a", dir)]);
        assert_eq!(base.newest(), Time::default());
        let mut later = dir;
        (later.mtime.sec, later.ctime.sec, later.size, later.nlink) = (900, 900, 99, 9);
        assert_eq!(contents(&[(c"a", later)]), base);
        later.ino += 1;
        assert_ne!(contents(&[(c"a", later)]).plain(), base.plain());
    }

    #[test]
    fn order_and_partition_do_not_matter_and_rules_do() {
        let other = Meta { ino: 43, ..file() };
        let whole = contents(&[(c"a", file()), (c"b", other)]);
        assert_eq!(contents(&[(c"b", other), (c"a", file())]), whole);
        let mut parts = contents(&[(c"b", other)]);
        parts.merge(&contents(&[(c"a", file())]));
        assert_eq!(parts, whole);
        assert_ne!(contents(&[(c"b", file()), (c"a", other)]), whole, "swapped");
        assert_ne!(whole.digest(1), whole.digest(2));
    }

    #[test]
    fn what_is_not_known_and_names_of_one_inode_leave_doubt() {
        let linked = Meta { nlink: 2, ..file() };
        assert_eq!(contents(&[(c"a", linked)]).plain(), None);
        let mut listing = Listing::default();
        listing.push(c"a", 1, Some(Kind::File));
        for state in [State::Named, State::Failed(5), State::Ignored] {
            listing.entries[0].state = state;
            let mut all = Contents::default();
            all.add(b"a", &listing.entries[0], false);
            assert_eq!(all.plain(), None, "{state:?}");
        }
    }

    #[test]
    fn a_change_within_one_tick_is_possible_until_the_clock_has_moved_on() {
        let newest = time(100, 123_456_789);
        assert!(!is_settled(newest, newest));
        assert!(!is_settled(newest, time(100, 150_000_000)));
        assert!(is_settled(newest, time(100, 200_000_000)));
        assert!(!is_settled(time(100, 0), time(102, 0)), "whole seconds");
        assert!(is_settled(time(100, 0), time(102, 1)));
        assert!(!is_settled(time(900, 1), time(100, 0)), "a time to come");
    }

    #[test]
    fn keys_of_siblings_are_neighbours() {
        let dir = Key::ROOT.child(b"dir");
        let (a, b) = (dir.child(b"a"), dir.child(b"b"));
        assert_ne!(a, b);
        assert_eq!(a.0 >> 64, b.0 >> 64);
        assert_eq!(a.0 >> 64, u128::from(dir.own()));
        assert_ne!(
            Key::ROOT.child(b"a").child(b"b"),
            Key::ROOT.child(b"b").child(b"a")
        );
    }
}
