//! When what failed is tried again: pauses that grow, and how many there may be in a run.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How often one thing is tried again. With the pauses below that is about half a second: what takes longer to pass is an
/// outage.
pub const ATTEMPTS_MAX: u32 = 5;
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Repetitions in a whole run, unless said otherwise: an outage has to end in errors, not in hours of pauses.
pub const BUDGET: u64 = 10_000;

/// The pause before attempt number `attempt`, from 0; `None` when there is none any more. Between half of its length and the
/// whole, as `random` has it: those who failed together must not come back together.
#[must_use]
pub fn pause(attempt: u32, random: u64) -> Option<Duration> {
    if attempt >= ATTEMPTS_MAX {
        return None;
    }
    let whole = PAUSE_FIRST.saturating_mul(1 << attempt).min(PAUSE_MAX);
    let half = whole / 2;
    let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX).max(1);
    Some(half + Duration::from_nanos(random % nanos))
}

/// Repetitions that are left in a run.
#[derive(Debug)]
pub struct RetryBudget(AtomicU64);

impl RetryBudget {
    #[must_use]
    pub fn new(count: u64) -> Self {
        Self(AtomicU64::new(count))
    }

    /// Takes one. `false` when none is left; exact across threads.
    #[must_use]
    pub fn take(&self) -> bool {
        let taken = self
            .0
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_grow_and_end() {
        let longest: Vec<Duration> = (0..ATTEMPTS_MAX)
            .map(|attempt| pause(attempt, u64::MAX).unwrap())
            .collect();
        assert!(longest.is_sorted() && longest[0] >= PAUSE_FIRST / 2);
        assert_eq!(pause(ATTEMPTS_MAX, 0), None);
        assert!(longest.iter().sum::<Duration>() < Duration::from_secs(2));
    }

    #[test]
    fn a_budget_is_spent_exactly() {
        let budget = RetryBudget::new(1000);
        let taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while budget.take() {
                        taken.fetch_add(1, Relaxed);
                    }
                });
            }
        });
        assert_eq!(taken.into_inner(), 1000);
    }

    proptest! {
        #[test]
        fn pauses_are_between_half_and_whole(attempt in 0..ATTEMPTS_MAX, random: u64) {
            let whole = PAUSE_FIRST.saturating_mul(1 << attempt).min(PAUSE_MAX);
            let pause = pause(attempt, random).unwrap();
            prop_assert!(pause >= whole / 2 && pause <= whole);
        }
    }
}
