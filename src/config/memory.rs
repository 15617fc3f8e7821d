//! What a job remembers between its runs: where, and what makes two runs runs of one job.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::parse;
use crate::cli::{CompareArgs, IncrementalArg, MemoryArgs, SelectArgs};
use crate::model::Time;
use crate::model::filter::Filter;
use crate::model::path::escape;
use crate::run::{Delete, Job};
use crate::state::Use;
use crate::transfer::WriteMode;

/// With `--since`: when the last run began that succeeded.
const LAST: &str = "last";

/// A job that remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    pub dir: PathBuf,
    pub purpose: Use,
    /// What is remembered is read, and nothing written.
    pub dry_run: bool,
    /// Large files may be left in part.
    pub partial: bool,
    /// What has a say in what the destination holds afterwards: in words, and a digest of it all.
    pub options: String,
}

impl Memory {
    /// `rules`: a digest of all rules and lists.
    ///
    /// # Errors
    /// A sentence that says which options do not go together, and why; or that there is no place for the state.
    pub(super) fn of(
        args: &MemoryArgs,
        compare: &CompareArgs,
        select: &SelectArgs,
        job: &Job,
        rules: u64,
    ) -> Result<Option<Self>, String> {
        let given = [
            ("--incremental", args.incremental.is_some()),
            ("--resume", args.resume),
            ("--since", args.since.is_some()),
        ];
        let mut given = given.iter().filter(|(_, given)| *given);
        let Some((option, _)) = given.next() else {
            if args.partial {
                return Err(String::from(
                    "--partial goes with --resume or --incremental",
                ));
            }
            return match args.state {
                Some(_) => Err(String::from(
                    "--state goes with --incremental, --resume or --since last",
                )),
                None => Ok(None),
            };
        };
        check(option, args, compare, job)?;
        let purpose = match (args.incremental, args.resume, args.since.as_deref()) {
            (_, _, Some(LAST)) => Use::Since,
            (_, _, Some(_)) if args.state.is_some() => {
                return Err(String::from(
                    "--since TIME needs no --state: that goes with --since last",
                ));
            }
            (_, _, Some(_)) => return Ok(None),
            (Some(IncrementalArg::Skip), ..) => Use::Skip,
            (Some(IncrementalArg::VerifyMeta), ..) => Use::Verify,
            (None, ..) => Use::Resume,
        };
        Ok(Some(Self {
            dir: state_dir(args.state.clone())?,
            purpose,
            partial: args.partial,
            dry_run: job.dry_run,
            options: options(compare, select, job, rules),
        }))
    }
}

/// Refuses what does not go together with an option.
fn check(option: &str, args: &MemoryArgs, compare: &CompareArgs, job: &Job) -> Result<(), String> {
    let verify = args.incremental == Some(IncrementalArg::VerifyMeta);
    let reads_rules = |filter: &Arc<Filter>| filter.reads_rules_of_tree();
    let since = args.since.is_some();
    let refused = if since && job.has_bucket() {
        "--since goes by the ctimes of directories, and buckets have none: use --incremental, which goes by their listings"
    } else if since && (args.incremental.is_some() || args.resume) {
        "--incremental and --resume know which directories have changed, and --since only when: leave --since out"
    } else if verify && args.resume {
        "--incremental=verify-meta compares everything, and --resume does not: leave one of them out"
    } else if since && args.partial {
        "--partial goes with --resume or --incremental: --since remembers nothing of files"
    } else if args.partial && job.to_bucket() {
        "--partial keeps files in part, and an object appears as a whole: leave it out"
    } else if args.partial && job.write_mode != WriteMode::Atomic {
        "--partial keeps files in part under temporary names: it goes with --write-mode atomic alone"
    } else if args.partial && job.sparse {
        "--partial goes on with files without holes, and --sparse makes some: leave one of them out"
    } else if since && job.delete != Delete::Never {
        "--since does not look at what DST has, so it cannot --delete: use --incremental"
    } else if since && job.filter.as_ref().is_some_and(reads_rules) {
        "--since does not see for which directories the rules in merge files have changed: use --incremental"
    } else if job.delete == Delete::After {
        return Err(format!(
            "{option} goes with --delete: --delete-after has to list every directory once more"
        ));
    } else if compare.ignore_times {
        return Err(format!(
            "{option} passes over what is unchanged, and --ignore-times copies it: leave one of them out"
        ));
    } else if compare.no_times && !since && !job.to_bucket() {
        return Err(format!(
            "{option} needs times: by them it sees that a directory of DST was touched; leave --no-times out"
        ));
    } else {
        return Ok(());
    };
    Err(String::from(refused))
}

/// The time of `--since`, when that is one.
///
/// # Errors
/// A sentence that says what a time is.
pub(super) fn since(args: &MemoryArgs) -> Result<Option<Time>, String> {
    let Some(text) = args.since.as_deref().filter(|text| *text != LAST) else {
        return Ok(None);
    };
    let time = parse::past(text)
        .map_err(|error| format!("--since '{text}' {error}; or '{LAST}', for the last run"))?;
    Ok(Some(time))
}

/// Where states are: where the user says, else where the XDG base directories have them.
///
/// # Errors
/// When the user says nothing, and the environment neither.
pub fn state_dir(given: Option<PathBuf>) -> Result<PathBuf, String> {
    let absolute = |name| {
        env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let dir = given
        .or_else(|| Some(absolute("XDG_STATE_HOME")?.join("ringsync")))
        .or_else(|| Some(absolute("HOME")?.join(".local/state/ringsync")));
    dir.ok_or_else(|| {
        String::from(
            "there is no place for the state: give --state DIR, or set XDG_STATE_HOME or HOME",
        )
    })
}

fn options(compare: &CompareArgs, select: &SelectArgs, job: &Job, rules: u64) -> String {
    let switches = [
        ("--delete", job.delete != Delete::Never),
        ("--delete-excluded", select.delete_excluded),
        ("-c", compare.checksum),
        ("-H", compare.hard_links),
        ("-A", compare.acls),
        ("-X", compare.xattrs),
        ("-L", compare.copy_links),
        ("-x", compare.one_file_system),
        ("--backup", job.backup.is_some()),
        ("rules", job.filter.is_some()),
        ("--files-from", job.selection.is_some()),
    ];
    let on = switches.iter().filter(|(_, on)| *on);
    let mut words: Vec<String> = on.map(|(name, _)| String::from(*name)).collect();
    // Everything that decides, the seldom options and what this user may do included.
    let backup = job.backup.as_ref();
    let form = job.has_bucket().then(|| format!(" {:?}", job.s3.form));
    let all = format!(
        "{words:?} {:?} {:?} {:?} {rules:x} {:?}{}",
        job.policy,
        job.symlinks,
        (job.force, job.privileged, select.recursive),
        backup.map(|backup| (&backup.dir, escape(&backup.suffix))),
        form.unwrap_or_default(),
    );
    words.push(format!("#{:08x}", xxh3_64(all.as_bytes()) >> 32));
    words.join(" ")
}
