//! One directory entry as both sides see it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::action::Attrs;

/// The type of an inode, from `d_type` or `st_mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    BlockDevice,
    CharDevice,
}

/// `S_IFMT` and its values, as in `<sys/stat.h>`: fixed by the kernel's ABI.
const S_IFMT: u32 = 0o170_000;
const S_IFSOCK: u32 = 0o140_000;
const S_IFLNK: u32 = 0o120_000;
const S_IFREG: u32 = 0o100_000;
const S_IFBLK: u32 = 0o060_000;
const S_IFDIR: u32 = 0o040_000;
const S_IFCHR: u32 = 0o020_000;
const S_IFIFO: u32 = 0o010_000;

impl Kind {
    /// The kind in the type bits of `st_mode`; `None` for a type that Linux does not have.
    #[inline]
    #[must_use]
    pub fn from_mode(mode: u32) -> Option<Self> {
        match mode & S_IFMT {
            S_IFREG => Some(Self::File),
            S_IFDIR => Some(Self::Dir),
            S_IFLNK => Some(Self::Symlink),
            S_IFIFO => Some(Self::Fifo),
            S_IFSOCK => Some(Self::Socket),
            S_IFBLK => Some(Self::BlockDevice),
            S_IFCHR => Some(Self::CharDevice),
            _ => None,
        }
    }

    /// The type bits of `st_mode` for this kind.
    #[inline]
    #[must_use]
    pub fn mode_bits(self) -> u32 {
        match self {
            Self::File => S_IFREG,
            Self::Dir => S_IFDIR,
            Self::Symlink => S_IFLNK,
            Self::Fifo => S_IFIFO,
            Self::Socket => S_IFSOCK,
            Self::BlockDevice => S_IFBLK,
            Self::CharDevice => S_IFCHR,
        }
    }

    #[must_use]
    pub fn is_device(self) -> bool {
        matches!(self, Self::BlockDevice | Self::CharDevice)
    }

    /// Fifos and sockets: what `--specials` speaks of.
    #[must_use]
    pub fn is_special(self) -> bool {
        matches!(self, Self::Fifo | Self::Socket)
    }

    /// The noun of messages and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Dir => "directory",
            Self::Symlink => "symlink",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::BlockDevice => "block device",
            Self::CharDevice => "character device",
        }
    }
}

/// A timestamp as the kernel keeps it: seconds since 1970 (negative before), and nanoseconds in `0..1_000_000_000`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    pub sec: i64,
    pub nsec: u32,
}

impl From<SystemTime> for Time {
    /// A time before 1970 is taken for 1970: only clocks that are not set show one.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nsec: since.subsec_nanos(),
        }
    }
}

impl Time {
    /// Nanoseconds since 1970, as far as 64 bits go: the years 1678 to 2262.
    #[must_use]
    pub fn as_nanos(self) -> i64 {
        let nanos = self.sec.saturating_mul(1_000_000_000);
        nanos.saturating_add(i64::from(self.nsec))
    }

    /// So much later.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        let nsec = self.nsec + wait.subsec_nanos();
        let wait = i64::try_from(wait.as_secs()).unwrap_or(i64::MAX);
        Self {
            sec: self
                .sec
                .saturating_add(wait)
                .saturating_add(i64::from(nsec / 1_000_000_000)),
            nsec: nsec % 1_000_000_000,
        }
    }

    /// The opposite of [`Time::as_nanos`].
    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A remainder is below 10^9, and not negative.
    pub fn from_nanos(nanos: i64) -> Self {
        Self {
            sec: nanos.div_euclid(1_000_000_000),
            nsec: nanos.rem_euclid(1_000_000_000) as u32,
        }
    }
}

/// What `statx` says of an inode, as far as a sync needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky: `0..=0o7777`.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    /// Bytes; for a symlink the length of its target.
    pub size: u64,
    pub mtime: Time,
    /// When the inode last changed: nobody can set it.
    pub ctime: Time,
    /// When the inode was made; 1970 where the filesystem does not tell. Listings do not keep it.
    pub btime: Time,
    /// The last access; nothing in listings, and where that is not at hand.
    pub atime: Option<Time>,
    pub ino: u64,
    /// The device of the filesystem that holds the inode (`makedev` form).
    pub dev: u64,
    /// For device nodes, the device they stand for (`makedev` form); else 0.
    pub rdev: u64,
    /// A file with less space allocated than its size: it may have holes.
    pub has_holes: bool,
    /// Which of mode, owner, group and times nobody knows; what is here in their place is made up. Empty but for objects.
    pub unknown: Attrs,
}

impl Meta {
    #[must_use]
    pub fn ids(&self) -> super::Ids {
        super::Ids {
            uid: self.uid,
            gid: self.gid,
        }
    }

    /// Whether another version of the file has another `ino` here: objects without an ETag have none.
    #[must_use]
    pub fn tells_versions(&self) -> bool {
        self.unknown.is_empty() || self.ino != 0
    }

    /// Device and inode: the same for every name of one inode, and on every mount of one filesystem.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        (self.dev, self.ino)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_survive_the_way_through_mode_bits() {
        for kind in [
            Kind::File,
            Kind::Dir,
            Kind::Symlink,
            Kind::Fifo,
            Kind::Socket,
            Kind::BlockDevice,
            Kind::CharDevice,
        ] {
            assert_eq!(Kind::from_mode(kind.mode_bits() | 0o4755), Some(kind));
        }
        assert_eq!(Kind::from_mode(0), None);
    }

    #[test]
    fn times_survive_the_way_through_nanoseconds() {
        for (sec, nsec) in [(0, 0), (-1, 999_999_999), (1_700_000_000, 1), (-5, 0)] {
            let time = Time { sec, nsec };
            assert_eq!(Time::from_nanos(time.as_nanos()), time);
        }
        let far = Time {
            sec: i64::MAX,
            nsec: 0,
        };
        assert_eq!(far.as_nanos(), i64::MAX);
    }
}
