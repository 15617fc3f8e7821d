//! The executors: one per core, pinned.

use std::future::Future;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::{Shared, pulse};

/// How long a task runs before those that wait for messages or I/O are looked at.
const PREEMPT_AFTER: Duration = Duration::from_millis(5);
/// glommio's own rings carry timers and wakes only: our I/O has the companion ring.
const GLOMMIO_RING_DEPTH: usize = 64;
const GLOMMIO_IO_MEMORY_BYTES: usize = 64 << 10;

/// How executors are made.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// One executor for each, pinned to it.
    pub cpus: Vec<usize>,
    /// Threads of each executor's blocking pool; one of them is the companion ring's sleeper.
    pub blocking_threads: usize,
}

/// Runs `body(shard)` on an executor for each CPU, until all are done.
///
/// # Errors
/// In words, when an executor could not be started or a shard panicked. A panic ends the other shards too.
pub fn run<F, Fut>(options: &PoolOptions, shared: &Arc<Shared>, body: F) -> Result<(), String>
where
    F: Fn(usize) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), String>> + 'static,
{
    let mut threads = Vec::with_capacity(options.cpus.len());
    let mut failure = None;
    for (shard, &cpu) in options.cpus.iter().enumerate() {
        let (body, guard) = (body.clone(), AbortOnPanic(shared.clone()));
        let blocking_threads = options.blocking_threads;
        let thread = std::thread::Builder::new().name(format!("shard-{shard}"));
        let end = End {
            shared: shared.clone(),
            shard,
            waiting: std::thread::current(),
        };
        let spawned = thread.spawn(move || {
            let _end = end;
            let executor = LocalExecutorBuilder::new(Placement::Unbound)
                .io_memory(GLOMMIO_IO_MEMORY_BYTES)
                .ring_depth(GLOMMIO_RING_DEPTH)
                .preempt_timer(PREEMPT_AFTER)
                .blocking_thread_pool_placement(PoolPlacement::Unbound(blocking_threads))
                .make()
                .map_err(|error| refused(cpu, &error))
                .and_then(|executor| pin(cpu).map(|()| executor));
            let result =
                executor.and_then(|executor| run_on(executor, blocking_threads, body(shard)));
            if result.is_err() {
                guard.0.abort();
            }
            result
        });
        match spawned {
            Ok(thread) => threads.push((thread, &shared.pulses[shard])),
            Err(error) => {
                shared.abort();
                failure.get_or_insert(format!("cannot start a thread: {error}"));
            }
        }
    }
    pulse::watch(&threads);
    for (thread, _) in threads {
        let error = match thread.join() {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(_panic) => String::from("a shard was lost: it panicked"),
        };
        failure.get_or_insert(error);
    }
    failure.map_or(Ok(()), Err)
}

/// How long the end of an executor waits for calls that nobody waits for any more: one may hang on a server.
const LAST_CALLS_MAX: Duration = Duration::from_secs(1);
const LAST_CALLS_PAUSE: Duration = Duration::from_micros(100);

/// Runs a future on an executor, and drops the executor while no thread of its blocking pool can end. glommio detaches them just
/// after it told them to end, and a thread that ends while it is detached can crash the process (glibc bug 19951): so each one
/// is given a last job, from which it ends once the executor is gone.
fn run_on<T>(executor: LocalExecutor, blocking_threads: usize, body: impl Future<Output = T>) -> T {
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock();
    let arrived = Arc::new(AtomicUsize::new(0));
    let result = executor.run(async {
        let result = body.await;
        for _ in 0..blocking_threads {
            let (gate, arrived) = (gate.clone(), arrived.clone());
            let last_job = move || {
                arrived.fetch_add(1, Relaxed);
                drop(gate.lock());
                // Its answer would find nobody, which glommio takes for a bug; this ends the thread without a word.
                resume_unwind(Box::new(()))
            };
            // Polled once, it is handed over; it never answers.
            let _: Option<()> = glommio::executor().spawn_blocking(last_job).now_or_never();
        }
        let began = Instant::now();
        while arrived.load(Relaxed) < blocking_threads && began.elapsed() < LAST_CALLS_MAX {
            glommio::timer::sleep(LAST_CALLS_PAUSE).await;
        }
        result
    });
    drop(executor);
    drop(closed);
    result
}

/// Pins this thread. glommio would do it, but first reads the whole machine's topology, for each executor, and gives up where
/// that is unknown (a package of -1, as in some virtual machines). Its blocking threads exist by now: they are not pinned.
fn pin(cpu: usize) -> Result<(), String> {
    let mut only = CpuSet::new();
    only.set(cpu)
        .and_then(|()| sched_setaffinity(Pid::from_raw(0), &only))
        .map_err(|errno| refused(cpu, &errno))
}

/// Why there is no executor, and what helps: each one's ring needs locked memory and descriptors.
fn refused(cpu: usize, error: &impl std::fmt::Display) -> String {
    format!(
        "cannot start an executor on CPU {cpu}: {error}; fewer executors (--cores), more locked memory (`ulimit -l`) or more \
         descriptors (`ulimit -n`) may help"
    )
}

/// Tells the thread that waits for all shards.
struct End {
    shared: Arc<Shared>,
    shard: usize,
    waiting: Thread,
}

impl Drop for End {
    fn drop(&mut self) {
        self.shared.pulses[self.shard].end();
        self.waiting.unpark();
    }
}

/// Closes the inboxes when its shard's thread unwinds, so that nobody waits for it. It lives outside the executor, whose
/// tasks a panic may leak.
struct AbortOnPanic(Arc<Shared>);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abort();
        }
    }
}
