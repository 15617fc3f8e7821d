//! A large file, copied in chunks by as many shards as have time. Chunks are claimed, not assigned: a shard that is busy
//! claims none, and one that comes late finds nothing left.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use async_channel::{Receiver, Sender};

use super::Failure;
use super::buffers::Buffers;
use super::contents::{Method, Pair};
use crate::error::Side;
use crate::io::{Fs, Handle};
use crate::throttle::Cancel;

/// From this size on a file is split.
pub(super) const BYTES_MIN: u64 = 64 << 20;
/// A chunk: some milliseconds of one core, so that the last ones to finish are not far apart.
const CHUNK_BYTES: u64 = 16 << 20;
const _: () = assert!(
    CHUNK_BYTES * 2 <= BYTES_MIN,
    "a split file has chunks to share"
);

/// The copy of one large file. The destination has its final size already.
pub struct LargeFile {
    source: Handle,
    dest: Handle,
    method: Method,
    size: u64,
    chunks: u64,
    claimed: AtomicU64,
    finished: AtomicU64,
    bytes: AtomicU64,
    failure: OnceLock<Failure>,
    cancel: Arc<Cancel>,
    /// Closed when the last chunk is finished.
    done: (Sender<()>, Receiver<()>),
}

impl LargeFile {
    pub(super) fn new(pair: &Pair<'_>, size: u64, cancel: Arc<Cancel>) -> Arc<Self> {
        Arc::new(Self {
            source: pair.source.clone(),
            dest: pair.dest.clone(),
            method: pair.method,
            size,
            chunks: size.div_ceil(CHUNK_BYTES),
            claimed: AtomicU64::new(0),
            finished: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failure: OnceLock::new(),
            cancel,
            done: async_channel::bounded(1),
        })
    }

    /// Claims and copies chunks until none is left. After a failure, or when the run is cancelled, the rest is claimed and not copied.
    pub async fn pump(&self, source_fs: &Rc<dyn Fs>, dest_fs: &Rc<dyn Fs>, buffers: &Buffers) {
        let pair = Pair {
            source_fs,
            dest_fs,
            source: &self.source,
            dest: &self.dest,
            method: self.method,
            cancel: &self.cancel,
        };
        loop {
            let chunk = self.claimed.fetch_add(1, SeqCst);
            if chunk >= self.chunks {
                return;
            }
            if self.cancel.is_set() {
                let _ = self.failure.set(Failure::interrupted(Side::Source));
            }
            if self.failure.get().is_none() {
                let start = chunk * CHUNK_BYTES;
                let end = self.size.min(start + CHUNK_BYTES);
                match pair.copy_span(start..end, buffers).await {
                    Ok(bytes) => {
                        self.bytes.fetch_add(bytes, SeqCst);
                    }
                    Err(failure) => {
                        // The first one is told; more of them would say the same.
                        let _ = self.failure.set(failure);
                    }
                }
            }
            if self.finished.fetch_add(1, SeqCst) + 1 == self.chunks {
                self.done.0.close();
            }
        }
    }

    /// Waits for the chunks that others have claimed. Returns the bytes copied.
    pub(super) async fn wait(&self) -> Result<u64, Failure> {
        // Nothing is ever sent: the end is the closing.
        let closed = self.done.1.recv().await;
        debug_assert!(closed.is_err());
        match self.failure.get() {
            Some(failure) => Err(failure.clone()),
            None => Ok(self.bytes.load(SeqCst)),
        }
    }
}
