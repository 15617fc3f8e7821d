//! The composition root: opens both roots, starts the shards with their lanes, and runs the passes of a job.

mod answers;
pub mod backup;
pub mod cleanup;
mod crew;
mod flight;
mod guards;
mod hands;
pub mod limits;
mod linked;
mod links;
mod objects;
mod paced;
mod roots;
pub mod tuning;
pub mod watchdog;
mod way;
mod work;

use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_utils::CachePadded;

use crate::control::depth;
use crate::control::retry::RetryBudget;
use crate::error::Side;
use crate::io::ring::RingOptions;
use crate::io::{DEPTH_MAX, Depth, EngineChoice, Fs, Handle, LocalFs, LocalFsOptions};
use crate::model::chunks::Chunks;
use crate::model::filter::{Filter, Reach, Selection};
use crate::model::tally::{ErrorTally, Totals};
use crate::model::{Instruments, Policy, RequestMeter, Sink, Symlinks, Tally};
use crate::monitor::{Board, Controllers, Latencies, RequestFigures, Sampler, Sources};
use crate::s3::{self, Turns, Url};
pub use crate::shard::Passing;
use crate::shard::pool::PoolOptions;
use crate::shard::{self, Mode, Node, Presence, Shared, StrayRule};
use crate::throttle::{Budget, Cancel, Coordinator, Reason};
use crate::transfer::{
    Fsync, LaneOptions, LargeFiles, Reflink, WriteMode, Written, files_max, temp,
};
use backup::{BackupJob, BackupOptions, BackupRoot};
use crew::Crew;
pub use flight::Flights;
use hands::HandsOptions;
use links::LinkTable;
use paced::Rates;
use roots::Root;
use tuning::Tuning;

/// Directories in transfer at once on one shard. They hold their plan meanwhile. Where names take their time, few of one directory
/// are made at once, so it takes many directories to keep a server busy: 20,000 files at 1 ms take 9.1 s with 8, and 4.4 s from 32 on.
const TRANSFERS_MAX: usize = 32;
/// The same where calls return at once. One keeps the core busy; what waits for it can no longer be given to a core that has
/// nothing to do.
const BUSY_TRANSFERS_MAX: usize = 4;
/// Threads of all blocking pools together, besides one sleeper each.
const BLOCKING_THREADS_TOTAL_MAX: usize = 128;
const BLOCKING_THREADS_EACH_MAX: usize = 16;
/// The share of the descriptor limit that directories kept open for their children may use.
const HANDLES_SHARE: u64 = 2;

/// The memory of a small machine, for jobs whose maker does not look.
const MEMORY_MODEST: u64 = 4 << 30;
/// The usual soft limit of open descriptors.
const DESCRIPTORS_USUAL: u64 = 1024;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Make the destination equal to the source.
    Sync,
    /// Tell how the destination differs, and change nothing.
    Check,
    /// Crawl the source and count.
    Scan,
}

/// When names that the source lacks are deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delete {
    Never,
    /// With their directory, before anything is copied into it.
    During,
    /// In a second pass, when everything has been copied.
    After,
}

/// A job, wholly decided.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // Each is one switch of the command line, and they combine freely.
pub struct Job {
    pub task: Task,
    pub source: PathBuf,
    /// Absent for a scan.
    pub dest: Option<PathBuf>,
    pub policy: Policy,
    /// Rules on which entries take part.
    pub filter: Option<Arc<Filter>>,
    /// A list of paths, when only those take part.
    pub selection: Option<Arc<Selection>>,
    pub delete: Delete,
    /// The most entries to delete.
    pub delete_max: Option<usize>,
    /// Delete although the source looks like a filesystem that is not mounted.
    pub force_delete: bool,
    /// Full directories that are in the way may go.
    pub force: bool,
    pub dry_run: bool,
    pub one_file_system: bool,
    pub symlinks: Symlinks,
    pub write_mode: WriteMode,
    pub reflink: Reflink,
    /// Blocks of zeros become holes.
    pub sparse: bool,
    /// What the source's filesystem calls a hole is not read.
    pub trust_holes: bool,
    /// Large files that are not cached may go past the page cache.
    pub direct_io: bool,
    pub fsync: Fsync,
    /// Read back and compare what was copied.
    pub verify: bool,
    /// Keep what is replaced or deleted.
    pub backup: Option<BackupJob>,
    pub engine: EngineChoice,
    /// How buckets are reached.
    pub s3: s3::Options,
    /// Its limits, and how they move.
    pub tuning: Tuning,
    /// One shard for each.
    pub cpus: Vec<usize>,
    /// The limit of open descriptors.
    pub descriptors_max: u64,
    pub privileged: bool,
    /// Owner of files made by this process.
    pub own_uid: u32,
    pub umask: u32,
}

impl Job {
    /// What `-a` means, with nothing deleted, between paths on these CPUs.
    #[must_use]
    pub fn archive(task: Task, source: PathBuf, dest: Option<PathBuf>, cpus: Vec<usize>) -> Self {
        Self {
            task,
            source,
            dest,
            policy: Policy::archive(),
            filter: None,
            selection: None,
            delete: Delete::Never,
            delete_max: None,
            force_delete: false,
            force: false,
            dry_run: false,
            one_file_system: false,
            symlinks: Symlinks::Keep,
            write_mode: WriteMode::Atomic,
            reflink: Reflink::Auto,
            sparse: false,
            trust_holes: true,
            direct_io: true,
            fsync: Fsync::None,
            verify: false,
            backup: None,
            engine: EngineChoice::Auto,
            s3: s3::Options::default(),
            tuning: Tuning::for_machine(cpus.len(), MEMORY_MODEST),
            cpus,
            descriptors_max: DESCRIPTORS_USUAL,
            privileged: true,
            own_uid: 0,
            umask: 0o022,
        }
    }
}

impl Job {
    /// Whether one of its sides is a bucket.
    #[must_use]
    pub fn has_bucket(&self) -> bool {
        Url::is_one(&self.source) || self.to_bucket()
    }

    /// Whether its destination is one.
    #[must_use]
    pub fn to_bucket(&self) -> bool {
        self.dest.as_deref().is_some_and(Url::is_one)
    }
}

/// A job that cannot begin: nothing was changed. Exit code 3, or 11 when the machine or the destination's filesystem refuses.
#[derive(Debug)]
pub struct StartError {
    pub exit_code: u8,
    message: String,
}

impl StartError {
    fn location(message: String) -> Self {
        Self {
            exit_code: 3,
            message,
        }
    }

    fn refused(message: String) -> Self {
        Self {
            exit_code: 11,
            message,
        }
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for StartError {}

/// Makes the two filesystems of a shard, on its executor.
pub type FsMaker =
    Arc<dyn Fn(&Instruments) -> Result<(Rc<dyn Fs>, Rc<dyn Fs>), String> + Send + Sync>;

/// Where a job works: open roots, and the filesystems they are on.
#[derive(Clone)]
pub struct Roots {
    pub source: Handle,
    /// Absent for a scan, and for a dry run into a directory that does not exist.
    pub dest: Option<Handle>,
    /// Device and inode of the destination root.
    pub dest_identity: Option<(u64, u64)>,
    pub fs: FsMaker,
}

fn latencies(job: &Job) -> Option<Arc<Latencies>> {
    let is_measured = job.tuning.histograms;
    is_measured.then(|| Latencies::new(job.cpus.len()))
}

/// How a run ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub totals: Totals,
    pub elapsed: Duration,
    pub depth_max: u64,
    pub file_size_max: u64,
    /// `--max-delete` kept something from being deleted.
    pub deletions_refused: bool,
    /// Why it ended early.
    pub cancelled: Option<Reason>,
}

/// A job that has its roots open and its counters ready, so that others can watch it run.
pub struct Run {
    job: Job,
    roots: Roots,
    backup_root: Option<BackupRoot>,
    passing: Passing,
    chunks: Option<Arc<dyn Chunks>>,
    pub tallies: Arc<[CachePadded<Tally>]>,
    pub cancel: Arc<Cancel>,
    coordinator: Arc<Coordinator>,
    /// Absent in a run that is not measured.
    latencies: Option<Arc<Latencies>>,
    /// Operations in flight on each ring.
    io_depth: Arc<Depth>,
    retries: Arc<RetryBudget>,
    /// Of requests to buckets.
    turns: Option<Arc<Turns>>,
}

impl Run {
    /// Opens the roots of a job between local trees. Makes the destination directory when it is missing.
    ///
    /// # Errors
    /// With exit code 3 when a root cannot be used.
    pub fn open(mut job: Job) -> Result<Self, StartError> {
        objects::suit_destination(&mut job)?;
        let depth = job.tuning.depth();
        let cancel = Arc::<Cancel>::default();
        let has_bucket = job.has_bucket();
        let latencies = latencies(&job);
        let meter = latencies.clone().map(|all| all as Arc<dyn RequestMeter>);
        let buckets = s3::Shared::new(cancel.clone(), job.cpus.len(), meter);
        let (roots, backup_root) = open_roots(&job, depth.clone(), &buckets)?;
        Ok(Self {
            backup_root,
            io_depth: depth,
            turns: has_bucket.then_some(buckets.turns),
            ..Self::new(job, roots, cancel, latencies)
        })
    }

    /// A job on roots and filesystems of the caller's.
    #[must_use]
    pub fn with_roots(job: Job, roots: Roots) -> Self {
        let latencies = latencies(&job);
        Self::new(job, roots, Arc::default(), latencies)
    }

    fn new(
        job: Job,
        mut roots: Roots,
        cancel: Arc<Cancel>,
        latencies: Option<Arc<Latencies>>,
    ) -> Self {
        let tallies = job.cpus.iter().map(|_| CachePadded::default()).collect();
        roots.fs = answers::watch(&roots, &cancel);
        roots.fs = Rates::of(&job.tuning, cancel.clone()).pace(roots.fs);
        Self {
            roots,
            backup_root: None,
            passing: Passing::Never,
            chunks: None,
            tallies,
            coordinator: Coordinator::new(job.tuning.coordinator_limits(), cancel.clone()),
            latencies,
            io_depth: job.tuning.depth(),
            retries: Arc::new(RetryBudget::new(job.tuning.retries)),
            turns: None,
            cancel,
            job,
        }
    }

    /// Starts the thread that watches limits and puts what it sees on the board.
    #[must_use]
    pub fn sample(&self, errors: Arc<ErrorTally>, board: Arc<Board>) -> Sampler {
        let tuning = &self.job.tuning;
        let sources = Sources {
            coordinator: self.coordinator.clone(),
            tallies: self.tallies.clone(),
            errors,
            latencies: self.latencies.clone(),
            cpus: self.job.cpus.clone(),
            thresholds: tuning.thresholds(),
            requests: self.requests(),
            set_depth: {
                let depth = self.io_depth.clone();
                Box::new(move |to| depth.set(u32::try_from(to).unwrap_or(DEPTH_MAX)))
            },
        };
        let controllers = Controllers {
            tuner: tuning.tuner(),
            depth: depth::Depth::new(tuning.io_depth),
        };
        Sampler::start(sources, controllers, tuning.sample_interval, board)
    }

    /// Tells of the requests of a job that has a bucket.
    fn requests(&self) -> Option<RequestFigures> {
        let turns = self.turns.clone()?;
        Some(Box::new(move || turns.figures()))
    }

    /// Gives a job on roots of the caller's its backup directory.
    #[must_use]
    pub fn with_backup_root(mut self, root: BackupRoot) -> Self {
        self.backup_root = Some(root);
        self
    }

    /// Has a job take directories for unchanged.
    #[must_use]
    pub fn passing(mut self, passing: Passing) -> Self {
        self.passing = passing;
        self
    }

    /// Has a job leave large files in part when it is interrupted, and go on with those that earlier runs have left.
    #[must_use]
    pub fn with_chunks(mut self, chunks: Arc<dyn Chunks>) -> Self {
        self.chunks = Some(chunks);
        self
    }

    /// From now on notes which operations are under way. Costs a few dozen nanoseconds for each.
    pub fn watch_operations(&mut self) -> Arc<Flights> {
        let flights = Arc::<Flights>::default();
        self.roots.fs = flights.watch(self.roots.fs.clone());
        flights
    }

    /// Runs all passes to their end.
    ///
    /// # Errors
    /// When the executors cannot be started, or one of them is lost.
    pub fn execute(&self, sink: &Arc<dyn Sink>) -> Result<Outcome, StartError> {
        let started = Instant::now();
        let deletions_refused = Arc::new(AtomicBool::new(false));
        let hands = HandsOptions {
            dry_run: self.job.dry_run || self.job.task == Task::Check,
            may_supplant_trees: self.job.force || self.job.delete != Delete::Never,
            privileged: self.job.privileged,
            extended: self.job.policy.extended,
            links: LinkTable::new(),
            deletions: self.job.delete_max.map(Budget::new),
            deletions_refused: deletions_refused.clone(),
            backup: self.backup_options(),
        };
        let (mode, delete) = match self.job.task {
            Task::Scan => (Mode::Scan, false),
            _ => (Mode::Sync, self.job.delete == Delete::During),
        };
        let shared = self.pass(mode, delete, &hands, sink)?;
        if self.job.delete == Delete::After && !self.cancel.is_set() {
            self.pass(Mode::DeleteOnly, true, &hands, sink)?;
        }
        Ok(Outcome {
            totals: Totals::sum(self.tallies.iter().map(|tally| &**tally)),
            elapsed: started.elapsed(),
            depth_max: shared.depth_max.load(SeqCst),
            file_size_max: shared.file_size_max.load(SeqCst),
            deletions_refused: deletions_refused.load(SeqCst),
            cancelled: self.cancel.reason(),
        })
    }

    /// One crawl over the tree.
    fn pass(
        &self,
        mode: Mode,
        delete: bool,
        hands: &HandsOptions,
        sink: &Arc<dyn Sink>,
    ) -> Result<Arc<Shared>, StartError> {
        let (shared, inboxes) = Shared::new(
            self.shard_options(mode, delete),
            self.coordinator.clone(),
            Budget::new(
                usize::try_from(self.job.descriptors_max / HANDLES_SHARE).unwrap_or(usize::MAX),
            ),
            self.retries.clone(),
            self.tallies.clone(),
            self.cancel.clone(),
            sink.clone(),
        );
        let presence = match (mode, &self.roots.dest) {
            (Mode::Scan, _) | (_, None) => Presence::Absent,
            _ => Presence::Existing,
        };
        let selection = self.job.selection.as_deref();
        let reach = selection.map_or(Reach::ALL, Selection::root);
        let root = Node::root(
            &self.roots.source,
            self.roots.dest.as_ref(),
            presence,
            reach,
        );
        let files_max = files_max(self.job.tuning.memory_max, self.job.cpus.len());
        let crew = Crew {
            shared: shared.clone(),
            inboxes,
            root,
            hands: hands.clone(),
            lane: self.lane_options(),
            written: Written::default(),
            large: Arc::new(LargeFiles::new(self.copiers_max(files_max))),
            fs: self.roots.fs.clone(),
            files_max,
            latencies: self.latencies.clone(),
            seed: seed(),
            chunks: self.chunks.clone(),
        };
        let options = PoolOptions {
            cpus: self.job.cpus.clone(),
            blocking_threads: 1 + per_shard(
                BLOCKING_THREADS_TOTAL_MAX,
                BLOCKING_THREADS_EACH_MAX,
                self.job.cpus.len(),
            ),
        };
        shard::pool::run(&options, &shared, move |id| crew.clone().run(id))
            .map_err(StartError::refused)?;
        Ok(shared)
    }

    /// Copiers of large files on each shard. Where a file goes in parts, each holds one.
    fn copiers_max(&self, files_max: usize) -> usize {
        match self.job.write_mode {
            WriteMode::Whole => files_max.min(PART_COPIERS_MAX),
            _ => files_max,
        }
    }

    fn shard_options(&self, mode: Mode, delete: bool) -> shard::Options {
        // In a bucket nothing is ever written under a temporary name.
        let leaves_strays = self.job.write_mode != WriteMode::Whole;
        let may_find = mode != Mode::Scan && self.job.task == Task::Sync && leaves_strays;
        let strays = may_find.then_some(StrayRule {
            is_temp_name: temp::is_temp_name,
            target_of: temp::target_of,
            before: SystemTime::now().into(),
            is_partial_of: self.chunks.is_some().then_some(temp::is_partial_of),
        });
        shard::Options {
            mode,
            policy: self.job.policy,
            filter: self.job.filter.clone(),
            selection: self.job.selection.clone(),
            delete,
            one_file_system: self.job.one_file_system,
            symlinks: self.job.symlinks,
            dest_root: self.roots.dest_identity,
            strays,
            backups: self.backup_options().map(|options| options.rule()),
            passing: self.passing.clone(),
            transfers_max: TRANSFERS_MAX,
            busy_transfers_max: if self.lane_options().waits_for_device() {
                TRANSFERS_MAX
            } else {
                BUSY_TRANSFERS_MAX
            },
        }
    }

    fn backup_options(&self) -> Option<BackupOptions> {
        let job = self.job.backup.as_ref()?;
        Some(BackupOptions::new(job, self.backup_root.clone()))
    }

    fn lane_options(&self) -> LaneOptions {
        LaneOptions {
            policy: self.job.policy,
            write_mode: self.job.write_mode,
            reflink: self.job.reflink,
            one_file_system: self.job.one_file_system,
            sparse: self.job.sparse,
            trust_holes: self.job.trust_holes,
            direct_io: self.job.direct_io,
            fsync: self.job.fsync,
            verify: self.job.verify,
            own_uid: self.job.own_uid,
            umask: self.job.umask,
            // As the AWS form of a file's attributes has it.
            atimes: self.job.has_bucket(),
        }
    }
}

/// See [`Run::copiers_max`].
const PART_COPIERS_MAX: usize = 4;

/// A share of a total for each of `shards`, at least 1 and at most `each_max`.
fn per_shard(total_max: usize, each_max: usize, shards: usize) -> usize {
    (total_max / shards.max(1)).clamp(1, each_max)
}

/// What makes temporary names of this run unlike those of others: time and process, mixed.
fn seed() -> u64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let nanos = u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap_or(0);
    nanos.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (u64::from(std::process::id()) << 32)
}

fn open_roots(
    job: &Job,
    depth: Arc<Depth>,
    buckets: &s3::Shared,
) -> Result<(Roots, Option<BackupRoot>), StartError> {
    if let Some(roots) = objects::open(job, depth.clone(), buckets)? {
        return Ok(roots);
    }
    let (source, dest) = roots::open(job)?;
    let backup = open_backup_root(job, Some(&source), dest.as_ref())?;
    let options = local_options(job, depth);
    let fs: FsMaker = Arc::new(move |instruments| {
        let fs = start_local(&options, instruments)?;
        let dest = fs.on(Side::Destination);
        Ok((Rc::new(fs), Rc::new(dest)))
    });
    let roots = Roots {
        dest_identity: dest.as_ref().map(|root| root.identity),
        source: source.handle,
        dest: dest.map(|root| root.handle),
        fs,
    };
    Ok((roots, backup))
}

fn local_options(job: &Job, depth: Arc<Depth>) -> LocalFsOptions {
    LocalFsOptions {
        engine: job.engine,
        ring: RingOptions { depth },
    }
}

fn start_local(options: &LocalFsOptions, instruments: &Instruments) -> Result<LocalFs, String> {
    LocalFs::start(options.clone(), instruments)
        .map_err(|error| format!("cannot set up io_uring: {error}"))
}

fn open_backup_root(
    job: &Job,
    source: Option<&Root>,
    dest: Option<&Root>,
) -> Result<Option<BackupRoot>, StartError> {
    let dir = job.backup.as_ref().and_then(|job| job.dir.as_deref());
    match (dir, dest) {
        (Some(path), Some(dest)) => backup::open_backup_dir(path, source, dest).map(Some),
        _ => Ok(None),
    }
}
