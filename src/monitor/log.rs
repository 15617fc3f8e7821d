//! What a log says of a run while it runs. Pure: snapshots in, lines out.

use indicatif::{HumanBytes, HumanCount};

use super::snapshot::{Change, Event, Load, Snapshot};
use crate::throttle::Resource;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Info,
    Warn,
}

/// One line, without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) level: Level,
    pub(super) text: String,
}

fn info(text: String) -> Line {
    let level = Level::Info;
    Line { level, text }
}

fn warn(text: String) -> Line {
    let level = Level::Warn;
    Line { level, text }
}

/// How the run goes, said once in a while.
pub(super) fn performance(now: &Snapshot) -> Vec<Line> {
    let Load {
        dirs_active,
        dirs_queued,
        files,
        memory,
        ..
    } = &now.load;
    let mut lines = vec![
        info(format!(
            "Active Dirs: {dirs_active} | Wait: {dirs_queued} | Files: {}",
            short(files.used)
        )),
        info(format!(
            "Throughput: {} files/sec, {} dirs/sec, {}/sec",
            rate(now.files_per_second),
            rate(now.dirs_per_second),
            HumanBytes(whole(now.bytes_per_second)),
        )),
        info(format!(
            "Memory utilization: {:.0}% ({}/{})",
            memory.percent(),
            HumanBytes(memory.used),
            HumanBytes(memory.limit)
        )),
    ];
    let mean = now.directory_mean();
    if let Some(mean) = mean {
        lines.push(info(format!(
            "Directory processing time: {:.1} ms avg",
            mean.as_secs_f64() * 1e3
        )));
    }
    if now.totals.dirs_unchanged > 0 {
        lines.push(info(format!(
            "Unchanged: {} dirs not enumerated in the target, {} calls saved",
            HumanCount(now.totals.dirs_unchanged),
            HumanCount(now.totals.calls_saved)
        )));
    }
    let left_out = now.totals.entries_skipped + now.totals.entries_excluded;
    if left_out + now.totals.dirs_skipped > 0 {
        lines.push(info(format!(
            "Skipped: {} dirs, {} entries left out by rules and options",
            HumanCount(now.totals.dirs_skipped),
            HumanCount(left_out)
        )));
    }
    lines
}

/// What happened to a throttle or a limit, and how the throttles stand now.
pub(super) fn event(event: &Event, load: &Load) -> Vec<Line> {
    let name = event.resource.map_or("", Resource::name).to_uppercase();
    match event.change {
        Change::Engaged { percent } => vec![
            warn(format!("{name}: Engaging throttle at {percent:.1}%")),
            standing(load),
        ],
        Change::Released { percent } => vec![
            info(format!("{name}: Releasing throttle at {percent:.1}%")),
            standing(load),
        ],
        Change::Adjusted {
            limit,
            zone,
            from,
            to,
        } => vec![info(format!(
            "ADJUSTMENT: {zone} - {limit} {} -> {}",
            short(from),
            short(to)
        ))],
    }
}

fn standing(load: &Load) -> Line {
    let engaged: Vec<String> = Resource::ALL
        .into_iter()
        .filter(|resource| load.gauge(*resource).is_engaged)
        .map(|resource| resource.name().to_uppercase())
        .collect();
    if engaged.is_empty() {
        return info(String::from("THROTTLE RELEASED: All resources normal"));
    }
    info(format!("THROTTLE ENGAGED: {}", engaged.join(", ")))
}

/// Told when directories wait behind a throttle.
pub(super) fn contention(load: &Load) -> Option<Line> {
    let throttled = Resource::ALL
        .into_iter()
        .any(|resource| load.gauge(resource).is_engaged);
    (throttled && load.dirs_queued > 0).then(|| {
        warn(format!(
            "High contention: {} dirs waiting",
            load.dirs_queued
        ))
    })
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // For the eye.
fn whole(rate: f64) -> u64 {
    rate as u64
}

fn rate(per_second: f64) -> String {
    short(whole(per_second))
}

/// A count with three digits and a unit: `8.54M`.
fn short(count: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "G"), (1_000_000, "M"), (1_000, "K")];
    let unit = UNITS.into_iter().find(|(size, _)| count >= *size);
    let Some((size, unit)) = unit else {
        return count.to_string();
    };
    let hundredths = count / (size / 100);
    format!("{}.{:02}{unit}", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::throttle::Gauge;
    use std::time::Duration;

    fn load() -> Load {
        let gauge = |used, limit, is_engaged| Gauge {
            used,
            limit,
            is_engaged,
            ..Gauge::default()
        };
        Load {
            dirs_active: 1247,
            dirs_queued: 45,
            files: gauge(8_540_000, 10_000_000, false),
            memory: gauge(780, 1000, true),
            tasks: gauge(5, 50_000, false),
            ..Load::default()
        }
    }

    fn texts(lines: Vec<Line>) -> Vec<String> {
        lines.into_iter().map(|line| line.text).collect()
    }

    fn happened(change: Change, load: &Load) -> Vec<String> {
        let (at, resource) = (Duration::ZERO, Some(Resource::Files));
        texts(event(
            &Event {
                at,
                resource,
                change,
            },
            load,
        ))
    }

    #[test]
    fn lines_are_those_that_operators_know() {
        let snapshot = Snapshot {
            load: load(),
            files_per_second: 15_200.0,
            dirs_per_second: 245.7,
            ..Snapshot::default()
        };
        assert_eq!(
            texts(performance(&snapshot)),
            [
                "Active Dirs: 1247 | Wait: 45 | Files: 8.54M",
                "Throughput: 15.20K files/sec, 245 dirs/sec, 0 B/sec",
                "Memory utilization: 78% (780 B/1000 B)",
            ]
        );
        assert_eq!(
            contention(&snapshot.load).unwrap().text,
            "High contention: 45 dirs waiting"
        );
    }

    #[test]
    fn throttles_and_adjustments_are_told_with_how_things_stand() {
        let mut load = load();
        assert_eq!(
            happened(Change::Engaged { percent: 100.0 }, &load),
            [
                "FILES: Engaging throttle at 100.0%",
                "THROTTLE ENGAGED: MEMORY"
            ]
        );
        load.memory.is_engaged = false;
        assert_eq!(
            happened(Change::Released { percent: 85.0 }, &load),
            [
                "FILES: Releasing throttle at 85.0%",
                "THROTTLE RELEASED: All resources normal"
            ]
        );
        assert_eq!(contention(&load), None);
        let adjusted = Change::Adjusted {
            limit: "active files",
            zone: "UNDERUTILIZED",
            from: 6_000_000,
            to: 7_800_000,
        };
        assert_eq!(
            happened(adjusted, &load),
            ["ADJUSTMENT: UNDERUTILIZED - active files 6.00M -> 7.80M"]
        );
    }

    #[test]
    fn counts_are_short() {
        assert_eq!(short(999), "999");
        assert_eq!(short(1_000), "1.00K");
        assert_eq!(short(1_999_999), "1.99M");
    }
}
