//! The visit of one directory, and the tasks of a shard that lead to it.

use std::rc::Rc;
use std::sync::Arc;

use async_channel::Receiver;
use nix::errno::Errno;

use super::batch::{read_batch, report_refused, stat_all};
use super::node::{self, Dirs, Job, Node, Presence};
use super::part::{Part, Read};
use super::plan::{InHand, Plan, Removal};
use super::queue::{Child, Run, Turn};
use super::skip::{self, Hope};
use super::{Inbox, Message, Mode, Shard, giant, sift, symlinks};
use crate::error::{Cause, Error, OpKind, Side};
use crate::io::{Handle, Links, Op, Reply, Target};
use crate::model::{Kind, Listing, State, Timed, Wait};
use crate::throttle::{Admission, DirPermit};

/// Runs a shard until the run is over. `root` is given to one of the shards.
pub async fn run(shard: Rc<Shard>, inbox: Inbox, root: Option<Arc<Node>>) {
    let Inbox { runs, messages } = inbox;
    let dispatcher = glommio::spawn_local(dispatch(shard.clone(), runs.clone()));
    let receiver = glommio::spawn_local(receive(shard.clone(), runs));
    let beating = shard.clone();
    glommio::spawn_local(async move { beating.pulse().beat().await }).detach();
    if let Some(root) = root {
        let admission = shard.shared.coordinator.admit().await;
        start_visit(&shard, root, admission);
    }
    while let Ok(message) = messages.recv().await {
        match message {
            Message::Part(part) => giant::receive(&shard, part).await,
            Message::Task(task) => {
                glommio::spawn_local(task(shard.clone())).detach();
            }
        }
    }
    // Nothing is queued any more, or a shard was lost; then its permits are too, and waiting for one would never end.
    dispatcher.cancel().await;
    receiver.cancel().await;
    shard.pulse().stop();
}

/// Wakes an idle shard when directories come.
async fn receive(shard: Rc<Shard>, runs: Receiver<Run>) {
    while let Ok(run) = runs.recv().await {
        push(&shard, run);
    }
}

fn push(shard: &Shard, run: Run) {
    shard.queue.push(run);
    shard.shared.idle.clear(shard.id);
    shard.note_queue();
}

/// Takes directories off the queue as permits come.
async fn dispatch(shard: Rc<Shard>, runs: Receiver<Run>) {
    let may_visit = || shard.tally().levels.dirs_active.get() < shard.visiting_max();
    shard.note_idle();
    loop {
        shard.queue.until(may_visit).await;
        let asked = shard.instruments.now();
        let admission = shard.shared.coordinator.admit().await;
        // A busy executor looks at its wakes only now and then. What came meanwhile is newer than what waits, and deeper: were
        // it left until then, the crawl would go in breadth, and lose the open directories that it starts from.
        while let Ok(run) = runs.try_recv() {
            push(&shard, run);
        }
        // Nobody else takes from the queue, so what was there still is.
        let Some(Turn {
            parent,
            child,
            found,
        }) = shard.queue.pop()
        else {
            continue;
        };
        shard.share();
        shard.note_queue();
        if let (Some(found), Some(asked)) = (found, asked) {
            let queued = asked.saturating_duration_since(found);
            shard
                .instruments
                .record(Timed::Wait(Wait::Queue), queued, 1);
        }
        shard
            .instruments
            .record_since(Timed::Wait(Wait::Permit), asked);
        let node = Node::child(&parent, child, &shard.shared);
        start_visit(&shard, node, admission);
    }
}

fn start_visit(shard: &Rc<Shard>, node: Arc<Node>, admission: Admission) {
    shard.tally().levels.dirs_active.add(1);
    shard.visits.set(shard.visits.get() + 1);
    glommio::spawn_local(visit(shard.clone(), node, admission)).detach();
}

/// Gives the permit and the shard's own count of it back together.
struct Visiting<'a> {
    shard: &'a Rc<Shard>,
    permit: Option<DirPermit>,
}

impl Visiting<'_> {
    /// The permit goes on to the parts of a split directory.
    fn hand_over(mut self) -> Option<DirPermit> {
        self.permit.take()
    }
}

impl Drop for Visiting<'_> {
    fn drop(&mut self) {
        self.shard.tally().levels.dirs_active.sub(1);
        self.shard.queue.wake();
    }
}

async fn visit(shard: Rc<Shard>, node: Arc<Node>, admission: Admission) {
    let visiting = Visiting {
        shard: &shard,
        permit: Some(admission.permit),
    };
    let in_hand = InHand {
        lease: admission.lease,
        began: shard.instruments.now(),
    };
    if shard.cancelled() {
        node.keep();
        drop((visiting, in_hand));
    } else {
        match node.job {
            Job::Sync => sync(&shard, &node, visiting, in_hand).await,
            Job::Remove => remove(&shard, &node, visiting, in_hand).await,
        }
    }
    node::release(&shard, node).await;
    shard.visits.set(shard.visits.get() - 1);
    shard.note_idle();
}

/// Compares a directory with its counterpart, and acts on the outcome.
async fn sync(shard: &Rc<Shard>, node: &Arc<Node>, visiting: Visiting<'_>, in_hand: InHand) {
    let since = skip::now();
    let Some((mut dirs, hope)) = enter(shard, node).await else {
        if shard.shared.options.mode != Mode::DeleteOnly {
            shard.tally().dirs_skipped.add(1);
        }
        return;
    };
    let mode = shard.shared.options.mode;
    if mode == Mode::Sync && hope.is_none() {
        shard.hands.opened(shard, &dirs).await;
    }
    let mut part = Part::new(shard, dirs.clone(), in_hand);
    let entries_max = if shard.shared.shards() > 1 {
        giant::ENTRIES_MIN
    } else {
        usize::MAX
    };
    if let Read::Giant = part.read_source(shard, entries_max).await {
        if let Some(permit) = visiting.hand_over() {
            giant::split(shard, dirs, part, permit, (since, hope)).await;
        }
        return;
    }
    part.settle_lease();
    part.index_source(shard, 0).await;
    let is_unchanged = match part.seen() {
        Some(seen) => skip::judge(shard, &dirs, since, seen, hope.as_ref()).await,
        None => false,
    };
    if is_unchanged {
        skip::count_dir(shard, node);
        skip::count_entries(shard, part.source());
        part.set_unchanged();
    } else {
        if hope.is_some() {
            let Some(dest) = open_dest_late(shard, &mut dirs).await else {
                return;
            };
            part.set_dest(dest);
        }
        if node.presence == Presence::Existing && mode != Mode::Scan {
            part.read_dest(shard).await;
        } else {
            part.dest_complete = true;
        }
    }
    settle(shard, &dirs, part.finish(shard).await, Some(visiting)).await;
}

/// The copy was expected to be unchanged, and the source is not: opens it after all.
pub(super) async fn open_dest_late(shard: &Rc<Shard>, dirs: &mut Dirs) -> Option<Handle> {
    let node = dirs.node.clone();
    match open_or_repeat(shard, &node, Side::Destination).await {
        Ok(dest) => {
            dirs.dest = Some(dest.clone());
            shard.hands.opened(shard, dirs).await;
            Some(dest)
        }
        Err(error) => {
            shard.report(&node, error);
            None
        }
    }
}

/// Opens both sides of a directory that is this tree's to enter. What keeps it from being entered is told. The destination
/// stays closed when it may be unchanged.
async fn enter(shard: &Rc<Shard>, node: &Arc<Node>) -> Option<(Dirs, Option<Hope>)> {
    let (dirs, hope) = open_dirs(shard, node).await?;
    if is_other_filesystem(shard, &dirs) {
        return None;
    }
    if let Err(error) = sift::enter(shard, &dirs).await {
        shard.report(node, error);
        return None;
    }
    Some((dirs, hope))
}

/// `-x`: what is mounted in the source is not this tree's. The pass that only deletes lists names alone and meets it here.
fn is_other_filesystem(shard: &Shard, dirs: &Dirs) -> bool {
    let parent = dirs.node.parent().and_then(|node| node.meta(Side::Source));
    let (Some(parent), Some(source)) = (parent, &dirs.source) else {
        return false;
    };
    shard.shared.options.one_file_system && parent.dev != source.dev()
}

/// Acts on a plan. `permit` is whatever entitles to list and compare; it is given back before children are queued,
/// and after a transfer slot was had, so that crawling cannot run away from copying.
pub(super) async fn settle<P>(shard: &Rc<Shard>, dirs: &Dirs, plan: Plan, permit: P) {
    let children = if shard.shared.options.mode == Mode::Scan {
        all_dirs(shard, dirs, &plan)
    } else {
        shard.hands.prepare(shard, dirs, &plan).await
    };
    let slot = if plan.steps.is_empty() {
        None
    } else {
        let asked = shard.instruments.now();
        let slot = shard.transfer_slots(dirs).acquire().await;
        shard
            .instruments
            .record_since(Timed::Wait(Wait::Transfer), asked);
        Some(slot)
    };
    drop(permit);
    enqueue(shard, &dirs.node, children).await;
    if slot.is_some() {
        shard.hands.transfer(shard, dirs, &plan).await;
    }
    skip::note_filled(shard, dirs, &plan).await;
    if let Some(began) = plan.in_hand.as_ref().and_then(|in_hand| in_hand.began) {
        let (elapsed, entries) = (began.elapsed(), plan.source.len() as u64);
        shard.instruments.record(Timed::Directory, elapsed, 1);
        let path = || dirs.node.path();
        shard.instruments.directory(elapsed, entries, &path);
    }
    shard.keep_listing(plan.source);
}

/// The directories of a scan.
fn all_dirs(shard: &Shard, dirs: &Dirs, plan: &Plan) -> Vec<Child> {
    let own_dev = dirs.source.as_ref().map(Handle::dev);
    let options = &shard.shared.options;
    plan.dirs
        .iter()
        .filter(|step| !options.one_file_system || Some(plan.meta(step).dev) == own_dev)
        .map(|step| Child {
            name: plan.source.name(plan.entry(step)).to_owned(),
            job: Job::Sync,
            presence: Presence::Absent,
            links: plan.links(step),
        })
        .collect()
}

/// Sends each child to its shard, all for one shard in one message.
async fn enqueue(shard: &Rc<Shard>, node: &Arc<Node>, children: Vec<Child>) {
    if children.is_empty() {
        return;
    }
    node.expect(children.len());
    let shards = shard.shared.shards();
    let mut by_shard: Vec<Vec<Child>> = Vec::new();
    by_shard.resize_with(shards, Vec::new);
    for child in children {
        let hash = node.child_hash(&child.name, &shard.shared);
        by_shard[giant::place(hash, shards)].push(child);
    }
    for (to, children) in by_shard.into_iter().enumerate() {
        if children.is_empty() {
            continue;
        }
        let parent = node.clone();
        let run = Run {
            parent,
            children,
            found: shard.instruments.now(),
        };
        if to == shard.id {
            push(shard, run);
        } else {
            // Closed only when a shard was lost; then nothing matters any more.
            let _ = shard.shared.addresses[to].runs.send(run).await;
        }
    }
}

/// Opens both sides. Reports what cannot be opened; without a source nothing is done, and nothing is deleted.
async fn open_dirs(shard: &Rc<Shard>, node: &Arc<Node>) -> Option<(Dirs, Option<Hope>)> {
    let open_dest = async {
        if node.presence == Presence::Absent {
            return Ok(Counterpart::Absent);
        }
        if node.presence == Presence::Existing
            && let Some(hope) = skip::hope(shard, node).await
        {
            return Ok(Counterpart::Hoped(hope));
        }
        open_or_repeat(shard, node, Side::Destination)
            .await
            .map(Counterpart::Open)
    };
    let open_source = open_or_repeat(shard, node, Side::Source);
    let (source, dest) = futures_util::future::join(open_source, open_dest).await;
    // Also when the source cannot be opened either: each failure is told.
    let dest = dest.map_err(|error| shard.report(node, error));
    let source = match source {
        Ok(source) => source,
        Err(error) => {
            shard.report(node, error);
            remember_closed_source(shard, node).await;
            return None;
        }
    };
    let (dest, hope) = match dest.ok()? {
        Counterpart::Absent => (None, None),
        Counterpart::Open(dest) => (Some(dest), None),
        Counterpart::Hoped(hope) if skip::still_hopes(shard, node, &source, &hope) => {
            (None, Some(hope))
        }
        Counterpart::Hoped(_) => {
            let opened = open_or_repeat(shard, node, Side::Destination).await;
            let opened = opened.map_err(|error| shard.report(node, error));
            (Some(opened.ok()?), None)
        }
    };
    if let Some(error) = find_loop(shard, node) {
        // The second pass meets it again.
        if shard.shared.options.mode != Mode::DeleteOnly {
            shard.report(node, error);
        }
        return None;
    }
    if symlinks::is_loop(node) {
        let (op, cause) = (OpKind::OpenDir, Cause::SymlinkLoop);
        shard.report(node, Error::new(op, Side::Source, node.path(), cause));
        return None;
    }
    shard.tally().dirs_listed.add(1);
    let dirs = Dirs {
        node: node.clone(),
        source: Some(source),
        dest,
    };
    Some((dirs, hope))
}

/// The destination's side of a directory.
enum Counterpart {
    Absent,
    Open(Handle),
    /// Not opened: it may turn out to be unchanged.
    Hoped(Hope),
}

/// Opens one side; what may pass is waited for.
async fn open_or_repeat(shard: &Shard, node: &Arc<Node>, side: Side) -> Result<Handle, Error> {
    let mut attempt = 0;
    loop {
        let opened = node::open_to_list(shard, node, side).await;
        match &opened {
            Err(error) if shard.pause_before_repeating(attempt, &error.cause).await => attempt += 1,
            _ => return opened,
        }
    }
}

/// Bind mounts may lead from either tree into the other.
fn find_loop(shard: &Shard, node: &Arc<Node>) -> Option<Error> {
    /// How far up the destination's path a loop is looked for. A directory of the destination that is mounted inside the
    /// source leads down for ever when the copy of the mount point lies below that directory; the distance
    /// between the two is the same all the way down, so it is found at the first turn.
    const LEVELS_MAX: usize = 64;
    let source = node.identity(Side::Source)?;
    if node.parent().is_none() {
        shard.shared.source_root.get_or_init(|| source);
        return None;
    }
    let error = |side, cause| Some(Error::new(OpKind::OpenDir, side, node.path(), cause));
    let dest = node.identity(Side::Destination);
    if dest.is_some() && dest == shard.shared.source_root() {
        return error(Side::Destination, Cause::LoopIntoSource);
    }
    let upwards = std::iter::successors(Some(node), |node| node.parent()).take(LEVELS_MAX);
    let mut dests = upwards.map(|node| node.identity(Side::Destination));
    if Some(source) == shard.shared.options.dest_root || dests.any(|dest| dest == Some(source)) {
        return error(Side::Source, Cause::LoopIntoDestination);
    }
    None
}

/// A source directory that cannot be opened may still tell its attributes, which its copy then gets.
async fn remember_closed_source(shard: &Shard, node: &Arc<Node>) {
    let Some(parent) = node.parent() else { return };
    let Ok(at) = node::open(shard, parent, Side::Source).await else {
        return;
    };
    let name = node.name().to_owned();
    let target = match node.links() {
        Links::Refuse => Target::Name(at, name),
        Links::Follow => Target::Followed(at, name),
    };
    if let Ok(Reply::Meta(meta)) = shard.source.start(Op::Stat { target }).await
        && meta.kind == Kind::Dir
    {
        node.set_meta(Side::Source, meta);
    }
}

/// Empties a directory that the source lacks. Its own removal follows when everything below is gone.
async fn remove(shard: &Rc<Shard>, node: &Arc<Node>, visiting: Visiting<'_>, mut in_hand: InHand) {
    let dest = match node::open(shard, node, Side::Destination).await {
        Ok(dest) => dest,
        // Gone already, which is all that was wanted: a listing may tell a name twice.
        Err(error) if error.cause == Cause::Errno(Errno::ENOENT) => return,
        Err(error) => {
            node.keep();
            return shard.report(node, error);
        }
    };
    if node.identity(Side::Destination) == shard.shared.source_root() {
        node.keep();
        let (side, cause) = (Side::Destination, Cause::LoopIntoSource);
        return shard.report(
            node,
            Error::new(OpKind::RemoveDir, side, node.path(), cause),
        );
    }
    let parent = node
        .parent()
        .and_then(|parent| parent.meta(Side::Destination));
    if shard.shared.options.one_file_system && parent.is_some_and(|parent| parent.dev != dest.dev())
    {
        // What is mounted there is not this tree's.
        return node.keep();
    }
    let mut listing = shard.take_listing();
    loop {
        if shard.cancelled() {
            return node.keep();
        }
        match read_batch(&shard.dest, &dest, listing).await {
            Ok((mut read, more)) => {
                if report_refused(shard, node, Side::Destination, &mut read) {
                    node.keep();
                }
                listing = read;
                in_hand.lease.hold(listing.len());
                if !more {
                    break;
                }
            }
            // Opened, and removed before it was listed.
            Err(Errno::ENOENT) => return,
            Err(errno) => {
                node.keep();
                let path = node.path();
                let error = Error::errno(OpKind::ReadDir, Side::Destination, path, errno);
                return shard.report(node, error);
            }
        }
    }
    let (listing, spared) = spare_protected(shard, node, &dest, listing).await;
    let rule = shard.shared.options.backups.as_ref();
    let protected = |name: &[u8]| rule.is_some_and(|rule| rule.protects(node, name));
    let has_protected = listing
        .entries
        .iter()
        .any(|entry| protected(listing.name_bytes(entry)));
    // What is kept from this very directory may be what the backup directory is made for.
    let is_above = rule.is_some_and(|rule| rule.is_above_backups(node));
    if spared || has_protected || is_above {
        node.keep();
    }
    let removals = listing
        .entries
        .iter()
        .filter(|entry| !protected(listing.name_bytes(entry)))
        .map(|entry| Removal {
            name: listing.name(entry).to_owned(),
            // Where the filesystem does not tell, an unlink tells whether it was a directory.
            kind: entry.kind().unwrap_or(Kind::File),
            stray: false,
            backup_taken: false,
        })
        .collect();
    in_hand.lease.settle(listing.len());
    let plan = Plan {
        source: listing,
        removals,
        in_hand: Some(in_hand),
        ..Plan::default()
    };
    let dirs = Dirs {
        node: node.clone(),
        source: None,
        dest: Some(dest),
    };
    settle(shard, &dirs, plan, visiting).await;
}

/// Takes what rules protect out of the listing of a directory that is being removed. Returns whether there was any.
async fn spare_protected(
    shard: &Shard,
    node: &Node,
    dir: &Handle,
    mut listing: Listing,
) -> (Listing, bool) {
    let Some(mut judge) = sift::judge_removed(shard, node) else {
        return (listing, false);
    };
    let depends_on_kind: Vec<bool> = listing
        .entries
        .iter()
        .map(|entry| {
            judge
                .protects(listing.name_bytes(entry), entry.kind())
                .is_none()
        })
        .collect();
    for (entry, depends) in listing.entries.iter_mut().zip(depends_on_kind) {
        if depends {
            entry.state = State::Wanted;
        }
    }
    let mut listing = stat_all(shard, &shard.dest, dir, listing, 0).await;
    let spared = listing.retain_from(0, |name, entry| {
        // What cannot even be looked at stays.
        judge.protects(name, entry.kind()) == Some(false)
    });
    (listing, spared > 0)
}
