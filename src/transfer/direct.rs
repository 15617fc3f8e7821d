//! Large files that are not cached: past the page cache, but for their last bytes.

use std::rc::Rc;

use nix::errno::Errno;

use super::contents::{Pair, Way};
use super::partial::Partial;
use super::{Copied, Failure, Lane, Spread};
use crate::error::Side;
use crate::io::{DIRECT_BYTES, Fs, Handle, Op, OpError, Reply};

impl Lane {
    /// Copies a large file together with other shards.
    pub(super) async fn copy_large(
        &self,
        mut pair: Pair<'_>,
        size: u64,
        partial: Option<Partial>,
        spread: &dyn Spread,
    ) -> Result<Copied, Failure> {
        if partial.is_some() {
            // What the kernel copies has no digest.
            pair.method.way = Way::Buffers;
        }
        let cached = pair.method;
        if !self.go_direct(&pair, size).await {
            return self.copy_chunks(&pair, size, partial, spread).await;
        }
        pair.method.way = Way::Direct;
        let whole = size - size % DIRECT_BYTES as u64;
        let copied = self.copy_chunks(&pair, whole, partial, spread).await;
        pair.method = cached;
        let back = set_direct(pair.source_fs, pair.source, false).await;
        back.map_err(|error| Failure::new(Side::Source, error))?;
        let back = set_direct(pair.dest_fs, pair.dest, false).await;
        back.map_err(|error| Failure::new(Side::Destination, error))?;
        match copied {
            Ok(mut copied) if copied.bytes == whole => {
                let rest = pair.copy_span(whole..size, &self.buffers, None);
                copied.bytes += rest.await?;
                Ok(copied)
            }
            // The disk does not take what it said that it would.
            Err(failure) if failure.is(Errno::EINVAL) => {
                self.copy_chunks(&pair, size, partial, spread).await
            }
            copied => copied,
        }
    }

    async fn copy_chunks(
        &self,
        pair: &Pair<'_>,
        size: u64,
        partial: Option<Partial>,
        spread: &dyn Spread,
    ) -> Result<Copied, Failure> {
        let (digests, cancel) = (self.digests(partial), self.cancel.clone());
        let copying = self.large.offer(pair, size, digests, cancel);
        spread.spread(&self.large).await;
        copying.end().await
    }

    /// Takes both files past the page cache, when the source is not in it: then the cache would cost another copy of all data,
    /// and the room of what is there.
    async fn go_direct(&self, pair: &Pair<'_>, size: u64) -> bool {
        // Next to holes there are less than whole blocks.
        if !self.options.direct_io || pair.method.needs_size_first() {
            return false;
        }
        let file = pair.source.clone();
        let cached = pair.source_fs.start(Op::IsCached { file, size }).await;
        if !matches!(cached, Ok(Reply::Cached(false))) {
            return false;
        }
        if set_direct(pair.dest_fs, pair.dest, true).await.is_err() {
            return false;
        }
        if set_direct(pair.source_fs, pair.source, true).await.is_ok() {
            return true;
        }
        // If that fails, so does writing less than whole blocks, which is told.
        let _ = set_direct(pair.dest_fs, pair.dest, false).await;
        false
    }
}

async fn set_direct(fs: &Rc<dyn Fs>, file: &Handle, direct: bool) -> Result<(), OpError> {
    let file = file.clone();
    fs.start(Op::SetDirect { file, direct }).await.map(drop)
}
