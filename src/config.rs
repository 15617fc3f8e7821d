//! What was decided: the command line and what this machine allows, made into a job. Bad input is refused here, with
//! what is allowed.

mod buckets;
mod filter;
mod layers;
mod memory;
mod parse;
mod settings;
mod show;

use std::ffi::OsString;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::{
    CheckArgs, CompareArgs, ConfigArgs, DirectIoArg, FsyncArg, LimitArgs, ProgressArg, ReflinkArg,
    ReportArgs, ScanArgs, SyncArgs, TuningArgs, WriteModeArg,
};
use crate::model::path::escape;
use crate::model::{Carried, Policy, Symlinks, Time};
use crate::monitor::listen;
use crate::report::{Detail, ProgressStyle, ReportOptions};
use crate::run::backup::BackupJob;
use crate::run::watchdog::WatchLimits;
use crate::run::{Delete, Job, Task, limits};
use crate::s3::Url;
use crate::transfer::{Fsync, Reflink, WriteMode};
pub use buckets::{buckets_of, cleanup};
use layers::Layers;
pub use memory::{Memory, state_dir};
pub use settings::LogFormat;
use settings::Settings;

/// A job and how to tell about it.
#[derive(Debug)]
pub struct Config {
    pub job: Job,
    /// What is remembered between runs.
    pub memory: Option<Memory>,
    /// What changed earlier is not compared.
    pub since: Option<Time>,
    pub report: ReportOptions,
    /// When to end early.
    pub watch: WatchLimits,
    /// No summary.
    pub quiet: bool,
    /// All counters at the end.
    pub stats: bool,
    pub log_file: Option<PathBuf>,
    pub log_format: LogFormat,
    /// Where metrics are served.
    pub metrics: Option<SocketAddr>,
    /// The file that gets a page about the run.
    pub page: Option<PathBuf>,
    /// Each setting: its name, its value, where that comes from.
    pub settings: Vec<[String; 3]>,
}

impl Config {
    /// # Errors
    /// A sentence that says what is wrong and what is allowed.
    pub fn for_sync(args: SyncArgs) -> Result<Self, String> {
        let chosen = filter::choose(&args.rules, &args.select, &args.src, &args.dst)?;
        let (base, settings) = base_job(Task::Sync, args.src, Some(args.dst), &args.tuning)?;
        let delete = args.delete || args.select.delete_excluded;
        let delete = match (args.delete_after, delete) {
            (true, _) => Delete::After,
            (false, true) => Delete::During,
            (false, false) => Delete::Never,
        };
        let needs_delete = [
            ("--max-delete", args.max_delete.is_some()),
            ("--force-delete", args.force_delete),
        ];
        for (option, _) in needs_delete.iter().filter(|(_, given)| *given) {
            if delete == Delete::Never {
                return Err(format!(
                    "{option} goes with --delete, --delete-after or --delete-excluded"
                ));
            }
        }
        let job = Job {
            policy: Policy {
                size_min: chosen.size_min,
                size_max: chosen.size_max,
                ..policy(&args.compare, base.dest.as_deref().unwrap_or(&base.source))
            },
            s3: buckets::written(args.s3, args.s3_write, &base)?,
            filter: chosen.filter,
            selection: chosen.selection,
            one_file_system: args.compare.one_file_system,
            symlinks: symlinks(&args.compare),
            delete,
            // As rsync has it: a negative number allows none.
            delete_max: args
                .max_delete
                .map(|most| usize::try_from(most).unwrap_or(0)),
            force_delete: args.force_delete,
            force: args.force,
            dry_run: args.dry_run,
            write_mode: write_mode(args.write_mode, args.inplace)?,
            fsync: match args.fsync {
                FsyncArg::None => Fsync::None,
                FsyncArg::File => Fsync::File,
                FsyncArg::End => Fsync::End,
            },
            verify: args.verify,
            backup: backup(args.backup, args.backup_dir, args.suffix)?,
            reflink: match args.reflink {
                ReflinkArg::Auto => Reflink::Auto,
                ReflinkArg::Always => Reflink::Always,
                ReflinkArg::Never => Reflink::Never,
            },
            sparse: args.sparse,
            trust_holes: !args.ignore_holes,
            direct_io: args.direct_io == DirectIoArg::Auto,
            ..base
        };
        let rules = chosen.digest;
        let since = memory::since(&args.memory)?;
        let memory = Memory::of(&args.memory, &args.compare, &args.select, &job, rules)?;
        let config = Self::with_report(job, args.report, &args.limits, &settings, Detail::None)?;
        Ok(Self {
            memory,
            since,
            ..config
        })
    }

    /// # Errors
    /// A sentence that says what is wrong and what is allowed.
    pub fn for_check(args: CheckArgs) -> Result<Self, String> {
        let chosen = filter::choose(&args.rules, &args.select, &args.src, &args.dst)?;
        let (base, settings) = base_job(Task::Check, args.src, Some(args.dst), &args.tuning)?;
        let job = Job {
            policy: Policy {
                size_min: chosen.size_min,
                size_max: chosen.size_max,
                ..policy(&args.compare, base.dest.as_deref().unwrap_or(&base.source))
            },
            s3: buckets::reached(args.s3, &base)?,
            filter: chosen.filter,
            selection: chosen.selection,
            one_file_system: args.compare.one_file_system,
            symlinks: symlinks(&args.compare),
            delete: Delete::During,
            dry_run: true,
            ..base
        };
        Self::with_report(job, args.report, &args.limits, &settings, Detail::Itemized)
    }

    /// # Errors
    /// A sentence that says what is wrong and what is allowed.
    pub fn for_scan(args: ScanArgs) -> Result<Self, String> {
        let filter = filter::rules_only(&args.rules, &args.path)?;
        let (base, settings) = base_job(Task::Scan, args.path, None, &args.tuning)?;
        let job = Job {
            s3: buckets::reached(args.s3, &base)?,
            filter,
            one_file_system: args.one_file_system,
            ..base
        };
        Self::with_report(job, args.report, &args.limits, &settings, Detail::None)
    }

    fn with_report(
        job: Job,
        args: ReportArgs,
        limits: &LimitArgs,
        settings: &Settings,
        detail: Detail,
    ) -> Result<Self, String> {
        let is_seen = !args.dashboard || !std::io::stdout().is_terminal();
        if !is_seen && (args.json || args.itemize_changes || args.verbose) {
            return Err(String::from(
                "--dashboard takes the terminal: send standard output elsewhere, or leave out --json, -i and -v",
            ));
        }
        let metrics = args.metrics_listen.as_deref().map(listen::parse_address);
        let detail = match (args.quiet, args.itemize_changes, args.verbose) {
            (true, ..) => Detail::None,
            _ if !is_seen => Detail::None,
            (_, true, _) => Detail::Itemized,
            (_, _, true) if detail == Detail::None => Detail::Names,
            _ => detail,
        };
        let progress = match args.progress {
            ProgressArg::Auto if args.quiet || args.json => ProgressStyle::None,
            ProgressArg::Auto => ProgressStyle::auto(),
            ProgressArg::Bar => ProgressStyle::Bar,
            ProgressArg::Plain => ProgressStyle::Plain,
            ProgressArg::None => ProgressStyle::None,
        };
        Ok(Self {
            watch: watch_limits(limits)?,
            job,
            memory: None,
            since: None,
            report: ReportOptions {
                detail,
                json: args.json,
                numeric_ids: args.numeric_ids,
                progress,
                dashboard: args.dashboard,
            },
            metrics: metrics.transpose()?,
            page: args.report,
            settings: settings.described(),
            quiet: args.quiet,
            stats: args.stats,
            log_file: args.log_file,
            log_format: settings.log_format,
        })
    }
}

fn watch_limits(args: &LimitArgs) -> Result<WatchLimits, String> {
    /// Longer than anybody waits, and short enough to be added to any time.
    const SECONDS_MAX: f64 = 1e9;
    let (stop_after, timeout) = (args.stop_after.map(|minutes| minutes * 60.0), args.timeout);
    if stop_after.is_some_and(|seconds| !(seconds > 0.0 && seconds <= SECONDS_MAX)) {
        return Err(String::from(
            "--stop-after takes minutes above 0, such as 90 or 0.5",
        ));
    }
    if !(0.0..=SECONDS_MAX).contains(&timeout) {
        return Err(String::from(
            "--timeout takes seconds, such as 60; 0 waits for ever",
        ));
    }
    Ok(WatchLimits {
        stop_after: stop_after.map(Duration::from_secs_f64),
        timeout: (timeout > 0.0).then(|| Duration::from_secs_f64(timeout)),
    })
}

/// `ringsync config`: the settings that would hold, in words or as JSON.
///
/// # Errors
/// A sentence that says what is wrong and what is allowed.
pub fn describe(args: &ConfigArgs) -> Result<String, String> {
    let places: Vec<&Path> = args
        .src
        .iter()
        .chain(&args.dst)
        .map(AsRef::as_ref)
        .collect();
    let settings = settings(&args.tuning, &places)?;
    Ok(if args.json {
        show::json(&settings.rows)
    } else {
        show::words(&settings.rows)
    })
}

fn settings(args: &TuningArgs, places: &[&Path]) -> Result<Settings, String> {
    let environment = |name: &str| std::env::var_os(name);
    Settings::resolve(&Layers::gather(args, &environment)?, places)
}

fn base_job(
    task: Task,
    source: PathBuf,
    dest: Option<PathBuf>,
    tuning: &TuningArgs,
) -> Result<(Job, Settings), String> {
    let places: Vec<&Path> = [Some(&source), dest.as_ref()]
        .into_iter()
        .flatten()
        .map(AsRef::as_ref)
        .collect();
    let settings = settings(tuning, &places)?;
    let job = Job {
        engine: settings.engine,
        tuning: settings.tuning,
        descriptors_max: limits::raise_descriptor_limit(),
        privileged: limits::is_privileged(),
        own_uid: limits::own_uid(),
        umask: limits::clear_umask(),
        ..Job::archive(task, source, dest, settings.cpus.clone())
    };
    Ok((job, settings))
}

fn write_mode(mode: Option<WriteModeArg>, inplace: bool) -> Result<WriteMode, String> {
    match (mode, inplace) {
        (Some(WriteModeArg::Atomic), true) => Err(String::from(
            "--inplace overwrites files where they are, and --write-mode atomic never does: leave one of them out",
        )),
        (_, true) => Ok(WriteMode::InPlace),
        (Some(WriteModeArg::Direct), false) => Ok(WriteMode::Direct),
        (Some(WriteModeArg::Atomic) | None, false) => Ok(WriteMode::Atomic),
    }
}

/// As in rsync: a directory implies backups and needs no suffix.
fn backup(
    wanted: bool,
    dir: Option<PathBuf>,
    suffix: Option<OsString>,
) -> Result<Option<BackupJob>, String> {
    if !wanted && dir.is_none() {
        return match suffix {
            None => Ok(None),
            Some(_) => Err(String::from("--suffix goes with --backup or --backup-dir")),
        };
    }
    if dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
        return Err(String::from("--backup-dir needs the name of a directory"));
    }
    let suffix = match suffix {
        Some(suffix) => suffix.into_vec(),
        None if dir.is_none() => vec![b'~'],
        None => Vec::new(),
    };
    if suffix.contains(&b'/') {
        return Err(format!(
            "--suffix '{}' contains a slash: it is added to names, not paths",
            escape(&suffix)
        ));
    }
    if suffix.is_empty() && dir.is_none() {
        return Err(String::from(
            "--suffix is empty: without a --backup-dir, backups need names of their own",
        ));
    }
    Ok(Some(BackupJob { dir, suffix }))
}

fn policy(args: &CompareArgs, dest: &Path) -> Policy {
    let privileged = limits::is_privileged();
    // Whoever may write an object may write into it whose file it was.
    let may_give = privileged || Url::is_one(dest);
    Policy {
        compare_contents: args.checksum,
        compare_size_only: args.size_only,
        copy_always: args.ignore_times,
        keep_newer: args.update,
        only_existing: args.existing,
        only_missing: args.ignore_existing,
        modify_window_s: args.modify_window,
        carry_mode: !args.no_perms,
        carry_owner: !args.no_owner && may_give,
        carry_group: !args.no_group,
        // One small list for the life of the process, so that a policy can be copied freely.
        groups_settable: (!may_give).then(|| &*limits::own_groups().leak()),
        carry_times: !args.no_times,
        carry_devices: !args.no_devices && privileged,
        carry_specials: !args.no_specials,
        extended: Carried {
            acls: args.acls,
            xattrs: args.xattrs,
            every_namespace: privileged,
        },
        carry_links: args.hard_links,
        ..Policy::archive()
    }
}

fn symlinks(args: &CompareArgs) -> Symlinks {
    match (args.copy_links, args.copy_unsafe_links, args.safe_links) {
        (true, ..) => Symlinks::Follow,
        (_, true, _) => Symlinks::FollowUnsafe,
        (_, _, true) => Symlinks::SkipUnsafe,
        _ => Symlinks::Keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_as_in_rsync() {
        let suffix = |text: &str| Some(OsString::from(text));
        let dir = || Some(PathBuf::from("old"));
        let chosen = |job: Option<BackupJob>| job.map(|job| (job.dir.is_some(), job.suffix));
        assert_eq!(chosen(backup(false, None, None).unwrap()), None);
        let rows = [
            (backup(true, None, None), (false, "~")),
            (backup(true, None, suffix(".old")), (false, ".old")),
            (backup(false, dir(), None), (true, "")),
            (backup(true, dir(), suffix(".1")), (true, ".1")),
        ];
        for (job, (has_dir, suffix)) in rows {
            let expected = Some((has_dir, suffix.as_bytes().to_vec()));
            assert_eq!(chosen(job.unwrap()), expected);
        }
        for (job, word) in [
            (backup(false, None, suffix("x")), "--backup"),
            (backup(true, None, suffix("")), "empty"),
            (backup(true, None, suffix("a/b")), "slash"),
            (backup(false, Some(PathBuf::new()), None), "name"),
        ] {
            assert!(job.unwrap_err().contains(word), "{word}");
        }
    }

    #[test]
    fn in_place_is_not_atomic() {
        assert_eq!(write_mode(None, false).unwrap(), WriteMode::Atomic);
        assert_eq!(write_mode(None, true).unwrap(), WriteMode::InPlace);
        let direct = Some(WriteModeArg::Direct);
        assert_eq!(write_mode(direct, true).unwrap(), WriteMode::InPlace);
        assert!(write_mode(Some(WriteModeArg::Atomic), true).is_err());
    }
}
