//! What the ticks of the fast loop say: which count, and what was measured in them.

use std::time::Duration;

/// Operations that a measurement takes at least, however slow the server: fewer are chance.
pub(super) const COMPLETED_MIN: u64 = 32;
/// Nothing completed for longer than this and two latencies is a stall.
const STALL_MIN: Duration = Duration::from_millis(300);
/// A longer tick was none: the process was stopped.
const TICK_MAX: Duration = Duration::from_secs(1);
/// Standard deviation of the logarithm of the speed over the ticks of a measurement: twice that of 30 % of noise. Beyond it
/// the load itself is changing, and a measurement says nothing about the depth.
const SPREAD_MAX: f64 = 0.35;
/// Keeps quotients finite.
const LATENCY_MIN: Duration = Duration::from_nanos(100);

/// What happened since the tick before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DepthSample {
    /// Operations that were completed.
    pub completed: u64,
    /// Their latency, from submission to completion. Of any value if there were none.
    pub latency_mean: Duration,
    /// Operations waited at some time because as many were in flight as may be.
    pub was_full: bool,
}

/// What was measured at one depth.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Window {
    pub(super) ticks: u32,
    pub(super) completed: u64,
    elapsed: Duration,
    /// Seconds, of all operations together.
    latency_sum: f64,
    depth: u64,
    /// Logarithms of the speeds of single ticks, and their squares.
    log_sum: f64,
    log_square_sum: f64,
}

impl Window {
    #[allow(clippy::cast_precision_loss)] // An estimate.
    pub(super) fn add(&mut self, elapsed: Duration, sample: &DepthSample, depth: u64) {
        debug_assert!(sample.completed > 0 && (self.ticks == 0 || self.depth == depth));
        let latency = sample.latency_mean.max(LATENCY_MIN).as_secs_f64();
        let latency_sum = latency * sample.completed as f64;
        let log = speed(depth, sample.completed, elapsed, latency_sum).ln();
        self.ticks = self.ticks.saturating_add(1);
        self.completed = self.completed.saturating_add(sample.completed);
        self.elapsed = self.elapsed.saturating_add(elapsed);
        self.latency_sum += latency_sum;
        self.depth = depth;
        self.log_sum += log;
        self.log_square_sum += log * log;
    }

    /// Operations per second, by throughput and by latency.
    pub(super) fn speed(&self) -> f64 {
        speed(self.depth, self.completed, self.elapsed, self.latency_sum)
    }

    /// Whether its ticks are alike, so that what is measured is one load. Few operations a tick differ by chance.
    #[allow(clippy::cast_precision_loss)] // An estimate.
    pub(super) fn is_steady(&self) -> bool {
        let ticks = f64::from(self.ticks);
        let mean = self.log_sum / ticks;
        let variance = self.log_square_sum / ticks - mean * mean;
        variance <= SPREAD_MAX * SPREAD_MAX + ticks / self.completed as f64
    }

    pub(super) fn is_enough(&self, ticks: u32) -> bool {
        self.ticks >= ticks && self.completed >= COMPLETED_MIN
    }
}

#[allow(clippy::cast_precision_loss)] // An estimate.
fn speed(depth: u64, completed: u64, elapsed: Duration, latency_sum: f64) -> f64 {
    debug_assert!(completed > 0);
    let by_count = completed as f64 / elapsed.max(LATENCY_MIN).as_secs_f64();
    let by_latency = depth as f64 * completed as f64 / latency_sum;
    (by_count * by_latency).sqrt()
}

/// A tick in which the depth did bind and something was completed.
#[derive(Clone, Copy, Debug)]
pub(super) struct FullTick {
    /// With the silence of a slow server before it.
    pub(super) began_at: Duration,
    /// Time before it that does not count.
    pub(super) gap: Duration,
    /// It ended a stall, so its latencies are those of the stall.
    pub(super) is_stall: bool,
}

/// Tells slow servers, stalls, and pauses in the load apart.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ticks {
    ticked_at: Option<Duration>,
    /// Time in which operations were in flight but none was completed, up to now.
    silence: Duration,
    /// Time that does not count since the last full tick.
    gap: Duration,
    /// Of the last full tick.
    latency: Duration,
}

impl Ticks {
    pub(super) fn on_tick(&mut self, now: Duration, sample: &DepthSample) -> Option<FullTick> {
        let began_at = self.ticked_at.replace(now).unwrap_or(now);
        let passed = now.saturating_sub(began_at);
        if !sample.was_full || passed.is_zero() || passed > TICK_MAX {
            let silence = std::mem::take(&mut self.silence);
            self.gap = self.gap.saturating_add(silence).saturating_add(passed);
            return None;
        }
        if sample.completed == 0 {
            self.silence = self.silence.saturating_add(passed);
            return None;
        }
        let silence = std::mem::take(&mut self.silence);
        let latency = std::mem::replace(&mut self.latency, sample.latency_mean);
        let is_stall = silence > STALL_MIN.saturating_add(latency.saturating_mul(2));
        let gap = std::mem::take(&mut self.gap);
        Some(FullTick {
            began_at: began_at.saturating_sub(if is_stall { Duration::ZERO } else { silence }),
            gap: gap.saturating_add(if is_stall { silence } else { Duration::ZERO }),
            is_stall,
        })
    }
}
