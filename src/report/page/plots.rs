//! The plots of the page, as SVG. Colours are those of the page's style, so that they suit light and dark.

use std::ops::Range;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use maud::{Markup, PreEscaped, html};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::super::figures;
use crate::monitor::{History, Latency, Point, Snapshot};
use crate::throttle::Resource;

const SIZE: (u32, u32) = (720, 220);
const SIZE_SMALL: (u32, u32) = (348, 170);
/// Colours that stand out on white and on black.
const BLUE: RGBColor = RGBColor(66, 133, 214);
const ORANGE: RGBColor = RGBColor(222, 120, 31);
const GREY: RGBColor = RGBColor(140, 140, 140);
const RED: RGBColor = RGBColor(214, 64, 69);
/// A plot whose values are all 0 has this height.
const HEIGHT_MIN: f64 = 1.0;
/// Larger values are drawn as this: the library computes with their differences.
const VALUE_MAX: f64 = 1e18;

/// One line of a plot.
struct Series {
    name: &'static str,
    colour: RGBColor,
    of: fn(&Point) -> f64,
}

/// One plot over time.
struct Plot {
    title: &'static str,
    series: Vec<Series>,
    label: fn(f64) -> String,
    /// The resource whose throttle is shown as a band.
    resource: Option<Resource>,
}

type Failure = Box<dyn std::error::Error>;

/// All plots that have the run's time as their axis.
pub(super) fn over_time(history: &History) -> Markup {
    if history.points.is_empty() {
        return html! { p { "The run was over before the first sample." } };
    }
    html! { div.plots { @for plot in plots() { (figure(plot.title, over_time_svg(&plot, history))) } } }
}

fn plots() -> Vec<Plot> {
    let line = |name, colour, of| Series { name, colour, of };
    let plot = |title, label, resource, series| Plot {
        title,
        series,
        label,
        resource,
    };
    vec![
        plot(
            "Files per second",
            count,
            None,
            vec![line("files", BLUE, |p| p.files_per_second)],
        ),
        plot(
            "Directories per second",
            count,
            None,
            vec![line("directories", BLUE, |p| p.dirs_per_second)],
        ),
        plot(
            "Bytes copied per second",
            bytes,
            None,
            vec![line("bytes", BLUE, |p| p.bytes_per_second)],
        ),
        plot(
            "CPU, percent of the cores",
            count,
            None,
            vec![line("CPU", BLUE, |p| p.cpu_share * 100.0)],
        ),
        plot(
            "Memory",
            bytes,
            Some(Resource::Memory),
            vec![
                line("used", BLUE, |p| float(p.memory_used)),
                line("limit", ORANGE, |p| float(p.memory_limit)),
            ],
        ),
        plot(
            "Entries in the index",
            count,
            Some(Resource::Files),
            vec![
                line("entries", BLUE, |p| float(p.files_used)),
                line("limit", ORANGE, |p| float(p.files_limit)),
            ],
        ),
        plot(
            "Tasks in flight",
            count,
            Some(Resource::Tasks),
            vec![line("tasks", BLUE, |p| float(p.tasks_used))],
        ),
        plot(
            "Directories in work",
            count,
            None,
            vec![
                line("in work", BLUE, |p| float(p.dirs_active)),
                line("limit", ORANGE, |p| float(p.dirs_max)),
            ],
        ),
    ]
}

fn figure(title: &str, svg: Result<String, Failure>) -> Markup {
    html! {
        figure {
            figcaption { (title) }
            @match svg {
                Ok(svg) => (PreEscaped(svg)),
                Err(error) => p { "cannot be drawn: " (error) },
            }
        }
    }
}

/// Draws into a string.
fn svg(
    size: (u32, u32),
    draw: impl FnOnce(&DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), Failure>,
) -> Result<String, Failure> {
    let mut text = String::new();
    {
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        draw(&area)?;
        area.present()?;
    }
    Ok(text)
}

fn over_time_svg(plot: &Plot, history: &History) -> Result<String, Failure> {
    let points = &history.points;
    let end = points
        .last()
        .map_or(0.0, |point| point.elapsed.as_secs_f64())
        .max(1e-3);
    let values = plot
        .series
        .iter()
        .flat_map(|line| points.iter().map(line.of));
    let top = values.map(drawable).fold(HEIGHT_MIN, f64::max) * 1.05;
    svg(SIZE, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .margin_right(16)
            .x_label_area_size(22)
            .y_label_area_size(76)
            .build_cartesian_2d(0.0..end, 0.0..top)?;
        chart
            .configure_mesh()
            .x_labels(8)
            .y_labels(5)
            .x_label_formatter(&|seconds| seconds_label(*seconds))
            .y_label_formatter(&|value| (plot.label)(*value))
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.25))
            .axis_style(GREY)
            .label_style(("sans-serif", 14).into_font().color(&GREY))
            .draw()?;
        if let Some(resource) = plot.resource {
            let bands = engaged(points, resource).into_iter();
            chart.draw_series(bands.map(|band| {
                Rectangle::new([(band.start, 0.0), (band.end, top)], RED.mix(0.15).filled())
            }))?;
        }
        for line in &plot.series {
            // From the first value on, as if it had been so from the start.
            let first = points
                .first()
                .map(|point| (0.0, drawable((line.of)(point))));
            let rest = points
                .iter()
                .map(|point| (point.elapsed.as_secs_f64(), drawable((line.of)(point))));
            let style = line.colour.stroke_width(2);
            let drawn = chart.draw_series(LineSeries::new(first.into_iter().chain(rest), style))?;
            if plot.series.len() > 1 {
                let colour = line.colour;
                drawn.label(line.name).legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 16, y)], colour.stroke_width(2))
                });
            }
        }
        if plot.series.len() > 1 {
            chart
                .configure_series_labels()
                .position(SeriesLabelPosition::UpperLeft)
                .label_font(("sans-serif", 14).into_font().color(&GREY))
                .draw()?;
        }
        Ok(())
    })
}

/// The times, in seconds, in which a throttle was engaged.
fn engaged(points: &[Point], resource: Resource) -> Vec<Range<f64>> {
    let place = Resource::ALL
        .iter()
        .position(|it| *it == resource)
        .unwrap_or(0);
    let mut bands: Vec<Range<f64>> = Vec::new();
    let mut start = 0.0;
    for point in points {
        let end = point.elapsed.as_secs_f64();
        if point.engaged[place] {
            match bands.last_mut() {
                Some(band) if band.end >= start => band.end = end,
                _ => bands.push(start..end),
            }
        }
        start = end;
    }
    bands
}

/// A small plot for each kind that was timed.
pub(super) fn latencies(snapshot: &Snapshot) -> Markup {
    html! {
        div.plots.small {
            @for latency in &snapshot.latencies {
                (figure(&figures::name(latency.what), latency_svg(latency)))
            }
        }
    }
}

/// Bars for each third of a power of ten.
fn latency_svg(latency: &Latency) -> Result<String, Failure> {
    const STEPS: [u64; 3] = [1, 2, 5];
    let histogram = &latency.histogram;
    let bounds: Vec<u64> = (1..=11)
        .flat_map(|power| STEPS.map(|step| step * 10_u64.pow(power)))
        .collect();
    let mut before = 0;
    let counts: Vec<u64> = bounds
        .iter()
        .map(|bound| {
            let below = histogram.count_between(0, bound - 1);
            below - std::mem::replace(&mut before, below)
        })
        .collect();
    let label = |at: usize| {
        let bound = at
            .checked_sub(1)
            .and_then(|at| bounds.get(at))
            .unwrap_or(&0);
        figures::time(Duration::from_nanos(*bound))
    };
    bars(SIZE_SMALL, &counts, &label)
}

/// How many files there are of each size.
pub(super) fn sizes(snapshot: &Snapshot) -> Markup {
    if snapshot.sizes.is_empty() {
        return html! { p { "There were no files." } };
    }
    let last = snapshot
        .sizes
        .iter()
        .map(|bucket| bucket.exponent)
        .max()
        .unwrap_or(0);
    let mut counts = vec![0; last as usize + 1];
    for bucket in &snapshot.sizes {
        counts[bucket.exponent as usize] = bucket.files;
    }
    let label = |exponent: usize| match exponent.checked_sub(1) {
        None => String::from("0"),
        Some(shift) => {
            let size = 1_u64.checked_shl(u32::try_from(shift).unwrap_or(u32::MAX));
            HumanBytes(size.unwrap_or(u64::MAX)).to_string()
        }
    };
    let title = "Files by size, each bar from the size below it to twice that";
    html! { div.plots { (figure(title, bars(SIZE, &counts, &label))) } }
}

/// A bar for each count, those that are 0 at the ends left out.
fn bars(
    size: (u32, u32),
    counts: &[u64],
    label: &dyn Fn(usize) -> String,
) -> Result<String, Failure> {
    let first = counts.iter().position(|count| *count > 0).unwrap_or(0);
    let last = counts.iter().rposition(|count| *count > 0).unwrap_or(0);
    let top = counts.iter().copied().max().unwrap_or(0);
    let top = drawable(float(top)).max(HEIGHT_MIN) * 1.05;
    let axis = |at: usize| float(at as u64);
    svg(size, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(6)
            .margin_right(16)
            .x_label_area_size(22)
            .y_label_area_size(56)
            .build_cartesian_2d(axis(first)..axis(last + 1), 0.0..top)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(((last + 1 - first) / 3).clamp(2, 8))
            .y_labels(4)
            .x_label_formatter(&|at| label(whole(*at)))
            .y_label_formatter(&|value| count(*value))
            .light_line_style(TRANSPARENT)
            .bold_line_style(GREY.mix(0.25))
            .axis_style(GREY)
            .label_style(("sans-serif", 14).into_font().color(&GREY))
            .draw()?;
        chart.draw_series((first..=last).map(|at| {
            let height = drawable(float(counts[at]));
            Rectangle::new(
                [(axis(at) + 0.06, 0.0), (axis(at) + 0.94, height)],
                BLUE.filled(),
            )
        }))?;
        Ok(())
    })
}

fn drawable(value: f64) -> f64 {
    if value.is_finite() {
        value.clamp(0.0, VALUE_MAX)
    } else {
        VALUE_MAX
    }
}

#[allow(clippy::cast_precision_loss)] // For the eye.
fn float(value: u64) -> f64 {
    value as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // A place on an axis.
fn whole(value: f64) -> usize {
    value.round() as usize
}

fn count(value: f64) -> String {
    if value > 0.0 && value < 1.0 {
        return format!("{value:.1}");
    }
    let whole = whole(value) as u64;
    match whole {
        1_000_000_000.. => format!("{:.1} G", value / 1e9),
        1_000_000.. => format!("{:.1} M", value / 1e6),
        10_000.. => format!("{:.0} k", value / 1e3),
        _ => HumanCount(whole).to_string(),
    }
}

fn bytes(value: f64) -> String {
    HumanBytes(whole(value) as u64).to_string()
}

fn seconds_label(seconds: f64) -> String {
    match seconds {
        seconds if seconds >= 7200.0 => format!("{:.1} h", seconds / 3600.0),
        seconds if seconds >= 120.0 => format!("{:.1} min", seconds / 60.0),
        seconds if seconds >= 10.0 => format!("{seconds:.0} s"),
        seconds => format!("{seconds:.2} s"),
    }
}
