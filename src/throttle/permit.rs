//! Permits. Dropping one is the only way to give it back, so an error path cannot leak it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll};

use super::waiters::{Ticket, Waiters};

/// Caps how many pieces of work of one kind are in hand at once: directories in transfer, files of a lane.
///
/// The cap is hard because each holds memory and descriptors. No deadlock: a holder never waits for another permit of the
/// same semaphore, only for its own I/O, so some permit always comes back.
/// The free path is one compare-and-swap; the lock is taken only by those who have to wait and to wake them.
#[derive(Debug)]
pub struct Semaphore {
    permits_max: usize,
    available: AtomicUsize,
    waiters: Waiters,
}

impl Semaphore {
    /// # Panics
    /// If `permits_max` is 0: nobody could ever proceed.
    #[must_use]
    pub fn new(permits_max: usize) -> Arc<Self> {
        assert!(permits_max > 0, "a semaphore needs at least one permit");
        Arc::new(Self {
            permits_max,
            available: AtomicUsize::new(permits_max),
            waiters: Waiters::default(),
        })
    }

    /// A permit, if one is free now.
    #[must_use]
    pub fn try_acquire(self: &Arc<Self>) -> Option<Permit> {
        self.available
            .fetch_update(SeqCst, SeqCst, |free| free.checked_sub(1))
            .ok()
            .map(|_| Permit {
                semaphore: self.clone(),
            })
    }

    /// Waits for a permit. Dropping the future gives up its place, and passes on a wake that it may have had.
    #[must_use]
    pub fn acquire(self: &Arc<Self>) -> Acquire {
        Acquire {
            semaphore: self.clone(),
            ticket: Ticket::default(),
        }
    }
}

/// The right to have one of them in hand.
#[derive(Debug)]
pub struct Permit {
    semaphore: Arc<Semaphore>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let before = self.semaphore.available.fetch_add(1, SeqCst);
        debug_assert!(before < self.semaphore.permits_max);
        self.semaphore.waiters.wake_one();
    }
}

/// See [`Semaphore::acquire`].
#[derive(Debug)]
pub struct Acquire {
    semaphore: Arc<Semaphore>,
    ticket: Ticket,
}

impl Future for Acquire {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Permit> {
        let Self { semaphore, ticket } = &mut *self;
        if let Some(permit) = semaphore.try_acquire() {
            return Poll::Ready(permit);
        }
        semaphore.waiters.join(ticket, cx.waker());
        // One may have come back before we stood in the queue, and then nobody wakes us.
        match semaphore.try_acquire() {
            Some(permit) => Poll::Ready(permit),
            None => Poll::Pending,
        }
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let had_place = self.semaphore.waiters.leave(&self.ticket);
        if had_place && self.semaphore.available.load(SeqCst) > 0 {
            self.semaphore.waiters.wake_one();
        }
    }
}

/// A countable resource that is taken when it is there and done without when it is not: file descriptors kept open to
/// save a path walk, or deletions still allowed.
#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
}

impl Budget {
    #[must_use]
    pub fn new(count: usize) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicUsize::new(count),
        })
    }

    /// Takes one for good. `false` when none is left; exact across threads.
    #[must_use]
    pub fn spend(&self) -> bool {
        self.left
            .fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1))
            .is_ok()
    }

    /// Takes one until the lease is dropped.
    #[must_use]
    pub fn lease(self: &Arc<Self>) -> Option<Lease> {
        self.spend().then(|| Lease(self.clone()))
    }
}

/// One unit of a [`Budget`], given back when dropped.
#[derive(Debug)]
pub struct Lease(Arc<Budget>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.left.fetch_add(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::future::select_all;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicUsize;
    use std::task::Waker;

    /// A waker that counts.
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn poll(future: &mut Acquire, count: &Arc<Count>) -> Poll<Permit> {
        let waker = Waker::from(count.clone());
        Pin::new(future).poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn a_dropped_waiter_passes_its_wake_on() {
        let semaphore = Semaphore::new(1);
        let held = semaphore.try_acquire().unwrap();
        let (first, second) = (Arc::new(Count(0.into())), Arc::new(Count(0.into())));
        let mut one = semaphore.acquire();
        let mut two = semaphore.acquire();
        assert!(poll(&mut one, &first).is_pending());
        assert!(poll(&mut two, &second).is_pending());
        drop(held);
        assert_eq!((first.0.load(SeqCst), second.0.load(SeqCst)), (1, 0));
        drop(one);
        assert_eq!(second.0.load(SeqCst), 1);
        assert!(poll(&mut two, &second).is_ready());
    }

    #[test]
    fn threads_never_hold_more_than_the_limit_and_all_finish() {
        let semaphore = Semaphore::new(3);
        let (holding, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..500 {
                        let permit = block_on(semaphore.acquire());
                        let now = holding.fetch_add(1, SeqCst) + 1;
                        most.fetch_max(now, SeqCst);
                        std::thread::yield_now();
                        holding.fetch_sub(1, SeqCst);
                        drop(permit);
                    }
                });
            }
        });
        assert!(most.load(SeqCst) <= 3);
        assert_eq!(semaphore.available.load(SeqCst), 3);
    }

    /// Parks the thread until the future is ready.
    fn block_on<F: Future + Unpin>(future: F) -> F::Output {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut all = select_all([future]);
        loop {
            match Pin::new(&mut all).poll(&mut Context::from_waker(&waker)) {
                Poll::Ready((output, ..)) => return output,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    proptest! {
        /// Any order of asking, releasing and giving up: the count is exact, and whenever a permit is free, nobody who
        /// was not woken is waiting for it.
        #[test]
        fn counts_are_exact(limit in 1_usize..5, steps in prop::collection::vec((0_u8..3, 0_usize..8), 1..200)) {
            let semaphore = Semaphore::new(limit);
            let mut held: Vec<Permit> = Vec::new();
            let mut waiting: Vec<(Acquire, Arc<Count>)> = Vec::new();
            for (step, at) in steps {
                match step {
                    0 => {
                        let count = Arc::new(Count(0.into()));
                        let mut acquire = semaphore.acquire();
                        match poll(&mut acquire, &count) {
                            Poll::Ready(permit) => held.push(permit),
                            Poll::Pending => waiting.push((acquire, count)),
                        }
                    }
                    1 if !held.is_empty() => drop(held.remove(at % held.len())),
                    2 if !waiting.is_empty() => drop(waiting.remove(at % waiting.len())),
                    _ => {}
                }
                // Those who were woken try again, as an executor would let them.
                let mut at = 0;
                while at < waiting.len() {
                    let woken = waiting[at].1.0.swap(0, SeqCst) > 0;
                    let (acquire, count) = &mut waiting[at];
                    if woken && let Poll::Ready(permit) = poll(acquire, count) {
                        held.push(permit);
                        waiting.remove(at);
                        at = 0;
                    } else {
                        at += 1;
                    }
                }
                prop_assert_eq!(held.len() + semaphore.available.load(SeqCst), limit);
                prop_assert!(waiting.is_empty() || held.len() == limit, "a permit is free and somebody sleeps");
            }
        }
    }

    #[test]
    fn a_budget_is_exact_across_threads() {
        let budget = Budget::new(1000);
        let spent = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while budget.spend() {
                        spent.fetch_add(1, SeqCst);
                    }
                });
            }
        });
        assert_eq!(spent.load(SeqCst), 1000);
        assert!(budget.lease().is_none());
    }
}
