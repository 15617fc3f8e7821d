//! A made-up run.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::error::{Class, OpKind, Side};
use crate::model::tally::{ErrorCounts, Totals};
use crate::model::{OpClass, Timed, Wait};
use crate::monitor::snapshot::{
    Change, Core, Event, History, Latency, Load, Point, SlowDirectory, Snapshot,
};
use crate::report::dashboard::{Look, Span, Title, View};
use crate::report::errors::ErrorGroup;
use crate::throttle::{Gauge, Resource};

const GIB: u64 = 1 << 30;

pub(super) fn gauge(used: u64, limit: u64, engagements: u64) -> Gauge {
    Gauge {
        used,
        used_max: used,
        limit,
        is_engaged: engagements % 2 == 1,
        engagements,
    }
}

pub(super) fn latencies() -> Vec<Latency> {
    let ops = OpClass::ALL
        .into_iter()
        .flat_map(|class| [Side::Source, Side::Destination].map(|side| Timed::Op(class, side)));
    let waits = Wait::ALL.map(Timed::Wait);
    let all = ops.chain(waits).chain([Timed::Directory]).enumerate();
    let latency = |(at, what)| {
        let mut histogram = Histogram::new(3).unwrap();
        for step in 1..=1000 {
            histogram.record(step * (at as u64 + 1) * 1000).unwrap();
        }
        Latency { what, histogram }
    };
    all.map(latency).collect()
}

pub(super) fn core(cpu: usize) -> Core {
    Core {
        cpu,
        entries_per_second: 1000.0 * f64::from(u32::try_from(cpu % 9).unwrap() + 1),
        dirs_queued: cpu as u64 % 5,
        ops_in_flight: 3,
        io_depth: 64,
    }
}

pub(super) fn snapshot(cores: usize) -> Snapshot {
    Snapshot {
        elapsed: Duration::from_secs(83),
        totals: Totals {
            entries_found: 45_892,
            files_copied: 12_345,
            bytes_copied: 3 * GIB,
            entries_deleted: 77,
            ..Totals::default()
        },
        errors: ErrorCounts {
            entry: 5,
            warnings: 2,
            ..ErrorCounts::default()
        },
        load: Load {
            requests: None,
            dirs_active: 1247,
            dirs_max: 2048,
            dirs_queued: 2300,
            permits_waiting: 1,
            files: gauge(8_542_391, 10_000_000, 2),
            memory: gauge(14 * GIB, 18 * GIB, 0),
            tasks: gauge(50_000, 50_000, 3),
            slice: 1000,
            rss: 14 * GIB,
            cpu_share: 0.65,
            cores: (0..cores).map(core).collect(),
        },
        files_per_second: 15_234.0,
        dirs_per_second: 245.0,
        bytes_per_second: 1e8,
        latencies: latencies(),
        sizes: Vec::new(),
        slowest: vec![SlowDirectory {
            path: b"slow\ndirectory".to_vec(),
            elapsed: Duration::from_secs(12),
            entries: 4321,
        }],
        is_final: false,
    }
}

/// Files grow, directories shrink, memory and CPU are level.
pub(super) fn history() -> History {
    let mut history = History::default();
    for second in 1..=300_u32 {
        history.push(Point {
            elapsed: Duration::from_secs(second.into()),
            files_per_second: 1.05_f64.powf(f64::from(second)),
            dirs_per_second: 1.05_f64.powf(-f64::from(second)),
            cpu_share: 0.65,
            memory_used: 14 * GIB,
            memory_limit: 18 * GIB,
            ..Point::default()
        });
    }
    for (second, change) in [
        (10, Change::Engaged { percent: 100.0 }),
        (20, Change::Released { percent: 84.9 }),
    ] {
        history.note(Event {
            at: Duration::from_secs(second),
            resource: Some(Resource::Files),
            change,
        });
    }
    history.note(Event {
        at: Duration::from_secs(70),
        resource: None,
        change: Change::Adjusted {
            limit: "files",
            zone: "UNDERUTILIZED",
            from: 6_000_000,
            to: 7_800_000,
        },
    });
    history
}

pub(super) fn error_group(count: u64, path: &str) -> ErrorGroup {
    ErrorGroup {
        class: Class::Entry,
        op: OpKind::Open,
        side: Side::Source,
        cause: String::from("Permission denied (EACCES)"),
        count,
        paths: vec![path.to_owned()],
    }
}

pub(super) fn view() -> View {
    View {
        title: Title {
            task: String::from("sync"),
            source: String::from("/data/source"),
            destination: Some(String::from("/backup/destination")),
        },
        snapshot: Arc::new(snapshot(8)),
        history: history(),
        errors: vec![error_group(5, "dir/secret")],
        look: Look {
            colours: true,
            blocks: true,
        },
        ending: false,
        help: false,
        paused: false,
        span: Span::Recent,
    }
}
