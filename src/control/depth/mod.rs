//! The fast loop: how many operations may be in flight at once.
//!
//! More in flight means more throughput until the server (a disk, an NFS server) has all it can work on; from then on
//! operations only queue there and take longer, and some servers collapse. Which depth is right differs by a
//! factor of a hundred, so it is found by trying: measure, try another depth, keep the better.
//!
//! ```text
//!                  kept: go on
//!                    ┌──┐
//!         measured   │  v     not kept          well           as it was: keep it, go on
//!    Base ──────────> Up ─────────────> Down ───────> Verify ──────────────────────────────> Down
//!     ^                │                  │              │
//!     │                └── kept before ───┴─ not well ───┴── another load ──> Rest ──> Down
//!     │                                                                       │  the server became slower
//!     └──────── it is over, or the server became faster ──────────────────────┘
//! ```
//!
//! The first search goes in large steps and short measurements; the next, in small steps, follows right after it. Each rest is
//! longer than the one before.
//!
//! What is compared is the elasticity: the share of a change in depth that shows up as throughput. It is 1 while the server
//! has room, 0 when it is saturated, negative when it collapses. By Little's law (depth = throughput x latency)
//! throughput and depth / latency are the same number, so both are measured and their geometric mean is used: noise halves,
//! and a rising latency counts as what it is.
//!
//! * A steady load is disturbed ever more rarely, for some seconds in a minute in the end. A try that turns out badly is
//!   given up within a few ticks.
//! * A load that changes all the time looks like a server that does. So a measurement counts only if its ticks are alike, and a
//!   lower depth is kept only if the higher one, tried again, is as it was: to be too low costs more than to be too high.
//! * Ticks in which the depth did not bind, or nothing was completed, change nothing.
//!
//! Controllers that share a server mislead one another: each gains by taking from the others. So one serves all rings that work
//! on the same servers, with their samples added up; the factor between the depth of one ring and of all cancels out.

mod steps;
mod ticks;

use std::time::Duration;

use crate::control::bounds::Bounds;
use steps::{GAIN_FAST, LOSS, Pace, Way};
use ticks::{COMPLETED_MIN, Ticks, Window};

pub use ticks::DepthSample;

/// What is beyond these is not the depth's doing, not even a collapse: the load became another one.
const GAIN_MAX: f64 = 1.5;
const LOSS_MIN: f64 = -4.0;
/// Two measurements at one depth are of the same load if they differ by no more than this elasticity would explain: less
/// than what tells a server that has room from one that is saturated.
const SAME: f64 = 0.75;
const _: () = assert!(SAME < 1.0 - LOSS);
/// What the mean of n ticks may lack by chance, times the square root of n. Below that a try is given up.
const CHANCE: f64 = 0.6;
/// A tick, at rest, that is below or above these times the speed known is not chance, if this many follow one another.
const SLOWER: f64 = 0.6;
const FASTER: f64 = 1.5;
const TICKS_SHIFTED: u32 = 3;
/// After so many measurements in a row in which the load changed, nothing can be learnt from it. It gets at least the depth
/// that was there to start with: too low a one costs more than too high a one.
const UNSTEADY_MAX: u32 = 3;
/// The first rest after a search, and the longest.
const REST_MIN: Duration = Duration::from_secs(2);
const REST_MAX: Duration = Duration::from_secs(64);
/// A measurement that was interrupted for longer is begun anew: the load may be another one.
const GAP_MAX: Duration = Duration::from_secs(5);

/// A lower depth that did well.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Candidate {
    depth: u64,
    speed: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Measures at the depth that is kept.
    Base,
    /// Measures at another one.
    Try(Way),
    /// Measures at the kept one again, after a lower one did well.
    Verify(Candidate),
    Rest {
        until: Duration,
    },
}

/// How the server's speed differs, at rest, from what was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shift {
    None,
    Slower,
    Faster,
}

/// The controller of the in-flight depth. Time is passed in, as a duration since any fixed moment.
#[derive(Debug)]
pub struct Depth {
    bounds: Bounds,
    /// The best depth known.
    kept: u64,
    /// What is allowed now: another one during a try.
    allowed: u64,
    /// Measured at `kept`.
    speed: f64,
    phase: Phase,
    pace: Pace,
    /// What was kept when this search began.
    kept_before: u64,
    window: Window,
    /// What the window has, at rest.
    shift: Shift,
    /// Measurements of the base in a row in which the load changed.
    unsteady: u32,
    rest: Duration,
    ticks: Ticks,
    /// When what is allowed was last changed, or the server last came back, until that has settled.
    unsettled_at: Option<Duration>,
}

impl Depth {
    #[must_use]
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            kept: bounds.start,
            allowed: bounds.start,
            speed: 0.0,
            phase: Phase::Base,
            pace: Pace::Fast,
            kept_before: bounds.start,
            window: Window::default(),
            shift: Shift::None,
            unsteady: 0,
            rest: REST_MIN,
            ticks: Ticks::default(),
            unsettled_at: None,
        }
    }

    fn check(&self) {
        for depth in [self.kept, self.allowed] {
            debug_assert_eq!(self.bounds.clamp(depth), depth);
        }
        let is_try = matches!(self.phase, Phase::Try(_));
        debug_assert_eq!(is_try, self.kept != self.allowed);
        debug_assert!(self.unsteady < UNSTEADY_MAX);
        debug_assert!((REST_MIN..=REST_MAX).contains(&self.rest));
        debug_assert!(self.speed.is_finite() && self.speed >= 0.0);
    }

    /// The in-flight depth from `now` on: absolute, within the bounds.
    pub fn on_tick(&mut self, now: Duration, sample: &DepthSample) -> u64 {
        self.check();
        if let Some(tick) = self.ticks.on_tick(now, sample) {
            if tick.is_stall {
                self.unsettled_at = Some(now);
            }
            if tick.gap > GAP_MAX {
                self.measure_anew(now);
            }
            if self.settles(tick.began_at, sample.latency_mean) {
                self.on_full_tick(now, now.saturating_sub(tick.began_at), sample);
            }
        }
        self.check();
        self.allowed
    }

    /// Whether operations that were in flight at the last change are over. What took longer than the time since then was
    /// among them, or in their queue; half as much again, because the mean is noisy. Once it is so it stays so, for to
    /// pick the ticks with low latencies would be to find speed everywhere.
    fn settles(&mut self, began_at: Duration, latency: Duration) -> bool {
        let settling = latency.saturating_add(latency / 2);
        self.unsettled_at
            .take_if(|at| began_at >= at.saturating_add(settling));
        self.unsettled_at.is_none()
    }

    /// Gives up what is being measured, if anything is.
    fn measure_anew(&mut self, now: Duration) {
        self.window = Window::default();
        if let Phase::Try(_) | Phase::Verify(_) = self.phase {
            self.phase = Phase::Base;
            self.allow(now, self.kept);
        }
    }

    fn allow(&mut self, now: Duration, depth: u64) {
        if self.allowed != depth {
            self.allowed = depth;
            self.unsettled_at = Some(now);
        }
    }

    fn on_full_tick(&mut self, now: Duration, elapsed: Duration, sample: &DepthSample) {
        match self.phase {
            Phase::Rest { until } if now < until => self.on_rest(now, elapsed, sample),
            Phase::Rest { .. } => self.measure_base(),
            Phase::Base => self.on_base(now, elapsed, sample),
            Phase::Try(way) => {
                self.window.add(elapsed, sample, self.allowed);
                if self.window.completed >= COMPLETED_MIN {
                    self.judge(now, way);
                }
            }
            Phase::Verify(candidate) => {
                self.window.add(elapsed, sample, self.allowed);
                if self.window.is_enough(self.pace.ticks()) {
                    self.judge_again(now, candidate);
                }
            }
        }
    }

    fn on_base(&mut self, now: Duration, elapsed: Duration, sample: &DepthSample) {
        self.window.add(elapsed, sample, self.kept);
        if !self.window.is_enough(self.pace.ticks()) {
            return;
        }
        self.speed = self.window.speed();
        if self.window.is_steady() {
            self.unsteady = 0;
            self.start(now, Way::Up);
            return;
        }
        self.unsteady += 1;
        self.window = Window::default();
        if self.unsteady == UNSTEADY_MAX {
            self.unsteady = 0;
            self.kept = self.kept.max(self.bounds.start);
            self.allow(now, self.kept);
            self.take_a_rest(now);
        }
    }

    fn measure_base(&mut self) {
        self.phase = Phase::Base;
        self.kept_before = self.kept;
        self.window = Window::default();
    }

    /// Watches for a server that became another one.
    fn on_rest(&mut self, now: Duration, elapsed: Duration, sample: &DepthSample) {
        let mut tick = Window::default();
        tick.add(elapsed, sample, self.kept);
        let shift = match tick.speed() / self.speed.max(f64::MIN_POSITIVE) {
            ratio if ratio < SLOWER => Shift::Slower,
            ratio if ratio > FASTER => Shift::Faster,
            _ => Shift::None,
        };
        if shift != self.shift || shift == Shift::None {
            self.window = Window::default();
        }
        self.shift = shift;
        self.window.add(elapsed, sample, self.kept);
        if shift == Shift::None || !self.window.is_enough(TICKS_SHIFTED) {
            return;
        }
        self.shift = Shift::None;
        self.rest = REST_MIN;
        match shift {
            Shift::Slower => {
                self.speed = self.window.speed();
                self.pace = Pace::Fast;
                self.kept_before = self.kept;
                self.start(now, Way::Down);
            }
            _ => self.measure_base(),
        }
    }

    fn start(&mut self, now: Duration, way: Way) {
        let depth = self.pace.step(way, self.kept, &self.bounds);
        if depth == self.kept {
            self.on_not_kept(now, way);
            return;
        }
        self.phase = Phase::Try(way);
        self.window = Window::default();
        self.allow(now, depth);
    }

    /// Decides about a try as soon as that is possible.
    fn judge(&mut self, now: Duration, way: Way) {
        let speed = self.window.speed();
        let is_over = self.window.is_enough(self.pace.ticks());
        let speed_least = self.expected(self.allowed, self.pace.elasticity(way));
        let chance = CHANCE / f64::from(self.window.ticks).sqrt();
        if speed < speed_least * (1.0 - chance) || is_over && speed < speed_least {
            self.on_not_kept(now, way);
        } else if is_over && !self.window.is_steady() {
            self.end_search(now);
        } else if is_over && way == Way::Down {
            let depth = self.allowed;
            self.phase = Phase::Verify(Candidate { depth, speed });
            self.window = Window::default();
            self.allow(now, self.kept);
        } else if is_over && speed > self.expected(self.allowed, GAIN_MAX) {
            self.measure_base();
            self.allow(now, self.kept);
        } else if is_over {
            if speed >= self.expected(self.allowed, GAIN_FAST) {
                self.pace = Pace::Fast;
            }
            self.keep(now, self.allowed, speed, way);
        }
    }

    /// Decides about a lower depth once it is known that the load is still the same.
    fn judge_again(&mut self, now: Duration, candidate: Candidate) {
        let speed = self.window.speed();
        let same = self.expected(candidate.depth, SAME)..=self.expected(candidate.depth, -SAME);
        let is_same = same.contains(&speed);
        self.speed = (speed * self.speed).sqrt();
        let good = self.expected(candidate.depth, LOSS)..self.expected(candidate.depth, LOSS_MIN);
        let is_good = good.contains(&candidate.speed);
        if is_same && is_good && self.window.is_steady() {
            if candidate.speed >= self.expected(candidate.depth, -GAIN_FAST) {
                self.pace = Pace::Fast;
            }
            self.keep(now, candidate.depth, candidate.speed, Way::Down);
        } else {
            self.end_search(now);
        }
    }

    /// The speed at another depth if that is the elasticity.
    #[allow(clippy::cast_precision_loss)] // An estimate.
    fn expected(&self, depth: u64, elasticity: f64) -> f64 {
        self.speed * (depth as f64 / self.kept as f64).powf(elasticity)
    }

    fn keep(&mut self, now: Duration, depth: u64, speed: f64, way: Way) {
        (self.kept, self.speed) = (depth, speed);
        self.allow(now, depth);
        self.start(now, way);
    }

    fn on_not_kept(&mut self, now: Duration, way: Way) {
        // What has climbed has left a smaller depth that was worse.
        if way == Way::Up && self.kept <= self.kept_before {
            self.start(now, Way::Down);
        } else {
            self.end_search(now);
        }
    }

    fn end_search(&mut self, now: Duration) {
        self.allow(now, self.kept);
        if self.pace == Pace::Fast {
            self.pace = Pace::Careful;
            self.measure_base();
        } else {
            self.take_a_rest(now);
        }
    }

    fn take_a_rest(&mut self, now: Duration) {
        self.pace = Pace::Careful;
        self.window = Window::default();
        self.phase = Phase::Rest {
            until: now.saturating_add(self.rest),
        };
        // Longer after a search that found nothing better; but longer after any, so that noise cannot keep a search alive.
        let found_nothing = self.kept == self.kept_before;
        let longer = if found_nothing {
            self.rest * 2
        } else {
            self.rest * 3 / 2
        };
        self.rest = longer.min(REST_MAX);
    }
}
