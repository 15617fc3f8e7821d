//! The thread that looks at a run now and then: it tells the coordinator what only it can see (memory, operations in
//! flight), has the stats monitor move limits, and writes down what it saw.
//!
//! Two rhythms: a short tick, after which a throttle on memory may engage or release, and the sample interval of the stats
//! monitor, at which everything is counted up. It reads counters that the shards write and takes no lock that they wait for.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use super::log::{self, Level, Line};
use super::recorder::{Collector, Latencies};
use super::snapshot::{Board, Change, Core, Event, Load, Point, SizeBucket, Snapshot};
use super::usage;
use crate::control::depth::{Depth, DepthSample};
use crate::control::requests;
use crate::control::tuner::{Tuner, TunerSample};
use crate::model::Tally;
use crate::model::tally::{ErrorTally, Sizes, Totals};
use crate::throttle::{Coordinator, Gauge, Resource};

/// Between two looks at memory: it takes longer than this to fill what lies between two thresholds of a gigabyte.
const TICK: Duration = Duration::from_millis(100);
/// Between two lines about how the run goes.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// What a sampler looks at.
pub struct Sources {
    pub coordinator: Arc<Coordinator>,
    pub tallies: Arc<[CachePadded<Tally>]>,
    pub errors: Arc<ErrorTally>,
    /// Absent in a run that is not measured.
    pub latencies: Option<Arc<Latencies>>,
    /// The CPU of each shard.
    pub cpus: Vec<usize>,
    /// Percentages at which each of [`Resource::ALL`] engages and releases.
    pub thresholds: [(u8, u8); 3],
    /// Requests to buckets; absent without one.
    pub requests: Option<RequestFigures>,
    /// Sets the in-flight depth of all rings.
    pub set_depth: Box<dyn Fn(u64) + Send>,
}

/// See [`Sources::requests`].
pub type RequestFigures = Box<dyn Fn() -> requests::Figures + Send>;

/// What moves the limits.
pub struct Controllers {
    /// The slow loop: directories in work, entries in the index.
    pub tuner: Tuner,
    /// The fast loop: operations in flight. One serves all rings: those that share a server would mislead one another.
    pub depth: Depth,
}

/// The sampling thread of a run.
pub struct Sampler {
    board: Arc<Board>,
    end: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Sampler {
    /// Starts to sample at `interval`.
    #[must_use]
    pub fn start(
        sources: Sources,
        controllers: Controllers,
        interval: Duration,
        board: Arc<Board>,
    ) -> Self {
        let (end, ended) = sync_channel(1);
        let looker = Looker::new(sources, controllers, board.clone());
        let thread = std::thread::spawn(move || looker.run(interval, &ended));
        Self { board, end, thread }
    }

    /// The run is over: takes the last sample, with all that the shards have recorded.
    #[must_use]
    pub fn finish(self) -> Arc<Snapshot> {
        // Fails only when the thread is gone already; then there is nothing to end.
        let _ = self.end.send(());
        if self.thread.join().is_err() {
            tracing::error!("the sampling thread panicked");
        }
        self.board.latest()
    }
}

/// The state of the thread.
struct Looker {
    sources: Sources,
    collector: Option<Collector>,
    controllers: Controllers,
    ring: RingFigures,
    /// The in-flight depth of each ring.
    io_depth: u64,
    board: Arc<Board>,
    started: Instant,
    before: Before,
    gauges: [Gauge; 3],
    /// Throttles that were engaged at some time since the last sample.
    engaged: [bool; 3],
    buffer_bytes: u64,
    log_at: Duration,
}

/// What the rings have done so far.
#[derive(Clone, Copy, Default)]
struct RingFigures {
    completed: u64,
    latency_ns: u64,
    full: u64,
}

/// What a sample is compared with.
struct Before {
    elapsed: Duration,
    cpu: Duration,
    totals: Totals,
    entries: Vec<u64>,
    operations: u64,
    bytes: u64,
}

impl Looker {
    fn new(sources: Sources, mut controllers: Controllers, board: Arc<Board>) -> Self {
        let gauges = Resource::ALL.map(|resource| sources.coordinator.gauge(resource));
        let before = Before {
            elapsed: Duration::ZERO,
            cpu: usage::cpu_time(),
            totals: Totals::default(),
            entries: vec![0; sources.tallies.len()],
            operations: 0,
            bytes: 0,
        };
        Self {
            collector: sources.latencies.clone().map(Collector::new),
            sources,
            io_depth: controllers
                .depth
                .on_tick(Duration::ZERO, &DepthSample::default()),
            controllers,
            ring: RingFigures::default(),
            board,
            started: Instant::now(),
            before,
            gauges,
            engaged: [false; 3],
            buffer_bytes: 0,
            log_at: LOG_INTERVAL,
        }
    }

    fn run(mut self, interval: Duration, ended: &Receiver<()>) {
        let mut sample_at = interval;
        self.tick();
        let first = self.snapshot(Duration::ZERO, false);
        self.board.begin(first);
        loop {
            self.tick();
            let is_over = ended.recv_timeout(TICK.min(interval)) != Err(RecvTimeoutError::Timeout);
            let now = self.started.elapsed();
            if is_over || now >= sample_at {
                sample_at = now + interval;
                self.tick();
                self.sample(now, is_over);
            }
            if is_over {
                return;
            }
        }
    }

    fn levels(&self, level: impl Fn(&Tally) -> u64) -> u64 {
        self.sources.tallies.iter().map(|tally| level(tally)).sum()
    }

    /// Tells the coordinator how much memory and how many tasks there are, and notes what became of the throttles.
    fn tick(&mut self) {
        let buffers = self.levels(|tally| tally.levels.buffer_bytes.get());
        // Buffers that were made since the last look will be resident when they are filled; older ones are.
        let growing = buffers.saturating_sub(self.buffer_bytes);
        self.buffer_bytes = buffers;
        let memory = usage::resident_bytes().unwrap_or(buffers) + growing;
        let coordinator = self.sources.coordinator.clone();
        let in_flight = self.levels(|tally| tally.levels.ops_in_flight.get());
        coordinator.note(memory, coordinator.dirs_active() + in_flight);
        self.steer_depth();
        for (at, resource) in Resource::ALL.into_iter().enumerate() {
            let now = coordinator.gauge(resource);
            let before = std::mem::replace(&mut self.gauges[at], now);
            self.note_throttle(at, resource, &before, &now);
        }
    }

    /// Has the fast loop set the in-flight depth.
    fn steer_depth(&mut self) {
        let now = RingFigures {
            completed: self.levels(|tally| tally.levels.ring_completed.get()),
            latency_ns: self.levels(|tally| tally.levels.ring_latency_ns.get()),
            full: self.levels(|tally| tally.levels.ring_full.get()),
        };
        let before = std::mem::replace(&mut self.ring, now);
        // Somebody may wait all the time while nothing is completed.
        let depth = self.io_depth;
        let is_full = |tally: &Tally| u64::from(tally.levels.ops_in_flight.get() >= depth);
        let completed = now.completed - before.completed;
        let latency_ns = now.latency_ns.wrapping_sub(before.latency_ns);
        let sample = DepthSample {
            completed,
            latency_mean: Duration::from_nanos(latency_ns / completed.max(1)),
            was_full: now.full > before.full || self.levels(is_full) > 0,
        };
        let depth = self
            .controllers
            .depth
            .on_tick(self.started.elapsed(), &sample);
        let from = std::mem::replace(&mut self.io_depth, depth);
        if from != depth {
            (self.sources.set_depth)(depth);
            tracing::debug!(from, to = depth, "in-flight depth");
        }
    }

    fn note_throttle(&mut self, at: usize, resource: Resource, before: &Gauge, now: &Gauge) {
        let (engage, release) = self.sources.thresholds[at];
        let has_engaged = now.engagements > before.engagements;
        self.engaged[at] |= now.is_engaged || has_engaged;
        // A throttle on a small limit may engage and release many times between two looks: that is one event of each.
        if has_engaged && !before.is_engaged {
            let percent = now.percent().max(f64::from(engage));
            self.note(Some(resource), Change::Engaged { percent });
        }
        if !now.is_engaged && (before.is_engaged || has_engaged) {
            let percent = now.percent().min(f64::from(release));
            self.note(Some(resource), Change::Released { percent });
        }
    }

    fn note(&self, resource: Option<Resource>, change: Change) {
        let event = Event {
            at: self.started.elapsed(),
            resource,
            change,
        };
        self.board.note(event);
        for line in log::event(&event, &self.load_of_throttles()) {
            write(&line);
        }
    }

    fn load_of_throttles(&self) -> Load {
        let [files, memory, tasks] = self.gauges;
        Load {
            files,
            memory,
            tasks,
            ..Load::default()
        }
    }

    /// Counts everything up, and moves the limits.
    fn sample(&mut self, now: Duration, is_final: bool) {
        if let Some(collector) = &mut self.collector {
            collector.collect();
        }
        let seconds = self.seconds_until(now);
        let snapshot = self.snapshot(now, is_final);
        let point = self.point(&snapshot);
        if now >= self.log_at || is_final {
            self.log_at = now + LOG_INTERVAL;
            for line in log::performance(&snapshot) {
                write(&line);
            }
            if let Some(line) = log::contention(&snapshot.load) {
                write(&line);
            }
        }
        if !is_final {
            self.tune(now, &snapshot, seconds);
        }
        self.engaged = [false; 3];
        self.board.put(snapshot, point);
    }

    /// Since the last sample; more than 0.
    fn seconds_until(&self, now: Duration) -> f64 {
        let elapsed = now.saturating_sub(self.before.elapsed);
        elapsed.as_secs_f64().max(1e-3)
    }

    fn snapshot(&mut self, now: Duration, is_final: bool) -> Snapshot {
        let tallies = &self.sources.tallies;
        let totals = Totals::sum(tallies.iter().map(|tally| &**tally));
        let seconds = self.seconds_until(now);
        let load = self.load(seconds);
        let done = |totals: &Totals| totals.bytes_copied + totals.bytes_cloned;
        let files = |totals: &Totals| totals.entries_found - totals.dirs_found;
        let before = std::mem::replace(&mut self.before.totals, totals);
        self.before.elapsed = now;
        let (latencies, slowest) = self
            .collector
            .as_ref()
            .map_or_else(Default::default, |all| {
                (all.latencies(), all.slowest().to_vec())
            });
        Snapshot {
            elapsed: now,
            totals,
            errors: self.sources.errors.read(),
            load,
            files_per_second: per_second(files(&totals) - files(&before), seconds),
            dirs_per_second: per_second(totals.dirs_listed - before.dirs_listed, seconds),
            bytes_per_second: per_second(done(&totals) - done(&before), seconds),
            latencies,
            sizes: sizes(&self.sources.tallies),
            slowest,
            is_final,
        }
    }

    fn load(&mut self, seconds: f64) -> Load {
        let coordinator = &self.sources.coordinator;
        let cpu = usage::cpu_time();
        let used = cpu.saturating_sub(std::mem::replace(&mut self.before.cpu, cpu));
        let dirs_max = coordinator.dirs_max();
        let share = dirs_max.div_ceil(self.sources.cpus.len().max(1) as u64);
        let binds = |tally: &Tally| {
            let levels = &tally.levels;
            u64::from(levels.dirs_queued.get() > 0 && levels.dirs_active.get() >= share)
        };
        Load {
            dirs_active: coordinator.dirs_active(),
            dirs_max,
            dirs_queued: self.levels(|tally| tally.levels.dirs_queued.get()),
            permits_waiting: coordinator.waiting() as u64 + self.levels(binds),
            slice: coordinator.slice(),
            rss: usage::resident_bytes().unwrap_or(0),
            requests: self.sources.requests.as_ref().map(|figures| figures()),
            cpu_share: used.as_secs_f64() / seconds / cores(&self.sources.cpus),
            cores: self.cores(seconds),
            ..self.load_of_throttles()
        }
    }

    fn cores(&mut self, seconds: f64) -> Vec<Core> {
        let shards = self.sources.cpus.iter().zip(&*self.sources.tallies);
        let with_before = shards.zip(&mut self.before.entries);
        with_before
            .map(|((&cpu, tally), before)| {
                let entries = tally.entries_found.get();
                let found = entries - std::mem::replace(before, entries);
                Core {
                    cpu,
                    entries_per_second: per_second(found, seconds),
                    dirs_queued: tally.levels.dirs_queued.get(),
                    ops_in_flight: tally.levels.ops_in_flight.get(),
                    io_depth: self.io_depth,
                }
            })
            .collect()
    }

    fn point(&self, snapshot: &Snapshot) -> Point {
        let load = &snapshot.load;
        Point {
            elapsed: snapshot.elapsed,
            files_per_second: snapshot.files_per_second,
            dirs_per_second: snapshot.dirs_per_second,
            bytes_per_second: snapshot.bytes_per_second,
            cpu_share: load.cpu_share,
            memory_used: load.memory.used,
            memory_limit: load.memory.limit,
            files_used: load.files.used,
            files_limit: load.files.limit,
            tasks_used: load.tasks.used,
            tasks_limit: load.tasks.limit,
            dirs_active: load.dirs_active,
            dirs_max: load.dirs_max,
            errors: snapshot.errors.total(),
            engaged: self.engaged,
        }
    }

    /// Moves the limits by what happened since the sample before.
    fn tune(&mut self, now: Duration, snapshot: &Snapshot, seconds: f64) {
        let (totals, load) = (&snapshot.totals, &snapshot.load);
        let entries = totals.dirs_listed + totals.entries_found + totals.entries_deleted;
        let operations = entries + self.ring.completed;
        let operations = operations - std::mem::replace(&mut self.before.operations, operations);
        let bytes = totals.bytes_copied;
        let bytes = bytes - std::mem::replace(&mut self.before.bytes, bytes);
        let tuner = &mut self.controllers.tuner;
        tuner.on_sample(&TunerSample {
            cpu_share: load.cpu_share,
            memory_used: load.memory.used,
            memory_limit: load.memory.limit,
            permits_waiting: load.permits_waiting > 0,
            files_engaged: self.engaged[0],
            progress: operations + bytes,
            speed: per_second(operations, seconds),
        });
        let limits = tuner.on_tick(now);
        let adjustments = tuner.adjustments().to_vec();
        self.sources
            .coordinator
            .set_limits(limits.dirs, limits.files);
        for adjustment in adjustments {
            let change = Change::Adjusted {
                limit: adjustment.limit,
                zone: adjustment.reason,
                from: adjustment.from,
                to: adjustment.to,
            };
            self.note(None, change);
        }
    }
}

fn sizes(tallies: &[CachePadded<Tally>]) -> Vec<SizeBucket> {
    let mut sums = [0; Sizes::PLACES];
    for tally in tallies {
        for (sum, files) in sums.iter_mut().zip(tally.sizes.read()) {
            *sum += files;
        }
    }
    let buckets = (0..).zip(sums).filter(|(_, files)| *files > 0);
    buckets
        .map(|(exponent, files)| SizeBucket { exponent, files })
        .collect()
}

#[allow(clippy::cast_precision_loss)] // For the eye.
fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds
}

#[allow(clippy::cast_precision_loss)] // There are fewer than 2^52.
fn cores(cpus: &[usize]) -> f64 {
    cpus.len().max(1) as f64
}

fn write(line: &Line) {
    match line.level {
        Level::Info => tracing::info!("{}", line.text),
        Level::Warn => tracing::warn!("{}", line.text),
    }
}
