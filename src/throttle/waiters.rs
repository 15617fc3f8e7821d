//! Those who wait until something changes, in the order in which they came.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

/// A queue of wakers. Whoever changes what they wait for wakes them afterwards; whoever waits looks once more after having
/// joined. So one of the two sees the other, and no wake is lost.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    queue: Mutex<VecDeque<(usize, Waker)>>,
    /// How many are in the queue; lets a wake skip the lock.
    count: AtomicUsize,
    next_id: AtomicUsize,
}

/// A place in a queue, once it was joined: who need not wait touches nothing that others share.
#[derive(Debug, Default)]
pub(super) struct Ticket(Option<usize>);

impl Waiters {
    pub(super) fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(usize, Waker)>> {
        // The queue is consistent at every step, so a panic elsewhere does not spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the queue, or stays where it is with a new waker.
    pub(super) fn join(&self, ticket: &mut Ticket, waker: &Waker) {
        let next = || self.next_id.fetch_add(1, SeqCst);
        let id = *ticket.0.get_or_insert_with(next);
        let mut queue = self.lock();
        if let Some(known) = queue.iter_mut().find(|(known, _)| *known == id) {
            known.1.clone_from(waker);
        } else {
            queue.push_back((id, waker.clone()));
            self.count.store(queue.len(), SeqCst);
        }
    }

    /// Gives up a place. Whether there was one: a wake may have been meant for it, and is to be passed on.
    pub(super) fn leave(&self, ticket: &Ticket) -> bool {
        let Some(id) = ticket.0 else { return false };
        let mut queue = self.lock();
        queue.retain(|(known, _)| *known != id);
        self.count.store(queue.len(), SeqCst);
        true
    }

    pub(super) fn wake_one(&self) {
        if self.count() == 0 {
            return;
        }
        let woken = {
            let mut queue = self.lock();
            let woken = queue.pop_front();
            self.count.store(queue.len(), SeqCst);
            woken
        };
        if let Some((_, waker)) = woken {
            waker.wake();
        }
    }

    pub(super) fn wake_all(&self) {
        if self.count() == 0 {
            return;
        }
        let woken = {
            let mut queue = self.lock();
            self.count.store(0, SeqCst);
            std::mem::take(&mut *queue)
        };
        for (_, waker) in woken {
            waker.wake();
        }
    }
}
