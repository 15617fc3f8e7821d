//! The engine: one shard per core, each with its executor, its queue of directories and its part of the index.
//!
//! ```text
//!          inbox (bounded)           permit (global semaphore)        slot (per shard)
//!  peers ─────────────────> queue ────────────────────────────> visit ─────────────────> transfer ──> release
//!                             ^    depth first, or breadth first   │ list source, list destination,        │
//!                             │    when starving                   │ compare -> plan                       v
//!                             └──────────── children <─────────────┘                    parent's count, finish
//! ```
//!
//! **Termination.** Every directory is a [`node::Node`] that counts what is outstanding below it: itself while it is
//! visited, each child from before it is queued, each part of a split directory. A count is taken before the work is
//! handed on and given back when the work is over, so it reaches zero exactly once, after everything below has
//! reached zero. When the root reaches zero nothing is queued, nothing is in flight, and all inboxes are closed.
//!
//! **No deadlock.** A shard's receiver never waits for work: it puts directories on the queue and goes on (names of a
//! split directory wait for their part's task, which only does I/O at that time). So a full inbox always drains, and
//! whoever waits to send into it goes on.

mod batch;
mod giant;
mod idle;
mod index;
pub mod node;
mod part;
mod plan;
pub mod pool;
mod protect;
mod pulse;
mod queue;
mod repeat;
pub mod sift;
pub mod skip;
mod symlinks;
mod traverser;

use std::cell::{Cell, RefCell};
use std::hash::BuildHasher;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use async_channel::{Receiver, Sender};
use crossbeam_utils::CachePadded;
use foldhash::quality::RandomState;
use futures_util::future::LocalBoxFuture;
use nix::errno::Errno;

pub use index::NameIndex;
pub use node::{Dirs, Job, Node, Presence};
pub use plan::{Plan, Removal, Step, StrayRule};
pub use protect::BackupRule;
pub use queue::{Child, Run};
pub use traverser::run;

use crate::control::retry::RetryBudget;
use crate::error::{Cause, Error, Side};
use crate::io::Fs;
use crate::model::filter::{Filter, Selection};
use crate::model::{Instruments, Listing, Policy, Sink, Symlinks, Tally};
use crate::throttle::{Budget, Cancel, Coordinator, Lease, Reason, Semaphore};
use giant::PartMessage;
use idle::Idle;
use pulse::Pulse;
use queue::Queue;
pub use skip::Passing;
use skip::SourceClock;

/// Messages of each kind that may wait in one shard's inbox. A message carries all children of a directory for that shard, so
/// this is far more than the cores can be ahead of each other.
const INBOX_MAX: usize = 256;
/// Listings kept for reuse by one shard, and the heap that one of them may keep.
const LISTINGS_KEPT_MAX: usize = 8;
const LISTING_KEPT_BYTES_MAX: usize = 8 << 20;

/// What a shard does with the directories that it visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Crawl one tree and count.
    Scan,
    /// Compare two trees and act.
    Sync,
    /// Compare names only, and delete what the source lacks: the second pass of `--delete-after`.
    DeleteOnly,
}

/// What the shards need to know of a run.
#[derive(Clone)]
pub struct Options {
    pub mode: Mode,
    pub policy: Policy,
    pub filter: Option<Arc<Filter>>,
    pub selection: Option<Arc<Selection>>,
    /// Names that the source lacks are deleted in this pass.
    pub delete: bool,
    /// Directories on other filesystems are made but not entered.
    pub one_file_system: bool,
    pub symlinks: Symlinks,
    /// The identity of the destination root, which a crawl of the source must not enter.
    pub dest_root: Option<(u64, u64)>,
    /// Temporary files of earlier runs: see [`StrayRule`].
    pub strays: Option<StrayRule>,
    /// Names that are backups: see [`BackupRule`].
    pub backups: Option<BackupRule>,
    /// Directories in transfer at once on one shard, where calls take their time: `1..`.
    pub transfers_max: usize,
    /// The same where calls return at once.
    pub busy_transfers_max: usize,
    pub passing: Passing,
}

/// What all shards of a run share.
pub struct Shared {
    pub options: Options,
    addresses: Vec<Address>,
    idle: Idle,
    /// Says which directory may begin.
    pub coordinator: Arc<Coordinator>,
    /// Directory descriptors that may stay open for the sake of children to come.
    handles: Arc<Budget>,
    retries: Arc<RetryBudget>,
    pub tallies: Arc<[CachePadded<Tally>]>,
    pub cancel: Arc<Cancel>,
    pub sink: Arc<dyn Sink>,
    hasher: RandomState,
    pulses: Vec<Pulse>,
    /// The identity of the source root, which nothing done to the destination may touch. Known from the first visit on.
    source_root: OnceLock<(u64, u64)>,
    source_clock: SourceClock,
    /// Deepest level met; entries of the root are level 1.
    pub depth_max: AtomicU64,
    /// Bytes of the largest file met.
    pub file_size_max: AtomicU64,
}

impl Shared {
    /// The state of a run over `tallies.len()` shards, and their inboxes in order.
    #[must_use]
    pub fn new(
        options: Options,
        coordinator: Arc<Coordinator>,
        handles: Arc<Budget>,
        retries: Arc<RetryBudget>,
        tallies: Arc<[CachePadded<Tally>]>,
        cancel: Arc<Cancel>,
        sink: Arc<dyn Sink>,
    ) -> (Arc<Self>, Vec<Inbox>) {
        let pulses = tallies.iter().map(|_| Pulse::default()).collect();
        let (addresses, inboxes) = (0..tallies.len()).map(|_| inbox()).unzip();
        let shared = Self {
            options,
            coordinator,
            idle: Idle::new(tallies.len()),
            addresses,
            handles,
            retries,
            tallies,
            cancel,
            sink,
            hasher: RandomState::default(),
            source_root: OnceLock::new(),
            source_clock: SourceClock::default(),
            depth_max: AtomicU64::new(0),
            pulses,
            file_size_max: AtomicU64::new(0),
        };
        (Arc::new(shared), inboxes)
    }

    /// Device and inode of the source root.
    #[must_use]
    pub fn source_root(&self) -> Option<(u64, u64)> {
        self.source_root.get().copied()
    }

    fn shards(&self) -> usize {
        self.addresses.len()
    }

    /// The shard that gets a name of a split directory.
    fn place_of(&self, name: &[u8]) -> usize {
        // A temporary file belongs to the name that it is to get.
        let strays = self.options.strays.filter(|rule| (rule.is_temp_name)(name));
        let name = strays.map_or(name, |rule| rule.target(name));
        let rule = self.options.backups.as_ref();
        let stem = rule.map_or(name, |rule| rule.stem(name));
        giant::place(self.hasher.hash_one(stem), self.shards())
    }

    /// Closes all inboxes: the end of the run.
    fn stop(&self) {
        for address in &self.addresses {
            address.runs.close();
            address.messages.close();
        }
    }

    /// Ends the run from any thread because a shard is lost.
    fn abort(&self) {
        self.cancel.set(Reason::Panicked);
        self.stop();
    }
}

/// A future to run on another shard, made there.
pub type Task = Box<dyn FnOnce(Rc<Shard>) -> LocalBoxFuture<'static, ()> + Send>;

/// What shards send each other besides directories.
pub enum Message {
    Part(PartMessage),
    Task(Task),
}

/// Where the others send to a shard.
struct Address {
    runs: Sender<Run>,
    messages: Sender<Message>,
}

/// What a shard receives. Directories come apart, for they may be taken at any moment and in any order; of the others those
/// of one sender stay in order.
#[derive(Clone)]
pub struct Inbox {
    runs: Receiver<Run>,
    messages: Receiver<Message>,
}

fn inbox() -> (Address, Inbox) {
    let (to_runs, runs) = async_channel::bounded(INBOX_MAX);
    let (to_messages, messages) = async_channel::bounded(INBOX_MAX);
    let address = Address {
        runs: to_runs,
        messages: to_messages,
    };
    (address, Inbox { runs, messages })
}

/// Those who carry out what the comparison decided. Implemented by the composition root with the transfer lanes.
pub trait Hands {
    /// Deletes what is to go and makes the directories that are missing. Returns the directories to visit.
    fn prepare<'a>(
        &'a self,
        shard: &'a Rc<Shard>,
        dirs: &'a Dirs,
        plan: &'a Plan,
    ) -> LocalBoxFuture<'a, Vec<Child>>;

    /// Copies, replaces and repairs everything in the plan that is not a directory.
    fn transfer<'a>(
        &'a self,
        shard: &'a Rc<Shard>,
        dirs: &'a Dirs,
        plan: &'a Plan,
    ) -> LocalBoxFuture<'a, ()>;

    /// Both directories are open: says what differs between them themselves.
    fn opened<'a>(&'a self, shard: &'a Shard, dirs: &'a Dirs) -> LocalBoxFuture<'a, ()>;

    /// Nothing below the directory will change any more.
    fn finish<'a>(&'a self, shard: &'a Rc<Shard>, node: &'a Arc<Node>) -> LocalBoxFuture<'a, ()>;
}

/// One shard, alive on its executor.
pub struct Shard {
    pub id: usize,
    pub shared: Arc<Shared>,
    pub source: Rc<dyn Fs>,
    pub dest: Rc<dyn Fs>,
    hands: Rc<dyn Hands>,
    pub instruments: Instruments,
    queue: Queue,
    /// Directories whose visit has begun and not ended, transfer included.
    visits: Cell<usize>,
    transfers: Arc<Semaphore>,
    /// The same where calls return at once.
    busy_transfers: Arc<Semaphore>,
    listings: RefCell<Vec<Listing>>,
    parts: giant::Parts,
}

impl Shard {
    #[must_use]
    pub fn new(
        id: usize,
        shared: Arc<Shared>,
        source: Rc<dyn Fs>,
        dest: Rc<dyn Fs>,
        hands: Rc<dyn Hands>,
        instruments: Instruments,
    ) -> Rc<Self> {
        Rc::new(Self {
            id,
            transfers: Semaphore::new(shared.options.transfers_max),
            busy_transfers: Semaphore::new(shared.options.busy_transfers_max),
            shared,
            source,
            dest,
            hands,
            instruments,
            queue: Queue::default(),
            visits: Cell::new(0),
            listings: RefCell::default(),
            parts: giant::Parts::default(),
        })
    }

    #[must_use]
    pub fn tally(&self) -> &Tally {
        self.instruments.tally()
    }

    fn pulse(&self) -> &Pulse {
        &self.shared.pulses[self.id]
    }

    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.shared.cancel.is_set()
    }

    /// Reports an error in a directory, which therefore is not what the source has; one that is fatal also ends the run.
    pub fn report(&self, node: &Node, error: Error) {
        node.fail();
        if error.cause == Cause::Errno(Errno::ECANCELED) && self.cancelled() {
            // That the run ends is told once.
            return;
        }
        if error.class() == crate::error::Class::Fatal {
            self.shared.cancel.set(Reason::Fatal);
        }
        self.shared.sink.error(error);
    }

    /// How many shards there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.addresses.len()
    }

    /// Whether calls on a directory's filesystem are known to take their time.
    #[must_use]
    pub fn is_slow(&self, side: Side, dirs: &Dirs) -> bool {
        let (fs, dir) = match side {
            Side::Source => (&self.source, &dirs.source),
            Side::Destination => (&self.dest, &dirs.dest),
        };
        dir.as_ref().is_some_and(|dir| fs.is_slow(dir.dev()))
    }

    /// What limits the directories in transfer on the filesystems of these.
    fn transfer_slots(&self, dirs: &Dirs) -> &Arc<Semaphore> {
        if self.is_slow(Side::Source, dirs) || self.is_slow(Side::Destination, dirs) {
            &self.transfers
        } else {
            &self.busy_transfers
        }
    }

    /// Says so when there is nothing to do here.
    fn note_idle(&self) {
        if self.queue.len() == 0 && self.visits.get() == 0 {
            self.shared.idle.set(self.id);
        }
    }

    /// Gives some of what waits to a shard that has nothing to do. Called again and again between pieces of work.
    pub fn share(&self) {
        let all = &self.shared;
        if self.queue.len() > 0
            && let Some(to) = all.idle.take(self.id)
            && let Some(run) = self.queue.share()
            && let Err(refused) = all.addresses[to].runs.try_send(run)
        {
            // Full, so it is not idle at all; or the run is over.
            self.queue.push(refused.into_inner());
        }
    }

    /// Runs a task on every shard, and does not wait for it. Used for work that is split by its claimants: a task that comes
    /// late finds nothing left to claim.
    pub async fn on_all_shards(self: &Rc<Self>, mut task: impl FnMut() -> Task) {
        glommio::spawn_local(task()(self.clone())).detach();
        for (id, address) in self.shared.addresses.iter().enumerate() {
            if id != self.id {
                // A closed inbox means that the run is over or lost; nobody waits for helpers then.
                let _ = address.messages.send(Message::Task(task())).await;
            }
        }
    }

    /// The share of the permits that this shard may hold: at least one, and together about all.
    fn visiting_max(&self) -> u64 {
        let all = self.shared.coordinator.dirs_max();
        all.div_ceil(self.shared.shards() as u64)
    }

    fn note_queue(&self) {
        let levels = &self.tally().levels;
        levels.dirs_queued.set(self.queue.len() as u64);
    }

    fn is_place_of(&self, name: &[u8]) -> bool {
        self.shared.place_of(name) == self.id
    }

    /// The right to keep one more directory open for the sake of work to come.
    #[must_use]
    pub fn lease(&self) -> Option<Lease> {
        self.shared.handles.lease()
    }

    fn take_listing(&self) -> Listing {
        self.listings.borrow_mut().pop().unwrap_or_default()
    }

    fn keep_listing(&self, mut listing: Listing) {
        let mut kept = self.listings.borrow_mut();
        if self.shared.coordinator.is_memory_short() {
            kept.clear();
            return;
        }
        if kept.len() < LISTINGS_KEPT_MAX && listing.heap_bytes() <= LISTING_KEPT_BYTES_MAX {
            listing.clear();
            kept.push(listing);
        }
    }

    fn note_depth(&self, depth: u64) {
        if self.shared.depth_max.load(Relaxed) < depth {
            self.shared.depth_max.fetch_max(depth, Relaxed);
        }
    }

    fn note_file_size(&self, size: u64) {
        if self.shared.file_size_max.load(Relaxed) < size {
            self.shared.file_size_max.fetch_max(size, Relaxed);
        }
    }
}
