//! Keeps executors from sleeping while they have work.
//!
//! glommio 0.9 looks at its preemption timer before it runs the first task of a round; when that has fired (a busy
//! machine took the core away for some milliseconds) it takes "nothing was run" for "nothing is to be run" and goes to
//! sleep, with tasks in its queue and possibly no timer set (`LocalExecutor::run` and `run_task_queues`). An event from
//! another thread makes it look again. So while shards run, the thread that started them wakes one task of each now and then.

use std::future::poll_fn;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, Waker};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::pthread::pthread_kill;
use nix::sys::signal::Signal;

/// What such a sleep may cost. Waking an executor that has nothing to do takes some microseconds.
const INTERVAL: Duration = Duration::from_millis(20);
/// Ends a sleep in the kernel, and is ignored otherwise.
const KICK: Signal = Signal::SIGURG;

/// The pulse of one executor.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    waker: Mutex<Option<Waker>>,
    has_ended: AtomicBool,
}

impl Pulse {
    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs on the executor, until [`Pulse::stop`].
    pub(super) async fn beat(&self) {
        poll_fn(|cx| {
            *self.waker() = Some(cx.waker().clone());
            Poll::<()>::Pending
        })
        .await;
    }

    /// The executor is about to end, and with it what a waker could wake.
    pub(super) fn stop(&self) {
        *self.waker() = None;
    }

    /// The thread is done with everything.
    pub(super) fn end(&self) {
        self.has_ended.store(true, SeqCst);
    }

    /// Wakes the executor of `thread`: through its task, or with a signal before that has begun.
    fn wake<T>(&self, thread: &JoinHandle<T>) {
        match &*self.waker() {
            Some(waker) => waker.wake_by_ref(),
            None => {
                // Fails only for a thread that has just ended.
                let _ = pthread_kill(thread.as_pthread_t(), KICK);
            }
        }
    }
}

/// Waits until all threads are at their end, and keeps their executors awake. Each thread unparks the caller after
/// [`Pulse::end`].
pub(super) fn watch<T>(threads: &[(JoinHandle<T>, &Pulse)]) {
    catch_kicks();
    while threads
        .iter()
        .any(|(_, pulse)| !pulse.has_ended.load(SeqCst))
    {
        std::thread::park_timeout(INTERVAL);
        for (thread, pulse) in threads {
            if !pulse.has_ended.load(SeqCst) {
                pulse.wake(thread);
            }
        }
    }
}

/// A signal that nobody handles is dropped before it wakes anybody.
fn catch_kicks() {
    static CAUGHT: OnceLock<()> = OnceLock::new();
    CAUGHT.get_or_init(|| {
        let kicked = Arc::default();
        if let Err(error) = signal_hook::flag::register(KICK as i32, kicked) {
            tracing::debug!(%error, "executors that sleep too long at their start are not woken");
        }
    });
}
