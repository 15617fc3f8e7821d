//! Moves data and makes inodes. A lane belongs to one shard and works on open directories and single names; it knows
//! nothing of trees, queues or reports.

mod attrs;
mod backup;
mod buffers;
mod checksum;
mod contents;
mod delete;
mod direct;
mod durable;
mod files;
mod large;
mod links;
mod nodes;
mod partial;
mod small;
pub mod temp;
mod verify;

use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString};
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use std::sync::Arc;

pub use backup::Backup;
pub use buffers::Buffers;
pub use delete::TreeRemoval;
pub use durable::{Fsync, Written};
pub use large::{Gear, LARGE_BYTES_MIN, LargeFiles};
use nix::errno::Errno;

use crate::error::{Cause, OpKind, Side};
use crate::io::{Fs, Handle, Links, Op, OpError, Outcome, Reply};
use crate::model::chunks::Chunks;
use crate::model::copies::Version;
use crate::model::{Attrs, Instruments, Meta, Policy};
use crate::throttle::{Cancel, Coordinator, Semaphore};
use temp::TempNames;

/// Files that one lane copies or compares at once, at most; see [`files_max`]. Each has up to two descriptors and two
/// buffers, so this is what bounds a lane's memory. No deadlock: who holds a permit waits for I/O and for the chunks of
/// large files, whose copiers are tasks without a permit.
const FILES_MAX: usize = 64;
/// The share of the memory that a run may use which the buffers of all its lanes may take.
const BUFFERS_SHARE: u64 = 4;

/// Files at once for each of so many lanes that may use `memory` bytes together: `1..=FILES_MAX`. Their buffers are
/// limited beforehand, for they fill faster than anybody could look at memory.
#[must_use]
pub fn files_max(memory: u64, lanes: usize) -> usize {
    let each = memory / BUFFERS_SHARE / lanes.max(1) as u64 / (2 * buffers::BUFFER_BYTES as u64);
    usize::try_from(each)
        .unwrap_or(FILES_MAX)
        .clamp(1, FILES_MAX)
}

/// `--write-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// Under a temporary name, renamed when complete.
    #[default]
    Atomic,
    /// Under the final name from the start: faster, and an interrupted run leaves incomplete files for the next one
    /// to repair.
    Direct,
    /// The same for new files; existing ones are overwritten where they are, and all links to them see it.
    InPlace,
    /// Under the final name, which a file gets when it is closed and not before: what buckets do.
    Whole,
}

/// `--reflink`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reflink {
    /// Where source and destination can share blocks.
    #[default]
    Auto,
    /// Or fail.
    Always,
    Never,
}

/// Options of a lane.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::struct_excessive_bools)] // Each is one switch of the command line, and they combine freely.
pub struct LaneOptions {
    pub policy: Policy,
    pub write_mode: WriteMode,
    pub reflink: Reflink,
    /// What is mounted in a directory is not removed with it.
    pub one_file_system: bool,
    /// Blocks of zeros become holes (`--sparse`).
    pub sparse: bool,
    /// What the source's filesystem calls a hole is not read.
    pub trust_holes: bool,
    /// Large files that are not cached may go past the page cache.
    pub direct_io: bool,
    pub fsync: Fsync,
    /// Files that are written get the times of last access of their sources.
    pub atimes: bool,
    /// Read back and compare each file before it counts as copied.
    pub verify: bool,
    /// Owner of the files that this process makes.
    pub own_uid: u32,
    /// The process's umask: what modes of new files lose when the source's modes are not carried.
    pub umask: u32,
}

impl LaneOptions {
    /// Whether entries wait for the device one by one, so that many at a time share a commit of the journal.
    #[must_use]
    pub fn waits_for_device(&self) -> bool {
        self.fsync == Fsync::File || self.verify
    }
}

/// Nobody else may enter what is not finished.
const PRIVATE_DIR: u32 = 0o700;

/// A failure, without the path: the caller knows that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub op: OpKind,
    pub side: Side,
    pub cause: Cause,
}

impl Failure {
    fn new(side: Side, error: OpError) -> Self {
        Self {
            op: error.kind,
            side,
            cause: Cause::Errno(error.errno),
        }
    }

    /// The run ended before the entry was done.
    fn interrupted(side: Side) -> Self {
        Self {
            op: OpKind::Read,
            side,
            cause: Cause::Interrupted,
        }
    }

    /// What was to be removed is the source.
    pub(crate) fn loop_into_source() -> Self {
        Self {
            op: OpKind::RemoveDir,
            side: Side::Destination,
            cause: Cause::LoopIntoSource,
        }
    }

    /// Whether a listing that told `wanted` had called something a file that is none: it does not know symlinks.
    pub(crate) fn is_other_than_listed(&self, wanted: &Meta) -> bool {
        let is_unasked = wanted.unknown.has(Attrs::UNASKED);
        is_unasked && self.side == Side::Source && self.cause == Cause::Replaced
    }

    /// Whether it is the original of a copy that a server was to make which is not what it was.
    fn is_about_original(&self) -> bool {
        self.is(Errno::ESTALE) || self.is(Errno::ENOENT)
    }

    /// The same, told of the side that it is about.
    fn of_original(self) -> Self {
        if self.is(Errno::ESTALE) {
            let side = Side::Source;
            return Self { side, ..self };
        }
        self
    }

    fn is(&self, errno: Errno) -> bool {
        self.cause == Cause::Errno(errno)
    }

    /// Whether what failed on the destination may have been carried out all the same: a server that does not answer in time
    /// is told by the one or the other, and looking afterwards may show what the client remembers.
    #[must_use]
    pub fn may_be_done(&self) -> bool {
        self.side == Side::Destination && (self.is(Errno::ETIMEDOUT) || self.is(Errno::EIO))
    }
}

/// Where one name is: the same name below two open directories.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub source: &'a Handle,
    pub dest: &'a Handle,
    pub name: &'a CStr,
    /// Whether the source's name may be a symlink that is taken for what it leads to.
    pub links: Links,
    /// Where the destination's old entry is kept when it is replaced; `None` when it is not.
    pub backup: Option<&'a Backup>,
    /// The name that its backup would get is one of the source's.
    pub backup_taken: bool,
    /// Removes a directory that has the name, when what takes its place is complete.
    pub way: Option<&'a dyn Clearing>,
}

/// What a transfer did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Holes included.
    pub bytes: u64,
    /// The bytes are shared with the source, not copied.
    pub cloned: bool,
    /// So many of them were there already.
    pub resumed: u64,
    /// The source kept changing: what is in place is one moment of it.
    pub unsettled: bool,
    /// The contents are in place, and this attribute is not.
    pub unset: Option<Failure>,
    /// Where one is told.
    pub version: Option<Version>,
}

/// What was made, where a reply tells it.
fn version_of(reply: &Reply) -> Option<Version> {
    match reply {
        Reply::Made(version) => Some(*version),
        _ => None,
    }
}

/// Removes what is in the way of a new entry.
pub trait Clearing {
    fn clear(&self) -> LocalBoxFuture<'_, Result<(), Failure>>;
}

/// Gets all shards to help with large files.
pub trait Spread {
    fn spread<'a>(&'a self, files: &'a Arc<LargeFiles>) -> LocalBoxFuture<'a, ()>;
}

/// What a lane shares with others.
#[derive(Clone)]
pub struct LaneGear {
    pub cancel: Arc<Cancel>,
    /// What was written in this run, for the flush at its end.
    pub written: Written,
    pub large: Arc<LargeFiles>,
    pub instruments: Instruments,
    /// Says when memory is short.
    pub coordinator: Arc<Coordinator>,
    /// Files copied or compared at once: see [`files_max`].
    pub files_max: usize,
    /// Makes temporary names unlike those of other lanes and runs.
    pub seed: u64,
    /// With `--partial`: what is known of large files, and who is told of more.
    pub chunks: Option<Arc<dyn Chunks>>,
}

/// What one shard transfers with.
pub struct Lane {
    source: Rc<dyn Fs>,
    dest: Rc<dyn Fs>,
    options: LaneOptions,
    buffers: Buffers,
    temp_names: TempNames,
    /// Small files in a row that could not be copied in one go.
    refused_in_a_row: Cell<u32>,
    /// Caps the files that this lane has open.
    files: Arc<Semaphore>,
    cancel: Arc<Cancel>,
    /// Pairs of filesystems that cannot share blocks.
    unclonable: RefCell<Vec<(u64, u64)>>,
    noted: durable::Noted,
    large: Arc<LargeFiles>,
    chunks: Option<Arc<dyn Chunks>>,
}

impl Lane {
    #[must_use]
    pub fn new(source: Rc<dyn Fs>, dest: Rc<dyn Fs>, options: LaneOptions, gear: LaneGear) -> Self {
        Self {
            source,
            dest,
            options,
            buffers: Buffers::new(gear.instruments, gear.coordinator, 2 * gear.files_max),
            temp_names: TempNames::new(gear.seed),
            refused_in_a_row: Cell::new(0),
            files: Semaphore::new(gear.files_max),
            cancel: gear.cancel,
            unclonable: RefCell::default(),
            noted: durable::Noted::new(gear.written),
            large: gear.large,
            chunks: gear.chunks,
        }
    }

    async fn on_source(&self, op: Op) -> Result<Reply, Failure> {
        let outcome: Outcome = self.source.start(op).await;
        outcome.map_err(|error| Failure::new(Side::Source, error))
    }

    async fn on_dest(&self, op: Op) -> Result<Reply, Failure> {
        self.note_change(&op);
        let outcome: Outcome = self.dest.start(op).await;
        outcome.map_err(|error| Failure::new(Side::Destination, error))
    }

    /// Makes a directory that only its owner may enter until it is finished.
    ///
    /// # Errors
    /// The operation that failed on the destination.
    pub async fn make_dir(&self, dest: &Handle, name: &CStr, mode: u32) -> Result<(), Failure> {
        let (at, name) = (dest.clone(), name.to_owned());
        self.on_dest(Op::MakeDir { at, name, mode }).await?;
        Ok(())
    }

    /// Sees to it that a directory stays which has nothing in it, where directories are there only by what is in them.
    ///
    /// # Errors
    /// The operation that failed on the destination.
    pub async fn keep_empty_dir(&self, dest: &Handle) -> Result<(), Failure> {
        if self.options.write_mode != WriteMode::Whole {
            return Ok(());
        }
        self.make_dir(dest, c".", PRIVATE_DIR).await
    }

    /// The same for a name. `false` where directories need no such thing.
    ///
    /// # Errors
    /// The operation that failed on the destination.
    pub async fn keep_empty_dir_at(&self, dest: &Handle, name: &CStr) -> Result<bool, Failure> {
        if self.options.write_mode != WriteMode::Whole {
            return Ok(false);
        }
        let dir = self.open_below(dest, name.to_bytes()).await?;
        self.keep_empty_dir(&dir).await?;
        Ok(true)
    }

    /// The mode of a new directory until it has that of the source; where nobody knows one, for good.
    #[must_use]
    pub fn mode_of_new_dir(&self, source: &Meta) -> u32 {
        if source.unknown.has(Attrs::MODE) {
            0o777 & !self.options.umask
        } else {
            PRIVATE_DIR
        }
    }

    async fn rename(&self, dest: &Handle, from: CString, to: &CStr) -> Result<(), Failure> {
        let (at, to) = (dest.clone(), to.to_owned());
        self.on_dest(Op::Rename { at, from, to }).await?;
        Ok(())
    }

    /// Removes what may be left of a temporary name after a failure. That it cannot be removed adds nothing to the
    /// failure that is being reported; the next run removes it.
    async fn discard(&self, dest: &Handle, name: &CStr) {
        let (at, name) = (dest.clone(), name.to_owned());
        if let Err(error) = self.dest.start(Op::Unlink { at, name }).await {
            tracing::debug!(?error, "a temporary file stays for the next run to remove");
        }
    }
}
