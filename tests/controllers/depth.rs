//! The fast loop against servers.

use std::time::Duration;

use proptest::prelude::*;
use ringsync::control::bounds::Bounds;
use ringsync::control::depth::{Depth, DepthSample};

use crate::server::{Bench, Beyond, Noise, Server, TICK, Trace};

/// Each is some minutes of simulated time, and some milliseconds of ours.
const CASES: u32 = 200;
const FLOOR: u64 = 4;
const CEILING: u64 = 1024;
/// Seconds in which a good depth is found, wherever the search starts, beside the time in which the longest queue is worked
/// off so many times; and those over which it is then judged.
const FOUND: usize = 30;
const DRAINS: f64 = 30.0;
const JUDGED: usize = 60;

fn bench(start: u64, server: Server, noise: Noise, seed: u64) -> Bench {
    let depth = Depth::new(Bounds::new(FLOOR, start, CEILING));
    Bench::new(depth, start, server, noise, seed)
}

/// Throughput as a share of the best that is possible.
fn share(per_second: f64, server: &Server) -> f64 {
    per_second / server.throughput_best(FLOOR, CEILING)
}

fn found(server: &Server) -> usize {
    let ceiling = CEILING as f64;
    FOUND + (DRAINS * ceiling / server.throughput(ceiling)) as usize
}

fn any_start() -> impl Strategy<Value = u64> {
    prop_oneof![Just(FLOOR), Just(256), Just(CEILING), FLOOR..=CEILING]
}

/// Room for 2 to 2000 operations, of 0.1 ms to 100 ms; not so slow, or so badly collapsed, that the longest queue takes more than
/// 20 seconds to be worked off.
fn any_server(beyond: impl Strategy<Value = Beyond>) -> impl Strategy<Value = Server> {
    let exponents = (1.0_f64..11.0, -4.0_f64..-1.0);
    (exponents, beyond)
        .prop_map(|((room, latency), beyond)| {
            Server::with_room_for(room.exp2(), 10_f64.powf(latency), beyond)
        })
        .prop_filter("too slow", |server| {
            server.throughput(CEILING as f64) > CEILING as f64 / 20.0
        })
}

fn any_noise() -> impl Strategy<Value = Noise> {
    (0.0_f64..0.3, any::<bool>()).prop_map(|(share, is_one)| Noise { share, is_one })
}

fn any_beyond() -> impl Strategy<Value = Beyond> {
    prop_oneof![
        Just(Beyond::Queues),
        Just(Beyond::Softly),
        (0.1_f64..3.0).prop_map(Beyond::Collapses),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(CASES))]

    /// From any start, on any server, under 30 % of noise.
    #[test]
    fn a_good_depth_is_found(start in any_start(), server in any_server(any_beyond()), noise in any_noise(), seed: u64) {
        let mut bench = bench(start, server, noise, seed);
        bench.run(found(&server));
        let trace = bench.run(JUDGED);
        let share = share(trace.per_second(), &server);
        prop_assert!(share >= 0.7, "{share} at {} from {start}", trace.depth_usual());
    }

    /// Where operations only queue, they do not queue for long.
    #[test]
    fn latency_that_buys_nothing_is_given_back(start in any_start(), server in any_server(Just(Beyond::Queues)), share in 0.0_f64..0.3, seed: u64) {
        let mut bench = bench(start, server, Noise { share, is_one: false }, seed);
        bench.run(found(&server) + 120);
        let depth = bench.run(JUDGED).depth_usual();
        let enough = (server.capacity * server.latency).max(FLOOR as f64);
        prop_assert!(depth as f64 <= enough * 3.0 + 1.0, "{depth}, and {enough} is enough");
    }

    /// A steady load is disturbed ever more rarely: a search an interval, of two tries, and there are few intervals.
    #[test]
    fn a_steady_load_is_left_alone(start in any_start(), server in any_server(any_beyond()), noise in any_noise(), seed: u64) {
        let mut bench = bench(start, server, noise, seed);
        let first = bench.run(300).changes();
        let later = bench.run(600).changes();
        prop_assert!(first <= 60, "{first} changes in the first five minutes");
        prop_assert!(later <= 60, "{later} changes in the ten minutes after");
    }

    /// Operations come in bursts, some ticks full and some not; the server does the same in all that are.
    #[test]
    fn bursts_do_not_mislead(start in any_start(), server in any_server(any_beyond()), noise in any_noise(), full in 1_usize..20, idle in 1_usize..30, seed: u64) {
        let mut bench = bench(start, server, noise, seed);
        let mut ticks = 0..;
        let mut burst = |bench: &mut Bench| {
            let is_full = ticks.next().unwrap() % (full + idle) < full;
            bench.tick_at(if is_full { 1.0 } else { 0.3 }, is_full)
        };
        let slower = (full + idle).div_ceil(full);
        bench.run_with(found(&server) * slower, &mut burst);
        let depth = bench.run_with(JUDGED * slower, &mut burst).depth_usual();
        let share = share(server.throughput(depth as f64), &server);
        prop_assert!(share >= 0.7, "{share} at {depth} from {start}");
    }

    /// Two kinds of operations take turns, one so many times slower than the other: neither suffers.
    #[test]
    fn a_load_that_changes_does_not_mislead(room in 2.0_f64..8.0, slower in 1.0_f64..30.0, turn in 1_usize..100, noise in any_noise(), seed: u64) {
        let fast = Server::with_room_for(room.exp2(), 0.002, Beyond::Queues);
        let slow = Server { latency: fast.latency * slower, capacity: fast.capacity / slower, ..fast };
        let mut bench = bench(256, fast, noise, seed);
        let best_of = |server: &Server| server.throughput_best(FLOOR, CEILING);
        let (best_fast, best_slow) = (best_of(&fast), best_of(&slow));
        let (mut best, mut ticks) = (0.0, 0);
        let trace = bench.run_with(300, |bench| {
            ticks += 1;
            let (server, best_now) = if ticks / turn % 2 == 0 { (fast, best_fast) } else { (slow, best_slow) };
            bench.server = server;
            best += best_now * TICK.as_secs_f64();
            bench.tick()
        });
        let share = trace.completed as f64 / best;
        prop_assert!(share >= 0.7, "{share} with turns of {turn} ticks");
    }

    /// Rings that share a server share a controller.
    #[test]
    fn one_controller_serves_many_rings(rings in 2_u64..64, one in any_server(any_beyond()), noise in any_noise(), seed: u64) {
        let server = Server { capacity: one.capacity * rings as f64, ..one };
        let mut bench = bench(256, server, noise, seed);
        bench.rings = rings;
        bench.run(found(&one));
        let share = bench.run(JUDGED).per_second() / server.throughput_best(FLOOR * rings, CEILING * rings);
        prop_assert!(share >= 0.7, "{share} with {rings} rings");
    }

    /// A server that hangs holds the depth; when it is back, so is the throughput, at once.
    #[test]
    fn a_stall_changes_nothing(server in any_server(any_beyond()), noise in any_noise(), seconds in 1_usize..100, seed: u64) {
        let mut bench = bench(256, server, noise, seed);
        bench.run(found(&server));
        let before = bench.run(JUDGED).per_second();
        let allowed = bench.allowed;
        let stall = bench.stall(seconds);
        prop_assert!(stall.depths.iter().all(|depth| *depth == allowed));
        let share = bench.run(JUDGED).per_second() / before;
        prop_assert!(share >= 0.8, "{share} of what it was");
    }

    /// Whatever happens, the depth stays in its bounds (and the invariants, checked inside, hold).
    #[test]
    fn any_samples_keep_the_bounds(
        floor in 1_u64..100, above in 0_u64..100, ceiling in 0_u64..2000,
        samples in prop::collection::vec((0_u64..3000, 0_u64..100_000, any::<bool>(), 0_u64..2000), 1..500),
    ) {
        let bounds = Bounds::new(floor, floor + above, floor + above + ceiling);
        let (mut depth, mut now) = (Depth::new(bounds), Duration::ZERO);
        for (completed, latency_us, was_full, passed_ms) in samples {
            now += Duration::from_millis(passed_ms);
            let latency_mean = Duration::from_micros(latency_us);
            let allowed = depth.on_tick(now, &DepthSample { completed, latency_mean, was_full });
            prop_assert_eq!(bounds.clamp(allowed), allowed);
        }
    }
}

const NOISE: Noise = Noise {
    share: 0.3,
    is_one: false,
};
/// Room for 64 operations of 2 ms.
fn server(beyond: Beyond) -> Server {
    Server::with_room_for(64.0, 0.002, beyond)
}

#[test]
fn a_server_that_collapses_is_relieved_within_seconds() {
    for seed in 0..100 {
        let mut bench = bench(256, server(Beyond::Queues), NOISE, seed);
        let allowed = bench.run(120).depth_usual();
        // It has room for a sixteenth of that, and cannot bear more.
        bench.server = Server::with_room_for(4.0, 0.002, Beyond::Collapses(1.0));
        let trace = bench.run(10);
        let cut_after = trace.depths.iter().position(|depth| *depth <= allowed / 2);
        assert!(
            cut_after.is_some_and(|ticks| ticks <= 100),
            "{cut_after:?} ticks, seed {seed}"
        );
        bench.run(20);
        let share = share(bench.run(10).per_second(), &bench.server);
        assert!(share >= 0.7, "{share}, seed {seed}");
    }
}

#[test]
fn a_server_that_gets_more_room_is_used_within_two_minutes() {
    for seed in 0..100 {
        let mut bench = bench(256, server(Beyond::Queues), NOISE, seed);
        bench.run(600);
        bench.server.capacity *= 10.0;
        bench.run(120);
        let share = share(bench.run(JUDGED).per_second(), &bench.server);
        assert!(share >= 0.7, "{share}, seed {seed}");
    }
}

#[test]
fn the_search_itself_costs_little() {
    for room in [4, 16, 64, 256, 1024] {
        let server = Server::with_room_for(f64::from(room), 0.002, Beyond::Queues);
        let share_of = |trace: &Trace| share(trace.per_second(), &server);
        let mut bench = bench(256, server, NOISE, 1);
        let first = share_of(&bench.run(20));
        let settled = share_of(&bench.run(600));
        assert!(
            first >= 0.9,
            "{first} in the first seconds with room for {room}"
        );
        assert!(settled >= 0.95, "{settled} later with room for {room}");
    }
}

#[test]
fn a_depth_that_does_not_bind_stays() {
    let mut bench = bench(256, server(Beyond::Queues), NOISE, 1);
    let trace = bench.run_with(600, |bench| bench.tick_at(0.2, false));
    assert_eq!(trace.changes(), 0);
}

#[test]
fn a_slow_server_is_no_stall() {
    // Room for 100 operations of 3 s, from the lowest depth: some ticks complete nothing.
    let server = Server::with_room_for(100.0, 3.0, Beyond::Queues);
    let mut bench = bench(FLOOR, server, NOISE, 1);
    bench.run(300);
    let share = share(bench.run(JUDGED).per_second(), &server);
    assert!(share >= 0.7, "{share}");
}

#[test]
fn a_limit_of_one_works_and_can_grow() {
    let alone = Bounds::fixed(1);
    let mut bench = Bench::new(Depth::new(alone), 1, server(Beyond::Queues), NOISE, 1);
    assert!(bench.run(60).depths.iter().all(|depth| *depth == 1));
    let small = Bounds::new(1, 1, 8);
    let mut bench = Bench::new(Depth::new(small), 1, server(Beyond::Queues), NOISE, 1);
    bench.run(FOUND);
    assert_eq!(bench.run(JUDGED).depth_usual(), 8);
}

#[test]
fn a_process_that_was_stopped_holds_its_depth() {
    let mut bench = bench(256, server(Beyond::Queues), NOISE, 1);
    bench.run(120);
    let allowed = bench.allowed;
    bench.now += Duration::from_secs(8 * 3600);
    let sample = DepthSample {
        completed: 1,
        latency_mean: Duration::from_secs(8 * 3600),
        was_full: true,
    };
    assert_eq!(bench.depth.on_tick(bench.now, &sample), allowed);
    let share = share(bench.run(JUDGED).per_second(), &bench.server);
    assert!(share >= 0.7, "{share}");
}

#[test]
fn extreme_samples_do_not_overflow() {
    let mut depth = Depth::new(Bounds::new(1, u64::MAX / 2, u64::MAX));
    for tick in 1..1000 {
        let sample = DepthSample {
            completed: u64::MAX,
            latency_mean: if tick % 2 == 0 {
                Duration::MAX
            } else {
                Duration::ZERO
            },
            was_full: true,
        };
        depth.on_tick(TICK * tick, &sample);
    }
}
