//! A server of operations, as one ring sees it, and the loop that reaps its completions.

use std::time::Duration;

use ringsync::control::depth::{Depth, DepthSample};

pub(crate) const TICK: Duration = Duration::from_millis(100);
pub(crate) const TICKS_PER_SECOND: usize = 10;

/// What becomes of throughput when more is in flight than the server can work on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Beyond {
    /// It stays: operations queue.
    Queues,
    /// It is approached slowly: half of it is reached where it begins.
    Softly,
    /// It falls with the depth, to this power.
    Collapses(f64),
}

/// `depth / latency` operations per second while it has room, `capacity` then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    /// Seconds, of an operation that does not wait.
    pub(crate) latency: f64,
    /// Operations per second.
    pub(crate) capacity: f64,
    pub(crate) beyond: Beyond,
}

impl Server {
    /// One that works on so many operations at once, each for so many seconds.
    pub(crate) fn with_room_for(operations: f64, latency: f64, beyond: Beyond) -> Self {
        Self {
            latency,
            capacity: operations / latency,
            beyond,
        }
    }

    pub(crate) fn throughput(&self, in_flight: f64) -> f64 {
        let linear = in_flight / self.latency;
        match self.beyond {
            Beyond::Queues => linear.min(self.capacity),
            Beyond::Softly => linear * self.capacity / (linear + self.capacity),
            Beyond::Collapses(power) if linear > self.capacity => {
                self.capacity * (self.capacity / linear).powf(power)
            }
            Beyond::Collapses(_) => linear,
        }
    }

    /// The best that any depth in the bounds gives.
    pub(crate) fn throughput_best(&self, floor: u64, ceiling: u64) -> f64 {
        (floor..=ceiling)
            .map(|depth| self.throughput(depth as f64))
            .fold(0.0, f64::max)
    }
}

/// A small generator (splitmix64): its seed is drawn by proptest.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub u64);

impl Random {
    /// From 0 to 1.
    pub(crate) fn fraction(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A factor of at most so much around 1.
    pub(crate) fn noise(&mut self, share: f64) -> f64 {
        1.0 + share * (2.0 * self.fraction() - 1.0)
    }
}

/// How far a tick's throughput and latency are off.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Noise {
    pub(crate) share: f64,
    /// Both are off together, by Little's law; otherwise each by itself.
    pub(crate) is_one: bool,
}

/// A ring, its server and its controller.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) depth: Depth,
    pub(crate) server: Server,
    pub(crate) allowed: u64,
    /// Rings that share the controller.
    pub(crate) rings: u64,
    pub(crate) noise: Noise,
    pub(crate) now: Duration,
    random: Random,
    in_flight: f64,
    /// Of an operation that is not completed yet.
    fraction: f64,
}

/// What was seen in some time.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    /// What was allowed after each tick.
    pub(crate) depths: Vec<u64>,
    pub(crate) completed: u64,
}

impl Trace {
    pub(crate) fn per_second(&self) -> f64 {
        self.completed as f64 * TICKS_PER_SECOND as f64 / self.depths.len() as f64
    }

    /// How often the depth moved.
    pub(crate) fn changes(&self) -> usize {
        self.depths
            .windows(2)
            .filter(|pair| pair[0] != pair[1])
            .count()
    }

    /// The depth that was allowed for most of the time.
    pub(crate) fn depth_usual(&self) -> u64 {
        let mut sorted = self.depths.clone();
        sorted.sort_unstable();
        sorted[sorted.len() / 2]
    }
}

impl Bench {
    pub(crate) fn new(depth: Depth, start: u64, server: Server, noise: Noise, seed: u64) -> Self {
        Self {
            depth,
            server,
            allowed: start,
            rings: 1,
            noise,
            now: Duration::from_secs(3),
            random: Random(seed),
            in_flight: 0.0,
            fraction: 0.0,
        }
    }

    /// One tick under so much load that the depth binds.
    pub(crate) fn tick(&mut self) -> u64 {
        self.tick_at(1.0, true)
    }

    /// A tick in which the server did this part of what it can.
    pub(crate) fn tick_at(&mut self, part: f64, was_full: bool) -> u64 {
        let seconds = TICK.as_secs_f64();
        let allowed = (self.allowed * self.rings) as f64;
        let rate = self.server.throughput(self.in_flight.max(allowed));
        // What is in flight goes down only by completions.
        self.in_flight = (self.in_flight - rate * seconds).max(allowed);
        let noise = self.random.noise(self.noise.share);
        let done = rate * seconds * part * noise + self.fraction;
        let completed = done.floor();
        self.fraction = done - completed;
        let noise = if self.noise.is_one {
            1.0 / noise
        } else {
            self.random.noise(self.noise.share)
        };
        let latency = self.in_flight / rate * noise;
        self.now += TICK;
        let sample = DepthSample {
            completed: completed as u64,
            latency_mean: Duration::from_secs_f64(latency),
            was_full,
        };
        self.allowed = self.depth.on_tick(self.now, &sample);
        completed as u64
    }

    /// Nothing is completed.
    pub(crate) fn stall(&mut self, seconds: usize) -> Trace {
        self.run_with(seconds, |bench| bench.tick_at(0.0, true))
    }

    pub(crate) fn run(&mut self, seconds: usize) -> Trace {
        self.run_with(seconds, Self::tick)
    }

    pub(crate) fn run_with(
        &mut self,
        seconds: usize,
        mut tick: impl FnMut(&mut Self) -> u64,
    ) -> Trace {
        let mut trace = Trace::default();
        for _ in 0..seconds * TICKS_PER_SECOND {
            trace.completed += tick(self);
            trace.depths.push(self.allowed);
        }
        trace
    }
}
