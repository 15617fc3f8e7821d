//! Failures that may pass: the same is tried again after a pause.

use std::hash::BuildHasher;

use futures_util::future::select;
use futures_util::pin_mut;
use nix::errno::Errno;

use super::Shard;
use crate::control::retry;
use crate::error::Cause;

/// A limit that others use up, memory that is short, a server that does not answer in time. What was being done must be such
/// that it can begin anew, whether or not its last call was carried out.
fn may_pass(cause: &Cause) -> bool {
    let Cause::Errno(errno) = cause else {
        return false;
    };
    matches!(
        errno,
        Errno::EMFILE
            | Errno::ENFILE
            | Errno::ENOMEM
            | Errno::ENOBUFS
            | Errno::EAGAIN
            | Errno::ETIMEDOUT
    )
}

impl Shard {
    /// Waits before something is tried again that failed `attempt` times before this one, which failed for `cause`. `false`
    /// when it is not to be tried again: it would fail again, or the run ends, or has repeated enough.
    pub async fn pause_before_repeating(&self, attempt: u32, cause: &Cause) -> bool {
        if !may_pass(cause) || self.cancelled() {
            return false;
        }
        let repeated = self.tally().retries.get();
        let random = self.shared.hasher.hash_one((self.id, repeated));
        let Some(pause) = retry::pause(attempt, random) else {
            return false;
        };
        if !self.shared.retries.take() {
            return false;
        }
        self.tally().retries.add(1);
        tracing::debug!(?cause, ?pause, "tried again after a pause");
        let (sleep, cancelled) = (glommio::timer::sleep(pause), self.shared.cancel.cancelled());
        pin_mut!(sleep, cancelled);
        select(sleep, cancelled).await;
        !self.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_repeated() {
        assert!(may_pass(&Cause::Errno(Errno::EMFILE)));
        for cause in [
            Cause::Errno(Errno::EACCES),
            Cause::Errno(Errno::ENOSPC),
            Cause::Errno(Errno::EIO),
            Cause::Changing,
        ] {
            assert!(!may_pass(&cause), "{cause:?}");
        }
    }
}
