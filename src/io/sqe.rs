//! Operations as submission entries, and completions as outcomes: the ring's view of [`Op`].

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use io_uring::{opcode, squeue, types};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc::{AT_REMOVEDIR, POSIX_FADV_DONTNEED};
use rustix::fs::{AtFlags, Statx};

use super::inline;
use super::op::{Handle, Op, OpError, Outcome, Reply, Target};
use crate::model::Meta;

fn fd(handle: &Handle) -> types::Fd {
    types::Fd(handle.as_fd().as_raw_fd())
}

/// The entry for the statx of one name.
pub(super) fn statx_sqe(
    dir: &Handle,
    name: &CStr,
    flags: AtFlags,
    buffer: &mut MaybeUninit<Statx>,
) -> squeue::Entry {
    opcode::Statx::new(fd(dir), name.as_ptr(), buffer.as_mut_ptr().cast())
        .flags(flags.bits().cast_signed())
        .mask(inline::STATX_WANTED.bits())
        .build()
}

/// To a worker at once. For a name that is cached io_uring would open on this thread, and network filesystems ask their
/// server then, whatever io_uring wants: the executor would wait for the answer.
fn open_sqe(at: &Handle, name: &CStr, flags: OFlag, mode: u32) -> squeue::Entry {
    opcode::OpenAt::new(fd(at), name.as_ptr())
        .flags(flags.bits())
        .mode(mode)
        .build()
        .flags(squeue::Flags::ASYNC)
}

/// The submission entry for an operation. It points into `op` and, for a single statx, to `statx`: both must stay where
/// they are until the completion.
pub(super) fn sqe_of(op: &mut Op, statx: &mut MaybeUninit<Statx>) -> squeue::Entry {
    match op {
        Op::OpenDir { at, name, links } => {
            open_sqe(at, name, inline::flags_of(inline::OPEN_DIR, *links), 0)
        }
        Op::Open { at, name, links } => {
            open_sqe(at, name, inline::flags_of(inline::OPEN_FILE, *links), 0)
        }
        Op::OpenPlace { at, name } => open_sqe(at, name, inline::OPEN_PLACE, 0),
        Op::OpenWrite { at, name } => open_sqe(at, name, inline::OPEN_WRITE, 0),
        Op::Create {
            at,
            name,
            mode,
            readable,
        } => open_sqe(at, name, inline::create_flags(*readable), *mode),
        Op::Stat {
            target: Target::Open(file),
        } => statx_sqe(file, c"", AtFlags::EMPTY_PATH, statx),
        Op::Stat {
            target: Target::Anew(file),
        } => statx_sqe(file, c"", inline::STAT_ANEW, statx),
        Op::Stat {
            target: Target::Name(at, name),
        } => statx_sqe(at, name, inline::STATX_AT, statx),
        Op::Stat {
            target: Target::Followed(at, name),
        } => statx_sqe(at, name, AtFlags::empty(), statx),
        Op::Read {
            file,
            buffer,
            offset,
        } => {
            // To a worker at once. Files are opened with `O_NONBLOCK` (see `inline::OPEN_FILE`), which io_uring takes for
            // a promise that they never block: it would read on this thread and hold up the whole executor.
            opcode::Read::new(fd(file), buffer.as_mut_ptr(), length_of(buffer.len()))
                .offset(*offset)
                .build()
                .flags(squeue::Flags::ASYNC)
        }
        Op::Write {
            file,
            buffer,
            range,
            offset,
        } => {
            let bytes = &buffer[range.clone()];
            opcode::Write::new(fd(file), bytes.as_ptr(), length_of(bytes.len()))
                .offset(*offset)
                .build()
        }
        Op::MakeDir { at, name, mode } => opcode::MkDirAt::new(fd(at), name.as_ptr())
            .mode(*mode)
            .build(),
        Op::MakeSymlink { at, name, target } => {
            opcode::SymlinkAt::new(fd(at), target.as_ptr(), name.as_ptr()).build()
        }
        Op::Link {
            from,
            from_name,
            to,
            to_name,
        } => opcode::LinkAt::new(fd(from), from_name.as_ptr(), fd(to), to_name.as_ptr()).build(),
        Op::Unlink { at, name } => opcode::UnlinkAt::new(fd(at), name.as_ptr()).build(),
        Op::RemoveDir { at, name } => opcode::UnlinkAt::new(fd(at), name.as_ptr())
            .flags(AT_REMOVEDIR)
            .build(),
        Op::Close { file } => opcode::Close::new(fd(file)).build(),
        Op::Rename { at, from, to } => {
            opcode::RenameAt::new(fd(at), from.as_ptr(), fd(at), to.as_ptr()).build()
        }
        Op::Move {
            from,
            from_name,
            to,
            to_name,
        } => opcode::RenameAt::new(fd(from), from_name.as_ptr(), fd(to), to_name.as_ptr()).build(),
        Op::Fsync { file } => opcode::Fsync::new(fd(file)).build(),
        Op::DropCache { file } => {
            // A length of 0 means up to the end.
            opcode::Fadvise::new(fd(file), 0, POSIX_FADV_DONTNEED).build()
        }
        other => unreachable!("{:?} is not an operation of the ring", other.kind()),
    }
}

/// Reads and writes of more than 4 GiB at once are cut; callers loop on short counts anyway.
fn length_of(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// What a statx left in its buffer, by the result of its completion.
#[allow(unsafe_code)]
pub(super) fn statx_result(buffer: &MaybeUninit<Statx>, result: i32) -> Result<Meta, Errno> {
    if result < 0 {
        return Err(Errno::from_raw(-result));
    }
    // SAFETY: a statx that returned success has filled the whole structure, which has no invalid bit patterns.
    inline::meta_of(unsafe { buffer.assume_init_ref() })
}

/// What an operation came to, by the result of its completion. Takes the buffers out of it.
#[allow(unsafe_code)]
pub(super) fn outcome_of(op: &mut Op, statx: &MaybeUninit<Statx>, result: i32) -> Outcome {
    let kind = op.kind();
    let failed = |errno| OpError { kind, errno };
    if let Op::Close { file } = op {
        // The kernel has closed it, whatever it returned; nobody else may.
        file.forget();
    }
    if result < 0 {
        return Err(failed(Errno::from_raw(-result)));
    }
    match op {
        Op::OpenDir { .. } | Op::Open { .. } | Op::OpenWrite { .. } => {
            // SAFETY: a successful openat returned this descriptor to us, and nobody else knows it.
            let fd = unsafe { OwnedFd::from_raw_fd(result) };
            inline::opened(fd).map_err(failed)
        }
        Op::Create { .. } => {
            // SAFETY: as above.
            let fd = unsafe { OwnedFd::from_raw_fd(result) };
            inline::made(fd).map_err(failed)
        }
        Op::OpenPlace { .. } => {
            // SAFETY: as above.
            let fd = unsafe { OwnedFd::from_raw_fd(result) };
            inline::opened_place(fd).map_err(failed)
        }
        Op::Stat { .. } => statx_result(statx, result).map(Reply::Meta).map_err(failed),
        Op::Read { buffer, .. } | Op::Write { buffer, .. } => {
            let count = usize::try_from(result).unwrap_or(0);
            Ok(Reply::Moved(std::mem::take(buffer), count))
        }
        _ => Ok(Reply::Done),
    }
}
