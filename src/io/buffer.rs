//! Memory for the contents of files.

use std::ops::{Deref, DerefMut};

/// Where a buffer begins, and what direct I/O moves at least: no disk has larger blocks.
pub const DIRECT_BYTES: usize = 4096;

/// Bytes that begin at a multiple of [`DIRECT_BYTES`], as direct I/O wants them. They stay where they are when it is moved.
#[derive(Default)]
pub struct Buffer {
    /// Never grows, so that it is never allocated again.
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    /// So many zeros.
    #[must_use]
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + DIRECT_BYTES];
        let start = bytes.as_ptr().align_offset(DIRECT_BYTES);
        Self { bytes, start, len }
    }

    /// Shows so many of its bytes, at most those that it was made with: what the next read may fill.
    pub fn show(&mut self, len: usize) {
        self.len = len.min(self.bytes.len().saturating_sub(DIRECT_BYTES));
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..][..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..self.len]
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_where_direct_io_wants_it_and_stays_there() {
        let buffer = Buffer::new(100_000);
        let at = buffer.as_ptr();
        let moved = Box::new(buffer);
        assert_eq!(moved.as_ptr(), at);
        assert_eq!(at.align_offset(DIRECT_BYTES), 0);
        assert_eq!(moved.len(), 100_000);
    }

    #[test]
    fn it_never_shows_more_than_it_was_made_with() {
        let mut buffer = Buffer::new(100);
        for (wanted, shown) in [(7, 7), (101, 100), (0, 0), (usize::MAX, 100)] {
            buffer.show(wanted);
            assert_eq!(buffer.len(), shown);
        }
    }
}
