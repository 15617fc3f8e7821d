//! When a server has gone: calls fail for want of an answer, and for a while nothing else comes.

use std::time::{Duration, Instant};

/// Fewer failures may have causes of their own.
const FAILURES_MIN: u32 = 8;
/// Each of them has had the patience of its mount already.
const LASTS_MIN: Duration = Duration::from_secs(10);

/// Watches the calls to one server.
#[derive(Debug, Default)]
pub struct Outage {
    /// Since the last answer: the first failure, and how many there were.
    since: Option<Instant>,
    failures: u32,
}

impl Outage {
    pub fn on_answer(&mut self) {
        *self = Self::default();
    }

    /// A call failed for want of an answer. Returns whether to give up.
    pub fn on_failure(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        self.failures += 1;
        self.failures >= FAILURES_MIN && now.saturating_duration_since(since) >= LASTS_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn many_failures_in_a_long_time_without_an_answer_are_an_outage() {
        let (start, mut outage) = (Instant::now(), Outage::default());
        let ended = (0..60).find(|&second| outage.on_failure(start + second * SECOND));
        assert_eq!(ended, Some(10));
    }

    #[test]
    fn few_failures_or_all_at_once_or_with_answers_between_are_none() {
        let (start, mut outage) = (Instant::now(), Outage::default());
        assert!((0..7).all(|number| !outage.on_failure(start + number * 100 * SECOND)));
        let mut outage = Outage::default();
        assert!((0..100_000).all(|_| !outage.on_failure(start)));
        let mut outage = Outage::default();
        for second in 0..600 {
            if second % 9 == 0 {
                outage.on_answer();
            }
            assert!(!outage.on_failure(start + second * SECOND));
        }
    }
}
