//! A work queue for tree walks on pinned threads.
//!
//! Each thread keeps a stack of its own and touches the shared one only when it has nothing left, or when
//! another thread has nothing: then it gives away the older half of its stack, which lies nearest to the
//! root and so stands for the most work. A busy walk takes no lock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

struct Shared<T> {
    tasks: Vec<T>,
    waiting: usize,
}

struct Queue<T> {
    shared: Mutex<Shared<T>>,
    wake: Condvar,
    /// `Shared::waiting` again, to be read without the lock; being late only delays a gift.
    waiting_hint: AtomicUsize,
    threads: usize,
}

impl<T> Queue<T> {
    fn lock(&self) -> MutexGuard<'_, Shared<T>> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves tasks to `local`, waiting for some if need be. False when the walk is over.
    ///
    /// Termination: a thread waits only with an empty stack, and tasks come only from running threads. So
    /// when all threads wait and the shared stack is empty, no task exists and none can appear.
    fn take(&self, local: &mut Vec<T>) -> bool {
        let mut shared = self.lock();
        shared.waiting += 1;
        self.waiting_hint.store(shared.waiting, Ordering::Relaxed);
        loop {
            if !shared.tasks.is_empty() {
                let share = shared.tasks.len().div_ceil(shared.waiting);
                let from = shared.tasks.len() - share;
                local.extend(shared.tasks.drain(from..));
                shared.waiting -= 1;
                self.waiting_hint.store(shared.waiting, Ordering::Relaxed);
                return true;
            }
            if shared.waiting == self.threads {
                self.wake.notify_all();
                return false;
            }
            shared = self
                .wake
                .wait(shared)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give_half(&self, local: &mut Vec<T>) {
        let half = local.len() / 2;
        self.lock().tasks.extend(local.drain(..half));
        self.wake.notify_all();
    }
}

/// Runs `step` on `first` and on every task that a step pushes, on `threads` pinned threads. Each thread has
/// one state from `new_state(thread)`; the states are returned for adding up.
///
/// # Panics
/// When `threads` is 0, or a step panicked.
pub fn run<T, S>(
    threads: usize,
    first: T,
    new_state: impl Fn(usize) -> S + Sync,
    step: impl Fn(&mut S, T, &mut Vec<T>) + Sync,
) -> Vec<S>
where
    T: Send,
    S: Send,
{
    assert!(threads > 0);
    let queue = Queue {
        shared: Mutex::new(Shared {
            tasks: vec![first],
            waiting: 0,
        }),
        wake: Condvar::new(),
        waiting_hint: AtomicUsize::new(0),
        threads,
    };
    let work = |thread| {
        pin(thread);
        let mut state = new_state(thread);
        let mut local = Vec::new();
        while !local.is_empty() || queue.take(&mut local) {
            while let Some(task) = local.pop() {
                step(&mut state, task, &mut local);
                if local.len() > 1 && queue.waiting_hint.load(Ordering::Relaxed) > 0 {
                    queue.give_half(&mut local);
                }
            }
        }
        state
    };
    thread::scope(|scope| {
        let work = &work;
        let workers: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || work(thread)))
            .collect();
        workers
            .into_iter()
            .map(|worker| worker.join().expect("a worker panicked"))
            .collect()
    })
}

/// Pins the calling thread to the `thread`-th CPU it may use (modulo their number). Where that is refused the
/// thread just runs unpinned.
fn pin(thread: usize) {
    let Ok(allowed) = sched_getaffinity(None) else {
        return;
    };
    let cpus: Vec<usize> = (0..CpuSet::MAX_CPU)
        .filter(|&cpu| allowed.is_set(cpu))
        .collect();
    if let Some(&cpu) = cpus.get(thread % cpus.len().max(1)) {
        let mut one = CpuSet::new();
        one.set(cpu);
        let _ = sched_setaffinity(None, &one);
    }
}

#[cfg(test)]
mod tests {
    use super::run;

    /// A binary tree of tasks: each one below `limit` has two children.
    fn count(threads: usize, limit: usize) -> usize {
        let step = |seen: &mut usize, task: usize, more: &mut Vec<usize>| {
            *seen += 1;
            more.extend(
                [2 * task, 2 * task + 1]
                    .into_iter()
                    .filter(|&child| child <= limit),
            );
        };
        run(threads, 1, |_| 0, step).into_iter().sum()
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 7] {
            for limit in [1, 2, 100, 50_000] {
                assert_eq!(count(threads, limit), limit, "{threads} threads");
            }
        }
    }
}
