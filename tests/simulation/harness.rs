//! Runs a scenario for many seeds over some threads, and counts.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use ringsync::run::limits;

use crate::simfs::World;
use crate::simrun::Ended;

/// Executors spend most of their start and end waiting for the kernel, so there are more threads than cores.
const THREADS: usize = 8;
/// A scenario of some hundred operations in memory that takes so long has hung.
const SCENARIO_LIMIT: Duration = Duration::from_secs(150);
/// More failures than these say nothing new.
const FAILURES_MAX: usize = 5;

/// What all scenarios of a test did, for the line at its end.
#[derive(Default)]
pub(crate) struct Counts {
    runs: usize,
    operations: usize,
    changes: usize,
    crashes: usize,
    repeated: usize,
    omitted: usize,
    by_errno: BTreeMap<String, usize>,
    by_operation: BTreeMap<String, usize>,
    by_exit_code: BTreeMap<u8, usize>,
}

impl Counts {
    fn add(&mut self, world: &World, ended: &Ended, crashed: bool) {
        let watched = world.watched();
        self.runs += 1;
        self.operations += world.operations();
        self.changes += watched.changes_made;
        self.repeated += watched.repeated;
        self.omitted += watched.omitted;
        for failure in &watched.injected {
            let errno = format!("{:?}", failure.errno);
            let operation = format!("{:?}", failure.kind);
            *self.by_errno.entry(errno).or_default() += 1;
            *self.by_operation.entry(operation).or_default() += 1;
        }
        if crashed {
            self.crashes += 1;
        } else {
            *self.by_exit_code.entry(ended.exit_code).or_default() += 1;
        }
    }

    fn show(&self) -> String {
        let faults: usize = self.by_errno.values().sum();
        format!(
            "{} runs of {} operations, {} of them ended by a crash, the others with exit codes {:?}\n\
             {} changes by others, {} names listed twice, {} left out\n\
             {faults} faults: {:?}\nin {:?}",
            self.runs,
            self.operations,
            self.crashes,
            self.by_exit_code,
            self.changes,
            self.repeated,
            self.omitted,
            self.by_errno,
            self.by_operation,
        )
    }
}

/// Where a scenario works.
pub(crate) struct Bench<'a> {
    pub(crate) seed: u64,
    pub(crate) cpu: usize,
    counts: &'a Mutex<Counts>,
}

impl Bench<'_> {
    pub(crate) fn count(&self, world: &World, ended: &Ended) {
        self.counts.lock().unwrap().add(world, ended, false);
    }

    pub(crate) fn count_crash(&self, world: &World, ended: &Ended) {
        self.counts.lock().unwrap().add(world, ended, true);
    }
}

/// The seed that each thread works on, and since when.
type Running = Mutex<BTreeMap<usize, (u64, Instant)>>;

struct Simulation<F> {
    name: &'static str,
    end: u64,
    next: AtomicU64,
    scenario: F,
    counts: Mutex<Counts>,
    failures: Mutex<Vec<String>>,
    running: Running,
    is_over: AtomicBool,
}

/// Runs `scenario` for every seed; `RINGSYNC_SEED` chooses one.
pub(crate) fn simulate(
    name: &'static str,
    seeds: Range<u64>,
    scenario: impl Fn(&Bench) -> Result<(), String> + Sync,
) {
    let seeds = match std::env::var("RINGSYNC_SEED") {
        Ok(only) => {
            let only = only.parse().expect("RINGSYNC_SEED is a number");
            only..only + 1
        }
        Err(_) => seeds,
    };
    let simulation = Simulation {
        name,
        end: seeds.end,
        next: AtomicU64::new(seeds.start),
        scenario,
        counts: Mutex::default(),
        failures: Mutex::default(),
        running: Mutex::default(),
        is_over: AtomicBool::new(false),
    };
    simulation.run();
    eprintln!("{name}: {}", simulation.counts.lock().unwrap().show());
    let failures = simulation.failures.lock().unwrap();
    assert!(
        failures.is_empty(),
        "{} failures\n{}",
        failures.len(),
        failures.join("\n\n")
    );
}

impl<F: Fn(&Bench) -> Result<(), String> + Sync> Simulation<F> {
    fn run(&self) {
        let cpus = limits::allowed_cpus();
        thread::scope(|scope| {
            scope.spawn(|| self.watch_for_hangs());
            let workers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let cpu = cpus[thread % cpus.len()];
                    scope.spawn(move || self.work(thread, cpu))
                })
                .collect();
            for worker in workers {
                worker.join().unwrap();
            }
            self.is_over.store(true, SeqCst);
        });
    }

    fn work(&self, thread: usize, cpu: usize) {
        loop {
            let seed = self.next.fetch_add(1, SeqCst);
            if seed >= self.end || self.failures.lock().unwrap().len() >= FAILURES_MAX {
                return;
            }
            let bench = Bench {
                seed,
                cpu,
                counts: &self.counts,
            };
            let since = Instant::now();
            self.running.lock().unwrap().insert(thread, (seed, since));
            let result = catch_unwind(AssertUnwindSafe(|| (self.scenario)(&bench)));
            self.running.lock().unwrap().remove(&thread);
            let failure = match result {
                Ok(Ok(())) => continue,
                Ok(Err(failure)) => failure,
                Err(panic) => format!("panicked: {:?}", panic.downcast_ref::<String>()),
            };
            let name = self.name;
            self.failures.lock().unwrap().push(format!(
                "{name}, seed {seed} (RINGSYNC_SEED={seed} repeats it)\n{failure}"
            ));
        }
    }

    /// A hung executor cannot be ended from outside: the process goes, and says which seed it was.
    fn watch_for_hangs(&self) {
        while !self.is_over.load(SeqCst) {
            thread::sleep(Duration::from_millis(20));
            let running = self.running.lock().unwrap();
            for (seed, since) in running.values() {
                if since.elapsed() > SCENARIO_LIMIT {
                    eprintln!(
                        "{}: seed {seed} hangs (RINGSYNC_SEED={seed} repeats it)",
                        self.name
                    );
                    std::process::abort();
                }
            }
        }
    }
}
