//! A directory in work or with work below it. Nodes form the part of the tree that is alive: the ancestors of what is
//! queued and visited, never the whole tree.

use std::ffi::{CStr, CString};
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::{Child, Shard, Shared};
use crate::error::{Error, Side};
use crate::io::{Handle, Links, Op, OpError, Reply};
use crate::model::copies::Expected;
use crate::model::filter::{Reach, Scope};
use crate::model::unchanged::{Found, Key};
use crate::model::{Meta, Time};
use crate::throttle::Lease;

/// What a visit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Job {
    Sync,
    /// The source lacks this directory of the destination: everything in it goes, then it goes itself.
    Remove,
}

/// What the destination has under a directory's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Nothing, and nothing will be made: a scan, or a dry run.
    Absent,
    /// An empty directory that this run made.
    Made,
    Existing,
}

/// One directory.
///
/// ```text
///   queued ──> visited ──> waiting for children ──> finished
///              (count 1)   (count = children left)  (count 0)
/// ```
#[derive(Debug)]
pub struct Node {
    parent: Option<Arc<Node>>,
    name: CString,
    hash: u64,
    /// The directory in the state, the same in each run.
    key: Key,
    /// 0 for the root.
    depth: u64,
    pub job: Job,
    pub presence: Presence,
    /// Whether the source has a symlink under the name, which is taken for the directory that it leads to.
    links: Links,
    /// How much of the directory takes part.
    pub reach: Reach,
    /// The filter rules that hold in it; known once it was visited, and only when there are rules.
    scope: OnceLock<Arc<Scope>>,
    /// What is outstanding: see the module's head.
    outstanding: AtomicUsize,
    source: Slot,
    dest: Slot,
    /// This run changed names in the destination directory, so its mtime has moved.
    touched: AtomicBool,
    /// The destination directory was made writable for its owner, until it is finished.
    unlocked: AtomicBool,
    /// The extended attributes of source and destination were found to differ.
    xattrs_differ: AtomicBool,
    /// Of a directory to be removed: something in it had to stay.
    kept: AtomicBool,
    /// Something in this directory went wrong, so it is not what the source has.
    failed: AtomicBool,
    /// What the source directory was found to be, in a run that remembers.
    found: OnceLock<Found>,
    /// The ctime of the destination directory when this run had made all names in it.
    filled: OnceLock<Time>,
    /// What is expected of the destination, where only a listing tells how it looks.
    awaited: Mutex<Option<Box<Awaited>>>,
    /// How it looks, there.
    copies: OnceLock<u64>,
    /// The directory of the backup tree for this one, as long as the budget of descriptors allows it.
    backup: OnceLock<(Handle, Lease)>,
    /// This run has kept something in that directory, or below it.
    backed_up: AtomicBool,
}

/// What parts of a directory expect, and how many have told.
#[derive(Debug)]
struct Awaited {
    expected: Expected,
    told: usize,
}

/// An open directory that children can start from, as long as the budget of descriptors allows it.
#[derive(Debug, Default)]
struct Slot {
    handle: OnceLock<(Handle, Option<Lease>)>,
    meta: OnceLock<Meta>,
}

impl Node {
    /// The root, whose directories stay open for the whole run. It is outstanding once: for its visit.
    #[must_use]
    pub fn root(
        source: &Handle,
        dest: Option<&Handle>,
        presence: Presence,
        reach: Reach,
    ) -> Arc<Self> {
        let child = Child {
            name: CString::default(),
            job: Job::Sync,
            presence,
            links: Links::Refuse,
        };
        let mut node = Self::new(None, 0, child);
        node.reach = reach;
        let slots = [(&node.source, Some(source)), (&node.dest, dest)];
        for (slot, handle) in slots {
            if let Some(handle) = handle {
                slot.handle.get_or_init(|| (handle.clone(), None));
            }
        }
        Arc::new(node)
    }

    /// A child, outstanding once: for its visit.
    pub(super) fn child(parent: &Arc<Self>, child: Child, shared: &Shared) -> Arc<Self> {
        let hash = parent.child_hash(&child.name, shared);
        let selection = shared.options.selection.as_ref();
        let reach = selection.map(|list| list.below(parent.reach, child.name.to_bytes()));
        let mut node = Self::new(Some(parent.clone()), hash, child);
        node.reach = reach.unwrap_or(Reach::ALL);
        Arc::new(node)
    }

    fn new(parent: Option<Arc<Self>>, hash: u64, child: Child) -> Self {
        let Child {
            name,
            job,
            presence,
            links,
        } = child;
        Self {
            key: parent
                .as_ref()
                .map_or(Key::ROOT, |parent| parent.key.child(name.to_bytes())),
            failed: AtomicBool::new(false),
            found: OnceLock::new(),
            filled: OnceLock::new(),
            awaited: Mutex::default(),
            copies: OnceLock::new(),
            depth: parent.as_ref().map_or(0, |parent| parent.depth + 1),
            parent,
            name,
            hash,
            job,
            presence,
            links,
            reach: Reach::ALL,
            scope: OnceLock::new(),
            outstanding: AtomicUsize::new(1),
            source: Slot::default(),
            dest: Slot::default(),
            touched: AtomicBool::new(false),
            unlocked: AtomicBool::new(false),
            xattrs_differ: AtomicBool::new(false),
            kept: AtomicBool::new(false),
            backup: OnceLock::new(),
            backed_up: AtomicBool::new(false),
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Arc<Self> {
        Arc::new(Self::new(None, 0, Child::for_tests(c"")))
    }

    #[cfg(test)]
    pub(super) fn child_for_tests(parent: &Arc<Self>, name: &CStr) -> Arc<Self> {
        Arc::new(Self::new(Some(parent.clone()), 0, Child::for_tests(name)))
    }

    /// The hash of the path of a child, which says what shard it is first queued on.
    pub(super) fn child_hash(&self, name: &CStr, shared: &Shared) -> u64 {
        let mut hasher = shared.hasher.build_hasher();
        hasher.write_u64(self.hash);
        hasher.write(name.to_bytes());
        hasher.finish()
    }

    #[must_use]
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    #[must_use]
    pub fn name(&self) -> &CStr {
        &self.name
    }

    #[must_use]
    pub fn depth(&self) -> u64 {
        self.depth
    }

    /// The path below the root; empty for the root itself.
    #[must_use]
    pub fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut node = Some(self);
        while let Some(at) = node {
            if at.parent.is_some() {
                names.push(at.name.to_bytes());
            }
            node = at.parent.as_deref();
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The path of an entry of this directory.
    #[must_use]
    pub fn path_of(&self, name: &CStr) -> Vec<u8> {
        crate::model::path::join(&self.path(), name.to_bytes())
    }

    /// `count` more pieces of work below this directory, told before they are handed on.
    pub(super) fn expect(&self, count: usize) {
        let before = self.outstanding.fetch_add(count, SeqCst);
        debug_assert!(before > 0, "a finished directory gets no more work");
    }

    /// This run changed names in the destination directory.
    pub fn touch(&self) {
        self.touched.store(true, SeqCst);
    }

    #[must_use]
    pub fn is_touched(&self) -> bool {
        self.touched.load(SeqCst)
    }

    /// The destination directory was made writable for its owner.
    pub fn set_unlocked(&self) {
        self.unlocked.store(true, SeqCst);
    }

    #[must_use]
    pub fn is_unlocked(&self) -> bool {
        self.unlocked.load(SeqCst)
    }

    pub fn set_xattrs_differ(&self) {
        self.xattrs_differ.store(true, SeqCst);
    }

    #[must_use]
    pub fn xattrs_differ(&self) -> bool {
        self.xattrs_differ.load(SeqCst)
    }

    pub(super) fn links(&self) -> Links {
        self.links
    }

    /// Something in this directory stays, so neither it nor its parents can be removed.
    pub fn keep(&self) {
        self.kept.store(true, SeqCst);
    }

    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.kept.load(SeqCst)
    }

    #[must_use]
    pub fn key(&self) -> Key {
        self.key
    }

    /// The directory is not what the source has, for whatever reason; the next run is to look at it again.
    pub fn fail(&self) {
        self.failed.store(true, SeqCst);
    }

    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.failed.load(SeqCst)
    }

    /// What the source directory was found to be.
    #[must_use]
    pub fn found(&self) -> Option<&Found> {
        self.found.get()
    }

    pub(super) fn set_found(&self, found: Found) {
        self.found.get_or_init(|| found);
    }

    /// When this run had made all names in a directory that it made.
    #[must_use]
    pub fn filled(&self) -> Option<Time> {
        self.filled.get().copied()
    }

    pub(super) fn set_filled(&self, ctime: Time) {
        self.filled.get_or_init(|| ctime);
    }

    /// Takes in what one part of the directory expects of the destination. Returns what all expect, with the last of so many parts.
    pub(super) fn expect_copies(&self, part: &Expected, parts: usize) -> Option<Expected> {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        let awaited = match &mut *awaited {
            Some(awaited) => {
                awaited.expected.merge(part);
                awaited.told += 1;
                awaited
            }
            none => none.insert(Box::new(Awaited {
                expected: *part,
                told: 1,
            })),
        };
        (awaited.told == parts).then_some(awaited.expected)
    }

    /// The destination directory looks so, where only a listing tells.
    pub(super) fn set_copies(&self, digest: u64) {
        self.copies.get_or_init(|| digest);
    }

    /// As it was set; nothing when it cannot be relied upon.
    pub(super) fn copies(&self) -> Option<u64> {
        self.copies.get().copied()
    }

    /// The open directory of the backup tree, when it is open.
    #[must_use]
    pub fn backup_dir(&self) -> Option<&Handle> {
        self.backup.get().map(|(dir, _)| dir)
    }

    /// There is a directory of the backup tree now; it stays open with a lease.
    pub fn set_backup_dir(&self, dir: &Handle, lease: Option<Lease>) {
        self.backed_up.store(true, SeqCst);
        if let Some(lease) = lease {
            self.backup.get_or_init(|| (dir.clone(), lease));
        }
    }

    #[must_use]
    pub fn is_backed_up(&self) -> bool {
        self.backed_up.load(SeqCst)
    }

    fn slot(&self, side: Side) -> &Slot {
        match side {
            Side::Source => &self.source,
            Side::Destination => &self.dest,
        }
    }

    /// The filter rules that hold in the directory.
    #[must_use]
    pub fn scope(&self) -> Option<&Arc<Scope>> {
        self.scope.get()
    }

    pub(super) fn set_scope(&self, scope: Arc<Scope>) -> &Arc<Scope> {
        self.scope.get_or_init(|| scope)
    }

    /// What the directory looked like when it was opened on that side.
    #[must_use]
    pub fn meta(&self, side: Side) -> Option<&Meta> {
        self.slot(side).meta.get()
    }

    /// Device and inode of the directory on that side, once it was opened.
    #[must_use]
    pub fn identity(&self, side: Side) -> Option<(u64, u64)> {
        self.meta(side).map(Meta::identity)
    }

    pub fn set_meta(&self, side: Side, meta: Meta) {
        self.slot(side).meta.get_or_init(|| meta);
    }
}

impl Drop for Node {
    /// Frees a chain of ancestors in a loop: a deep tree must not exhaust the stack.
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(node) = next {
            next = Arc::into_inner(node).and_then(|mut node| node.parent.take());
        }
    }
}

/// The two open directories of a visit.
#[derive(Clone, Debug)]
pub struct Dirs {
    pub node: Arc<Node>,
    /// Absent when the visit removes a directory of the destination.
    pub source: Option<Handle>,
    pub dest: Option<Handle>,
}

/// Opens the directory of `node` for one listing. The root's own descriptor stays at its start for the passes to come:
/// the root is opened anew, and so gets its attributes like every other directory.
///
/// # Errors
/// With the path of the directory that could not be opened: `node` or an ancestor.
pub(super) async fn open_to_list(
    shard: &Shard,
    node: &Arc<Node>,
    side: Side,
) -> Result<Handle, Error> {
    let handle = open(shard, node, side).await?;
    if node.parent.is_some() {
        return Ok(handle);
    }
    let (handle, meta) = open_below(shard, handle, c".".to_owned(), side, node).await?;
    node.set_meta(side, meta);
    Ok(handle)
}

/// The open root of the tree that `node` is in.
#[must_use]
pub fn root_dir(node: &Arc<Node>, side: Side) -> Option<Handle> {
    let mut at = node;
    while let Some(parent) = &at.parent {
        at = parent;
    }
    let (handle, _) = at.slot(side).handle.get()?;
    Some(handle.clone())
}

async fn open_below(
    shard: &Shard,
    at: Handle,
    name: CString,
    side: Side,
    node: &Node,
) -> Result<(Handle, Meta), Error> {
    let links = match side {
        Side::Source => node.links,
        Side::Destination => Links::Refuse,
    };
    start_open(shard, Op::OpenDir { at, name, links }, side, node).await
}

async fn start_open(
    shard: &Shard,
    op: Op,
    side: Side,
    node: &Node,
) -> Result<(Handle, Meta), Error> {
    let fs = match side {
        Side::Source => &shard.source,
        Side::Destination => &shard.dest,
    };
    match fs.start(op).await {
        Ok(Reply::Opened(opened, meta)) => Ok((opened, meta)),
        Ok(other) => unreachable!("an open does not reply {other:?}"),
        Err(OpError { kind, errno }) => Err(Error::errno(kind, side, node.path(), errno)),
    }
}

/// Opens the directory of `node` on one side, from the nearest ancestor whose descriptor is still open, usually the parent.
/// It stays below that and follows no symlink, so a tree that is changed under us cannot lead outside. (With `-L` the
/// source's symlinks are followed, one name at a time.)
///
/// # Errors
/// With the path of the directory that could not be opened: `node`, or with `-L` an ancestor.
pub async fn open(shard: &Shard, node: &Arc<Node>, side: Side) -> Result<Handle, Error> {
    let mut to_open: Vec<&Arc<Node>> = Vec::new();
    let mut at = node;
    let mut handle = loop {
        if let Some((handle, _)) = at.slot(side).handle.get() {
            break handle.clone();
        }
        to_open.push(at);
        match &at.parent {
            Some(parent) => at = parent,
            None => unreachable!("the root's directories stay open"),
        }
    };
    let follows = |node: &&Arc<Node>| side == Side::Source && node.links == Links::Follow;
    if to_open.len() > 1 && !to_open.iter().any(follows) {
        let names: Vec<&[u8]> = to_open
            .iter()
            .rev()
            .map(|node| node.name.to_bytes())
            .collect();
        let (at, path) = (handle, names.join(&b'/'));
        let (opened, meta) = start_open(shard, Op::OpenDirBelow { at, path }, side, node).await?;
        return Ok(keep_open(shard, node, side, opened, meta));
    }
    while let Some(next) = to_open.pop() {
        let (opened, meta) = open_below(shard, handle, next.name.clone(), side, next).await?;
        handle = keep_open(shard, next, side, opened, meta);
    }
    Ok(handle)
}

/// Notes what was opened, which stays open for children to come if a lease can be had.
fn keep_open(shard: &Shard, node: &Node, side: Side, opened: Handle, meta: Meta) -> Handle {
    node.set_meta(side, meta);
    if let Some(lease) = shard.shared.handles.lease() {
        let slot = &node.slot(side).handle;
        slot.get_or_init(|| (opened.clone(), Some(lease)));
    }
    opened
}

/// One piece of work of `node` is over. Finishes every directory that has nothing outstanding any more, upwards; after
/// the root, the run ends.
pub(super) async fn release(shard: &Rc<Shard>, node: Arc<Node>) {
    let mut node = node;
    loop {
        let before = node.outstanding.fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "work was given back twice");
        if before > 1 {
            return;
        }
        shard.hands.finish(shard, &node).await;
        match node.parent.clone() {
            Some(parent) => node = parent,
            None => return shard.shared.stop(),
        }
    }
}
