//! The slow loop, the seed's stats monitor: moves the crawl parallelism (directories in work at once) and the limit of active
//! files (entries in the index) by how memory and CPU are used.
//!
//! ```text
//!   use        0 ............ 40 ............. 80 ............ 100 % ............
//!   zone        underutilised      optimal         saturated     over-saturated
//!   factor          1.3              1.0              0.9             0.8
//! ```
//!
//! At first the crawl parallelism is looked for ([`SlowStart`]). Then a limit moves when enough samples in a row agree on the way,
//! by the mildest of what they ask for; then nothing moves, and nothing is counted, for the cooldown.
//!
//! * Memory can take a limit down to its floor. A busy CPU is what a run on a warm tree wants: it only takes back what was
//!   grown past the start, and never keeps a limit below it.
//! * A limit grows only when it binds, for else there would be nothing to see of it, and only while memory is underutilised.
//!   To grow by 1.3 can never lead from below 40 % to 80 %, so a steady load does not move a limit to and fro.
//! * A sample without progress is a stall (a server that hangs): its use says nothing, so counting begins anew.

use std::time::Duration;

use super::bounds::Bounds;
use super::start::{SlowStart, StartSample};
use super::zone::Zone;

/// How readily the tuner acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunerOptions {
    /// Samples in a row that must agree before a limit moves: at least 1, and 0 is taken for 1.
    pub consistency_threshold: u32,
    /// The least time between two moves. To be longer than memory takes to follow a limit.
    pub adjustment_cooldown: Duration,
}

/// How the machine was used since the sample before.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TunerSample {
    /// CPU time that the process used, as a share of the cores it may use: 0 to 1, and a little above.
    pub cpu_share: f64,
    /// Bytes.
    pub memory_used: u64,
    pub memory_limit: u64,
    /// Shards waited for a directory permit because the crawl parallelism was used up.
    pub permits_waiting: bool,
    /// The files throttle was engaged.
    pub files_engaged: bool,
    /// Things that were completed, of any kind that shows that the run moves. 0 is a stall.
    pub progress: u64,
    /// Operations that were completed in a second, of whatever kind; 0 where that is not known.
    pub speed: f64,
}

/// Where the limits are: absolute, within their bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Directories in work at once.
    pub dirs: u64,
    /// Entries in the index.
    pub files: u64,
}

/// One move of one limit, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjustment {
    /// What was moved, in words.
    pub limit: &'static str,
    /// The zone of the resource that was the reason, in capitals; or that it brought nothing to go further.
    pub reason: &'static str,
    pub from: u64,
    pub to: u64,
}

/// Samples in a row that ask for a move the same way.
#[derive(Clone, Copy, Debug)]
struct Streak {
    count: u32,
    /// The mildest move that one of them asks for, and why.
    to: u64,
    zone: Zone,
}

#[derive(Debug)]
struct Limit {
    name: &'static str,
    bounds: Bounds,
    value: u64,
    streak: Option<Streak>,
}

impl Limit {
    fn new(name: &'static str, bounds: Bounds) -> Self {
        Self {
            name,
            bounds,
            value: bounds.start,
            streak: None,
        }
    }

    fn check(&self) {
        debug_assert_eq!(self.bounds.clamp(self.value), self.value);
        if let Some(streak) = &self.streak {
            debug_assert!(streak.count > 0 && streak.to != self.value);
            debug_assert_eq!(self.bounds.clamp(streak.to), streak.to);
        }
    }

    /// Where the limit should go, and the zone that is the reason.
    fn wish(&self, memory: Zone, cpu: Zone, is_binding: bool) -> (u64, Zone) {
        let start = self.bounds.start;
        let (to, zone) = match (memory, cpu) {
            (Zone::Saturated | Zone::OverSaturated, _) => (memory.scale(self.value), memory),
            (_, Zone::Saturated) if self.value > start => (cpu.scale(self.value).max(start), cpu),
            (Zone::Underutilised, Zone::Underutilised) if is_binding => {
                (memory.scale(self.value), memory)
            }
            // What memory took is given back however busy the CPU is.
            (Zone::Underutilised, _) if is_binding && self.value < start => {
                (memory.scale(self.value).min(start), memory)
            }
            _ => (self.value, memory.max(cpu)),
        };
        (self.bounds.clamp(to), zone)
    }

    fn on_wish(&mut self, (to, zone): (u64, Zone)) {
        let is_growth = to > self.value;
        let streak = match self.streak {
            _ if to == self.value => None,
            Some(streak) if (streak.to > self.value) == is_growth => {
                let is_milder = to.abs_diff(self.value) < streak.to.abs_diff(self.value);
                let (to, zone) = if is_milder {
                    (to, zone)
                } else {
                    (streak.to, streak.zone)
                };
                let count = streak.count.saturating_add(1);
                Some(Streak { count, to, zone })
            }
            _ => Some(Streak { count: 1, to, zone }),
        };
        self.streak = streak;
        self.check();
    }

    /// Starts from elsewhere. A busy CPU takes back what is grown past that, and no more.
    fn start_at(&mut self, to: u64) -> Adjustment {
        self.bounds = Bounds::new(self.bounds.floor, to, self.bounds.ceiling);
        let from = std::mem::replace(&mut self.value, to);
        Adjustment {
            limit: self.name,
            reason: if to > from {
                Zone::Underutilised.name()
            } else {
                "NO GAIN"
            },
            from,
            to,
        }
    }

    /// Moves the limit if enough samples agree.
    fn adjust(&mut self, consistency_threshold: u32) -> Option<Adjustment> {
        let streak = self
            .streak
            .take_if(|streak| streak.count >= consistency_threshold)?;
        let from = std::mem::replace(&mut self.value, streak.to);
        self.check();
        Some(Adjustment {
            limit: self.name,
            reason: streak.zone.name(),
            from,
            to: self.value,
        })
    }
}

/// The tuner of one run. Time is passed in, as a duration since any fixed moment.
#[derive(Debug)]
pub struct Tuner {
    options: TunerOptions,
    dirs: Limit,
    files: Limit,
    start: SlowStart,
    /// Where the last sample makes the crawl parallelism start.
    start_at: Option<u64>,
    is_stalled: bool,
    /// The end of the cooldown.
    quiet_until: Duration,
    /// Those of the last tick.
    adjustments: Vec<Adjustment>,
}

impl Tuner {
    #[must_use]
    pub fn new(options: TunerOptions, dirs: Bounds, files: Bounds) -> Self {
        Self {
            options,
            dirs: Limit::new("crawl parallelism", dirs),
            files: Limit::new("active files", files),
            start: SlowStart::new(dirs),
            start_at: None,
            is_stalled: false,
            quiet_until: Duration::ZERO,
            adjustments: Vec::new(),
        }
    }

    fn check(&self) {
        self.dirs.check();
        self.files.check();
        debug_assert!(self.adjustments.len() <= 2);
        debug_assert!(
            !self.is_stalled || self.dirs.streak.is_none() && self.files.streak.is_none()
        );
    }

    fn count_anew(&mut self) {
        self.dirs.streak = None;
        self.files.streak = None;
    }

    /// Whether nothing was completed during the last sample.
    #[must_use]
    pub fn is_stalled(&self) -> bool {
        self.is_stalled
    }

    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            dirs: self.dirs.value,
            files: self.files.value,
        }
    }

    /// What the last tick moved: at most one of each limit.
    #[must_use]
    pub fn adjustments(&self) -> &[Adjustment] {
        &self.adjustments
    }

    pub fn on_sample(&mut self, sample: &TunerSample) {
        self.check();
        self.is_stalled = sample.progress == 0;
        if self.is_stalled {
            self.count_anew();
        } else {
            let memory = Zone::of_memory(sample.memory_used, sample.memory_limit);
            let cpu = Zone::of_cpu(sample.cpu_share);
            self.start_at = self.start.on_sample(
                self.dirs.value,
                &StartSample {
                    speed: sample.speed,
                    is_binding: sample.permits_waiting,
                    is_idle: memory.max(cpu) == Zone::Underutilised,
                },
            );
            self.dirs
                .on_wish(self.dirs.wish(memory, cpu, sample.permits_waiting));
            self.files
                .on_wish(self.files.wish(memory, cpu, sample.files_engaged));
        }
        self.check();
    }

    /// The limits from `now` on. They move only on samples that came since the tick before.
    pub fn on_tick(&mut self, now: Duration) -> Limits {
        self.check();
        self.adjustments.clear();
        if let Some(to) = self.start_at.take() {
            self.adjustments.push(self.dirs.start_at(to));
            self.count_anew();
        } else if now < self.quiet_until {
            self.count_anew();
        } else {
            let threshold = self.options.consistency_threshold.max(1);
            for limit in [&mut self.dirs, &mut self.files] {
                self.adjustments.extend(limit.adjust(threshold));
            }
            if !self.adjustments.is_empty() {
                self.quiet_until = now.saturating_add(self.options.adjustment_cooldown);
                self.count_anew();
            }
        }
        self.check();
        self.limits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn tuner(dirs: Bounds, files: Bounds) -> Tuner {
        let options = TunerOptions {
            consistency_threshold: 3,
            adjustment_cooldown: SECOND * 10,
        };
        Tuner::new(options, dirs, files)
    }

    fn sample(cpu_percent: u32, memory_percent: u64, is_binding: bool) -> TunerSample {
        TunerSample {
            cpu_share: f64::from(cpu_percent) / 100.0,
            memory_used: memory_percent,
            memory_limit: 100,
            permits_waiting: is_binding,
            files_engaged: is_binding,
            progress: 1,
            speed: 0.0,
        }
    }

    /// The directories after one agreed move.
    fn after_agreement(start: u64, sample: &TunerSample) -> u64 {
        let mut tuner = tuner(Bounds::new(1, 10, 1000), Bounds::fixed(7));
        tuner.dirs.value = start;
        for _ in 0..3 {
            assert_eq!(tuner.on_tick(SECOND).dirs, start);
            tuner.on_sample(sample);
        }
        tuner.on_tick(SECOND).dirs
    }

    #[test]
    fn each_zone_moves_a_limit_as_the_seed_says() {
        for (at, cpu, memory, is_binding, to) in [
            (100, 10, 10, true, 130),
            (100, 10, 10, false, 100),
            (100, 10, 40, true, 100),
            (100, 40, 10, true, 100),
            (100, 79, 79, true, 100),
            (100, 10, 80, true, 90),
            (100, 10, 100, false, 90),
            (100, 10, 101, true, 80),
            // The CPU is never over-saturated, and has no say below the start.
            (100, 104, 10, true, 90),
            (11, 100, 10, true, 10),
            (10, 100, 10, true, 10),
            (10, 100, 80, true, 9),
            (5, 100, 10, true, 7),
            (9, 100, 10, true, 10),
            (9, 10, 10, true, 12),
            // The smallest limits move too, and stop at the bounds.
            (1, 10, 10, true, 2),
            (2, 10, 90, true, 1),
            (1, 10, 200, true, 1),
            (1000, 10, 10, true, 1000),
        ] {
            let moved = after_agreement(at, &sample(cpu, memory, is_binding));
            assert_eq!(moved, to, "{at} at {cpu} % CPU, {memory} % memory");
        }
    }

    #[test]
    fn a_start_that_was_found_later_is_what_a_busy_cpu_goes_back_to() {
        let mut tuner = tuner(Bounds::new(1, 10, 1000), Bounds::fixed(7));
        for (speed, to) in [(1.0, 10), (1.0, 20), (2.0, 40), (2.0, 40), (2.0, 20)] {
            tuner.on_sample(&TunerSample {
                speed,
                ..sample(10, 10, true)
            });
            assert_eq!(tuner.on_tick(SECOND).dirs, to);
        }
        for (cpu, to) in [(10, 26), (90, 23), (90, 20), (90, 20)] {
            for _ in 0..3 {
                tuner.on_sample(&sample(cpu, 10, true));
            }
            assert_eq!(tuner.on_tick(tuner.quiet_until).dirs, to);
        }
    }

    #[test]
    fn samples_that_disagree_on_how_much_move_by_the_least() {
        let mut tuner = tuner(Bounds::new(1, 100, 100), Bounds::new(1, 1000, 1000));
        for memory in [120, 90, 130] {
            tuner.on_sample(&sample(10, memory, true));
        }
        assert_eq!(
            tuner.on_tick(SECOND),
            Limits {
                dirs: 90,
                files: 900
            }
        );
        let told: Vec<_> = tuner
            .adjustments()
            .iter()
            .map(|it| (it.limit, it.reason, it.from, it.to))
            .collect();
        let expected = [
            ("crawl parallelism", "SATURATED", 100, 90),
            ("active files", "SATURATED", 1000, 900),
        ];
        assert_eq!(told, expected);
        tuner.on_tick(SECOND);
        assert!(tuner.adjustments().is_empty());
    }

    #[test]
    fn a_broken_row_a_stall_and_the_cooldown_count_anew() {
        let mut tuner = tuner(Bounds::new(1, 100, 1000), Bounds::fixed(7));
        let idle = sample(10, 10, true);
        let breaks = [
            sample(10, 50, true),
            sample(10, 90, true),
            TunerSample {
                progress: 0,
                ..idle
            },
        ];
        for other in breaks {
            for sample in [other, idle, idle] {
                tuner.on_sample(&sample);
                assert_eq!(tuner.on_tick(SECOND).dirs, 100);
            }
        }
        tuner.on_sample(&idle);
        assert_eq!(tuner.on_tick(SECOND).dirs, 130);
        for second in 2..=13 {
            tuner.on_sample(&idle);
            let expected = if second < 13 { 130 } else { 169 };
            assert_eq!(
                tuner.on_tick(SECOND * second).dirs,
                expected,
                "second {second}"
            );
        }
    }

    #[test]
    fn odd_samples_hold() {
        let mut tuner = tuner(Bounds::new(1, 100, 1000), Bounds::fixed(7));
        for _ in 0..10 {
            tuner.on_sample(&TunerSample {
                cpu_share: f64::NAN,
                ..sample(0, 10, true)
            });
            assert_eq!(tuner.on_tick(SECOND).dirs, 100);
        }
    }
}
