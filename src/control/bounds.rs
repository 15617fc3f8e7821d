//! The range that a controller moves a limit in.

/// Where a limit starts, and what it never leaves. `1 <= floor <= start <= ceiling`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    pub floor: u64,
    pub start: u64,
    pub ceiling: u64,
}

impl Bounds {
    /// A limit that does not move.
    ///
    /// # Panics
    /// If it is 0: nothing could ever proceed.
    #[must_use]
    pub fn fixed(limit: u64) -> Self {
        Self::new(limit, limit, limit)
    }

    /// # Panics
    /// If the order is wrong: whoever reads numbers from users has checked them.
    #[must_use]
    pub fn new(floor: u64, start: u64, ceiling: u64) -> Self {
        assert!(1 <= floor && floor <= start && start <= ceiling);
        Self {
            floor,
            start,
            ceiling,
        }
    }

    #[must_use]
    pub fn clamp(&self, limit: u64) -> u64 {
        limit.clamp(self.floor, self.ceiling)
    }
}
