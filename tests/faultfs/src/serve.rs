//! Requests of the kernel, answered by the backing directory unless a rule says otherwise.

use crate::Manner;
use crate::backing::{Backing, Result, kind_of, proc_path};
use crate::rules::{Call, Faults, Verdict};
use crate::timer::Timer;
use fuser::{
    CopyFileRangeFlags, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{
    AtFlags, CWD, Dir, FallocateFlags, Gid, Mode, OFlags, RenameFlags, SeekFrom, Timespec,
    Timestamps, UTIME_NOW, UTIME_OMIT, Uid, XattrFlags,
};
use rustix::io::Errno;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Short counts reach the caller, and writes of one file need not wait for each other.
const DIRECT: FopenFlags =
    FopenFlags::FOPEN_DIRECT_IO.union(FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES);
/// Background requests at once; the kernel's own choice is 12.
const BACKGROUND_MAX: u16 = 1024;
const GENERATION: Generation = Generation(0);

/// An entry of a listing.
struct Listed {
    name: OsString,
    ino: u64,
    kind: FileType,
}

/// What the kernel has open.
#[derive(Clone)]
enum Open {
    File(Arc<OwnedFd>),
    /// What it listed last, when it has begun to.
    Dir(Arc<Vec<Listed>>),
}

struct Core {
    backing: Backing,
    manner: Manner,
    faults: Arc<Faults>,
    open: Mutex<HashMap<u64, Open>>,
    next_handle: AtomicU64,
}

pub(crate) struct Server {
    core: Arc<Core>,
    timer: Timer,
}

/// An answer that can be an error.
trait Refuse: Send + 'static {
    fn refuse(self, errno: fuser::Errno);
}

macro_rules! refuse {
    ($($reply:ty),+ $(,)?) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: fuser::Errno) {
                self.error(errno);
            }
        })+
    };
}
refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyWrite,
    ReplyXattr,
);

/// Answers with a value, or with what went wrong.
fn answer<R: Refuse, T>(reply: R, result: Result<T>, with: impl FnOnce(R, T)) {
    match result {
        Ok(value) => with(reply, value),
        Err(errno) => reply.refuse(fuser::Errno::from_i32(errno.raw_os_error())),
    }
}

fn answer_entry(core: &Core, reply: ReplyEntry, result: Result<FileAttr>) {
    answer(reply, result, |reply, attr| {
        reply.entry(&core.manner.ttl, &attr, GENERATION);
    });
}

fn answer_empty(reply: ReplyEmpty, result: Result<()>) {
    answer(reply, result, |reply, ()| reply.ok());
}

impl Server {
    pub(crate) fn new(backing: Backing, faults: Arc<Faults>, manner: Manner) -> Self {
        Self {
            core: Arc::new(Core {
                backing,
                manner,
                faults,
                open: Mutex::default(),
                next_handle: AtomicU64::new(1),
            }),
            timer: Timer::start(),
        }
    }

    /// Does `work`, which answers, unless the rules have the request fail; now, or when the rules say so.
    fn serve<R: Refuse>(
        &self,
        calls: &[Call],
        paths: impl FnOnce(&Backing) -> Vec<Vec<u8>>,
        reply: R,
        work: impl FnOnce(&Core, Verdict, R) + Send + 'static,
    ) {
        let verdict = self.core.faults.judge(calls, || paths(&self.core.backing));
        let core = self.core.clone();
        let run = move || match verdict.errno {
            Some(errno) => reply.refuse(fuser::Errno::from_i32(errno as i32)),
            None => work(&core, verdict, reply),
        };
        let usual = Some(self.core.manner.delay).filter(|delay| !delay.is_zero());
        match verdict.delay.or(usual) {
            Some(delay) => self.timer.after(delay, Box::new(run)),
            None => run(),
        }
    }
}

impl Server {
    /// Serves a request that makes a name, which is then given to the user who asked for it.
    fn serve_new(
        &self,
        call: Call,
        (parent, name): (INodeNo, &OsStr),
        (req, mode): (&Request, u32),
        reply: ReplyEntry,
        make: impl FnOnce(&OwnedFd, &OsStr) -> Result<()> + Send + 'static,
    ) {
        let (owned, user) = (name.to_owned(), User::of(req));
        let paths = |backing: &Backing| vec![backing.path_in(parent, name)];
        self.serve(&[call], paths, reply, move |core, _, reply| {
            let entry = core.backing.fd(parent).and_then(|dir| {
                make(&dir, &owned)?;
                core.made(parent, &owned, user, mode)
            });
            answer_entry(core, reply, entry);
        });
    }
}

impl Core {
    fn open_table(&self) -> MutexGuard<'_, HashMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn opened(&self, open: Open) -> FileHandle {
        let number = self.next_handle.fetch_add(1, SeqCst);
        self.open_table().insert(number, open);
        FileHandle(number)
    }

    fn closed(&self, handle: FileHandle) {
        self.open_table().remove(&handle.0);
    }

    fn file(&self, handle: FileHandle) -> Result<Arc<OwnedFd>> {
        match self.open_table().get(&handle.0) {
            Some(Open::File(file)) => Ok(file.clone()),
            _ => Err(Errno::BADF),
        }
    }

    /// Attributes as the rules want them to look.
    fn shown(&self, mut attr: FileAttr) -> FileAttr {
        let path = || vec![self.backing.path_of(attr.ino)];
        let verdict = self.faults.judge(&[Call::Attr], path);
        attr.size = verdict.size.unwrap_or(attr.size);
        attr
    }

    fn look_up(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr> {
        Ok(self.shown(self.backing.look_up(parent, name)?))
    }

    /// Gives what was just made to the user who asked for it, and the mode that was asked for, whatever our umask is.
    fn made(&self, parent: INodeNo, name: &OsStr, user: User, mode: u32) -> Result<FileAttr> {
        let dir = self.backing.fd(parent)?;
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        if user.uid != 0 || user.gid != 0 {
            let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
            rustix::fs::chownat(&*dir, name, Some(uid), Some(gid), flags)?;
        }
        let stat = rustix::fs::statat(&*dir, name, flags)?;
        let is_symlink = stat.st_mode & 0o170_000 == 0o120_000;
        if !is_symlink && stat.st_mode & 0o7777 != mode & 0o7777 {
            // A directory's setgid bit is inherited, not asked for.
            let mode = Mode::from_raw_mode((mode & 0o7777) | (stat.st_mode & 0o2000));
            rustix::fs::chmodat(&*dir, name, mode, AtFlags::empty())?;
        }
        self.look_up(parent, name)
    }

    /// Reads a whole directory, as the rules want it to look.
    fn list(&self, ino: INodeNo) -> Result<Vec<Listed>> {
        let fd = rustix::fs::openat(
            &*self.backing.fd(ino)?,
            c".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let mut listing = Vec::new();
        for entry in Dir::read_from(&fd)? {
            let entry = entry?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            let path = || vec![self.backing.path_in(ino, &name)];
            let verdict = match name.as_bytes() {
                b"." | b".." => Verdict::default(),
                _ => self.faults.judge(&[Call::Entry], path),
            };
            let kind = verdict.kind.or_else(|| kind_of(entry.file_type()));
            let times = if verdict.omit {
                0
            } else {
                1 + usize::from(verdict.twice)
            };
            for _ in 0..times {
                listing.push(Listed {
                    name: name.clone(),
                    ino: entry.ino(),
                    kind: kind.unwrap_or(FileType::RegularFile),
                });
            }
        }
        Ok(listing)
    }

    fn set_attributes(&self, ino: INodeNo, change: &Change) -> Result<FileAttr> {
        let fd = self.backing.fd(ino)?;
        if change.uid.is_some() || change.gid.is_some() {
            let uid = change.uid.map(Uid::from_raw);
            let gid = change.gid.map(Gid::from_raw);
            rustix::fs::chownat(&*fd, c"", uid, gid, AtFlags::EMPTY_PATH)?;
        }
        if let Some(mode) = change.mode {
            let mode = Mode::from_raw_mode(mode & 0o7777);
            rustix::fs::chmod(proc_path(&fd), mode)?;
        }
        if let Some(size) = change.size {
            let file = self.backing.reopen(ino, OFlags::WRONLY)?;
            rustix::fs::ftruncate(&file, size)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let times = Timestamps {
                last_access: timespec(change.atime),
                last_modification: timespec(change.mtime),
            };
            rustix::fs::utimensat(CWD, proc_path(&fd), &times, AtFlags::empty())?;
        }
        Ok(self.shown(self.backing.attr(ino)?))
    }
}

/// Who asks.
#[derive(Clone, Copy)]
struct User {
    uid: u32,
    gid: u32,
}

impl User {
    fn of(request: &Request) -> Self {
        Self {
            uid: request.uid(),
            gid: request.gid(),
        }
    }
}

struct Change {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
}

impl Change {
    fn calls(&self) -> Vec<Call> {
        let parts = [
            (self.uid.is_some() || self.gid.is_some(), Call::Chown),
            (self.mode.is_some(), Call::Chmod),
            (self.size.is_some(), Call::Truncate),
            (self.atime.is_some() || self.mtime.is_some(), Call::SetTimes),
        ];
        let wanted = parts.into_iter().filter(|(wanted, _)| *wanted);
        wanted.map(|(_, call)| call).collect()
    }
}

fn timespec(time: Option<TimeOrNow>) -> Timespec {
    let special = |tv_nsec| Timespec { tv_sec: 0, tv_nsec };
    match time {
        None => special(UTIME_OMIT),
        Some(TimeOrNow::Now) => special(UTIME_NOW),
        Some(TimeOrNow::SpecificTime(time)) => {
            let (sec, nsec) = seconds_of(time);
            Timespec {
                tv_sec: sec,
                tv_nsec: nsec.into(),
            }
        }
    }
}

/// fuser 0.18 counts the nanoseconds of times before 1970 in the wrong direction when it reads a request, and this
/// takes that back.
fn seconds_of(time: SystemTime) -> (i64, u32) {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs().cast_signed(), since.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            (-before.as_secs().cast_signed(), before.subsec_nanos())
        }
    }
}

/// An extended attribute in the way that the kernel asks for it: its size first, then itself.
fn answer_xattr(reply: ReplyXattr, size: u32, read: impl FnOnce(&mut [u8]) -> Result<usize>) {
    let mut value = vec![0; usize::try_from(size).unwrap()];
    let result = read(&mut value);
    answer(reply, result, |reply, len| {
        if size == 0 {
            reply.size(u32::try_from(len).unwrap());
        } else {
            reply.data(&value[..len]);
        }
    });
}

impl Filesystem for Server {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Without it the kernel sends one request for each directory at a time.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let owned = name.to_owned();
        let paths = |backing: &Backing| vec![backing.path_in(parent, name)];
        self.serve(&[Call::Lookup], paths, reply, move |core, _, reply| {
            answer_entry(core, reply, core.look_up(parent, &owned));
        });
    }

    fn forget(&self, _req: &Request, ino: INodeNo, lookups: u64) {
        self.core.backing.forget(ino, lookups);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::GetAttr], paths, reply, move |core, _, reply| {
            let attr = core.backing.attr(ino).map(|attr| core.shown(attr));
            answer(reply, attr, |reply, attr| {
                reply.attr(&core.manner.ttl, &attr);
            });
        });
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change {
            mode,
            uid,
            gid,
            size,
            atime,
            mtime,
        };
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&change.calls(), paths, reply, move |core, _, reply| {
            let attr = core.set_attributes(ino, &change);
            answer(reply, attr, |reply, attr| {
                reply.attr(&core.manner.ttl, &attr);
            });
        });
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::ReadLink], paths, reply, move |core, _, reply| {
            let target = core
                .backing
                .fd(ino)
                .and_then(|fd| rustix::fs::readlinkat(&*fd, c"", Vec::new()));
            answer(reply, target, |reply, target| reply.data(target.as_bytes()));
        });
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = rustix::fs::FileType::from_raw_mode(mode);
        let place = (parent, name);
        self.serve_new(
            Call::MakeNode,
            place,
            (req, mode),
            reply,
            move |dir, name| {
                rustix::fs::mknodat(dir, name, kind, Mode::from_raw_mode(0o600), rdev.into())
            },
        );
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let place = (parent, name);
        self.serve_new(Call::MakeDir, place, (req, mode), reply, |dir, name| {
            rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(0o700))
        });
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let owned = name.to_owned();
        let paths = |backing: &Backing| vec![backing.path_in(parent, name)];
        self.serve(&[Call::Unlink], paths, reply, move |core, _, reply| {
            let dir = core.backing.fd(parent);
            let gone = dir.and_then(|dir| rustix::fs::unlinkat(&*dir, &*owned, AtFlags::empty()));
            answer_empty(reply, gone);
        });
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let owned = name.to_owned();
        let paths = |backing: &Backing| vec![backing.path_in(parent, name)];
        self.serve(&[Call::RemoveDir], paths, reply, move |core, _, reply| {
            let dir = core.backing.fd(parent);
            let gone = dir.and_then(|dir| rustix::fs::unlinkat(&*dir, &*owned, AtFlags::REMOVEDIR));
            answer_empty(reply, gone);
        });
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (place, target) = ((parent, name), target.to_owned());
        self.serve_new(
            Call::MakeSymlink,
            place,
            (req, 0o777),
            reply,
            move |dir, name| rustix::fs::symlinkat(&*target, dir, name),
        );
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: fuser::RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (name.to_owned(), new_name.to_owned());
        let paths = |backing: &Backing| {
            vec![
                backing.path_in(parent, name),
                backing.path_in(new_parent, new_name),
            ]
        };
        self.serve(
            &[Call::Rename],
            paths,
            reply,
            move |core, verdict, reply| {
                let flags = RenameFlags::from_bits_retain(flags.bits());
                let (from, to) = ((parent, &*from), (new_parent, &*to));
                let renamed = core.backing.rename(from, to, flags);
                let told = verdict
                    .errno_when_done
                    .map_or(renamed, |errno| Err(Errno::from_raw_os_error(errno as i32)));
                answer_empty(reply, told);
            },
        );
    }

    fn link(&self, _req: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let owned = name.to_owned();
        let paths = |backing: &Backing| vec![backing.path_of(ino), backing.path_in(parent, name)];
        self.serve(&[Call::Link], paths, reply, move |core, _, reply| {
            answer_entry(core, reply, core.backing.link(ino, parent, &owned));
        });
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::Open], paths, reply, move |core, _, reply| {
            let file = core.backing.reopen(ino, access_of(flags.0));
            answer(reply, file, |reply, file| {
                reply.opened(core.opened(Open::File(Arc::new(file))), DIRECT);
            });
        });
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (owned, user) = (name.to_owned(), User::of(req));
        let paths = |backing: &Backing| vec![backing.path_in(parent, name)];
        self.serve(&[Call::Create], paths, reply, move |core, _, reply| {
            let flags = access_of(flags) | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
            let entry = core.backing.fd(parent).and_then(|dir| {
                let access = Mode::from_raw_mode(0o600);
                let file = rustix::fs::openat(&*dir, &*owned, flags | OFlags::CLOEXEC, access)?;
                let attr = core.made(parent, &owned, user, mode)?;
                Ok((attr, file))
            });
            answer(reply, entry, |reply, (attr, file)| {
                let handle = core.opened(Open::File(Arc::new(file)));
                reply.created(&core.manner.ttl, &attr, GENERATION, handle, DIRECT);
            });
        });
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::Read], paths, reply, move |core, verdict, reply| {
            let mut buffer = vec![0; verdict.limit(usize::try_from(size).unwrap())];
            let file = core.file(fh);
            let count = file.and_then(|file| rustix::io::pread(&*file, &mut buffer, offset));
            answer(reply, count, |reply, count| reply.data(&buffer[..count]));
        });
    }

    fn write(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::Write], paths, reply, move |core, verdict, reply| {
            let data = &data[..verdict.limit(data.len())];
            let file = core.file(fh);
            let count = file.and_then(|file| rustix::io::pwrite(&*file, data, offset));
            answer(reply, count, |reply, count| {
                reply.written(u32::try_from(count).unwrap());
            });
        });
    }

    fn flush(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::Flush], paths, reply, |_, _, reply| reply.ok());
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.core.closed(fh);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, ino: INodeNo, fh: FileHandle, _data: bool, reply: ReplyEmpty) {
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::Fsync], paths, reply, move |core, _, reply| {
            let synced = core.file(fh).and_then(|file| rustix::fs::fsync(&*file));
            answer_empty(reply, synced);
        });
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::OpenDir], paths, reply, |core, _, reply| {
            let handle = core.opened(Open::Dir(Arc::default()));
            reply.opened(handle, FopenFlags::empty());
        });
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        let call = if offset == 0 {
            Call::ReadDir
        } else {
            Call::ReadDirMore
        };
        self.serve(&[call], paths, reply, move |core, verdict, reply| {
            let listing = core.listing(ino, fh, offset == 0);
            answer(reply, listing, |mut reply, listing| {
                let skip = usize::try_from(offset).unwrap();
                let entries = listing.iter().enumerate().skip(skip);
                for (at, entry) in entries.take(verdict.limit(usize::MAX)) {
                    let next = at as u64 + 1;
                    if reply.add(INodeNo(entry.ino), next, entry.kind, &entry.name) {
                        break;
                    }
                }
                reply.ok();
            });
        });
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.core.closed(fh);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _data: bool,
        reply: ReplyEmpty,
    ) {
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::Fsync], paths, reply, |_, _, reply| reply.ok());
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let root = self.core.backing.fd(INodeNo::ROOT);
        match root.and_then(rustix::fs::fstatvfs) {
            Ok(stat) => reply.statfs(
                stat.f_blocks,
                stat.f_bfree,
                stat.f_bavail,
                stat.f_files,
                stat.f_ffree,
                u32::try_from(stat.f_bsize).unwrap(),
                u32::try_from(stat.f_namemax).unwrap(),
                u32::try_from(stat.f_frsize).unwrap(),
            ),
            Err(errno) => reply.error(fuser::Errno::from_i32(errno.raw_os_error())),
        }
    }

    fn setxattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (name, value) = (name.to_owned(), value.to_vec());
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::SetXattr], paths, reply, move |core, _, reply| {
            let flags = XattrFlags::from_bits_retain(flags.cast_unsigned());
            let set = core
                .backing
                .fd(ino)
                .and_then(|fd| rustix::fs::setxattr(proc_path(&fd), &*name, &value, flags));
            answer_empty(reply, set);
        });
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::GetXattr], paths, reply, move |core, _, reply| {
            answer_xattr(reply, size, |value| {
                let fd = core.backing.fd(ino)?;
                rustix::fs::getxattr(proc_path(&fd), &*name, value)
            });
        });
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::ListXattr], paths, reply, move |core, _, reply| {
            answer_xattr(reply, size, |names| {
                let fd = core.backing.fd(ino)?;
                rustix::fs::listxattr(proc_path(&fd), names)
            });
        });
    }

    fn removexattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let name = name.to_owned();
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::RemoveXattr], paths, reply, move |core, _, reply| {
            let fd = core.backing.fd(ino);
            let gone = fd.and_then(|fd| rustix::fs::removexattr(proc_path(&fd), &*name));
            answer_empty(reply, gone);
        });
    }

    fn fallocate(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::Allocate], paths, reply, move |core, _, reply| {
            let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
            let file = core.file(fh);
            let done = file.and_then(|file| rustix::fs::fallocate(&*file, mode, offset, length));
            answer_empty(reply, done);
        });
    }

    fn lseek(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let paths = |backing: &Backing| vec![backing.path_of(ino)];
        self.serve(&[Call::Seek], paths, reply, move |core, _, reply| {
            let at = offset.cast_unsigned();
            let from = match whence {
                nix::libc::SEEK_DATA => Ok(SeekFrom::Data(at)),
                nix::libc::SEEK_HOLE => Ok(SeekFrom::Hole(at)),
                nix::libc::SEEK_END => Ok(SeekFrom::End(offset)),
                nix::libc::SEEK_SET => Ok(SeekFrom::Start(at)),
                _ => Err(Errno::INVAL),
            };
            let found = from.and_then(|from| rustix::fs::seek(core.file(fh)?.as_fd(), from));
            answer(reply, found, |reply, at| reply.offset(at.cast_signed()));
        });
    }

    fn copy_file_range(
        &self,
        _req: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let paths = |backing: &Backing| vec![backing.path_of(ino_in), backing.path_of(ino_out)];
        self.serve(
            &[Call::CopyRange],
            paths,
            reply,
            move |core, verdict, reply| {
                // The count in the answer has 32 bits.
                let len = usize::try_from(len.min(1 << 30)).unwrap();
                let (mut from, mut to) = (offset_in, offset_out);
                let count = core.file(fh_in).and_then(|source| {
                    let dest = core.file(fh_out)?;
                    let (from, to) = (Some(&mut from), Some(&mut to));
                    rustix::fs::copy_file_range(&*source, from, &*dest, to, verdict.limit(len))
                });
                answer(reply, count, |reply, count| {
                    reply.written(u32::try_from(count).unwrap());
                });
            },
        );
    }
}

impl Core {
    /// The listing of an open directory, read anew at its start.
    fn listing(&self, ino: INodeNo, fh: FileHandle, anew: bool) -> Result<Arc<Vec<Listed>>> {
        if anew {
            let listing = Arc::new(self.list(ino)?);
            self.open_table().insert(fh.0, Open::Dir(listing));
        }
        match self.open_table().get(&fh.0) {
            Some(Open::Dir(listing)) => Ok(listing.clone()),
            _ => Err(Errno::BADF),
        }
    }
}

/// How to open the backing file for what the kernel wants of it. Offsets always come with the request, so a file is
/// never opened to append.
fn access_of(flags: i32) -> OFlags {
    let flags = OFlags::from_bits_retain(flags.cast_unsigned());
    flags & (OFlags::WRONLY | OFlags::RDWR | OFlags::TRUNC)
}
