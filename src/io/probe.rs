//! What this kernel's io_uring can do, and why it refuses when it does.

use std::io;

use io_uring::{IoUring, Probe, opcode};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use crate::error::OpKind;

/// The operations that the ring can run; probed once per ring.
#[derive(Clone, Copy, Debug, Default)]
pub struct Support {
    bits: u32,
}

const _: () = assert!(OpKind::ALL.len() <= u32::BITS as usize);

impl Support {
    /// Asks the kernel. A kernel too old to be asked (before 5.6) supports none of ours.
    #[must_use]
    pub fn probe(uring: &IoUring) -> Self {
        let mut probe = Probe::new();
        if uring.submitter().register_probe(&mut probe).is_err() {
            return Self::default();
        }
        let mut support = Self::default();
        for kind in OpKind::ALL {
            if opcode_of(kind).is_some_and(|code| probe.is_supported(code)) {
                support.bits |= 1 << kind as u32;
            }
        }
        support
    }

    #[must_use]
    pub fn has(self, kind: OpKind) -> bool {
        self.bits & (1 << kind as u32) != 0
    }
}

/// The io_uring opcode for a kind of operation, where there is one.
fn opcode_of(kind: OpKind) -> Option<u8> {
    Some(match kind {
        OpKind::OpenDir | OpKind::Open | OpKind::Create => opcode::OpenAt::CODE,
        OpKind::Stat => opcode::Statx::CODE,
        OpKind::Read => opcode::Read::CODE,
        OpKind::Write => opcode::Write::CODE,
        OpKind::MakeDir => opcode::MkDirAt::CODE,
        OpKind::MakeSymlink => opcode::SymlinkAt::CODE,
        OpKind::Link => opcode::LinkAt::CODE,
        OpKind::Unlink | OpKind::RemoveDir => opcode::UnlinkAt::CODE,
        OpKind::Rename => opcode::RenameAt::CODE,
        OpKind::Close => opcode::Close::CODE,
        OpKind::Fsync => opcode::Fsync::CODE,
        OpKind::DropCache => opcode::Fadvise::CODE,
        _ => return None,
    })
}

/// glommio's own minimum, in bytes: below it an executor cannot start.
pub const MEMLOCK_BYTES_MIN: u64 = 512 * 1024;

/// Tries whether io_uring can be used here at all.
///
/// # Errors
/// A sentence that names the cause and the remedy.
pub fn check_io_uring() -> Result<(), String> {
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft < MEMLOCK_BYTES_MIN => {
            return Err(format!(
                "io_uring needs locked memory: RLIMIT_MEMLOCK is {} KiB and must be at least {} KiB; raise it with `ulimit -l 512`, \
                 `LimitMEMLOCK=` of the systemd unit, or /etc/security/limits.conf",
                soft / 1024,
                MEMLOCK_BYTES_MIN / 1024
            ));
        }
        _ => {}
    }
    match IoUring::new(8) {
        Ok(_) => Ok(()),
        Err(error) => Err(explain_refusal(&error)),
    }
}

/// Operations that io_uring has by now and this kernel's lacks; they run on threads.
///
/// # Errors
/// What the kernel says when it refuses a ring.
pub fn unsupported_operations() -> io::Result<Vec<OpKind>> {
    let support = Support::probe(&IoUring::new(8)?);
    let lacks = |kind: &OpKind| opcode_of(*kind).is_some() && !support.has(*kind);
    Ok(OpKind::ALL.into_iter().filter(lacks).collect())
}

/// Whether the number of a ring's kernel workers can be chosen (Linux 5.15).
///
/// # Errors
/// What the kernel says when it refuses.
pub fn check_worker_limit() -> io::Result<()> {
    // Zeros change nothing.
    IoUring::new(8)?
        .submitter()
        .register_iowq_max_workers(&mut [0, 0])
}

/// Why `io_uring_setup` failed, and what to change.
fn explain_refusal(error: &io::Error) -> String {
    let (cause, remedy) = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOSYS) => (
            "this kernel has no io_uring, or a seccomp filter hides it",
            "use Linux 5.8 or later; in a container, allow the io_uring system calls in its seccomp profile",
        ),
        Some(Errno::EPERM | Errno::EACCES) => (
            "io_uring is forbidden here, by kernel.io_uring_disabled or a seccomp filter",
            "set `sysctl kernel.io_uring_disabled=0`; in a container, allow the io_uring system calls in its seccomp profile",
        ),
        Some(Errno::ENOMEM) => (
            "the locked-memory limit is too low for io_uring",
            "raise RLIMIT_MEMLOCK, for example with `ulimit -l 8192`",
        ),
        Some(Errno::EMFILE | Errno::ENFILE) => (
            "no file descriptor is left for io_uring",
            "raise RLIMIT_NOFILE, for example with `ulimit -n 65536`",
        ),
        _ => (
            "the kernel refused to set io_uring up",
            "see `dmesg` for its reason",
        ),
    };
    format!("{cause} ({error}); {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_cause_and_remedy() {
        let explain = |errno: Errno| explain_refusal(&io::Error::from_raw_os_error(errno as i32));
        assert!(explain(Errno::EPERM).contains("kernel.io_uring_disabled=0"));
        assert!(explain(Errno::ENOSYS).contains("seccomp"));
        assert!(explain(Errno::ENOMEM).contains("ulimit -l"));
    }
}
