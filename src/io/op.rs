//! Operations as values. An `Op` owns every buffer, name and descriptor that it needs, so that it stays valid
//! until it is done even when nobody waits for it any more.

use std::any::Any;
use std::ffi::{CStr, CString};
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use nix::errno::Errno;

use super::buffer::Buffer;
use super::ring::RingFuture;
use super::small::{InOneGo, SmallCopy};
use crate::error::OpKind;
use crate::model::checksum::Checksum;
use crate::model::copies::Version;
use crate::model::{Carried, Kind, Listing, Meta, Time, XattrChange, Xattrs};

/// An open file or directory; clones share it, and the last one closes it.
#[derive(Clone)]
pub struct Handle(Arc<Inner>);

struct Inner {
    descriptor: Descriptor,
    dev: u64,
}

enum Descriptor {
    Os(OwnedFd),
    /// Opened with `O_PATH`: it stands for an inode, and gives no access to its contents.
    Place(OwnedFd),
    /// Closed by a close operation; nothing uses the handle after that.
    Closed,
    /// A number that means something to a filesystem other than the kernel's: a simulated one.
    Virtual(u64),
    /// Something of a filesystem other than the kernel's.
    Elsewhere(Arc<dyn Any + Send + Sync>),
}

impl Handle {
    /// `dev` is the device of the filesystem the descriptor is on; the router tells filesystems apart by it.
    #[must_use]
    pub fn new(fd: OwnedFd, dev: u64) -> Self {
        Self(Arc::new(Inner {
            descriptor: Descriptor::Os(fd),
            dev,
        }))
    }

    /// A handle on an inode of any kind, opened with `O_PATH`.
    #[must_use]
    pub fn place(fd: OwnedFd, dev: u64) -> Self {
        Self(Arc::new(Inner {
            descriptor: Descriptor::Place(fd),
            dev,
        }))
    }

    /// Whether it was opened with `O_PATH`.
    pub(super) fn is_place(&self) -> bool {
        matches!(self.0.descriptor, Descriptor::Place(_))
    }

    /// A handle for a filesystem that is not the kernel's.
    #[must_use]
    pub fn virtual_number(number: u64, dev: u64) -> Self {
        Self(Arc::new(Inner {
            descriptor: Descriptor::Virtual(number),
            dev,
        }))
    }

    /// A handle for a filesystem that is not the kernel's, and keeps with it what it stands for.
    #[must_use]
    pub fn elsewhere(what: Arc<dyn Any + Send + Sync>, dev: u64) -> Self {
        Self(Arc::new(Inner {
            descriptor: Descriptor::Elsewhere(what),
            dev,
        }))
    }

    /// What was given to [`Handle::elsewhere`], if it was a `T`.
    #[must_use]
    pub fn get_elsewhere<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        match &self.0.descriptor {
            Descriptor::Elsewhere(what) => what.clone().downcast().ok(),
            _ => None,
        }
    }

    /// Whether the kernel knows it.
    #[must_use]
    pub fn is_of_kernel(&self) -> bool {
        matches!(
            self.0.descriptor,
            Descriptor::Os(_) | Descriptor::Place(_) | Descriptor::Closed
        )
    }

    #[must_use]
    pub fn dev(&self) -> u64 {
        self.0.dev
    }

    /// The number given to [`Handle::virtual_number`].
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self.0.descriptor {
            Descriptor::Virtual(number) => Some(number),
            _ => None,
        }
    }

    /// The descriptor itself, when this is its only handle.
    #[must_use]
    pub fn into_fd(self) -> Option<OwnedFd> {
        match Arc::try_unwrap(self.0).ok()?.descriptor {
            Descriptor::Os(fd) | Descriptor::Place(fd) => Some(fd),
            Descriptor::Closed | Descriptor::Virtual(_) | Descriptor::Elsewhere(_) => None,
        }
    }

    /// Whether no other handle shares the descriptor.
    pub(super) fn is_only_one(&mut self) -> bool {
        Arc::get_mut(&mut self.0).is_some()
    }

    /// Gives up the descriptor without closing it: the kernel has done that. Only for the only handle.
    pub(super) fn forget(&mut self) {
        let Some(inner) = Arc::get_mut(&mut self.0) else {
            unreachable!("a close operation owns the only handle");
        };
        match std::mem::replace(&mut inner.descriptor, Descriptor::Closed) {
            Descriptor::Os(fd) | Descriptor::Place(fd) => {
                let _closed_already = fd.into_raw_fd();
            }
            Descriptor::Closed | Descriptor::Virtual(_) | Descriptor::Elsewhere(_) => {}
        }
    }
}

impl AsFd for Handle {
    /// # Panics
    /// On a virtual handle or one of elsewhere: those never reach the kernel's filesystem.
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0.descriptor {
            Descriptor::Os(fd) | Descriptor::Place(fd) => fd.as_fd(),
            Descriptor::Closed => unreachable!("a closed handle is not used"),
            Descriptor::Virtual(number) => {
                unreachable!("virtual handle {number} reached the kernel")
            }
            Descriptor::Elsewhere(_) => unreachable!("a handle of elsewhere reached the kernel"),
        }
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.descriptor {
            Descriptor::Os(fd) | Descriptor::Place(fd) => write!(f, "{fd:?}"),
            Descriptor::Closed => f.write_str("closed"),
            Descriptor::Virtual(number) => write!(f, "virtual {number}"),
            Descriptor::Elsewhere(_) => f.write_str("elsewhere"),
        }
    }
}

/// Whose attributes an operation reads. A name is one path component below the handle.
#[derive(Clone, Debug)]
pub enum Target {
    Open(Handle),
    /// An open one as it is now where it is kept, whatever is remembered of it here.
    Anew(Handle),
    /// The inode that has the name, a symlink included.
    Name(Handle, CString),
    /// What the name leads to in the end.
    Followed(Handle, CString),
}

/// What opening a name does when it is a symlink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Links {
    /// Fails with `ELOOP` (or `ENOTDIR` for a directory).
    #[default]
    Refuse,
    /// Goes where it leads: only for the source, and only when the user asked for it.
    Follow,
}

impl Target {
    fn handle(&self) -> &Handle {
        match self {
            Self::Open(handle)
            | Self::Anew(handle)
            | Self::Name(handle, _)
            | Self::Followed(handle, _) => handle,
        }
    }
}

/// Attributes to set; `None` leaves one alone. Applied in the order of the fields: chown clears setuid and file
/// capabilities, chmod changes the mask of an ACL, and whatever moves the mtime comes before it is set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub mode: Option<u32>,
    /// ACLs, then the others.
    pub xattrs: XattrChange,
    pub mtime: Option<Time>,
    /// Only beside an mtime.
    pub atime: Option<Time>,
}

impl Change {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// One operation. Names are single path components.
#[derive(Debug)]
pub enum Op {
    /// Opens a directory for listing. → [`Reply::Opened`]
    OpenDir {
        at: Handle,
        name: CString,
        links: Links,
    },
    /// Opens the directory that a path of any length leads to from `at`, through no symlink and never out of `at`. An empty
    /// path is `at` itself. → [`Reply::Opened`]
    OpenDirBelow {
        at: Handle,
        path: Vec<u8>,
    },
    /// Opens an inode of any kind, a symlink included, to set its attributes. → [`Reply::Opened`]
    OpenPlace {
        at: Handle,
        name: CString,
    },
    /// Appends what one getdents64 call returns, without `.` and `..`. → [`Reply::Listed`]
    ReadDir {
        dir: Handle,
        listing: Listing,
    },
    /// statx for every entry of the range whose state is `Wanted`. → [`Reply::Listed`]
    StatMany {
        dir: Handle,
        listing: Listing,
        range: Range<usize>,
    },
    /// → [`Reply::Meta`]
    Stat {
        target: Target,
    },
    /// Opens a file for reading, without blocking on a fifo. → [`Reply::Opened`]
    Open {
        at: Handle,
        name: CString,
        links: Links,
    },
    /// Makes a file that must not exist, open for writing, and for reading when `readable`. → [`Reply::Opened`]
    Create {
        at: Handle,
        name: CString,
        mode: u32,
        readable: bool,
    },
    /// Opens a file that exists for reading and writing, as [`Op::Open`] does. → [`Reply::Opened`]
    OpenWrite {
        at: Handle,
        name: CString,
    },
    /// Fills `buffer` from its start with up to its length. → [`Reply::Moved`]
    Read {
        file: Handle,
        buffer: Buffer,
        offset: u64,
    },
    /// Writes `buffer[range]`. → [`Reply::Moved`]
    Write {
        file: Handle,
        buffer: Buffer,
        range: Range<usize>,
        offset: u64,
    },
    /// Closes a file and says what close says (late write errors on network filesystems). → [`Reply::Done`] or
    /// [`Reply::Made`]
    Close {
        file: Handle,
    },
    /// Gives up a file that gets its name only when it is closed. → [`Reply::Done`]
    Discard {
        file: Handle,
    },
    /// The name `.` is of a directory that is there only as long as something is in it: from now on it is there without.
    MakeDir {
        at: Handle,
        name: CString,
        mode: u32,
    },
    /// A fifo, socket or device node.
    MakeNode {
        at: Handle,
        name: CString,
        kind: Kind,
        mode: u32,
        rdev: u64,
    },
    MakeSymlink {
        at: Handle,
        name: CString,
        target: CString,
    },
    /// Makes a symlink with its attributes, in place of whatever file or symlink has the name: where names are given to
    /// what is whole. → [`Reply::Made`]
    PutSymlink {
        at: Handle,
        name: CString,
        target: CString,
        change: Change,
    },
    /// → [`Reply::Link`]
    ReadLink {
        at: Handle,
        name: CString,
    },
    /// A second name for an inode.
    Link {
        from: Handle,
        from_name: CString,
        to: Handle,
        to_name: CString,
    },
    Unlink {
        at: Handle,
        name: CString,
    },
    RemoveDir {
        at: Handle,
        name: CString,
    },
    /// Renames within one directory; replaces what `to` names.
    Rename {
        at: Handle,
        from: CString,
        to: CString,
    },
    /// Renames from one directory to another; replaces what `to_name` names.
    Move {
        from: Handle,
        from_name: CString,
        to: Handle,
        to_name: CString,
    },
    /// Sets what it can, all in order; the first failure is told in the end. Where the owner cannot be set, setuid and setgid
    /// are not either, and a mode whose ACL cannot be set is narrowed to what its owning group may do. → [`Reply::Done`] or
    /// [`Reply::Made`]
    SetAttrs {
        inode: Handle,
        change: Change,
    },
    /// The extended attributes that `carried` names. None where the filesystem has no such thing. → [`Reply::Xattrs`]
    ReadXattrs {
        target: Target,
        carried: Carried,
    },
    /// What is known of a file's contents without reading them, where [`Fs::keeps_checksums`]. → [`Reply::Checksum`]
    ReadChecksum {
        at: Handle,
        name: CString,
    },
    /// The first range of data (not a hole) that ends after `offset`. → [`Reply::Data`]
    SeekData {
        file: Handle,
        offset: u64,
    },
    /// copy_file_range at equal offsets; may copy less than `len`. → [`Reply::Copied`]
    CopyRange {
        from: Handle,
        to: Handle,
        offset: u64,
        len: u64,
    },
    /// Makes `to` share all data blocks of `from` (FICLONE).
    Clone {
        from: Handle,
        to: Handle,
    },
    Truncate {
        file: Handle,
        len: u64,
    },
    /// Waits until the contents and attributes of a file, or the names in a directory, are on stable storage.
    Fsync {
        file: Handle,
    },
    /// Whether a good part of a file of so many bytes is in memory, as far as a few looks can tell. → [`Reply::Cached`]
    IsCached {
        file: Handle,
        size: u64,
    },
    /// Has the kernel read and write a file past the page cache from now on, or through it: at multiples of
    /// [`DIRECT_BYTES`](super::DIRECT_BYTES). Fails with `EOPNOTSUPP` where that cannot be, or would be of no use.
    SetDirect {
        file: Handle,
        direct: bool,
    },
    /// Keeps others who do the same from a file, until it is closed. Fails with `EWOULDBLOCK` when somebody has it.
    Lock {
        file: Handle,
    },
    /// Lets go of the clean cached pages of a file, so that the next read comes from the disk.
    DropCache {
        file: Handle,
    },
    /// Waits until everything of the directory's filesystem is on stable storage.
    SyncFs {
        dir: Handle,
    },
}

impl Op {
    #[must_use]
    pub fn kind(&self) -> OpKind {
        match self {
            Self::OpenDir { .. } | Self::OpenDirBelow { .. } => OpKind::OpenDir,
            Self::ReadDir { .. } => OpKind::ReadDir,
            Self::StatMany { .. } | Self::Stat { .. } | Self::ReadChecksum { .. } => OpKind::Stat,
            Self::Open { .. } | Self::OpenPlace { .. } | Self::OpenWrite { .. } => OpKind::Open,
            Self::Create { .. } => OpKind::Create,
            Self::Read { .. } => OpKind::Read,
            Self::Write { .. } => OpKind::Write,
            Self::Close { .. } => OpKind::Close,
            Self::MakeDir { .. } => OpKind::MakeDir,
            Self::MakeNode { .. } => OpKind::MakeNode,
            Self::MakeSymlink { .. } | Self::PutSymlink { .. } => OpKind::MakeSymlink,
            Self::ReadLink { .. } => OpKind::ReadLink,
            Self::Link { .. } => OpKind::Link,
            Self::Unlink { .. } | Self::Discard { .. } => OpKind::Unlink,
            Self::RemoveDir { .. } => OpKind::RemoveDir,
            Self::Rename { .. } | Self::Move { .. } => OpKind::Rename,
            Self::SetAttrs { change, .. } if change.mtime.is_some() => OpKind::SetTimes,
            Self::SetAttrs { change, .. } if !change.xattrs.is_empty() => OpKind::SetXattrs,
            Self::SetAttrs { change, .. } if change.mode.is_some() => OpKind::SetMode,
            Self::SetAttrs { .. } => OpKind::SetOwner,
            Self::CopyRange { .. } => OpKind::CopyRange,
            Self::Clone { .. } => OpKind::Clone,
            Self::Truncate { .. } => OpKind::Truncate,
            Self::ReadXattrs { .. } => OpKind::ReadXattrs,
            Self::SeekData { .. } => OpKind::SeekData,
            Self::Fsync { .. } => OpKind::Fsync,
            Self::DropCache { .. } => OpKind::DropCache,
            Self::IsCached { .. } | Self::SetDirect { .. } | Self::Lock { .. } => OpKind::Prepare,
            Self::SyncFs { .. } => OpKind::SyncFs,
        }
    }

    /// The device of the filesystem that the operation works on.
    #[must_use]
    pub fn dev(&self) -> u64 {
        self.handle().dev()
    }

    /// The name below [`Op::handle`] that the operation is about, where it has one.
    #[must_use]
    pub fn name(&self) -> Option<&CStr> {
        match self {
            Self::OpenDir { name, .. }
            | Self::Open { name, .. }
            | Self::Create { name, .. }
            | Self::MakeDir { name, .. }
            | Self::MakeNode { name, .. }
            | Self::MakeSymlink { name, .. }
            | Self::PutSymlink { name, .. }
            | Self::ReadLink { name, .. }
            | Self::ReadChecksum { name, .. }
            | Self::Unlink { name, .. }
            | Self::RemoveDir { name, .. }
            | Self::Rename { to: name, .. }
            | Self::Link { to_name: name, .. }
            | Self::Stat {
                target: Target::Name(_, name),
            }
            | Self::ReadXattrs {
                target: Target::Name(_, name),
                ..
            }
            | Self::OpenPlace { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The open file or directory that the operation works on.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        match self {
            Self::OpenDir { at, .. }
            | Self::OpenDirBelow { at, .. }
            | Self::OpenPlace { at, .. }
            | Self::Open { at, .. }
            | Self::OpenWrite { at, .. }
            | Self::Create { at, .. }
            | Self::MakeDir { at, .. }
            | Self::MakeNode { at, .. }
            | Self::MakeSymlink { at, .. }
            | Self::PutSymlink { at, .. }
            | Self::ReadLink { at, .. }
            | Self::ReadChecksum { at, .. }
            | Self::Unlink { at, .. }
            | Self::RemoveDir { at, .. }
            | Self::Rename { at, .. } => at,
            Self::ReadDir { dir, .. } | Self::StatMany { dir, .. } | Self::SyncFs { dir } => dir,
            Self::Read { file, .. }
            | Self::Write { file, .. }
            | Self::Close { file }
            | Self::Discard { file }
            | Self::SeekData { file, .. }
            | Self::Fsync { file }
            | Self::DropCache { file }
            | Self::IsCached { file, .. }
            | Self::Lock { file }
            | Self::SetDirect { file, .. }
            | Self::Truncate { file, .. } => file,
            Self::CopyRange { to, .. }
            | Self::Clone { to, .. }
            | Self::Link { to, .. }
            | Self::Move { to, .. } => to,
            Self::SetAttrs { inode, .. } => inode,
            Self::Stat { target } | Self::ReadXattrs { target, .. } => target.handle(),
        }
    }
}

/// What an operation gives back.
#[derive(Debug)]
pub enum Reply {
    Opened(Handle, Meta),
    /// `more` is false when a `ReadDir` reached the end of the directory.
    Listed {
        listing: Listing,
        more: bool,
    },
    Meta(Meta),
    /// The buffer, and how many bytes were read or written.
    Moved(Buffer, usize),
    Copied(u64),
    Cached(bool),
    Link(CString),
    Xattrs(Xattrs),
    Checksum(Option<Checksum>),
    /// `None` when only holes are left.
    Data(Option<Range<u64>>),
    Done,
    /// Done, and what was made has a version.
    Made(Version),
}

/// A failed operation: which of its system calls, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpError {
    pub kind: OpKind,
    pub errno: Errno,
}

pub type Outcome = Result<Reply, OpError>;

/// An operation under way.
pub enum Pending {
    Ready(Option<Outcome>),
    Ring(RingFuture),
    /// On the blocking pool, or of a filesystem with futures of its own.
    Boxed(Pin<Box<dyn Future<Output = Outcome>>>),
}

impl Pending {
    #[must_use]
    pub fn ready(outcome: Outcome) -> Self {
        Self::Ready(Some(outcome))
    }
}

impl Future for Pending {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        match self.get_mut() {
            Self::Ready(outcome) => match outcome.take() {
                Some(outcome) => Poll::Ready(outcome),
                None => unreachable!("an operation is not polled after its end"),
            },
            Self::Ring(future) => Pin::new(future).poll(cx),
            Self::Boxed(future) => future.as_mut().poll(cx),
        }
    }
}

/// A filesystem, seen from one shard.
pub trait Fs {
    /// Starts an operation. It goes on to its end even when the `Pending` is dropped.
    fn start(&self, op: Op) -> Pending;

    /// Whether calls are known to block, so that many at a time pay off.
    fn is_slow(&self, dev: u64) -> bool;

    /// The filesystem that this one passes operations on to. What is asked below is answered by that one, unless answered here.
    fn inner(&self) -> Option<&dyn Fs> {
        None
    }

    /// Whether copy_file_range to this file may share blocks, or have a server copy.
    fn offloads_copies(&self, file: &Handle) -> bool {
        self.inner().is_none_or(|fs| fs.offloads_copies(file))
    }

    /// Whether those who change names in one directory wait for each other.
    fn locks_names(&self) -> bool {
        self.inner().is_none_or(Fs::locks_names)
    }

    /// Whether the times of a directory move when its names change.
    fn has_dir_times(&self) -> bool {
        self.inner().is_none_or(Fs::has_dir_times)
    }

    /// Whether it may know what files have in them without reading them.
    fn keeps_checksums(&self) -> bool {
        self.inner().is_some_and(Fs::keeps_checksums)
    }

    /// Whether its times are certain to come from the clock of this machine.
    fn has_own_clock(&self, file: &Handle) -> bool {
        self.inner().is_some_and(|fs| fs.has_own_clock(file))
    }

    /// Whether another machine or process answers for it, who may be gone.
    fn is_served(&self, file: &Handle) -> bool {
        self.inner().is_some_and(|fs| fs.is_served(file))
    }

    /// Whether attributes may be some seconds old although another machine has changed the file meanwhile (see [`State::Doubted`]).
    fn remembers_attributes(&self, file: &Handle) -> bool {
        self.inner().is_some_and(|fs| fs.remembers_attributes(file))
    }

    /// What the clock that gives its times showed at the moment `at` of ours, at least, where it tells.
    fn clock(&self, at: Time) -> Option<Time> {
        self.inner().and_then(|fs| fs.clock(at))
    }

    /// Copies a small file in one go, on the filesystem of its new name, where that pays off. Who looks at single operations
    /// leaves this out.
    fn copy_small(&self, _copy: &SmallCopy<'_>, _buffer: &mut [u8]) -> InOneGo {
        InOneGo::Refused
    }
}
