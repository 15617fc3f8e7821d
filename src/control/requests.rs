//! How many requests may wait for a server's answers at once: half as many after it has said that they are too many, and
//! since then one more after some rounds of answers (additive increase, multiplicative decrease).

use std::time::Instant;

/// Of the limit, what is left after a cut.
const CUT: f64 = 0.5;
/// Rounds of answers for one request more. A server that answers in milliseconds would else be asked too much again before the
/// next cut can come.
const ROUNDS: f64 = 8.0;
/// So many may always be.
const LEAST: usize = 4;

/// What the controller has come to, for those who watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Requests that may wait for their answers now.
    pub limit: u64,
    /// Answers that said they were too many.
    pub slowed: u64,
}

/// The controller; its limit is in `4..=most`, and `most` at first.
#[derive(Debug)]
pub struct Requests {
    limit: f64,
    most: usize,
    slowed: u64,
    last_cut: Option<Instant>,
}

impl Requests {
    /// `most`: 4 at least.
    #[must_use]
    pub fn new(most: usize) -> Self {
        let most = most.max(LEAST);
        Self {
            limit: as_float(most),
            most,
            slowed: 0,
            last_cut: None,
        }
    }

    /// An answer came, `now`, to what was asked at `begun`; `slowed`: it said that there are too many requests. Requests that were
    /// under way at a cut are refused too, and say nothing new. Returns the limit from now on.
    pub fn on_answer(&mut self, now: Instant, begun: Instant, slowed: bool) -> usize {
        if !slowed {
            self.limit = (self.limit + 1.0 / (ROUNDS * self.limit)).min(as_float(self.most));
            return self.limit();
        }
        self.slowed += 1;
        if self.last_cut.is_none_or(|cut| begun > cut) {
            self.limit = (self.limit * CUT).max(as_float(LEAST));
            self.last_cut = Some(now);
        }
        self.limit()
    }

    #[must_use]
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Between 4 and `most`.
    pub fn limit(&self) -> usize {
        self.limit as usize
    }

    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            limit: self.limit() as u64,
            slowed: self.slowed,
        }
    }
}

#[allow(clippy::cast_precision_loss)] // Thousands at most.
fn as_float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn a_cut_halves_and_rounds_of_answers_make_up_for_it() {
        let start = Instant::now();
        let mut requests = Requests::new(128);
        let later = start + Duration::from_secs(5);
        assert_eq!(requests.on_answer(start, start, false), 128);
        assert_eq!(requests.on_answer(start, start, true), 64);
        // Those that were under way.
        for _ in 0..60 {
            assert_eq!(requests.on_answer(later, start, true), 64);
        }
        assert_eq!(requests.on_answer(later, later, true), 32);
        let mut answers = 0;
        while requests.on_answer(later, later, false) < 64 {
            answers += 1;
        }
        assert!((8000..16_000).contains(&answers), "{answers}");
        assert_eq!(requests.figures().slowed, 62);
    }

    proptest! {
        #[test]
        fn the_limit_stays_between_its_bounds(
            most in 0_usize..5000,
            answers in proptest::collection::vec((0_u64..3000, proptest::bool::weighted(0.3)), 0..400),
        ) {
            let mut requests = Requests::new(most);
            let mut now = Instant::now();
            for (pause, slowed) in answers {
                now += Duration::from_millis(pause);
                let limit = requests.on_answer(now, now, slowed);
                prop_assert!((LEAST..=most.max(LEAST)).contains(&limit));
            }
        }
    }

    /// A server that refuses what is above its capacity is used well, and refuses seldom.
    #[test]
    fn it_settles_around_what_a_server_takes() {
        const CAPACITY: usize = 40;
        const ROUND: Duration = Duration::from_millis(20);
        let mut requests = Requests::new(512);
        let (mut now, mut done, mut refused) = (Instant::now(), 0_u64, 0_u64);
        for round in 0..5000 {
            now += ROUND;
            let at_once = requests.limit();
            for request in 0..at_once {
                let slowed = request >= CAPACITY;
                requests.on_answer(now, now, slowed);
                // What it does before it has found its level does not count.
                if round >= 500 {
                    done += u64::from(!slowed);
                    refused += u64::from(slowed);
                }
            }
        }
        assert!(done > 4500 * 25, "of {} possible: {done}", 4500 * CAPACITY);
        assert!(refused * 50 < done, "{refused} refused, {done} done");
    }
}
