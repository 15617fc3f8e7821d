//! Ends a run whose server has gone: without an answer each entry of millions would fail by itself, after a wait of its own.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Instant;

use nix::errno::Errno;

use super::Shard;
use crate::control::outage::Outage;
use crate::error::{Cause, Error, Side};
use crate::model::tally::Totals;
use crate::throttle::Reason;

/// What all shards know of the servers behind the two sides.
#[derive(Debug, Default)]
pub(super) struct Outages {
    /// Whether the sides are somebody else's, source first: an I/O error of a disk of ours says nothing of its other files.
    pub(super) served: OnceLock<[bool; 2]>,
    /// Source first. Locked for failures only.
    sides: [Mutex<Outage>; 2],
}

/// A soft mount tells EIO or ETIMEDOUT, a FUSE filesystem whose process is gone ENOTCONN.
fn is_unanswered(cause: &Cause) -> bool {
    let unanswered = [
        Errno::EIO,
        Errno::ETIMEDOUT,
        Errno::ENOTCONN,
        Errno::EHOSTDOWN,
        Errno::EHOSTUNREACH,
    ];
    unanswered
        .into_iter()
        .any(|errno| *cause == Cause::Errno(errno))
}

/// What can only be completed while a side answers.
fn completed(totals: &Totals, side: Side) -> u64 {
    match side {
        Side::Source => totals.dirs_listed + totals.files_copied,
        Side::Destination => {
            let made = totals.files_copied + totals.dirs_made + totals.links_made;
            let others = totals.symlinks_made + totals.specials_made + totals.entries_deleted;
            made + others + totals.entries_repaired + totals.entries_equal
        }
    }
}

impl Shard {
    /// Looks whether an error is one of many that nobody answers; then the run ends.
    pub(super) fn watch_for_outage(&self, error: &Error) {
        let outages = &self.shared.outages;
        let side = usize::from(error.side == Side::Destination);
        let is_served = outages.served.get().is_some_and(|served| served[side]);
        if !is_served || !is_unanswered(&error.cause) {
            return;
        }
        let totals = Totals::sum(self.shared.tallies.iter().map(|tally| &**tally));
        let mut outage = outages.sides[side]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if outage.on_failure(Instant::now(), completed(&totals, error.side)) {
            self.shared.cancel.set(Reason::NoAnswer);
        }
    }
}
