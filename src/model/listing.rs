//! The compact form of a directory's entries: fixed-size records, and their names in one arena.

use std::ffi::CStr;
use std::ops::Range;

use super::action::Attrs;
use super::entry::{Kind, Meta, Time};
use crate::error::Cause;

/// What is known of an entry so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The name, and the type where the filesystem reports `d_type`.
    Named,
    /// To be filled by the next statx batch.
    Wanted,
    /// The same, and whoever keeps the file is asked: what is remembered here may be outdated.
    Doubted,
    /// Everything in [`Meta`].
    Known,
    /// Left out, and whoever decided that has said why. Its copy stays.
    Ignored,
    /// statx failed with this errno (fits 16 bits: the kernel's MAX_ERRNO is 4095).
    Failed(u16),
}

impl State {
    /// Whether the next statx batch fills it.
    #[must_use]
    pub fn is_asked(self) -> bool {
        matches!(self, Self::Wanted | Self::Doubted)
    }
}

/// One entry of a [`Listing`], without its name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub ino: u64,
    size: u64,
    /// The device that a device node stands for; of a directory, the device it is on, which differs at a mount point.
    rdev: u64,
    mtime_sec: i64,
    ctime_ns: i64,
    mtime_nsec: u32,
    /// Type bits from `d_type` (0 when unknown) until the state is `Known`; then `st_mode`.
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    name_start: u32,
    name_len: u8,
    marks: u8,
    unknown: Attrs,
    /// A symlink of the source that is taken for what it leads to.
    pub followed: bool,
    pub state: State,
}

/// A mark of an entry: it has holes.
const HOLES: u8 = 1;
/// Another: its listing told what there is to know at first, and it is in place. See [`Entry::tell`].
const TOLD: u8 = 2;

/// The target of the design: entries of millions of files must fit in memory beside their names.
const _: () = assert!(size_of::<Entry>() <= 96);
/// What it really is; a change shows up here.
const _: () = assert!(size_of::<Entry>() == 72);

/// `NAME_MAX` of every Linux filesystem; `name_len` is a byte because of it.
pub const NAME_LEN_MAX: usize = 255;

impl Entry {
    /// Where the name is in the arena, with its NUL.
    pub(crate) fn name_range(&self) -> Range<usize> {
        let start = self.name_start as usize;
        start..start + usize::from(self.name_len) + 1
    }

    /// The kind, where it is known from `d_type` or statx.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_mode(self.mode)
    }

    /// What statx said; `None` before it was asked or when it failed. `dir_dev` is the device of the directory listed.
    #[must_use]
    pub fn meta(&self, dir_dev: u64) -> Option<Meta> {
        if self.state != State::Known {
            return None;
        }
        let kind = self.kind()?;
        let (dev, rdev) = if kind == Kind::Dir {
            (self.rdev, 0)
        } else {
            (dir_dev, self.rdev)
        };
        Some(Meta {
            kind,
            mode: self.mode & 0o7777,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size: self.size,
            mtime: Time {
                sec: self.mtime_sec,
                nsec: self.mtime_nsec,
            },
            ctime: Time::from_nanos(self.ctime_ns),
            btime: Time::default(),
            atime: None,
            ino: self.ino,
            dev,
            rdev,
            has_holes: self.marks & HOLES != 0,
            unknown: self.unknown,
        })
    }

    /// Takes over what statx said. A kind that `Meta` cannot express never gets here.
    #[inline]
    pub fn fill(&mut self, meta: &Meta) {
        self.ino = meta.ino;
        self.size = meta.size;
        self.rdev = if meta.kind == Kind::Dir {
            meta.dev
        } else {
            meta.rdev
        };
        self.mtime_sec = meta.mtime.sec;
        self.mtime_nsec = meta.mtime.nsec;
        self.ctime_ns = meta.ctime.as_nanos();
        self.mode = meta.kind.mode_bits() | meta.mode;
        self.uid = meta.uid;
        self.gid = meta.gid;
        self.nlink = meta.nlink;
        self.marks = HOLES * u8::from(meta.has_holes);
        self.unknown = meta.unknown;
        self.state = State::Known;
    }

    /// Takes over what a listing tells, for when the entry is asked for.
    pub fn tell(&mut self, meta: &Meta) {
        self.fill(meta);
        self.state = State::Named;
        self.marks |= TOLD;
    }

    /// Whether asking would tell more than its listing did.
    #[must_use]
    pub fn is_unasked(&self) -> bool {
        self.unknown.has(Attrs::UNASKED)
    }

    /// Has an entry be asked for what its listing did not tell.
    pub fn ask_again_if_unasked(&mut self) {
        if self.is_unasked() {
            self.state = State::Wanted;
        }
    }

    /// What the listing told becomes known, once. `false` when it told nothing, or when that has not been enough.
    pub fn take_told(&mut self) -> bool {
        let told = self.marks & TOLD != 0;
        self.marks &= !TOLD;
        if told {
            self.state = State::Known;
        }
        told
    }
}

/// Entries of one directory, or of a part of one.
#[derive(Debug, Default)]
pub struct Listing {
    /// Names, each with its terminating NUL, so that system calls can be pointed at them.
    pub(crate) names: Vec<u8>,
    pub entries: Vec<Entry>,
    /// What the directory has and no tree can hold, and why.
    pub refused: Vec<(Vec<u8>, Cause)>,
    /// Where getdents64 writes; kept here so that the allocation is used again.
    pub scratch: Vec<u8>,
}

impl Listing {
    /// Adds a name. Names over [`NAME_LEN_MAX`] bytes or an arena over 4 GiB do not occur on Linux
    /// filesystems; such an entry is refused with `false`.
    pub fn push(&mut self, name: &CStr, ino: u64, kind: Option<Kind>) -> bool {
        let bytes = name.to_bytes_with_nul();
        let Ok(name_len) = u8::try_from(bytes.len() - 1) else {
            return false;
        };
        let Ok(name_start) = u32::try_from(self.names.len()) else {
            return false;
        };
        self.names.extend_from_slice(bytes);
        self.entries.push(Entry {
            ino,
            size: 0,
            rdev: 0,
            mtime_sec: 0,
            ctime_ns: 0,
            mtime_nsec: 0,
            mode: kind.map_or(0, Kind::mode_bits),
            uid: 0,
            gid: 0,
            nlink: 0,
            name_start,
            name_len,
            marks: 0,
            unknown: Attrs::NONE,
            followed: false,
            state: State::Named,
        });
        true
    }

    /// Adds an entry of another listing, with what is known of it. Refused as in [`Listing::push`].
    pub fn push_from(&mut self, other: &Self, entry: &Entry) -> bool {
        if !self.push(other.name(entry), entry.ino, None) {
            return false;
        }
        if let Some(added) = self.entries.last_mut() {
            let name_start = added.name_start;
            *added = Entry {
                name_start,
                ..*entry
            };
        }
        true
    }

    /// The name of an entry of this listing.
    ///
    /// # Panics
    /// If `entry` belongs to another listing.
    #[must_use]
    pub fn name(&self, entry: &Entry) -> &CStr {
        match CStr::from_bytes_with_nul(&self.names[entry.name_range()]) {
            Ok(name) => name,
            Err(_) => unreachable!("names are stored with exactly one NUL, at their end"),
        }
    }

    /// The name without its NUL.
    #[must_use]
    pub fn name_bytes(&self, entry: &Entry) -> &[u8] {
        let start = entry.name_start as usize;
        &self.names[start..start + usize::from(entry.name_len)]
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Drops the entries from position `from` on that `stays` does not want, and returns how many. Their names stay in the
    /// arena until it is cleared.
    pub fn retain_from(
        &mut self,
        from: usize,
        mut stays: impl FnMut(&[u8], &Entry) -> bool,
    ) -> u64 {
        let before = self.entries.len();
        let mut kept = from;
        for at in from..before {
            let entry = self.entries[at];
            if stays(self.name_bytes(&entry), &entry) {
                self.entries[kept] = entry;
                kept += 1;
            }
        }
        self.entries.truncate(kept);
        (before - kept) as u64
    }

    /// Forgets the entries and keeps the allocations.
    pub fn clear(&mut self) {
        self.names.clear();
        self.entries.clear();
        self.refused.clear();
    }

    /// Bytes of heap this listing holds.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.names.capacity()
            + self.entries.capacity() * size_of::<Entry>()
            + self.scratch.capacity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_with_their_entries() {
        let mut listing = Listing::default();
        assert!(listing.push(c"one", 1, Some(Kind::File)));
        assert!(listing.push(c"", 2, None));
        assert!(listing.push(c"three", 3, Some(Kind::Dir)));
        let names: Vec<_> = listing.entries.iter().map(|e| listing.name(e)).collect();
        assert_eq!(names, [c"one", c"", c"three"]);
        assert_eq!(listing.name_bytes(&listing.entries[2]), b"three");
        assert_eq!(listing.entries[1].kind(), None);
        assert_eq!(listing.entries[2].kind(), Some(Kind::Dir));
        assert!(listing.entries[2].meta(1).is_none());
    }

    #[test]
    fn dropped_entries_leave_the_others_their_names() {
        let mut listing = Listing::default();
        for name in [c"a", c"b", c"c", c"d"] {
            listing.push(name, 0, None);
        }
        let dropped = listing.retain_from(1, |name, _| name == b"c");
        let names: Vec<_> = listing.entries.iter().map(|e| listing.name(e)).collect();
        assert_eq!((dropped, names), (2, vec![c"a", c"c"]));
    }

    #[test]
    fn overlong_names_are_refused() {
        let long = std::ffi::CString::new(vec![b'x'; NAME_LEN_MAX + 1]).unwrap();
        let mut listing = Listing::default();
        assert!(!listing.push(&long, 1, None));
        assert!(listing.is_empty());
    }
}
