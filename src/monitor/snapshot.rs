//! What is known of a run at one moment, and what was known before. Written by the sampler, read by whoever shows it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

pub use crate::control::requests::Figures as Requests;
use crate::model::Timed;
use crate::model::tally::{ErrorCounts, Totals};
use crate::throttle::{Gauge, Resource};

/// Points that a history keeps. When there are more, neighbours are merged: a run of any length fits, coarser as it goes.
const POINTS_MAX: usize = 1024;
/// Events that are kept, the first ones: those that follow are counted.
const EVENTS_MAX: usize = 1000;

/// One shard.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Core {
    pub cpu: usize,
    /// Source entries per second since the sample before.
    pub entries_per_second: f64,
    /// Directories that wait in its queue.
    pub dirs_queued: u64,
    /// Operations that are under way in the kernel.
    pub ops_in_flight: u64,
    /// In-flight depth that its ring is allowed now.
    pub io_depth: u64,
}

/// How the machine is used.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Load {
    /// Directories that have a permit.
    pub dirs_active: u64,
    /// How many may have one.
    pub dirs_max: u64,
    /// Directories in the queues of all shards.
    pub dirs_queued: u64,
    /// Shards that wait for a permit now, with a directory in their queue.
    pub permits_waiting: u64,
    pub files: Gauge,
    pub memory: Gauge,
    pub tasks: Gauge,
    /// Entries that a directory leases of the index when it gets its permit.
    pub slice: u64,
    /// Resident set size of the process, in bytes.
    pub rss: u64,
    /// Requests to buckets; absent without one.
    pub requests: Option<Requests>,
    /// CPU time that the process used, as a share of the cores it may use: 0 to 1, and a little above with threads besides
    /// the shards.
    pub cpu_share: f64,
    pub cores: Vec<Core>,
}

impl Load {
    #[must_use]
    pub fn gauge(&self, resource: Resource) -> &Gauge {
        match resource {
            Resource::Files => &self.files,
            Resource::Memory => &self.memory,
            Resource::Tasks => &self.tasks,
        }
    }
}

/// Latencies of one kind, over the whole run and all cores, in nanoseconds.
#[derive(Clone, Debug)]
pub struct Latency {
    pub what: Timed,
    pub histogram: Histogram<u64>,
}

/// Files of one range of sizes: `2^(exponent-1) <= size < 2^exponent` bytes; exponent 0 is size 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizeBucket {
    pub exponent: u32,
    pub files: u64,
}

/// A directory that took long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlowDirectory {
    /// Relative to the root; raw bytes.
    pub path: Vec<u8>,
    pub elapsed: Duration,
    pub entries: u64,
}

/// Everything that is known at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Since the run began.
    pub elapsed: Duration,
    pub totals: Totals,
    pub errors: ErrorCounts,
    pub load: Load,
    /// Per second since the sample before.
    pub files_per_second: f64,
    pub dirs_per_second: f64,
    pub bytes_per_second: f64,
    /// Kinds that have occurred, in order.
    pub latencies: Vec<Latency>,
    /// Sizes that have occurred, in order.
    pub sizes: Vec<SizeBucket>,
    /// The slowest first.
    pub slowest: Vec<SlowDirectory>,
    /// The run is over: these are the last figures.
    pub is_final: bool,
}

impl Snapshot {
    /// How long a directory took on average, when one is done.
    #[must_use]
    pub fn directory_mean(&self) -> Option<Duration> {
        let of = |latency: &&Latency| latency.what == Timed::Directory;
        let latency = self.latencies.iter().find(of)?;
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A time for the eye.
        let nanos = latency.histogram.mean() as u64;
        Some(Duration::from_nanos(nanos))
    }
}

/// What a graph over time shows of one interval. Rates are means, levels are maxima.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// The end of the interval, since the run began.
    pub elapsed: Duration,
    pub files_per_second: f64,
    pub dirs_per_second: f64,
    pub bytes_per_second: f64,
    pub cpu_share: f64,
    pub memory_used: u64,
    pub memory_limit: u64,
    pub files_used: u64,
    pub files_limit: u64,
    pub tasks_used: u64,
    pub tasks_limit: u64,
    pub dirs_active: u64,
    pub dirs_max: u64,
    pub errors: u64,
    /// Whether the throttle of [`Resource::ALL`] was engaged at some time of the interval.
    pub engaged: [bool; 3],
}

impl Point {
    /// The interval of this point and the one after it.
    fn merged(&self, next: &Self, start: Duration) -> Self {
        let first = self.elapsed.saturating_sub(start).as_secs_f64();
        let second = next.elapsed.saturating_sub(self.elapsed).as_secs_f64();
        let mean = |a: f64, b: f64| {
            if first + second > 0.0 {
                (a * first + b * second) / (first + second)
            } else {
                b
            }
        };
        Self {
            elapsed: next.elapsed,
            files_per_second: mean(self.files_per_second, next.files_per_second),
            dirs_per_second: mean(self.dirs_per_second, next.dirs_per_second),
            bytes_per_second: mean(self.bytes_per_second, next.bytes_per_second),
            cpu_share: mean(self.cpu_share, next.cpu_share),
            memory_used: self.memory_used.max(next.memory_used),
            memory_limit: next.memory_limit,
            files_used: self.files_used.max(next.files_used),
            files_limit: next.files_limit,
            tasks_used: self.tasks_used.max(next.tasks_used),
            tasks_limit: next.tasks_limit,
            dirs_active: self.dirs_active.max(next.dirs_active),
            dirs_max: next.dirs_max,
            errors: next.errors,
            engaged: std::array::from_fn(|at| self.engaged[at] || next.engaged[at]),
        }
    }
}

/// What became of a limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Change {
    /// New directories wait from now on; `percent` of the limit is used.
    Engaged {
        percent: f64,
    },
    Released {
        percent: f64,
    },
    /// The stats monitor or the depth controller moved a limit. `zone` is its reason, a word in capitals.
    Adjusted {
        limit: &'static str,
        zone: &'static str,
        from: u64,
        to: u64,
    },
}

/// Something that happened to the limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Event {
    /// Since the run began.
    pub at: Duration,
    /// What it is about; of an adjustment of anything else than these, absent.
    pub resource: Option<Resource>,
    pub change: Change,
}

/// What was, in order.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub points: Vec<Point>,
    pub events: Vec<Event>,
    /// Events that found no room.
    pub events_dropped: u64,
}

impl History {
    pub fn push(&mut self, point: Point) {
        self.points.push(point);
        if self.points.len() > POINTS_MAX {
            let mut start = Duration::ZERO;
            let merged = self.points.chunks(2).map(|pair| match pair {
                [first, second] => {
                    let point = first.merged(second, start);
                    start = point.elapsed;
                    point
                }
                others => others[0],
            });
            self.points = merged.collect();
        }
    }

    pub fn note(&mut self, event: Event) {
        if self.events.len() < EVENTS_MAX {
            self.events.push(event);
        } else {
            self.events_dropped += 1;
        }
    }
}

/// Where the sampler puts what it knows, and where others look.
#[derive(Debug, Default)]
pub struct Board {
    latest: Mutex<Arc<Snapshot>>,
    history: Mutex<History>,
}

impl Board {
    /// The newest snapshot; an empty one before the sampler has begun.
    #[must_use]
    pub fn latest(&self) -> Arc<Snapshot> {
        let latest = self.latest.lock();
        latest.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A copy of the history.
    #[must_use]
    pub fn history(&self) -> History {
        self.lock().clone()
    }

    /// What is known before anything happened: the limits.
    pub fn begin(&self, snapshot: Snapshot) {
        self.set(snapshot);
    }

    pub fn put(&self, snapshot: Snapshot, point: Point) {
        self.lock().push(point);
        self.set(snapshot);
    }

    fn set(&self, snapshot: Snapshot) {
        let latest = self.latest.lock();
        *latest.unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
    }

    pub fn note(&self, event: Event) {
        self.lock().note(event);
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        // Consistent at every step.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_gets_a_coarser_history_with_the_same_sums_and_peaks() {
        let mut history = History::default();
        let count = 5 * POINTS_MAX as u64 + 3;
        let mut files = 0.0;
        for second in 1..=count {
            let rate = f64::from(u32::try_from(second % 17).unwrap());
            files += rate;
            history.push(Point {
                elapsed: Duration::from_secs(second),
                files_per_second: rate,
                memory_used: if second == 777 { 5000 } else { 10 },
                engaged: [second == 778, false, false],
                ..Point::default()
            });
        }
        assert!(history.points.len() <= POINTS_MAX && history.points.len() > POINTS_MAX / 4);
        let mut before = Duration::ZERO;
        let mut sum = 0.0;
        for point in &history.points {
            sum += point.files_per_second * point.elapsed.saturating_sub(before).as_secs_f64();
            before = point.elapsed;
        }
        assert_eq!(before, Duration::from_secs(count));
        assert!((sum - files).abs() < 1e-6 * files, "{sum} {files}");
        assert!(history.points.iter().any(|point| point.memory_used == 5000));
        assert!(history.points.iter().any(|point| point.engaged[0]));
    }

    #[test]
    fn events_beyond_the_room_are_counted() {
        let mut history = History::default();
        for _ in 0..EVENTS_MAX + 5 {
            history.note(Event {
                at: Duration::ZERO,
                resource: Some(Resource::Files),
                change: Change::Engaged { percent: 100.0 },
            });
        }
        assert_eq!(
            (history.events.len(), history.events_dropped),
            (EVENTS_MAX, 5)
        );
    }
}
