//! How a run finds its crawl parallelism. A disk that is near needs few directories in work at once, a server far away many times
//! more, and the pace of the [tuner](super::tuner) is that of a load which changes: a third more every two minutes. So at first
//! the limit doubles from sample to sample, while it binds on an idle machine, for as long as that brings more. The first doubling
//! that does not is taken back, and the tuner goes on from there.

use super::bounds::Bounds;

/// A doubling is kept when it makes the run faster by this factor. As for the in-flight depth: less is not worth that all else
/// takes longer.
const GAIN: f64 = 1.15;
/// Of so many samples at one limit the best counts: the first may have begun before the limit was reached, and loads vary.
const SAMPLES: u32 = 2;

/// What was seen since the sample before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct StartSample {
    /// Operations that were completed, in a second. None at all is a stall, and says nothing.
    pub(super) speed: f64,
    /// Directories waited because as many as may be were in work.
    pub(super) is_binding: bool,
    /// CPU and memory are underutilised.
    pub(super) is_idle: bool,
}

/// The search of one run. It is over for good when it has found a limit.
#[derive(Clone, Debug)]
pub(super) struct SlowStart {
    limit: u64,
    ceiling: u64,
    /// Measured at half the limit; `None` where that was not tried.
    half: Option<f64>,
    /// Measured at the limit, and how often.
    best: f64,
    samples: u32,
    is_over: bool,
}

impl SlowStart {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            limit: bounds.start,
            ceiling: bounds.ceiling,
            half: None,
            best: 0.0,
            samples: 0,
            is_over: false,
        }
    }

    fn measure_anew(&mut self) {
        (self.best, self.samples) = (0.0, 0);
    }

    /// The limit to go to, if another one, after a sample at `limit`. Somebody else who moved the limit ends the search.
    pub(super) fn on_sample(&mut self, limit: u64, sample: &StartSample) -> Option<u64> {
        self.is_over |= limit != self.limit;
        let is_stall = sample.speed <= 0.0 || !sample.speed.is_finite();
        if self.is_over || is_stall {
            return None;
        }
        if !sample.is_binding {
            // What does not bind does no harm, and its speed says nothing.
            self.measure_anew();
            return None;
        }
        self.best = self.best.max(sample.speed);
        self.samples += 1;
        match self.half {
            Some(half) if self.best >= half * GAIN => self.double(sample.is_idle),
            Some(_) if self.samples == SAMPLES => Some(self.take_back()),
            None if self.samples == SAMPLES => self.double(sample.is_idle),
            _ => None,
        }
    }

    fn double(&mut self, is_idle: bool) -> Option<u64> {
        // Less than twice as many would not be judged fairly.
        let to = self.limit.saturating_mul(2);
        if !is_idle || to > self.ceiling {
            self.is_over = true;
            return None;
        }
        self.limit = to;
        self.half = Some(self.best);
        self.measure_anew();
        Some(to)
    }

    fn take_back(&mut self) -> u64 {
        self.is_over = true;
        self.limit / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(speed: f64) -> StartSample {
        StartSample {
            speed,
            is_binding: true,
            is_idle: true,
        }
    }

    /// Where the search ends, and after how many samples it moved last, when so much is done in a second at each limit.
    fn found(bounds: Bounds, speed: impl Fn(u64) -> f64) -> (u64, u32) {
        let mut start = SlowStart::new(bounds);
        let (mut limit, mut moved_at) = (bounds.start, 0);
        for second in 1..100 {
            if let Some(to) = start.on_sample(limit, &sample(speed(limit))) {
                (limit, moved_at) = (to, second);
            }
        }
        assert!(start.is_over);
        (limit, moved_at)
    }

    #[allow(clippy::cast_precision_loss)]
    fn server(room: u64) -> impl Fn(u64) -> f64 {
        move |limit| limit.min(room) as f64 * 50.0
    }

    #[test]
    fn a_server_far_away_gets_as_many_as_it_can_use_within_seconds() {
        let bounds = Bounds::new(1, 8, 128);
        assert_eq!(found(bounds, server(1000)), (128, 5));
        assert_eq!(found(bounds, server(32)), (32, 6));
        assert_eq!(found(bounds, server(40)), (64, 7));
        assert_eq!(found(bounds, server(8)), (8, 4));
        assert_eq!(found(Bounds::new(1, 8, 8), server(1000)), (8, 0));
        assert_eq!(found(Bounds::new(1, 8, 40), server(1000)), (32, 3));
    }

    #[test]
    fn a_machine_in_use_a_limit_that_does_not_bind_and_another_hand_are_left_alone() {
        let bounds = Bounds::new(1, 8, 128);
        let busy = StartSample {
            is_idle: false,
            ..sample(100.0)
        };
        let free = StartSample {
            is_binding: false,
            ..sample(100.0)
        };
        let mut start = SlowStart::new(bounds);
        for _ in 0..100 {
            assert_eq!(start.on_sample(8, &free), None);
        }
        for _ in 0..100 {
            assert_eq!(start.on_sample(8, &sample(0.0)), None);
        }
        let mut moved = start.clone();
        assert_eq!(moved.on_sample(9, &sample(100.0)), None);
        assert!(moved.is_over);
        assert!(!start.is_over);
        assert_eq!(start.on_sample(8, &busy), None);
        assert_eq!(start.on_sample(8, &busy), None);
        assert!(start.is_over);
    }

    #[test]
    fn what_binds_now_and_then_is_compared_with_what_it_was_all_the_same() {
        let mut start = SlowStart::new(Bounds::new(1, 8, 128));
        let mut limit = 8;
        for second in 0..100 {
            let sample = StartSample {
                is_binding: second % 3 < 2,
                ..sample(100.0)
            };
            limit = start.on_sample(limit, &sample).unwrap_or(limit);
            assert!(limit <= 16);
        }
        assert_eq!(limit, 8);
    }

    #[test]
    fn a_slow_first_second_after_a_doubling_decides_nothing() {
        let mut start = SlowStart::new(Bounds::new(1, 8, 128));
        let moves = [(8, 90.0), (8, 100.0), (16, 70.0), (16, 190.0)]
            .map(|(limit, speed)| start.on_sample(limit, &sample(speed)));
        assert_eq!(moves, [None, Some(16), None, Some(32)]);
    }

    proptest! {
        /// Whatever the samples: it stays within the bounds, and goes back no further than to where it came from.
        #[test]
        fn any_samples(
            mut ends in prop::array::uniform2(1_u64..1000),
            samples in prop::collection::vec((prop::num::f64::ANY, any::<bool>(), any::<bool>()), 0..50),
        ) {
            ends.sort_unstable();
            let bounds = Bounds::new(1, ends[0], ends[1]);
            let mut start = SlowStart::new(bounds);
            let (mut limit, mut back) = (bounds.start, 0);
            for (speed, is_binding, is_idle) in samples {
                if let Some(to) = start.on_sample(limit, &StartSample { speed, is_binding, is_idle }) {
                    prop_assert!((bounds.start..=bounds.ceiling).contains(&to));
                    prop_assert!(to == limit * 2 && is_binding && is_idle || to * 2 == limit);
                    back += u32::from(to < limit);
                    limit = to;
                }
            }
            prop_assert!(back <= 1);
        }
    }
}
