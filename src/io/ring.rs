//! The companion ring: one io_uring per executor for the operations that glommio does not expose.
//!
//! ```text
//!  RingFuture ──poll──> waiting for room ──room──> queued (SQE) ──submitter task──> in flight
//!      ^                                                                               │
//!      └───────── woken, takes the outcome <── done <──reaper task── completion (CQE) ─┘
//! ```
//!
//! * Capacity is debited when an SQE is queued and credited when its CQE is reaped, and the depth is below the size
//!   of the completion queue: it cannot overflow. (With 32,000 statx in flight on 8,192 completions the kernel
//!   stalled for a minute.)
//! * The submitter runs after all tasks that were ready before it, so what they queued goes in one system call.
//! * The reaper sleeps in a read of the ring's eventfd on glommio's blocking pool: no core spins.
//! * An operation lives in its slot until its completion, whether or not its future is still there: the kernel never
//!   writes into freed memory, and a descriptor that nobody waits for is closed.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use io_uring::{IoUring, squeue};
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use rustix::fs::Statx;
use slab::Slab;

use super::again::{REPEATS_MAX, is_transient};
use super::depth::{DEPTH_MAX, Depth};
use super::inline;
use super::op::{Handle, Op, Outcome, Reply};
use super::probe::Support;
use super::sqe::{outcome_of, sqe_of, statx_result, statx_sqe};
use crate::error::Side;
use crate::model::{Instruments, Listing, OpClass, Timed};

/// Completion queue entries. A power of two, as the kernel wants.
const CQ_ENTRIES: u32 = 8192;
const _: () = assert!(
    DEPTH_MAX < CQ_ENTRIES,
    "completions must always find room in their queue"
);
/// Submission queue entries: how many operations one system call can submit.
const SQ_ENTRIES: u32 = 256;
/// How often the reaper looks again, after letting others run, before it goes to sleep. Sleeping and waking
/// costs two context switches; fast operations are done by then.
const POLLS_BEFORE_SLEEP_MAX: u32 = 8;

/// A ring and its two tasks. Dropping it lets them end.
pub struct Ring {
    inner: Rc<Inner>,
}

struct Inner {
    uring: RefCell<IoUring>,
    slots: RefCell<Slab<Slot>>,
    /// SQEs in the submission queue that the kernel has not seen.
    queued: Cell<u32>,
    /// Queued or with the kernel.
    in_flight: Cell<u32>,
    depth: Arc<Depth>,
    /// The number of kernel workers that was asked for.
    workers: Cell<u32>,
    /// Those that found the ring full.
    waiting: RefCell<Vec<Waker>>,
    submitter: Signal,
    reaper: Signal,
    sleeper: Arc<EventFd>,
    support: Support,
    stopped: Cell<bool>,
    instruments: Instruments,
}

enum Slot {
    One(Box<One>),
    /// One entry of a batch of statx; `buffer` is where the kernel writes.
    Part {
        batch: Rc<RefCell<Batch>>,
        entry: usize,
        buffer: Box<MaybeUninit<Statx>>,
        repeats: u32,
        /// When it was queued.
        since: Instant,
    },
}

struct One {
    op: Op,
    /// Where a single statx writes.
    statx: MaybeUninit<Statx>,
    waker: Option<Waker>,
    outcome: Option<Outcome>,
    /// The future is gone: the outcome goes with the slot.
    abandoned: bool,
    repeats: u32,
    side: Side,
    /// When it was queued.
    since: Instant,
}

/// A `StatMany` under way. The listing holds the names that the kernel reads; it does not grow meanwhile.
struct Batch {
    listing: Listing,
    /// Keeps the directory open until the last part is done.
    dir: Handle,
    side: Side,
    parts_left: usize,
    waker: Option<Waker>,
}

/// Wakes one task. Waking before the task waits is remembered.
#[derive(Default)]
struct Signal {
    raised: Cell<bool>,
    waker: Cell<Option<Waker>>,
}

impl Signal {
    fn raise(&self) {
        self.raised.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn wait(&self) -> impl Future<Output = ()> + '_ {
        poll_fn(|cx| {
            if self.raised.take() {
                return Poll::Ready(());
            }
            self.waker.set(Some(cx.waker().clone()));
            Poll::Pending
        })
    }
}

/// How a ring is set up.
#[derive(Clone, Debug)]
pub struct RingOptions {
    pub depth: Arc<Depth>,
}

impl Ring {
    /// Sets up the ring and starts its tasks on this executor.
    ///
    /// # Errors
    /// What the kernel says when it refuses a ring.
    pub fn start(options: RingOptions, instruments: Instruments) -> io::Result<Self> {
        let uring = IoUring::builder()
            .dontfork()
            .setup_cqsize(CQ_ENTRIES)
            .build(SQ_ENTRIES)?;
        let support = Support::probe(&uring);
        let sleeper = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC)?;
        let submitter = uring.submitter();
        submitter.register_eventfd(sleeper.as_raw_fd())?;
        let inner = Rc::new(Inner {
            uring: RefCell::new(uring),
            slots: RefCell::default(),
            queued: Cell::new(0),
            in_flight: Cell::new(0),
            workers: Cell::new(0),
            depth: options.depth,
            waiting: RefCell::default(),
            submitter: Signal::default(),
            reaper: Signal::default(),
            sleeper: Arc::new(sleeper),
            support,
            stopped: Cell::new(false),
            instruments,
        });
        inner.follow_depth();
        glommio::spawn_local(submit_loop(inner.clone())).detach();
        glommio::spawn_local(reap_loop(inner.clone())).detach();
        Ok(Self { inner })
    }

    /// Whether the ring itself can run this operation; the others go to the blocking pool.
    #[must_use]
    pub fn can_run(&self, op: &mut Op) -> bool {
        self.inner.support.has(op.kind())
            && match op {
                Op::Close { file } => file.is_only_one(),
                // Several steps, each below the one before.
                Op::OpenDirBelow { .. } => false,
                _ => true,
            }
    }

    /// Starts an operation for which [`Ring::can_run`] holds.
    #[must_use]
    pub fn start_op(&self, op: Op, side: Side) -> RingFuture {
        RingFuture {
            inner: self.inner.clone(),
            side,
            state: FutureState::New(op),
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.inner.stopped.set(true);
        self.inner.submitter.raise();
        self.inner.reaper.raise();
        // Ends a sleep of the reaper. The counter cannot overflow, and nothing else can fail here.
        let _ = self.inner.sleeper.write(1);
    }
}

/// An operation on the ring. Dropping it abandons the outcome, not the operation.
pub struct RingFuture {
    inner: Rc<Inner>,
    side: Side,
    state: FutureState,
}

enum FutureState {
    New(Op),
    One(usize),
    Many {
        batch: Rc<RefCell<Batch>>,
        /// Entries that have no SQE yet.
        rest: Range<usize>,
    },
    Done,
}

impl Future for RingFuture {
    type Output = Outcome;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.get_mut();
        loop {
            match std::mem::replace(&mut this.state, FutureState::Done) {
                FutureState::New(Op::StatMany {
                    dir,
                    listing,
                    range,
                }) => {
                    this.state = FutureState::Many {
                        batch: Rc::new(RefCell::new(Batch {
                            listing,
                            dir,
                            side: this.side,
                            parts_left: 0,
                            waker: None,
                        })),
                        rest: range,
                    };
                }
                FutureState::New(op) => {
                    if !this.inner.has_room(cx) {
                        this.state = FutureState::New(op);
                        return Poll::Pending;
                    }
                    this.state = FutureState::One(this.inner.push_one(op, this.side, cx.waker()));
                    return Poll::Pending;
                }
                FutureState::One(key) => {
                    let outcome = this.inner.take_outcome(key, cx.waker());
                    if outcome.is_none() {
                        this.state = FutureState::One(key);
                    }
                    return outcome.map_or(Poll::Pending, Poll::Ready);
                }
                FutureState::Many { batch, mut rest } => {
                    this.inner.push_parts(&batch, &mut rest, cx);
                    if rest.is_empty() && batch.borrow().parts_left == 0 {
                        let listing = std::mem::take(&mut batch.borrow_mut().listing);
                        let more = false;
                        return Poll::Ready(Ok(Reply::Listed { listing, more }));
                    }
                    batch.borrow_mut().waker = Some(cx.waker().clone());
                    this.state = FutureState::Many { batch, rest };
                    return Poll::Pending;
                }
                FutureState::Done => unreachable!("an operation is not polled after its end"),
            }
        }
    }
}

impl Drop for RingFuture {
    fn drop(&mut self) {
        if let FutureState::One(key) = self.state {
            self.inner.abandon(key);
        }
    }
}

impl Inner {
    fn check(&self) {
        debug_assert!(self.queued.get() <= self.in_flight.get());
        debug_assert!(self.in_flight.get() <= DEPTH_MAX);
    }

    /// Whether one more may be queued; if not, the caller's task is woken when that changes.
    fn has_room(&self, cx: &mut Context<'_>) -> bool {
        self.check();
        let room = self.in_flight.get() < self.depth.get();
        if !room {
            self.instruments.tally().levels.ring_full.add(1);
            self.waiting.borrow_mut().push(cx.waker().clone());
        }
        room
    }

    fn push_one(&self, op: Op, side: Side, waker: &Waker) -> usize {
        let mut one = Box::new(One {
            op,
            statx: MaybeUninit::uninit(),
            waker: Some(waker.clone()),
            outcome: None,
            abandoned: false,
            repeats: 0,
            side,
            since: Instant::now(),
        });
        let sqe = sqe_of(&mut one.op, &mut one.statx);
        let key = self.slots.borrow_mut().insert(Slot::One(one));
        self.push(&sqe.user_data(key as u64));
        key
    }

    /// Queues entries of a batch while there is room, and takes them off `rest`.
    fn push_parts(
        &self,
        batch: &Rc<RefCell<Batch>>,
        rest: &mut Range<usize>,
        cx: &mut Context<'_>,
    ) {
        let since = Instant::now();
        while let Some(entry) = rest.clone().next() {
            let state = batch.borrow().listing.entries[entry].state;
            if state.is_asked() {
                if !self.has_room(cx) {
                    return;
                }
                let mut buffer = Box::new(MaybeUninit::uninit());
                let sqe = {
                    let batch = &mut *batch.borrow_mut();
                    batch.parts_left += 1;
                    let name = batch.listing.name(&batch.listing.entries[entry]);
                    statx_sqe(&batch.dir, name, inline::flags_for(state), &mut buffer)
                };
                let part = Slot::Part {
                    batch: batch.clone(),
                    entry,
                    buffer,
                    repeats: 0,
                    since,
                };
                let key = self.slots.borrow_mut().insert(part);
                self.push(&sqe.user_data(key as u64));
            }
            rest.start += 1;
        }
    }

    #[allow(unsafe_code)]
    fn push(&self, sqe: &squeue::Entry) {
        if self.queued.get() == SQ_ENTRIES {
            self.submit();
        }
        let mut uring = self.uring.borrow_mut();
        // SAFETY: everything that the entry points to is owned by a slot (a boxed `One`, or a `Part` with its boxed
        // buffer and the batch's name arena), and a slot is removed only after its completion was reaped.
        let pushed = unsafe { uring.submission().push(sqe) };
        assert!(
            pushed.is_ok(),
            "the submission queue was emptied when it was full"
        );
        drop(uring);
        self.queued.set(self.queued.get() + 1);
        self.in_flight.set(self.in_flight.get() + 1);
        self.instruments.tally().levels.ops_in_flight.add(1);
        self.check();
        self.submitter.raise();
    }

    /// Hands the queued entries to the kernel. A busy kernel (EAGAIN, EBUSY, EINTR) gets them at the next attempt;
    /// any other refusal would be a broken ring, which nothing can go on without.
    fn submit(&self) {
        while self.queued.get() > 0 {
            let submitted = self.uring.borrow().submit();
            match submitted {
                Ok(count) => {
                    let count = u32::try_from(count).unwrap_or(u32::MAX);
                    self.queued.set(self.queued.get().saturating_sub(count));
                }
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EAGAIN | Errno::EBUSY) => std::thread::yield_now(),
                    Some(Errno::EINTR) => {}
                    _ => unreachable!("the kernel refused to take io_uring submissions: {error}"),
                },
            }
        }
    }

    /// One kernel worker for each operation in flight: the kernel's own limit (4 x cores) starves slow filesystems, and what
    /// no worker has is only waiting. The kernel starts workers as they are needed.
    fn follow_depth(&self) {
        let depth = self.depth.get();
        if depth == self.workers.replace(depth) {
            return;
        }
        let uring = self.uring.borrow();
        // A kernel before 5.15 cannot be told; its own limit then stands, which is slower and not wrong.
        if let Err(error) = uring.submitter().register_iowq_max_workers(&mut [depth, 0]) {
            tracing::debug!(%error, "the kernel keeps its own limit of io_uring workers");
        }
    }

    /// Takes over all completions; returns how many.
    fn reap(&self) -> u32 {
        let mut reaped = 0;
        let mut again = Vec::new();
        let mut now: Option<Instant> = None;
        loop {
            let completion = self.uring.borrow_mut().completion().next();
            let Some(completion) = completion else { break };
            let key = usize::try_from(completion.user_data()).unwrap_or(usize::MAX);
            reaped += 1;
            if self.says_again(key, completion.result()) {
                again.push(key);
            } else {
                let now = *now.get_or_insert_with(Instant::now);
                self.complete(key, completion.result(), now);
            }
        }
        self.in_flight.set(self.in_flight.get() - reaped);
        self.instruments
            .tally()
            .levels
            .ops_in_flight
            .sub(reaped.into());
        // Before others get the room.
        for key in again {
            self.push_again(key);
        }
        self.follow_depth();
        if reaped > 0 {
            // All of them: some may belong to futures that are gone, and a wake given to those would be lost.
            let waiting = self.waiting.take();
            waiting.into_iter().for_each(Waker::wake);
        }
        reaped
    }

    /// Whether an operation is to be repeated; counts that. A close never is: the descriptor is free, whatever it returned.
    fn says_again(&self, key: usize, result: i32) -> bool {
        if result >= 0 || !is_transient(Errno::from_raw(-result)) {
            return false;
        }
        let repeats = match &mut self.slots.borrow_mut()[key] {
            Slot::One(one) if matches!(one.op, Op::Close { .. }) => return false,
            Slot::One(one) => {
                one.repeats += 1;
                one.repeats
            }
            Slot::Part { repeats, .. } => {
                *repeats += 1;
                *repeats
            }
        };
        repeats <= REPEATS_MAX
    }

    fn push_again(&self, key: usize) {
        let sqe = match &mut self.slots.borrow_mut()[key] {
            Slot::One(one) => sqe_of(&mut one.op, &mut one.statx),
            Slot::Part {
                batch,
                entry,
                buffer,
                ..
            } => {
                let batch = batch.borrow();
                let entry = &batch.listing.entries[*entry];
                let flags = inline::flags_for(entry.state);
                statx_sqe(&batch.dir, batch.listing.name(entry), flags, buffer)
            }
        };
        self.push(&sqe.user_data(key as u64));
    }

    /// `now` is when this was noticed.
    fn complete(&self, key: usize, result: i32, now: Instant) {
        let record = |what, since| self.record(what, now.saturating_duration_since(since));
        let mut slots = self.slots.borrow_mut();
        let abandoned = match &mut slots[key] {
            Slot::One(one) => {
                record(Timed::Op(one.op.kind().into(), one.side), one.since);
                one.outcome = Some(outcome_of(&mut one.op, &one.statx, result));
                if let Some(waker) = one.waker.take() {
                    waker.wake();
                }
                one.abandoned
            }
            Slot::Part {
                batch,
                entry,
                buffer,
                since,
                ..
            } => {
                let batch = &mut *batch.borrow_mut();
                record(Timed::Op(OpClass::Stat, batch.side), *since);
                inline::fill(&mut batch.listing, *entry, statx_result(buffer, result));
                batch.parts_left -= 1;
                if batch.parts_left == 0
                    && let Some(waker) = batch.waker.take()
                {
                    waker.wake();
                }
                true
            }
        };
        if abandoned {
            slots.remove(key);
        }
    }

    fn record(&self, what: Timed, latency: Duration) {
        let levels = &self.instruments.tally().levels;
        levels.ring_completed.add(1);
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        levels.ring_latency_ns.add(nanos);
        self.instruments.record(what, latency, 1);
    }

    fn take_outcome(&self, key: usize, waker: &Waker) -> Option<Outcome> {
        let mut slots = self.slots.borrow_mut();
        let Slot::One(one) = &mut slots[key] else {
            unreachable!("parts have no key of their own");
        };
        let outcome = one.outcome.take();
        if outcome.is_some() {
            slots.remove(key);
        } else {
            one.waker = Some(waker.clone());
        }
        outcome
    }

    fn abandon(&self, key: usize) {
        let mut slots = self.slots.borrow_mut();
        let Slot::One(one) = &mut slots[key] else {
            unreachable!("parts have no key of their own");
        };
        if one.outcome.is_some() {
            slots.remove(key);
        } else {
            one.abandoned = true;
            one.waker = None;
        }
    }
}

async fn submit_loop(inner: Rc<Inner>) {
    while !inner.stopped.get() {
        inner.submitter.wait().await;
        // Those who are ready now may queue more; they run first.
        yield_once().await;
        inner.submit();
        inner.reaper.raise();
    }
}

async fn reap_loop(inner: Rc<Inner>) {
    let mut polls = 0;
    loop {
        if inner.in_flight.get() == 0 {
            if inner.stopped.get() {
                return;
            }
            inner.reaper.wait().await;
            continue;
        }
        if inner.queued.get() > 0 {
            // At the end of a run the submitter may be gone.
            inner.submit();
        }
        if inner.reap() > 0 {
            polls = 0;
            yield_once().await;
        } else if polls < POLLS_BEFORE_SLEEP_MAX {
            polls += 1;
            yield_once().await;
        } else {
            let sleeper = inner.sleeper.clone();
            // Counts left from completions that were reaped already only make this return early.
            let read = glommio::executor()
                .spawn_blocking(move || sleeper.read())
                .await;
            debug_assert!(matches!(read, Ok(_) | Err(Errno::EINTR)));
            polls = 0;
        }
    }
}

/// Goes to the end of the executor's queue once.
fn yield_once() -> impl Future<Output = ()> {
    let mut yielded = false;
    poll_fn(move |cx| {
        if yielded {
            return Poll::Ready(());
        }
        yielded = true;
        cx.waker().wake_by_ref();
        Poll::Pending
    })
}
