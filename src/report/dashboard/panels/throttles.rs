//! The limits: how much of each is used, and whether new directories wait because of it.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::report::dashboard::look::Look;
use crate::report::dashboard::view::{View, boxed, lines};
use crate::report::dashboard::words::{bytes, count, cut, float, percent, percent_of, width};
use crate::throttle::{Gauge, Resource};

pub(in crate::report::dashboard) fn draw(frame: &mut Frame, area: Rect, view: &View) {
    let inside = boxed(frame, area, "Limits", view.look);
    let rows = rows(view, inside.width.into());
    lines(frame, inside, rows);
}

/// A line for each limit, `line_width` cells wide at most.
pub(in crate::report::dashboard) fn rows(view: &View, line_width: usize) -> Vec<Line<'static>> {
    let load = &view.snapshot.load;
    let row = |resource| row(view, resource, load.gauge(resource), line_width);
    Resource::ALL.map(row).into()
}

fn row(view: &View, resource: Resource, gauge: &Gauge, line_width: usize) -> Line<'static> {
    /// A shorter bar says nothing.
    const METER_WIDTH_MIN: usize = 6;
    const METER_WIDTH_MAX: usize = 30;
    const WIDE: usize = 58;
    const USED_WIDTH: usize = 24;
    let look = view.look;
    let (state, style) = if gauge.is_engaged {
        ("[ENGAGED]", look.bad())
    } else {
        ("[NORMAL] ", look.good())
    };
    let name = format!("{:<7}", resource.name().to_uppercase());
    let used = used_of(resource, gauge);
    // Where there is room, in columns.
    let is_wide = line_width >= WIDE;
    let pad = if is_wide { USED_WIDTH } else { 0 };
    let used = format!(" {used:<pad$}");
    let times = match gauge.engagements {
        0 => String::from("  never engaged"),
        1 => String::from("  engaged once"),
        times => format!("  engaged {} times", count(times)),
    };
    let mut room = line_width.saturating_sub(name.len() + state.len());
    let used = cut(&used, room);
    room -= width(&used);
    let mut spans = vec![
        Span::styled(name, Look::label()),
        Span::styled(state, style),
        Span::styled(used, Look::figure()),
    ];
    let short = format!("  {}x", count(gauge.engagements));
    let times = if width(&times) <= room { times } else { short };
    if width(&times) <= room {
        room -= width(&times);
        spans.push(Span::styled(times, Look::label()));
    }
    if is_wide && room > METER_WIDTH_MIN {
        let share = percent_of(gauge.used, gauge.limit).unwrap_or(0.0) / 100.0;
        let meter = look.meter(share, (room - 1).min(METER_WIDTH_MAX));
        spans.push(Span::styled(format!(" {meter}"), look.bar()));
    }
    spans.into()
}

/// Such as `8.5M/10.0M (85%)`.
fn used_of(resource: Resource, gauge: &Gauge) -> String {
    let shown = |number| match resource {
        Resource::Memory => bytes(float(number)),
        Resource::Files | Resource::Tasks => count(number),
    };
    let share = percent_of(gauge.used, gauge.limit);
    if share.is_none() {
        return format!("{} ({})", shown(gauge.used), percent(share));
    }
    let limit = shown(gauge.limit);
    format!("{}/{limit} ({})", shown(gauge.used), percent(share))
}
