//! What is drawn where. Pure: a view becomes cells, of any size of terminal.

use std::sync::Arc;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span as Text};
use ratatui::widgets::{Block, Paragraph};

use super::look::Look;
use super::panels::{
    compact, cores, counters, errors, events, graphs, latencies, slowest, throttles,
};
use super::series::Span;
use super::words::{clock, cut, cut_start, width};
use crate::monitor::snapshot::{History, Snapshot};
use crate::report::errors::ErrorGroup;

/// What the run is. Texts are printable already: names are escaped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Title {
    /// Such as `sync` or `sync (dry run)`.
    pub task: String,
    pub source: String,
    /// Absent when nothing is compared or written.
    pub destination: Option<String>,
}

/// All that a frame shows.
#[derive(Clone, Debug)]
pub struct View {
    pub title: Title,
    pub snapshot: Arc<Snapshot>,
    pub history: History,
    pub errors: Vec<ErrorGroup>,
    pub look: Look,
    /// The run has been asked to end.
    pub ending: bool,
    /// What keys do is shown.
    pub help: bool,
    /// The figures stand still.
    pub paused: bool,
    pub span: Span,
}

/// How much is shown. Terminals of fewer cells than [`Compact`](Layouts::Compact) needs get one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layouts {
    Full,
    Medium,
    Compact,
    OneLine,
}

impl Layouts {
    fn of(area: Rect) -> Self {
        match (area.width, area.height) {
            (110.., 36..) => Self::Full,
            (70.., 18..) => Self::Medium,
            (30.., 7..) => Self::Compact,
            _ => Self::OneLine,
        }
    }
}

/// Draws the whole frame.
pub fn draw(frame: &mut Frame, view: &View) {
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    match Layouts::of(area) {
        Layouts::Full => full(frame, area, view),
        Layouts::Medium => medium(frame, area, view),
        Layouts::Compact => compact::draw(frame, area, view),
        Layouts::OneLine => compact::one_line(frame, area, view),
    }
}

fn full(frame: &mut Frame, area: Rect, view: &View) {
    /// Lines from which graphs are taller, and the slowest directories have room.
    const TALL: u16 = 46;
    let is_tall = area.height >= TALL;
    let graph_lines = if is_tall { 14 } else { 10 };
    let [top, count_area, graph_area, body, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(counters::lines(view, area.width - 2) + 2),
        Constraint::Length(graph_lines),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    let [left, right] = halves(body);
    let [throttle_area, latency_area] =
        Layout::vertical([Constraint::Length(5), Constraint::Fill(1)]).areas(left);
    let [core_area, slow_area, event_area, error_area] = Layout::vertical([
        Constraint::Fill(3),
        Constraint::Length(if is_tall { 5 } else { 0 }),
        Constraint::Length(6),
        Constraint::Fill(2),
    ])
    .areas(right);
    header(frame, top, view);
    counters::draw(frame, count_area, view);
    graphs::tall(frame, graph_area, view);
    throttles::draw(frame, throttle_area, view);
    latencies::draw(frame, latency_area, view);
    cores::draw(frame, core_area, view);
    slowest::draw(frame, slow_area, view);
    events::draw(frame, event_area, view);
    errors::draw(frame, error_area, view);
    footer(frame, bottom, view);
}

fn medium(frame: &mut Frame, area: Rect, view: &View) {
    /// The longest figures of a limit, and how often it engaged.
    const LIMITS_WIDTH: u16 = 46;
    /// Lines from which the cores have room.
    const TALL: u16 = 30;
    let core_lines = if area.height >= TALL { 6 } else { 0 };
    let [top, count_area, graph_area, limits, core_area, body, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(counters::lines(view, area.width - 2) + 2),
        Constraint::Length(6),
        Constraint::Length(5),
        Constraint::Length(core_lines),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    let [throttle_area, event_area] =
        Layout::horizontal([Constraint::Length(LIMITS_WIDTH), Constraint::Fill(1)]).areas(limits);
    let [latency_area, error_area] = halves(body);
    header(frame, top, view);
    counters::draw(frame, count_area, view);
    graphs::flat(frame, graph_area, view);
    throttles::draw(frame, throttle_area, view);
    events::draw(frame, event_area, view);
    cores::draw(frame, core_area, view);
    latencies::draw(frame, latency_area, view);
    errors::draw(frame, error_area, view);
    footer(frame, bottom, view);
}

fn halves(area: Rect) -> [Rect; 2] {
    Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(area)
}

/// How the run goes, in a word.
pub(super) fn state(view: &View) -> &'static str {
    if view.snapshot.is_final {
        "ENDED"
    } else if view.ending {
        "ENDING"
    } else {
        "RUNNING"
    }
}

/// One line: what runs, from where to where, for how long.
pub(super) fn header(frame: &mut Frame, area: Rect, view: &View) {
    let paused = if view.paused { "view paused  " } else { "" };
    let right = format!(
        " {paused}{}  {} ",
        clock(view.snapshot.elapsed),
        state(view)
    );
    let room = usize::from(area.width).saturating_sub(width(&right));
    let left = roots(&view.title, view.look, room);
    let gap = room.saturating_sub(width(&left));
    let text = cut(&left, room) + &" ".repeat(gap) + &right;
    let text = cut(&text, area.width.into());
    frame.render_widget(Line::styled(text, view.look.header()), area);
}

/// ` ringsync sync  SRC -> DST` in about `room` cells; of long paths, the ends.
fn roots(title: &Title, look: Look, room: usize) -> String {
    let start = format!(" ringsync {}  ", title.task);
    let room = room.saturating_sub(width(&start));
    let Some(destination) = &title.destination else {
        return start + &cut_start(&title.source, room);
    };
    let between = format!(" {} ", look.towards());
    let room = room.saturating_sub(width(&between));
    // A short one leaves the other its share.
    let (source, half) = (&title.source, room / 2);
    let (source_width, destination_width) = (width(source), width(destination));
    let source_room = half.max(room.saturating_sub(destination_width));
    let source = cut_start(source, source_room);
    let destination = cut_start(destination, room - source_width.min(source_room));
    start + &source + &between + &destination
}

/// One line: the keys.
pub(super) fn footer(frame: &mut Frame, area: Rect, view: &View) {
    const BRIEF: &str = " h: what keys do   q: leave this view (the run goes on)";
    const HELP: [&str; 3] = [
        " q or Esc: leave this view, the run goes on   p: hold the figures   t: last minutes or whole run   ^L: redraw   ^C: end the run",
        " q: leave, the run goes on  p: hold  t: whole run  ^L: redraw  ^C: end the run",
        " q leave  p hold  t span  ^C end the run",
    ];
    let room = usize::from(area.width);
    let help = HELP.iter().find(|text| width(text) <= room);
    let text = match (view.help, help) {
        (false, _) if width(BRIEF) <= room => BRIEF,
        (false, _) => " h help  q leave  ^C end the run",
        (true, Some(text)) => text,
        (true, None) => HELP[HELP.len() - 1],
    };
    let style = if view.help {
        Look::figure()
    } else {
        Look::label()
    };
    frame.render_widget(Line::styled(cut(text, room), style), area);
}

/// Draws a frame with a title and returns what is inside.
pub(super) fn boxed(frame: &mut Frame, area: Rect, title: &str, look: Look) -> Rect {
    let room = usize::from(area.width).saturating_sub(4);
    let title = Text::styled(format!(" {} ", cut(title, room)), look.title());
    let block = Block::bordered()
        .border_set(look.borders())
        .border_style(look.border())
        .title(title);
    let inside = block.inner(area);
    frame.render_widget(block, area);
    inside
}

/// Draws lines from the top; those that do not fit are not seen.
pub(super) fn lines<'t>(frame: &mut Frame, area: Rect, lines: impl IntoIterator<Item = Line<'t>>) {
    let lines: Vec<Line> = lines.into_iter().take(area.height.into()).collect();
    frame.render_widget(Paragraph::new(lines), area);
}
