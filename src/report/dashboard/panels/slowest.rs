//! Directories that took long.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::model::path::escape;
use crate::report::dashboard::look::Look;
use crate::report::dashboard::view::{View, boxed, lines};
use crate::report::dashboard::words::{count, cut_start, nanoseconds, width};

pub(in crate::report::dashboard) fn draw(frame: &mut Frame, area: Rect, view: &View) {
    if area.is_empty() {
        return;
    }
    let inside = boxed(frame, area, "Slowest directories", view.look);
    let slowest = view.snapshot.slowest.iter().take(inside.height.into());
    let rows = slowest.map(|directory| {
        let elapsed = u64::try_from(directory.elapsed.as_nanos()).unwrap_or(u64::MAX);
        let entries = count(directory.entries);
        let head = format!("{:>7} {entries:>6} entries ", nanoseconds(elapsed));
        let path = match directory.path.as_slice() {
            b"" => String::from("."),
            path => escape(path),
        };
        let room = usize::from(inside.width).saturating_sub(width(&head));
        Line::from_iter([
            Span::styled(head, Look::figure()),
            Span::raw(cut_start(&path, room)),
        ])
    });
    let rows: Vec<Line> = rows.collect();
    lines(frame, inside, rows);
}
