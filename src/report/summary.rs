//! The end of a run: in words, as JSON, and as an exit code.

use indicatif::{HumanBytes, HumanCount};

use super::errors::ErrorGroup;
use super::{ErrorCounts, Errors, figures};
use crate::monitor::Snapshot;
use crate::run::{Outcome, Task};
use crate::throttle::Reason;

/// Kinds of errors that the summary lists.
const GROUPS_TOLD_MAX: usize = 10;
/// From so many errors on it lists their kinds.
const GROUPED_FROM: u64 = 20;

/// Exit codes; rsync's where it has one.
pub mod exit {
    pub const DONE: u8 = 0;
    pub const USAGE: u8 = 1;
    pub const LOCATION: u8 = 3;
    pub const FILE_IO: u8 = 11;
    pub const INTERRUPTED: u8 = 20;
    pub const PARTIAL: u8 = 23;
    pub const VANISHED: u8 = 24;
    pub const MAX_DELETE: u8 = 25;
    pub const TIMEOUT: u8 = 30;
}

/// The exit code of a run that came to an end.
#[must_use]
pub fn exit_code(task: Task, outcome: &Outcome, errors: &ErrorCounts) -> u8 {
    match outcome.cancelled {
        Some(Reason::Interrupted) => return exit::INTERRUPTED,
        Some(Reason::Fatal | Reason::Panicked | Reason::Refused | Reason::NoAnswer) => {
            return exit::FILE_IO;
        }
        Some(Reason::StopTime | Reason::TimedOut) => return exit::TIMEOUT,
        None => {}
    }
    let unequal = outcome.totals.entries_differing + errors.vanished > 0;
    if errors.fatal > 0 {
        exit::FILE_IO
    } else if errors.entry > 0 || (task == Task::Check && unequal) {
        exit::PARTIAL
    } else if outcome.deletions_refused {
        exit::MAX_DELETE
    } else if errors.vanished > 0 {
        exit::VANISHED
    } else {
        exit::DONE
    }
}

/// The summary as one JSON object.
#[must_use]
pub fn json(
    task: Task,
    dry_run: bool,
    outcome: &Outcome,
    errors: &Errors,
    last: &Snapshot,
) -> String {
    let (groups, errors) = (&errors.groups, &errors.counts);
    let seconds = outcome.elapsed.as_secs_f64();
    let mut object = serde_json::json!({
        "event": "summary",
        "task": match task { Task::Sync => "sync", Task::Check => "check", Task::Scan => "scan" },
        "dry_run": dry_run,
        "seconds": seconds,
        "entries_per_second": rate(outcome.totals.entries_found, seconds),
        "errors": errors.entry + errors.fatal,
        "vanished": errors.vanished,
        "warnings": errors.warnings,
        "exit_code": exit_code(task, outcome, errors),
        "depth_max": outcome.depth_max,
        "file_size_max": outcome.file_size_max,
        "error_groups": groups.iter().map(group).collect::<Vec<_>>(),
    });
    if let (Some(object), Ok(serde_json::Value::Object(totals))) =
        (object.as_object_mut(), serde_json::to_value(outcome.totals))
    {
        object.extend(totals);
        object.extend(figures::json(last));
    }
    object.to_string()
}

fn group(group: &ErrorGroup) -> serde_json::Value {
    serde_json::json!({
        "class": group.class.name(),
        "operation": group.op.verb(),
        "side": group.side.name(),
        "cause": group.cause,
        "count": group.count,
        "paths": group.paths,
    })
}

/// The summary in words.
#[must_use]
pub fn words(task: Task, dry_run: bool, outcome: &Outcome, errors: &Errors) -> String {
    let totals = &outcome.totals;
    let seconds = outcome.elapsed.as_secs_f64();
    let found = format!(
        "{} entries in {} directories, {}",
        HumanCount(totals.entries_found),
        HumanCount(totals.dirs_listed),
        HumanBytes(totals.bytes_found),
    );
    let speed = format!(
        "{seconds:.2} s, {} entries/s",
        HumanCount(rate(totals.entries_found, seconds))
    );
    let mut lines = Vec::new();
    match task {
        Task::Scan => {
            lines.push(format!("scanned {found} in {speed}"));
            lines.push(format!(
                "{} files, {} directories, {} symlinks, {} specials; depth {}, largest file {}",
                HumanCount(totals.files_found),
                HumanCount(totals.dirs_found),
                HumanCount(totals.symlinks_found),
                HumanCount(totals.specials_found),
                outcome.depth_max,
                HumanBytes(outcome.file_size_max),
            ));
        }
        Task::Check => {
            lines.push(format!("compared {found} in {speed}"));
            lines.push(match totals.entries_differing {
                0 => String::from("no differences"),
                count => format!("{} differences", HumanCount(count)),
            });
        }
        Task::Sync => {
            lines.push(format!("compared {found} in {speed}"));
            lines.push(changes(dry_run, outcome));
        }
    }
    lines.extend(troubles(outcome, errors));
    lines.join("\n")
}

fn changes(dry_run: bool, outcome: &Outcome) -> String {
    let totals = &outcome.totals;
    let counts = [
        (totals.dirs_made, "directories made"),
        (totals.links_made, "hard links made"),
        (totals.symlinks_made, "symlinks made"),
        (totals.specials_made, "specials made"),
        (totals.entries_repaired, "metadata repaired"),
        (totals.entries_deleted, "deleted"),
        (totals.strays_removed, "stray temporary files removed"),
        (totals.entries_skipped, "skipped"),
    ];
    let mut parts = vec![format!(
        "{}{} files copied ({})",
        if dry_run {
            "dry run, nothing changed: "
        } else {
            ""
        },
        HumanCount(totals.files_copied),
        HumanBytes(totals.bytes_copied + totals.bytes_cloned),
    )];
    let made = counts.into_iter().filter(|(count, _)| *count > 0);
    parts.extend(made.map(|(count, what)| format!("{} {what}", HumanCount(count))));
    parts.push(format!(
        "{} equal already",
        HumanCount(totals.entries_equal)
    ));
    if totals.bytes_resumed > 0 {
        parts.push(format!(
            "{} left by an interrupted run",
            HumanBytes(totals.bytes_resumed)
        ));
    }
    if totals.dirs_unchanged > 0 {
        parts.push(format!(
            "{} directories unchanged since an earlier run ({} calls saved)",
            HumanCount(totals.dirs_unchanged),
            HumanCount(totals.calls_saved)
        ));
    }
    parts.join(", ")
}

/// What went wrong, a sentence each: the part of the summary that `--quiet` keeps, on standard error.
#[must_use]
pub fn troubles(outcome: &Outcome, errors: &Errors) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    // A few errors are still in sight; of many, the kinds are.
    if errors.counts.total() + errors.counts.warnings > GROUPED_FROM {
        let groups = errors.groups.iter().take(GROUPS_TOLD_MAX);
        lines.extend(groups.map(|group| format!("  {}", group.words())));
        let rest = errors.groups.len().saturating_sub(GROUPS_TOLD_MAX);
        if rest > 0 {
            lines.push(format!("  and {rest} more kinds of errors"));
        }
    }
    let errors = &errors.counts;
    let failed = errors.entry + errors.fatal;
    if failed > 0 {
        lines.push(format!(
            "{} errors: some entries were not synced",
            HumanCount(failed)
        ));
    }
    if errors.vanished > 0 {
        lines.push(format!(
            "{} source entries vanished",
            HumanCount(errors.vanished)
        ));
    }
    if errors.warnings > 0 {
        lines.push(format!("{} warnings", HumanCount(errors.warnings)));
    }
    if errors.unprinted > 0 {
        lines.push(format!(
            "{} of these were not printed",
            HumanCount(errors.unprinted)
        ));
    }
    if outcome.deletions_refused {
        lines.push(String::from(
            "--max-delete was reached: some names stay that the source lacks",
        ));
    }
    let end = outcome.cancelled.map(|reason| match reason {
        Reason::Interrupted => "interrupted: the same command continues",
        Reason::Fatal => "stopped early: the destination takes no more",
        Reason::Refused => {
            "stopped early: the server does not take the credentials, or the clock of this machine (the log has its words); once they are right, the same command continues"
        }
        Reason::NoAnswer => {
            "stopped early: a server does not answer any more; once it does, the same command continues"
        }
        Reason::Panicked => "stopped early by a bug in ringsync",
        Reason::StopTime => "stopped by --stop-after: the same command continues",
        Reason::TimedOut => {
            "stopped by --timeout: for that long nothing was completed; the same command continues"
        }
    });
    lines.extend(end.map(String::from));
    lines
}

/// Every counter by name, for `--stats`.
#[must_use]
pub fn stats(outcome: &Outcome, errors: &ErrorCounts) -> String {
    let mut lines = Vec::new();
    if let Ok(serde_json::Value::Object(totals)) = serde_json::to_value(outcome.totals) {
        for (name, value) in totals {
            lines.push(format!("{:<20} {value:>16}", name.replace('_', " ")));
        }
    }
    for (name, value) in [
        ("errors", errors.entry + errors.fatal),
        ("vanished", errors.vanished),
        ("warnings", errors.warnings),
        ("depth max", outcome.depth_max),
        ("file size max", outcome.file_size_max),
    ] {
        lines.push(format!("{name:<20} {value:>16}"));
    }
    lines.join("\n")
}

fn rate(count: u64, seconds: f64) -> u64 {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )]
    // A rate for the eye.
    let rate = (count as f64 / seconds.max(1e-9)) as u64;
    rate
}
