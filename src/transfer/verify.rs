//! `--verify`: what is on the disk now, beside what the source has.

use super::{Failure, Lane};
use crate::error::{Cause, OpKind, Side};
use crate::io::{Handle, Op};

/// How often a file is copied in all when what is read back differs: a second time may go well, a third one would only
/// hide a disk that should be replaced.
pub(super) const COPIES_MAX: u32 = 2;

impl Lane {
    /// Whether a file, read back from the disk, has the bytes of its source.
    ///
    /// The bytes themselves are compared, not hashes of them. That is stronger, and no slower: data that was cloned or
    /// copied by the kernel never passed through this process, so a hash of the source would need the same second read
    /// of it (which its cached pages serve), and comparing two buffers costs less than hashing them.
    pub(super) async fn is_faithful(
        &self,
        source: &Handle,
        dest: &Handle,
    ) -> Result<bool, Failure> {
        // Dirty pages cannot be dropped, and pages that stay would be compared instead of the disk.
        self.flush_file(dest).await?;
        let file = dest.clone();
        if let Err(error) = self.dest.start(Op::DropCache { file }).await {
            // Where there is no cache to drop there is no disk behind it either, or the filesystem reads it anyway.
            tracing::debug!(?error, "cached pages are verified instead of the disk");
        }
        self.contents_equal(source, dest).await
    }
}

/// What was written is not what can be read.
pub(super) fn corrupted() -> Failure {
    Failure {
        op: OpKind::Read,
        side: Side::Destination,
        cause: Cause::Corrupted,
    }
}
