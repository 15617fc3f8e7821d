//! The in-flight depth of rings.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// The most operations in flight on one ring; far above what any device profits from.
pub const DEPTH_MAX: u32 = 4096;

/// How many operations may be in flight on each ring of a run. One controller moves it; the rings look at it.
#[derive(Debug)]
pub struct Depth(AtomicU32);

impl Depth {
    /// # Panics
    /// If it is out of range, `1..=DEPTH_MAX`: the command line has been checked, and controllers have bounds.
    #[must_use]
    pub fn new(depth: u32) -> Arc<Self> {
        let new = Self(AtomicU32::new(1));
        new.set(depth);
        Arc::new(new)
    }

    /// # Panics
    /// As [`Depth::new`].
    pub fn set(&self, depth: u32) {
        assert!((1..=DEPTH_MAX).contains(&depth));
        self.0.store(depth, Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> u32 {
        self.0.load(Relaxed)
    }
}
