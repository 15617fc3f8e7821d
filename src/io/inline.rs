//! Operations as plain system calls on the calling thread. The blocking pool runs the same functions.

use std::ffi::CStr;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{
    AtFlags, OFlag, PosixFadviseAdvice, copy_file_range, openat, posix_fadvise, readlinkat,
    renameat,
};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FUSE_SUPER_MAGIC, FsType,
    NFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{
    UnlinkatFlags, Whence, fsync, ftruncate, linkat, lseek, symlinkat, syncfs, unlinkat,
};
use rustix::fs::{
    AtFlags as StatAt, FileType, FlockOperation, RawDir, Statx, StatxFlags, StatxTimestamp, flock,
    ioctl_ficlone, statx,
};

use super::again::{REPEATS_MAX, is_transient, retry};
use super::attrs::{read_xattrs, set_attrs};
use super::beneath;
use super::direct::{is_cached, set_direct};
use super::op::{Handle, Links, Op, OpError, Outcome, Reply, Target};
use crate::model::{Attrs, Kind, Listing, Meta, State, Time};

/// Bytes asked of one getdents64 call: about 2,000 names of usual length, within a second-level cache.
const READ_DIR_BYTES: usize = 64 * 1024;

/// What a sync needs of statx, and nothing that a filesystem would have to compute besides.
pub(super) const STATX_WANTED: StatxFlags = StatxFlags::TYPE
    .union(StatxFlags::MODE)
    .union(StatxFlags::NLINK)
    .union(StatxFlags::UID)
    .union(StatxFlags::GID)
    .union(StatxFlags::MTIME)
    .union(StatxFlags::CTIME)
    .union(StatxFlags::BTIME)
    .union(StatxFlags::INO)
    .union(StatxFlags::SIZE)
    .union(StatxFlags::BLOCKS);

/// Symlinks are never followed, and an automount point is described, not triggered.
pub(super) const STATX_AT: StatAt = StatAt::SYMLINK_NOFOLLOW.union(StatAt::NO_AUTOMOUNT);

/// Without `O_NOFOLLOW`; see [`flags_of`].
pub(super) const OPEN_DIR: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_CLOEXEC);

/// `O_NONBLOCK`: a fifo that took a file's place between listing and open must not hang the run. Without `O_NOFOLLOW`; see
/// [`flags_of`].
pub(super) const OPEN_FILE: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_NONBLOCK)
    .union(OFlag::O_CLOEXEC);

pub(super) const OPEN_PLACE: OFlag = OFlag::O_PATH
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// The same as [`OPEN_FILE`] for a file that is written in place, and read back from it.
pub(super) const OPEN_WRITE: OFlag = OPEN_FILE.union(OFlag::O_RDWR);

/// `O_EXCL` refuses whatever is there, symlinks included.
const CREATE: OFlag = OFlag::O_CREAT
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// A file that is only written is opened for nothing else: an NFS server may then promise nothing (a delegation) that a rename
/// would have to give back.
pub(super) fn create_flags(readable: bool) -> OFlag {
    CREATE
        | if readable {
            OFlag::O_RDWR
        } else {
            OFlag::O_WRONLY
        }
}

/// A single name below an open directory that may not be a symlink cannot lead out of that directory: this is what
/// `openat2` with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS would say of it.
pub(super) fn flags_of(flags: OFlag, links: Links) -> OFlag {
    match links {
        Links::Refuse => flags | OFlag::O_NOFOLLOW,
        Links::Follow => flags,
    }
}

/// Runs an operation to its end on this thread.
///
/// # Errors
/// The system call that failed, and its errno.
pub fn run(op: Op) -> Outcome {
    run_on(op, None)
}

/// The same where it may be known who answers for the filesystem.
pub(super) fn run_on(op: Op, server: Option<ServedBy>) -> Outcome {
    let kind = op.kind();
    let errno = |errno| OpError { kind, errno };
    match op {
        Op::OpenDir { at, name, links } => {
            open(&at, &name, flags_of(OPEN_DIR, links), 0).map_err(errno)
        }
        Op::OpenDirBelow { at, path } => {
            let dir = beneath::open_dir(&at, &path).map_err(errno)?;
            opened(dir).map_err(errno)
        }
        Op::OpenPlace { at, name } => open_place(&at, &name).map_err(errno),
        Op::ReadDir { dir, mut listing } => {
            let more = if server == Some(ServedBy::Nfs) {
                read_dir_with_attributes(&dir, &mut listing)
            } else {
                read_dir(&dir, &mut listing, server).map(|read| read.more)
            };
            let more = more.map_err(errno)?;
            Ok(Reply::Listed { listing, more })
        }
        Op::StatMany {
            dir,
            mut listing,
            range,
        } => {
            stat_many(&dir, &mut listing, range);
            Ok(Reply::Listed {
                listing,
                more: false,
            })
        }
        Op::Stat { target } => stat(&target).map(Reply::Meta).map_err(errno),
        Op::Open { at, name, links } => {
            open(&at, &name, flags_of(OPEN_FILE, links), 0).map_err(errno)
        }
        Op::OpenWrite { at, name } => open(&at, &name, OPEN_WRITE, 0).map_err(errno),
        Op::Create {
            at,
            name,
            mode,
            readable,
        } => open_fd(&at, &name, create_flags(readable), mode)
            .and_then(made)
            .map_err(errno),
        Op::Read {
            file,
            mut buffer,
            offset,
        } => {
            let offset = offset_of(offset).map_err(errno)?;
            let count = retry(|| pread(&file, &mut buffer, offset)).map_err(errno)?;
            Ok(Reply::Moved(buffer, count))
        }
        Op::Write {
            file,
            buffer,
            range,
            offset,
        } => {
            let offset = offset_of(offset).map_err(errno)?;
            let count = retry(|| pwrite(&file, &buffer[range.clone()], offset)).map_err(errno)?;
            Ok(Reply::Moved(buffer, count))
        }
        Op::CopyRange {
            from,
            to,
            offset,
            len,
        } => copy_range(&from, &to, offset, len).map_err(errno),
        Op::ReadLink { at, name } => read_link(&at, &name).map_err(errno),
        Op::SetAttrs { inode, change } => set_attrs(&inode, &change),
        Op::ReadXattrs { target, carried } => read_xattrs(&target, carried)
            .map(Reply::Xattrs)
            .map_err(errno),
        Op::SeekData { file, offset } => seek_data(&file, offset).map_err(errno),
        Op::ReadChecksum { .. } => Ok(Reply::Checksum(None)),
        Op::IsCached { file, size } => Ok(Reply::Cached(is_cached(&file, size))),
        Op::Close { file } => close(file).map(|()| Reply::Done).map_err(errno),
        op => retry(|| run_namespace(&op)).map_err(errno),
    }
}

/// The operations that only change names or hand back nothing.
fn run_namespace(op: &Op) -> Result<Reply, Errno> {
    match op {
        Op::MakeDir { at, name, mode } => mkdirat(at, name.as_c_str(), mode_of(*mode))?,
        Op::MakeNode {
            at,
            name,
            kind,
            mode,
            rdev,
        } => {
            let format = SFlag::from_bits_truncate(kind.mode_bits());
            mknodat(at, name.as_c_str(), format, mode_of(*mode), *rdev)?;
        }
        Op::PutSymlink { .. } => return Err(Errno::EOPNOTSUPP),
        Op::MakeSymlink { at, name, target } => symlinkat(target.as_c_str(), at, name.as_c_str())?,
        Op::Link {
            from,
            from_name,
            to,
            to_name,
        } => linkat(
            from,
            from_name.as_c_str(),
            to,
            to_name.as_c_str(),
            AtFlags::empty(),
        )?,
        Op::Unlink { at, name } => unlinkat(at, name.as_c_str(), UnlinkatFlags::NoRemoveDir)?,
        Op::RemoveDir { at, name } => unlinkat(at, name.as_c_str(), UnlinkatFlags::RemoveDir)?,
        Op::Rename { at, from, to } => renameat(at, from.as_c_str(), at, to.as_c_str())?,
        Op::Clone { from, to } => ioctl_ficlone(to, from).map_err(errno_of)?,
        Op::Truncate { file, len } => ftruncate(file, offset_of(*len)?)?,
        Op::Move {
            from,
            from_name,
            to,
            to_name,
        } => renameat(from, from_name.as_c_str(), to, to_name.as_c_str())?,
        Op::Fsync { file } => fsync(file)?,
        Op::DropCache { file } => {
            posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
        Op::SyncFs { dir } => syncfs(dir)?,
        Op::Lock { file } => match flock(file, FlockOperation::NonBlockingLockExclusive) {
            // Where there are no locks, nobody has one.
            Err(error) if errno_of(error) == Errno::EWOULDBLOCK => return Err(Errno::EWOULDBLOCK),
            _ => {}
        },
        Op::SetDirect { file, direct } => set_direct(file, *direct)?,
        other => unreachable!("{:?} hands back something", other.kind()),
    }
    Ok(Reply::Done)
}

fn mode_of(mode: u32) -> Mode {
    Mode::from_bits_truncate(mode)
}

/// Offsets are `i64` in the kernel; what does not fit is beyond every file.
pub(super) fn offset_of(offset: u64) -> Result<i64, Errno> {
    i64::try_from(offset).map_err(|_| Errno::EFBIG)
}

pub(super) fn errno_of(errno: rustix::io::Errno) -> Errno {
    Errno::from_raw(errno.raw_os_error())
}

fn open(at: &Handle, name: &CStr, flags: OFlag, mode: u32) -> Result<Reply, Errno> {
    opened(open_fd(at, name, flags, mode)?)
}

pub(super) fn open_fd(at: &Handle, name: &CStr, flags: OFlag, mode: u32) -> Result<OwnedFd, Errno> {
    retry(|| openat(at, name, flags, mode_of(mode)))
}

/// The reply for a fresh descriptor: its attributes are in memory now, so asking does not block.
pub(super) fn opened(fd: OwnedFd) -> Result<Reply, Errno> {
    let meta = stat_fd(&fd)?;
    Ok(Reply::Opened(Handle::new(fd, meta.dev), meta))
}

/// As [`opened`], for a file that was just made.
pub(super) fn made(fd: OwnedFd) -> Result<Reply, Errno> {
    let meta = stat_made(&fd)?;
    Ok(Reply::Opened(Handle::new(fd, meta.dev), meta))
}

/// What a file that was just made looks like: as a server told it in its answer to that, which needs no other request.
pub(super) fn stat_made(fd: impl AsFd) -> Result<Meta, Errno> {
    stat_at(fd, c"", StatAt::EMPTY_PATH | StatAt::STATX_DONT_SYNC)
}

fn open_place(at: &Handle, name: &CStr) -> Result<Reply, Errno> {
    let fd = retry(|| openat(at, name, OPEN_PLACE, Mode::empty()))?;
    opened_place(fd)
}

/// As [`opened`], for a descriptor with `O_PATH`.
pub(super) fn opened_place(fd: OwnedFd) -> Result<Reply, Errno> {
    let meta = stat_fd(&fd)?;
    Ok(Reply::Opened(Handle::place(fd, meta.dev), meta))
}

/// What the type of a filesystem says about it.
#[derive(Clone, Copy, Debug)]
pub(super) struct FsTraits {
    pub server: ServedBy,
    /// Its copy_file_range may share blocks, or have a server copy (NFS, SMB, Ceph, FUSE). Elsewhere it goes through a pipe.
    pub offloads_copies: bool,
    /// Its times come from this machine's clock.
    pub has_own_clock: bool,
}

/// Who answers for a filesystem, where that matters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ServedBy {
    Fuse,
    Nfs,
    /// Another machine: SMB, Ceph, 9p, AFS, Lustre.
    Other,
    Kernel,
}

/// A server that does not answer may be anything.
pub(super) fn traits_of(file: &Handle) -> FsTraits {
    const NEITHER_SHARES_NOR_ASKS: [FsType; 3] = [TMPFS_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC];
    const SHARES: [FsType; 2] = [XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC];
    /// SMB1, CIFS, SMB2, Ceph, 9p, AFS (linux/magic.h), Lustre.
    const OTHER_SERVERS: [u32; 7] = [
        0x517b,
        0xff53_4d42,
        0xfe53_4d42,
        0x00c3_6400,
        0x0102_1997,
        0x5346_414f,
        0x0bd0_0bd0,
    ];
    let kind = retry(|| fstatfs(file)).map(|fs| fs.filesystem_type());
    FsTraits {
        server: match kind {
            Err(_) | Ok(FUSE_SUPER_MAGIC) => ServedBy::Fuse,
            Ok(NFS_SUPER_MAGIC) => ServedBy::Nfs,
            Ok(FsType(kind))
                if u32::try_from(kind).is_ok_and(|kind| OTHER_SERVERS.contains(&kind)) =>
            {
                ServedBy::Other
            }
            Ok(_) => ServedBy::Kernel,
        },
        offloads_copies: !kind.is_ok_and(|kind| NEITHER_SHARES_NOR_ASKS.contains(&kind)),
        has_own_clock: kind
            .is_ok_and(|kind| NEITHER_SHARES_NOR_ASKS.contains(&kind) || SHARES.contains(&kind)),
    }
}

fn close(file: Handle) -> Result<(), Errno> {
    match file.into_fd() {
        // Linux frees the descriptor whatever close returns, so this is never repeated.
        Some(fd) => nix::unistd::close(fd),
        None => Ok(()),
    }
}

/// Has an NFS client ask for attributes with the names of a directory (READDIRPLUS). It does at the start, and where it sees more
/// than eight looks at names of the directory between two reads (`nfs_use_readdirplus`). Without that each name of a large directory
/// is a request of its own. A read ends early where a signal is pending, as that of an io_uring which has something to tell
/// (`filldir64`): at worst after one name. Where that is `.`, nothing is there to be looked at, and it starts anew.
fn read_dir_with_attributes(dir: &Handle, listing: &mut Listing) -> Result<bool, Errno> {
    const LOOKS: usize = 16;
    let starts = listing.is_empty() && rustix::fs::tell(dir).is_ok_and(|at| at == 0);
    let mut rewinds = 0;
    let mut read = read_dir(dir, listing, Some(ServedBy::Nfs))?;
    // An empty directory tells two.
    while starts && read.told == 1 && listing.is_empty() && rewinds < REPEATS_MAX {
        rustix::fs::seek(dir, rustix::fs::SeekFrom::Start(0)).map_err(errno_of)?;
        rewinds += 1;
        read = read_dir(dir, listing, Some(ServedBy::Nfs))?;
    }
    if read.more {
        for entry in listing.entries.iter().rev().cycle().take(LOOKS) {
            // It is known already, so this asks nobody. What comes of it is asked for once more, and told, when all names are there.
            let flags = STATX_AT | StatAt::STATX_DONT_SYNC;
            let _ = statx(dir, listing.name(entry), flags, STATX_WANTED);
        }
    }
    Ok(read.more)
}

/// One read of a directory.
struct ReadDir {
    /// Names that it told, among them `.`, `..` and those that are left out.
    told: u32,
    more: bool,
}

fn read_dir(
    dir: &Handle,
    listing: &mut Listing,
    server: Option<ServedBy>,
) -> Result<ReadDir, Errno> {
    let mut scratch = std::mem::take(&mut listing.scratch);
    scratch.reserve(READ_DIR_BYTES);
    let mut iter = RawDir::new(dir, scratch.spare_capacity_mut());
    let (mut told, mut repeats) = (0, 0);
    let more = loop {
        match iter.next() {
            None => break false,
            Some(Err(errno)) if is_transient(errno_of(errno)) && repeats < REPEATS_MAX => {
                repeats += 1;
            }
            Some(Err(errno)) => return Err(errno_of(errno)),
            Some(Ok(entry)) => {
                told += 1;
                let name = entry.file_name();
                let kind = kind_of(entry.file_type());
                if is_silly_name(name.to_bytes())
                    && server.unwrap_or_else(|| traits_of(dir).server) == ServedBy::Nfs
                {
                    continue;
                }
                if is_component(name) && !listing.push(name, entry.ino(), kind) {
                    // A name that was left out would look as if the source lacked it.
                    return Err(Errno::EOVERFLOW);
                }
            }
        }
        if iter.is_buffer_empty() {
            break true;
        }
    };
    listing.scratch = scratch;
    Ok(ReadDir { told, more })
}

/// A name that an NFS client gives to a file which was removed while a process has it open: `.nfs`, then inode number and a counter
/// (fs/nfs/unlink.c). It goes when that process closes it: nobody's file, and nobody else can remove it.
fn is_silly_name(name: &[u8]) -> bool {
    const DIGITS: usize = 16 + 8;
    let digits = name.strip_prefix(b".nfs");
    digits.is_some_and(|digits| digits.len() == DIGITS && digits.iter().all(u8::is_ascii_hexdigit))
}

/// A real name: a broken or hostile filesystem must not smuggle a path in.
fn is_component(name: &CStr) -> bool {
    let bytes = name.to_bytes();
    !bytes.is_empty() && bytes != b"." && bytes != b".." && !bytes.contains(&b'/')
}

fn kind_of(file_type: FileType) -> Option<Kind> {
    Some(match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        FileType::Symlink => Kind::Symlink,
        FileType::Fifo => Kind::Fifo,
        FileType::Socket => Kind::Socket,
        FileType::BlockDevice => Kind::BlockDevice,
        FileType::CharacterDevice => Kind::CharDevice,
        FileType::Unknown => return None,
    })
}

/// statx for every entry of the range that is asked for. Returns how many that were.
///
/// This is the hottest loop of a crawl. Everything it needs between two system calls is in this function and in a few
/// pages of memory: on machines where a system call empties the TLB, each further page costs a page walk a call.
#[allow(unsafe_code)]
pub(super) fn stat_many(dir: &Handle, listing: &mut Listing, range: Range<usize>) -> u64 {
    let mut calls = 0;
    let dir = dir.as_fd();
    let Listing { names, entries, .. } = listing;
    for entry in &mut entries[range] {
        if !entry.state.is_asked() {
            continue;
        }
        let flags = flags_for(entry.state);
        let name = &names[entry.name_range()];
        // SAFETY: a listing keeps each name with exactly one NUL, at its end; see `Listing::push`.
        let name = unsafe { CStr::from_bytes_with_nul_unchecked(name) };
        let result = statx(dir, name, flags, STATX_WANTED);
        match result.map_err(errno_of).and_then(|raw| meta_of(&raw)) {
            Ok(meta) => entry.fill(&meta),
            Err(errno) if is_transient(errno) => match stat_at(dir, name, flags) {
                Ok(meta) => entry.fill(&meta),
                Err(errno) => entry.state = failed(errno),
            },
            Err(errno) => entry.state = failed(errno),
        }
        calls += 1;
    }
    calls
}

/// How statx is called for an entry.
pub(super) fn flags_for(state: State) -> StatAt {
    if state == State::Doubted {
        STATX_AT | StatAt::STATX_FORCE_SYNC
    } else {
        STATX_AT
    }
}

fn failed(errno: Errno) -> State {
    State::Failed(u16::try_from(errno as i32).unwrap_or(u16::MAX))
}

/// Writes the result of a statx into the entry.
pub(super) fn fill(listing: &mut Listing, at: usize, result: Result<Meta, Errno>) {
    let entry = &mut listing.entries[at];
    match result {
        Ok(meta) => entry.fill(&meta),
        Err(errno) => entry.state = failed(errno),
    }
}

fn stat_at(dir: impl AsFd, name: &CStr, flags: StatAt) -> Result<Meta, Errno> {
    let raw = retry(|| statx(&dir, name, flags, STATX_WANTED).map_err(errno_of))?;
    meta_of(&raw)
}

/// Asks whoever keeps the file, as an NFS server, not what is remembered of its answers.
pub(super) const STAT_ANEW: StatAt = StatAt::EMPTY_PATH.union(StatAt::STATX_FORCE_SYNC);

pub(super) fn stat_fd(fd: impl AsFd) -> Result<Meta, Errno> {
    stat_at(fd, c"", StatAt::EMPTY_PATH)
}

fn stat(target: &Target) -> Result<Meta, Errno> {
    match target {
        Target::Open(handle) => stat_fd(handle),
        Target::Anew(handle) => stat_at(handle, c"", STAT_ANEW),
        Target::Name(at, name) => stat_at(at, name, STATX_AT),
        Target::Followed(at, name) => stat_at(at, name, StatAt::empty()),
    }
}

fn time_of(raw: StatxTimestamp) -> Time {
    Time {
        sec: raw.tv_sec,
        nsec: raw.tv_nsec,
    }
}

/// The kernel's answer in our terms. An inode type that Linux does not have is a broken filesystem: EUCLEAN.
#[inline]
pub(super) fn meta_of(raw: &Statx) -> Result<Meta, Errno> {
    let mode = u32::from(raw.stx_mode);
    let kind = Kind::from_mode(mode).ok_or(Errno::EUCLEAN)?;
    let rdev = if kind.is_device() {
        makedev(raw.stx_rdev_major.into(), raw.stx_rdev_minor.into())
    } else {
        0
    };
    Ok(Meta {
        kind,
        mode: mode & 0o7777,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        nlink: raw.stx_nlink,
        size: raw.stx_size,
        mtime: time_of(raw.stx_mtime),
        ctime: time_of(raw.stx_ctime),
        btime: time_of(raw.stx_btime),
        // It comes along where it costs nothing.
        atime: (raw.stx_mask & StatxFlags::ATIME.bits() != 0).then(|| time_of(raw.stx_atime)),
        ino: raw.stx_ino,
        dev: makedev(raw.stx_dev_major.into(), raw.stx_dev_minor.into()),
        rdev,
        has_holes: kind == Kind::File && raw.stx_blocks.saturating_mul(512) < raw.stx_size,
        unknown: Attrs::NONE,
    })
}

fn read_link(at: &Handle, name: &CStr) -> Result<Reply, Errno> {
    use std::os::unix::ffi::OsStringExt;
    let target = retry(|| readlinkat(at, name))?.into_vec();
    let target = std::ffi::CString::new(target).map_err(|_| Errno::EUCLEAN)?;
    Ok(Reply::Link(target))
}

/// The descriptor's own position moves, which nobody uses: reads and writes name their offsets.
fn seek_data(file: &Handle, offset: u64) -> Result<Reply, Errno> {
    let offset = offset_of(offset)?;
    let start = match retry(|| lseek(file, offset, Whence::SeekData)) {
        // Nothing but holes up to the end, or an offset beyond it.
        Err(Errno::ENXIO) => return Ok(Reply::Data(None)),
        result => result?,
    };
    let end = match retry(|| lseek(file, start, Whence::SeekHole)) {
        // Cut off in between.
        Err(Errno::ENXIO) => return Ok(Reply::Data(None)),
        result => result?,
    };
    let range = u64::try_from(start).unwrap_or(0)..u64::try_from(end).unwrap_or(0);
    Ok(Reply::Data(Some(range)))
}

fn copy_range(from: &Handle, to: &Handle, offset: u64, len: u64) -> Result<Reply, Errno> {
    let (mut read_at, mut write_at) = (offset_of(offset)?, offset_of(offset)?);
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let count = retry(|| copy_file_range(from, Some(&mut read_at), to, Some(&mut write_at), len))?;
    Ok(Reply::Copied(count as u64))
}
