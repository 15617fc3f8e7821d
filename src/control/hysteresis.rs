//! The two thresholds of a throttle.
//!
//! ```text
//!            used >= engage_at
//!   Free ─────────────────────────> Engaged
//!        <─────────────────────────
//!            used <= release_at
//! ```
//!
//! Between the two nothing changes, so use that hovers about one value does not switch the throttle to and fro.

/// Absolute thresholds, in the unit of what is used. `release_at < engage_at`, so `engage_at` is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    pub engage_at: u64,
    pub release_at: u64,
}

impl Thresholds {
    /// Of a limit, at `engage` and `release` percent of it. `engage_at` is the least use that is `engage` percent or more,
    /// `release_at` the greatest that is `release` percent or less: exact at any size, and a limit of 1 engages at 1 and
    /// releases at 0. Where `release` is not below `engage`, the dead band is as narrow as can be.
    #[must_use]
    pub fn of_percent(limit: u64, engage: u8, release: u8) -> Self {
        let hundredths = |percent: u8| u128::from(limit) * u128::from(percent);
        let engage_at = saturated(hundredths(engage).div_ceil(100)).max(1);
        let release_at = saturated(hundredths(release) / 100).min(engage_at - 1);
        let thresholds = Self {
            engage_at,
            release_at,
        };
        thresholds.check();
        thresholds
    }

    fn check(&self) {
        debug_assert!(self.release_at < self.engage_at);
    }

    /// Whether the throttle is engaged when so much is used, given whether it was before.
    #[must_use]
    pub fn next(&self, is_engaged: bool, used: u64) -> bool {
        self.check();
        if is_engaged {
            used > self.release_at
        } else {
            used >= self.engage_at
        }
    }
}

fn saturated(amount: u128) -> u64 {
    u64::try_from(amount).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_limit_of_one_engages_when_it_is_used_and_releases_when_it_is_free() {
        for (engage, release) in [(100, 85), (80, 70), (1, 1), (100, 99)] {
            let thresholds = Thresholds::of_percent(1, engage, release);
            assert_eq!((thresholds.engage_at, thresholds.release_at), (1, 0));
            assert!(thresholds.next(false, 1) && thresholds.next(true, 1));
            assert!(!thresholds.next(false, 0) && !thresholds.next(true, 0));
        }
    }

    #[test]
    fn between_the_thresholds_nothing_changes() {
        let thresholds = Thresholds::of_percent(1000, 100, 85);
        assert_eq!((thresholds.engage_at, thresholds.release_at), (1000, 850));
        for used in 851..1000 {
            assert!(thresholds.next(true, used) && !thresholds.next(false, used));
        }
        assert!(thresholds.next(false, 1000) && !thresholds.next(true, 850));
    }

    #[test]
    fn the_largest_limit_does_not_overflow() {
        let thresholds = Thresholds::of_percent(u64::MAX, 255, 254);
        assert_eq!(thresholds.engage_at, u64::MAX);
        assert!(!thresholds.next(true, u64::MAX - 1));
    }

    proptest! {
        /// Whatever the numbers: full use engages, no use releases, and percentages are what they say.
        #[test]
        fn any_thresholds_work(limit in 1_u64.., engage in 1_u8..=100, release in 0_u8..100, used: u64) {
            let thresholds = Thresholds::of_percent(limit, engage, release);
            prop_assert!(thresholds.engage_at <= limit);
            prop_assert!(thresholds.next(false, limit) && thresholds.next(true, limit));
            prop_assert!(!thresholds.next(false, 0) && !thresholds.next(true, 0));
            let reaches = |percent: u8| u128::from(used) * 100 >= u128::from(limit) * u128::from(percent);
            prop_assert_eq!(thresholds.next(false, used), reaches(engage));
            // What has just engaged stays engaged, what has just been released stays free.
            prop_assert_eq!(thresholds.next(thresholds.next(false, used), used), thresholds.next(false, used));
        }
    }
}
