//! Direct I/O: reading and writing past the page cache, where that is sure to work.

use std::fs;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::stat::{major, minor};
use rustix::fs::{AtFlags, OFlags, StatxFlags, fcntl_getfl, fcntl_setfl, statx};
use rustix::io::{IoSliceMut, ReadWriteFlags, preadv2};

use super::again::retry;
use super::buffer::DIRECT_BYTES;
use super::inline::errno_of;
use super::op::Handle;

/// Whether a good part of a file of so many bytes is in memory, as far as a few looks can tell. Each look has the kernel read on
/// from there, so the next ones find it. What cannot be looked at is taken to be in memory.
pub(super) fn is_cached(file: &Handle, size: u64) -> bool {
    const LOOKS: u64 = 8;
    let is_there = |offset| {
        let mut byte = [0];
        let mut into = [IoSliceMut::new(&mut byte)];
        let look = preadv2(file, &mut into, offset, ReadWriteFlags::NOWAIT);
        look.map_err(errno_of) != Err(Errno::EAGAIN)
    };
    let found = (0..LOOKS).filter(|look| is_there(size / LOOKS * look));
    found.count() as u64 >= LOOKS / 4
}

/// Has reads and writes of a file go past the page cache from now on, or through it.
///
/// # Errors
/// `EOPNOTSUPP` when the filesystem cannot do it, wants more than a [`DIRECT_BYTES`] to begin and end with, or does not say so
/// (before Linux 6.1; network filesystems), or when the disk rotates: there the kernel's reading ahead is worth more.
pub(super) fn set_direct(file: &Handle, direct: bool) -> Result<(), Errno> {
    if direct && !may_be_direct(file)? {
        return Err(Errno::EOPNOTSUPP);
    }
    let flags = fcntl_getfl(file).map_err(errno_of)?;
    let flags = if direct {
        flags | OFlags::DIRECT
    } else {
        flags - OFlags::DIRECT
    };
    fcntl_setfl(file, flags).map_err(errno_of)
}

fn may_be_direct(file: &Handle) -> Result<bool, Errno> {
    let ask = || statx(file.as_fd(), c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    let told = retry(|| ask().map_err(errno_of))?;
    let fits = |align: u32| align > 0 && DIRECT_BYTES.is_multiple_of(align as usize);
    Ok(
        StatxFlags::from_bits_retain(told.stx_mask).contains(StatxFlags::DIOALIGN)
            && fits(told.stx_dio_mem_align)
            && fits(told.stx_dio_offset_align)
            && !rotates(file.dev()),
    )
}

/// A partition has its disk's queue. Where nothing is said of it, as for a filesystem of several devices, it may rotate.
fn rotates(dev: u64) -> bool {
    let sysfs = format!("/sys/dev/block/{}:{}", major(dev), minor(dev));
    let told = ["queue/rotational", "../queue/rotational"]
        .into_iter()
        .find_map(|file| fs::read_to_string(format!("{sysfs}/{file}")).ok());
    told.is_none_or(|told| told.trim() != "0")
}
