//! One error type: what went wrong, in which operation, on which side, at which path. The path is added once,
//! where it is known; the class is decided once, here.

use std::fmt;

use nix::errno::Errno;

use crate::model::path::escape;

/// The side of the sync that an operation touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    Source,
    Destination,
}

impl Side {
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// How the run reacts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Done, though not as asked: told, and that is all.
    Warning,
    /// The source moved under us, and some of it was left for another time: counted, and exit 24 when nothing worse happened.
    Vanished,
    /// This entry fails, the rest goes on; exit 23.
    Entry,
    /// The whole run cannot go on: the destination is full, read-only or gone; exit 11.
    Fatal,
}

impl Class {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Vanished => "vanished",
            Self::Entry => "entry",
            Self::Fatal => "fatal",
        }
    }
}

/// What was being done. The names are those of the system calls where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpKind {
    OpenDir,
    ReadDir,
    Stat,
    Open,
    Create,
    Read,
    Write,
    Close,
    MakeDir,
    MakeNode,
    MakeSymlink,
    ReadLink,
    Link,
    Unlink,
    RemoveDir,
    Rename,
    SetOwner,
    SetMode,
    SetTimes,
    CopyRange,
    Clone,
    Truncate,
    ReadXattrs,
    SetXattrs,
    SeekData,
    ReadRules,
    Fsync,
    DropCache,
    /// Asking how a file is to be copied, and having it so.
    Prepare,
    SyncFs,
    /// Keeping what is replaced or deleted: several system calls, told as one.
    Backup,
}

impl OpKind {
    pub const ALL: [Self; 31] = [
        Self::OpenDir,
        Self::ReadDir,
        Self::Stat,
        Self::Open,
        Self::Create,
        Self::Read,
        Self::Write,
        Self::Close,
        Self::MakeDir,
        Self::MakeNode,
        Self::MakeSymlink,
        Self::ReadLink,
        Self::Link,
        Self::Unlink,
        Self::RemoveDir,
        Self::Rename,
        Self::SetOwner,
        Self::SetMode,
        Self::SetTimes,
        Self::CopyRange,
        Self::Clone,
        Self::Truncate,
        Self::ReadXattrs,
        Self::SetXattrs,
        Self::SeekData,
        Self::ReadRules,
        Self::Fsync,
        Self::DropCache,
        Self::Prepare,
        Self::SyncFs,
        Self::Backup,
    ];

    /// The verb of messages and JSON: `cannot VERB path`.
    #[must_use]
    pub fn verb(self) -> &'static str {
        match self {
            Self::OpenDir => "open directory",
            Self::ReadDir => "list directory",
            Self::Stat => "stat",
            Self::Open => "open",
            Self::Create => "create",
            Self::Read => "read",
            Self::Write => "write",
            Self::Close => "close",
            Self::MakeDir => "make directory",
            Self::MakeNode => "make special file",
            Self::MakeSymlink => "make symlink",
            Self::ReadLink => "read symlink",
            Self::Link => "link",
            Self::Unlink => "remove",
            Self::RemoveDir => "remove directory",
            Self::Rename => "rename",
            Self::SetOwner => "set owner of",
            Self::SetMode => "set mode of",
            Self::SetTimes => "set times of",
            Self::CopyRange => "copy to",
            Self::Clone => "reflink to",
            Self::Truncate => "set size of",
            Self::ReadXattrs => "read extended attributes of",
            Self::SetXattrs => "set extended attributes of",
            Self::SeekData => "find data in",
            Self::ReadRules => "read filter rules in",
            Self::Fsync => "flush",
            Self::DropCache => "drop cached pages of",
            Self::Prepare => "prepare the copying of",
            Self::SyncFs => "flush the filesystem of",
            Self::Backup => "back up",
        }
    }
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    Errno(Errno),
    /// The file kept changing while it was copied.
    Changing,
    /// The directory's names changed while they were listed, or the listing missed some.
    ListingMoved,
    /// Another inode has the name now than when it was compared.
    Replaced,
    /// What was read back from the disk is not what the source has, twice.
    Corrupted,
    /// The name under which it would be kept is an entry of the source too.
    BackupNameInSource,
    /// The source has an entry where the destination has its backup directory.
    BackupDirectory,
    /// A directory with entries is where another kind must go, and neither `--delete` nor `--force` was given.
    DirectoryInTheWay,
    /// The source tree leads into the destination tree (a bind mount, say).
    LoopIntoDestination,
    /// The source symlink is to be followed, and leads nowhere.
    NoReferent,
    /// The source symlink is to be followed, and leads to a directory that it is in.
    SymlinkLoop,
    /// The name could not become a link to another one of its inode, and got an inode of its own.
    CopiedInstead(Errno),
    /// The destination tree leads into the source tree, which must not be written to.
    LoopIntoSource,
    /// The run was asked to end while a large file was in work.
    Interrupted,
    /// A merge file with a rule that is none, or that is no file of rules at all.
    WrongRule(String),
    /// A path of `--files-from`.
    NotInSource,
    /// A directory that would have to go for something else holds what a rule protects.
    Protected,
    /// Keys that no file and no directory can be named by: `//` and `..` in them, names of over 255 bytes.
    KeyIsNoPath,
    /// An object's key is another one's directory.
    ObjectAndPrefix,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => write!(f, "{} ({errno:?})", errno.desc()),
            Self::Changing => f.write_str(
                "it kept changing while it was copied; the copy is of one moment but not of now",
            ),
            Self::ListingMoved => f.write_str(
                "it changed while it was listed, so nothing was deleted in its copy this time",
            ),
            Self::Replaced => f.write_str("another file has taken its place since it was compared"),
            Self::Corrupted => f.write_str(
                "data corruption: what was read back from the disk differs from the source; the file is not in place",
            ),
            Self::BackupNameInSource => f.write_str(
                "its backup would have the name of another entry of the source; choose another --suffix or a --backup-dir",
            ),
            Self::BackupDirectory => f.write_str(
                "the destination's --backup-dir has this name, so it was not synced",
            ),
            Self::DirectoryInTheWay => f.write_str(
                "a directory that is not empty is in the way; --delete or --force would remove it",
            ),
            Self::LoopIntoDestination => {
                f.write_str("it is the destination itself, and was not entered")
            }
            Self::CopiedInstead(errno) => {
                write!(f, "{} ({errno:?}); it was copied instead", errno.desc())
            }
            Self::NoReferent => f.write_str("the symlink leads to nothing"),
            Self::SymlinkLoop => {
                f.write_str("the symlink leads to a directory that it is in, and was not followed")
            }
            Self::LoopIntoSource => f.write_str("it is the source itself, and was left alone"),
            Self::Interrupted => f.write_str("the run was interrupted"),
            Self::WrongRule(message) => {
                write!(
                    f,
                    "{message}; nothing was copied or deleted in its directory"
                )
            }
            Self::NotInSource => {
                f.write_str("it is on the list of --files-from but not in the source")
            }
            Self::KeyIsNoPath => f.write_str("no file can have the name that keys have here"),
            Self::ObjectAndPrefix => f.write_str(
                "an object has the name of a directory, or is one and has contents; only one of both was synced",
            ),
            Self::Protected => {
                f.write_str("a directory is in the way, and a filter rule protects something in it")
            }
        }
    }
}

/// One failure, told once.
#[derive(Clone, Debug)]
pub struct Error {
    pub op: OpKind,
    pub side: Side,
    /// Relative to the side's root; raw bytes.
    pub path: Box<[u8]>,
    pub cause: Cause,
}

impl Error {
    #[must_use]
    pub fn new(op: OpKind, side: Side, path: Vec<u8>, cause: Cause) -> Self {
        Self {
            op,
            side,
            path: path.into_boxed_slice(),
            cause,
        }
    }

    #[must_use]
    pub fn errno(op: OpKind, side: Side, path: Vec<u8>, errno: Errno) -> Self {
        Self::new(op, side, path, Cause::Errno(errno))
    }

    /// Whether a file may not be given away at the destination. Mostly a server squashes root, and that is as true of the next
    /// million files.
    #[must_use]
    pub fn is_refused_owner(&self) -> bool {
        let is_owner = self.op == OpKind::SetOwner && self.side == Side::Destination;
        is_owner && self.cause == Cause::Errno(Errno::EPERM)
    }

    /// How the run reacts. A full or read-only *destination* ends it; an entry of the *source* that is gone has vanished.
    #[must_use]
    pub fn class(&self) -> Class {
        let errno = match self.cause {
            Cause::Errno(errno) => errno,
            Cause::CopiedInstead(_) => return Class::Warning,
            Cause::ListingMoved => return Class::Vanished,
            _ => return Class::Entry,
        };
        match (self.side, errno) {
            // Too big for the inode: that says nothing about the device.
            (Side::Destination, Errno::ENOSPC) if self.op == OpKind::SetXattrs => Class::Entry,
            (Side::Source, Errno::ENOENT | Errno::ESTALE) => Class::Vanished,
            (Side::Destination, Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS) => Class::Fatal,
            _ => Class::Entry,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path: &[u8] = if self.path.is_empty() {
            b"."
        } else {
            &self.path
        };
        let (verb, side, path) = (self.op.verb(), self.side.name(), escape(path));
        write!(f, "cannot {verb} {side} '{path}': {}", self.cause)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_full_destination_is_fatal() {
        let class = |side, errno| Error::errno(OpKind::Write, side, b"a".to_vec(), errno).class();
        assert_eq!(class(Side::Destination, Errno::ENOSPC), Class::Fatal);
        assert_eq!(class(Side::Source, Errno::ENOSPC), Class::Entry);
        assert_eq!(class(Side::Source, Errno::ENOENT), Class::Vanished);
        assert_eq!(class(Side::Destination, Errno::ENOENT), Class::Entry);
        assert_eq!(class(Side::Destination, Errno::EIO), Class::Entry);
    }

    #[test]
    fn messages_name_operation_side_and_escaped_path() {
        let error = Error::errno(OpKind::Open, Side::Source, b"a\nb".to_vec(), Errno::EACCES);
        let text = error.to_string();
        assert!(
            text.starts_with("cannot open source 'a\\nb': Permission denied"),
            "{text}"
        );
    }
}
