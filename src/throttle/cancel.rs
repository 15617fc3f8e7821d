//! The one switch that ends a run early.

use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

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
}

/// Asked before every step of work; once set it stays, and the first reason counts.
#[derive(Debug, Default)]
pub struct Cancel(AtomicU8);

impl Cancel {
    pub fn set(&self, reason: Reason) {
        // Whoever comes second has nothing to add.
        let _ = self.0.compare_exchange(0, reason as u8, SeqCst, SeqCst);
    }

    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(SeqCst) != 0
    }

    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        match self.0.load(SeqCst) {
            1 => Some(Reason::Interrupted),
            2 => Some(Reason::Fatal),
            3 => Some(Reason::Panicked),
            4 => Some(Reason::StopTime),
            5 => Some(Reason::TimedOut),
            _ => None,
        }
    }
}
