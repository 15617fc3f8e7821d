//! The throttle coordinator: which directory may begin, over all shards.
//!
//! ```text
//!               files, memory and tasks below their thresholds, or nothing in hand
//!   waiting ──────────────────────────────────────────────────────────────────────> in hand ──> done
//!      ^     and a permit free, and a slice of the index leased                        │
//!      └──────────── woken when a throttle releases, a permit or the last lease ───────┘
//!                    comes back, a limit is raised, or the run is cancelled
//! ```
//!
//! What is capped: directories in work (each has a listing and two descriptors), source entries in the index, memory, and
//! operations in flight. Two thresholds each: at the first a throttle engages, at the second, lower one it releases.
//!
//! **Only beginnings wait.** A directory in hand takes what it needs beyond its slice without asking, so it always ends; and
//! what it held comes back. A waiter holds nothing.
//!
//! **No deadlock.** Let somebody wait for ever. If anything is in hand, it ends (it never waits for the coordinator), and its
//! lease comes back; so in the end nothing is in hand. The last lease to come back wakes a waiter, and when nothing is in hand
//! one directory may begin whatever the throttles say. Hence limits of 1, and memory that others use up, slow a run down to
//! one directory at a time and do not stop it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::admission::{Admission, Admit, DirPermit, IndexLease};
use super::cancel::Cancel;
use super::gauge::{Gauge, Resource, Throttle};
use super::waiters::Waiters;

/// A directory leases at least so much of the index, and at first this, or a share of a small limit: the usual directory has
/// fewer entries, and what it does not need comes back when it is listed.
const SLICE_START: u64 = 1024;
const SLICE_SHARE: u64 = 8;
/// A slice follows large directories at once, and gives up a 64th of the difference with each smaller one.
const SLICE_DECAY: u64 = 64;

/// Limits and thresholds to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoordinatorLimits {
    /// Directories in work: `1..`.
    pub dirs_max: u64,
    /// Entries in the index: `1..`.
    pub files_max: u64,
    /// Bytes: `1..`.
    pub memory_max: u64,
    /// Directories in work and operations in flight: `1..`.
    pub tasks_max: u64,
    /// Percent of the limits of files and tasks.
    pub engage_percent: u8,
    pub release_percent: u8,
    /// Percent of the limit of memory.
    pub memory_engage_percent: u8,
    pub memory_release_percent: u8,
}

/// See the module.
#[derive(Debug)]
pub struct Coordinator {
    pub(super) waiters: Waiters,
    pub(super) cancel: Arc<Cancel>,
    pub(super) dirs_active: AtomicU64,
    dirs_max: AtomicU64,
    /// Leases of the index that are out.
    pub(super) in_hand: AtomicU64,
    slice: AtomicU64,
    pub(super) files: Throttle,
    memory: Throttle,
    tasks: Throttle,
}

impl Coordinator {
    /// # Panics
    /// If a limit is 0: whoever reads numbers from users has refused it.
    #[must_use]
    pub fn new(limits: CoordinatorLimits, cancel: Arc<Cancel>) -> Arc<Self> {
        assert!(limits.dirs_max > 0, "without a permit nothing could begin");
        let slice = (limits.files_max / SLICE_SHARE).clamp(1, SLICE_START);
        let throttle = |limit| Throttle::new(limit, limits.engage_percent, limits.release_percent);
        Arc::new(Self {
            waiters: Waiters::default(),
            cancel,
            dirs_active: AtomicU64::new(0),
            dirs_max: AtomicU64::new(limits.dirs_max),
            in_hand: AtomicU64::new(0),
            slice: AtomicU64::new(slice),
            files: throttle(limits.files_max),
            memory: Throttle::new(
                limits.memory_max,
                limits.memory_engage_percent,
                limits.memory_release_percent,
            ),
            tasks: throttle(limits.tasks_max),
        })
    }

    /// Waits until a directory may begin. Dropping the future gives up its place, and passes on a wake that it may have had.
    #[must_use]
    pub fn admit(self: &Arc<Self>) -> Admit {
        Admit::new(self.clone())
    }

    /// A directory that may begin now, if one may. In a run that is cancelled no throttle holds anybody up: what is left is
    /// only passed through.
    #[must_use]
    pub fn try_admit(self: &Arc<Self>) -> Option<Admission> {
        loop {
            let is_open = self.cancel.is_set() || !self.is_throttled();
            let others = self
                .in_hand
                .fetch_update(SeqCst, SeqCst, |count| {
                    (is_open || count == 0).then_some(count + 1)
                })
                .ok()?;
            // From here on the lease gives back whatever was taken.
            let mut lease = IndexLease::empty(self.clone());
            let dirs_max = self.dirs_max();
            self.dirs_active
                .fetch_update(SeqCst, SeqCst, |count| {
                    (count < dirs_max).then_some(count + 1)
                })
                .ok()?;
            let permit = DirPermit::new(self.clone());
            let slice = self.slice.load(SeqCst);
            let engage_at = self.files.thresholds().engage_at;
            let may_pass = others == 0 || self.cancel.is_set();
            let leased = self.files.used.fetch_update(SeqCst, SeqCst, |used| {
                (may_pass || used < engage_at).then(|| used.saturating_add(slice))
            });
            if let Ok(before) = leased {
                lease.leased = slice;
                self.files.note_peak(before.saturating_add(slice));
                self.files.update();
                return Some(Admission { permit, lease });
            }
            drop((permit, lease));
            self.files.update();
            if self.files.is_engaged() {
                return None;
            }
            // Somebody gave entries back meanwhile.
        }
    }

    fn is_throttled(&self) -> bool {
        self.files.is_engaged() || self.memory.is_engaged() || self.tasks.is_engaged()
    }

    /// A lease of the index for work that has begun already: a part of a split directory. Takes nothing at first.
    #[must_use]
    pub fn lease(self: &Arc<Self>) -> IndexLease {
        self.in_hand.fetch_add(1, SeqCst);
        IndexLease::empty(self.clone())
    }

    /// What the sampler found: bytes of memory and number of tasks.
    pub fn note(&self, memory: u64, tasks: u64) {
        let mut was_released = false;
        for (throttle, used) in [(&self.memory, memory), (&self.tasks, tasks)] {
            throttle.used.store(used, SeqCst);
            throttle.note_peak(used);
            was_released |= throttle.update();
        }
        if was_released {
            self.waiters.wake_all();
        }
    }

    /// New limits from a controller: directories in work, entries in the index.
    ///
    /// # Panics
    /// If one is 0: controllers have floors.
    pub fn set_limits(&self, dirs_max: u64, files_max: u64) {
        assert!(dirs_max > 0 && files_max > 0);
        self.dirs_max.store(dirs_max, SeqCst);
        self.files.limit.store(files_max, SeqCst);
        self.files.update();
        self.waiters.wake_all();
    }

    #[must_use]
    pub fn dirs_max(&self) -> u64 {
        self.dirs_max.load(SeqCst)
    }

    #[must_use]
    pub fn dirs_active(&self) -> u64 {
        self.dirs_active.load(SeqCst)
    }

    /// Entries that the next directory leases.
    #[must_use]
    pub fn slice(&self) -> u64 {
        self.slice.load(SeqCst)
    }

    /// How many wait now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiters.count()
    }

    /// Whether memory is short: what is only kept for reuse should be given back.
    #[must_use]
    pub fn is_memory_short(&self) -> bool {
        self.memory.is_engaged()
    }

    #[must_use]
    pub fn gauge(&self, resource: Resource) -> Gauge {
        match resource {
            Resource::Files => self.files.gauge(),
            Resource::Memory => self.memory.gauge(),
            Resource::Tasks => self.tasks.gauge(),
        }
    }

    /// A directory was listed whole: the next one will probably not be larger than those before it. Threads that do this at
    /// the same time may forget each other's directory, which costs nothing.
    pub(super) fn learn(&self, entries: u64) {
        let slice = self.slice.load(SeqCst);
        let next = if entries >= slice {
            entries
        } else {
            slice - (slice - entries).div_ceil(SLICE_DECAY)
        };
        let limit = self.files.limit.load(SeqCst);
        self.slice.store(next.clamp(1, limit), SeqCst);
    }

    pub(super) fn give_back(&self, entries: u64) {
        if entries == 0 {
            return;
        }
        let before = self.files.used.fetch_sub(entries, SeqCst);
        debug_assert!(before >= entries, "more entries came back than were leased");
        if self.files.update() {
            self.waiters.wake_all();
        }
    }
}

#[cfg(test)]
#[path = "coordinator_tests.rs"]
mod tests;
