//! What the clock of a server shows: it gives the times of objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use aws_sdk_s3::primitives::DateTime;

use crate::model::Time;

/// Nothing was heard of the server yet.
const SILENT: i64 = i64::MIN;

/// So much it is ahead of ours at least, in nanoseconds, and less than nothing when it may be behind.
#[derive(Clone, Debug)]
pub(super) struct Clock(Arc<AtomicI64>);

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(AtomicI64::new(SILENT)))
    }
}

impl Clock {
    /// What it showed at the moment `at` of ours, at least.
    pub(super) fn at(&self, at: Time) -> Option<Time> {
        let ahead = Some(self.0.load(Relaxed)).filter(|ahead| *ahead != SILENT)?;
        Some(Time::from_nanos(at.as_nanos().saturating_add(ahead)))
    }

    /// The server dated an answer, in whole seconds, that came at the moment `now` of ours.
    pub(super) fn hear(&self, date: DateTime, now: Time) {
        let date = Time {
            sec: date.secs(),
            nsec: 0,
        };
        let ahead = date.as_nanos().saturating_sub(now.as_nanos());
        self.0.fetch_max(ahead, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_known_from_the_dates_of_answers_and_never_too_late() {
        let clock = Clock::default();
        let time = |sec, nsec| Time { sec, nsec };
        assert_eq!(clock.at(time(100, 0)), None);
        // It showed between 90 and 91 s when ours showed 100.75 s.
        clock.hear(DateTime::from_secs(90), time(100, 750_000_000));
        assert_eq!(clock.at(time(200, 0)), Some(time(189, 250_000_000)));
        clock.hear(DateTime::from_secs(95), time(105, 50_000_000));
        assert_eq!(clock.at(time(200, 0)), Some(time(189, 950_000_000)));
        clock.hear(DateTime::from_secs(1), time(107, 0));
        assert_eq!(clock.at(time(200, 0)), Some(time(189, 950_000_000)));
    }
}
