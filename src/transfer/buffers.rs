//! Buffers for the contents of files, kept for reuse while memory is not short.

use std::cell::RefCell;
use std::sync::Arc;

use crate::io::Buffer;
use crate::model::Instruments;
use crate::throttle::Coordinator;

/// One read or write. Big enough that system calls do not count, small enough for a second-level cache.
pub(super) const BUFFER_BYTES: usize = 256 * 1024;

/// Buffers of one shard. What is lent and what is kept is told as one level, for it is in memory both ways.
pub struct Buffers {
    kept: RefCell<Vec<Buffer>>,
    kept_max: usize,
    instruments: Instruments,
    coordinator: Arc<Coordinator>,
}

impl Buffers {
    /// Keeps up to `kept_max` for reuse: as many as are in use at once.
    #[must_use]
    pub fn new(instruments: Instruments, coordinator: Arc<Coordinator>, kept_max: usize) -> Self {
        Self {
            kept: RefCell::default(),
            kept_max,
            instruments,
            coordinator,
        }
    }

    /// Lends a buffer of [`BUFFER_BYTES`]. It comes back by [`Buffers::give_back`], or is told of by [`Buffers::lose`].
    pub(super) fn take(&self) -> Buffer {
        if let Some(buffer) = self.kept.borrow_mut().pop() {
            return buffer;
        }
        self.level().add(BUFFER_BYTES as u64);
        Buffer::new(BUFFER_BYTES)
    }

    pub(super) fn give_back(&self, buffer: Buffer) {
        let mut kept = self.kept.borrow_mut();
        if kept.len() < self.kept_max && !self.coordinator.is_memory_short() {
            kept.push(buffer);
            return;
        }
        // When memory is short, those that are kept have to go as well.
        let others = std::mem::take(&mut *kept).len() as u64;
        self.level().sub((others + 1) * BUFFER_BYTES as u64);
    }

    /// So many buffers got lost in failed operations.
    pub(super) fn lose(&self, count: u64) {
        self.level().sub(count * BUFFER_BYTES as u64);
    }

    fn level(&self) -> &crate::model::tally::Level {
        &self.instruments.tally().levels.buffer_bytes
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        let kept = self.kept.borrow().len() as u64;
        self.level().sub(kept * BUFFER_BYTES as u64);
    }
}
