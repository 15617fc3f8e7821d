//! What graphs show of a history, and where it goes.

use std::time::Duration;

use crate::monitor::snapshot::Point;

/// Samples whose mean is compared with that of as many before them.
const TREND_SAMPLES: usize = 3;

/// Where a figure goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trend {
    Up,
    Flat,
    Down,
}

/// How much a figure may move and still be flat.
#[derive(Clone, Copy, Debug)]
pub(super) enum DeadBand {
    /// In the unit of the figure.
    Absolute(f64),
    /// As a share of what it was.
    Relative(f64),
}

/// What time a graph shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Span {
    /// The newest samples, one a column.
    #[default]
    Recent,
    WholeRun,
}

/// Compares the newest values, which come last, with those before them.
pub(super) fn trend(values: &[f64], dead_band: DeadBand) -> Trend {
    let Some(start) = values.len().checked_sub(2 * TREND_SAMPLES) else {
        return Trend::Flat;
    };
    let (before, now) = values[start..].split_at(TREND_SAMPLES);
    let sums = [before, now].map(|values| values.iter().sum::<f64>());
    #[allow(clippy::cast_precision_loss)] // A handful.
    let [before, now] = sums.map(|sum| sum / TREND_SAMPLES as f64);
    let band = match dead_band {
        DeadBand::Absolute(band) => band,
        DeadBand::Relative(share) => share * before.abs(),
    };
    if now > before + band {
        Trend::Up
    } else if now < before - band {
        Trend::Down
    } else {
        Trend::Flat
    }
}

/// What `columns` columns of a graph show, the newest last; less when less is known. And how much time that is.
pub(super) fn columns(
    points: &[Point],
    span: Span,
    columns: usize,
    value: impl Fn(&Point) -> f64,
) -> (Vec<f64>, Duration) {
    let Some(newest) = points.last() else {
        return (Vec::new(), Duration::ZERO);
    };
    if span == Span::WholeRun && points.len() > columns {
        return (
            whole(points, newest.elapsed, columns, value),
            newest.elapsed,
        );
    }
    let first = points.len().saturating_sub(columns);
    let start = match first.checked_sub(1) {
        Some(before) => points[before].elapsed,
        None => Duration::ZERO,
    };
    let shown = points[first..].iter().map(value).collect();
    (shown, newest.elapsed.saturating_sub(start))
}

/// Means over equal stretches of time. Intervals of different lengths weigh as they last.
fn whole(
    points: &[Point],
    end: Duration,
    columns: usize,
    value: impl Fn(&Point) -> f64,
) -> Vec<f64> {
    #[derive(Clone, Copy, Default)]
    struct Stretch {
        sum: f64,
        seconds: f64,
    }
    #[allow(clippy::cast_precision_loss)] // Columns of a screen.
    let width = end.as_secs_f64() / columns.max(1) as f64;
    let mut stretches = vec![Stretch::default(); columns];
    let mut start = 0.0_f64;
    for point in points {
        let stop = point.elapsed.as_secs_f64();
        #[allow(clippy::cast_precision_loss)] // Columns of a screen.
        for (at, stretch) in stretches.iter_mut().enumerate() {
            let (left, right) = (at as f64 * width, (at + 1) as f64 * width);
            let overlap = stop.min(right) - start.max(left);
            if overlap > 0.0 {
                stretch.sum += overlap * value(point);
                stretch.seconds += overlap;
            }
        }
        start = stop;
    }
    let mut before = 0.0;
    let mean = stretches.into_iter().map(|stretch| {
        if stretch.seconds > 0.0 {
            before = stretch.sum / stretch.seconds;
        }
        before
    });
    mean.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(seconds: u64, rate: f64) -> Point {
        Point {
            elapsed: Duration::from_secs(seconds),
            files_per_second: rate,
            ..Point::default()
        }
    }

    #[test]
    fn small_moves_are_flat_and_large_ones_are_not() {
        let band = DeadBand::Absolute(2.0);
        assert_eq!(trend(&[], band), Trend::Flat);
        assert_eq!(trend(&[0.0, 0.0, 90.0, 90.0, 90.0], band), Trend::Flat);
        let after = |now: [f64; 3], band| {
            let values = [[7.0, 1000.0, 50.0].as_slice(), &[50.0, 50.0], &now].concat();
            trend(&values, band)
        };
        assert_eq!(after([51.0, 52.0, 52.0], band), Trend::Flat);
        assert_eq!(after([53.0, 53.0, 53.0], band), Trend::Up);
        assert_eq!(after([40.0, 50.0, 49.0], band), Trend::Down);
        let band = DeadBand::Relative(0.05);
        assert_eq!(after([52.0, 52.0, 52.0], band), Trend::Flat);
        assert_eq!(after([53.0, 53.0, 53.0], band), Trend::Up);
    }

    #[test]
    fn recent_samples_are_one_a_column() {
        let points: Vec<Point> = (1..=10).map(|at| point(at, 1.0)).collect();
        let (values, shown) = columns(&points, Span::Recent, 4, |point| point.files_per_second);
        assert_eq!((values.len(), shown), (4, Duration::from_secs(4)));
        let (values, shown) = columns(&points, Span::Recent, 40, |point| point.files_per_second);
        assert_eq!((values.len(), shown), (10, Duration::from_secs(10)));
    }

    #[test]
    fn the_whole_run_fits_and_keeps_its_mean() {
        // A coarse start and a fine end: 50 s of 2, then 50 s of 4.
        let coarse = (1..=5).map(|at| point(10 * at, 2.0));
        let fine = (51..=100).map(|at| point(at, 4.0));
        let points: Vec<Point> = coarse.chain(fine).collect();
        let rate = |point: &Point| point.files_per_second;
        let (values, shown) = columns(&points, Span::WholeRun, 10, rate);
        assert_eq!(shown, Duration::from_secs(100));
        for (at, value) in values.iter().enumerate() {
            let expected = if at < 5 { 2.0 } else { 4.0 };
            assert!((value - expected).abs() < 1e-9, "{values:?}");
        }
        assert!(columns(&points, Span::WholeRun, 0, rate).0.is_empty());
        assert!(columns(&[], Span::WholeRun, 5, rate).0.is_empty());
    }
}
