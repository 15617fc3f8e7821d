//! How long operations and waits take.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::error::Side;
use crate::model::{OpClass, Timed, Wait};
use crate::monitor::snapshot::Latency;
use crate::report::dashboard::look::Look;
use crate::report::dashboard::view::{View, boxed, lines};
use crate::report::dashboard::words::{count, cut, float, nanoseconds};

/// Cells of a figure, with a space.
const COLUMN_WIDTH: usize = 7;
/// Cells of what was timed, with a space.
const NAME_WIDTH: usize = 16;

struct Column {
    head: &'static str,
    value: fn(&Latency) -> String,
    /// Where there is little room the lowest go first.
    rank: u8,
}

const COLUMNS: [Column; 5] = [
    Column {
        head: "count",
        value: |latency| count(latency.histogram.len()),
        rank: 1,
    },
    Column {
        head: "p50",
        value: |latency| nanoseconds(latency.histogram.value_at_quantile(0.5)),
        rank: 4,
    },
    Column {
        head: "p90",
        value: |latency| nanoseconds(latency.histogram.value_at_quantile(0.9)),
        rank: 0,
    },
    Column {
        head: "p99",
        value: |latency| nanoseconds(latency.histogram.value_at_quantile(0.99)),
        rank: 3,
    },
    Column {
        head: "max",
        value: |latency| nanoseconds(latency.histogram.max()),
        rank: 2,
    },
];

fn name(what: Timed) -> String {
    let operation = |class: OpClass, side: Side| {
        let side = match side {
            Side::Source => "source",
            Side::Destination => "dest",
        };
        format!("{} {side}", class.name())
    };
    let wait = |wait: Wait| format!("wait {}", wait.name());
    match what {
        Timed::Op(class, side) => operation(class, side),
        Timed::Wait(place) => wait(place),
        Timed::Directory => String::from("whole directory"),
        Timed::Request(kind) => kind.name().to_owned(),
    }
}

pub(in crate::report::dashboard) fn draw(frame: &mut Frame, area: Rect, view: &View) {
    let rows_max = usize::from(area.height.saturating_sub(3));
    let shown = most_time(&view.snapshot.latencies, rows_max);
    let title = match view.snapshot.latencies.len() - shown.len() {
        0 => String::from("Latencies"),
        others => format!("Latencies: most time, of {}", shown.len() + others),
    };
    let inside = boxed(frame, area, &title, view.look);
    let columns = columns(inside.width.into());
    let names = columns.iter().map(|column| column.head.to_owned());
    let head = line("", names, Look::label());
    let rows = shown.into_iter().map(|latency| {
        let values = columns.iter().map(|column| (column.value)(latency));
        line(&name(latency.what), values, Look::figure())
    });
    let all: Vec<Line> = std::iter::once(head).chain(rows).collect();
    lines(frame, inside, all);
}

/// Those in which the most time went, in their order.
fn most_time(latencies: &[Latency], rows_max: usize) -> Vec<&Latency> {
    if latencies.len() <= rows_max {
        return latencies.iter().collect();
    }
    let time = |latency: &Latency| {
        let median = latency.histogram.value_at_quantile(0.5);
        float(latency.histogram.len()) * float(median)
    };
    let timed = latencies.iter().enumerate();
    let mut timed: Vec<(usize, f64)> = timed.map(|(at, latency)| (at, time(latency))).collect();
    timed.sort_by(|a, b| b.1.total_cmp(&a.1));
    timed.truncate(rows_max);
    timed.sort_by_key(|(at, _)| *at);
    timed.into_iter().map(|(at, _)| &latencies[at]).collect()
}

/// Those for which there is room.
fn columns(line_width: usize) -> Vec<&'static Column> {
    let fitting = line_width.saturating_sub(NAME_WIDTH) / COLUMN_WIDTH;
    let dropped = COLUMNS.len().saturating_sub(fitting);
    let kept = COLUMNS
        .iter()
        .filter(|column| usize::from(column.rank) >= dropped);
    kept.collect()
}

fn line(
    name: &str,
    values: impl Iterator<Item = String>,
    style: ratatui::style::Style,
) -> Line<'static> {
    let name = format!("{:<NAME_WIDTH$}", cut(name, NAME_WIDTH - 1));
    let values = values.map(|value| Span::styled(format!("{value:>COLUMN_WIDTH$}"), style));
    let name = Span::styled(name, Look::label());
    std::iter::once(name).chain(values).collect()
}
