//! Owners, modes, extended attributes and times, as plain system calls on an inode that is open: whatever happens to its
//! name meanwhile, no other inode is touched.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::libc;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Uid, fchownat};
use rustix::fs::{
    self as rfs, AtFlags as TimesAt, Timespec, Timestamps, UTIME_OMIT, XattrFlags, futimens,
    utimensat,
};
use rustix::io::Errno as RawErrno;

use super::again::retry;
use super::inline::errno_of;
use super::op::{Change, Handle, OpError, Outcome, Reply, Target};
use crate::error::OpKind;
use crate::model::xattr::{Xattr, mode_without_acl};
use crate::model::{Carried, Time, Xattrs};

/// Enough for the names of most inodes' attributes, and for most values.
const USUAL_BYTES: usize = 1024;
/// XATTR_SIZE_MAX and XATTR_LIST_MAX of linux/limits.h.
const BYTES_MAX: usize = 64 * 1024;

/// The path under which `/proc` shows an open inode: for calls that take no `O_PATH` descriptor.
fn proc_path(inode: impl AsFd) -> CString {
    let path = format!("/proc/self/fd/{}", inode.as_fd().as_raw_fd());
    CString::new(path).unwrap_or_default()
}

/// The first failure of several steps that are all tried.
struct First(Option<OpError>);

impl First {
    fn note(&mut self, kind: OpKind, result: Result<(), Errno>) -> bool {
        match result {
            Ok(()) => true,
            Err(errno) => {
                self.0.get_or_insert(OpError { kind, errno });
                false
            }
        }
    }
}

/// See [`super::Op::SetAttrs`].
pub(super) fn set_attrs(inode: &Handle, change: &Change) -> Outcome {
    let mut first = First(None);
    let mut mode = change.mode;
    if change.uid.is_some() || change.gid.is_some() {
        let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
        let chowned = retry(|| fchownat(inode, c"", uid, gid, AtFlags::AT_EMPTY_PATH));
        if !first.note(OpKind::SetOwner, chowned) {
            mode = mode.map(|mode| mode & !0o6000);
        }
    }
    // Those of users need the right to write, which the mode may take away.
    let (of_users, others): (Vec<_>, Vec<_>) =
        (change.xattrs.set.iter()).partition(|(name, _)| name.to_bytes().starts_with(b"user."));
    for (name, value) in of_users {
        let set = retry(|| set_xattr(inode, name, value).map_err(errno_of));
        first.note(OpKind::SetXattrs, set);
    }
    if let Some(mode) = mode {
        // What the group may do must not be what the ACL's mask says, not even until the ACL is there.
        let narrowed = |(name, value): &&Xattr| mode_without_acl(name, value, mode);
        let mode = others.iter().find_map(narrowed).unwrap_or(mode);
        first.note(OpKind::SetMode, retry(|| set_mode(inode, mode)));
    }
    for name in &change.xattrs.remove {
        let removed = match retry(|| remove_xattr(inode, name).map_err(errno_of)) {
            Err(Errno::ENODATA) => Ok(()),
            result => result,
        };
        first.note(OpKind::SetXattrs, removed);
    }
    for (name, value) in others {
        let set = retry(|| set_xattr(inode, name, value).map_err(errno_of));
        first.note(OpKind::SetXattrs, set);
    }
    if let Some(mtime) = change.mtime {
        let timespec = |time: Time| Timespec {
            tv_sec: time.sec,
            tv_nsec: time.nsec.into(),
        };
        let as_it_is = Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        };
        let times = Timestamps {
            last_access: change.atime.map_or(as_it_is, timespec),
            last_modification: timespec(mtime),
        };
        let set = || {
            if inode.is_place() {
                utimensat(inode, c"", &times, TimesAt::EMPTY_PATH)
            } else {
                // The call that takes no path is cheaper.
                futimens(inode, &times)
            }
        };
        first.note(OpKind::SetTimes, retry(|| set().map_err(errno_of)));
    }
    first.0.map_or(Ok(Reply::Done), Err)
}

fn set_mode(inode: &Handle, mode: u32) -> Result<(), Errno> {
    if inode.is_place() {
        return rfs::chmod(proc_path(inode), mode.into()).map_err(errno_of);
    }
    fchmod(inode, Mode::from_bits_truncate(mode))
}

fn set_xattr(inode: &Handle, name: &CStr, value: &[u8]) -> rustix::io::Result<()> {
    let flags = XattrFlags::empty();
    if inode.is_place() {
        return rfs::setxattr(proc_path(inode), name, value, flags);
    }
    rfs::fsetxattr(inode, name, value, flags)
}

fn remove_xattr(inode: &Handle, name: &CStr) -> rustix::io::Result<()> {
    if inode.is_place() {
        return rfs::removexattr(proc_path(inode), name);
    }
    rfs::fremovexattr(inode, name)
}

/// See [`super::Op::ReadXattrs`].
pub(super) fn read_xattrs(target: &Target, carried: Carried) -> Result<Xattrs, Errno> {
    let source = Source::of(target)?;
    match read(|buffer| source.list(buffer)) {
        Err(RawErrno::OPNOTSUPP) => Ok(Xattrs::default()),
        Ok(names) => source.read_values(&names, carried).map_err(errno_of),
        Err(errno) => Err(errno_of(errno)),
    }
}

/// Where attributes are read.
enum Source<'a> {
    File(BorrowedFd<'a>),
    /// Below a directory: needs listxattrat (Linux 6.13).
    At(BorrowedFd<'a>, &'a CStr),
    /// The last component is not followed.
    Path(CString),
    Followed(CString),
}

impl<'a> Source<'a> {
    fn of(target: &'a Target) -> Result<Self, Errno> {
        let below = |dir: &Handle, name: &CStr| {
            let mut path = proc_path(dir).into_bytes();
            path.push(b'/');
            path.extend_from_slice(name.to_bytes());
            CString::new(path).map_err(|_| Errno::EINVAL)
        };
        Ok(match target {
            Target::Open(inode) | Target::Anew(inode) if inode.is_place() => {
                Self::Followed(proc_path(inode))
            }
            Target::Open(file) | Target::Anew(file) => Self::File(file.as_fd()),
            Target::Name(dir, name) if has_listxattrat() => Self::At(dir.as_fd(), name),
            Target::Name(dir, name) => Self::Path(below(dir, name)?),
            Target::Followed(dir, name) => Self::Followed(below(dir, name)?),
        })
    }

    fn list(&self, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::File(file) => rfs::flistxattr(file, buffer),
            Self::At(dir, name) => listxattrat(*dir, name, buffer),
            Self::Path(path) => rfs::llistxattr(path, buffer),
            Self::Followed(path) => rfs::listxattr(path, buffer),
        }
    }

    fn get(&self, name: &CStr, buffer: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::File(file) => rfs::fgetxattr(file, name, buffer),
            Self::At(dir, file_name) => getxattrat(*dir, file_name, name, buffer),
            Self::Path(path) => rfs::lgetxattr(path, name, buffer),
            Self::Followed(path) => rfs::getxattr(path, name, buffer),
        }
    }

    /// `names` is what the kernel lists: each with its NUL.
    fn read_values(&self, names: &[u8], carried: Carried) -> rustix::io::Result<Xattrs> {
        let mut all = Vec::new();
        for name in names.split_inclusive(|&byte| byte == 0) {
            let Ok(name) = CStr::from_bytes_with_nul(name) else {
                return Err(RawErrno::UCLEAN);
            };
            if !carried.wants(name) {
                continue;
            }
            match read(|buffer| self.get(name, buffer)) {
                Ok(value) => all.push((name.to_owned(), value)),
                // Removed since it was listed.
                Err(RawErrno::NODATA) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(Xattrs::new(all))
    }
}

/// Gives the call a small buffer, and one for the largest answer when that was not enough.
fn read(
    mut call: impl FnMut(&mut [u8]) -> rustix::io::Result<usize>,
) -> rustix::io::Result<Vec<u8>> {
    let mut small = [0; USUAL_BYTES];
    match call(&mut small) {
        Ok(len) => Ok(small[..len].to_vec()),
        Err(RawErrno::RANGE) => {
            let mut large = vec![0; BYTES_MAX];
            let len = call(&mut large)?;
            large.truncate(len);
            Ok(large)
        }
        Err(errno) => Err(errno),
    }
}

/// System call numbers that libc does not name yet; they are the same on all architectures that got them at once
/// (include/uapi/asm-generic/unistd.h).
const SYS_GETXATTRAT: libc::c_long = 464;
const SYS_LISTXATTRAT: libc::c_long = 465;

/// Asked of the kernel once: it says `ENOSYS`, or that this descriptor is bad.
fn has_listxattrat() -> bool {
    static HAS: OnceLock<bool> = OnceLock::new();
    *HAS.get_or_init(|| {
        let Ok(dir) = rfs::open("/", rfs::OFlags::PATH, rfs::Mode::empty()) else {
            return false;
        };
        match listxattrat(dir.as_fd(), c".", &mut []) {
            Ok(_) => true,
            Err(errno) => errno != RawErrno::NOSYS && errno != RawErrno::PERM,
        }
    })
}

#[allow(unsafe_code)]
fn listxattrat(dir: BorrowedFd<'_>, name: &CStr, buffer: &mut [u8]) -> rustix::io::Result<usize> {
    // SAFETY: the name ends in a NUL, and the kernel writes at most `len` bytes to the buffer; both outlive the call.
    let count = unsafe {
        libc::syscall(
            SYS_LISTXATTRAT,
            dir.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    };
    count_of(count)
}

/// `struct xattr_args` of linux/xattr.h.
#[repr(C, align(8))]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

#[allow(unsafe_code)]
fn getxattrat(
    dir: BorrowedFd<'_>,
    file_name: &CStr,
    name: &CStr,
    buffer: &mut [u8],
) -> rustix::io::Result<usize> {
    let mut args = XattrArgs {
        value: buffer.as_mut_ptr() as u64,
        size: u32::try_from(buffer.len()).unwrap_or(u32::MAX),
        flags: 0,
    };
    // SAFETY: both names end in a NUL, and the kernel writes at most `size` bytes to `value`, which is the buffer; all
    // outlive the call.
    let count = unsafe {
        libc::syscall(
            SYS_GETXATTRAT,
            dir.as_raw_fd(),
            file_name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            name.as_ptr(),
            &raw mut args,
            size_of::<XattrArgs>(),
        )
    };
    count_of(count)
}

fn count_of(result: libc::c_long) -> rustix::io::Result<usize> {
    usize::try_from(result).map_err(|_| RawErrno::from_raw_os_error(Errno::last_raw()))
}
