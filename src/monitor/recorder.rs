//! Latencies of each shard, recorded without a lock.
//!
//! ```text
//!  shard: own histograms ──publish, when a tick has passed──> slot of the shard ──collect, at the tick──> merged: sampler
//! ```
//!
//! A shard records into histograms of its own. Once in a tick, with the first record after it, it adds them to its slot,
//! whose lock only the sampler takes besides, and begins anew. So what is shown is up to one tick old, and the price of a
//! record is an index computation and a look at the tick's number.

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;

use super::snapshot::{Latency, SlowDirectory};
use crate::error::Side;
use crate::model::{Meter, OpClass, RequestKind, RequestMeter, Timed, Wait};

/// The finest difference: a hundredth of the shortest operations that matter.
const NANOS_MIN: u64 = 16;
/// Longer ones count as this: an hour.
const NANOS_MAX: u64 = 3_600_000_000_000;
/// Two digits: a value is known to a hundredth of itself, in 30 KiB for each kind that occurs.
const SIGNIFICANT_DIGITS: u8 = 2;
/// Directories that are remembered as slow, on each shard and in all.
const SLOW_DIRECTORIES_MAX: usize = 20;

const OPS: usize = OpClass::ALL.len() * 2;
const DIRECTORY: usize = OPS + Wait::ALL.len();
const KINDS: usize = DIRECTORY + 1 + RequestKind::ALL.len();

fn place_of(what: Timed) -> usize {
    match what {
        Timed::Op(class, side) => class as usize * 2 + usize::from(side == Side::Destination),
        Timed::Wait(wait) => OPS + wait as usize,
        Timed::Directory => DIRECTORY,
        Timed::Request(kind) => DIRECTORY + 1 + kind as usize,
    }
}

/// All kinds, by place.
fn kinds() -> impl Iterator<Item = Timed> {
    let sides = [Side::Source, Side::Destination];
    let ops = OpClass::ALL
        .into_iter()
        .flat_map(move |class| sides.map(|side| Timed::Op(class, side)));
    let waits = Wait::ALL.into_iter().map(Timed::Wait);
    let requests = RequestKind::ALL.into_iter().map(Timed::Request);
    ops.chain(waits).chain([Timed::Directory]).chain(requests)
}

/// Histograms of all kinds that have occurred, and the slowest directories.
#[derive(Debug)]
struct Figures {
    histograms: [Option<Box<Histogram<u64>>>; KINDS],
    /// The slowest first.
    slowest: Vec<SlowDirectory>,
}

impl Default for Figures {
    fn default() -> Self {
        Self {
            histograms: [const { None }; KINDS],
            slowest: Vec::new(),
        }
    }
}

impl Figures {
    fn histogram(&mut self, place: usize) -> Option<&mut Histogram<u64>> {
        let histogram = &mut self.histograms[place];
        if histogram.is_none() {
            let new = Histogram::new_with_bounds(NANOS_MIN, NANOS_MAX, SIGNIFICANT_DIGITS);
            debug_assert!(new.is_ok(), "the bounds are constants");
            *histogram = new.ok().map(Box::new);
        }
        histogram.as_deref_mut()
    }

    fn record(&mut self, what: Timed, each: Duration, count: u64) {
        let nanos = u64::try_from(each.as_nanos()).unwrap_or(u64::MAX);
        if let Some(histogram) = self.histogram(place_of(what)) {
            histogram.saturating_record_n(nanos, count);
        }
    }

    /// Whether a directory is among the slowest so far.
    fn is_slow(&self, elapsed: Duration) -> bool {
        let fastest = self.slowest.last().map(|directory| directory.elapsed);
        self.slowest.len() < SLOW_DIRECTORIES_MAX || fastest < Some(elapsed)
    }

    fn keep_slow(&mut self, directory: SlowDirectory) {
        let at = self
            .slowest
            .partition_point(|other| other.elapsed >= directory.elapsed);
        self.slowest.insert(at, directory);
        self.slowest.truncate(SLOW_DIRECTORIES_MAX);
    }

    /// Takes over what `other` has, and leaves it empty, except for its slow directories: those of a whole run are the
    /// measure of what is slow.
    fn take_over(&mut self, other: &mut Self) {
        for place in 0..KINDS {
            let Some(theirs) = other.histograms[place].as_deref_mut() else {
                continue;
            };
            if theirs.is_empty() {
                continue;
            }
            if let Some(ours) = self.histogram(place) {
                let added = ours.add(&*theirs);
                debug_assert!(added.is_ok(), "all histograms have the same bounds");
            }
            theirs.reset();
        }
    }
}

/// The latencies of all shards.
#[derive(Debug)]
pub struct Latencies {
    tick: AtomicU64,
    /// One for each shard, and one for those who belong to none.
    slots: Vec<Mutex<Figures>>,
}

impl Latencies {
    #[must_use]
    pub fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self {
            tick: AtomicU64::new(0),
            slots: (0..=shards).map(|_| Mutex::default()).collect(),
        })
    }

    /// The recorder of one shard, to be used on its thread. Dropping it hands over the rest.
    #[must_use]
    pub fn recorder(self: &Arc<Self>, shard: usize) -> Recorder {
        Recorder {
            all: self.clone(),
            shard,
            tick: Cell::new(self.tick.load(Relaxed)),
            own: RefCell::default(),
        }
    }

    fn slot(&self, shard: usize) -> MutexGuard<'_, Figures> {
        // At worst a part of one tick's figures is lost with a thread that panicked.
        self.slots[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request takes so much longer than this that a lock for all costs nothing.
impl RequestMeter for Latencies {
    fn record(&self, kind: RequestKind, took: Duration) {
        let mut slot = self.slot(self.slots.len() - 1);
        slot.record(Timed::Request(kind), took, 1);
    }
}

/// Records on one shard.
pub struct Recorder {
    all: Arc<Latencies>,
    shard: usize,
    tick: Cell<u64>,
    own: RefCell<Figures>,
}

impl Recorder {
    fn publish(&self) {
        let own = &mut *self.own.borrow_mut();
        let mut slot = self.all.slot(self.shard);
        slot.take_over(own);
        slot.slowest.clone_from(&own.slowest);
    }
}

impl Meter for Recorder {
    fn record(&self, what: Timed, each: Duration, count: u64) {
        let tick = self.all.tick.load(Relaxed);
        if tick != self.tick.replace(tick) {
            self.publish();
        }
        self.own.borrow_mut().record(what, each, count);
    }

    fn directory(&self, elapsed: Duration, entries: u64, path: &dyn Fn() -> Vec<u8>) {
        let mut own = self.own.borrow_mut();
        if own.is_slow(elapsed) {
            own.keep_slow(SlowDirectory {
                path: path(),
                elapsed,
                entries,
            });
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.publish();
    }
}

/// Adds up the latencies of all shards. Belongs to the sampler.
#[derive(Debug)]
pub struct Collector {
    all: Arc<Latencies>,
    merged: Figures,
}

impl Collector {
    #[must_use]
    pub fn new(all: Arc<Latencies>) -> Self {
        Self {
            all,
            merged: Figures::default(),
        }
    }

    /// Takes what the shards have published, and has them publish again.
    pub fn collect(&mut self) {
        self.all.tick.fetch_add(1, Relaxed);
        let mut slowest = Vec::new();
        for shard in 0..self.all.slots.len() {
            let mut slot = self.all.slot(shard);
            self.merged.take_over(&mut slot);
            slowest.extend(slot.slowest.iter().cloned());
        }
        slowest.sort_by_key(|directory| std::cmp::Reverse(directory.elapsed));
        slowest.truncate(SLOW_DIRECTORIES_MAX);
        self.merged.slowest = slowest;
    }

    /// Kinds that have occurred, in order.
    #[must_use]
    pub fn latencies(&self) -> Vec<Latency> {
        let all = kinds().zip(&self.merged.histograms);
        all.filter_map(|(what, histogram)| {
            let histogram = histogram.as_deref()?.clone();
            Some(Latency { what, histogram })
        })
        .collect()
    }

    /// The slowest first.
    #[must_use]
    pub fn slowest(&self) -> &[SlowDirectory] {
        &self.merged.slowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: Timed = Timed::Op(OpClass::Stat, Side::Source);
    const MICROSECOND: Duration = Duration::from_micros(1);

    #[test]
    fn every_kind_has_a_place_of_its_own() {
        let places: Vec<usize> = kinds().map(place_of).collect();
        assert_eq!(places, (0..KINDS).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_is_lost_or_told_twice_between_ticks() {
        let all = Latencies::new(2);
        let mut collector = Collector::new(all.clone());
        let recorders = [all.recorder(0), all.recorder(1)];
        for round in 0..100_u64 {
            for recorder in &recorders {
                recorder.record(STAT, MICROSECOND, 10);
                recorder.record(Timed::Directory, MICROSECOND * 100, 1);
            }
            if round % 7 == 0 {
                collector.collect();
            }
        }
        drop(recorders);
        RequestMeter::record(&*all, RequestKind::Head, MICROSECOND);
        collector.collect();
        collector.collect();
        let latencies = collector.latencies();
        let counts: Vec<(Timed, u64)> = latencies
            .iter()
            .map(|latency| (latency.what, latency.histogram.len()))
            .collect();
        let head = Timed::Request(RequestKind::Head);
        assert_eq!(counts, [(STAT, 2000), (Timed::Directory, 200), (head, 1)]);
        let median = latencies[0].histogram.value_at_quantile(0.5);
        assert!((990..=1010).contains(&median), "{median}");
    }

    #[test]
    fn absurd_times_are_kept_within_bounds() {
        let all = Latencies::new(1);
        let recorder = all.recorder(0);
        recorder.record(STAT, Duration::ZERO, 1);
        recorder.record(STAT, Duration::MAX, 1);
        drop(recorder);
        let mut collector = Collector::new(all);
        collector.collect();
        assert_eq!(collector.latencies()[0].histogram.len(), 2);
    }

    #[test]
    fn the_slowest_directories_of_all_shards_are_kept_in_order() {
        let all = Latencies::new(2);
        let recorders = [all.recorder(0), all.recorder(1)];
        for millis in 0..200_u64 {
            let recorder = &recorders[usize::try_from(millis % 2).unwrap()];
            let path = || millis.to_string().into_bytes();
            recorder.directory(Duration::from_millis(millis), millis, &path);
        }
        drop(recorders);
        let mut collector = Collector::new(all);
        collector.collect();
        let slowest = collector.slowest();
        let entries: Vec<u64> = slowest.iter().map(|slow| slow.entries).collect();
        assert_eq!(entries, (180..200).rev().collect::<Vec<_>>());
        assert_eq!(slowest[0].path, b"199");
    }
}
