//! A filesystem in memory, as the engine sees one: every operation can be made to fail.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use ringsync::error::OpKind;
use ringsync::io::{Change, Fs, Handle, Op, OpError, Pending, Reply, Target};
use ringsync::model::{Kind, Listing, Meta, State, Time, Xattrs};

/// Names that one simulated getdents64 returns: few, so that even small directories take several.
const NAMES_PER_READ: usize = 3;
/// Bytes that one simulated read or write moves: POSIX allows short counts anywhere, and FUSE and /proc use that.
const BYTES_PER_CALL: usize = 5;
/// The time at which everything written by the engine is stamped: after every mtime that tests give out.
const NOW: Time = Time {
    sec: 2_000_000_000,
    nsec: 1,
};

#[derive(Clone, Debug)]
struct Inode {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Time,
    data: Vec<u8>,
    entries: BTreeMap<CString, u64>,
    rdev: u64,
}

impl Inode {
    fn new(kind: Kind, mode: u32) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: NOW,
            data: Vec::new(),
            entries: BTreeMap::new(),
            rdev: 0,
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    inodes: BTreeMap<u64, Inode>,
    /// By handle number: the inode, and how many names were listed through it.
    open: Vec<(u64, usize)>,
    next_inode: u64,
    operations: usize,
    fault: Option<Fault>,
    /// What failed, if the fault was met.
    failed: Option<(OpKind, CString)>,
}

/// The operation with this number (counted from 0) fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) errno: Errno,
}

/// One entry, as tests compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) mtime: Time,
    pub(crate) data: Vec<u8>,
}

/// A tree. Clones are the same tree.
#[derive(Clone, Debug)]
pub(crate) struct SimFs {
    inner: Arc<Mutex<Inner>>,
    dev: u64,
}

const ROOT: u64 = 1;

impl SimFs {
    #[must_use]
    pub(crate) fn new(dev: u64) -> Self {
        let mut root = Inode::new(Kind::Dir, 0o755);
        root.mtime = Time { sec: 1, nsec: 0 };
        let inner = Inner {
            inodes: BTreeMap::from([(ROOT, root)]),
            next_inode: ROOT + 1,
            ..Inner::default()
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            dev,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    /// A copy that shares nothing.
    #[must_use]
    pub(crate) fn fork(&self) -> Self {
        let inner = self.lock();
        Self {
            inner: Arc::new(Mutex::new(Inner {
                inodes: inner.inodes.clone(),
                next_inode: inner.next_inode,
                ..Inner::default()
            })),
            dev: self.dev,
        }
    }

    /// Adds an entry; its parents are there already.
    pub(crate) fn add(&self, path: &str, kind: Kind, mode: u32, mtime_sec: i64, data: &[u8]) {
        let mut inner = self.lock();
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut dir = ROOT;
        for part in parent.split('/').filter(|part| !part.is_empty()) {
            dir = inner.inodes[&dir].entries[CString::new(part).unwrap().as_c_str()];
        }
        let mut inode = Inode::new(kind, mode);
        inode.mtime = Time {
            sec: mtime_sec,
            nsec: 7,
        };
        inode.data = data.to_vec();
        let number = inner.insert(inode);
        let name = CString::new(name).unwrap();
        inner
            .inodes
            .get_mut(&dir)
            .unwrap()
            .entries
            .insert(name, number);
    }

    /// Everything below the root, by path.
    #[must_use]
    pub(crate) fn seen(&self) -> BTreeMap<String, Seen> {
        let inner = self.lock();
        let mut seen = BTreeMap::new();
        let mut rest = vec![(String::new(), ROOT)];
        while let Some((path, number)) = rest.pop() {
            let inode = &inner.inodes[&number];
            for (name, child) in &inode.entries {
                let name = name.to_str().unwrap();
                let separator = if path.is_empty() { "" } else { "/" };
                rest.push((format!("{path}{separator}{name}"), *child));
            }
            if number != ROOT {
                let mode = if inode.kind == Kind::Symlink {
                    0o777
                } else {
                    inode.mode
                };
                let entry = Seen {
                    kind: inode.kind,
                    mode,
                    mtime: inode.mtime,
                    data: inode.data.clone(),
                };
                seen.insert(path, entry);
            }
        }
        seen
    }

    pub(crate) fn set_fault(&self, fault: Option<Fault>) {
        let mut inner = self.lock();
        inner.fault = fault;
        inner.operations = 0;
        inner.failed = None;
    }

    /// Which operation failed, on which name, since the fault was set.
    #[must_use]
    pub(crate) fn failed(&self) -> Option<(OpKind, CString)> {
        self.lock().failed.clone()
    }

    #[must_use]
    pub(crate) fn root(&self) -> Handle {
        let number = self.lock().open(ROOT);
        Handle::virtual_number(number, self.dev)
    }

    /// Device and inode of the root.
    #[must_use]
    pub(crate) fn root_identity(&self) -> (u64, u64) {
        (self.dev, ROOT)
    }

    /// This tree from one shard.
    #[must_use]
    pub(crate) fn mount(&self) -> Rc<dyn Fs> {
        Rc::new(Mount {
            fs: self.clone(),
            _not_send: RefCell::new(()),
        })
    }
}

impl Inner {
    fn insert(&mut self, inode: Inode) -> u64 {
        let number = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(number, inode);
        number
    }

    fn open(&mut self, inode: u64) -> u64 {
        self.open.push((inode, 0));
        self.open.len() as u64 - 1
    }

    /// Counts an operation, and fails it when its turn has come.
    fn count(&mut self, kind: OpKind, name: &CStr) -> Result<(), Errno> {
        let number = self.operations;
        self.operations += 1;
        match self.fault {
            Some(fault) if fault.at == number => {
                self.failed = Some((kind, name.to_owned()));
                Err(fault.errno)
            }
            _ => Ok(()),
        }
    }

    fn number_of(&self, handle: &Handle) -> u64 {
        let slot = usize::try_from(handle.number().unwrap()).unwrap();
        self.open[slot].0
    }

    fn find(&self, at: &Handle, name: &CStr) -> Result<u64, Errno> {
        let number = self.number_of(at);
        if name == c"." {
            return Ok(number);
        }
        let dir = self.inodes.get(&number).ok_or(Errno::ENOENT)?;
        dir.entries.get(name).copied().ok_or(Errno::ENOENT)
    }

    fn target(&self, target: &Target) -> Result<u64, Errno> {
        match target {
            Target::Open(handle) => Ok(self.number_of(handle)),
            // No tree of the tests has symlinks that are followed.
            Target::Name(at, name) | Target::Followed(at, name) => self.find(at, name),
        }
    }

    fn inode(&mut self, number: u64) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&number).ok_or(Errno::ESTALE)
    }

    fn link(&mut self, at: &Handle, name: CString, number: u64) -> Result<(), Errno> {
        let dir = self.number_of(at);
        let dir = self.inode(dir)?;
        dir.mtime = NOW;
        dir.entries.insert(name, number);
        Ok(())
    }

    fn make(&mut self, at: &Handle, name: CString, inode: Inode) -> Result<u64, Errno> {
        if self.find(at, &name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let number = self.insert(inode);
        self.link(at, name, number)?;
        Ok(number)
    }

    fn unlink(&mut self, at: &Handle, name: &CStr, directory: bool) -> Result<(), Errno> {
        let number = self.find(at, name)?;
        let inode = self.inode(number)?;
        match (inode.kind == Kind::Dir, directory) {
            (true, false) => return Err(Errno::EISDIR),
            (false, true) => return Err(Errno::ENOTDIR),
            (true, true) if !inode.entries.is_empty() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let dir = self.number_of(at);
        let dir = self.inode(dir)?;
        dir.mtime = NOW;
        dir.entries.remove(name);
        Ok(())
    }

    fn meta(&self, number: u64, dev: u64) -> Result<Meta, Errno> {
        let inode = self.inodes.get(&number).ok_or(Errno::ENOENT)?;
        Ok(Meta {
            kind: inode.kind,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            nlink: 1,
            size: inode.data.len() as u64,
            mtime: inode.mtime,
            ino: number,
            dev,
            rdev: inode.rdev,
            has_holes: false,
        })
    }

    fn read_dir(&mut self, dir: &Handle, mut listing: Listing) -> Result<Reply, Errno> {
        let slot = usize::try_from(dir.number().unwrap()).unwrap();
        let (number, listed) = self.open[slot];
        let inode = self.inode(number)?.clone();
        let mut more = false;
        for (name, child) in inode.entries.iter().skip(listed).take(NAMES_PER_READ) {
            let kind = self.inodes[child].kind;
            listing.push(name, *child, Some(kind));
            self.open[slot].1 += 1;
            more = true;
        }
        Ok(Reply::Listed { listing, more })
    }

    fn set_attrs(&mut self, inode: &Handle, change: &Change) -> Result<Reply, Errno> {
        let number = self.number_of(inode);
        let inode = self.inode(number)?;
        inode.uid = change.uid.unwrap_or(inode.uid);
        inode.gid = change.gid.unwrap_or(inode.gid);
        inode.mode = change.mode.unwrap_or(inode.mode);
        inode.mtime = change.mtime.unwrap_or(inode.mtime);
        Ok(Reply::Done)
    }

    fn write(&mut self, file: &Handle, bytes: &[u8], offset: u64) -> Result<(), Errno> {
        let number = self.number_of(file);
        let inode = self.inode(number)?;
        let (start, end) = (usize::try_from(offset).unwrap(), bytes.len());
        inode.data.resize(inode.data.len().max(start + end), 0);
        inode.data[start..start + end].copy_from_slice(bytes);
        inode.mtime = NOW;
        Ok(())
    }
}

struct Mount {
    fs: SimFs,
    _not_send: RefCell<()>,
}

impl Fs for Mount {
    fn start(&self, op: Op) -> Pending {
        let kind = op.kind();
        let outcome = self.run(op).map_err(|errno| OpError { kind, errno });
        Pending::ready(outcome)
    }

    fn is_slow(&self, _dev: u64) -> bool {
        false
    }
}

impl Mount {
    fn opened(&self, inner: &mut Inner, number: u64) -> Result<Reply, Errno> {
        let meta = inner.meta(number, self.fs.dev)?;
        let handle = Handle::virtual_number(inner.open(number), self.fs.dev);
        Ok(Reply::Opened(handle, meta))
    }

    #[allow(clippy::too_many_lines)] // One arm for each operation.
    fn run(&self, op: Op) -> Result<Reply, Errno> {
        let inner = &mut *self.fs.lock();
        let dev = self.fs.dev;
        let kind = op.kind();
        match op {
            Op::StatMany {
                dir,
                listing,
                range,
            } => Ok(stat_many(inner, dev, &dir, listing, range)),
            Op::OpenDir { at, name, .. } => {
                inner.count(kind, &name)?;
                let number = inner.find(&at, &name)?;
                if inner.inode(number)?.kind != Kind::Dir {
                    return Err(Errno::ENOTDIR);
                }
                self.opened(inner, number)
            }
            Op::Open { at, name, .. } | Op::OpenPlace { at, name } => {
                inner.count(kind, &name)?;
                let number = inner.find(&at, &name)?;
                self.opened(inner, number)
            }
            Op::Create { at, name, mode } => {
                inner.count(kind, &name)?;
                let number = inner.make(&at, name, Inode::new(Kind::File, mode))?;
                self.opened(inner, number)
            }
            Op::ReadDir { dir, listing } => {
                inner.count(kind, c"")?;
                inner.read_dir(&dir, listing)
            }
            Op::Stat { target } => {
                inner.count(kind, c"")?;
                let number = inner.target(&target)?;
                inner.meta(number, dev).map(Reply::Meta)
            }
            Op::Read {
                file,
                mut buffer,
                offset,
            } => {
                inner.count(kind, c"")?;
                let number = inner.number_of(&file);
                let data = &inner.inode(number)?.data;
                let start = usize::try_from(offset).unwrap().min(data.len());
                let count = (data.len() - start).min(buffer.len()).min(BYTES_PER_CALL);
                buffer[..count].copy_from_slice(&data[start..start + count]);
                Ok(Reply::Moved(buffer, count))
            }
            Op::Write {
                file,
                buffer,
                range,
                offset,
            } => {
                inner.count(kind, c"")?;
                let count = range.len().min(BYTES_PER_CALL);
                let bytes = &buffer[range.start..range.start + count];
                inner.write(&file, bytes, offset)?;
                Ok(Reply::Moved(buffer, count))
            }
            Op::CopyRange { .. } | Op::Clone { .. } => {
                inner.count(kind, c"")?;
                Err(Errno::EOPNOTSUPP)
            }
            Op::ReadLink { at, name } => {
                inner.count(kind, &name)?;
                let number = inner.find(&at, &name)?;
                let target = inner.inode(number)?.data.clone();
                Ok(Reply::Link(CString::new(target).unwrap()))
            }
            Op::SetAttrs { inode, change } => {
                inner.count(kind, c"")?;
                inner.set_attrs(&inode, &change)
            }
            Op::ReadXattrs { .. } => {
                inner.count(kind, c"")?;
                Ok(Reply::Xattrs(Xattrs::default()))
            }
            op => namespace(inner, kind, op).map(|()| Reply::Done),
        }
    }
}

fn stat_many(
    inner: &mut Inner,
    dev: u64,
    dir: &Handle,
    mut listing: Listing,
    range: std::ops::Range<usize>,
) -> Reply {
    for at in range {
        if listing.entries[at].state != State::Wanted {
            continue;
        }
        let name = listing.name(&listing.entries[at]).to_owned();
        let result = inner
            .count(OpKind::Stat, &name)
            .and_then(|()| inner.find(dir, &name))
            .and_then(|number| inner.meta(number, dev));
        let entry = &mut listing.entries[at];
        match result {
            Ok(meta) => entry.fill(&meta),
            Err(errno) => entry.state = State::Failed(u16::try_from(errno as i32).unwrap()),
        }
    }
    let more = false;
    Reply::Listed { listing, more }
}

/// The operations that change names or hand back nothing.
fn namespace(inner: &mut Inner, kind: OpKind, op: Op) -> Result<(), Errno> {
    match op {
        Op::Close { .. } => inner.count(kind, c""),
        Op::MakeDir { at, name, mode } => {
            inner.count(kind, &name)?;
            inner.make(&at, name, Inode::new(Kind::Dir, mode)).map(drop)
        }
        Op::MakeNode {
            at,
            name,
            kind: node_kind,
            mode,
            rdev,
        } => {
            inner.count(kind, &name)?;
            let mut inode = Inode::new(node_kind, mode);
            inode.rdev = rdev;
            inner.make(&at, name, inode).map(drop)
        }
        Op::MakeSymlink { at, name, target } => {
            inner.count(kind, &name)?;
            let mut inode = Inode::new(Kind::Symlink, 0o777);
            inode.data = target.into_bytes();
            inner.make(&at, name, inode).map(drop)
        }
        Op::Unlink { at, name } => {
            inner.count(kind, &name)?;
            inner.unlink(&at, &name, false)
        }
        Op::RemoveDir { at, name } => {
            inner.count(kind, &name)?;
            inner.unlink(&at, &name, true)
        }
        Op::Rename { at, from, to } => {
            inner.count(kind, &to)?;
            let number = inner.find(&at, &from)?;
            let dir = inner.number_of(&at);
            inner.inode(dir)?.entries.remove(&from);
            inner.link(&at, to, number)
        }
        Op::Truncate { file, len } => {
            inner.count(kind, c"")?;
            let number = inner.number_of(&file);
            let inode = inner.inode(number)?;
            inode.data.resize(usize::try_from(len).unwrap(), 0);
            Ok(())
        }
        other => panic!("the engine does not use {:?}", other.kind()),
    }
}
