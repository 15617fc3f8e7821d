//! Errors, those that are alike together.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use crate::error::Class;
use crate::report::dashboard::look::Look;
use crate::report::dashboard::view::{View, boxed, lines};
use crate::report::dashboard::words::{count, cut, cut_start, width};
use crate::report::errors::ErrorGroup;

/// The worst come first.
fn rank(class: Class) -> u8 {
    match class {
        Class::Fatal => 0,
        Class::Entry => 1,
        Class::Vanished => 2,
        Class::Warning => 3,
    }
}

fn style(class: Class, look: Look) -> Style {
    match class {
        Class::Fatal | Class::Entry => look.bad(),
        Class::Vanished | Class::Warning => look.warning(),
    }
}

pub(in crate::report::dashboard) fn draw(frame: &mut Frame, area: Rect, view: &View) {
    let title = match view.snapshot.errors.total() {
        0 => String::from("Errors"),
        total => format!("Errors: {}", count(total)),
    };
    let inside = boxed(frame, area, &title, view.look);
    let (line_width, height) = (usize::from(inside.width), usize::from(inside.height));
    if view.errors.is_empty() {
        let line = Line::styled("none", Look::label());
        lines(frame, inside, [line]);
        return;
    }
    let mut groups: Vec<&ErrorGroup> = view.errors.iter().collect();
    groups.sort_by_key(|group| (rank(group.class), std::cmp::Reverse(group.count)));
    let rows: Vec<Line> = if 2 * groups.len() <= height {
        let rows = groups
            .iter()
            .flat_map(|group| two_lines(group, line_width, view));
        rows.collect()
    } else {
        one_line_each(&groups, line_width, height, view)
    };
    lines(frame, inside, rows);
}

fn two_lines(group: &ErrorGroup, line_width: usize, view: &View) -> [Line<'static>; 2] {
    let head = format!(
        "{}x cannot {} {}: {}",
        count(group.count),
        group.op.verb(),
        group.side.name(),
        group.cause
    );
    let path = group.paths.first().map_or("", String::as_str);
    let first = if group.count > 1 { "first" } else { "path" };
    let label = format!("   {first}: ");
    let path = cut_start(path, line_width.saturating_sub(label.len()));
    [
        Line::styled(cut(&head, line_width), style(group.class, view.look)),
        Line::from_iter([Span::styled(label, Look::label()), Span::raw(path)]),
    ]
}

fn one_line_each(
    groups: &[&ErrorGroup],
    line_width: usize,
    height: usize,
    view: &View,
) -> Vec<Line<'static>> {
    let all_fit = groups.len() <= height;
    let shown = if all_fit {
        groups.len()
    } else {
        height.saturating_sub(1)
    };
    let rows = groups[..shown].iter().map(|group| {
        let head = format!(
            "{}x {}: {} ",
            count(group.count),
            group.op.verb(),
            group.cause
        );
        // The path gets what is left, and a third at least.
        let head = cut(&head, line_width - line_width / 3);
        let path = group.paths.first().map_or("", String::as_str);
        let path = cut_start(path, line_width.saturating_sub(width(&head)));
        Line::from_iter([
            Span::styled(head, style(group.class, view.look)),
            Span::raw(path),
        ])
    });
    let mut rows: Vec<Line> = rows.collect();
    if !all_fit {
        let text = format!("and {} other kinds", groups.len() - shown);
        rows.push(Line::styled(cut(&text, line_width), Look::label()));
    }
    rows
}
