//! The operations under way, kept so that a run in which nothing moves any more can say what it waits for. Only made for a
//! run with `--timeout`: an entry in a list for each operation costs more than some of the operations themselves.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use slab::Slab;

use super::FsMaker;
use crate::error::{OpKind, Side};
use crate::io::{Fs, Op, Pending};
use crate::model::path::escape;

/// All operations of a run, shard by shard.
#[derive(Default)]
pub struct Flights {
    shards: Mutex<Vec<Arc<Flight>>>,
}

/// The operations of one shard. Only the watchdog looks at another shard's, so the lock is free when a shard takes it.
#[derive(Default)]
struct Flight {
    completed: AtomicU64,
    under_way: Mutex<Slab<UnderWay>>,
}

/// One operation. It owns its descriptor while it is under way, so the number stays right.
struct UnderWay {
    kind: OpKind,
    side: Side,
    fd: Option<RawFd>,
    name: Option<CString>,
    started: Instant,
}

impl UnderWay {
    fn new(op: &Op, side: Side) -> Self {
        let handle = op.handle();
        Self {
            kind: op.kind(),
            side,
            fd: handle.is_of_kernel().then(|| handle.as_fd().as_raw_fd()),
            name: op.name().map(ToOwned::to_owned),
            started: Instant::now(),
        }
    }

    fn describe(&self, waited: Duration) -> String {
        // The kernel has this path in memory: asking for it does not wait for the filesystem.
        let dir = self
            .fd
            .and_then(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).ok());
        let mut path = dir.unwrap_or_else(|| PathBuf::from("."));
        if let Some(name) = &self.name {
            use std::os::unix::ffi::OsStrExt;
            path.push(std::ffi::OsStr::from_bytes(name.to_bytes()));
        }
        let (verb, side, seconds) = (self.kind.verb(), self.side.name(), waited.as_secs());
        let path = escape(path.as_os_str().as_encoded_bytes());
        format!("{verb} {side} '{path}' (since {seconds} s)")
    }
}

impl Flight {
    fn lock(&self) -> MutexGuard<'_, Slab<UnderWay>> {
        // Each change is one call on the slab, so a panic elsewhere does not spoil it.
        self.under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flights {
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Flight>>> {
        self.shards.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Operations completed so far.
    #[must_use]
    pub fn completed(&self) -> u64 {
        let completed = |flight: &Arc<Flight>| flight.completed.load(Relaxed);
        self.lock().iter().map(completed).sum()
    }

    /// What is under way now, in words, the oldest first; `count_max` of them.
    #[must_use]
    pub fn describe(&self, count_max: usize) -> Vec<String> {
        let now = Instant::now();
        let mut waiting = Vec::new();
        for flight in &*self.lock() {
            for (_, under_way) in &*flight.lock() {
                let waited = now.saturating_duration_since(under_way.started);
                waiting.push((waited, under_way.describe(waited)));
            }
        }
        waiting.sort_by_key(|(waited, _)| std::cmp::Reverse(*waited));
        waiting.truncate(count_max);
        waiting.into_iter().map(|(_, words)| words).collect()
    }

    /// Makes filesystems whose operations are noted here.
    pub(super) fn watch(self: &Arc<Self>, make: FsMaker) -> FsMaker {
        let flights = self.clone();
        Arc::new(move |instruments| {
            let (source, dest) = make(instruments)?;
            let flight = Arc::new(Flight::default());
            flights.lock().push(flight.clone());
            let watched = |fs, side| -> Rc<dyn Fs> {
                let flight = flight.clone();
                Rc::new(Watched { fs, side, flight })
            };
            let source = watched(source, Side::Source);
            Ok((source, watched(dest, Side::Destination)))
        })
    }
}

/// A filesystem whose operations are noted. Small files go the ordinary way, so that what hangs has a name.
struct Watched {
    fs: Rc<dyn Fs>,
    side: Side,
    flight: Arc<Flight>,
}

/// An operation's entry, taken off the list when it is over or when nobody waits for it any more.
struct Noted {
    flight: Arc<Flight>,
    key: usize,
}

impl Noted {
    fn complete(self) {
        self.flight.completed.fetch_add(1, Relaxed);
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.flight.lock().remove(self.key);
    }
}

impl Fs for Watched {
    fn start(&self, op: Op) -> Pending {
        let noted = Noted {
            key: self.flight.lock().insert(UnderWay::new(&op, self.side)),
            flight: self.flight.clone(),
        };
        match self.fs.start(op) {
            Pending::Ready(outcome) => {
                noted.complete();
                Pending::Ready(outcome)
            }
            pending => Pending::Boxed(Box::pin(async move {
                let outcome = pending.await;
                noted.complete();
                outcome
            })),
        }
    }

    fn inner(&self) -> Option<&dyn Fs> {
        Some(&*self.fs)
    }

    fn is_slow(&self, dev: u64) -> bool {
        self.fs.is_slow(dev)
    }
}
