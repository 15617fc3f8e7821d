//! The kernel's filesystems: every operation goes inline, to the ring or to the blocking pool, as the engine choice
//! and the router of its filesystem say.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

use super::inline;
use super::op::{Fs, Handle, Op, Outcome, Pending, Reply};
use super::ring::{Ring, RingOptions};
use crate::control::router::{Route, Router, Sample};
use crate::model::Listing;

/// Inline statx calls between two looks at the clock: the clock costs a twentieth of one call.
const STAT_SLICE: usize = 32;

/// `--io-engine`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// Inline while calls are fast, ring and pool while they block; each filesystem by itself.
    #[default]
    Auto,
    Ring,
    Inline,
}

/// Options of a [`LocalFs`].
#[derive(Clone, Copy, Debug)]
pub struct LocalFsOptions {
    pub engine: EngineChoice,
    pub ring: RingOptions,
}

/// The filesystems of this machine, from one executor.
pub struct LocalFs {
    engine: EngineChoice,
    ring: Ring,
    started: Instant,
    /// By device; a run meets a handful.
    routers: RefCell<Vec<(u64, Router)>>,
    /// By device: whether it is FUSE; see [`LocalFs::mangles`].
    fuse: RefCell<Vec<(u64, bool)>>,
}

impl LocalFs {
    /// Sets up the companion ring on this executor.
    ///
    /// # Errors
    /// What the kernel says when it refuses a ring.
    pub fn start(options: LocalFsOptions) -> io::Result<Self> {
        Ok(Self {
            engine: options.engine,
            ring: Ring::start(options.ring)?,
            started: Instant::now(),
            routers: RefCell::default(),
            fuse: RefCell::default(),
        })
    }

    fn with_router<T>(&self, dev: u64, f: impl FnOnce(&mut Router) -> T) -> T {
        let mut routers = self.routers.borrow_mut();
        let known = routers.iter().position(|(known, _)| *known == dev);
        let at = known.unwrap_or_else(|| {
            routers.push((dev, Router::default()));
            routers.len() - 1
        });
        f(&mut routers[at].1)
    }

    fn start_concurrent(&self, mut op: Op) -> Pending {
        if self.ring.can_run(&mut op) && !self.mangles(&op) {
            return Pending::Ring(self.ring.start_op(op));
        }
        Pending::Boxed(Box::pin(
            glommio::executor().spawn_blocking(move || inline::run(op)),
        ))
    }

    /// Whether io_uring would mangle the data of an operation. It goes on by itself after a short read or write of a
    /// regular file, and FUSE files that are opened for direct I/O do not move the position from which it goes on: the same
    /// bytes come twice (seen on Linux 6.18). The blocking pool gets short counts as they are.
    fn mangles(&self, op: &Op) -> bool {
        let (Op::Read { file, .. } | Op::Write { file, .. }) = op else {
            return false;
        };
        let mut all = self.fuse.borrow_mut();
        if let Some((_, fuse)) = all.iter().find(|(dev, _)| *dev == file.dev()) {
            return *fuse;
        }
        let fuse = inline::is_fuse(file);
        all.push((file.dev(), fuse));
        fuse
    }

    fn run_measured(&self, op: Op, started: Duration) -> Outcome {
        let dev = op.dev();
        let watch = self.watch(dev, started);
        let outcome = inline::run(op);
        let bytes = match &outcome {
            Ok(Reply::Moved(_, count)) => *count as u64,
            Ok(Reply::Copied(count)) => *count,
            _ => 0,
        };
        self.measured(dev, &watch, 1, bytes);
        outcome
    }

    /// Begins to measure inline calls on a filesystem.
    fn watch(&self, dev: u64, started: Duration) -> Watch {
        let wants_proof = self.with_router(dev, |router| router.wants_proof());
        Watch {
            started,
            sleeps: wants_proof.then(sleeps_of_thread),
        }
    }

    /// Tells the router what was measured. Returns the time now.
    fn measured(&self, dev: u64, watch: &Watch, calls: u64, bytes: u64) -> Duration {
        let ended = self.started.elapsed();
        let sample = Sample {
            elapsed: ended.saturating_sub(watch.started),
            calls,
            bytes,
            slept: watch.sleeps.map(|before| sleeps_of_thread() > before),
        };
        self.with_router(dev, |router| router.on_inline(ended, &sample));
        ended
    }

    /// A batch of statx goes inline slice by slice, so that the rest of it can leave for the ring as soon as the
    /// filesystem turns out to block.
    fn stat_many_routed(&self, dir: Handle, mut listing: Listing, range: Range<usize>) -> Pending {
        let dev = dir.dev();
        let mut now = self.started.elapsed();
        let mut start = range.start;
        while start < range.end {
            if self.with_router(dev, |router| router.is_concurrent()) {
                let range = start..range.end;
                return self.start_concurrent(Op::StatMany {
                    dir,
                    listing,
                    range,
                });
            }
            let end = range.end.min(start + STAT_SLICE);
            let watch = self.watch(dev, now);
            let calls = inline::stat_many(&dir, &mut listing, start..end);
            if calls > 0 {
                now = self.measured(dev, &watch, calls, 0);
            }
            start = end;
        }
        let more = false;
        Pending::ready(Ok(Reply::Listed { listing, more }))
    }
}

/// Inline calls being measured.
struct Watch {
    started: Duration,
    /// How often the thread had slept before, when the router wants to know.
    sleeps: Option<i64>,
}

/// Voluntary context switches of this thread so far.
fn sleeps_of_thread() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.voluntary_context_switches())
}

impl Fs for LocalFs {
    fn start(&self, op: Op) -> Pending {
        match self.engine {
            EngineChoice::Inline => Pending::ready(inline::run(op)),
            EngineChoice::Ring => self.start_concurrent(op),
            EngineChoice::Auto => {
                if let Op::StatMany {
                    dir,
                    listing,
                    range,
                } = op
                {
                    return self.stat_many_routed(dir, listing, range);
                }
                if matches!(op, Op::Fsync { .. } | Op::SyncFs { .. }) {
                    // Waits for the device on every filesystem: inline it would stop the executor, and it says nothing
                    // about how fast the other calls are.
                    return self.start_concurrent(op);
                }
                let now = self.started.elapsed();
                match self.with_router(op.dev(), |router| router.route(now)) {
                    Route::Inline => Pending::ready(self.run_measured(op, now)),
                    Route::Concurrent => self.start_concurrent(op),
                }
            }
        }
    }

    fn is_slow(&self, dev: u64) -> bool {
        match self.engine {
            EngineChoice::Auto => self.with_router(dev, |router| router.is_concurrent()),
            EngineChoice::Ring => true,
            EngineChoice::Inline => false,
        }
    }
}
