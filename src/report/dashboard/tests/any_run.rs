//! Any run at all has a frame of any size.

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::frame;
use super::sample::{error_group, latencies};
use crate::model::tally::{ErrorCounts, Totals};
use crate::monitor::snapshot::{
    Change, Core, Event, History, Load, Point, Requests, SlowDirectory, Snapshot,
};
use crate::report::dashboard::{Look, Span, Title, View};
use crate::report::errors::ErrorGroup;
use crate::throttle::{Gauge, Resource};

// Boxed, for the strategies of all that a view has are too large for the stack of a test.
fn number() -> BoxedStrategy<u64> {
    prop_oneof![Just(0), 0..2000_u64, any::<u64>(), Just(u64::MAX)].boxed()
}

fn figure() -> BoxedStrategy<f64> {
    prop_oneof![
        Just(0.0),
        0.0..1e6_f64,
        Just(f64::MAX),
        Just(f64::MIN_POSITIVE)
    ]
    .boxed()
}

fn any_gauge() -> BoxedStrategy<Gauge> {
    let numbers = (number(), number(), number(), number());
    (numbers, any::<bool>())
        .prop_map(|((used, used_max, limit, engagements), is_engaged)| Gauge {
            used,
            used_max,
            limit,
            is_engaged,
            engagements,
        })
        .boxed()
}

fn any_core() -> impl Strategy<Value = Core> {
    (0..1024_usize, figure(), number(), number(), number()).prop_map(
        |(cpu, entries_per_second, dirs_queued, ops_in_flight, io_depth)| Core {
            cpu,
            entries_per_second,
            dirs_queued,
            ops_in_flight,
            io_depth,
        },
    )
}

prop_compose! {
    fn any_snapshot()(
        counts in prop::array::uniform12(number()),
        figures in prop::array::uniform4(figure()),
        gauges in prop::array::uniform3(any_gauge()),
        cores in prop_oneof![
            prop::collection::vec(any_core(), 0..20),
            prop::collection::vec(any_core(), 256),
        ],
        latency_count in 0..30_usize,
        path in prop::collection::vec(any::<u8>(), 0..300),
        is_final: bool,
    ) -> Snapshot {
        let mut latencies = latencies();
        latencies.truncate(latency_count);
        Snapshot {
            elapsed: Duration::from_secs(counts[0]),
            totals: Totals {
                entries_found: counts[1],
                files_copied: counts[2],
                bytes_copied: counts[3],
                bytes_cloned: counts[4],
                entries_deleted: counts[5],
                entries_differing: counts[6],
                ..Totals::default()
            },
            errors: ErrorCounts {
                warnings: counts[7],
                entry: counts[8],
                ..ErrorCounts::default()
            },
            load: Load {
                requests: (counts[0] % 2 == 0).then_some(Requests {
                    limit: counts[3],
                    slowed: counts[4],
                }),
                dirs_active: counts[9],
                dirs_max: counts[10],
                dirs_queued: counts[11],
                permits_waiting: counts[0],
                files: gauges[0],
                memory: gauges[1],
                tasks: gauges[2],
                slice: counts[1],
                rss: counts[2],
                cpu_share: figures[0],
                cores,
            },
            files_per_second: figures[1],
            dirs_per_second: figures[2],
            bytes_per_second: figures[3],
            latencies,
            sizes: Vec::new(),
            slowest: vec![SlowDirectory {
                path,
                elapsed: Duration::from_secs(counts[3]),
                entries: counts[4],
            }],
            is_final,
        }
    }
}

fn any_point() -> impl Strategy<Value = Point> {
    (number(), figure(), figure(), figure(), number(), number()).prop_map(
        |(seconds, files, dirs, cpu_share, memory_used, memory_limit)| Point {
            elapsed: Duration::from_secs(seconds),
            files_per_second: files,
            dirs_per_second: dirs,
            cpu_share,
            memory_used,
            memory_limit,
            ..Point::default()
        },
    )
}

fn any_event() -> impl Strategy<Value = Event> {
    (number(), figure(), number(), 0..4_usize, 0..3_u8).prop_map(
        |(seconds, percent, to, resource, change)| Event {
            at: Duration::from_secs(seconds),
            resource: Resource::ALL.get(resource).copied(),
            change: match change {
                0 => Change::Engaged { percent },
                1 => Change::Released { percent },
                _ => Change::Adjusted {
                    limit: "active_files",
                    zone: "OVERUTILIZED",
                    from: seconds,
                    to,
                },
            },
        },
    )
}

fn any_error() -> impl Strategy<Value = ErrorGroup> {
    let texts = ("\\PC{0,300}", prop::collection::vec("\\PC{0,300}", 0..3));
    (number(), texts).prop_map(|(count, (cause, paths))| ErrorGroup {
        cause,
        count,
        paths,
        ..error_group(1, "")
    })
}

prop_compose! {
    fn any_view()(
        texts in ("\\PC{0,20}", "\\PC{0,300}", prop::option::of("\\PC{0,300}")),
        snapshot in any_snapshot().boxed(),
        points in prop::collection::vec(any_point(), 0..300),
        events in prop::collection::vec(any_event(), 0..30),
        events_dropped in number(),
        errors in prop::collection::vec(any_error(), 0..30),
        flags: [bool; 6],
    ) -> View {
        let (task, source, destination) = texts;
        let [colours, blocks, ending, help, paused, whole] = flags;
        View {
            title: Title { task, source, destination },
            snapshot: Arc::new(snapshot),
            history: History { points, events, events_dropped },
            errors,
            look: Look { colours, blocks },
            ending,
            help,
            paused,
            span: if whole { Span::WholeRun } else { Span::Recent },
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn has_a_frame_of_any_size(
        view in any_view().boxed(),
        (width, height) in prop_oneof![
            (0..=200_u16, 0..=60_u16),
            (0..=12_u16, 0..=60_u16),
            (0..=200_u16, 0..=4_u16),
        ],
    ) {
        frame(&view, width, height);
    }
}
