//! The command line: what was typed. What it means is decided in `config.rs`.

mod filter;
mod tuning;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub use filter::{RuleArg, RuleArgs};
pub use tuning::TuningArgs;

/// Make a destination tree equal a source tree, at the speed of the hardware.
#[derive(Debug, Parser)]
#[command(name = "ringsync", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make the contents of DST equal to the contents of SRC
    #[command(after_help = EXIT_CODES)]
    Sync(Box<SyncArgs>),
    /// Tell how DST differs from SRC, and change nothing; exit 0 when equal, 23 when not
    Check(Box<CheckArgs>),
    /// Crawl PATH and report counts, sizes and speed
    Scan(Box<ScanArgs>),
    /// Tell what this machine and the file systems of SRC and DST can do, and what to change
    #[command(after_help = DOCTOR_HELP)]
    Doctor(Box<DoctorArgs>),
    /// Print every tuning setting that would hold for a run from SRC to DST, and where it comes from
    #[command(after_help = CONFIG_HELP)]
    Config(Box<ConfigArgs>),
    /// List what --incremental remembers of earlier runs, or remove it
    Jobs(JobsArgs),
    /// Look after buckets
    #[command(subcommand, hide = !BUCKETS)]
    S3(S3Command),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
    /// Print the manual page (view it with `ringsync man | man -l -`)
    Man,
}

/// Whether this build knows buckets; else help does not tell of them.
const BUCKETS: bool = cfg!(feature = "s3");

const BUCKETS_HEADING: &str = "\
    Buckets (credentials and all that is not given come from AWS_* variables and the files of the AWS tools)";

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 usage, 3 SRC or DST cannot be used, 11 stopped by an I/O error such as a full disk, or a server that
does not answer any more or refuses the credentials, 20 interrupted, 23 some entries failed, 24 some source entries
vanished, 25 --max-delete reached, 30 --stop-after or --timeout was over.
The same command run again continues where an interrupted one stopped.";

const DOCTOR_HELP: &str = "\
SRC is only looked at. DST is tried out inside a directory of its own, .ringsync-doctor-*, which is removed again; a bucket with
an object of that name.
Exit codes: 0 ringsync can run here, 3 SRC or DST cannot be used, 23 the machine lacks something essential.";

const CONFIG_HELP: &str = "\
Stronger sources win: options, then RINGSYNC_* variables, then the configuration file, then what is derived from machine
and file systems. The file is the one of --config or RINGSYNC_CONFIG, else ringsync/config.toml below XDG_CONFIG_HOME (or
~/.config) if there is one. Its keys are the names of the options: `max-memory = \"8G\"`.";

#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// A directory to copy from: its file system counts
    pub src: Option<PathBuf>,
    /// A directory to copy to
    pub dst: Option<PathBuf>,
    /// All settings as one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub tuning: TuningArgs,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct JobsArgs {
    /// All jobs as one JSON object a line
    #[arg(long)]
    pub json: bool,
    /// Where states are kept [default: ringsync below XDG_STATE_HOME or ~/.local/state]
    #[arg(long, value_name = "DIR", global = true)]
    pub state: Option<PathBuf>,
    #[command(subcommand)]
    pub action: Option<JobsAction>,
}

#[derive(Debug, Subcommand)]
pub enum JobsAction {
    /// Remove what is remembered of jobs; the next run of each compares everything
    Forget {
        /// As `ringsync jobs` shows it
        #[arg(required = true, value_name = "JOB")]
        jobs: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// A directory to copy from, or s3://BUCKET/PREFIX
    pub src: Option<PathBuf>,
    /// A directory to copy to, or s3://BUCKET/PREFIX
    pub dst: Option<PathBuf>,
    /// All facts and findings as one JSON object
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub s3: ReachArgs,
}

#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // Switches of a command line.
pub struct SyncArgs {
    /// Source directory, or s3://BUCKET/PREFIX; a trailing slash means nothing
    pub src: PathBuf,
    /// Destination directory, made when missing; or s3://BUCKET/PREFIX
    pub dst: PathBuf,

    /// Change nothing, and tell what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Delete names in DST that SRC lacks, directory by directory
    #[arg(long)]
    pub delete: bool,
    /// Delete them at the end, when everything has been copied
    #[arg(long)]
    pub delete_after: bool,
    /// Delete at most NUM entries, then exit with 25
    #[arg(long, value_name = "NUM", allow_negative_numbers = true)]
    pub max_delete: Option<i64>,
    /// Delete even when SRC looks like a file system that is not mounted: empty, or without most names of DST
    #[arg(long)]
    pub force_delete: bool,
    /// Let a file replace a directory that is not empty, also without --delete
    #[arg(long)]
    pub force: bool,

    /// Where a file appears: complete under a temporary name and then renamed, or under its own name from the start
    /// [default: atomic]
    #[arg(long, value_enum, value_name = "MODE")]
    pub write_mode: Option<WriteModeArg>,
    /// Overwrite existing files where they are: same inode, seen through all its links, half-written after a failure
    #[arg(long)]
    pub inplace: bool,
    /// Wait until what was written is on stable storage: `file` flushes each file before it gets its final name and each
    /// directory, `end` flushes the filesystem once when all is done
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub fsync: FsyncArg,
    /// Read each copied file back from the disk and compare it with its source, before it gets its final name
    #[arg(long)]
    pub verify: bool,
    /// Keep what is replaced or deleted, under its name with a suffix; such names are not deleted
    #[arg(short = 'b', long)]
    pub backup: bool,
    /// Keep it in a tree in DIR, which is absolute or relative to DST; implies --backup. A DIR inside DST is left alone
    #[arg(long, value_name = "DIR")]
    pub backup_dir: Option<PathBuf>,
    /// What --backup adds to names [default: ~, and nothing with --backup-dir]
    #[arg(long, value_name = "SUFFIX")]
    pub suffix: Option<OsString>,
    /// Write blocks of zeros as holes
    #[arg(short = 'S', long)]
    pub sparse: bool,
    /// Read files whole, also where the source's filesystem says that it has holes
    #[arg(long)]
    pub ignore_holes: bool,
    /// Share data blocks with the source where the filesystem can
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub reflink: ReflinkArg,
    /// Read and write large files that are not cached past the page cache, on local filesystems and disks that do not rotate
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pub direct_io: DirectIoArg,

    #[command(flatten)]
    pub memory: MemoryArgs,
    #[command(flatten)]
    pub compare: CompareArgs,
    #[command(flatten)]
    pub rules: RuleArgs,
    #[command(flatten)]
    pub select: SelectArgs,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub s3: S3Args,
    #[command(flatten)]
    pub s3_write: S3WriteArgs,
    #[command(flatten)]
    pub tuning: TuningArgs,
}

/// What is remembered from run to run.
#[derive(Debug, Args)]
#[command(next_help_heading = "Incremental runs")]
pub struct MemoryArgs {
    /// Remember each directory that is equal, and do not list its copy again as long as neither has changed. SRC is always
    /// listed. In DST a name that came, went or was renamed is seen; a file changed where it is, is not: for that,
    /// `--incremental=verify-meta` compares everything once, and remembers it anew. Buckets are listed on both sides, which shows
    /// all changes, and no object is asked for its metadata where there are none. Where inode numbers change from mount to
    /// mount (some FUSE filesystems), everything is compared
    #[arg(long, value_enum, value_name = "MODE", num_args = 0..=1, require_equals = true, default_missing_value = "skip")]
    pub incremental: Option<IncrementalArg>,
    /// Compare everything, unless the last run with --resume or --incremental was interrupted or killed: then go on where it
    /// stopped, and do not look at the copies of directories that it had finished and that have not changed since
    #[arg(long)]
    pub resume: bool,
    /// With --resume or --incremental: when the run is interrupted or killed, keep what is copied of files from 64 MiB on, as
    /// `.NAME.rs-XXXXXXXX`; the next run with --partial goes on from there, after it has read each 16 MiB back and checked them.
    /// A run without removes it
    #[arg(long)]
    pub partial: bool,
    /// Do not list copies of directories in which nothing of SRC has changed since TIME, by the ctimes of the directory and of all
    /// in it: a date, "2 days ago", @SECONDS; or `last`, when the last run of this job began that succeeded. Nothing of DST is
    /// looked at but whether the directory is there: what was changed or lost there is not seen, nor what a run before failed to
    /// copy, nor older directories that were moved to the place of another one. Compare everything now and then. Where SRC has
    /// another clock (network filesystems, FUSE, FAT), everything is compared
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Where to remember it [default: ringsync below XDG_STATE_HOME or ~/.local/state]; see `ringsync jobs`
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IncrementalArg {
    Skip,
    VerifyMeta,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Source directory, or s3://BUCKET/PREFIX
    pub src: PathBuf,
    /// Destination directory
    pub dst: PathBuf,

    #[command(flatten)]
    pub compare: CompareArgs,
    #[command(flatten)]
    pub rules: RuleArgs,
    #[command(flatten)]
    pub select: SelectArgs,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub s3: S3Args,
    #[command(flatten)]
    pub tuning: TuningArgs,
}

#[derive(Debug, Args)]
pub struct ScanArgs {
    /// Directory to crawl, or s3://BUCKET/PREFIX
    pub path: PathBuf,

    /// Do not enter other filesystems
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
    #[command(flatten)]
    pub rules: RuleArgs,
    #[command(flatten)]
    pub report: ReportArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    #[command(flatten)]
    pub s3: S3Args,
    #[command(flatten)]
    pub tuning: TuningArgs,
}

/// How buckets are reached.
#[derive(Debug, Args)]
#[command(next_help_heading = BUCKETS_HEADING)]
pub struct ReachArgs {
    /// The server, such as http://localhost:9000, where it is not AWS; buckets are then the first part of its paths
    #[arg(long, value_name = "URL", hide = !BUCKETS)]
    pub endpoint_url: Option<String>,
    /// Where the bucket is [default: us-east-1, when nothing else says it]
    #[arg(long, value_name = "NAME", hide = !BUCKETS)]
    pub region: Option<String>,
    /// The profile of the AWS tools whose credentials and settings are used
    #[arg(long, value_name = "NAME", hide = !BUCKETS)]
    pub profile: Option<String>,
    /// Ask without credentials, which public buckets allow
    #[arg(long, hide = !BUCKETS)]
    pub no_sign_request: bool,
}

/// The same, and what objects tell of files.
#[derive(Debug, Args)]
#[command(next_help_heading = BUCKETS_HEADING)]
pub struct S3Args {
    #[command(flatten)]
    pub reach: ReachArgs,
    /// Where objects have the attributes of files: `posix` has file-mtime, file-permissions, file-owner and file-group as AWS
    /// DataSync writes them, or rclone's mtime; `rclone` that alone; `none` takes an object's own time for the file's, and is
    /// fastest, for the others ask once for each object [default: posix]
    #[arg(long, value_enum, value_name = "FORM", hide = !BUCKETS)]
    pub s3_metadata: Option<S3MetadataArg>,
    /// What directories are asked for: `trees` all keys below them as long as that tells of many small directories, which then need no
    /// request of their own; `directories` their names alone, for servers that are slow at the other [default: trees]
    #[arg(long, value_enum, value_name = "WHAT", hide = !BUCKETS)]
    pub s3_listing: Option<S3ListingArg>,
}

#[derive(Debug, Subcommand)]
pub enum S3Command {
    /// Abort uploads in parts that were begun and never finished: a run that was killed leaves them, and they are paid for.
    /// A server does not tell who began one, so those of other programs go too
    Cleanup(Box<CleanupArgs>),
}

#[derive(Debug, Args)]
pub struct CleanupArgs {
    /// s3://BUCKET/PREFIX
    pub place: PathBuf,
    /// Only list them
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Only those that were begun before TIME: a date, "2 days ago", @SECONDS. What is being uploaded now must not go
    #[arg(long, value_name = "TIME", default_value = "1 day ago", hide = !BUCKETS)]
    pub before: String,
    #[command(flatten)]
    pub s3: ReachArgs,
}

/// How objects are written.
#[derive(Debug, Args)]
#[command(next_help_heading = "Buckets as destination")]
pub struct S3WriteArgs {
    /// The storage class of new objects, such as STANDARD_IA or INTELLIGENT_TIERING [default: the server's]
    #[arg(long, value_name = "CLASS", hide = !BUCKETS)]
    pub storage_class: Option<String>,
    /// How the server encrypts new objects [default: as the bucket says]
    #[arg(long, value_name = "HOW", value_parser = ["AES256", "aws:kms", "aws:kms:dsse"], hide = !BUCKETS)]
    pub sse: Option<String>,
    /// The key of --sse aws:kms
    #[arg(long, value_name = "KEY", hide = !BUCKETS)]
    pub sse_kms_key_id: Option<String>,
    /// Larger objects are sent in parts of this size, and may take so much memory several times for each core: 8M, 16M, 32M and
    /// so on up to 512M; objects of more than 10,000 parts get larger ones [default: 16M]
    #[arg(long, value_name = "SIZE", hide = !BUCKETS)]
    pub part_size: Option<String>,
}

/// See [`S3Args::s3_listing`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum S3ListingArg {
    Trees,
    Directories,
}

/// See [`S3Args::s3_metadata`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum S3MetadataArg {
    Posix,
    Rclone,
    None,
}

/// What counts as different and what is carried.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // Switches of a command line.
#[command(next_help_heading = "Comparison")]
pub struct CompareArgs {
    /// Recursion, symlinks, modes, times, owners, groups, devices and specials: always on, accepted for rsync's sake
    #[arg(short = 'a', long)]
    pub archive: bool,
    /// Compare the contents of files of equal size, not their times
    #[arg(short = 'c', long, conflicts_with_all = ["size_only", "ignore_times"])]
    pub checksum: bool,
    /// Take files of equal size as equal
    #[arg(long, conflicts_with = "ignore_times")]
    pub size_only: bool,
    /// Copy all files, also those that look equal
    #[arg(short = 'I', long)]
    pub ignore_times: bool,
    /// Leave files that are newer in DST
    #[arg(short = 'u', long)]
    pub update: bool,
    /// Only update what DST has already
    #[arg(long)]
    pub existing: bool,
    /// Only add what DST lacks
    #[arg(long)]
    pub ignore_existing: bool,
    /// Take times that differ by at most SECONDS as equal; 0 compares nanoseconds
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub modify_window: u32,
    /// Do not enter other filesystems
    #[arg(short = 'x', long)]
    pub one_file_system: bool,
    /// Carry hard links: names of one file stay names of one file
    #[arg(short = 'H', long)]
    pub hard_links: bool,
    /// Carry POSIX ACLs
    #[arg(short = 'A', long)]
    pub acls: bool,
    /// Carry extended attributes: all namespaces for root, `user.*` for others
    #[arg(short = 'X', long)]
    pub xattrs: bool,
    /// Take symlinks in SRC for what they lead to
    #[arg(short = 'L', long)]
    pub copy_links: bool,
    /// Take symlinks that lead out of SRC for what they lead to
    #[arg(long)]
    pub copy_unsafe_links: bool,
    /// Leave out symlinks that lead out of SRC
    #[arg(long)]
    pub safe_links: bool,
    /// Do not carry modes
    #[arg(long)]
    pub no_perms: bool,
    /// Do not carry modification times
    #[arg(long)]
    pub no_times: bool,
    /// Do not carry owners
    #[arg(long)]
    pub no_owner: bool,
    /// Do not carry groups
    #[arg(long)]
    pub no_group: bool,
    /// Leave out device nodes
    #[arg(long)]
    pub no_devices: bool,
    /// Leave out fifos and sockets
    #[arg(long)]
    pub no_specials: bool,
}

/// Which entries take part, besides the rules.
#[derive(Debug, Args)]
#[command(next_help_heading = "Selection")]
pub struct SelectArgs {
    /// Take only the paths in FILE (one a line, relative to SRC) and the directories that lead to them; `-` is standard
    /// input. `dir/` takes what is in a directory too, and with -r all that is below
    #[arg(long, value_name = "FILE")]
    pub files_from: Option<OsString>,
    /// Enter the directories that --files-from lists; without a list always on
    #[arg(short = 'r', long)]
    pub recursive: bool,
    /// Also delete in DST what the rules leave out, unless a rule protects it; implies --delete
    #[arg(long)]
    pub delete_excluded: bool,
    /// Skip files that are larger: `100`, `1.5M`, `1GB-1`; copies that DST has stay
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<String>,
    /// Skip files that are smaller
    #[arg(long, value_name = "SIZE")]
    pub min_size: Option<String>,
}

/// What is shown.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // Switches of a command line.
#[command(next_help_heading = "Output")]
pub struct ReportArgs {
    /// Show each change as rsync does: eleven characters and the name
    #[arg(short = 'i', long)]
    pub itemize_changes: bool,
    /// Show the name of each change
    #[arg(short = 'v', long)]
    pub verbose: bool,
    /// Show errors only
    #[arg(short = 'q', long, conflicts_with_all = ["verbose", "itemize_changes"])]
    pub quiet: bool,
    /// Show all counters at the end
    #[arg(long)]
    pub stats: bool,
    /// One JSON object a line on standard output; the last one is the summary
    #[arg(long)]
    pub json: bool,
    /// Show users and groups by number in --json; they are always carried by number
    #[arg(long)]
    pub numeric_ids: bool,
    /// Progress on standard error: `auto` is a bar on a terminal and nothing elsewhere
    #[arg(long, value_enum, default_value_t, value_name = "STYLE")]
    pub progress: ProgressArg,
    /// Show the run on the whole screen: rates, limits, latencies, errors; `q` leaves the view and not the run
    #[arg(long, conflicts_with_all = ["progress", "quiet"])]
    pub dashboard: bool,
    /// Serve Prometheus metrics at http://ADDR/metrics; a port alone is one of 127.0.0.1, and 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<String>,
    /// Write a page with plots of the whole run to FILE.html when it is over
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Append changes, errors, the summary, and how the run goes to FILE; see also --log-format
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
}

/// When a run ends early.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// End in good order after MINUTES (fractions allowed) and exit with 30; the same command continues
    #[arg(long, alias = "time-limit", value_name = "MINUTES")]
    pub stop_after: Option<f64>,
    /// End and exit with 30 when nothing is completed for SECONDS: no operation, not one block of a large file; 0 waits
    /// for ever
    #[arg(long, value_name = "SECONDS", default_value_t = 0.0)]
    pub timeout: f64,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum WriteModeArg {
    #[default]
    Atomic,
    Direct,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum FsyncArg {
    #[default]
    None,
    File,
    End,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ReflinkArg {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DirectIoArg {
    #[default]
    Auto,
    Never,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ProgressArg {
    #[default]
    Auto,
    Bar,
    Plain,
    None,
}
