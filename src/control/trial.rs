//! Whether being concurrent pays off on a filesystem. Calls may sleep because they wait for each other: btrfs locks its trees,
//! and more calls at once make that worse. So the first moments of being concurrent are a trial, and a moment of inline calls is
//! part of it. Such a trial comes again now and then, for what is copied changes.

use std::time::Duration;

/// The trial begins when the first operations have come back, takes so long, and needs so many calls to say anything.
const AFTER: Duration = Duration::from_millis(50);
const CONCURRENT: Duration = Duration::from_millis(200);
const INLINE: Duration = Duration::from_millis(100);
const CALLS_MIN: u64 = 32;
/// Calls that are in flight when calls go inline are waited for, but not longer than this: one may hang.
const DRAIN_MAX: Duration = Duration::from_millis(200);
/// Being concurrent takes a context switch for each operation, so it has to be faster by so much: 5 to 4.
const GAIN: (u32, u32) = (5, 4);
/// After so many inline calls nothing more need be tried, when all but one in eight are so many times slower.
const PLAIN_CALLS: u64 = 8;
const PLAIN_TIMES: u32 = 4;
/// Nor after so few, when all but one in eight take so long while nothing else is at work: they wait for a server far away, or for a
/// slow device, and that does not change soon.
const FAR_CALLS: u64 = 4;
const FAR: Duration = Duration::from_millis(4);
/// With fewer operations in flight on average there was too little to do at once, which says nothing about the filesystem.
const IN_FLIGHT_MIN: u64 = 4;
/// How long the outcome of a trial that was passed stands: at first, and at last, for it doubles each time. What decided it may
/// have been that others had their trials.
const STANDS_MIN: Duration = Duration::from_secs(1);
const STANDS_MAX: Duration = Duration::from_secs(16);

/// Time is passed in, as a duration since any fixed moment.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    phase: Phase,
    /// How long the next outcome will stand.
    stands: Duration,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Settling {
        since: Duration,
    },
    Concurrent {
        since: Duration,
        calls: u64,
        /// How often operations were started, and how many were in flight each time, added up.
        starts: u64,
        in_flight: u64,
    },
    /// Calls are inline, and share the cores with those that are not back yet.
    Draining {
        since: Duration,
        concurrent: Duration,
    },
    Inline {
        since: Duration,
        calls: u64,
        /// Of which so many were much slower than when they were concurrent.
        slow: u64,
        /// And so many took as long as [`FAR`].
        far: u64,
        /// From one call to the next when they were concurrent.
        concurrent: Duration,
    },
    Passed {
        until: Duration,
    },
}

/// From one call to the next, everything in between included; `None` while there is too little to tell.
fn pace(elapsed: Duration, least: Duration, calls: u64) -> Option<Duration> {
    let enough = elapsed >= least && calls >= CALLS_MIN;
    enough.then(|| elapsed / u32::try_from(calls).unwrap_or(u32::MAX))
}

impl Phase {
    fn concurrent(since: Duration) -> Self {
        Self::Concurrent {
            since,
            calls: 0,
            starts: 0,
            in_flight: 0,
        }
    }

    fn inline(since: Duration, concurrent: Duration) -> Self {
        Self::Inline {
            since,
            calls: 0,
            slow: 0,
            far: 0,
            concurrent,
        }
    }
}

impl Trial {
    /// Calls have been concurrent from `now` on.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            phase: Phase::Settling { since: now },
            stands: STANDS_MIN,
        }
    }

    /// Whether inline calls are a part of the trial now.
    pub(super) fn is_inline(&self) -> bool {
        matches!(self.phase, Phase::Draining { .. } | Phase::Inline { .. })
    }

    /// Counts calls that start at `now`, with so many others in flight. Returns whether they may be concurrent.
    pub(super) fn start(&mut self, now: Duration, calls: u64, in_flight: u64) -> bool {
        match &mut self.phase {
            Phase::Settling { since } if now.saturating_sub(*since) < AFTER => {}
            Phase::Passed { until } if now < *until => {}
            Phase::Settling { .. } | Phase::Passed { .. } => self.phase = Phase::concurrent(now),
            Phase::Concurrent {
                since,
                calls: all,
                starts,
                in_flight: sum,
            } => {
                *all += calls;
                *starts += 1;
                *sum += in_flight;
                let was_busy = *sum >= IN_FLIGHT_MIN * *starts;
                match pace(now.saturating_sub(*since), CONCURRENT, *all) {
                    Some(concurrent) if was_busy => {
                        let since = now;
                        self.phase = Phase::Draining { since, concurrent };
                    }
                    Some(_) => self.phase = Phase::concurrent(now),
                    None => {}
                }
            }
            Phase::Draining { since, concurrent } => {
                if in_flight == 0 || now.saturating_sub(*since) >= DRAIN_MAX {
                    self.phase = Phase::inline(now, *concurrent);
                }
                return false;
            }
            Phase::Inline { .. } => return false,
        }
        true
    }

    /// Inline calls that took so long together ended at `now`. Returns whether being concurrent pays off, when that is known.
    pub(super) fn ended(&mut self, now: Duration, took: Duration, calls_made: u64) -> Option<bool> {
        let Phase::Inline {
            since,
            calls,
            slow,
            far,
            concurrent,
        } = &mut self.phase
        else {
            return None;
        };
        *calls += calls_made;
        let each = took / u32::try_from(calls_made).unwrap_or(u32::MAX).max(1);
        if each > *concurrent * PLAIN_TIMES {
            *slow += calls_made;
        }
        if each >= FAR {
            *far += calls_made;
        }
        let nearly_all = *calls - *calls / 8;
        let is_plain = *calls >= PLAIN_CALLS && *slow >= nearly_all;
        let is_far = *calls >= FAR_CALLS && *far >= nearly_all;
        let pays = if is_plain || is_far {
            Some(true)
        } else {
            let inline = pace(now.saturating_sub(*since), INLINE, *calls);
            inline.map(|inline| *concurrent * GAIN.0 < inline * GAIN.1)
        };
        if pays == Some(true) {
            if is_far {
                self.stands = STANDS_MAX;
            }
            let until = now + self.stands;
            self.phase = Phase::Passed { until };
            self.stands = (self.stands * 2).min(STANDS_MAX);
        }
        pays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A trial of calls that followed each other so fast while they were concurrent, up to where calls go inline.
    fn until_inline(each: Duration, in_flight: u64) -> (Trial, Duration) {
        let mut now = Duration::ZERO;
        let mut trial = Trial::new(now);
        while trial.start(now, 1, in_flight) {
            now += each;
            assert!(now < Duration::from_secs(2), "it never begins");
        }
        (trial, now)
    }

    /// Inline calls until there is an outcome: that, and how many it took.
    fn outcome(
        trial: &mut Trial,
        mut now: Duration,
        took: impl Fn(u32) -> Duration,
    ) -> (bool, u32) {
        for call in 0.. {
            assert!(!trial.start(now, 1, 0));
            now += took(call);
            if let Some(pays) = trial.ended(now, took(call), 1) {
                return (pays, call + 1);
            }
        }
        unreachable!()
    }

    #[test]
    fn what_is_much_slower_inline_is_seen_after_a_few_calls() {
        let (mut trial, now) = until_inline(MS / 10, 20);
        assert_eq!(outcome(&mut trial, now, |_| MS), (true, 8));
        assert!(!trial.is_inline());
    }

    #[test]
    fn what_waits_for_a_server_far_away_is_seen_after_fewer_and_stands_for_long() {
        // They follow each other only twice as fast as inline: the client lets one at a time into a directory.
        let (mut trial, now) = until_inline(10 * MS, 20);
        assert_eq!(outcome(&mut trial, now, |_| 20 * MS), (true, 4));
        let mut again = now + 100 * MS;
        while trial.start(again, 1, 20) {
            again += 10 * MS;
        }
        assert!(again >= now + STANDS_MAX);
    }

    #[test]
    fn one_call_that_waited_for_a_commit_decides_nothing() {
        let (mut trial, now) = until_inline(MS / 20, 20);
        let took = |call| if call == 3 { 10 * MS } else { MS / 25 };
        assert!(!outcome(&mut trial, now, took).0);
    }

    #[test]
    fn one_call_that_waited_for_a_long_commit_decides_by_the_mean_and_not_for_long() {
        let (mut trial, now) = until_inline(MS / 20, 20);
        let took = |call| if call == 3 { 150 * MS } else { MS / 25 };
        assert!(outcome(&mut trial, now, took).0);
        assert_eq!(trial.stands, STANDS_MIN * 2);
    }

    #[test]
    fn calls_count_only_when_none_of_the_concurrent_ones_is_left() {
        let (mut trial, now) = until_inline(MS / 20, 50);
        for call in 0..40 {
            // They share the cores with those, and are slow for that reason.
            assert!(!trial.start(now, 1, 50 - call));
            assert_eq!(trial.ended(now, MS, 1), None);
        }
        let (pays, _) = outcome(&mut trial, now, |_| MS / 25);
        assert!(!pays);
    }

    #[test]
    fn a_call_that_hangs_does_not_keep_it_from_ending() {
        let (mut trial, mut now) = until_inline(MS / 10, 20);
        let began = now;
        while trial.ended(now, MS, 1).is_none() {
            assert!(!trial.start(now, 1, 1));
            now += MS;
        }
        assert!(now < began + DRAIN_MAX + 20 * MS);
    }

    #[test]
    fn a_passed_one_is_repeated_ever_later() {
        let (mut trial, mut now) = until_inline(MS / 10, 20);
        for stands in [1, 2, 4, 8, 16, 16].map(Duration::from_secs) {
            assert!(outcome(&mut trial, now, |_| MS).0);
            let passed = now;
            while trial.start(now, 1, 20) {
                now += MS / 10;
            }
            let expected = passed + stands..passed + stands + CONCURRENT * 2;
            assert!(expected.contains(&now), "{passed:?} {now:?}");
        }
    }
}
