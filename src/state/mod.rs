//! What a job remembers between its runs: one database for each job, with a row for each directory that was finished without
//! error. Rows are read where directories are visited, and written by one thread.
//!
//! A row may be older than what it speaks of, never newer: it is written when the directory is finished, and what comes later
//! changes times that it holds, or is not seen by design (a copy's contents). It says that data was written, not that it reached the disk; what that means is in [`runs`].

pub mod jobs;
mod lock;
pub mod runs;
mod writer;

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread::JoinHandle;

use futures_util::future::BoxFuture;
use redb::backends::FileBackend;
use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadableDatabase, ReadableTableMetadata,
    TableDefinition, TableError,
};

use crate::model::Time;
use crate::model::chunks::{ChunkDigest, Chunks, Version};
use crate::model::unchanged::{Key, Note, Row, Rows};
pub use jobs::JobKey;
use lock::Lock;
pub use runs::Ending;
use runs::Runs;

/// Changes when older rows would be misread.
const FORMAT: u64 = 1;
/// Bytes of the database kept in memory.
const CACHE_BYTES: usize = 64 << 20;
/// Notes that wait for the writer: more than it takes in a moment, and a few MB at most.
const NOTES_MAX: usize = 16 * 1024;

const ROWS: TableDefinition<'_, u128, RowBytes> = TableDefinition::new("directories");
const FACTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("job");

/// By file and chunk.
const CHUNKS: TableDefinition<'_, (u128, u64), u128> = TableDefinition::new("chunks");

type RowBytes = [u8; 36];

fn encode(row: &Row) -> RowBytes {
    let mut bytes = [0; 36];
    bytes[..8].copy_from_slice(&row.source.to_le_bytes());
    bytes[8..16].copy_from_slice(&row.dest.to_le_bytes());
    bytes[16..32].copy_from_slice(&row.contents.to_le_bytes());
    bytes[32..].copy_from_slice(&row.run.to_le_bytes());
    bytes
}

fn decode(bytes: &RowBytes) -> Row {
    fn part<const LEN: usize>(bytes: &RowBytes, at: usize) -> [u8; LEN] {
        std::array::from_fn(|i| bytes[at + i])
    }
    Row {
        source: u64::from_le_bytes(part(bytes, 0)),
        dest: u64::from_le_bytes(part(bytes, 8)),
        contents: u128::from_le_bytes(part(bytes, 16)),
        run: u32::from_le_bytes(part(bytes, 32)),
    }
}

/// What the writer is told.
enum Told {
    Directory(Note),
    Chunk(Version, ChunkDigest),
    /// Of a file nothing is to be known any more.
    Complete(Version),
}

/// What the database says. It is large, seldom, and therefore on the heap.
#[derive(Debug)]
struct StoreError(Box<redb::Error>);

impl<E: Into<redb::Error>> From<E> for StoreError {
    fn from(error: E) -> Self {
        Self(Box::new(error.into()))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a run does with the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Directories may be taken for unchanged, and rows are written.
    Skip,
    /// The same for directories that were finished by runs that did not come to their end.
    Resume,
    /// Everything is compared, and rows are written.
    Verify,
    /// Rows are neither read nor written: only runs are remembered.
    Since,
}

/// The database, as long as a run needs it. Whoever has one of these closes it by dropping it.
enum Open {
    /// It cannot be written to.
    ToRead(Arc<ReadOnlyDatabase>),
    ToWrite {
        db: Arc<Database>,
        writer: JoinHandle<Result<(), StoreError>>,
    },
}

/// The state of one job, for one run of it.
pub struct State {
    runs: Runs,
    notes: async_channel::Sender<Told>,
    /// Until the run has finished.
    open: Mutex<Option<Open>>,
    /// For those who look up rows. They may outlive the run, and must not keep it open: it would seem to have been killed.
    db: Weak<dyn ReadableDatabase + Send + Sync>,
    is_void: AtomicBool,
    /// What went wrong with reading, once.
    failure: OnceLock<StoreError>,
    path: PathBuf,
    /// Until all of the above is closed.
    _lock: Lock,
}

impl State {
    /// Opens the state of a job in a directory, makes both when they are missing, and begins a run. `places`: each
    /// filesystem of the destination, to be flushed when earlier runs did not; none where all that is written is safe at once. A dry
    /// run makes nothing, and gets nothing when there is nothing.
    ///
    /// # Errors
    /// What is wrong, in words, and what to do about it: another run of the job is under way, the file is damaged or not ours,
    /// or cannot be written.
    pub fn open(
        dir: &Path,
        job: &JobKey,
        purpose: Use,
        dry_run: bool,
        places: Vec<PathBuf>,
    ) -> Result<Option<Self>, String> {
        let path = job.file_in(dir, "redb");
        if dry_run && !path.exists() {
            return Ok(None);
        }
        let shown = dir.display();
        make_dirs(dir)
            .map_err(|error| format!("cannot make the state directory '{shown}': {error}"))?;
        let lock = Lock::take(&job.file_in(dir, "lock"))?;
        let refuse = |error: StoreError| damaged(&path, &job.id(), &error);
        let (notes, inbox) = async_channel::bounded(NOTES_MAX);
        let (open, runs) = if dry_run {
            let db = open_to_read(&path).map_err(refuse)?;
            let Some(runs) = look(&db, job, purpose).map_err(refuse)? else {
                return Ok(None);
            };
            let runs = runs?;
            (Open::ToRead(Arc::new(db)), runs)
        } else {
            let db = Arc::new(open_database(&path).map_err(refuse)?);
            let runs = begin(&db, job, purpose, places.is_empty()).map_err(refuse)??;
            let writer = start_threads(&db, &runs, inbox, places)?;
            (Open::ToWrite { db, writer }, runs)
        };
        let db: Weak<dyn ReadableDatabase + Send + Sync> = match &open {
            Open::ToRead(db) => Arc::downgrade(db) as _,
            Open::ToWrite { db, .. } => Arc::downgrade(db) as _,
        };
        Ok(Some(Self {
            runs,
            notes,
            open: Mutex::new(Some(open)),
            db,
            is_void: AtomicBool::new(false),
            failure: OnceLock::new(),
            path,
            _lock: lock,
        }))
    }

    /// When the last run began after which everything was equal; nothing when a clock that was set back says that it is yet to come.
    #[must_use]
    pub fn last_complete(&self) -> Option<Time> {
        self.runs.last_complete()
    }

    /// Ends the run: everything that was told of is written when this returns. `flushed`: it is on the destination's disk.
    ///
    /// # Errors
    /// What kept the state from being read or written, in words. What was written before stays true.
    pub fn finish(&self, ending: Ending, flushed: bool) -> Result<(), String> {
        self.notes.close();
        let ending = if self.is_void.load(SeqCst) {
            Ending::Void
        } else {
            ending
        };
        let open = self.open.lock();
        let open = open.unwrap_or_else(PoisonError::into_inner).take();
        let Some(Open::ToWrite { db, writer }) = open else {
            return Ok(());
        };
        let Ok(written) = writer.join() else {
            return Err(String::from("the thread that writes the state panicked"));
        };
        // Also when rows are missing: none that is there is wrong.
        let ended = self.runs.end(&db, ending, flushed);
        let say = |what: &str, error: &StoreError| {
            format!("cannot {what} the state '{}': {error}", self.path.display())
        };
        if let Err(error) = compact_if_roomy(db, &self.path) {
            tracing::warn!("the state stays as large as it is: {error}");
        }
        match (written.and(ended), self.failure.get()) {
            (Err(error), _) => Err(say("write", &error)),
            (Ok(()), Some(error)) => Err(say("read", error)),
            (Ok(()), None) => Ok(()),
        }
    }

    /// A reader of its own each time: one that stays would keep all pages that are replaced meanwhile.
    fn look_up(&self, key: Key) -> Result<Option<Row>, StoreError> {
        let Some(db) = self.db.upgrade() else {
            return Ok(None);
        };
        let rows = db.begin_read()?.open_table(ROWS)?;
        Ok(rows.get(key.0)?.map(|bytes| decode(&bytes.value())))
    }

    fn look_up_chunks(&self, file: Version) -> Result<Vec<ChunkDigest>, StoreError> {
        let Some(db) = self.db.upgrade() else {
            return Ok(Vec::new());
        };
        let chunks = db.begin_read()?.open_table(CHUNKS)?;
        let known = chunks.range((file.0, 0)..=(file.0, u64::MAX))?;
        known
            .map(|entry| {
                let (key, digest) = entry?;
                Ok((key.value().1, digest.value()))
            })
            .collect()
    }
}

impl Rows for State {
    fn row(&self, key: Key) -> Option<Row> {
        if self.failure.get().is_some() {
            return None;
        }
        match self.look_up(key) {
            Ok(row) => row.filter(|row| self.runs.may_rely_on(row.run)),
            Err(error) => {
                // From now on everything is compared.
                let _ = self.failure.set(error);
                None
            }
        }
    }

    fn note(&self, note: Note) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            // Closed when writing has failed, which the end of the run tells.
            let _ = self.notes.send(Told::Directory(note)).await;
        })
    }

    fn run(&self) -> u32 {
        self.runs.current()
    }

    fn distrust(&self) {
        self.is_void.store(true, SeqCst);
    }
}

impl Chunks for State {
    fn known(&self, file: Version) -> Vec<ChunkDigest> {
        // What cannot be read is not known.
        self.look_up_chunks(file).unwrap_or_default()
    }

    fn note(&self, file: Version, chunk: ChunkDigest) {
        let _ = self.notes.try_send(Told::Chunk(file, chunk));
    }

    fn forget(&self, file: Version) {
        let _ = self.notes.try_send(Told::Complete(file));
    }
}

/// Names of files are told in nothing that is written here, but times and numbers are nobody else's business either.
fn make_dirs(dir: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
}

fn open_private(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true);
    options.truncate(false).mode(0o600).open(path)
}

/// Opens it so that nothing in it changes, but for what a killed run has left in disorder.
fn open_to_read(path: &Path) -> Result<ReadOnlyDatabase, StoreError> {
    match ReadOnlyDatabase::open(path) {
        Err(DatabaseError::RepairAborted) => {
            drop(open_database(path)?);
            Ok(ReadOnlyDatabase::open(path)?)
        }
        opened => Ok(opened?),
    }
}

fn open_database(path: &Path) -> Result<Database, StoreError> {
    if !path.exists() {
        // It has its name when it is one: a run that is killed meanwhile leaves nothing that the next one would refuse.
        let fresh = path.with_extension("new");
        open_private(&fresh)?.set_len(0)?;
        drop(open_as_it_is(&fresh)?);
        fs::rename(&fresh, path)?;
    }
    open_as_it_is(path)
}

fn open_as_it_is(path: &Path) -> Result<Database, StoreError> {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    Ok(builder.create_with_backend(FileBackend::new(open_private(path)?)?)?)
}

/// Gives back what is free in a file when that is most of it: a run that writes every row anew leaves the old pages.
fn compact_if_roomy(db: Arc<Database>, path: &Path) -> Result<(), StoreError> {
    /// Above what a row takes when all were written once.
    const ROW_BYTES_MAX: u64 = 170;
    /// What an empty one takes, and more than is worth the time.
    const BYTES_MIN: u64 = 16 << 20;
    let rows = db.begin_read()?.open_table(ROWS)?.len()?;
    let is_roomy = fs::metadata(path)?.len() > BYTES_MIN + rows * ROW_BYTES_MAX;
    // Somebody may still look something up, when a run was ended in the midst; then the next one does it.
    if is_roomy && let Some(mut db) = Arc::into_inner(db) {
        db.compact()?;
    }
    Ok(())
}

fn damaged(path: &Path, id: &str, error: &StoreError) -> String {
    let shown = path.display();
    format!(
        "cannot use the state '{shown}': {error}; 'ringsync jobs forget {id}' removes it, and the next run compares \
         everything and writes it anew"
    )
}

/// Checks whose state this is, and begins a run. The inner error says that the file is not this job's.
fn begin(
    db: &Database,
    job: &JobKey,
    purpose: Use,
    is_durable: bool,
) -> Result<Result<Runs, String>, StoreError> {
    let txn = db.begin_write()?;
    let owner = {
        let mut facts = txn.open_table(FACTS)?;
        txn.open_table(ROWS)?;
        txn.open_table(CHUNKS)?;
        if facts.is_empty()? {
            job.sign(&mut facts)?;
        }
        job.check(&facts)?
    };
    if let Err(message) = owner {
        return Ok(Err(message));
    }
    let runs = {
        let mut table = txn.open_table(runs::RUNS)?;
        let mut runs = Runs::after(&table, purpose)?;
        if is_durable {
            runs.set_durable();
        }
        runs.tell(&mut table)?;
        runs
    };
    txn.commit()?;
    Ok(Ok(runs))
}

/// The same for a run that leaves no trace; nothing when none has left one.
fn look(
    db: &ReadOnlyDatabase,
    job: &JobKey,
    purpose: Use,
) -> Result<Option<Result<Runs, String>>, StoreError> {
    let txn = db.begin_read()?;
    let facts = match txn.open_table(FACTS) {
        // Killed before it had written who it is.
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        facts => facts?,
    };
    Ok(Some(match job.check(&facts)? {
        Ok(()) => Ok(Runs::after(&txn.open_table(runs::RUNS)?, purpose)?),
        Err(message) => Err(message),
    }))
}

/// Starts what goes on beside the run.
fn start_threads(
    db: &Arc<Database>,
    runs: &Runs,
    inbox: async_channel::Receiver<Told>,
    places: Vec<PathBuf>,
) -> Result<JoinHandle<Result<(), StoreError>>, String> {
    let thread = || std::thread::Builder::new().name(String::from("state"));
    let cannot = |error| format!("cannot start a thread for the state: {error}");
    // A flush can take minutes. Nobody waits for it: what it has not told when the run ends, the next run's will.
    let of_flush = runs.clone();
    let flush = thread().spawn(move || of_flush.flush(&places));
    drop(flush.map_err(cannot)?);
    let of_writer = db.clone();
    let writer = thread().spawn(move || writer::write_all(&of_writer, &inbox));
    writer.map_err(cannot)
}
