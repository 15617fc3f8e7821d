//! What a job remembers between its runs: where, and what makes two runs runs of one job.

use std::env;
use std::path::PathBuf;

use xxhash_rust::xxh3::xxh3_64;

use crate::cli::{CompareArgs, IncrementalArg, MemoryArgs, SelectArgs};
use crate::model::path::escape;
use crate::run::{Delete, Job};
use crate::state::Use;

/// A job that remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    pub dir: PathBuf,
    pub purpose: Use,
    /// What is remembered is read, and nothing written.
    pub dry_run: bool,
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
        let purpose = match (args.incremental, args.resume) {
            (Some(IncrementalArg::Skip), _) => Use::Skip,
            (Some(IncrementalArg::VerifyMeta), false) => Use::Verify,
            (Some(IncrementalArg::VerifyMeta), true) => {
                return Err(String::from(
                    "--incremental=verify-meta compares everything, and --resume does not: leave one of them out",
                ));
            }
            (None, true) => Use::Resume,
            (None, false) if args.state.is_some() => {
                return Err(String::from("--state goes with --incremental or --resume"));
            }
            (None, false) => return Ok(None),
        };
        let option = if args.resume {
            "--resume"
        } else {
            "--incremental"
        };
        if job.delete == Delete::After {
            return Err(format!(
                "{option} goes with --delete: --delete-after has to list every directory once more"
            ));
        }
        if compare.ignore_times {
            return Err(format!(
                "{option} passes over what is unchanged, and --ignore-times copies it: leave one of them out"
            ));
        }
        if compare.no_times {
            return Err(format!(
                "{option} needs times: by them it sees that a directory of DST was touched; leave --no-times out"
            ));
        }
        Ok(Some(Self {
            dir: state_dir(args.state.clone())?,
            purpose,
            dry_run: job.dry_run,
            options: options(compare, select, job, rules),
        }))
    }
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
    let all = format!(
        "{words:?} {:?} {:?} {:?} {rules:x} {:?}",
        job.policy,
        job.symlinks,
        (job.force, job.privileged, select.recursive),
        backup.map(|backup| (&backup.dir, escape(&backup.suffix))),
    );
    words.push(format!("#{:08x}", xxh3_64(all.as_bytes()) >> 32));
    words.join(" ")
}
