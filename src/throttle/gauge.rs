//! What the throttle coordinator limits, and how much of it is used.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::SeqCst};

use crate::control::hysteresis::Thresholds;

/// What the throttle coordinator limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// Source entries in the index.
    Files,
    /// Bytes.
    Memory,
    /// Directories in work and operations in flight.
    Tasks,
}

impl Resource {
    pub const ALL: [Self; 3] = [Self::Files, Self::Memory, Self::Tasks];

    /// The word in metrics and JSON; log lines have it in capitals.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Memory => "memory",
            Self::Tasks => "tasks",
        }
    }
}

/// One throttled resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauge {
    pub used: u64,
    /// The most that was used at any time; of memory, at any sample.
    pub used_max: u64,
    pub limit: u64,
    /// New directories wait because of it.
    pub is_engaged: bool,
    /// How often it has engaged.
    pub engagements: u64,
}

impl Gauge {
    /// Use in percent of the limit.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // For the eye.
    pub fn percent(&self) -> f64 {
        100.0 * self.used as f64 / self.limit.max(1) as f64
    }
}

/// One resource. `used` changes first; whoever changed it brings `engaged` up to date afterwards.
#[derive(Debug)]
pub(super) struct Throttle {
    pub(super) used: AtomicU64,
    used_max: AtomicU64,
    pub(super) limit: AtomicU64,
    percents: (AtomicU8, AtomicU8),
    engaged: AtomicBool,
    engagements: AtomicU64,
}

impl Throttle {
    pub(super) fn new(limit: u64, engage_percent: u8, release_percent: u8) -> Self {
        assert!(limit > 0, "with a limit of 0 nothing could begin");
        Self {
            used: AtomicU64::new(0),
            used_max: AtomicU64::new(0),
            limit: AtomicU64::new(limit),
            percents: (engage_percent.into(), release_percent.into()),
            engaged: AtomicBool::new(false),
            engagements: AtomicU64::new(0),
        }
    }

    pub(super) fn thresholds(&self) -> Thresholds {
        let (engage, release) = &self.percents;
        let limit = self.limit.load(SeqCst);
        Thresholds::of_percent(limit, engage.load(SeqCst), release.load(SeqCst))
    }

    pub(super) fn is_engaged(&self) -> bool {
        self.engaged.load(SeqCst)
    }

    /// Brings `engaged` up to date with `used`. Returns whether it was released.
    ///
    /// Two threads may be here at once, each with a use that is not the newest. So after a change of `engaged` the use is
    /// read again: whichever thread changes `used` last also looks last, and what it leaves is right.
    pub(super) fn update(&self) -> bool {
        let mut was_released = false;
        loop {
            let engaged = self.engaged.load(SeqCst);
            let next = self.thresholds().next(engaged, self.used.load(SeqCst));
            if next == engaged {
                return was_released;
            }
            let changed = self
                .engaged
                .compare_exchange(engaged, next, SeqCst, SeqCst)
                .is_ok();
            if changed && next {
                self.engagements.fetch_add(1, SeqCst);
            }
            was_released |= changed && !next;
        }
    }

    pub(super) fn note_peak(&self, used: u64) {
        if self.used_max.load(SeqCst) < used {
            self.used_max.fetch_max(used, SeqCst);
        }
    }

    pub(super) fn gauge(&self) -> Gauge {
        Gauge {
            used: self.used.load(SeqCst),
            used_max: self.used_max.load(SeqCst),
            limit: self.limit.load(SeqCst),
            is_engaged: self.is_engaged(),
            engagements: self.engagements.load(SeqCst),
        }
    }
}
