//! A world in memory with a source, a destination and what lies beside them, as the engine sees filesystems. Everything
//! that can go wrong there does when its plan says so, and everything that the engine does is watched.

#[path = "sim_changes.rs"]
mod changes;
#[path = "sim_plan.rs"]
pub(crate) mod plan;
// Where the other support is used too, it has its own.
#[allow(clippy::duplicate_mod)]
#[path = "rng.rs"]
pub(crate) mod rng;
#[path = "sim_watch.rs"]
pub(crate) mod watch;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use nix::errno::Errno;
use ringsync::error::{OpKind, Side};
use ringsync::io::{Buffer, Change, Fs, Handle, Op, OpError, Outcome, Pending, Reply, Target};
use ringsync::model::{Attrs, Kind, Listing, Meta, State, Time, Xattrs};

#[allow(unused_imports)] // Some test crates use only some of it.
pub(crate) use changes::Manner;
#[allow(unused_imports)] // The same.
pub(crate) use plan::{Fault, Plan, Types};
use rng::Rng;
use watch::{Injected, Listed, Watch};

/// When a world begins: long before the present, so that what an engine left behind there is from an earlier run.
const BEGIN_SEC: i64 = 1_700_000_000;
const WORLD: u64 = 1;
const SOURCE: u64 = 2;
const DEST: u64 = 3;
const CANARY: u64 = 4;
/// What symlinks of both trees like to point to, and nobody may touch.
pub(crate) const CANARY_PATH: &str = "/canary/dir";

trait Rooted {
    fn root(self) -> u64;
    fn dev(self) -> u64;
}

impl Rooted for Side {
    fn root(self) -> u64 {
        match self {
            Self::Source => SOURCE,
            Self::Destination => DEST,
        }
    }

    fn dev(self) -> u64 {
        self.root()
    }
}

#[derive(Clone, Debug)]
struct Inode {
    kind: Kind,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    mtime: Time,
    /// Moved by every change, and settable by nobody.
    ctime: Time,
    /// Of a file its bytes, of a symlink its target.
    data: Vec<u8>,
    entries: BTreeMap<CString, u64>,
    xattrs: BTreeMap<CString, Vec<u8>>,
    /// Of a directory.
    parent: u64,
    rdev: u64,
}

/// Blocks of zeros that a file may keep as holes.
const BLOCK: usize = 8;

impl Inode {
    fn new(kind: Kind, mode: u32, mtime: Time) -> Self {
        Self {
            kind,
            mode: if kind == Kind::Symlink { 0o777 } else { mode },
            uid: 0,
            gid: 0,
            nlink: 0,
            mtime,
            ctime: mtime,
            data: Vec::new(),
            entries: BTreeMap::new(),
            xattrs: BTreeMap::new(),
            parent: 0,
            rdev: 0,
        }
    }

    fn is_hole(&self, block: usize) -> bool {
        let end = self.data.len().min((block + 1) * BLOCK);
        self.data[block * BLOCK..end].iter().all(|byte| *byte == 0)
    }

    fn has_holes(&self) -> bool {
        self.kind == Kind::File && (0..self.data.len().div_ceil(BLOCK)).any(|at| self.is_hole(at))
    }

    /// The first run of blocks with data that ends after `offset`.
    fn data_from(&self, offset: usize) -> Option<Range<u64>> {
        let blocks = self.data.len().div_ceil(BLOCK);
        let first = (offset / BLOCK..blocks).find(|at| !self.is_hole(*at))?;
        let end = (first..blocks).find(|at| self.is_hole(*at));
        let end = end.map_or(self.data.len(), |end| end * BLOCK);
        Some((first * BLOCK).max(offset) as u64..end as u64)
    }
}

/// An open file or directory.
#[derive(Clone, Debug)]
struct Open {
    inode: u64,
    side: Side,
    /// Relative to the side's root, when it was opened.
    path: String,
    mtime: Time,
    /// The last name listed through it.
    listed: Option<CString>,
}

#[derive(Debug)]
struct Inner {
    inodes: BTreeMap<u64, Inode>,
    /// By handle number.
    open: Vec<Open>,
    next_inode: u64,
    operations: usize,
    /// Grows with everything that is stamped.
    ticks: i64,
    /// The clock stands still, as between two ticks.
    is_frozen: bool,
    dead: bool,
    plan: Plan,
    rng: Rng,
    watch: Watch,
    /// While a tree is built: the inodes that have several names.
    links: BTreeMap<(u64, String), u64>,
}

/// One entry, as tests compare it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) data: Vec<u8>,
    pub(crate) rdev: u64,
    pub(crate) xattrs: BTreeMap<CString, Vec<u8>>,
    /// The first name of the same inode; empty when it has no other.
    pub(crate) link: String,
}

impl Seen {
    pub(crate) fn new(kind: Kind, mode: u32, mtime_sec: i64, data: &[u8]) -> Self {
        Self {
            kind,
            mode: if kind == Kind::Symlink { 0o777 } else { mode },
            uid: 0,
            gid: 0,
            mtime: Time {
                sec: mtime_sec,
                nsec: 7,
            },
            data: data.to_vec(),
            rdev: 0,
            xattrs: BTreeMap::new(),
            link: String::new(),
        }
    }
}

/// Entries by path below a root; the root itself is the empty path.
pub(crate) type Tree = BTreeMap<String, Seen>;

/// Clones are the same world.
#[derive(Clone, Debug)]
pub(crate) struct World(Arc<Mutex<Inner>>);

pub(crate) fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}/{name}")
    }
}

impl World {
    /// Two empty trees beside a canary.
    #[must_use]
    pub(crate) fn new() -> Self {
        let time = Time { sec: 1, nsec: 0 };
        let mut inner = Inner::with(BTreeMap::new(), WORLD);
        for (name, parent) in [
            (c"", WORLD),
            (c"source", WORLD),
            (c"dest", WORLD),
            (c"canary", WORLD),
            (c"dir", CANARY),
        ] {
            let number = inner.insert(Inode::new(Kind::Dir, 0o755, time));
            inner.attach(parent, name.to_owned(), number);
        }
        inner.inodes.get_mut(&WORLD).unwrap().entries.remove(c"");
        for parent in [CANARY, CANARY + 1] {
            let mut file = Inode::new(Kind::File, 0o600, time);
            file.data = b"nobody's business".to_vec();
            let number = inner.insert(file);
            inner.attach(parent, c"file".to_owned(), number);
        }
        Self(Arc::new(Mutex::new(inner)))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves a world that is fit to be looked at.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A world that looks the same, shares nothing, and where nothing goes wrong: also what is left after a crash.
    #[must_use]
    pub(crate) fn fork(&self) -> Self {
        let inner = self.lock();
        let mut fork = Inner::with(inner.inodes.clone(), inner.next_inode);
        fork.ticks = inner.ticks;
        Self(Arc::new(Mutex::new(fork)))
    }

    /// Others make so many changes. In the destination they replace, move and remove, and rewrite nothing where it is.
    pub(crate) fn change(&self, side: Side, changes: usize) {
        let mut inner = self.lock();
        for _ in 0..changes {
            let manner = match side {
                Side::Source => Manner::Any,
                Side::Destination => Manner::NamesOnly,
            };
            inner.change(side, manner);
        }
    }

    /// Writes other bytes into a file, and puts its mtime back.
    pub(crate) fn forge(&self, side: Side, path: &str, data: &[u8]) {
        let mut inner = self.lock();
        let number = inner.all_below(side.root())[path];
        let now = inner.now();
        let inode = inner.inodes.get_mut(&number).unwrap();
        inode.data = data.to_vec();
        inode.ctime = now;
    }

    /// Exchanges two names.
    pub(crate) fn swap(&self, side: Side, a: &str, b: &str) {
        let mut inner = self.lock();
        let all = inner.all_below(side.root());
        for (path, number) in [(a, all[b]), (b, all[a])] {
            let now = inner.now();
            let dir = inner.inodes.get_mut(&all[watch::parent(path)]).unwrap();
            (dir.mtime, dir.ctime) = (now, now);
            let name = CString::new(watch::basename(path)).unwrap();
            dir.entries.insert(name, number);
        }
    }

    /// Removes a name.
    pub(crate) fn take(&self, side: Side, path: &str) {
        self.lock().take_out(side, path);
    }

    /// From now on the clock stands still, or goes on.
    pub(crate) fn freeze(&self, is_frozen: bool) {
        self.lock().is_frozen = is_frozen;
    }

    /// From now on this happens, and operations are counted from 0.
    pub(crate) fn set_plan(&self, plan: Plan) {
        let mut inner = self.lock();
        inner.rng = Rng::new(plan.seed);
        inner.plan = plan;
        inner.operations = 0;
        inner.dead = false;
        inner.begin_watch();
    }

    #[must_use]
    pub(crate) fn watched(&self) -> Watch {
        self.lock().watch.clone()
    }

    /// How many operations were started since the plan was set.
    #[must_use]
    pub(crate) fn operations(&self) -> usize {
        self.lock().operations
    }

    /// Whether the crash of the plan has happened.
    #[must_use]
    pub(crate) fn is_dead(&self) -> bool {
        self.lock().dead
    }

    /// Adds an entry; its parents are there already. Files with the same `link` become names of one inode.
    pub(crate) fn add(&self, side: Side, path: &str, entry: &Seen) {
        let mut inner = self.lock();
        let dir = inner.all_below(side.root())[watch::parent(path)];
        let name = CString::new(watch::basename(path)).unwrap();
        let link = (side.root(), entry.link.clone());
        if let Some(known) = inner.links.get(&link).copied() {
            return inner.attach(dir, name, known);
        }
        let mut inode = Inode::new(entry.kind, entry.mode, entry.mtime);
        inode.data.clone_from(&entry.data);
        (inode.uid, inode.gid, inode.rdev) = (entry.uid, entry.gid, entry.rdev);
        inode.xattrs.clone_from(&entry.xattrs);
        let number = inner.insert(inode);
        inner.attach(dir, name, number);
        if !entry.link.is_empty() {
            inner.links.insert(link, number);
        }
    }

    /// The times of directories, which everything that was added has moved.
    pub(crate) fn set_mtime(&self, side: Side, path: &str, mtime: Time) {
        let mut inner = self.lock();
        let number = inner.all_below(side.root())[path];
        inner.inodes.get_mut(&number).unwrap().mtime = mtime;
    }

    #[must_use]
    pub(crate) fn seen(&self, side: Side) -> Tree {
        self.lock().seen_below(side.root())
    }

    #[must_use]
    pub(crate) fn canary(&self) -> Tree {
        self.lock().seen_below(CANARY)
    }

    #[must_use]
    pub(crate) fn root(&self, side: Side) -> Handle {
        let number = self.lock().open(side.root(), side, String::new());
        Handle::virtual_number(number, side.dev())
    }

    /// Device and inode of a root.
    #[must_use]
    pub(crate) fn root_identity(side: Side) -> (u64, u64) {
        (side.dev(), side.root())
    }

    /// One side from one shard.
    #[must_use]
    pub(crate) fn mount(&self, side: Side) -> Rc<dyn Fs> {
        Rc::new(Mount {
            world: self.clone(),
            side,
        })
    }
}

struct Mount {
    world: World,
    side: Side,
}

impl Fs for Mount {
    fn start(&self, op: Op) -> Pending {
        let mut inner = self.world.lock();
        let turns_late_max = inner.plan.turns_late_max;
        if turns_late_max == 0 {
            return Pending::ready(inner.run(self.side, op));
        }
        let turns_left = inner.rng.below(turns_late_max + 1);
        let at_once = inner.rng.chance(50);
        let (op, outcome) = if at_once {
            (None, Some(inner.run(self.side, op)))
        } else {
            (Some(op), None)
        };
        Pending::Boxed(Box::pin(Late {
            world: self.world.clone(),
            side: self.side,
            turns_left,
            op,
            outcome,
        }))
    }

    fn is_slow(&self, _dev: u64) -> bool {
        self.world.lock().plan.slow
    }
}

/// An operation that takes its time: its effect comes at once or with its completion.
struct Late {
    world: World,
    side: Side,
    turns_left: usize,
    op: Option<Op>,
    outcome: Option<Outcome>,
}

impl Future for Late {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        if self.turns_left > 0 {
            self.turns_left -= 1;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(op) = self.op.take() {
            let outcome = self.world.lock().run(self.side, op);
            self.outcome = Some(outcome);
        }
        Poll::Ready(self.outcome.take().expect("polled after its end"))
    }
}

impl Drop for Late {
    /// What was started goes on to its end even when nobody waits for it.
    fn drop(&mut self) {
        if let Some(op) = self.op.take() {
            let _ = self.world.lock().run(self.side, op);
        }
    }
}

impl Inner {
    fn with(inodes: BTreeMap<u64, Inode>, next_inode: u64) -> Self {
        Self {
            inodes,
            open: Vec::new(),
            next_inode,
            operations: 0,
            ticks: 0,
            is_frozen: false,
            dead: false,
            plan: Plan::default(),
            rng: Rng::new(0),
            watch: Watch::default(),
            links: BTreeMap::new(),
        }
    }

    fn now(&mut self) -> Time {
        self.ticks += i64::from(!self.is_frozen);
        Time {
            sec: BEGIN_SEC + self.ticks,
            nsec: 1,
        }
    }

    fn insert(&mut self, mut inode: Inode) -> u64 {
        inode.ctime = self.now();
        let number = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(number, inode);
        number
    }

    fn attach(&mut self, dir: u64, name: CString, number: u64) {
        let now = self.now();
        let inode = self.inodes.get_mut(&number).unwrap();
        inode.nlink += 1;
        inode.ctime = now;
        inode.parent = dir;
        let dir = self.inodes.get_mut(&dir).unwrap();
        dir.entries.insert(name, number);
    }

    /// The inodes below a root by path, the root included.
    fn all_below(&self, root: u64) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        let mut rest = vec![(String::new(), root)];
        while let Some((path, number)) = rest.pop() {
            for (name, child) in &self.inodes[&number].entries {
                rest.push((join(&path, name.to_str().unwrap()), *child));
            }
            all.insert(path, number);
        }
        all
    }

    fn seen_below(&self, root: u64) -> Tree {
        let all = self.all_below(root);
        let mut first: BTreeMap<u64, &String> = BTreeMap::new();
        for (path, number) in &all {
            first.entry(*number).or_insert(path);
        }
        let seen = |number: u64| {
            let inode = &self.inodes[&number];
            let is_shared = inode.kind == Kind::File && inode.nlink > 1;
            Seen {
                kind: inode.kind,
                mode: inode.mode,
                uid: inode.uid,
                gid: inode.gid,
                mtime: inode.mtime,
                data: inode.data.clone(),
                rdev: inode.rdev,
                xattrs: inode.xattrs.clone(),
                link: if is_shared {
                    first[&number].clone()
                } else {
                    String::new()
                },
            }
        };
        all.iter()
            .map(|(path, number)| (path.clone(), seen(*number)))
            .collect()
    }

    fn open(&mut self, inode: u64, side: Side, path: String) -> u64 {
        let mtime = self.inodes[&inode].mtime;
        self.open.push(Open {
            inode,
            side,
            path,
            mtime,
            listed: None,
        });
        self.open.len() as u64 - 1
    }

    fn opened(&self, handle: &Handle) -> &Open {
        &self.open[usize::try_from(handle.number().unwrap()).unwrap()]
    }

    fn number_of(&self, handle: &Handle) -> u64 {
        self.opened(handle).inode
    }

    /// The path of a name below an open directory.
    fn path_at(&self, at: &Handle, name: &CStr) -> String {
        let dir = &self.opened(at).path;
        match name.to_str().unwrap() {
            "." => dir.clone(),
            name => join(dir, name),
        }
    }

    /// The directory that a name leads to, and the last component. The kernel goes wherever a name tells it to.
    fn walk(&self, at: &Handle, name: &CStr) -> Result<(u64, CString), Errno> {
        let (mut dir, mut rest) = (self.number_of(at), name.to_str().unwrap().to_owned());
        for _ in 0..40 {
            if let Some(absolute) = rest.strip_prefix('/') {
                (dir, rest) = (WORLD, absolute.to_owned());
            }
            let Some((first, after)) = rest.split_once('/') else {
                return match rest.as_str() {
                    ".." => Ok((self.inodes[&dir].parent, c".".to_owned())),
                    _ => Ok((dir, CString::new(rest).unwrap())),
                };
            };
            let next = self.look_up(dir, &CString::new(first).unwrap())?;
            let inode = &self.inodes[&next];
            match inode.kind {
                Kind::Dir => (dir, rest) = (next, after.to_owned()),
                Kind::Symlink => {
                    rest = format!("{}/{after}", String::from_utf8_lossy(&inode.data));
                }
                _ => return Err(Errno::ENOTDIR),
            }
        }
        Err(Errno::ELOOP)
    }

    /// A path of directories, through no symlink and never upwards.
    fn walk_below(&self, at: &Handle, path: &[u8]) -> Result<u64, Errno> {
        let mut dir = self.number_of(at);
        let names = path.split(|byte| *byte == b'/');
        for name in names.filter(|name| !name.is_empty()) {
            if name == b".." {
                return Err(Errno::EXDEV);
            }
            dir = self.look_up(dir, &CString::new(name).unwrap())?;
            match self.inodes[&dir].kind {
                Kind::Dir => {}
                Kind::Symlink => return Err(Errno::ELOOP),
                _ => return Err(Errno::ENOTDIR),
            }
        }
        Ok(dir)
    }

    fn look_up(&self, dir: u64, name: &CStr) -> Result<u64, Errno> {
        let inode = self.inodes.get(&dir).ok_or(Errno::ESTALE)?;
        match name.to_str().unwrap() {
            "." => Ok(dir),
            ".." => Ok(inode.parent),
            _ => inode.entries.get(name).copied().ok_or(Errno::ENOENT),
        }
    }

    fn find(&self, at: &Handle, name: &CStr) -> Result<u64, Errno> {
        let (dir, name) = self.walk(at, name)?;
        self.look_up(dir, &name)
    }

    fn target(&self, target: &Target) -> Result<u64, Errno> {
        match target {
            Target::Open(handle) | Target::Anew(handle) => Ok(self.number_of(handle)),
            Target::Name(at, name) => self.find(at, name),
            Target::Followed(..) => panic!("no job here follows symlinks"),
        }
    }

    fn inode(&mut self, number: u64) -> Result<&mut Inode, Errno> {
        self.inodes.get_mut(&number).ok_or(Errno::ESTALE)
    }

    /// Counts an operation, lets happen what happens before it, and fails it when its turn has come.
    fn admit(&mut self, side: Side, kind: OpKind, path: &str, subject: u64) -> Result<(), Errno> {
        if self.dead {
            return Err(Errno::EIO);
        }
        let at = self.operations;
        if self.plan.crash_at == Some(at) {
            self.dead = true;
            return Err(Errno::EIO);
        }
        self.operations += 1;
        self.change_now_and_then();
        let Some(errno) = self.plan.errno(&mut self.rng, at, side, kind, subject) else {
            return Ok(());
        };
        if (side, kind) == (Side::Source, OpKind::ReadDir) {
            self.watch.listed.insert(path.to_owned(), Listed::Failed);
        }
        let path = path.to_owned();
        self.watch.injected.push(Injected {
            at,
            side,
            kind,
            path,
            errno,
        });
        Err(errno)
    }

    fn run(&mut self, side: Side, op: Op) -> Outcome {
        let kind = op.kind();
        match op {
            Op::StatMany {
                dir,
                listing,
                range,
            } => Ok(self.stat_many(side, &dir, listing, range)),
            Op::SetAttrs { inode, change } => self.set_attrs(side, &inode, &change),
            op => {
                let failed = |errno| OpError { kind, errno };
                let (path, subject) = self.subject(side, &op);
                self.admit(side, kind, &path, subject).map_err(failed)?;
                self.perform(side, op, &path).map_err(failed)
            }
        }
    }

    /// What an operation works on: its path, and the inode by which sticky faults know it.
    fn subject(&mut self, side: Side, op: &Op) -> (String, u64) {
        let (handle, name) = match op {
            Op::OpenDir { at, name, .. }
            | Op::Open { at, name, .. }
            | Op::OpenPlace { at, name }
            | Op::Create { at, name, .. }
            | Op::MakeDir { at, name, .. }
            | Op::MakeNode { at, name, .. }
            | Op::MakeSymlink { at, name, .. }
            | Op::ReadLink { at, name }
            | Op::Unlink { at, name }
            | Op::RemoveDir { at, name }
            | Op::Rename { at, to: name, .. }
            | Op::Link {
                to: at,
                to_name: name,
                ..
            } => (at, Some(name)),
            Op::ReadDir { dir, .. } => (dir, None),
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::Close { file }
            | Op::SeekData { file, .. }
            | Op::IsCached { file, .. }
            | Op::Lock { file }
            | Op::Truncate { file, .. } => (file, None),
            Op::OpenDirBelow { at, path } => {
                let path = join(&self.opened(at).path, str::from_utf8(path).unwrap());
                return (path, self.number_of(at));
            }
            Op::CopyRange { to, .. } | Op::Clone { to, .. } => (to, None),
            Op::Stat { target } | Op::ReadXattrs { target, .. } => match target {
                Target::Open(handle) | Target::Anew(handle) => (handle, None),
                Target::Name(at, name) | Target::Followed(at, name) => (at, Some(name)),
            },
            other => panic!("the engine does not use {:?} here", other.kind()),
        };
        if self.opened(handle).side != side {
            let path = &self.opened(handle).path;
            let text = format!("{:?} of {path} on the wrong side", op.kind());
            self.watch.violation(text);
        }
        let Some(name) = name else {
            return (self.opened(handle).path.clone(), self.number_of(handle));
        };
        let subject = self.find(handle, name).unwrap_or(self.number_of(handle));
        (self.path_at(handle, name), subject)
    }

    fn meta(&self, number: u64, side: Side) -> Result<Meta, Errno> {
        let inode = self.inodes.get(&number).ok_or(Errno::ESTALE)?;
        Ok(Meta {
            kind: inode.kind,
            mode: inode.mode,
            uid: inode.uid,
            gid: inode.gid,
            nlink: inode.nlink,
            size: inode.data.len() as u64,
            mtime: inode.mtime,
            ctime: inode.ctime,
            btime: Time::default(),
            atime: None,
            ino: number,
            dev: side.dev(),
            rdev: inode.rdev,
            has_holes: inode.has_holes(),
            unknown: Attrs::NONE,
        })
    }

    fn reply_opened(&mut self, number: u64, side: Side, path: &str) -> Result<Reply, Errno> {
        let meta = self.meta(number, side)?;
        let handle = self.open(number, side, path.to_owned());
        Ok(Reply::Opened(
            Handle::virtual_number(handle, side.dev()),
            meta,
        ))
    }

    fn perform(&mut self, side: Side, op: Op, path: &str) -> Result<Reply, Errno> {
        let kind = op.kind();
        match op {
            Op::OpenDir { at, name, .. } => {
                let number = self.find(&at, &name)?;
                if self.inode(number)?.kind != Kind::Dir {
                    return Err(Errno::ENOTDIR);
                }
                self.reply_opened(number, side, path)
            }
            Op::OpenDirBelow { at, path: below } => {
                let number = self.walk_below(&at, &below)?;
                self.reply_opened(number, side, path)
            }
            Op::OpenPlace { at, name } => {
                let number = self.find(&at, &name)?;
                self.reply_opened(number, side, path)
            }
            Op::ReadXattrs { target, carried } => {
                let number = self.target(&target)?;
                let xattrs = &self.inode(number)?.xattrs;
                let wanted = xattrs.iter().filter(|(name, _)| carried.wants(name));
                let wanted = wanted.map(|(name, value)| (name.clone(), value.clone()));
                Ok(Reply::Xattrs(Xattrs::new(wanted.collect())))
            }
            Op::IsCached { .. } => Ok(Reply::Cached(true)),
            Op::SeekData { file, offset } => {
                let number = self.number_of(&file);
                let offset = usize::try_from(offset).unwrap();
                Ok(Reply::Data(self.inode(number)?.data_from(offset)))
            }
            Op::Open { at, name, .. } => {
                let number = self.find(&at, &name)?;
                match self.inode(number)?.kind {
                    Kind::Symlink => Err(Errno::ELOOP),
                    Kind::Socket => Err(Errno::ENXIO),
                    _ => self.reply_opened(number, side, path),
                }
            }
            Op::ReadDir { dir, listing } => self.read_dir(&dir, listing),
            Op::Stat { target } => {
                let number = self.target(&target)?;
                self.meta(number, side).map(Reply::Meta)
            }
            Op::Read {
                file,
                buffer,
                offset,
            } => self.read(&file, buffer, offset),
            Op::ReadLink { at, name } => {
                let number = self.find(&at, &name)?;
                let inode = self.inode(number)?;
                if inode.kind != Kind::Symlink {
                    return Err(Errno::EINVAL);
                }
                Ok(Reply::Link(CString::new(inode.data.clone()).unwrap()))
            }
            Op::Close { .. } | Op::Lock { .. } => Ok(Reply::Done),
            op => {
                self.watch_change(side, kind, path);
                self.change_names(side, op, path)
            }
        }
    }

    /// The operations that make, remove and rename.
    fn change_names(&mut self, side: Side, op: Op, path: &str) -> Result<Reply, Errno> {
        let now = self.now();
        match op {
            Op::Create { at, name, mode, .. } => {
                let number = self.make(&at, &name, Inode::new(Kind::File, mode, now))?;
                return self.reply_opened(number, side, path);
            }
            Op::MakeDir { at, name, mode } => {
                self.make(&at, &name, Inode::new(Kind::Dir, mode, now))?;
            }
            Op::MakeNode {
                at,
                name,
                kind,
                mode,
                rdev,
            } => {
                let mut inode = Inode::new(kind, mode, now);
                inode.rdev = rdev;
                self.make(&at, &name, inode)?;
            }
            Op::MakeSymlink { at, name, target } => {
                let mut inode = Inode::new(Kind::Symlink, 0o777, now);
                inode.data = target.into_bytes();
                self.make(&at, &name, inode)?;
            }
            Op::Link {
                from,
                from_name,
                to,
                to_name,
            } => self.link(&from, &from_name, &to, &to_name)?,
            Op::Unlink { at, name } => self.unlink(&at, &name, false, path)?,
            Op::RemoveDir { at, name } => self.unlink(&at, &name, true, path)?,
            Op::Rename { at, from, to } => self.rename(&at, &from, &to, path)?,
            op => return self.change_data(op),
        }
        Ok(Reply::Done)
    }

    /// The operations that change bytes.
    fn change_data(&mut self, op: Op) -> Result<Reply, Errno> {
        match op {
            Op::Write {
                file,
                buffer,
                range,
                offset,
            } => {
                let count = range.len().min(self.plan.bytes_per_call);
                let bytes = &buffer[range.start..range.start + count];
                self.write(&file, bytes, offset)?;
                Ok(Reply::Moved(buffer, count))
            }
            Op::CopyRange {
                from,
                to,
                offset,
                len,
            } if self.plan.copies => {
                let data = &self.inodes[&self.number_of(&from)].data;
                let start = usize::try_from(offset).unwrap().min(data.len());
                let len = usize::try_from(len).unwrap();
                let count = len.min(data.len() - start).min(self.plan.bytes_per_call);
                let bytes = data[start..start + count].to_vec();
                self.write(&to, &bytes, offset)?;
                Ok(Reply::Copied(count as u64))
            }
            Op::Clone { from, to } if self.plan.clones => {
                let data = self.inodes[&self.number_of(&from)].data.clone();
                self.write(&to, &data, 0)?;
                Ok(Reply::Done)
            }
            Op::CopyRange { .. } | Op::Clone { .. } => Err(Errno::EOPNOTSUPP),
            Op::Truncate { file, len } => {
                let now = self.now();
                let number = self.number_of(&file);
                let inode = self.inode(number)?;
                inode.data.resize(usize::try_from(len).unwrap(), 0);
                (inode.mtime, inode.ctime) = (now, now);
                Ok(Reply::Done)
            }
            other => panic!("the engine does not use {:?}", other.kind()),
        }
    }

    fn read(&mut self, file: &Handle, mut buffer: Buffer, offset: u64) -> Result<Reply, Errno> {
        let per_call = self.plan.bytes_per_call;
        let number = self.number_of(file);
        let inode = self.inode(number)?;
        if inode.kind == Kind::Dir {
            return Err(Errno::EISDIR);
        }
        let data = &inode.data;
        let start = usize::try_from(offset).unwrap().min(data.len());
        let count = (data.len() - start).min(buffer.len()).min(per_call);
        buffer[..count].copy_from_slice(&data[start..start + count]);
        Ok(Reply::Moved(buffer, count))
    }

    fn write(&mut self, file: &Handle, bytes: &[u8], offset: u64) -> Result<(), Errno> {
        let now = self.now();
        let number = self.number_of(file);
        let inode = self.inode(number)?;
        let (start, end) = (usize::try_from(offset).unwrap(), bytes.len());
        inode.data.resize(inode.data.len().max(start + end), 0);
        inode.data[start..start + end].copy_from_slice(bytes);
        (inode.mtime, inode.ctime) = (now, now);
        Ok(())
    }

    /// A directory that can take names, by number.
    fn dir_to_change(&mut self, number: u64) -> Result<&mut Inode, Errno> {
        let now = self.now();
        let dir = self.inode(number)?;
        if dir.kind != Kind::Dir {
            return Err(Errno::ENOTDIR);
        }
        if dir.nlink == 0 {
            return Err(Errno::ENOENT);
        }
        (dir.mtime, dir.ctime) = (now, now);
        Ok(dir)
    }

    fn make(&mut self, at: &Handle, name: &CStr, inode: Inode) -> Result<u64, Errno> {
        let (dir, name) = self.walk(at, name)?;
        if self.look_up(dir, &name).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.dir_to_change(dir)?;
        let number = self.insert(inode);
        self.attach(dir, name, number);
        Ok(number)
    }

    fn link(
        &mut self,
        from: &Handle,
        from_name: &CStr,
        to: &Handle,
        to_name: &CStr,
    ) -> Result<(), Errno> {
        let number = self.find(from, from_name)?;
        let (dir, name) = self.walk(to, to_name)?;
        if self.look_up(dir, &name).is_ok() {
            return Err(Errno::EEXIST);
        }
        if self.inode(number)?.kind == Kind::Dir {
            return Err(Errno::EPERM);
        }
        self.dir_to_change(dir)?;
        self.attach(dir, name, number);
        Ok(())
    }

    fn unlink(
        &mut self,
        at: &Handle,
        name: &CStr,
        directory: bool,
        path: &str,
    ) -> Result<(), Errno> {
        let (dir, name) = self.walk(at, name)?;
        let number = self.look_up(dir, &name)?;
        let inode = self.inode(number)?;
        let kind = inode.kind;
        match (kind == Kind::Dir, directory) {
            (true, false) => return Err(Errno::EISDIR),
            (false, true) => return Err(Errno::ENOTDIR),
            (true, true) if !inode.entries.is_empty() => return Err(Errno::ENOTEMPTY),
            _ => {}
        }
        let now = self.now();
        let inode = self.inode(number)?;
        inode.nlink -= 1;
        inode.ctime = now;
        self.watch_removal(path, kind);
        self.dir_to_change(dir)?.entries.remove(&name);
        Ok(())
    }

    fn rename(&mut self, at: &Handle, from: &CStr, to: &CStr, path: &str) -> Result<(), Errno> {
        let (from_dir, from) = self.walk(at, from)?;
        let (to_dir, to) = self.walk(at, to)?;
        let number = self.look_up(from_dir, &from)?;
        let is_dir = self.inode(number)?.kind == Kind::Dir;
        if let Ok(replaced) = self.look_up(to_dir, &to) {
            if replaced == number {
                // Two names of one inode: nothing happens, as POSIX wants it.
                return Ok(());
            }
            let inode = self.inode(replaced)?;
            match (inode.kind == Kind::Dir, is_dir) {
                (true, false) => return Err(Errno::EISDIR),
                (false, true) => return Err(Errno::ENOTDIR),
                (true, true) if !inode.entries.is_empty() => return Err(Errno::ENOTEMPTY),
                _ => inode.nlink -= 1,
            }
        }
        self.watch_install(number, path);
        self.dir_to_change(from_dir)?.entries.remove(&from);
        self.dir_to_change(to_dir)?.entries.insert(to, number);
        let now = self.now();
        let inode = self.inode(number)?;
        (inode.parent, inode.ctime) = (to_dir, now);
        Ok(())
    }

    fn read_dir(&mut self, dir: &Handle, mut listing: Listing) -> Result<Reply, Errno> {
        let slot = usize::try_from(dir.number().unwrap()).unwrap();
        let Open {
            inode,
            side,
            path,
            mtime,
            listed,
        } = self.open[slot].clone();
        let Inode {
            entries,
            mtime: now,
            ..
        } = self.inode(inode)?.clone();
        if side == Side::Source && listed.is_none() {
            self.watch.listed.insert(path.clone(), Listed::Begun);
        }
        let after = |name: &CStr| listed.as_deref().is_none_or(|last| name > last);
        let next: Vec<(&CString, &u64)> = entries
            .iter()
            .filter(|(name, _)| after(name))
            .take(self.plan.names_per_read)
            .collect();
        for (name, child) in &next {
            self.open[slot].listed = Some((*name).clone());
            if mtime != now && self.rng.below(1000) < self.plan.omissions {
                self.watch.omitted += 1;
                continue;
            }
            let told = match self.plan.types {
                Types::Told => true,
                Types::Sometimes => *child % 2 == 0,
                Types::Unknown => false,
            };
            let kind = told.then(|| self.inodes[child].kind);
            listing.push(name, **child, kind);
            if self.rng.below(1000) < self.plan.repeats {
                self.watch.repeated += 1;
                listing.push(name, **child, kind);
            }
        }
        let more = !next.is_empty();
        if side == Side::Source && !more {
            self.watch.listed.insert(path, Listed::Complete);
        }
        Ok(Reply::Listed { listing, more })
    }

    fn stat_many(
        &mut self,
        side: Side,
        dir: &Handle,
        mut listing: Listing,
        range: Range<usize>,
    ) -> Reply {
        for at in range {
            if !listing.entries[at].state.is_asked() {
                continue;
            }
            let name = listing.name(&listing.entries[at]).to_owned();
            let path = self.path_at(dir, &name);
            let subject = self.find(dir, &name).unwrap_or(0);
            let admitted = self.admit(side, OpKind::Stat, &path, subject);
            let found = self.find(dir, &name);
            if let (Side::Source, Err(errno)) = (side, admitted)
                && (found.is_ok() || errno != Errno::ENOENT)
            {
                self.watch.unstatted.insert(path);
            }
            if side == Side::Source && admitted.is_ok() {
                // A name that was listed twice: once is enough.
                self.watch.statted.insert(self.path_at(dir, &name));
            }
            let result = admitted
                .and(found)
                .and_then(|number| self.meta(number, side));
            let entry = &mut listing.entries[at];
            match result {
                Ok(meta) => entry.fill(&meta),
                Err(errno) => entry.state = State::Failed(u16::try_from(errno as i32).unwrap()),
            }
        }
        let more = false;
        Reply::Listed { listing, more }
    }

    /// One system call after another, each of which may fail; all are tried.
    fn set_attrs(&mut self, side: Side, handle: &Handle, change: &Change) -> Outcome {
        let mut first = None;
        let mut mode = change.mode;
        if change.uid.is_some() || change.gid.is_some() {
            let chowned = self.set(side, handle, OpKind::SetOwner, &mut first, |inode| {
                inode.uid = change.uid.unwrap_or(inode.uid);
                inode.gid = change.gid.unwrap_or(inode.gid);
                if inode.kind != Kind::Dir {
                    inode.xattrs.remove(c"security.capability");
                }
                if inode.kind != Kind::Dir && inode.kind != Kind::Symlink {
                    inode.mode &= !0o6000;
                }
            });
            if !chowned {
                mode = mode.map(|mode| mode & !0o6000);
            }
        }
        if let Some(mode) = mode {
            self.set(side, handle, OpKind::SetMode, &mut first, |inode| {
                inode.mode = mode;
            });
        }
        for name in &change.xattrs.remove {
            self.set(side, handle, OpKind::SetXattrs, &mut first, |inode| {
                inode.xattrs.remove(name);
            });
        }
        for (name, value) in &change.xattrs.set {
            self.set(side, handle, OpKind::SetXattrs, &mut first, |inode| {
                inode.xattrs.insert(name.clone(), value.clone());
            });
        }
        if let Some(mtime) = change.mtime {
            self.set(side, handle, OpKind::SetTimes, &mut first, |inode| {
                inode.mtime = mtime;
            });
        }
        first.map_or(Ok(Reply::Done), Err)
    }

    fn set(
        &mut self,
        side: Side,
        handle: &Handle,
        kind: OpKind,
        first: &mut Option<OpError>,
        set: impl FnOnce(&mut Inode),
    ) -> bool {
        let path = self.opened(handle).path.clone();
        let number = self.number_of(handle);
        let admitted = self.admit(side, kind, &path, number);
        match admitted.and_then(|()| {
            self.watch_change(side, kind, &path);
            self.inode(number)
        }) {
            Ok(_) => {
                let now = self.now();
                let inode = self.inodes.get_mut(&number).unwrap();
                set(inode);
                inode.ctime = now;
                true
            }
            Err(errno) => {
                first.get_or_insert(OpError { kind, errno });
                false
            }
        }
    }
}
