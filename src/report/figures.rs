//! What the sampler knows, in words and as JSON: for SIGUSR1, `--stats` and the summary.

use std::fmt::Write;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};

use crate::model::Timed;
use crate::monitor::{Latency, Snapshot};
use crate::throttle::{Gauge, Resource};

/// How a run stands, on some lines.
#[must_use]
pub fn words(snapshot: &Snapshot) -> String {
    let load = &snapshot.load;
    let totals = &snapshot.totals;
    let mut lines = vec![
        format!(
            "at {:.1} s: {} entries in {} directories, {} files copied, {}; {} errors",
            snapshot.elapsed.as_secs_f64(),
            HumanCount(totals.entries_found),
            HumanCount(totals.dirs_listed),
            HumanCount(totals.files_copied),
            HumanBytes(totals.bytes_copied + totals.bytes_cloned),
            HumanCount(snapshot.errors.total()),
        ),
        format!(
            "now: {} files/s, {} dirs/s, {}/s, CPU {:.0} %",
            HumanCount(whole(snapshot.files_per_second)),
            HumanCount(whole(snapshot.dirs_per_second)),
            HumanBytes(whole(snapshot.bytes_per_second)),
            load.cpu_share * 100.0,
        ),
        format!(
            "directories: {} of {} in work, {} waiting",
            HumanCount(load.dirs_active),
            HumanCount(load.dirs_max),
            HumanCount(load.dirs_queued),
        ),
    ];
    lines.extend(Resource::ALL.map(|resource| throttle(resource, load.gauge(resource))));
    lines.extend(load.requests.map(|requests| {
        format!(
            "requests: {} at once at most; {} answers said that they are too many",
            HumanCount(requests.limit),
            HumanCount(requests.slowed)
        )
    }));
    let text = lines.join("\n");
    if snapshot.latencies.is_empty() {
        return text;
    }
    text + "\n" + &latencies(snapshot)
}

fn throttle(resource: Resource, gauge: &Gauge) -> String {
    let amount = |count: u64| match resource {
        Resource::Memory => HumanBytes(count).to_string(),
        Resource::Files | Resource::Tasks => HumanCount(count).to_string(),
    };
    let state = if gauge.is_engaged {
        "ENGAGED"
    } else {
        "normal"
    };
    format!(
        "{}: {} of {} ({:.0} %), at most {}; {state}, engaged {} times",
        resource.name(),
        amount(gauge.used),
        amount(gauge.limit),
        gauge.percent(),
        amount(gauge.used_max),
        HumanCount(gauge.engagements),
    )
}

/// A table of percentiles.
#[must_use]
pub fn latencies(snapshot: &Snapshot) -> String {
    let mut table = format!(
        "{:<24}{:>14}{:>11}{:>11}{:>11}{:>11}",
        "latency", "count", "p50", "p90", "p99", "max"
    );
    for latency in &snapshot.latencies {
        let count = HumanCount(latency.histogram.len()).to_string();
        let [p50, p90, p99, max] = quantiles(latency).map(time);
        // Writing to memory cannot fail.
        let _ = write!(
            table,
            "\n{:<24}{count:>14}{p50:>11}{p90:>11}{p99:>11}{max:>11}",
            name(latency.what)
        );
    }
    table
}

/// What was measured, in words: `statx source`.
#[must_use]
pub fn name(what: Timed) -> String {
    match what {
        Timed::Op(class, side) => format!("{} {}", class.name(), side.name()),
        Timed::Wait(wait) => format!("wait for {}", wait.name()),
        Timed::Directory => String::from("directory"),
        Timed::Request(kind) => kind.name().to_owned(),
    }
}

/// The median, the 90th and 99th percentile, and the maximum.
fn quantiles(latency: &Latency) -> [Duration; 4] {
    let histogram = &latency.histogram;
    [
        histogram.value_at_quantile(0.5),
        histogram.value_at_quantile(0.9),
        histogram.value_at_quantile(0.99),
        histogram.max(),
    ]
    .map(Duration::from_nanos)
}

/// Three digits and a unit.
#[must_use]
pub fn time(time: Duration) -> String {
    let nanos = time.as_secs_f64() * 1e9;
    let (value, unit) = match nanos {
        nanos if nanos < 1e3 => (nanos, "ns"),
        nanos if nanos < 1e6 => (nanos / 1e3, "us"),
        nanos if nanos < 1e9 => (nanos / 1e6, "ms"),
        nanos => (nanos / 1e9, "s"),
    };
    let decimals = match value {
        value if value < 10.0 => 2,
        value if value < 100.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// Limits and latencies for the JSON summary. Times are in seconds.
#[must_use]
pub fn json(snapshot: &Snapshot) -> serde_json::Map<String, Value> {
    let gauges: serde_json::Map<String, Value> = Resource::ALL
        .into_iter()
        .map(|resource| {
            let gauge = snapshot.load.gauge(resource);
            let value = json!({
                "used_max": gauge.used_max,
                "limit": gauge.limit,
                "engagements": gauge.engagements,
            });
            (resource.name().to_owned(), value)
        })
        .collect();
    let latencies: Vec<Value> = snapshot
        .latencies
        .iter()
        .map(|latency| {
            let [p50, p90, p99, max] = quantiles(latency).map(|time| time.as_secs_f64());
            let (kind, side) = match latency.what {
                Timed::Op(class, side) => (class.name(), Some(side.name())),
                Timed::Wait(wait) => (wait.name(), None),
                Timed::Directory => ("directory", None),
                Timed::Request(kind) => (kind.name(), None),
            };
            json!({
                "what": match latency.what {
                    Timed::Op(..) => "operation",
                    Timed::Wait(_) => "wait",
                    Timed::Directory => "directory",
                    Timed::Request(_) => "request",
                },
                "name": kind,
                "side": side,
                "count": latency.histogram.len(),
                "p50": p50,
                "p90": p90,
                "p99": p99,
                "max": max,
            })
        })
        .collect();
    let requests = snapshot.load.requests.map(|requests| {
        let figures = json!({"limit": requests.limit, "slowed": requests.slowed});
        (String::from("requests"), figures)
    });
    let figures = [
        (String::from("throttles"), Value::Object(gauges)),
        (String::from("index_slice"), json!(snapshot.load.slice)),
        (String::from("latencies"), Value::Array(latencies)),
    ];
    figures.into_iter().chain(requests).collect()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // For the eye.
fn whole(rate: f64) -> u64 {
    rate as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Side;
    use crate::model::OpClass;
    use hdrhistogram::Histogram;

    fn snapshot() -> Snapshot {
        let mut histogram = Histogram::new_with_bounds(1, 1_000_000_000, 2).unwrap();
        histogram.record_n(2_000, 99).unwrap();
        histogram.record(3_000_000).unwrap();
        let what = Timed::Op(OpClass::Stat, Side::Source);
        let mut snapshot = Snapshot {
            latencies: vec![Latency { what, histogram }],
            files_per_second: 1234.5,
            ..Snapshot::default()
        };
        snapshot.load.files = Gauge {
            used: 900,
            used_max: 1100,
            limit: 1000,
            is_engaged: true,
            engagements: 3,
        };
        snapshot
    }

    #[test]
    fn a_snapshot_says_rates_throttles_and_percentiles() {
        let text = words(&snapshot());
        for part in [
            "1,234 files/s",
            "files: 900 of 1,000 (90 %), at most 1,100; ENGAGED, engaged 3 times",
            "statx source",
            "2.01 us",
            "3.01 ms",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn the_json_has_the_same_figures() {
        let object = json(&snapshot());
        assert_eq!(object["throttles"]["files"]["used_max"], 1100);
        let latency = &object["latencies"][0];
        assert_eq!(
            (&latency["name"], &latency["count"]),
            (&json!("statx"), &json!(100))
        );
        assert!(latency["max"].as_f64().unwrap() > 0.002);
    }

    #[test]
    fn times_have_three_digits() {
        let nanos = |nanos| time(Duration::from_nanos(nanos));
        assert_eq!(nanos(0), "0.00 ns");
        assert_eq!(nanos(1_500), "1.50 us");
        assert_eq!(nanos(23_456_000), "23.5 ms");
        assert_eq!(nanos(u64::from(u32::MAX) * 100), "429 s");
    }
}
