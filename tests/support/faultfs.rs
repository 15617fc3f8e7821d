//! The kernel's filesystem with faults: an operation fails, a write stores a wrong byte, and what was not flushed is known.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::sys::stat::{fstat, fstatat};
use ringsync::error::OpKind;
use ringsync::io::{Fs, Handle, Op, OpError, Outcome, Pending, Reply};

/// Device and inode.
type Id = (u64, u64);

/// Which operations fail.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// The one with this number, counted from 0.
    At(usize, Errno),
    /// All of a kind.
    Kind(OpKind, Errno),
}

#[derive(Debug, Default)]
struct State {
    /// Operations so far.
    operations: usize,
    fault: Option<Fault>,
    failed: Option<OpKind>,
    writes_to_corrupt: usize,
    dirty: BTreeSet<Id>,
    renamed_dirty: Vec<CString>,
    syncs: usize,
}

/// What happens on one filesystem, whichever shard does it. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Faults(Arc<Mutex<State>>);

impl Faults {
    pub(crate) fn new(fault: Fault) -> Self {
        let faults = Self::default();
        faults.lock().fault = Some(fault);
        faults
    }

    /// The next `count` writes, of whatever kind, store a wrong byte and say that they went well.
    pub(crate) fn corrupting(count: usize) -> Self {
        let faults = Self::default();
        faults.lock().writes_to_corrupt = count;
        faults
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// What failed, if the fault was met.
    pub(crate) fn failed(&self) -> Option<OpKind> {
        self.lock().failed
    }

    /// Whether there were so many operations that number `at` was among them.
    pub(crate) fn met(&self, at: usize) -> bool {
        self.lock().operations > at
    }

    /// Files that were renamed while their contents might still have been lost.
    pub(crate) fn renamed_dirty(&self) -> Vec<CString> {
        self.lock().renamed_dirty.clone()
    }

    /// How often a whole filesystem was flushed.
    pub(crate) fn syncs(&self) -> usize {
        self.lock().syncs
    }

    /// The files and directories of a tree that have changed and were not flushed, sorted.
    pub(crate) fn dirty_below(&self, root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut rest = vec![root.to_owned()];
        while let Some(path) = rest.pop() {
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                rest.extend(
                    fs::read_dir(&path)
                        .unwrap()
                        .map(|entry| entry.unwrap().path()),
                );
            } else if !meta.is_file() {
                continue;
            }
            if self.lock().dirty.contains(&(meta.dev(), meta.ino())) {
                found.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
        found.sort();
        found
    }

    /// `fs` with these faults.
    pub(crate) fn on(&self, fs: Rc<dyn Fs>) -> Rc<dyn Fs> {
        Rc::new(FaultFs {
            fs,
            faults: self.clone(),
        })
    }
}

struct FaultFs {
    fs: Rc<dyn Fs>,
    faults: Faults,
}

impl Fs for FaultFs {
    fn start(&self, op: Op) -> Pending {
        let kind = op.kind();
        let state = &mut *self.faults.lock();
        let number = state.operations;
        state.operations += 1;
        let errno = match state.fault {
            Some(Fault::At(at, errno)) => (at == number).then_some(errno),
            Some(Fault::Kind(which, errno)) => (which == kind).then_some(errno),
            None => None,
        };
        if let Some(errno) = errno
            && !matches!(op, Op::StatMany { .. })
        {
            state.failed = Some(kind);
            return Pending::ready(Err(OpError { kind, errno }));
        }
        let outcome = run(&*self.fs, state, op);
        Pending::ready(outcome)
    }

    fn is_slow(&self, _dev: u64) -> bool {
        false
    }
}

fn id(handle: &Handle) -> Id {
    let stat = fstat(handle).unwrap();
    (stat.st_dev, stat.st_ino)
}

fn id_at(dir: &Handle, name: &CStr) -> Option<Id> {
    let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// What an operation changes, if it goes well.
fn changed(op: &Op) -> Vec<Id> {
    match op {
        Op::Create { at, .. }
        | Op::MakeDir { at, .. }
        | Op::MakeNode { at, .. }
        | Op::MakeSymlink { at, .. }
        | Op::Unlink { at, .. }
        | Op::RemoveDir { at, .. }
        | Op::Rename { at, .. } => vec![id(at)],
        Op::Move { from, to, .. } => vec![id(from), id(to)],
        Op::Write { file, .. } | Op::Truncate { file, .. } => vec![id(file)],
        Op::Link { to, .. } | Op::CopyRange { to, .. } | Op::Clone { to, .. } => vec![id(to)],
        Op::SetAttrs { inode, .. } => vec![id(inode)],
        _ => Vec::new(),
    }
}

fn run(fs: &dyn Fs, state: &mut State, op: Op) -> Outcome {
    let changes = changed(&op);
    let mut flushed = None;
    match &op {
        Op::Fsync { file } => flushed = Some(id(file)),
        Op::Rename { at, from, to }
            if id_at(at, from).is_some_and(|id| state.dirty.contains(&id)) =>
        {
            state.renamed_dirty.push(to.clone());
        }
        _ => {}
    }
    let syncs = matches!(op, Op::SyncFs { .. });
    let makes = matches!(op, Op::Create { .. });
    let written = written_to(&op);
    let Pending::Ready(Some(outcome)) = fs.start(op) else {
        panic!("the inline engine is done at once");
    };
    let reply = outcome?;
    state.dirty.extend(changes);
    if let Reply::Opened(_, meta) = &reply
        && makes
    {
        state.dirty.insert((meta.dev, meta.ino));
    }
    if let Some(id) = flushed {
        state.dirty.remove(&id);
    }
    if syncs {
        state.syncs += 1;
        state.dirty.clear();
    }
    if let Some((file, offset)) = written
        && state.writes_to_corrupt > 0
    {
        state.writes_to_corrupt -= 1;
        flip(&file, offset);
    }
    Ok(reply)
}

/// The file that an operation writes to, and from where.
fn written_to(op: &Op) -> Option<(Handle, u64)> {
    match op {
        Op::Write { file, offset, .. } => Some((file.clone(), *offset)),
        Op::CopyRange { to, offset, .. } => Some((to.clone(), *offset)),
        Op::Clone { to, .. } => Some((to.clone(), 0)),
        _ => None,
    }
}

fn flip(file: &Handle, offset: u64) {
    // It may be open for writing only.
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    if file.read_at(&mut byte, offset).unwrap() == 1 {
        file.write_all_at(&[!byte[0]], offset).unwrap();
    }
}
