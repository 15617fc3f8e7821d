//! The kernel's filesystems: every operation goes inline, to the ring or to the blocking pool, as the engine choice
//! and the router of its filesystem say.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{UsageWho, getrusage};

use super::inline::{self, FsTraits, ServedBy};
use super::op::{Fs, Handle, Op, OpError, Outcome, Pending, Reply};
use super::ring::{Ring, RingOptions};
use super::small::{self, InOneGo, SmallCopy};
use crate::control::router::{Route, Router, Sample};
use crate::error::{OpKind, Side};
use crate::model::{Instruments, Listing, OpClass, Timed};

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
#[derive(Clone, Debug)]
pub struct LocalFsOptions {
    pub engine: EngineChoice,
    pub ring: RingOptions,
}

/// The filesystems of this machine, from one executor, on one side of the sync.
#[derive(Clone)]
pub struct LocalFs {
    core: Rc<Core>,
    side: Side,
}

/// What both sides share.
struct Core {
    engine: EngineChoice,
    ring: Ring,
    started: Instant,
    /// By device; a run meets a handful.
    routers: RefCell<Vec<(u64, Router)>>,
    /// By device.
    traits: RefCell<Vec<(u64, FsTraits)>>,
    instruments: Instruments,
}

impl LocalFs {
    /// Sets up the companion ring on this executor. This is the source's side.
    ///
    /// # Errors
    /// What the kernel says when it refuses a ring.
    pub fn start(options: LocalFsOptions, instruments: &Instruments) -> io::Result<Self> {
        let core = Core {
            engine: options.engine,
            ring: Ring::start(options.ring, instruments.clone())?,
            started: Instant::now(),
            routers: RefCell::default(),
            traits: RefCell::default(),
            instruments: instruments.clone(),
        };
        Ok(Self {
            core: Rc::new(core),
            side: Side::Source,
        })
    }

    /// The same for the other side: what is measured there is told apart.
    #[must_use]
    pub fn on(&self, side: Side) -> Self {
        let core = self.core.clone();
        Self { core, side }
    }
}

impl Core {
    fn with_router<T>(&self, dev: u64, f: impl FnOnce(&mut Router) -> T) -> T {
        let mut routers = self.routers.borrow_mut();
        let known = routers.iter().position(|(known, _)| *known == dev);
        let at = known.unwrap_or_else(|| {
            routers.push((dev, Router::default()));
            routers.len() - 1
        });
        f(&mut routers[at].1)
    }

    fn in_flight(&self) -> u64 {
        self.instruments.tally().levels.ops_in_flight.get()
    }

    fn start_concurrent(&self, mut op: Op, side: Side) -> Pending {
        if self.ring.can_run(&mut op) && !self.mangles(&op) {
            return Pending::Ring(self.ring.start_op(op, side));
        }
        let instruments = self.instruments.clone();
        let (what, since) = (timed(op.kind(), side), instruments.now());
        let server = self.server_of(&op);
        let running = glommio::executor().spawn_blocking(move || inline::run_on(op, server));
        Pending::Boxed(Box::pin(async move {
            let in_flight = instruments.in_flight();
            let outcome = running.await;
            drop(in_flight);
            instruments.record_since(what, since);
            outcome
        }))
    }

    fn run_inline(&self, op: Op, side: Side) -> Outcome {
        let calls = match &op {
            Op::StatMany { range, .. } => range.len() as u64,
            _ => 1,
        };
        let (what, since) = (timed(op.kind(), side), self.instruments.now());
        let outcome = self.run_here(op);
        if let Some(since) = since {
            self.record_each(what, since.elapsed(), calls);
        }
        outcome
    }

    /// Records calls that took so long together.
    fn record_each(&self, what: Timed, elapsed: Duration, calls: u64) {
        let each = elapsed / u32::try_from(calls.max(1)).unwrap_or(u32::MAX);
        self.instruments.record(what, each, calls);
    }

    /// Whether io_uring would mangle the data of an operation. It goes on by itself after a short read or write of a
    /// regular file, and FUSE files that are opened for direct I/O do not move the position from which it goes on: the same
    /// bytes come twice (seen on Linux 6.18). The blocking pool gets short counts as they are.
    fn mangles(&self, op: &Op) -> bool {
        let (Op::Read { file, .. } | Op::Write { file, .. }) = op else {
            return false;
        };
        self.traits_of(file).server == ServedBy::Fuse
    }

    fn run_here(&self, op: Op) -> Outcome {
        let server = self.server_of(&op);
        inline::run_on(op, server)
    }

    /// Who answers for what is listed; nothing else depends on that.
    fn server_of(&self, op: &Op) -> Option<ServedBy> {
        match op {
            Op::ReadDir { dir, .. } => Some(self.traits_of(dir).server),
            _ => None,
        }
    }

    fn traits_of(&self, file: &Handle) -> FsTraits {
        let mut all = self.traits.borrow_mut();
        if let Some((_, traits)) = all.iter().find(|(dev, _)| *dev == file.dev()) {
            return *traits;
        }
        let traits = inline::traits_of(file);
        all.push((file.dev(), traits));
        traits
    }

    fn run_measured(&self, op: Op, side: Side, started: Duration) -> Outcome {
        let (dev, what) = (op.dev(), timed(op.kind(), side));
        let watch = self.watch(dev, started);
        let outcome = self.run_here(op);
        let bytes = match &outcome {
            Ok(Reply::Moved(_, count)) => *count as u64,
            Ok(Reply::Copied(count)) => *count,
            _ => 0,
        };
        self.measured(dev, what, &watch, 1, bytes);
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

    /// Tells the router and the meter what was measured. Returns the time now.
    fn measured(&self, dev: u64, what: Timed, watch: &Watch, calls: u64, bytes: u64) -> Duration {
        let ended = self.started.elapsed();
        self.record_each(what, ended.saturating_sub(watch.started), calls);
        self.sampled(dev, watch, ended, calls, bytes);
        ended
    }

    /// Tells the router alone.
    fn sampled(&self, dev: u64, watch: &Watch, ended: Duration, calls: u64, bytes: u64) {
        let elapsed = ended.saturating_sub(watch.started);
        let sample = Sample {
            elapsed,
            calls,
            bytes,
            slept: watch.sleeps.map(|before| sleeps_of_thread() > before),
        };
        self.with_router(dev, |router| router.on_inline(ended, &sample));
    }

    /// A batch of statx goes inline slice by slice, so that the rest of it can leave for the ring as soon as the
    /// filesystem turns out to block.
    fn stat_many_routed(
        &self,
        dir: Handle,
        mut listing: Listing,
        range: Range<usize>,
        side: Side,
    ) -> Pending {
        let (dev, what) = (dir.dev(), timed(OpKind::Stat, side));
        let mut now = self.started.elapsed();
        let mut start = range.start;
        while start < range.end {
            let (left, in_flight) = ((range.end - start) as u64, self.in_flight());
            if self.with_router(dev, |router| router.try_concurrent(now, left, in_flight)) {
                let range = start..range.end;
                let op = Op::StatMany {
                    dir,
                    listing,
                    range,
                };
                return self.start_concurrent(op, side);
            }
            let end = range.end.min(start + STAT_SLICE);
            let watch = self.watch(dev, now);
            let calls = inline::stat_many(&dir, &mut listing, start..end);
            if calls > 0 {
                now = self.measured(dev, what, &watch, calls, 0);
            }
            start = end;
        }
        let more = false;
        Pending::ready(Ok(Reply::Listed { listing, more }))
    }
}

/// System calls when a small file is copied in one go: open, read, statx and close on the one side, create, write, statx, set
/// and close on the other. Each side is told the mean of all.
const SMALL_COPY_CALLS: u64 = 9;

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

fn timed(kind: OpKind, side: Side) -> Timed {
    Timed::Op(kind.into(), side)
}

impl Fs for LocalFs {
    fn start(&self, op: Op) -> Pending {
        let (core, side) = (&*self.core, self.side);
        if let Op::CopyRange { from, .. } | Op::Clone { from, .. } = &op
            && !from.is_of_kernel()
        {
            let (kind, errno) = (op.kind(), Errno::EXDEV);
            return Pending::ready(Err(OpError { kind, errno }));
        }
        match core.engine {
            EngineChoice::Inline => Pending::ready(core.run_inline(op, side)),
            EngineChoice::Ring => core.start_concurrent(op, side),
            EngineChoice::Auto => {
                if let Op::StatMany {
                    dir,
                    listing,
                    range,
                } = op
                {
                    return core.stat_many_routed(dir, listing, range, side);
                }
                if matches!(op, Op::Fsync { .. } | Op::SyncFs { .. }) {
                    // Waits for the device on every filesystem: inline it would stop the executor, and it says nothing
                    // about how fast the other calls are.
                    return core.start_concurrent(op, side);
                }
                let now = core.started.elapsed();
                let in_flight = core.in_flight();
                match core.with_router(op.dev(), |router| router.route(now, in_flight)) {
                    Route::Inline => Pending::ready(core.run_measured(op, side, now)),
                    Route::Concurrent => core.start_concurrent(op, side),
                }
            }
        }
    }

    fn copy_small(&self, copy: &SmallCopy<'_>, buffer: &mut [u8]) -> InOneGo {
        let core = &*self.core;
        if !copy.source.is_of_kernel() {
            return InOneGo::Refused;
        }
        let devs = [copy.source.dev(), copy.dest.dev()];
        // No probe: it would be a long one.
        if devs.into_iter().any(|dev| self.is_slow(dev)) {
            return InOneGo::NotNow;
        }
        let is_routed = core.engine == EngineChoice::Auto;
        let started = core.started.elapsed();
        let watches = is_routed.then(|| devs.map(|dev| core.watch(dev, started)));
        if !small::copy(copy, buffer) {
            return InOneGo::Refused;
        }
        let ended = core.started.elapsed();
        for (dev, watch) in devs.into_iter().zip(watches.iter().flatten()) {
            core.sampled(dev, watch, ended, SMALL_COPY_CALLS, copy.wanted.size);
        }
        let what = Timed::Op(OpClass::SmallFile, self.side);
        core.instruments
            .record(what, ended.saturating_sub(started), 1);
        InOneGo::Copied
    }

    fn offloads_copies(&self, file: &Handle) -> bool {
        self.core.traits_of(file).offloads_copies
    }

    fn has_own_clock(&self, file: &Handle) -> bool {
        self.core.traits_of(file).has_own_clock
    }

    fn is_served(&self, file: &Handle) -> bool {
        self.core.traits_of(file).server != ServedBy::Kernel
    }

    fn remembers_attributes(&self, file: &Handle) -> bool {
        self.core.traits_of(file).server == ServedBy::Nfs
    }

    fn is_slow(&self, dev: u64) -> bool {
        match self.core.engine {
            EngineChoice::Auto => self.core.with_router(dev, |router| router.is_concurrent()),
            EngineChoice::Ring => true,
            EngineChoice::Inline => false,
        }
    }
}
