//! How far a search steps, and what it takes to keep a step.

use crate::control::bounds::Bounds;

/// A larger depth is kept if the elasticity is at least this. A lower bar would raise the latency of all for little: at
/// this one, twice the depth brings 15 % more.
const GAIN: f64 = 0.2;
/// A smaller depth is kept if the elasticity is at most this: half the depth costs 8 % at worst. Between the two is
/// the dead band.
pub(super) const LOSS: f64 = 0.12;
const _: () = assert!(LOSS < GAIN, "a step must not be taken and taken back");
/// From here on the server has so much room, or at its negative is collapsing so much, that small steps are too slow.
pub(super) const GAIN_FAST: f64 = 0.5;
/// A step changes the depth by at least one part in so many. The elasticity of a shorter one would be noise.
const STEP_PARTS: u64 = 5;
/// Ticks that a measurement takes, when searching fast and carefully. With noise of 30 % a tick they tell apart
/// the elasticities 1 and 0 nearly always.
const TICKS_FAST: u32 = 4;
const TICKS_CAREFUL: u32 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Fast,
    Careful,
}

impl Pace {
    /// That a measurement takes.
    pub(super) fn ticks(self) -> u32 {
        match self {
            Self::Fast => TICKS_FAST,
            Self::Careful => TICKS_CAREFUL,
        }
    }

    /// The elasticity at which a step is kept: at least this much upwards, at most this much downwards.
    pub(super) fn elasticity(self, way: Way) -> f64 {
        match (way, self) {
            (Way::Up, Self::Fast) => GAIN_FAST,
            (Way::Up, Self::Careful) => GAIN,
            (Way::Down, _) => LOSS,
        }
    }

    /// The depth one step on: half or twice, or by half or a third. The same depth where the bounds leave no room for a step.
    pub(super) fn step(self, way: Way, depth: u64, bounds: &Bounds) -> u64 {
        let to = bounds.clamp(match (way, self) {
            (Way::Up, Self::Fast) => depth.saturating_mul(2),
            (Way::Up, Self::Careful) => depth.saturating_add(depth.div_ceil(2)),
            (Way::Down, Self::Fast) => depth / 2,
            (Way::Down, Self::Careful) => depth - depth.div_ceil(3),
        });
        let is_short = to.abs_diff(depth) < depth.min(to).div_ceil(STEP_PARTS);
        if is_short { depth } else { to }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_move_the_smallest_depths_and_stay_in_the_bounds() {
        let bounds = Bounds::new(1, 1, 1024);
        for (pace, way, from, to) in [
            (Pace::Careful, Way::Up, 1, 2),
            (Pace::Careful, Way::Up, 2, 3),
            (Pace::Careful, Way::Down, 2, 1),
            (Pace::Careful, Way::Down, 3, 2),
            (Pace::Careful, Way::Down, 1, 1),
            (Pace::Fast, Way::Down, 1, 1),
            (Pace::Fast, Way::Up, 1, 2),
            (Pace::Fast, Way::Up, 600, 1024),
            (Pace::Fast, Way::Up, 1000, 1000),
            (Pace::Fast, Way::Up, 1024, 1024),
        ] {
            assert_eq!(
                pace.step(way, from, &bounds),
                to,
                "{pace:?} {way:?} from {from}"
            );
        }
    }
}
