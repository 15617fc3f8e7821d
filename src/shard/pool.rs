//! The executors: one per core, pinned.

use std::future::Future;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};

use super::Shared;
use std::sync::Arc;

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
    let mut executors = Vec::with_capacity(options.cpus.len());
    let mut failure = None;
    for (shard, &cpu) in options.cpus.iter().enumerate() {
        let (body, guard) = (body.clone(), AbortOnPanic(shared.clone()));
        let executor = LocalExecutorBuilder::new(Placement::Fixed(cpu))
            .name(&format!("shard-{shard}"))
            .io_memory(GLOMMIO_IO_MEMORY_BYTES)
            .ring_depth(GLOMMIO_RING_DEPTH)
            .preempt_timer(PREEMPT_AFTER)
            .blocking_thread_pool_placement(PoolPlacement::Unbound(options.blocking_threads))
            .spawn(move || async move {
                let result = body(shard).await;
                if result.is_err() {
                    guard.0.abort();
                }
                drop(guard);
                result
            });
        match executor {
            Ok(executor) => executors.push(executor),
            Err(error) => {
                shared.abort();
                failure = Some(format!("cannot start an executor on CPU {cpu}: {error}"));
                break;
            }
        }
    }
    for executor in executors {
        let error = match executor.join() {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(error) => format!("a shard was lost: {error}"),
        };
        failure.get_or_insert(error);
    }
    failure.map_or(Ok(()), Err)
}

/// Closes the inboxes when its shard unwinds, so that nobody waits for it.
struct AbortOnPanic(Arc<Shared>);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.abort();
        }
    }
}
