//! Which backend runs the operations of one filesystem: inline system calls while calls are fast, the ring (and
//! the blocking pool) while they block.
//!
//! ```text
//!            a window of inline calls costs ENGAGE_NS or more on average, slept for
//!   Inline ────────────────────────────────────────────────────────────────────────> Concurrent
//!          <────────────────────────────────────────────────────────────────────────
//!            PROBES_TO_RELEASE probes in a row that did not sleep or took under RELEASE_NS
//! ```
//!
//! A call that took long may have waited for its device, or the thread may only have been preempted on a busy machine,
//! where more threads are the last thing to help. So a first slow call is a suspicion; from then on the caller
//! looks whether calls sleep (voluntary context switches of the thread), and only those that do are counted.
//!
//! While concurrent, latencies say little about the device (they include queueing), so now and then one operation is
//! run inline as a probe.
//!
//! When a [`Trial`] shows that being concurrent does not pay off, calls stay inline for a while, which doubles each time.

use std::time::Duration;

use super::trial::Trial;

/// A call that takes this long on average blocks: inline it would waste the core, and a round trip through a kernel
/// worker costs about a tenth of it.
const ENGAGE_NS: u64 = 50_000;
/// Calls below this are served from memory; between the two limits nothing changes.
const RELEASE_NS: u64 = 15_000;
const _: () = assert!(
    RELEASE_NS * 2 < ENGAGE_NS,
    "the dead band must be wider than noise"
);
/// Calls in a window.
const WINDOW: u64 = 64;
/// One call counts at most so much, so that a single hiccup (a journal commit) does not fill a window.
const SAMPLE_NS_MAX: u64 = 1_000_000;
const _: () = assert!(
    SAMPLE_NS_MAX * 2 < ENGAGE_NS * WINDOW,
    "two hiccups must not engage"
);
/// Fast probes in a row before calls go inline again.
const PROBES_TO_RELEASE: u32 = 16;
/// Time between probes: at 1 ms a call, probing costs a hundredth of the core.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);
/// After a fast probe the next follows sooner, so that a cache that has become warm is noticed.
const PROBE_INTERVAL_FAST: Duration = Duration::from_millis(2);
/// After a trial that failed calls stay inline for so long, and after many in a row so long.
const HOLD_MIN: Duration = Duration::from_secs(1);
const HOLD_MAX: Duration = Duration::from_secs(8);
/// Data moved inline is expected to take this long anyway: 1 ns a byte, 1 GB/s.
const NS_PER_BYTE: u64 = 1;

/// How to run the next operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Inline,
    Concurrent,
}

/// One inline run of system calls.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// All calls together.
    pub elapsed: Duration,
    /// System calls: at least 1.
    pub calls: u64,
    /// Bytes of file contents that they moved.
    pub bytes: u64,
    /// Whether the thread slept meanwhile, where that was looked at.
    pub slept: Option<bool>,
}

/// The router of one filesystem on one shard. Time is passed in, as a duration since any fixed moment.
#[derive(Clone, Debug, Default)]
pub struct Router {
    state: State,
    /// Calls stay inline until then.
    held_until: Duration,
    /// How long the last trial that failed held them.
    hold: Duration,
}

#[derive(Clone, Debug)]
enum State {
    Inline {
        calls: u64,
        sum_ns: u64,
        /// A call of this window was slow, so the next ones are watched.
        suspicious: bool,
    },
    Concurrent {
        probe_at: Duration,
        fast_probes: u32,
        trial: Trial,
    },
}

impl Default for State {
    fn default() -> Self {
        Self::Inline {
            calls: 0,
            sum_ns: 0,
            suspicious: false,
        }
    }
}

impl Router {
    fn check(&self) {
        match self.state {
            State::Inline { calls, sum_ns, .. } => {
                debug_assert!(calls < WINDOW && sum_ns < ENGAGE_NS * WINDOW);
            }
            State::Concurrent { fast_probes, .. } => debug_assert!(fast_probes < PROBES_TO_RELEASE),
        }
    }

    /// Whether the filesystem is taken to block now.
    #[must_use]
    pub fn is_concurrent(&self) -> bool {
        matches!(self.state, State::Concurrent { .. })
    }

    /// Whether [`Router::on_inline`] wants to know of the next call if it slept. Looking costs a system call.
    #[must_use]
    pub fn wants_proof(&self) -> bool {
        match self.state {
            State::Inline { suspicious, .. } => suspicious,
            State::Concurrent { .. } => true,
        }
    }

    /// Whether calls that start at `now` are to be concurrent, with so many others in flight; if so, they count as started.
    pub fn try_concurrent(&mut self, now: Duration, calls: u64, in_flight: u64) -> bool {
        match &mut self.state {
            State::Concurrent { trial, .. } => trial.start(now, calls, in_flight),
            State::Inline { .. } => false,
        }
    }

    /// A trial failed.
    fn hold_inline(&mut self, now: Duration) {
        self.hold = (self.hold * 2).clamp(HOLD_MIN, HOLD_MAX);
        self.held_until = now + self.hold;
        self.state = State::default();
    }

    /// The route for an operation that starts at `now`. A probe is due at most once an interval: asking moves it.
    pub fn route(&mut self, now: Duration, in_flight: u64) -> Route {
        self.check();
        if !self.try_concurrent(now, 1, in_flight) {
            return Route::Inline;
        }
        match &mut self.state {
            State::Concurrent { probe_at, .. } if now >= *probe_at => {
                *probe_at = now + PROBE_INTERVAL;
                Route::Inline
            }
            _ => Route::Concurrent,
        }
    }

    /// An inline run ended at `now`.
    pub fn on_inline(&mut self, now: Duration, sample: &Sample) {
        self.check();
        let elapsed_ns = u64::try_from(sample.elapsed.as_nanos()).unwrap_or(u64::MAX);
        let moving_ns = sample.bytes.saturating_mul(NS_PER_BYTE);
        let calls_made = sample.calls.max(1);
        let mut per_call_ns = elapsed_ns.saturating_sub(moving_ns) / calls_made;
        if sample.slept == Some(false) {
            per_call_ns = 0;
        }
        match &mut self.state {
            State::Inline {
                calls,
                sum_ns,
                suspicious,
            } => {
                if now < self.held_until {
                    return;
                }
                let weight = calls_made.min(WINDOW);
                *calls += weight;
                if sample.slept == Some(true) {
                    *sum_ns += per_call_ns.min(SAMPLE_NS_MAX) * weight;
                } else if per_call_ns >= ENGAGE_NS && !*suspicious {
                    // The window begins anew, and is watched.
                    *suspicious = true;
                    *calls = 0;
                }
                if *sum_ns >= ENGAGE_NS * WINDOW {
                    self.state = State::Concurrent {
                        probe_at: now + PROBE_INTERVAL,
                        fast_probes: 0,
                        trial: Trial::new(now),
                    };
                } else if *calls >= WINDOW {
                    self.state = State::default();
                }
            }
            State::Concurrent { trial, .. } if trial.is_inline() => {
                match trial.ended(now, sample.elapsed, calls_made) {
                    Some(false) => self.hold_inline(now),
                    Some(true) => self.hold = Duration::ZERO,
                    None => {}
                }
            }
            State::Concurrent {
                probe_at,
                fast_probes,
                ..
            } => {
                if per_call_ns > RELEASE_NS {
                    *fast_probes = 0;
                    return;
                }
                *fast_probes += 1;
                *probe_at = now + PROBE_INTERVAL_FAST;
                if *fast_probes == PROBES_TO_RELEASE {
                    self.state = State::default();
                }
            }
        }
        self.check();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(elapsed: Duration, calls: u64, bytes: u64, slept: Option<bool>) -> Sample {
        Sample {
            elapsed,
            calls,
            bytes,
            slept,
        }
    }

    /// Runs `count` operations of a constant latency, of which many overlap where they may, and counts changes of state.
    fn run(router: &mut Router, now: &mut Duration, count: u32, latency: Duration) -> u32 {
        run_overlapping(router, now, count, latency, (16, 16))
    }

    /// `overlapping`: how much faster operations follow each other when so many are in flight.
    fn run_overlapping(
        router: &mut Router,
        now: &mut Duration,
        count: u32,
        latency: Duration,
        (overlapping, in_flight): (u32, u64),
    ) -> u32 {
        let (mut changes, mut last) = (0, Route::Concurrent);
        for _ in 0..count {
            let before = router.is_concurrent();
            let left = if last == Route::Inline { 0 } else { in_flight };
            let route = router.route(*now, left);
            last = route;
            *now += match route {
                Route::Inline => latency,
                Route::Concurrent => latency / overlapping,
            };
            if route == Route::Inline {
                let slept = router.wants_proof().then_some(latency > FAST);
                router.on_inline(*now, &sample(latency, 1, 0, slept));
            }
            changes += u32::from(router.is_concurrent() != before);
        }
        changes
    }

    const FAST: Duration = Duration::from_micros(2);
    const SLOW: Duration = Duration::from_millis(1);

    #[test]
    fn a_blocking_filesystem_is_noticed_within_a_few_calls() {
        let (mut router, mut now) = (Router::default(), Duration::ZERO);
        assert_eq!(run(&mut router, &mut now, 5, SLOW), 1);
        assert!(router.is_concurrent());
    }

    #[test]
    fn a_fast_filesystem_stays_inline_through_hiccups() {
        let (mut router, mut now) = (Router::default(), Duration::ZERO);
        for _ in 0..1000 {
            run(&mut router, &mut now, 63, FAST);
            run(&mut router, &mut now, 1, Duration::from_millis(20));
        }
        assert!(!router.is_concurrent());
    }

    #[test]
    fn a_warm_cache_brings_calls_back_inline() {
        let (mut router, mut now) = (Router::default(), Duration::ZERO);
        run(&mut router, &mut now, 10_000, SLOW);
        assert!(router.is_concurrent());
        let warm_since = now;
        while router.is_concurrent() {
            run(&mut router, &mut now, 100, FAST);
            assert!(
                now < warm_since + Duration::from_secs(1),
                "release takes too long"
            );
        }
    }

    #[test]
    fn calls_that_wait_for_each_other_go_inline_again_and_seldom_try() {
        let (mut router, mut now) = (Router::default(), Duration::ZERO);
        let latency = Duration::from_micros(100);
        let (mut changes, mut concurrent) = (0, Duration::ZERO);
        while now < Duration::from_mins(5) {
            let before = now;
            changes += run_overlapping(&mut router, &mut now, 50, latency, (1, 16));
            if router.is_concurrent() {
                concurrent += now.saturating_sub(before);
            }
        }
        assert!((2..=90).contains(&changes), "{changes} changes");
        assert!(concurrent < Duration::from_secs(15), "{concurrent:?}");
    }

    #[test]
    fn a_trial_with_nothing_to_do_at_once_says_nothing() {
        let (mut router, mut now) = (Router::default(), Duration::ZERO);
        let changes = run_overlapping(&mut router, &mut now, 10_000, SLOW, (1, 1));
        assert_eq!(changes, 1);
        assert!(router.is_concurrent());
    }

    #[test]
    fn a_filesystem_that_becomes_slow_while_calls_are_held_inline_is_noticed_later() {
        let (mut router, mut now) = (Router::default(), Duration::ZERO);
        while !router.is_concurrent() {
            run_overlapping(&mut router, &mut now, 1, SLOW, (1, 16));
        }
        while router.is_concurrent() {
            run_overlapping(&mut router, &mut now, 1, SLOW, (1, 16));
        }
        let held_since = now;
        while !router.is_concurrent() {
            run(&mut router, &mut now, 1, SLOW);
        }
        assert!(now >= held_since + HOLD_MIN && now < held_since + HOLD_MIN * 2);
        run(&mut router, &mut now, 100_000, SLOW);
        assert!(router.is_concurrent());
    }

    #[test]
    fn moving_data_at_memory_speed_is_not_blocking() {
        let mut router = Router::default();
        for i in 1..1000 {
            let now = Duration::from_millis(i);
            router.on_inline(now, &sample(SLOW, 1, 4 << 20, Some(true)));
        }
        assert!(!router.is_concurrent());
    }

    #[test]
    fn a_batch_counts_by_its_mean() {
        let mut router = Router::default();
        router.on_inline(SLOW, &sample(SLOW * 64, 64, 0, Some(true)));
        assert!(router.is_concurrent());
    }

    #[test]
    fn a_busy_machine_is_not_a_slow_filesystem() {
        let mut router = Router::default();
        for i in 0..10_000 {
            let slept = router.wants_proof().then_some(false);
            router.on_inline(SLOW * i, &sample(SLOW, 1, 0, slept));
        }
        assert!(!router.is_concurrent());
    }

    proptest! {
        /// Under a constant latency, with up to 30 % of noise, the state settles: it changes at most once.
        #[test]
        fn no_oscillation_under_constant_load(latency_us in 1_u64..5_000, noise in prop::collection::vec(0_u64..30, 50)) {
            let (mut router, mut now) = (Router::default(), Duration::ZERO);
            let mut changes = 0;
            for round in 0..100 {
                for percent in &noise {
                    let latency = Duration::from_nanos(latency_us * 1000 * (100 + percent) / 100);
                    changes += run(&mut router, &mut now, 1 + round % 7, latency);
                }
            }
            prop_assert!(changes <= 1, "{changes} changes at {latency_us} us");
        }

        /// Any mix of samples keeps the invariants (checked inside) and never probes more than once an interval.
        #[test]
        fn probes_are_rare(samples in prop::collection::vec((0_u64..3_000_000, 0_u64..200, 0_u64..1_000_000), 1..500)) {
            let (mut router, mut now) = (Router::default(), Duration::ZERO);
            let mut slow_probe_before: Option<Duration> = None;
            for (elapsed_ns, calls, bytes) in samples {
                now += Duration::from_micros(50);
                let was_concurrent = router.is_concurrent();
                if router.route(now, 9) == Route::Inline {
                    if was_concurrent {
                        if let Some(before) = slow_probe_before {
                            prop_assert!(now >= before + PROBE_INTERVAL_FAST);
                        }
                        slow_probe_before = Some(now);
                    }
                    let elapsed = Duration::from_nanos(elapsed_ns);
                    let slept = router.wants_proof().then_some(elapsed_ns % 2 == 0);
                    router.on_inline(now, &sample(elapsed, calls, bytes, slept));
                    if !router.is_concurrent() {
                        slow_probe_before = None;
                    }
                }
            }
        }
    }
}
