//! Rates and levels over time.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span as Text};
use ratatui::widgets::Sparkline;

use crate::monitor::snapshot::Point;
use crate::report::dashboard::look::Look;
use crate::report::dashboard::series::{DeadBand, Span, Trend, columns, trend};
use crate::report::dashboard::view::{View, boxed};
use crate::report::dashboard::words::{clock, cut, float, percent, percent_of, rate};

/// A rate that moves less than this share is flat.
const RATE_BAND: DeadBand = DeadBand::Relative(0.05);
/// A level that moves fewer points of a percent is flat.
const LEVEL_BAND: DeadBand = DeadBand::Absolute(2.0);

#[derive(Clone, Copy)]
enum Kind {
    Files,
    Dirs,
    Memory,
    Cpu,
}

const KINDS: [Kind; 4] = [Kind::Files, Kind::Memory, Kind::Dirs, Kind::Cpu];

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Files => "Files/s",
            Self::Dirs => "Dirs/s",
            Self::Memory => "Memory",
            Self::Cpu => "CPU",
        }
    }

    fn is_rate(self) -> bool {
        matches!(self, Self::Files | Self::Dirs)
    }

    /// Of levels, in percent.
    fn value(self, point: &Point) -> f64 {
        match self {
            Self::Files => point.files_per_second,
            Self::Dirs => point.dirs_per_second,
            Self::Memory => percent_of(point.memory_used, point.memory_limit).unwrap_or(0.0),
            Self::Cpu => 100.0 * point.cpu_share,
        }
    }

    fn now(self, view: &View) -> String {
        let (snapshot, load) = (&view.snapshot, &view.snapshot.load);
        match self {
            Self::Files => rate(snapshot.files_per_second),
            Self::Dirs => rate(snapshot.dirs_per_second),
            Self::Memory => percent(percent_of(load.memory.used, load.memory.limit)),
            Self::Cpu => percent(Some(100.0 * load.cpu_share)),
        }
    }

    fn shown(self, value: f64) -> String {
        if self.is_rate() {
            rate(value)
        } else {
            percent(Some(value))
        }
    }

    fn trend(self, points: &[Point]) -> Trend {
        let values: Vec<f64> = points.iter().map(|point| self.value(point)).collect();
        let band = if self.is_rate() {
            RATE_BAND
        } else {
            LEVEL_BAND
        };
        trend(&values, band)
    }
}

/// Two beside each other, of several lines.
pub(in crate::report::dashboard) fn tall(frame: &mut Frame, area: Rect, view: &View) {
    let columns_half = usize::from(area.width.saturating_sub(4) / 2);
    let inside = boxed(frame, area, &title(view, columns_half), view.look);
    let rows: [Rect; 2] = Layout::vertical([Constraint::Fill(1); 2]).areas(inside);
    let cells = rows.into_iter().flat_map(|row| {
        let sides: [Rect; 2] = Layout::horizontal([Constraint::Fill(1); 2])
            .spacing(2)
            .areas(row);
        sides
    });
    for (cell, kind) in cells.zip(KINDS) {
        let [head, graph] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(cell);
        let values = sparkline(frame, graph, view, kind);
        let most = values.into_iter().fold(0.0, f64::max);
        let line = Line::from_iter([
            Text::styled(format!("{} ", kind.name()), Look::label()),
            Text::styled(figure(view, kind), Look::figure()),
            Text::styled(format!("  at most {}", kind.shown(most)), Look::label()),
        ]);
        frame.render_widget(line, head);
    }
}

/// A line each.
pub(in crate::report::dashboard) fn flat(frame: &mut Frame, area: Rect, view: &View) {
    const NAME: u16 = 8;
    const FIGURE: u16 = 14;
    let graph_width = area.width.saturating_sub(2 + NAME + FIGURE);
    let title = title(view, graph_width.into());
    let inside = boxed(frame, area, &title, view.look);
    let rows: [Rect; 4] = Layout::vertical([Constraint::Length(1); 4]).areas(inside);
    let kinds = [Kind::Files, Kind::Dirs, Kind::Memory, Kind::Cpu];
    for (row, kind) in rows.into_iter().zip(kinds) {
        let [name, graph, figure_area] = Layout::horizontal([
            Constraint::Length(NAME),
            Constraint::Fill(1),
            Constraint::Length(FIGURE),
        ])
        .areas(row);
        frame.render_widget(Line::styled(kind.name(), Look::label()), name);
        sparkline(frame, graph, view, kind);
        let text = format!(" {}", figure(view, kind));
        let text = cut(&text, figure_area.width.into());
        frame.render_widget(Line::styled(text, Look::figure()), figure_area);
    }
}

/// The figure of now and where it goes.
fn figure(view: &View, kind: Kind) -> String {
    let arrow = view.look.arrow(kind.trend(&view.history.points));
    format!("{} ({arrow})", kind.now(view))
}

fn title(view: &View, width: usize) -> String {
    let (_, shown) = columns(&view.history.points, view.span, width, |_| 0.0);
    let what = match view.span {
        Span::Recent => "the last",
        Span::WholeRun => "the whole run,",
    };
    match shown {
        Duration::ZERO => String::from("Over time"),
        shown => format!("Over time: {what} {}", clock(shown)),
    }
}

/// Draws the graph and returns what it shows.
fn sparkline(frame: &mut Frame, area: Rect, view: &View, kind: Kind) -> Vec<f64> {
    /// Fineness of a graph: more than cells of any terminal times the eight steps of a cell.
    const STEPS: u64 = 10_000;
    let value = |point: &Point| kind.value(point);
    let (values, _) = columns(&view.history.points, view.span, area.width.into(), value);
    let lowest = if kind.is_rate() { 0.0 } else { 100.0 };
    let full = values.iter().copied().fold(lowest, f64::max);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 0 to `STEPS`.
    let steps = |value: &f64| {
        let share = if full > 0.0 { value / full } else { 0.0 };
        (share.clamp(0.0, 1.0) * float(STEPS)) as u64
    };
    let graph = Sparkline::default()
        .data(values.iter().map(steps))
        .max(STEPS)
        .bar_set(view.look.bars())
        .style(view.look.bar());
    frame.render_widget(graph, area);
    values
}
