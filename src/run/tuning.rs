//! The limits of a run, and how they move.

use std::sync::Arc;
use std::time::Duration;

use crate::control::bounds::Bounds;
use crate::control::tuner::{Tuner, TunerOptions};
use crate::io::{DEPTH_MAX, Depth};
use crate::throttle::{CoordinatorLimits, Resource};

/// Seed: 500,000 entries in the index for each GiB of memory that may be used.
pub const FILES_PER_GIB: u64 = 500_000;
/// Directories in work at once on each core: for local filesystems, and for others (NFS, FUSE). The design has 2 for those. At
/// 1 ms a call that leaves both core and server idle: twice as many calls return in a time with 8, and no more with 32.
pub const DIRS_PER_CORE_LOCAL: u64 = 4;
pub const DIRS_PER_CORE_OTHER: u64 = 8;
/// Directories in work and operations in flight at once.
pub const TASKS_MAX: u64 = 50_000;
/// Memory in use at which new directories wait, and at which they go on: percent of the limit. Lower than those of counts,
/// for memory follows what is started with a delay.
pub const MEMORY_ENGAGE_PERCENT: u8 = 80;
pub const MEMORY_RELEASE_PERCENT: u8 = 70;

/// What limits a run. Where floor and ceiling differ, controllers move the limit between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tuning {
    /// Directories in work at once over all shards.
    pub dirs: Bounds,
    /// Source entries in the index over all shards.
    pub files: Bounds,
    /// Bytes: of resident memory and buffers.
    pub memory_max: u64,
    /// Directories in work and operations in flight.
    pub tasks_max: u64,
    /// Use of files and tasks, in percent of their limits, at which new directories wait, and at which they go on.
    /// `1 <= release < engage <= 100`.
    pub engage_percent: u8,
    pub release_percent: u8,
    /// Contents moved from the source, in bytes per second.
    pub bytes_per_second: Option<u64>,
    /// Operations on both filesystems together, per second.
    pub ops_per_second: Option<u64>,
    /// Operations in flight on each shard's ring.
    pub io_depth: Bounds,
    /// Between two samples of the stats monitor.
    pub sample_interval: Duration,
    /// Samples that must agree before it moves a limit.
    pub consistency_threshold: u32,
    /// The least time between two of its moves.
    pub adjustment_cooldown: Duration,
    /// Failures that may pass are met with another attempt so often in the whole run.
    pub retries: u64,
    /// Latencies are measured.
    pub histograms: bool,
}

impl Tuning {
    /// The defaults for `cores` and a limit of `memory` bytes. Failures are told at once.
    #[must_use]
    pub fn for_machine(cores: usize, memory: u64) -> Self {
        let cores = cores.max(1) as u64;
        let dirs = cores * DIRS_PER_CORE_LOCAL;
        let files = files_for(memory);
        Self {
            dirs: Bounds::new(cores, dirs, dirs * 16),
            files: Bounds::new(files.div_ceil(16), files, files),
            memory_max: memory,
            tasks_max: TASKS_MAX,
            engage_percent: 100,
            release_percent: 85,
            bytes_per_second: None,
            ops_per_second: None,
            io_depth: io_depth(cores),
            sample_interval: Duration::from_secs(1),
            consistency_threshold: 10,
            adjustment_cooldown: Duration::from_secs(120),
            retries: 0,
            histograms: true,
        }
    }

    /// What the throttle coordinator begins with.
    #[must_use]
    pub fn coordinator_limits(&self) -> CoordinatorLimits {
        CoordinatorLimits {
            dirs_max: self.dirs.start,
            files_max: self.files.start,
            memory_max: self.memory_max,
            tasks_max: self.tasks_max,
            engage_percent: self.engage_percent,
            release_percent: self.release_percent,
            memory_engage_percent: MEMORY_ENGAGE_PERCENT,
            memory_release_percent: MEMORY_RELEASE_PERCENT,
        }
    }

    /// Percentages at which each of [`Resource::ALL`] engages and releases.
    #[must_use]
    pub fn thresholds(&self) -> [(u8, u8); 3] {
        Resource::ALL.map(|resource| match resource {
            Resource::Memory => (MEMORY_ENGAGE_PERCENT, MEMORY_RELEASE_PERCENT),
            Resource::Files | Resource::Tasks => (self.engage_percent, self.release_percent),
        })
    }

    /// What the rings begin with.
    #[must_use]
    pub fn depth(&self) -> Arc<Depth> {
        Depth::new(u32::try_from(self.io_depth.start).unwrap_or(DEPTH_MAX))
    }

    /// The stats monitor that moves the limits.
    #[must_use]
    pub fn tuner(&self) -> Tuner {
        let options = TunerOptions {
            consistency_threshold: self.consistency_threshold,
            adjustment_cooldown: self.adjustment_cooldown,
        };
        Tuner::new(options, self.dirs, self.files)
    }
}

/// Where the depth controller looks for the best in-flight depth of each of so many rings.
#[must_use]
pub fn io_depth(rings: u64) -> Bounds {
    /// On one ring: fewer make no use of a ring.
    const FLOOR: u64 = 4;
    /// On one ring to begin with: where latency binds, more brought little, and a controller finds that.
    const START: u64 = 256;
    /// On all rings: each may need a thread of the kernel.
    const CEILING_TOTAL: u64 = 1024;
    /// On each of very many rings.
    const CEILING_MIN: u64 = 8;
    let ceiling = (CEILING_TOTAL / rings.max(1)).max(CEILING_MIN);
    Bounds::new(FLOOR, START.min(ceiling), ceiling)
}

/// Entries that the index may have in so many bytes of memory; at least 1.
#[must_use]
pub fn files_for(memory: u64) -> u64 {
    let files = (u128::from(memory) * u128::from(FILES_PER_GIB)) >> 30;
    u64::try_from(files).unwrap_or(u64::MAX).max(1)
}
