//! A rate limit that shards share without a lock: virtual scheduling, the form of the leaky bucket that is known as GCRA
//! (ITU-T I.371).
//!
//! One number is kept: the virtual time, at which all that was spent would be over had it gone at exactly the rate. An operation
//! may start unless the virtual time is more than [`BURST`] ahead of the real one; it is then charged in full, whatever its
//! size, and those that follow wait for it. So nothing is ever split or refused, and the mean is exact.
//!
//! ```text
//!   real time  ──────now────────────────────────────────>
//!                     |<-- BURST -->|<-- delay -->|
//!   virtual time ─────────────────────────────────^
//! ```

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// How far the virtual time may be ahead: idle time is worth at most this much. It makes good for sleepers that wake late,
/// as they do by some milliseconds, and is too short to be seen in a rate.
pub const BURST: Duration = Duration::from_millis(50);
/// Virtual time is counted in fractions of a nanosecond, so that rounding is below 2 % for one operation at a billion a
/// second, and far below that for all that is real. 64 bits then last for nine years.
const UNITS_PER_NS: u64 = 64;
const UNITS_PER_SECOND: u128 = UNITS_PER_NS as u128 * 1_000_000_000;
/// Operations are to be no larger than this part of a second's worth. It is shorter than a burst: who sleeps for a charge that
/// comes back meanwhile wakes too late by as much, and the burst makes good for that.
const QUANTA_PER_SECOND: u64 = 32;
const _: () =
    assert!(Duration::from_millis(1000 / QUANTA_PER_SECOND).as_millis() < BURST.as_millis());

/// Paces bytes or operations to so many a second. Time is passed in, as a duration since any fixed moment.
#[derive(Debug)]
pub struct Pacer {
    per_second: u64,
    /// In units. Nothing else is published through it, so its order among other memory does not matter.
    virtual_time: AtomicU64,
}

impl Pacer {
    /// # Panics
    /// If the rate is 0: nothing could ever proceed.
    #[must_use]
    pub fn new(per_second: u64) -> Self {
        assert!(per_second > 0, "a rate of 0 would be a standstill");
        Self {
            per_second,
            virtual_time: AtomicU64::new(0),
        }
    }

    /// How long to wait before the next operation may start: 0 means now. Many may be told the same: each is charged, so
    /// they only use the future's share sooner.
    #[must_use]
    pub fn delay(&self, now: Duration) -> Duration {
        let allowed = units(now.saturating_add(BURST));
        let ahead = self.virtual_time.load(Relaxed).saturating_sub(allowed);
        // Rounded up: whoever sleeps for it finds that it is over.
        Duration::from_nanos(ahead.div_ceil(UNITS_PER_NS))
    }

    /// Charges `amount`, for an operation that starts now. Rounded up, so the rate is never exceeded.
    pub fn spend(&self, now: Duration, amount: u64) {
        let cost = u128::from(amount) * UNITS_PER_SECOND;
        let cost = saturated(cost.div_ceil(u128::from(self.per_second)));
        let now = units(now);
        let advance = |time: u64| Some(time.max(now).saturating_add(cost));
        // It always advances, so there is no failure to look at.
        let _ = self.virtual_time.fetch_update(Relaxed, Relaxed, advance);
    }

    /// Takes back a charge, or a part of it: less was done than was thought.
    pub fn refund(&self, amount: u64) {
        let cost = u128::from(amount) * UNITS_PER_SECOND / u128::from(self.per_second);
        let go_back = |time: u64| Some(time.saturating_sub(saturated(cost)));
        // It always goes back, so there is no failure to look at.
        let _ = self.virtual_time.fetch_update(Relaxed, Relaxed, go_back);
    }

    /// The most that one operation should move, a 32nd of a second's worth and at least 1: larger ones make a slow rate
    /// jerky.
    #[must_use]
    pub fn quantum(&self) -> u64 {
        (self.per_second / QUANTA_PER_SECOND).max(1)
    }
}

fn units(time: Duration) -> u64 {
    saturated(time.as_nanos() * u128::from(UNITS_PER_NS))
}

fn saturated(units: u128) -> u64 {
    u64::try_from(units).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_was_charged_too_much_comes_back() {
        let pacer = Pacer::new(1000);
        pacer.spend(SECOND, 5000);
        let before = pacer.delay(SECOND);
        pacer.spend(SECOND, 700);
        pacer.refund(700);
        assert_eq!(pacer.delay(SECOND), before);
        pacer.refund(u64::MAX);
        assert_eq!(pacer.delay(SECOND), Duration::ZERO);
    }

    /// Spends as fast as it may until `end`, and tells how much.
    fn spend_until(pacer: &Pacer, now: &mut Duration, end: Duration, amount: u64) -> u128 {
        let mut sum = 0;
        while *now < end {
            match pacer.delay(*now) {
                Duration::ZERO => {
                    pacer.spend(*now, amount);
                    sum += u128::from(amount);
                }
                delay => *now += delay,
            }
        }
        sum
    }

    #[test]
    fn an_idle_pacer_lets_pass_at_once_and_idle_time_buys_one_burst() {
        let pacer = Pacer::new(1000);
        let hour = SECOND * 3600;
        assert_eq!(pacer.delay(hour), Duration::ZERO);
        let mut now = hour;
        let passed = spend_until(&pacer, &mut now, hour + Duration::from_nanos(1), 1);
        assert_eq!(passed, 51, "50 ms worth, and the one that goes over it");
        assert_eq!(pacer.delay(hour), Duration::from_millis(1));
    }

    #[test]
    fn a_large_operation_is_charged_in_full() {
        let pacer = Pacer::new(100);
        pacer.spend(SECOND, 1000);
        assert_eq!(pacer.delay(SECOND) + BURST, SECOND * 10);
        assert_eq!(pacer.delay(SECOND * 20), Duration::ZERO);
    }

    #[test]
    fn who_wakes_late_loses_nothing_within_the_burst() {
        let pacer = Pacer::new(10_000);
        let (mut now, mut sum) = (Duration::ZERO, 0);
        while now < SECOND * 10 {
            match pacer.delay(now) {
                Duration::ZERO => {
                    pacer.spend(now, 10);
                    sum += 10;
                }
                delay => now += delay + Duration::from_millis(40),
            }
        }
        assert!((99_000..=101_000).contains(&sum), "{sum}");
    }

    #[test]
    fn absurd_rates_and_amounts_neither_overflow_nor_stop_time() {
        let slow = Pacer::new(1);
        slow.spend(Duration::ZERO, u64::MAX);
        assert!(slow.delay(SECOND) > SECOND * 3600 * 24 * 365);
        slow.spend(Duration::MAX, u64::MAX);
        assert_eq!(slow.delay(Duration::MAX), Duration::ZERO);
        assert_eq!((slow.quantum(), Pacer::new(8001).quantum()), (1, 250));

        let fast = Pacer::new(u64::MAX);
        for _ in 0..1000 {
            fast.spend(SECOND, 1 << 40);
            assert_eq!(fast.delay(SECOND), Duration::ZERO);
        }
    }

    proptest! {
        /// Over ten seconds the rate is kept within 1 %, but for the burst and the last operation.
        #[test]
        fn the_rate_is_exact(per_second in 1_u64..1 << 40, share in 1_u64..1000) {
            let pacer = Pacer::new(per_second);
            let amount = (pacer.quantum() / share).max(per_second / 100_000).max(1);
            let mut now = SECOND * 7;
            let sum = spend_until(&pacer, &mut now, SECOND * 17, amount);
            let due = u128::from(per_second) * 10;
            let least = due - due / 100 - u128::from(amount);
            let most = due + due / 100 + u128::from(amount) + u128::from(per_second) / 20;
            prop_assert!((least..=most).contains(&sum), "{sum} of {due}");
        }
    }
}
