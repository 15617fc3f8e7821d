//! Calls that say "again".

use nix::errno::Errno;

/// How often a call is repeated that a signal interrupted (EINTR; on network filesystems and FUSE any call can be) or that
/// a busy server puts off (EAGAIN). Signals are few and their handlers return; who still says "again" after so many
/// attempts is broken, and has failed.
pub(super) const REPEATS_MAX: u32 = 16;

pub(super) fn is_transient(errno: Errno) -> bool {
    matches!(errno, Errno::EINTR | Errno::EAGAIN)
}

pub(super) fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 0..REPEATS_MAX {
        match call() {
            Err(errno) if is_transient(errno) => std::thread::yield_now(),
            result => return result,
        }
    }
    call()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_always_says_again_has_failed() {
        let mut calls = 0;
        let result = retry(|| {
            calls += 1;
            Err::<(), _>(Errno::EINTR)
        });
        assert_eq!((result, calls), (Err(Errno::EINTR), REPEATS_MAX + 1));
    }

    #[test]
    fn other_errors_are_not_repeated() {
        let mut calls = 0;
        let result = retry(|| {
            calls += 1;
            Err::<(), _>(if calls < 3 { Errno::EAGAIN } else { Errno::EIO })
        });
        assert_eq!((result, calls), (Err(Errno::EIO), 3));
    }
}
