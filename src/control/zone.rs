//! How much of a resource is used, in the zones of the seed's resource utilisation curve, and what that says of a limit.

/// The seed's zones, in percent of use, and factors, in percent of the limit.
const OPTIMAL_PERCENT: u8 = 40;
const SATURATED_PERCENT: u8 = 80;
const OVER_PERCENT: u8 = 100;
const GROW_PERCENT: u64 = 130;
const SHRINK_PERCENT: u64 = 90;
const SHRINK_FAST_PERCENT: u64 = 80;
const _: () = assert!(
    OPTIMAL_PERCENT as u64 * GROW_PERCENT < SATURATED_PERCENT as u64 * 100,
    "what has grown must not have to shrink again"
);

/// How much of a resource is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Zone {
    Underutilised,
    Optimal,
    Saturated,
    OverSaturated,
}

impl Zone {
    /// For log lines.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Underutilised => "UNDERUTILIZED",
            Self::Optimal => "OPTIMAL",
            Self::Saturated => "SATURATED",
            Self::OverSaturated => "OVER-SATURATED",
        }
    }

    /// `used` and `limit` in bytes.
    #[must_use]
    pub fn of_memory(used: u64, limit: u64) -> Self {
        let used = u128::from(used) * 100;
        let reaches = |percent: u8| used >= u128::from(limit.max(1)) * u128::from(percent);
        if used > u128::from(limit.max(1)) * u128::from(OVER_PERCENT) {
            Self::OverSaturated
        } else if reaches(SATURATED_PERCENT) {
            Self::Saturated
        } else if reaches(OPTIMAL_PERCENT) {
            Self::Optimal
        } else {
            Self::Underutilised
        }
    }

    /// `share` of the cores. There are no more cores than all, so the CPU is never over-saturated: a share above 1 is that of threads besides the shards.
    #[must_use]
    pub fn of_cpu(share: f64) -> Self {
        if share * 100.0 >= f64::from(SATURATED_PERCENT) {
            Self::Saturated
        } else if share * 100.0 < f64::from(OPTIMAL_PERCENT) {
            Self::Underutilised
        } else {
            Self::Optimal
        }
    }

    /// `limit` times the factor of the zone, rounded so that it moves whatever its size.
    #[must_use]
    pub fn scale(self, limit: u64) -> u64 {
        let scaled = |percent: u64| u128::from(limit) * u128::from(percent);
        let scaled = match self {
            Self::Underutilised => scaled(GROW_PERCENT).div_ceil(100),
            Self::Optimal => u128::from(limit),
            Self::Saturated => scaled(SHRINK_PERCENT) / 100,
            Self::OverSaturated => scaled(SHRINK_FAST_PERCENT) / 100,
        };
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_begin_where_the_seed_says() {
        for (percent, zone) in [
            (0, Zone::Underutilised),
            (39, Zone::Underutilised),
            (40, Zone::Optimal),
            (79, Zone::Optimal),
            (80, Zone::Saturated),
            (100, Zone::Saturated),
            (101, Zone::OverSaturated),
        ] {
            assert_eq!(Zone::of_memory(percent << 30, 100 << 30), zone);
            let of_cpu = Zone::of_cpu(f64::from(u32::try_from(percent).unwrap()) / 100.0);
            assert_eq!(of_cpu, zone.min(Zone::Saturated), "{percent} % CPU");
        }
        assert_eq!(Zone::of_memory(u64::MAX, 0), Zone::OverSaturated);
        assert_eq!(Zone::of_memory(u64::MAX, u64::MAX), Zone::Saturated);
    }

    #[test]
    fn a_share_that_is_no_number_is_no_reason_to_move() {
        assert_eq!(Zone::of_cpu(f64::NAN), Zone::Optimal);
    }

    #[test]
    fn every_limit_moves_by_its_factor() {
        for limit in (1..1000).chain([u64::MAX]) {
            assert!(Zone::Underutilised.scale(limit) > limit || limit == u64::MAX);
            assert_eq!(Zone::Optimal.scale(limit), limit);
            assert!(Zone::Saturated.scale(limit) < limit);
            assert!(Zone::OverSaturated.scale(limit) <= Zone::Saturated.scale(limit));
        }
    }
}
