//! Work that is done later. Any number of pieces wait at once, and none of them holds a thread meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The work itself is a quick system call or two.
const THREADS: usize = 4;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    /// By time and number, so that two of the same time are both kept.
    waiting: BTreeMap<(Instant, u64), Work>,
    number: u64,
    stopped: bool,
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

pub(crate) struct Timer {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Timer {
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let thread = |_| {
            let shared = shared.clone();
            thread::spawn(move || shared.work())
        };
        let threads = (0..THREADS).map(thread).collect();
        Self { shared, threads }
    }

    pub(crate) fn after(&self, delay: Duration, work: Work) {
        let mut queue = self.shared.lock();
        queue.number += 1;
        let key = (Instant::now() + delay, queue.number);
        queue.waiting.insert(key, work);
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut queue = self.lock();
        while !queue.stopped {
            let next = queue.waiting.first_key_value().map(|(key, _)| *key);
            let now = Instant::now();
            queue = match next {
                Some(key) if key.0 <= now => {
                    let work = queue.waiting.remove(&key);
                    drop(queue);
                    if let Some(work) = work {
                        work();
                    }
                    self.lock()
                }
                Some((at, _)) => {
                    let waited = self.changed.wait_timeout(queue, at - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => {
                    let waited = self.changed.wait(queue);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.shared.lock().waiting.clear();
    }
}
