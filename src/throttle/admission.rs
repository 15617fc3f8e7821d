//! What a directory holds of the coordinator while it is in hand, given back by dropping it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::task::{Context, Poll};

use super::cancel::Cancelled;
use super::coordinator::Coordinator;
use super::waiters::Ticket;

/// What a directory needs to begin.
#[derive(Debug)]
pub struct Admission {
    pub permit: DirPermit,
    pub lease: IndexLease,
}

/// The right to have one directory in work, given back when dropped.
#[derive(Debug)]
pub struct DirPermit(Arc<Coordinator>);

impl DirPermit {
    /// For a count of the coordinator's that was taken already.
    pub(super) fn new(coordinator: Arc<Coordinator>) -> Self {
        Self(coordinator)
    }
}

impl Drop for DirPermit {
    fn drop(&mut self) {
        let before = self.0.dirs_active.fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "a permit came back twice");
        self.0.waiters.wake_one();
    }
}

/// Entries of the index, given back when dropped.
#[derive(Debug)]
pub struct IndexLease {
    coordinator: Arc<Coordinator>,
    pub(super) leased: u64,
}

impl IndexLease {
    /// For a count of the coordinator's that was taken already.
    pub(super) fn empty(coordinator: Arc<Coordinator>) -> Self {
        Self {
            coordinator,
            leased: 0,
        }
    }

    /// The holder has so many entries now. What goes beyond the lease is taken without asking: work in hand must come to its
    /// end.
    pub fn hold(&mut self, entries: usize) {
        let entries = entries as u64;
        if entries <= self.leased {
            return;
        }
        let files = &self.coordinator.files;
        let more = entries - self.leased;
        let before = files.used.fetch_add(more, SeqCst);
        self.leased = entries;
        files.note_peak(before.saturating_add(more));
        files.update();
    }

    /// The holder has all its entries, and so many: what it did not need goes back.
    pub fn trim(&mut self, entries: usize) {
        self.hold(entries);
        let surplus = self.leased - entries as u64;
        self.leased = entries as u64;
        self.coordinator.give_back(surplus);
    }

    /// The same for a whole directory, from which the next ones learn.
    pub fn settle(&mut self, entries: usize) {
        self.coordinator.learn(entries as u64);
        self.trim(entries);
    }

    /// The entries went elsewhere.
    pub fn clear(&mut self) {
        self.coordinator.give_back(std::mem::take(&mut self.leased));
    }
}

impl Drop for IndexLease {
    fn drop(&mut self) {
        self.clear();
        let before = self.coordinator.in_hand.fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "a lease came back twice");
        if before == 1 {
            // Nothing is in hand: one may begin whatever the throttles say.
            self.coordinator.waiters.wake_one();
        }
    }
}

/// See [`Coordinator::admit`].
#[derive(Debug)]
pub struct Admit {
    coordinator: Arc<Coordinator>,
    /// From the moment on when it has to wait.
    cancelled: Option<Cancelled>,
    ticket: Ticket,
}

impl Admit {
    pub(super) fn new(coordinator: Arc<Coordinator>) -> Self {
        Self {
            coordinator,
            cancelled: None,
            ticket: Ticket::default(),
        }
    }
}

impl Future for Admit {
    type Output = Admission;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Admission> {
        let Self {
            coordinator,
            cancelled,
            ticket,
        } = &mut *self;
        if let Some(admission) = coordinator.try_admit() {
            return Poll::Ready(admission);
        }
        coordinator.waiters.join(ticket, cx.waker());
        // Wakes us when the run is cancelled, and then no throttle holds us.
        let cancelled = cancelled.get_or_insert_with(|| coordinator.cancel.cancelled());
        let _ = Pin::new(cancelled).poll(cx);
        // What we wait for may have come before we stood in the queue, and then nobody wakes us.
        match coordinator.try_admit() {
            Some(admission) => Poll::Ready(admission),
            None => Poll::Pending,
        }
    }
}

impl Drop for Admit {
    fn drop(&mut self) {
        if self.coordinator.waiters.leave(&self.ticket) {
            self.coordinator.waiters.wake_one();
        }
    }
}
