//! What small terminals show.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};

use super::{counters, errors, throttles};
use crate::report::dashboard::look::Look;
use crate::report::dashboard::view::{View, footer, header, lines, state};
use crate::report::dashboard::words::{clock, count, cut, fitting, rate};
use crate::throttle::Resource;

/// Lines of a list of errors with its frame; with fewer it has no use.
const ERRORS_HEIGHT_MIN: u16 = 4;

/// Counters and limits without frames.
pub(in crate::report::dashboard) fn draw(frame: &mut Frame, area: Rect, view: &View) {
    let line_width = usize::from(area.width);
    let mut texts: Vec<Line> = Vec::new();
    let error_style = match view.snapshot.errors.total() {
        0 => Look::figure(),
        _ => view.look.bad(),
    };
    let counters = counters::brief(view);
    let limits = throttles::rows(view, line_width);
    // Where lines are few, the last counters go first.
    let room = usize::from(area.height).saturating_sub(3 + limits.len());
    let shown = counters.into_iter().take(room);
    texts.extend(shown.map(|text| Line::styled(cut(&text, line_width), Look::figure())));
    let error_text = format!(
        "Errors {}  Warnings {}",
        count(view.snapshot.errors.total()),
        count(view.snapshot.errors.warnings)
    );
    texts.push(Line::styled(cut(&error_text, line_width), error_style));
    texts.extend(limits);
    let height = u16::try_from(texts.len()).unwrap_or(u16::MAX);
    let [top, middle, rest, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(height),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    header(frame, top, view);
    lines(frame, middle, texts);
    if rest.height >= ERRORS_HEIGHT_MIN {
        errors::draw(frame, rest, view);
    }
    footer(frame, bottom, view);
}

/// The most important figures.
pub(in crate::report::dashboard) fn one_line(frame: &mut Frame, area: Rect, view: &View) {
    let snapshot = &view.snapshot;
    let done = count(snapshot.totals.entries_found);
    let (errors, speed) = (
        count(snapshot.errors.total()),
        rate(snapshot.files_per_second),
    );
    let is_engaged = Resource::ALL
        .into_iter()
        .any(|resource| snapshot.load.gauge(resource).is_engaged);
    let limits = if is_engaged { " ENGAGED" } else { "" };
    let elapsed = clock(snapshot.elapsed);
    let text = fitting(
        &[
            format!(
                "{} {elapsed} {done} processed {speed} {errors} errors{limits}",
                state(view)
            ),
            format!("{done} {speed} {errors} errors{limits}"),
            format!("{done} {speed} {errors} err"),
            format!("{done} {errors} err"),
            done,
        ],
        area.width.into(),
    );
    let line = Line::from(Span::styled(text, Look::figure()));
    frame.render_widget(line, Rect { height: 1, ..area });
}
