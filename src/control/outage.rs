//! When a server has gone: calls fail for want of an answer, and for a while nothing is completed.

use std::time::{Duration, Instant};

/// Fewer failures may have causes of their own.
const FAILURES_MIN: u32 = 8;
/// Each of them has had the patience of its mount, and of our repetitions, already.
const LASTS_MIN: Duration = Duration::from_secs(10);

/// Watches the failures on one side of a run.
#[derive(Debug, Default)]
pub struct Outage {
    since: Option<Instant>,
    /// What was completed when it began.
    completed: u64,
    failures: u32,
}

impl Outage {
    /// A call failed for want of an answer, when `completed` things had been completed on that side. Returns whether to give up: all
    /// that was asked for lately failed so.
    pub fn on_failure(&mut self, now: Instant, completed: u64) -> bool {
        let since = match self.since {
            Some(since) if completed == self.completed => since,
            _ => {
                *self = Self {
                    since: Some(now),
                    completed,
                    failures: 0,
                };
                now
            }
        };
        self.failures += 1;
        self.failures >= FAILURES_MIN && now.saturating_duration_since(since) >= LASTS_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn many_failures_in_a_long_time_without_success_are_an_outage() {
        let (start, mut outage) = (Instant::now(), Outage::default());
        let ended = (0..60).find(|&second| outage.on_failure(start + second * SECOND, 7));
        assert_eq!(ended, Some(10));
    }

    #[test]
    fn few_failures_or_all_at_once_or_with_successes_between_are_none() {
        let (start, mut outage) = (Instant::now(), Outage::default());
        assert!((0..7).all(|number| !outage.on_failure(start + number * 100 * SECOND, 7)));
        let mut outage = Outage::default();
        assert!((0..100_000).all(|_| !outage.on_failure(start, 7)));
        let mut outage = Outage::default();
        let slowly = |second: u32| u64::from(second / 9);
        assert!((0..600).all(|second| !outage.on_failure(start + second * SECOND, slowly(second))));
    }
}
