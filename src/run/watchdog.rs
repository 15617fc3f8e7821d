//! A thread that watches a run: signals, `--stop-after` and `--timeout`. It does no I/O, so nothing that hangs holds it up.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::flight::Flights;
pub use crate::control::watch::WatchLimits;
use crate::control::watch::{Verdict, Watch};
use crate::throttle::{Cancel, Reason};

/// Between two looks. A user who presses ^C should not notice it.
const TICK: Duration = Duration::from_millis(50);
/// Operations named when a run is stuck; the oldest tell what is wrong, the others wait for the same.
const NAMED_MAX: usize = 10;

/// The watching thread of a run.
pub struct Watchdog {
    end: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Watchdog {
    /// Starts to watch. `interrupted` is asked at every tick; when it says yes, the run is cancelled. `give_up` is called
    /// when the run was told to end and does not: with what it waits for, in words.
    #[must_use]
    pub fn start(
        limits: WatchLimits,
        cancel: Arc<Cancel>,
        flights: Arc<Flights>,
        interrupted: impl Fn() -> bool + Send + 'static,
        give_up: impl FnOnce(Vec<String>) + Send + 'static,
    ) -> Self {
        let (end, ended) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            let mut watch = Watch::new(limits);
            let mut before = Instant::now();
            while ended.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                if interrupted() {
                    cancel.set(Reason::Interrupted);
                }
                let now = Instant::now();
                let passed = now.saturating_duration_since(before);
                before = now;
                match watch.on_tick(passed, flights.completed(), cancel.is_set()) {
                    Verdict::GoOn => {}
                    Verdict::StopTime => cancel.set(Reason::StopTime),
                    Verdict::TimedOut => cancel.set(Reason::TimedOut),
                    Verdict::Stuck => return give_up(flights.describe(NAMED_MAX)),
                }
            }
        });
        Self { end, thread }
    }

    /// The run is over.
    pub fn finish(self) {
        // Fails only when the thread is gone already; then there is nothing to end.
        let _ = self.end.send(());
        if self.thread.join().is_err() {
            tracing::error!("the watching thread panicked");
        }
    }
}
