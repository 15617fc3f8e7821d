//! What each core does.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};

use crate::monitor::snapshot::Core;
use crate::report::dashboard::look::Look;
use crate::report::dashboard::view::{View, boxed, lines};
use crate::report::dashboard::words::{count, cut, float, rate};

/// Cells of one core's bar and figures.
const CELL_WIDTH_MIN: usize = 38;
const FIGURES_WIDTH: usize = 31;

pub(in crate::report::dashboard) fn draw(frame: &mut Frame, area: Rect, view: &View) {
    let cores = &view.snapshot.load.cores;
    let inside = boxed(frame, area, "Cores", view.look);
    if inside.is_empty() || cores.is_empty() {
        return;
    }
    let (width, height) = (usize::from(inside.width), usize::from(inside.height));
    let columns = cores.len().div_ceil(height);
    if columns == 1 || width / columns >= CELL_WIDTH_MIN {
        let rows = by_row(cores, columns, width / columns, view);
        lines(frame, inside, rows);
    } else {
        let rows = together(cores, width, height, view);
        lines(frame, inside, rows);
    }
}

fn sum(cores: &[Core], value: fn(&Core) -> u64) -> u64 {
    cores.iter().map(value).fold(0, u64::saturating_add)
}

fn most(cores: &[Core], value: fn(&Core) -> f64) -> f64 {
    cores.iter().map(value).fold(0.0, f64::max)
}

fn share(value: f64, full: f64) -> f64 {
    if full > 0.0 { value / full } else { 0.0 }
}

/// A bar and the figures of each.
fn by_row(cores: &[Core], columns: usize, cell_width: usize, view: &View) -> Vec<Line<'static>> {
    let full = most(cores, |core| core.entries_per_second);
    let rows = cores.chunks(columns).map(|row| {
        let cells = row
            .iter()
            .flat_map(|core| cell(core, full, cell_width, view));
        cells.collect::<Line>()
    });
    rows.collect()
}

fn cell(core: &Core, full: f64, cell_width: usize, view: &View) -> [Span<'static>; 3] {
    const NAME_WIDTH: usize = 5;
    let figures = format!(
        " {:>7}  {:>4}/{:<4} {:>4} queued",
        rate(core.entries_per_second),
        count(core.ops_in_flight),
        count(core.io_depth),
        count(core.dirs_queued),
    );
    let room = cell_width.saturating_sub(NAME_WIDTH + 1);
    let figures = cut(&figures, room);
    let meter_width = room.saturating_sub(FIGURES_WIDTH);
    let meter = view
        .look
        .meter(share(core.entries_per_second, full), meter_width);
    let name = format!("{:>NAME_WIDTH$} ", format!("c{}", core.cpu));
    [
        Span::styled(cut(&name, cell_width), Look::label()),
        Span::styled(meter, view.look.bar()),
        Span::styled(figures, Look::figure()),
    ]
}

/// One sign for each core, and the sums: for machines with many.
fn together(cores: &[Core], width: usize, height: usize, view: &View) -> Vec<Line<'static>> {
    let rates = cores.iter().map(|core| core.entries_per_second);
    let head = format!(
        "{} cores: {}, {}/{} in flight, {} queued",
        cores.len(),
        rate(rates.sum()),
        count(sum(cores, |core| core.ops_in_flight)),
        count(sum(cores, |core| core.io_depth)),
        count(sum(cores, |core| core.dirs_queued)),
    );
    let mut rows = vec![Line::styled(cut(&head, width), Look::figure())];
    let rate_most = most(cores, |core| core.entries_per_second);
    let queue_most = most(cores, |core| float(core.dirs_queued));
    let rates = cores
        .iter()
        .map(|core| share(core.entries_per_second, rate_most));
    let depths = cores
        .iter()
        .map(|core| share(float(core.ops_in_flight), float(core.io_depth)));
    let queues = cores
        .iter()
        .map(|core| share(float(core.dirs_queued), queue_most));
    let kinds: [(String, Vec<f64>); 3] = [
        (
            format!("entries/s, at most {}", rate(rate_most)),
            rates.collect(),
        ),
        (String::from("in flight, of their depth"), depths.collect()),
        (format!("queued, at most {queue_most}"), queues.collect()),
    ];
    for (label, shares) in kinds {
        let lines_of_signs = shares.chunks(width);
        // A part of the cores would mislead; of the first kind it is better than nothing.
        if rows.len() > 1 && rows.len() + 1 + lines_of_signs.len() > height {
            break;
        }
        rows.push(Line::styled(cut(&label, width), Look::label()));
        rows.extend(lines_of_signs.map(|shares| {
            let signs = shares.iter().map(|share| view.look.level(*share));
            Line::styled(signs.collect::<String>(), view.look.bar())
        }));
    }
    rows
}
