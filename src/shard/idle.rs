//! Which shards have nothing to do. The hash of a path spreads directories evenly, and neither their sizes nor a few hundred
//! of them are even; so a shard that has directories waiting gives some to one that has none.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use crossbeam_utils::CachePadded;

/// One for all shards. Asked once for each directory, so the answer "nobody" costs one load.
pub(super) struct Idle {
    count: AtomicUsize,
    is_idle: Box<[CachePadded<AtomicBool>]>,
}

impl Idle {
    pub(super) fn new(shards: usize) -> Self {
        Self {
            count: AtomicUsize::new(0),
            is_idle: (0..shards).map(|_| CachePadded::default()).collect(),
        }
    }

    pub(super) fn set(&self, shard: usize) {
        if !self.is_idle[shard].swap(true, SeqCst) {
            self.count.fetch_add(1, SeqCst);
        }
    }

    /// Whether it was idle until now.
    pub(super) fn clear(&self, shard: usize) -> bool {
        let was = self.is_idle[shard].swap(false, SeqCst);
        if was {
            self.count.fetch_sub(1, SeqCst);
        }
        was
    }

    /// A shard that is idle, and counts as idle no more. The nearest one above `from` comes first, so that not all givers
    /// meet at the same.
    pub(super) fn take(&self, from: usize) -> Option<usize> {
        if self.count.load(SeqCst) == 0 {
            return None;
        }
        let shards = self.is_idle.len();
        (1..shards)
            .map(|step| (from + step) % shards)
            .find(|&shard| self.clear(shard))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_idle_shard_is_taken_once_and_nobody_takes_himself() {
        let idle = Idle::new(4);
        assert_eq!(idle.take(0), None);
        for shard in [0, 1, 3, 3] {
            idle.set(shard);
        }
        assert_eq!(idle.take(1), Some(3));
        assert_eq!(idle.take(0), Some(1));
        assert_eq!(idle.take(0), None, "0 is the one that asks");
        assert!(idle.clear(0) && !idle.clear(0));
        assert_eq!(idle.take(2), None);
    }
}
