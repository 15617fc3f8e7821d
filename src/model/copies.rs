//! The copies in a directory that has no times of its own, as in a bucket: by what a listing tells of them, and what it will
//! tell when a run has done its work. This is the destination's side of a [`Row`](super::unchanged::Row) there.
//!
//! All sums are over names, so the order of a listing does not matter, nor who adds what.

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::entry::{Kind, Meta, Time};
use super::listing::Entry;

/// What a listing tells of the names in a directory.
#[derive(Clone, Copy, Debug)]
pub struct Listed {
    since: Time,
    /// Files that were last changed before, as they look.
    older: u64,
    /// The others, as they look.
    newer: u64,
    /// Of those, names, sizes and versions alone.
    newer_versions: u64,
    dirs: u64,
    has_doubt: bool,
}

/// What a listing calls what was made, as its `ino`, until somebody makes another of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub u64);

impl Version {
    /// Of what has such an ETag: another object, or the same one with other contents, would have another. Nothing when it is empty.
    #[must_use]
    pub fn of_etag(etag: &str) -> Option<Self> {
        let etag = bare_etag(etag);
        (!etag.is_empty()).then(|| Self(xxh3_64(etag.as_bytes())))
    }
}

/// An ETag alone: not all servers quote it everywhere, and proxies call it weak.
#[must_use]
pub fn bare_etag(etag: &str) -> &str {
    etag.trim_start_matches("W/").trim_matches('"')
}

/// What a listing is to tell after a run, and what it told before of that.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    since: Time,
    /// Files that the run leaves as they are, as they look.
    kept: u64,
    /// Names, sizes and versions of those that it writes.
    written: u64,
    dirs: u64,
    /// So many are written or removed.
    changes: u64,
    has_doubt: bool,
}

impl Listed {
    /// `since` parts older files from newer ones.
    #[must_use]
    pub fn since(since: Time) -> Self {
        Self {
            since,
            older: 0,
            newer: 0,
            newer_versions: 0,
            dirs: 0,
            has_doubt: false,
        }
    }

    /// Adds a name. It has been told, and not yet taken for known.
    pub fn see(&mut self, name: &[u8], entry: &Entry) {
        match told(entry) {
            Some(meta) if meta.kind == Kind::Dir => add(&mut self.dirs, dir(name)),
            Some(meta) if meta.ctime < self.since => add(&mut self.older, file(name, &meta)),
            Some(meta) => {
                add(&mut self.newer, file(name, &meta));
                add(&mut self.newer_versions, version(name, meta.size, meta.ino));
            }
            None => self.has_doubt = true,
        }
    }

    /// Stands for all names as they look; nothing when a listing does not tell enough for that.
    #[must_use]
    pub fn digest(&self) -> Option<u64> {
        let files = self.older.wrapping_add(self.newer);
        (!self.has_doubt).then_some(files.wrapping_add(self.dirs))
    }
}

impl Expected {
    /// `now`: what the clock that gives the objects their times shows at least, before the directory is listed. A guess that is too
    /// early or too late leads to doubt.
    #[must_use]
    pub fn since(now: Time) -> Self {
        // Servers tell whole seconds.
        let since = Time { nsec: 0, ..now };
        Self {
            since,
            kept: 0,
            written: 0,
            dirs: 0,
            changes: 0,
            has_doubt: false,
        }
    }

    /// A name that stays as it is, as it was listed. `now`: as it looked when it was decided about.
    pub fn keep(&mut self, name: &[u8], listed: &Entry, now: &Entry) {
        match told(listed) {
            Some(meta) if meta.kind == Kind::Dir => self.dir(name),
            Some(meta) => {
                // Another version, which may go again.
                let is_other = |now: &Meta| file(name, now) != file(name, &meta);
                self.has_doubt |= now.meta(0).as_ref().is_some_and(is_other);
                self.keep_file(name, &meta);
            }
            None => self.has_doubt = true,
        }
    }

    fn keep_file(&mut self, name: &[u8], meta: &Meta) {
        // A change within the same second might look the same.
        self.has_doubt |= meta.ctime >= self.since || meta.ino == 0;
        add(&mut self.kept, file(name, meta));
    }

    /// So many files and symlinks are to be written, or go.
    pub fn change(&mut self, count: usize) {
        self.changes += count as u64;
    }

    /// One of those was written, with so many bytes.
    pub fn write(&mut self, name: &[u8], size: u64, made: Version) {
        add(&mut self.written, version(name, size, made.0));
    }

    /// One of those, after all, needs not be written: it is equal, and looks so.
    pub fn leave(&mut self, name: &[u8], meta: &Meta) {
        self.changes -= 1;
        self.keep_file(name, meta);
    }

    /// A directory that is there, or is made. Whether it has become so is seen when it is visited, or the next time.
    pub fn dir(&mut self, name: &[u8]) {
        add(&mut self.dirs, dir(name));
    }

    /// Takes in what another part of the directory expects.
    pub fn merge(&mut self, other: &Self) {
        self.since = self.since.min(other.since);
        add(&mut self.kept, other.kept);
        add(&mut self.written, other.written);
        add(&mut self.dirs, other.dirs);
        self.changes += other.changes;
        self.has_doubt |= other.has_doubt;
    }

    /// A listing to be filled after the run's work; nothing when that need not be looked at.
    #[must_use]
    pub fn to_confirm(&self) -> Option<Listed> {
        (self.changes > 0 && !self.has_doubt).then(|| Listed::since(self.since))
    }

    /// The digest of all names after the run; nothing when somebody else was at work there, as far as that shows. `again`:
    /// what was listed after the work, where that was called for.
    #[must_use]
    pub fn digest(&self, again: Option<&Listed>) -> Option<u64> {
        let files = match again {
            None if self.changes > 0 => return None,
            None => self.kept,
            Some(again) => {
                let as_expected = (again.older, again.newer_versions) == (self.kept, self.written);
                if again.has_doubt || !as_expected {
                    return None;
                }
                again.older.wrapping_add(again.newer)
            }
        };
        (!self.has_doubt).then_some(files.wrapping_add(self.dirs))
    }
}

fn add(sum: &mut u64, digest: u64) {
    *sum = sum.wrapping_add(digest);
}

/// What a listing told of an entry; nothing when that does not tell it from a changed one.
fn told(entry: &Entry) -> Option<Meta> {
    let mut entry = *entry;
    let meta = entry.take_told().then(|| entry.meta(0))??;
    (meta.kind == Kind::Dir || meta.tells_versions()).then_some(meta)
}

fn file(name: &[u8], meta: &Meta) -> u64 {
    // Some servers tell fractions of a second in listings, and not when asked.
    let sec = meta.ctime.sec.cast_unsigned();
    xxh3_64_with_seed(&sec.to_le_bytes(), version(name, meta.size, meta.ino))
}

fn version(name: &[u8], size: u64, ino: u64) -> u64 {
    let mut bytes = [0; 2 * 8];
    for (to, field) in bytes.chunks_exact_mut(8).zip([size, ino]) {
        to.copy_from_slice(&field.to_le_bytes());
    }
    xxh3_64_with_seed(&bytes, xxh3_64(name))
}

fn dir(name: &[u8]) -> u64 {
    xxh3_64_with_seed(b"/", xxh3_64(name))
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;
    use crate::model::unchanged::tests::file as meta;
    use crate::model::{Attrs, Listing};

    const START: Time = Time {
        sec: 1000,
        nsec: 999_999_999,
    };

    fn object(etag: u64, size: u64, modified: i64) -> Meta {
        let ctime = Time {
            sec: modified,
            nsec: 0,
        };
        Meta {
            ino: etag,
            size,
            ctime,
            unknown: Attrs::UNASKED,
            ..meta()
        }
    }

    fn listing(entries: &[(&CStr, Meta)]) -> Listing {
        let mut listing = Listing::default();
        for (name, meta) in entries {
            listing.push(name, meta.ino, Some(meta.kind));
            listing.entries.last_mut().unwrap().tell(meta);
        }
        listing
    }

    fn see(mut listed: Listed, entries: &[(&CStr, Meta)]) -> Listed {
        let listing = listing(entries);
        for entry in &listing.entries {
            listed.see(listing.name_bytes(entry), entry);
        }
        listed
    }

    fn keep(expected: &mut Expected, entries: &[(&CStr, Meta)]) {
        let listing = listing(entries);
        for entry in &listing.entries {
            expected.keep(listing.name_bytes(entry), entry, entry);
        }
    }

    fn later(entries: &[(&CStr, Meta)]) -> Option<u64> {
        see(Listed::since(Time::default()), entries).digest()
    }

    #[test]
    fn what_nobody_changes_looks_the_same_later() {
        let dir = Meta {
            kind: Kind::Dir,
            ..meta()
        };
        let all = [(c"a", object(1, 5, 900)), (c"d", dir)];
        let mut expected = Expected::since(START);
        keep(&mut expected, &all);
        assert!(expected.to_confirm().is_none());
        let digest = expected.digest(None);
        assert!(digest.is_some());
        assert_eq!(later(&all), digest);
        for changed in [object(2, 5, 900), object(1, 6, 900), object(1, 5, 901)] {
            assert_ne!(later(&[(c"a", changed), (c"d", dir)]), digest);
        }
        assert_ne!(later(&[(c"b", object(1, 5, 900)), (c"d", dir)]), digest);
        assert_ne!(later(&all[..1]), digest, "a directory is gone");
    }

    #[test]
    fn what_is_written_is_confirmed_by_another_listing() {
        let kept = (c"kept", object(1, 5, 900));
        let expected = || {
            let mut expected = Expected::since(START);
            keep(&mut expected, &[kept]);
            expected.change(2);
            expected.write(b"new", 7, Version(3));
            expected.dir(b"sub");
            expected
        };
        let confirm = |entries: &[(&CStr, Meta)]| {
            let again = see(expected().to_confirm().unwrap(), entries);
            expected().digest(Some(&again))
        };
        assert_eq!(expected().digest(None), None);
        // Directories may be on their way still.
        let new = (c"new", object(3, 7, 1000));
        let digest = confirm(&[kept, new]);
        assert!(digest.is_some());
        let sub = Meta {
            kind: Kind::Dir,
            ..meta()
        };
        assert_eq!(later(&[new, (c"sub", sub), kept]), digest);
        for (what, others) in [
            ("one is missing", vec![kept]),
            ("kept one changed", vec![(c"kept", object(1, 5, 1001)), new]),
            ("one more", vec![kept, new, (c"more", object(4, 1, 1001))]),
            (
                "an old one more",
                vec![kept, new, (c"more", object(4, 1, 9))],
            ),
            ("another size", vec![kept, (c"new", object(3, 8, 1000))]),
            ("another version", vec![kept, (c"new", object(4, 7, 1000))]),
            ("a clock behind", vec![kept, (c"new", object(3, 7, 999))]),
        ] {
            assert_eq!(confirm(&others), None, "{what}");
        }
    }

    #[test]
    fn what_was_replaced_between_its_listing_and_a_closer_look_is_doubted() {
        let (listed, asked) = (object(1, 5, 900), object(2, 5, 900));
        let (listed, mut asked) = (listing(&[(c"a", listed)]), listing(&[(c"a", asked)]));
        asked.entries[0].take_told();
        let mut expected = Expected::since(START);
        expected.keep(b"a", &listed.entries[0], &asked.entries[0]);
        assert_eq!(expected.digest(None), None);
    }

    #[test]
    fn what_is_too_young_or_has_no_version_is_doubted() {
        let mut expected = Expected::since(START);
        keep(&mut expected, &[(c"a", object(1, 5, 1000))]);
        assert_eq!(expected.digest(None), None, "changed in this second");
        let mut expected = Expected::since(START);
        keep(&mut expected, &[(c"a", object(0, 5, 900))]);
        assert_eq!(expected.digest(None), None, "no ETag");
        assert_eq!(later(&[(c"a", object(0, 5, 900))]), None);
        let mut doubtful = Expected::since(START);
        doubtful.merge(&expected);
        doubtful.change(1);
        assert!(doubtful.to_confirm().is_none());
    }

    #[test]
    fn parts_make_the_whole() {
        let (a, b) = ((c"a", object(1, 5, 900)), (c"b", object(2, 6, 901)));
        let (mut whole, mut one, mut other) = (
            Expected::since(START),
            Expected::since(START),
            Expected::since(START),
        );
        keep(&mut whole, &[a, b]);
        keep(&mut one, &[b]);
        keep(&mut other, &[a]);
        one.merge(&other);
        assert!(one.digest(None).is_some());
        assert_eq!(one.digest(None), whole.digest(None));
        for part in [&mut whole, &mut other] {
            part.change(1);
            part.write(b"new", 7, Version(3));
            part.dir(b"sub");
        }
        let mut again = Expected::since(Time {
            sec: START.sec + 60,
            ..START
        });
        keep(&mut again, &[b]);
        again.merge(&other);
        let listed = see(
            again.to_confirm().unwrap(),
            &[a, b, (c"new", object(3, 7, 1000))],
        );
        assert!(again.digest(Some(&listed)).is_some());
        assert_eq!(again.digest(Some(&listed)), whole.digest(Some(&listed)));
    }

    #[test]
    fn what_needs_not_be_written_after_all_is_kept() {
        let a = object(1, 5, 900);
        let mut kept = Expected::since(START);
        keep(&mut kept, &[(c"a", a)]);
        let mut left = Expected::since(START);
        left.change(1);
        left.leave(
            b"a",
            &Meta {
                unknown: Attrs::NONE,
                ..a
            },
        );
        assert!(left.to_confirm().is_none());
        assert_eq!(left.digest(None), kept.digest(None));
    }
}
