//! When a run must end before its work is done: time is up, or nothing moves any more.
//!
//! ```text
//!             stop_after is over          (cancelled)
//!   working ──────────────────────> ending ─────────────────────────> over
//!      │                              ^  │ nothing completed for
//!      └──────────────────────────────┘  │ the whole timeout, again
//!        nothing completed for the       v
//!        whole timeout                 stuck: the process gives up
//! ```

use std::time::Duration;

/// Time that passed between two ticks counts at most so much towards a timeout. Ticks are far shorter; a longer gap means
/// that the process itself was stopped (^Z, a frozen cgroup), which is no fault of the filesystem.
const GAP_MAX: Duration = Duration::from_secs(1);

/// When to end early.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchLimits {
    /// `--stop-after`: the time a run may take.
    pub stop_after: Option<Duration>,
    /// `--timeout`: the time in which something must be completed.
    pub timeout: Option<Duration>,
}

/// What a tick found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    GoOn,
    /// Time is up: end in good order.
    StopTime,
    /// Nothing was completed for the whole timeout: end in good order.
    TimedOut,
    /// Nothing was completed for the whole timeout although the run is ending: it will not end by itself.
    Stuck,
}

/// Watches one run.
#[derive(Debug)]
pub struct Watch {
    limits: WatchLimits,
    elapsed: Duration,
    /// Since something was completed.
    idle: Duration,
    completed: u64,
    ending: bool,
}

impl Watch {
    #[must_use]
    pub fn new(limits: WatchLimits) -> Self {
        Self {
            limits,
            elapsed: Duration::ZERO,
            idle: Duration::ZERO,
            completed: 0,
            ending: false,
        }
    }

    /// `passed`: since the tick before. `completed`: operations of the run so far. `ending`: the run was told to end.
    pub fn on_tick(&mut self, passed: Duration, completed: u64, ending: bool) -> Verdict {
        self.elapsed += passed;
        if (completed, ending) == (self.completed, self.ending) {
            self.idle += passed.min(GAP_MAX);
        } else {
            (self.completed, self.ending) = (completed, ending);
            self.idle = Duration::ZERO;
        }
        let is_over = |limit: Option<Duration>, time: Duration| limit.is_some_and(|it| time >= it);
        match (is_over(self.limits.timeout, self.idle), ending) {
            (true, true) => Verdict::Stuck,
            (true, false) => Verdict::TimedOut,
            (false, false) if is_over(self.limits.stop_after, self.elapsed) => Verdict::StopTime,
            (false, _) => Verdict::GoOn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    fn watch(stop_after: Option<u64>, timeout: Option<u64>) -> Watch {
        Watch::new(WatchLimits {
            stop_after: stop_after.map(Duration::from_secs),
            timeout: timeout.map(Duration::from_secs),
        })
    }

    /// The first tick of so many that says something, and what it says.
    fn first(watch: &mut Watch, ticks: u32, completed: impl Fn(u32) -> u64) -> (u32, Verdict) {
        let ending = watch.ending;
        (1..=ticks)
            .map(|tick| (tick, watch.on_tick(TICK, completed(tick), ending)))
            .find(|(_, verdict)| *verdict != Verdict::GoOn)
            .unwrap_or((0, Verdict::GoOn))
    }

    #[test]
    fn without_limits_a_run_may_take_for_ever() {
        let mut watch = watch(None, None);
        assert_eq!(first(&mut watch, 10_000, |_| 0).1, Verdict::GoOn);
    }

    #[test]
    fn progress_of_any_size_keeps_a_run_alive() {
        let mut watch = watch(None, Some(2));
        // One operation every 1.9 s.
        let completed = |tick: u32| u64::from(tick / 19);
        assert_eq!(first(&mut watch, 10_000, completed).1, Verdict::GoOn);
        let (tick, verdict) = first(&mut watch, 10_000, |_| 526);
        assert_eq!((tick <= 21, verdict), (true, Verdict::TimedOut));
    }

    #[test]
    fn an_ending_run_gets_the_whole_timeout_again_and_is_then_stuck() {
        let mut watch = watch(None, Some(2));
        assert_eq!(first(&mut watch, 100, |_| 0), (20, Verdict::TimedOut));
        assert_eq!(watch.on_tick(TICK, 0, true), Verdict::GoOn);
        assert_eq!(first(&mut watch, 100, |_| 0), (20, Verdict::Stuck));
    }

    #[test]
    fn an_interrupted_run_that_does_not_end_is_stuck_too() {
        let mut watch = watch(None, Some(2));
        assert_eq!(watch.on_tick(TICK, 5, false), Verdict::GoOn);
        assert_eq!(watch.on_tick(TICK, 5, true), Verdict::GoOn);
        assert_eq!(first(&mut watch, 100, |_| 5), (20, Verdict::Stuck));
    }

    #[test]
    fn time_is_up_once_and_does_not_hurry_the_end() {
        let mut watch = watch(Some(3), None);
        assert_eq!(first(&mut watch, 100, u64::from), (30, Verdict::StopTime));
        assert_eq!(watch.on_tick(TICK, 30, true), Verdict::GoOn);
        assert_eq!(first(&mut watch, 10_000, |_| 30).1, Verdict::GoOn);
    }

    #[test]
    fn a_process_that_was_stopped_has_not_timed_out() {
        let mut watch = watch(None, Some(2));
        let night = Duration::from_secs(8 * 3600);
        assert_eq!(watch.on_tick(night, 0, false), Verdict::GoOn);
        assert_eq!(watch.on_tick(TICK, 1, false), Verdict::GoOn);
    }
}
