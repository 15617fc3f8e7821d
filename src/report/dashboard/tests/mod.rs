//! Frames of made-up runs, at many sizes.

mod any_run;
mod sample;

use std::sync::Arc;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::style::Color;

use super::{Span, Title, View, draw, refresh};
use crate::error::Class;
use crate::model::{RequestKind, Timed};
use crate::monitor::snapshot::{Board, History, Latency, Point, Requests, Snapshot};
use sample::{error_group, snapshot, view};

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
    "FILES  [NORMAL]  8.5M/10.0M (85%)          engaged 2 times",
    "MEMORY [NORMAL]  14.0 GiB/18.0 GiB (78%)   never engaged",
    "TASKS  [ENGAGED] 50.0K/50.0K (100%)        engaged 3 times",
    "count    p50    p90    p99    max",
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
fn a_run_with_a_bucket_shows_its_requests() {
    let mut snapshot = snapshot(2);
    snapshot.load.requests = Some(Requests {
        limit: 96,
        slowed: 7,
    });
    let histogram = snapshot.latencies[0].histogram.clone();
    snapshot.latencies = vec![Latency {
        what: Timed::Request(RequestKind::Head),
        histogram,
    }];
    let view = View {
        snapshot: Arc::new(snapshot),
        ..view()
    };
    let shown = text(&view, 120, 40);
    let texts = ["Request limit 96", "Slowed down 7", "HeadObject"];
    assert_shows(&shown, &texts);
}

#[test]
fn latencies_have_their_percentiles_and_the_longest_are_kept() {
    let shown = text(&view(), 160, 70);
    // 1 to 1000 us, each once, of the first kind.
    assert_shows(
        &shown,
        &["list source        1.0K  500us  900us  990us  1.0ms"],
    );
    assert!(!shown.contains("most time"), "{shown}");
    let shown = text(&view(), 120, 40);
    assert_shows(
        &shown,
        &["Latencies: most time, of 32", "flush dest", "p90"],
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
        "p50    p99    max",
        "wait transfer",
        "5x cannot open source",
        "dir/secret",
        "files 6.0M → 7.8M UN...",
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
