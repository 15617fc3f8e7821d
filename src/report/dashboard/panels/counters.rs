//! The counters of the run.

use indicatif::HumanCount;
use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::report::dashboard::look::Look;
use crate::report::dashboard::view::{View, boxed, lines as draw_lines};
use crate::report::dashboard::words::{bytes, count, cut, fitting, float, rate, width};

/// Cells of one counter, with its name.
const CELL_WIDTH_MIN: u16 = 19;

struct Counter {
    label: &'static str,
    /// Ways to write it, the longest first.
    values: Vec<String>,
    style: Style,
}

fn counters(view: &View) -> Vec<Counter> {
    let (snapshot, look) = (&view.snapshot, view.look);
    let (totals, load) = (&snapshot.totals, &snapshot.load);
    let counter = |label, values| Counter {
        label,
        values,
        style: Look::figure(),
    };
    let number = |label, number| {
        let values = vec![HumanCount(number).to_string(), count(number)];
        counter(label, values)
    };
    let amount = |label, number: u64| counter(label, vec![bytes(float(number))]);
    let bytes_copied = totals.bytes_copied.saturating_add(totals.bytes_cloned);
    let mut active = number("Active dirs", load.dirs_active);
    let of = format!(
        "{} of {}",
        HumanCount(load.dirs_active),
        HumanCount(load.dirs_max)
    );
    active.values.insert(0, of);
    let mut all = vec![
        active,
        number("Waiting dirs", load.dirs_queued),
        number("In index", load.files.used),
        number("Processed", totals.entries_found),
        number("Copied", totals.files_copied),
        amount("Data", bytes_copied),
        counter("Data/s", vec![bytes(snapshot.bytes_per_second)]),
        number("Deleted", totals.entries_deleted),
        number("Errors", snapshot.errors.total()),
        amount("Memory", load.rss),
        number("Permit waits", load.permits_waiting),
        number("Warnings", snapshot.errors.warnings),
    ];
    if let Some(requests) = load.requests {
        all.push(number("Request limit", requests.limit));
        all.push(number("Slowed down", requests.slowed));
    }
    if totals.entries_differing > 0 {
        all.push(number("Differing", totals.entries_differing));
    }
    if snapshot.errors.total() > 0 {
        all[8].style = look.bad();
    }
    all
}

fn columns(width: u16) -> u16 {
    (width / CELL_WIDTH_MIN).max(1)
}

/// How many lines they take.
pub(in crate::report::dashboard) fn lines(view: &View, width: u16) -> u16 {
    let count = u16::try_from(counters(view).len()).unwrap_or(u16::MAX);
    count.div_ceil(columns(width))
}

pub(in crate::report::dashboard) fn draw(frame: &mut Frame, area: Rect, view: &View) {
    let inside = boxed(frame, area, "Counters", view.look);
    let columns = columns(inside.width);
    let cell_width = usize::from(inside.width / columns);
    let rows = counters(view)
        .chunks(columns.into())
        .map(|row| {
            let cells = row.iter().flat_map(|counter| cell(counter, cell_width));
            cells.collect::<Line>()
        })
        .collect::<Vec<_>>();
    draw_lines(frame, inside, rows);
}

/// The name and the figure, and one cell at least until the next.
fn cell(counter: &Counter, cell_width: usize) -> [Span<'static>; 3] {
    let room = cell_width.saturating_sub(1);
    let label = cut(&format!("{} ", counter.label), room);
    let value = fitting(&counter.values, room.saturating_sub(width(&label)));
    let rest = cell_width.saturating_sub(width(&label) + width(&value));
    [
        Span::styled(label, Look::label()),
        Span::styled(value, counter.style),
        Span::raw(" ".repeat(rest)),
    ]
}

/// The counters of a terminal with little room: a line each pair.
pub(in crate::report::dashboard) fn brief(view: &View) -> Vec<String> {
    let (snapshot, load) = (&view.snapshot, &view.snapshot.load);
    let totals = &snapshot.totals;
    let data = totals.bytes_copied.saturating_add(totals.bytes_cloned);
    vec![
        format!(
            "Processed {}  {}",
            count(totals.entries_found),
            rate(snapshot.files_per_second)
        ),
        format!(
            "Copied {}  {}  Deleted {}",
            count(totals.files_copied),
            bytes(float(data)),
            count(totals.entries_deleted)
        ),
        format!(
            "Dirs {} active  {} waiting",
            count(load.dirs_active),
            count(load.dirs_queued)
        ),
        format!(
            "Index {}  Memory {}",
            count(load.files.used),
            bytes(float(load.rss))
        ),
    ]
}
