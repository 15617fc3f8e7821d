//! A machine, as the stats monitor sees it: CPU and memory follow the limits.

use std::time::Duration;

use ringsync::control::bounds::Bounds;
use ringsync::control::tuner::{Limits, Tuner, TunerOptions, TunerSample};

use crate::server::Random;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MEMORY_LIMIT: f64 = (8_u64 << 30) as f64;
pub(crate) const OPTIONS: TunerOptions = TunerOptions {
    consistency_threshold: 10,
    adjustment_cooldown: Duration::from_secs(120),
};

/// Shares of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plant {
    /// Of the cores: by one directory in work, up to all of them.
    pub(crate) cpu_per_dir: f64,
    /// Of the memory limit: at rest, by one directory in work, by one entry in the index.
    pub(crate) memory_base: f64,
    pub(crate) memory_per_dir: f64,
    pub(crate) memory_per_file: f64,
    /// Directories and entries that there is work for: a limit above that does not bind.
    pub(crate) dirs_wanted: u64,
    pub(crate) files_wanted: u64,
    /// Seconds in which memory follows most of the way.
    pub(crate) delay: f64,
    pub(crate) noise: f64,
    /// Operations a second that one directory in work brings. With 0 no start is looked for.
    pub(crate) speed_per_dir: f64,
}

#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) tuner: Tuner,
    pub(crate) plant: Plant,
    pub(crate) limits: Limits,
    pub(crate) second: u32,
    memory: f64,
    cpu: f64,
    random: Random,
}

/// Of one second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    pub(crate) sample: TunerSample,
    /// Shares of memory and cores in use, without the noise of the sample.
    pub(crate) memory: f64,
    pub(crate) cpu: f64,
    pub(crate) before: Limits,
    pub(crate) after: Limits,
}

impl Machine {
    pub(crate) fn new(dirs: Bounds, files: Bounds, plant: Plant, seed: u64) -> Self {
        let tuner = Tuner::new(OPTIONS, dirs, files);
        Self {
            limits: tuner.limits(),
            tuner,
            plant,
            second: 0,
            memory: plant.memory_base,
            cpu: 0.0,
            random: Random(seed),
        }
    }

    fn sample(&mut self) -> TunerSample {
        let plant = self.plant;
        let dirs = self.limits.dirs.min(plant.dirs_wanted) as f64;
        let files = self.limits.files.min(plant.files_wanted) as f64;
        let due = plant.memory_base + dirs * plant.memory_per_dir + files * plant.memory_per_file;
        self.memory += (due - self.memory) / plant.delay.max(1.0);
        let memory = self.memory * self.random.noise(plant.noise) * MEMORY_LIMIT;
        self.cpu = (dirs * plant.cpu_per_dir).min(1.0);
        let cpu = self.cpu * self.random.noise(plant.noise);
        TunerSample {
            cpu_share: cpu.min(1.05),
            memory_used: memory as u64,
            memory_limit: MEMORY_LIMIT as u64,
            permits_waiting: plant.dirs_wanted > self.limits.dirs,
            files_engaged: plant.files_wanted > self.limits.files,
            progress: 1000,
            speed: dirs * plant.speed_per_dir * self.random.noise(plant.noise),
        }
    }

    pub(crate) fn step(&mut self) -> Step {
        self.step_with(|sample| sample)
    }

    /// A second of which something else is told.
    pub(crate) fn step_with(&mut self, change: impl FnOnce(TunerSample) -> TunerSample) -> Step {
        let sample = change(self.sample());
        self.second += 1;
        self.tuner.on_sample(&sample);
        let before = self.limits;
        self.limits = self.tuner.on_tick(SECOND * self.second);
        Step {
            sample,
            memory: self.memory,
            cpu: self.cpu,
            before,
            after: self.limits,
        }
    }

    pub(crate) fn run(&mut self, seconds: usize) -> Vec<Step> {
        (0..seconds).map(|_| self.step()).collect()
    }
}
