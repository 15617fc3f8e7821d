//! The options that a configuration file and the environment can give too. Their values stay text here: one parser serves
//! all sources.

use std::path::PathBuf;

use clap::Args;

macro_rules! tuning_args {
    ($($(#[$doc:meta])* $field:ident, $name:literal, $value:literal;)+) => {
        /// How the machine is used.
        #[derive(Debug, Default, Args)]
        #[command(next_help_heading = "Tuning (also in a configuration file and as RINGSYNC_* variables)")]
        pub struct TuningArgs {
            /// Read settings from FILE (TOML); see `ringsync config --help`
            #[arg(long, value_name = "FILE")]
            pub config: Option<PathBuf>,
            $(
                $(#[$doc])*
                #[arg(long = $name, value_name = $value, allow_hyphen_values = true)]
                pub $field: Option<String>,
            )+
        }

        impl TuningArgs {
            /// The names of all settings, in the order of the help.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// What was typed for a setting.
            #[must_use]
            pub fn given(&self, name: &str) -> Option<&str> {
                match name {
                    $($name => self.$field.as_deref(),)+
                    _ => None,
                }
            }
        }
    };
}

tuning_args! {
    /// How many cores to use, or which: `2`, `0,2`, `0-3,8` [default: all that this process may use]
    cores, "cores", "NUM|LIST";
    /// How system calls are made: `inline` on each core, through io_uring (`ring`), or as each filesystem's latency
    /// suggests (`auto`) [default: auto]
    io_engine, "io-engine", "ENGINE";
    /// Operations in flight on each core's ring, 1 to 4096; `auto` finds the best [default: auto]
    io_depth, "io-depth", "NUM";
    /// Directories in work at once, 1 to 65536 [default: 4 for each core between local file systems, else 2; the stats
    /// monitor may move the default, and lower what is given]
    crawl_parallelism, "crawl-parallelism", "NUM";
    /// Source entries in the index at once, at least 1; directories beyond it wait [default: 500,000 for each GiB of memory]
    max_active_files, "max-active-files", "NUM";
    /// Memory at most: from 80 % of it on, directories wait. A size such as `8G`, at least 32M, or percent such as `50%`
    /// [default: all of RAM, or what the control group allows]
    max_memory, "max-memory", "SIZE";
    /// Directories in work and operations in flight at once, at least 1 [default: 50000]
    max_tasks, "max-tasks", "NUM";
    /// Use of active files and tasks, in percent of their limits, at which directories wait, 2 to 100 [default: 100]
    throttle_engage, "throttle-engage", "PERCENT";
    /// Use at which they go on, 1 to 99 and below --throttle-engage [default: 85]
    throttle_release, "throttle-release", "PERCENT";
    /// Contents read per second, in KiB or with a unit such as `100M`; 0 is no limit [default: 0]
    bwlimit, "bwlimit", "RATE";
    /// Operations on both file systems per second; 0 is no limit [default: 0]
    ops_limit, "ops-limit", "NUM";
    /// Attempts in the whole run to repeat what failed for a reason that may pass (descriptors or memory used up, a server
    /// that does not answer); 0 tells each failure at once [default: 10000]
    retries, "retries", "NUM";
    /// Seconds between two samples of the stats monitor, 0.1 to 60 [default: 1]
    sample_interval, "sample-interval", "SECONDS";
    /// Samples that must agree before it moves a limit, 1 to 1000 [default: 10]
    consistency_threshold, "consistency-threshold", "NUM";
    /// Seconds between two of its moves, 0 to 86400 [default: 120]
    adjustment_cooldown, "adjustment-cooldown", "SECONDS";
    /// Measure how long operations take: `on` or `off` [default: on]
    histograms, "histograms", "WHEN";
    /// What --log-file gets: `text` or `json` [default: text]
    log_format, "log-format", "FORMAT";
}
