//! Frames of made-up runs, at many sizes.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;

use super::{Look, Span, Title, View, draw, refresh};
use crate::error::{Class, OpKind, Side};
use crate::model::tally::{ErrorCounts, Totals};
use crate::model::{OpClass, Timed, Wait};
use crate::monitor::snapshot::{
    Board, Change, Core, Event, History, Latency, Load, Point, SlowDirectory, Snapshot,
};
use crate::report::errors::ErrorGroup;
use crate::throttle::{Gauge, Resource};

const GIB: u64 = 1 << 30;

fn gauge(used: u64, limit: u64, engagements: u64) -> Gauge {
    Gauge {
        used,
        used_max: used,
        limit,
        is_engaged: engagements % 2 == 1,
        engagements,
    }
}

fn latencies() -> Vec<Latency> {
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

fn core(cpu: usize) -> Core {
    Core {
        cpu,
        entries_per_second: 1000.0 * f64::from(u32::try_from(cpu % 9).unwrap() + 1),
        dirs_queued: cpu as u64 % 5,
        ops_in_flight: 3,
        io_depth: 64,
    }
}

fn snapshot(cores: usize) -> Snapshot {
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

/// Files grow, directories shrink, memory is level.
fn history() -> History {
    let mut history = History::default();
    for second in 1..=300_u32 {
        history.push(Point {
            elapsed: Duration::from_secs(second.into()),
            files_per_second: 1.05_f64.powi(i32::try_from(second).unwrap()),
            dirs_per_second: 1.05_f64.powi(400 - i32::try_from(second).unwrap()),
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

fn error_group(count: u64, path: &str) -> ErrorGroup {
    ErrorGroup {
        class: Class::Entry,
        op: OpKind::Open,
        side: Side::Source,
        cause: String::from("Permission denied (EACCES)"),
        count,
        paths: vec![path.to_owned()],
    }
}

fn view() -> View {
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

fn frame(view: &View, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, view)).unwrap();
    terminal.backend().buffer().clone()
}

fn text(view: &View, width: u16, height: u16) -> String {
    let buffer = frame(view, width, height);
    let rows = buffer.content().chunks(width.max(1).into());
    let row = |cells: &[ratatui::buffer::Cell]| -> String {
        cells.iter().map(ratatui::buffer::Cell::symbol).collect()
    };
    rows.map(|cells| row(cells) + "\n").collect()
}

fn assert_shows(shown: &str, texts: &[&str]) {
    for text in texts {
        assert!(shown.contains(text), "'{text}' is missing:\n{shown}");
    }
}

const EVERYTHING: &[&str] = &[
    "ringsync sync  /data/source → /backup/destination",
    "00:01:23  RUNNING",
    "Active dirs 1,247",
    "Waiting dirs 2,300",
    "In index 8,542,391",
    "Processed 45,892",
    "Copied 12,345",
    "Data 3.0 GiB",
    "Deleted 77",
    "Errors 5",
    "Memory 14.0 GiB",
    "Files/s 15.2K/s (↗)",
    "Dirs/s 245/s (↘)",
    "Memory 78% (→)",
    "CPU 65% (→)",
    "█",
    "FILES  [NORMAL]  8.5M/10.0M (85%)  engaged 2 times",
    "MEMORY [NORMAL]  14.0 GiB/18.0 GiB (78%)  never engaged",
    "TASKS  [ENGAGED] 50.0K/50.0K (100%)  engaged 3 times",
    "count     p50     p90     p99     max",
    "wait queue",
    "whole directory",
    "c0",
    "c7",
    "8.0K/s     3/64      2 queued",
    "00:01:10 files 6.0M → 7.8M UNDERUTILIZED",
    "00:00:20 FILES released at 84.9%",
    "00:00:10 FILES ENGAGED at 100.0%",
    "5x cannot open source: Permission denied (EACCES)",
    "first: dir/secret",
    "q: leave this view",
];

#[test]
fn a_large_terminal_shows_everything() {
    let mut shown = text(&view(), 120, 40);
    assert_shows(&shown, EVERYTHING);
    shown = text(&view(), 160, 50);
    assert_shows(&shown, EVERYTHING);
    assert_shows(
        &shown,
        &["Slowest directories", "4.3K entries slow\\ndirectory"],
    );
}

#[test]
fn latencies_have_their_percentiles_and_the_longest_are_kept() {
    let shown = text(&view(), 160, 70);
    // 1 to 1000 us, each once, of the first kind.
    assert_shows(
        &shown,
        &["list source         1.0K   500us   900us   990us   1.0ms"],
    );
    assert!(!shown.contains("most time"), "{shown}");
    let shown = text(&view(), 120, 40);
    assert_shows(
        &shown,
        &["Latencies: most time, of 30", "flush dest", "p90"],
    );
    assert!(!shown.contains("list source"), "{shown}");
}

#[test]
fn an_ordinary_terminal_shows_the_most_of_it() {
    let shown = text(&view(), 80, 24);
    let texts = [
        "/data/source → /backup/destination",
        "RUNNING",
        "Active dirs 1,247",
        "Waiting dirs 2,300",
        "In index 8,542,391",
        "Processed 45,892",
        "Deleted 77",
        "Errors 5",
        "15.2K/s (↗)",
        "245/s (↘)",
        "78% (→)",
        "65% (→)",
        "FILES  [NORMAL]  8.5M/10.0M (85%)  2x",
        "TASKS  [ENGAGED] 50.0K/50.0K (100%)",
        "p50     p99",
        "wait permit",
        "5x cannot open source",
        "dir/secret",
        "UNDERUTI...",
        "h: what keys do",
    ];
    assert_shows(&shown, &texts);
}

#[test]
fn a_small_terminal_shows_counters_and_limits() {
    let shown = text(&view(), 40, 10);
    let texts = [
        "ringsync sync",
        "00:01:23  RUNNING",
        "Processed 45.9K  15.2K/s",
        "Copied 12.3K  3.0 GiB  Deleted 77",
        "Dirs 1.2K active  2.3K waiting",
        "Index 8.5M  Memory 14.0 GiB",
        "Errors 5  Warnings 2",
        "FILES  [NORMAL]  8.5M/10.0M (85%)",
        "MEMORY [NORMAL]  14.0 GiB/18.0 GiB",
        "TASKS  [ENGAGED] 50.0K/50.0K (100%)",
    ];
    assert_shows(&shown, &texts);
    assert_eq!(shown.lines().count(), 10);
}

#[test]
fn a_tiny_terminal_shows_one_line() {
    let shown = text(&view(), 20, 5);
    assert_shows(&shown, &["45.9K 15.2K/s 5 err"]);
    assert_eq!(shown.trim().lines().count(), 1, "{shown}");
    assert_shows(&text(&view(), 60, 1), &["RUNNING 00:01:23 45.9K processed"]);
    assert_eq!(text(&view(), 1, 1).trim().len(), 1);
}

#[test]
fn without_colours_no_cell_has_one_and_states_are_words() {
    let mut view = view();
    let is_plain = |view: &View, width, height| {
        let buffer = frame(view, width, height);
        buffer
            .content()
            .iter()
            .all(|cell| [cell.fg, cell.bg, cell.underline_color] == [Color::Reset; 3])
    };
    assert!(!is_plain(&view, 120, 40));
    view.look.colours = false;
    for (width, height) in [(160, 50), (120, 40), (80, 24), (40, 10), (20, 5), (1, 1)] {
        assert!(is_plain(&view, width, height), "{width}x{height}");
    }
    assert_shows(&text(&view, 120, 40), &["[NORMAL]", "[ENGAGED]", "RUNNING"]);
}

#[test]
fn without_blocks_every_cell_is_ascii() {
    let mut view = view();
    view.look.blocks = false;
    for (width, height) in [(160, 50), (120, 40), (80, 24), (40, 10), (20, 5)] {
        let shown = text(&view, width, height);
        assert!(shown.is_ascii(), "{shown}");
    }
    assert_shows(
        &text(&view, 120, 40),
        &["15.2K/s (up)", "245/s (down)", "78% (flat)", "##"],
    );
}

#[test]
fn states_of_the_run_and_of_the_view_are_told() {
    let mut view = view();
    view.ending = true;
    view.paused = true;
    view.help = true;
    for (width, height) in [(120, 40), (80, 24), (60, 10)] {
        let shown = text(&view, width, height);
        assert_shows(&shown, &["ENDING", "view paused", "q", "hold", "^C"]);
    }
    view.snapshot = Arc::new(Snapshot {
        is_final: true,
        ..snapshot(2)
    });
    assert_shows(&text(&view, 80, 24), &["ENDED"]);
    view.span = Span::WholeRun;
    assert_shows(&text(&view, 80, 24), &["the whole run, 00:05:00"]);
}

#[test]
fn a_run_that_has_only_begun_has_a_view() {
    let empty = View {
        title: Title::default(),
        snapshot: Arc::default(),
        history: History::default(),
        errors: Vec::new(),
        ..view()
    };
    let shown = text(&empty, 120, 40);
    assert_shows(
        &shown,
        &[
            "Processed 0",
            "0/s (→)",
            "FILES  [NORMAL]  0 (no limit)",
            "none",
        ],
    );
}

#[test]
fn many_cores_are_one_sign_each() {
    let mut view = view();
    view.snapshot = Arc::new(snapshot(256));
    let shown = text(&view, 120, 40);
    let texts = [
        "256 cores: 1.3M/s, 768/16.4K in flight",
        "entries/s, at most 9.0K/s",
    ];
    assert_shows(&shown, &texts);
}

#[test]
fn many_kinds_of_errors_are_cut_to_the_room() {
    let mut view = view();
    let path = "a/".repeat(200) + "end";
    view.errors = (1..=40).map(|count| error_group(count, &path)).collect();
    view.errors[0].class = Class::Fatal;
    let shown = text(&view, 120, 40);
    assert_shows(
        &shown,
        &[
            "1x open: Permission",
            "40x open: Permission",
            "a/end",
            "other kinds",
        ],
    );
    let fatal = shown.find("│1x open").unwrap();
    assert!(
        fatal < shown.find("│40x open").unwrap(),
        "the worst first\n{shown}"
    );
    assert!(!shown.contains("│2x open"), "{shown}");
}

#[test]
fn a_paused_view_stands_still_and_goes_on() {
    let board = Board::default();
    let mut view = view();
    assert!(refresh(&mut view, &board, &[], false));
    assert!(!refresh(&mut view, &board, &[], false), "nothing is new");
    view.paused = true;
    board.put(snapshot(1), Point::default());
    assert!(!refresh(&mut view, &board, &[error_group(1, "a")], false));
    assert!(refresh(&mut view, &board, &[], true) && view.ending);
    assert_eq!(view.snapshot.totals.entries_found, 0);
    view.paused = false;
    assert!(refresh(&mut view, &board, &[error_group(1, "a")], true));
    assert_eq!(view.snapshot.totals.entries_found, 45_892);
    assert_eq!((view.history.points.len(), view.errors.len()), (1, 1));
}

mod any_run {
    use super::*;

    // Boxed: the sum of all these is too large for the stack of a test.
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
            snapshot in any_snapshot(),
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
            view in any_view(),
            (width, height) in prop_oneof![
                (0..=200_u16, 0..=60_u16),
                (0..=12_u16, 0..=60_u16),
                (0..=200_u16, 0..=4_u16),
            ],
        ) {
            frame(&view, width, height);
        }
    }
}
