//! What became of the limits lately.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::monitor::snapshot::{Change, Event};
use crate::report::dashboard::look::Look;
use crate::report::dashboard::view::{View, boxed, lines};
use crate::report::dashboard::words::{clock, count, cut};

/// What limits are called that are no throttled resource.
const OTHER: &str = "LIMIT";

pub(in crate::report::dashboard) fn draw(frame: &mut Frame, area: Rect, view: &View) {
    let title = match view.history.events_dropped {
        0 => String::from("Limit events, newest first"),
        dropped => format!("Limit events ({} later ones not kept)", count(dropped)),
    };
    let inside = boxed(frame, area, &title, view.look);
    if view.history.events.is_empty() {
        let line = Line::styled("none", Look::label());
        lines(frame, inside, [line]);
        return;
    }
    let newest = view.history.events.iter().rev();
    let newest = newest.take(inside.height.into());
    let rows: Vec<Line> = newest.map(|event| row(event, inside.width, view)).collect();
    lines(frame, inside, rows);
}

fn row(event: &Event, line_width: u16, view: &View) -> Line<'static> {
    let at = clock(event.at) + " ";
    let room = usize::from(line_width).saturating_sub(at.len());
    let name = event
        .resource
        .map(|resource| resource.name().to_uppercase());
    let name = name.unwrap_or_else(|| String::from(OTHER));
    let (text, style) = match event.change {
        Change::Engaged { percent } => {
            (format!("{name} ENGAGED at {percent:.1}%"), view.look.bad())
        }
        Change::Released { percent } => (
            format!("{name} released at {percent:.1}%"),
            view.look.good(),
        ),
        Change::Adjusted {
            limit,
            zone,
            from,
            to,
        } => {
            let (from, to, arrow) = (count(from), count(to), view.look.towards());
            let text = format!("{limit} {from} {arrow} {to} {zone}");
            (text, Look::figure())
        }
    };
    Line::from_iter([
        Span::styled(at, Look::label()),
        Span::styled(cut(&text, room), style),
    ])
}
