//! The directory behind a [`Mount`](crate::Mount): inodes that the kernel knows, by number, as descriptors.

use fuser::{FileAttr, FileType, INodeNo};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RenameFlags, Stat};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) type Result<T> = std::result::Result<T, Errno>;

const ROOT: u64 = INodeNo::ROOT.0;
/// Describes an inode; opened anew, by `/proc`, for reading and writing.
const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// An inode that the kernel has looked up and not forgotten. Its number is that of the backing filesystem, which cannot
/// give it to another inode while the descriptor is open.
struct Node {
    /// `None` when so many others were looked up since that it had to be closed; it is then found by its name.
    fd: Option<Arc<OwnedFd>>,
    /// Where it was last found.
    parent: u64,
    name: Vec<u8>,
    lookups: u64,
}

struct Nodes {
    by_number: HashMap<u64, Node>,
    /// Those whose descriptors may be closed, in the order of their lookups: directories, and apart from them what there is
    /// more of.
    dirs: VecDeque<u64>,
    others: VecDeque<u64>,
}

pub(crate) struct Backing {
    nodes: Mutex<Nodes>,
    /// How many directories are open at most, and how many others.
    open_max: usize,
}

impl Backing {
    pub(crate) fn open(root: &Path) -> std::io::Result<Self> {
        let fd = rustix::fs::open(root, PATH_ONLY | OFlags::DIRECTORY, Mode::empty())?;
        let root = Node {
            fd: Some(Arc::new(fd)),
            parent: ROOT,
            name: Vec::new(),
            lookups: 1,
        };
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let nodes = Nodes {
            by_number: HashMap::from([(ROOT, root)]),
            dirs: VecDeque::new(),
            others: VecDeque::new(),
        };
        Ok(Self {
            nodes: Mutex::new(nodes),
            open_max: usize::try_from(limit / 3).unwrap_or(usize::MAX),
        })
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fd(&self, ino: INodeNo) -> Result<Arc<OwnedFd>> {
        let nodes = self.nodes();
        let node = nodes.by_number.get(&ino.0).ok_or(Errno::STALE)?;
        if let Some(fd) = &node.fd {
            return Ok(fd.clone());
        }
        let (parent, name) = (
            INodeNo(node.parent),
            OsStr::from_bytes(&node.name).to_owned(),
        );
        drop(nodes);
        let fd = rustix::fs::openat(&*self.fd(parent)?, name, PATH_ONLY, Mode::empty())?;
        if rustix::fs::fstat(&fd)?.st_ino != ino.0 {
            return Err(Errno::STALE);
        }
        Ok(Arc::new(fd))
    }

    /// Below the root, without a slash in front.
    pub(crate) fn path_of(&self, ino: INodeNo) -> Vec<u8> {
        let nodes = self.nodes();
        let (mut names, mut at) = (Vec::new(), ino.0);
        while let Some(node) = nodes.by_number.get(&at).filter(|_| at != ROOT) {
            names.push(node.name.clone());
            at = node.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    pub(crate) fn path_in(&self, parent: INodeNo, name: &OsStr) -> Vec<u8> {
        let mut path = self.path_of(parent);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend(name.as_bytes());
        path
    }

    /// Looks a name up. The kernel knows the inode from now on, until it forgets it.
    pub(crate) fn look_up(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr> {
        let fd = rustix::fs::openat(&*self.fd(parent)?, name, PATH_ONLY, Mode::empty())?;
        let attr = attr_of(&rustix::fs::fstat(&fd)?);
        let mut nodes = self.nodes();
        let Nodes {
            by_number,
            dirs,
            others,
        } = &mut *nodes;
        if !by_number.contains_key(&attr.ino.0) {
            let closable = if attr.kind == FileType::Directory {
                dirs
            } else {
                others
            };
            closable.push_back(attr.ino.0);
            let close = (closable.len() > self.open_max).then(|| closable.pop_front());
            if let Some(node) = close.flatten().and_then(|ino| by_number.get_mut(&ino)) {
                node.fd = None;
            }
        }
        let node = by_number.entry(attr.ino.0).or_insert_with(|| Node {
            fd: Some(Arc::new(fd)),
            parent: parent.0,
            name: Vec::new(),
            lookups: 0,
        });
        node.parent = parent.0;
        node.name = name.as_bytes().to_vec();
        node.lookups += 1;
        Ok(attr)
    }

    pub(crate) fn forget(&self, ino: INodeNo, lookups: u64) {
        let mut nodes = self.nodes();
        if let Some(node) = nodes.by_number.get_mut(&ino.0) {
            node.lookups = node.lookups.saturating_sub(lookups);
            if node.lookups == 0 && ino.0 != ROOT {
                nodes.by_number.remove(&ino.0);
            }
        }
    }

    pub(crate) fn attr(&self, ino: INodeNo) -> Result<FileAttr> {
        let mut attr = attr_of(&rustix::fs::fstat(&*self.fd(ino)?)?);
        attr.ino = ino;
        Ok(attr)
    }

    /// Opens the inode itself, whatever its name is by now.
    pub(crate) fn reopen(&self, ino: INodeNo, flags: OFlags) -> Result<OwnedFd> {
        let inode = self.fd(ino)?;
        rustix::fs::open(proc_path(&inode), flags | OFlags::CLOEXEC, Mode::empty())
    }

    pub(crate) fn rename(
        &self,
        from: (INodeNo, &OsStr),
        to: (INodeNo, &OsStr),
        flags: RenameFlags,
    ) -> Result<()> {
        let (from_dir, to_dir) = (self.fd(from.0)?, self.fd(to.0)?);
        rustix::fs::renameat_with(&*from_dir, from.1, &*to_dir, to.1, flags)?;
        self.moved(&to_dir, to);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.moved(&from_dir, from);
        }
        Ok(())
    }

    fn moved(&self, dir: &OwnedFd, to: (INodeNo, &OsStr)) {
        let stat = rustix::fs::statat(dir, to.1, AtFlags::SYMLINK_NOFOLLOW);
        let Ok(stat) = stat else { return };
        if let Some(node) = self.nodes().by_number.get_mut(&stat.st_ino) {
            node.parent = to.0.0;
            node.name = to.1.as_bytes().to_vec();
        }
    }

    pub(crate) fn link(&self, ino: INodeNo, parent: INodeNo, name: &OsStr) -> Result<FileAttr> {
        let (inode, dir) = (self.fd(ino)?, self.fd(parent)?);
        let flags = AtFlags::SYMLINK_FOLLOW;
        rustix::fs::linkat(CWD, proc_path(&inode), &*dir, name, flags)?;
        self.look_up(parent, name)
    }
}

/// A path that leads to the inode of a descriptor, and no further if that is a symlink.
pub(crate) fn proc_path(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

pub(crate) fn kind_of(kind: rustix::fs::FileType) -> Option<FileType> {
    use rustix::fs::FileType as Kind;
    Some(match kind {
        Kind::RegularFile => FileType::RegularFile,
        Kind::Directory => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharacterDevice => FileType::CharDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Unknown => return None,
    })
}

pub(crate) fn attr_of(stat: &Stat) -> FileAttr {
    let kind = kind_of(rustix::fs::FileType::from_raw_mode(stat.st_mode));
    FileAttr {
        ino: INodeNo(stat.st_ino),
        size: stat.st_size.cast_unsigned(),
        blocks: stat.st_blocks.cast_unsigned(),
        atime: time_of(stat.st_atime, stat.st_atime_nsec),
        mtime: time_of(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time_of(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind.expect("an inode is of some kind"),
        perm: u16::try_from(stat.st_mode & 0o7777).unwrap(),
        nlink: u32::try_from(stat.st_nlink).unwrap(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: u32::try_from(stat.st_rdev).unwrap(),
        blksize: u32::try_from(stat.st_blksize).unwrap(),
        flags: 0,
    }
}

fn time_of(sec: i64, nsec: impl TryInto<u64>) -> SystemTime {
    let nanos = Duration::from_nanos(nsec.try_into().unwrap_or(0));
    let whole = Duration::from_secs(sec.unsigned_abs());
    let base = if sec < 0 {
        UNIX_EPOCH - whole
    } else {
        UNIX_EPOCH + whole
    };
    base + nanos
}
