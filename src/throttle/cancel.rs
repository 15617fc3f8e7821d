//! The one switch that ends a run early.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering::SeqCst};
use std::task::{Context, Poll};

use super::waiters::{Ticket, Waiters};

/// Why a run ends before its work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// A signal asked for it.
    Interrupted = 1,
    /// The destination cannot take any more (full, read-only).
    Fatal = 2,
    /// A shard panicked; its peers must not wait for it.
    Panicked = 3,
    /// The time that the run was given is over (`--stop-after`).
    StopTime = 4,
    /// Nothing was completed for too long (`--timeout`).
    TimedOut = 5,
    /// A server does not take our credentials any more.
    Refused = 6,
    /// A server has gone: for a while all calls failed for want of an answer.
    NoAnswer = 7,
}

/// Asked before every step of work; once set it stays, and the first reason counts.
#[derive(Debug, Default)]
pub struct Cancel {
    reason: AtomicU8,
    waiters: Waiters,
}

impl Cancel {
    /// Ends the run, and wakes all who wait for permits or for their share of a rate.
    pub fn set(&self, reason: Reason) {
        // Whoever comes second has nothing to add.
        let _ = self
            .reason
            .compare_exchange(0, reason as u8, SeqCst, SeqCst);
        self.waiters.wake_all();
    }

    #[must_use]
    pub fn is_set(&self) -> bool {
        self.reason.load(SeqCst) != 0
    }

    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self.reason.load(SeqCst) {
            1 => Some(Reason::Interrupted),
            2 => Some(Reason::Fatal),
            3 => Some(Reason::Panicked),
            4 => Some(Reason::StopTime),
            5 => Some(Reason::TimedOut),
            6 => Some(Reason::Refused),
            7 => Some(Reason::NoAnswer),
            _ => None,
        }
    }

    /// Waits until the run is told to end.
    #[must_use]
    pub fn cancelled(self: &Arc<Self>) -> Cancelled {
        Cancelled {
            cancel: self.clone(),
            ticket: Ticket::default(),
        }
    }
}

/// See [`Cancel::cancelled`].
#[derive(Debug)]
pub struct Cancelled {
    cancel: Arc<Cancel>,
    ticket: Ticket,
}

impl Future for Cancelled {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.cancel.is_set() {
            return Poll::Ready(());
        }
        let Self { cancel, ticket } = &mut *self;
        cancel.waiters.join(ticket, cx.waker());
        // It may have been set before we stood in the queue.
        if cancel.is_set() {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.cancel.waiters.leave(&self.ticket);
    }
}
