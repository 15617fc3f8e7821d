//! A snapshot as OpenMetrics text, which Prometheus scrapes. Names end in their unit (`_seconds`, `_bytes`), counters in
//! `_total`.

use std::fmt;
use std::sync::Arc;

use hdrhistogram::Histogram;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode_registry;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use super::snapshot::{Latency, Snapshot};
use crate::error::Class;
use crate::model::Timed;
use crate::throttle::{Gauge, Resource};

/// Upper bounds of histogram buckets, in nanoseconds: 1, 2.5 and 5 of each power of ten from a microsecond to a minute.
const BUCKETS_NS: [u64; 24] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// What Prometheus expects of this text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text of one scrape, in the OpenMetrics format 1.0.
///
/// # Errors
/// None that writing to memory could have; the encoder's interface has them.
pub fn encode(snapshot: Arc<Snapshot>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("ringsync");
    registry.register_collector(Box::new(Scrape(snapshot)));
    let mut text = String::new();
    encode_registry(&mut text, &registry)?;
    // The library's `encode` would do both; a registry with a collector has no end of its own.
    text.push_str("# EOF\n");
    Ok(text)
}

#[derive(Debug)]
struct Scrape(Arc<Snapshot>);

type Labels<'a> = [(&'static str, &'a str)];
/// The labels of a latency, if it is of the kind that is asked for.
type LabelsOf = fn(Timed) -> Option<Vec<(&'static str, &'static str)>>;

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut page = Page(encoder);
        let snapshot = &*self.0;
        page.run(snapshot)?;
        page.totals(snapshot)?;
        page.throttles(snapshot)?;
        page.load(snapshot)?;
        page.latencies(snapshot)
    }
}

/// Writes families one after the other.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn counters(&mut self, name: &str, help: &str, values: &[(&Labels<'_>, u64)]) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in values {
            let counter = ConstCounter::new(*value);
            if labels.is_empty() {
                // An empty set would be written as empty braces.
                return counter.encode(family);
            }
            counter.encode(family.encode_family(&labels.to_vec())?)?;
        }
        Ok(())
    }

    fn gauges(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: &[(&Labels<'_>, f64)],
    ) -> fmt::Result {
        let mut family = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in values {
            let gauge = ConstGauge::new(*value);
            if labels.is_empty() {
                return gauge.encode(family);
            }
            gauge.encode(family.encode_family(&labels.to_vec())?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> fmt::Result {
        self.gauges(name, help, None, &[(&[], value)])
    }

    fn run(&mut self, snapshot: &Snapshot) -> fmt::Result {
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let mut info =
            self.0
                .encode_descriptor("build", "The version that runs", None, MetricType::Info)?;
        info.encode_info(&version.to_vec())?;
        let (elapsed, help) = (snapshot.elapsed.as_secs_f64(), "Time since the run began");
        self.gauges("elapsed", help, Some(&Unit::Seconds), &[(&[], elapsed)])?;
        let finished = f64::from(u8::from(snapshot.is_final));
        self.gauge("run_finished", "1 when the run is over", finished)
    }

    fn totals(&mut self, snapshot: &Snapshot) -> fmt::Result {
        for (name, help, value) in snapshot.totals.named() {
            let name = match name.strip_prefix("bytes_") {
                Some(what) => format!("{what}_bytes"),
                None => name.to_owned(),
            };
            self.counters(&name, &help, &[(&[], value)])?;
        }
        let errors = &snapshot.errors;
        let of = |class: Class| [("class", class.name())];
        let classes = [Class::Warning, Class::Vanished, Class::Entry, Class::Fatal].map(of);
        let counts = [errors.warnings, errors.vanished, errors.entry, errors.fatal];
        let values: Vec<(&Labels<'_>, u64)> =
            classes.iter().map(|it| &it[..]).zip(counts).collect();
        self.counters("errors", "Errors by class", &values)
    }

    fn throttles(&mut self, snapshot: &Snapshot) -> fmt::Result {
        let labels = Resource::ALL.map(|resource| [("resource", resource.name())]);
        let values = |of: fn(&Gauge) -> u64| -> Vec<(&Labels<'_>, u64)> {
            let gauges = Resource::ALL.map(|resource| of(snapshot.load.gauge(resource)));
            labels.iter().map(|it| &it[..]).zip(gauges).collect()
        };
        let levels = |of: fn(&Gauge) -> u64| -> Vec<(&Labels<'_>, f64)> {
            let values = values(of).into_iter();
            values
                .map(|(labels, value)| (labels, float(value)))
                .collect()
        };
        self.counters(
            "throttle_engagements",
            "How often the throttle has engaged",
            &values(|gauge| gauge.engagements),
        )?;
        let engaged = levels(|gauge| u64::from(gauge.is_engaged));
        self.gauges(
            "throttle_engaged",
            "1 while new directories wait for the resource",
            None,
            &engaged,
        )?;
        let load = &snapshot.load;
        let (bytes, one) = (Some(&Unit::Bytes), |value| [(&[][..], float(value))]);
        self.gauges(
            "memory",
            "Resident memory and growing buffers",
            bytes,
            &one(load.memory.used),
        )?;
        self.gauges(
            "memory_max",
            "The most that was seen of it",
            bytes,
            &one(load.memory.used_max),
        )?;
        self.gauges(
            "memory_limit",
            "The limit on it",
            bytes,
            &one(load.memory.limit),
        )?;
        self.gauges("resident", "Resident memory", bytes, &one(load.rss))?;
        self.gauge(
            "index_entries",
            "Source entries in the index",
            float(load.files.used),
        )?;
        self.gauge(
            "index_entries_max",
            "The most that there were",
            float(load.files.used_max),
        )?;
        self.gauge(
            "index_entries_limit",
            "The limit on them",
            float(load.files.limit),
        )?;
        self.gauge(
            "index_slice_entries",
            "Entries that the next directory leases",
            float(load.slice),
        )?;
        self.gauge(
            "tasks",
            "Directories in work and operations in flight",
            float(load.tasks.used),
        )?;
        self.gauge(
            "tasks_max",
            "The most that there were",
            float(load.tasks.used_max),
        )?;
        self.gauge("tasks_limit", "The limit on them", float(load.tasks.limit))?;
        let Some(requests) = load.requests else {
            return Ok(());
        };
        self.gauge(
            "requests_limit",
            "Requests to buckets that may wait for their answers",
            float(requests.limit),
        )?;
        let help = "Answers that said that there are too many requests";
        self.counters("requests_slowed", help, &[(&[], requests.slowed)])
    }

    fn load(&mut self, snapshot: &Snapshot) -> fmt::Result {
        let load = &snapshot.load;
        self.gauge(
            "directories_active",
            "Directories in work",
            float(load.dirs_active),
        )?;
        self.gauge("directories_limit", "How many may be", float(load.dirs_max))?;
        self.gauge(
            "directories_queued",
            "Directories that wait in queues",
            float(load.dirs_queued),
        )?;
        self.gauge(
            "permits_waiting",
            "Shards that wait for a permit",
            float(load.permits_waiting),
        )?;
        self.gauge(
            "cpu_share",
            "CPU time used, as a share of the cores",
            load.cpu_share,
        )?;
        let names: Vec<String> = load.cores.iter().map(|core| core.cpu.to_string()).collect();
        let labels: Vec<[(&str, &str); 1]> =
            names.iter().map(|name| [("core", name.as_str())]).collect();
        let each = |of: fn(&super::snapshot::Core) -> f64| -> Vec<(&Labels<'_>, f64)> {
            labels
                .iter()
                .map(|it| &it[..])
                .zip(load.cores.iter().map(of))
                .collect()
        };
        let queued = each(|core| float(core.dirs_queued));
        self.gauges(
            "core_directories_queued",
            "Directories that wait on the core",
            None,
            &queued,
        )?;
        let in_flight = each(|core| float(core.ops_in_flight));
        self.gauges(
            "core_operations_in_flight",
            "Operations under way in the kernel",
            None,
            &in_flight,
        )?;
        let depth = each(|core| float(core.io_depth));
        self.gauges(
            "core_in_flight_depth",
            "How many of them its ring may have",
            None,
            &depth,
        )?;
        let rate = each(|core| core.entries_per_second);
        self.gauges(
            "core_entries_per_second",
            "Source entries found by the core",
            None,
            &rate,
        )
    }

    fn latencies(&mut self, snapshot: &Snapshot) -> fmt::Result {
        let of = |kind: LabelsOf| {
            let all = snapshot.latencies.iter();
            let known = all.filter_map(|latency| Some((kind(latency.what)?, latency)));
            known.collect::<Vec<_>>()
        };
        let operations = of(|what| match what {
            Timed::Op(class, side) => {
                Some(vec![("operation", class.name()), ("side", side.name())])
            }
            _ => None,
        });
        self.histograms("operation", "Time that operations take", &operations)?;
        let waits = of(|what| match what {
            Timed::Wait(wait) => Some(vec![("stage", wait.name())]),
            _ => None,
        });
        self.histograms("wait", "Time that directories wait", &waits)?;
        let directories = of(|what| (what == Timed::Directory).then(Vec::new));
        self.histograms(
            "directory",
            "Time from a directory's permit to its end",
            &directories,
        )?;
        let requests = of(|what| match what {
            Timed::Request(kind) => Some(vec![("request", kind.name())]),
            _ => None,
        });
        let help = "Time from a request to a bucket to the beginning of its answer";
        self.histograms("request", help, &requests)
    }

    fn histograms(
        &mut self,
        name: &str,
        help: &str,
        all: &[(Vec<(&'static str, &'static str)>, &Latency)],
    ) -> fmt::Result {
        if all.is_empty() {
            return Ok(());
        }
        let unit = Some(&Unit::Seconds);
        let mut family = self
            .0
            .encode_descriptor(name, help, unit, MetricType::Histogram)?;
        for (labels, latency) in all {
            let histogram = &latency.histogram;
            let (sum, buckets) = (sum(histogram), buckets(histogram));
            let count = histogram.len();
            if labels.is_empty() {
                return family.encode_histogram::<NoLabels>(sum, count, &buckets, None);
            }
            let mut one = family.encode_family(labels)?;
            one.encode_histogram::<NoLabels>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

type NoLabels = Vec<(String, String)>;

/// Seconds of all together, as exact as the histogram is.
fn sum(histogram: &Histogram<u64>) -> f64 {
    histogram.mean() * float(histogram.len()) / 1e9
}

/// Counts between one bound and the next, the bounds in seconds.
fn buckets(histogram: &Histogram<u64>) -> Vec<(f64, u64)> {
    let mut before = 0;
    let mut buckets: Vec<(f64, u64)> = BUCKETS_NS
        .into_iter()
        .map(|bound| {
            let below = histogram.count_between(0, bound);
            let count = below - std::mem::replace(&mut before, below);
            (float(bound) / 1e9, count)
        })
        .collect();
    buckets.push((f64::MAX, histogram.len() - before));
    buckets
}

#[allow(clippy::cast_precision_loss)] // Counts above 2^53 are not told apart.
fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::requests::Figures;
    use crate::error::Side;
    use crate::model::{OpClass, RequestKind};
    use std::time::Duration;

    fn text() -> String {
        let mut histogram = Histogram::new_with_bounds(16, 3_600_000_000_000, 2).unwrap();
        histogram.record_n(2_000, 3).unwrap();
        histogram.record(70_000_000_000).unwrap();
        let what = Timed::Op(OpClass::Stat, Side::Source);
        let mut snapshot = Snapshot {
            elapsed: Duration::from_millis(2500),
            latencies: vec![
                Latency {
                    what,
                    histogram: histogram.clone(),
                },
                Latency {
                    what: Timed::Directory,
                    histogram: histogram.clone(),
                },
                Latency {
                    what: Timed::Request(RequestKind::Head),
                    histogram,
                },
            ],
            ..Snapshot::default()
        };
        snapshot.totals.bytes_copied = 77;
        snapshot.totals.files_found = 5;
        snapshot.errors.entry = 2;
        snapshot.load.files.engagements = 9;
        snapshot.load.requests = Some(Figures {
            limit: 64,
            slowed: 3,
        });
        snapshot.load.cores = vec![super::super::Core::default()];
        encode(Arc::new(snapshot)).unwrap()
    }

    #[test]
    fn names_have_units_and_values_are_there() {
        let text = text();
        for line in [
            "ringsync_elapsed_seconds 2.5",
            "ringsync_copied_bytes_total 77",
            "ringsync_files_found_total 5",
            "ringsync_errors_total{class=\"entry\"} 2",
            "ringsync_throttle_engagements_total{resource=\"files\"} 9",
            "ringsync_run_finished 0.0",
            "ringsync_operation_seconds_count{operation=\"statx\",side=\"source\"} 4",
            "# TYPE ringsync_operation_seconds histogram",
            "ringsync_request_seconds_count{request=\"HeadObject\"} 4",
            "ringsync_requests_limit 64.0",
            "ringsync_requests_slowed_total 3",
            "# HELP ringsync_dirs_listed Directories of the source that were listed",
        ] {
            assert!(
                text.lines().any(|it| it == line),
                "{line} is missing in\n{text}"
            );
        }
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn buckets_are_cumulative_and_end_with_all() {
        let text = text();
        let bucket = |bound: &str| {
            let start = format!("ringsync_directory_seconds_bucket{{le=\"{bound}\"}} ");
            let line = text.lines().find_map(|line| line.strip_prefix(&start));
            line.unwrap_or_else(|| panic!("no {bound} in\n{text}"))
                .to_owned()
        };
        assert_eq!(bucket("0.000001"), "0");
        assert_eq!(bucket("0.0000025"), "3");
        assert_eq!(bucket("60.0"), "3");
        assert_eq!(bucket("+Inf"), "4");
    }
}
