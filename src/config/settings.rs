//! Every tuning setting: what it may be, what it is without being given, and what it makes of a run.

use std::path::Path;
use std::time::Duration;

use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};

use super::layers::{Layers, Origin};
use super::parse;
use crate::control::bounds::Bounds;
use crate::control::retry;
use crate::detect::memory::Memory;
use crate::detect::mounts;
use crate::io::{DEPTH_MAX, EngineChoice};
use crate::run::limits;
use crate::run::tuning::{self, Tuning};
use crate::s3::Url;

/// What a log file gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// One setting as it holds, to be shown.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) shown: String,
    pub(super) value: Value,
    pub(super) origin: Origin,
}

/// All settings of a run.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) tuning: Tuning,
    pub(super) engine: EngineChoice,
    pub(super) cpus: Vec<usize>,
    pub(super) log_format: LogFormat,
    pub(super) rows: Vec<Row>,
}

const MEMORY_BYTES_MIN: u64 = 32 << 20;
const MEMORY_BYTES_MAX: u64 = 1 << 50;
const FILES_MAX: u64 = 100_000_000_000;
const DIRS_MAX: u64 = 65_536;
/// Between its default and the most that the stats monitor makes of it.
const DIRS_GROWTH_MAX: u64 = 16;
/// Between a limit of the index and the least that the stats monitor makes of it.
const FILES_SHRINK_MAX: u64 = 16;
const TASKS_MAX: u64 = 10_000_000;
/// More than any machine makes.
const OPS_PER_SECOND_MAX: u64 = 1_000_000_000_000;
const RETRIES_MAX: u64 = 1_000_000_000_000;
const SAMPLE_SECONDS: (f64, f64) = (0.1, 60.0);
const COOLDOWN_SECONDS: (f64, f64) = (0.0, 86_400.0);

impl Settings {
    /// Resolves all settings for a run between these places, whichever there are.
    ///
    /// # Errors
    /// A sentence that says which value of which source is wrong, and what is allowed.
    pub(super) fn resolve(layers: &Layers<'_>, places: &[&Path]) -> Result<Self, String> {
        let mut all = Resolver {
            layers,
            rows: Vec::new(),
        };
        let cpus = all.cpus()?;
        let engine = all.engine()?;
        let io_depth = all.io_depth(cpus.len() as u64)?;
        let dirs = all.dirs(cpus.len() as u64, places)?;
        let memory_max = all.memory()?;
        let files = all.files(memory_max)?;
        let count = |count: &u64| (HumanCount(*count).to_string(), json!(count));
        let built_in = |value| (value, Origin::BuiltIn);
        let tasks_max = all.resolve(
            "max-tasks",
            |text| parse::number(text, 1, TASKS_MAX),
            count,
            || built_in(tuning::TASKS_MAX),
        )?;
        let (engage_percent, release_percent) = all.thresholds()?;
        let rate = |rate: &u64| match rate {
            0 => (String::from("none"), Value::Null),
            rate => (format!("{}/s", HumanBytes(*rate)), json!(rate)),
        };
        let bytes = all.resolve("bwlimit", parse::rate, rate, || built_in(0))?;
        let per_second = |rate: &u64| match rate {
            0 => (String::from("none"), Value::Null),
            rate => (format!("{}/s", HumanCount(*rate)), json!(rate)),
        };
        let ops_parse = |text: &str| parse::number(text, 0, OPS_PER_SECOND_MAX);
        let ops = all.resolve("ops-limit", ops_parse, per_second, || built_in(0))?;
        let retries = all.resolve(
            "retries",
            |text| parse::number(text, 0, RETRIES_MAX),
            count,
            || built_in(retry::BUDGET),
        )?;
        let sample_interval = all.seconds("sample-interval", SAMPLE_SECONDS, 1.0)?;
        let consistency_threshold = all.resolve(
            "consistency-threshold",
            |text| parse::number(text, 1, 1000),
            count,
            || built_in(10),
        )?;
        let adjustment_cooldown = all.seconds("adjustment-cooldown", COOLDOWN_SECONDS, 120.0)?;
        let switch = |on: &bool| (String::from(if *on { "on" } else { "off" }), json!(on));
        let histograms = all.resolve("histograms", parse::switch, switch, || {
            (true, Origin::BuiltIn)
        })?;
        let log_format = all.log_format()?;
        let limited = |rate: u64| (rate > 0).then_some(rate);
        Ok(Self {
            tuning: Tuning {
                dirs,
                files,
                memory_max,
                tasks_max,
                engage_percent,
                release_percent,
                bytes_per_second: limited(bytes),
                ops_per_second: limited(ops),
                io_depth,
                sample_interval,
                consistency_threshold: u32::try_from(consistency_threshold).unwrap_or(u32::MAX),
                adjustment_cooldown,
                retries,
                histograms,
            },
            engine,
            cpus,
            log_format,
            rows: all.rows,
        })
    }
}

impl Settings {
    /// Each setting: its name, its value, where that comes from.
    pub(super) fn described(&self) -> Vec<[String; 3]> {
        let rows = self.rows.iter();
        rows.map(|row| {
            [
                row.name.to_owned(),
                row.shown.clone(),
                row.origin.to_string(),
            ]
        })
        .collect()
    }
}

/// Takes one setting after the other.
struct Resolver<'a> {
    layers: &'a Layers<'a>,
    rows: Vec<Row>,
}

impl Resolver<'_> {
    /// The value of a setting: what was given, or else the default.
    fn resolve<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
        show: impl Fn(&T) -> (String, Value),
        default: impl FnOnce() -> (T, Origin),
    ) -> Result<T, String> {
        let (value, origin) = match self.layers.given(name)? {
            None => default(),
            Some((text, origin)) => {
                let value = parse(text.trim()).map_err(|wrong| match &origin {
                    Origin::File { path, key } => {
                        format!("{key} = {text} in {} {wrong}", path.display())
                    }
                    Origin::Environment(name) => format!("{name}={text} {wrong}"),
                    _ => format!("--{name} {text} {wrong}"),
                })?;
                (value, origin)
            }
        };
        let (shown, json) = show(&value);
        self.rows.push(Row {
            name,
            shown,
            value: json,
            origin,
        });
        Ok(value)
    }

    fn cpus(&mut self) -> Result<Vec<usize>, String> {
        let allowed = limits::allowed_cpus();
        let show = |cpus: &Vec<usize>| {
            let list: Vec<String> = cpus.iter().map(ToString::to_string).collect();
            (format!("{}: {}", cpus.len(), list.join(",")), json!(cpus))
        };
        self.resolve(
            "cores",
            |text| parse::cpus(text, &allowed),
            show,
            || {
                let mask = String::from("the CPUs that this process may use");
                (allowed.clone(), Origin::Detected(mask))
            },
        )
    }

    fn engine(&mut self) -> Result<EngineChoice, String> {
        const NAMES: [(&str, EngineChoice); 3] = [
            ("auto", EngineChoice::Auto),
            ("ring", EngineChoice::Ring),
            ("inline", EngineChoice::Inline),
        ];
        self.resolve(
            "io-engine",
            |text| parse::word(text, &NAMES),
            |engine| name_of(*engine, &NAMES),
            || (EngineChoice::Auto, Origin::BuiltIn),
        )
    }

    fn log_format(&mut self) -> Result<LogFormat, String> {
        const NAMES: [(&str, LogFormat); 2] =
            [("text", LogFormat::Text), ("json", LogFormat::Json)];
        self.resolve(
            "log-format",
            |text| parse::word(text, &NAMES),
            |format| name_of(*format, &NAMES),
            || (LogFormat::Text, Origin::BuiltIn),
        )
    }

    fn io_depth(&mut self, rings: u64) -> Result<Bounds, String> {
        let parse = |text: &str| match text {
            "auto" => Ok(tuning::io_depth(rings)),
            text => parse::number(text, 1, DEPTH_MAX.into()).map(Bounds::fixed),
        };
        self.resolve("io-depth", parse, moving, || {
            let how = format!("moves while running; {} for all rings", HumanCount(1024));
            (tuning::io_depth(rings), Origin::Derived(how))
        })
    }

    fn dirs(&mut self, cores: u64, places: &[&Path]) -> Result<Bounds, String> {
        let parse = |text: &str| {
            let dirs = parse::number(text, 1, DIRS_MAX)?;
            Ok(Bounds::new(cores.min(dirs), dirs, dirs))
        };
        self.resolve("crawl-parallelism", parse, moving, || {
            let remote = places
                .iter()
                .filter_map(|place| mounts::of_path(place))
                .find(mounts::Mount::is_remote);
            let has_bucket = places.iter().any(|place| Url::is_one(place));
            let (factor, why) = match remote {
                _ if has_bucket => (tuning::DIRS_PER_CORE_OTHER, String::from("a bucket")),
                None => (
                    tuning::DIRS_PER_CORE_LOCAL,
                    String::from("local file systems"),
                ),
                Some(mount) => (tuning::DIRS_PER_CORE_OTHER, mount.filesystem),
            };
            let dirs = cores * factor;
            let bounds = Bounds::new(cores, dirs, (dirs * DIRS_GROWTH_MAX).min(DIRS_MAX));
            let how = format!("{cores} cores x {factor}, {why}; moves while running");
            (bounds, Origin::Derived(how))
        })
    }

    fn memory(&mut self) -> Result<u64, String> {
        let memory = Memory::detect();
        let limit = memory.limit();
        let parse = |text: &str| {
            let bytes = match text.strip_suffix('%') {
                Some(percent) => {
                    let percent = parse::number(percent.trim(), 1, 100).unwrap_or(0);
                    u64::try_from(u128::from(limit) * u128::from(percent) / 100).unwrap_or(limit)
                }
                None => parse::size(text)?,
            };
            let range = MEMORY_BYTES_MIN..=MEMORY_BYTES_MAX;
            range.contains(&bytes).then_some(bytes).ok_or_else(|| {
                String::from(
                    "is out of range: 32M to 1024T, or 1% to 100% of what there is and at least 32M",
                )
            })
        };
        let show = |bytes: &u64| (HumanBytes(*bytes).to_string(), json!(bytes));
        self.resolve("max-memory", parse, show, || {
            let ram = memory.total.map_or_else(
                || String::from("RAM unknown"),
                |total| format!("RAM {}", HumanBytes(total)),
            );
            let group = memory.cgroup.map_or_else(
                || String::from("no control group limit"),
                |(limit, version)| format!("control group v{version} limit {}", HumanBytes(limit)),
            );
            // A group may allow less than the least that makes sense; then that is its limit all the same.
            (limit, Origin::Detected(format!("{ram}, {group}")))
        })
    }

    fn files(&mut self, memory: u64) -> Result<Bounds, String> {
        let bounds = |files: u64| Bounds::new(files.div_ceil(FILES_SHRINK_MAX), files, files);
        let parse = |text: &str| parse::number(text, 1, FILES_MAX).map(bounds);
        self.resolve("max-active-files", parse, moving, || {
            let how = format!(
                "{} x {} for each GiB; moves while running",
                HumanBytes(memory),
                HumanCount(tuning::FILES_PER_GIB)
            );
            let files = tuning::files_for(memory);
            (bounds(files), Origin::Derived(how))
        })
    }

    fn thresholds(&mut self) -> Result<(u8, u8), String> {
        let percent = |value: &u64| (format!("{value} %"), json!(value));
        let engage = self.resolve(
            "throttle-engage",
            |text| parse::number(text, 2, 100),
            percent,
            || (100, Origin::BuiltIn),
        )?;
        let release = self.resolve(
            "throttle-release",
            |text| parse::number(text, 1, 99),
            percent,
            || match engage {
                86.. => (85, Origin::BuiltIn),
                low => (
                    low - 1,
                    Origin::Derived(String::from("below throttle-engage")),
                ),
            },
        )?;
        if release >= engage {
            return Err(format!(
                "throttle-release is {release} % and throttle-engage {engage} %: the first has to be below the second"
            ));
        }
        let small = |value: u64| u8::try_from(value).unwrap_or(100);
        Ok((small(engage), small(release)))
    }

    fn seconds(
        &mut self,
        name: &'static str,
        (least, most): (f64, f64),
        usual: f64,
    ) -> Result<Duration, String> {
        let seconds = self.resolve(
            name,
            |text| parse::seconds(text, least, most),
            |seconds| (format!("{seconds} s"), json!(seconds)),
            || (usual, Origin::BuiltIn),
        )?;
        Ok(Duration::from_secs_f64(seconds))
    }
}

/// A limit with the range that it moves in.
fn moving(bounds: &Bounds) -> (String, Value) {
    let Bounds {
        floor,
        start,
        ceiling,
    } = *bounds;
    let value = json!({ "start": start, "floor": floor, "ceiling": ceiling });
    if floor == ceiling {
        return (HumanCount(start).to_string(), value);
    }
    let [start, floor, ceiling] = [start, floor, ceiling].map(HumanCount);
    (format!("{start} ({floor} to {ceiling})"), value)
}

fn name_of<T: Copy + PartialEq>(value: T, names: &[(&str, T)]) -> (String, Value) {
    let name = names.iter().find(|(_, known)| *known == value);
    let name = name.map_or("", |(name, _)| *name);
    (name.to_owned(), json!(name))
}
