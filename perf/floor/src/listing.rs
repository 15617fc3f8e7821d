//! openat, getdents64, statx: all that a crawl needs from the kernel.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, Statx, StatxFlags, openat, statx};
use rustix::io::Result;

use crate::fail;

/// Bytes for one getdents64 call: about 4,000 short names, so that most directories take one call and the
/// empty one that ends each listing.
const DIR_BUFFER_BYTES: usize = 128 * 1024;

/// Memory for getdents64, one per thread.
pub struct DirBuffer(Vec<MaybeUninit<u8>>);

impl Default for DirBuffer {
    fn default() -> Self {
        Self(vec![MaybeUninit::uninit(); DIR_BUFFER_BYTES])
    }
}

/// Opens a directory under `parent` for listing; a symbolic link is refused.
///
/// # Errors
/// Those of openat(2).
pub fn open_dir(parent: impl AsFd, name: &CStr) -> Result<OwnedFd> {
    openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    )
}

/// Opens the root of a walk, here following symbolic links as a person would expect. Ends the program when
/// that fails.
#[must_use]
pub fn open_root(path: &Path) -> OwnedFd {
    openat(
        CWD,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .unwrap_or_else(|error| fail(path.display(), error))
}

/// statx of `name` in `dir` with the fields that a comparison of trees needs; links are not followed.
///
/// # Errors
/// Those of statx(2).
pub fn stat(dir: impl AsFd, name: &CStr) -> Result<Statx> {
    let mask = StatxFlags::TYPE
        | StatxFlags::MODE
        | StatxFlags::UID
        | StatxFlags::GID
        | StatxFlags::SIZE
        | StatxFlags::MTIME
        | StatxFlags::INO
        | StatxFlags::NLINK;
    statx(dir, name, AtFlags::SYMLINK_NOFOLLOW, mask)
}

#[must_use]
pub fn file_type(stat: &Statx) -> FileType {
    FileType::from_raw_mode(stat.stx_mode.into())
}

/// Lists `dir` and calls `visit` with the name and statx of each entry but `.` and `..`, in the order the
/// filesystem gives them. Ends the program on an error.
pub fn for_each(dir: &OwnedFd, buffer: &mut DirBuffer, mut visit: impl FnMut(&CStr, &Statx)) {
    let mut entries = RawDir::new(dir, &mut buffer.0);
    while let Some(entry) = entries.next() {
        let entry = entry.unwrap_or_else(|error| fail("getdents64", error));
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = stat(dir, name).unwrap_or_else(|error| fail(name.to_string_lossy(), error));
        visit(name, &stat);
    }
}
