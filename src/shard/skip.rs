//! Which directories are taken for unchanged, so that their copies are not listed; and what is told of those that are
//! finished. The rule itself is pure, in `model::unchanged`.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use super::batch::read_batch;
use super::plan::Plan;
use super::{Dirs, Mode, Node, Presence, Shard, node};
use crate::error::Side;
use crate::io::{Handle, Links, Op, Reply, Target};
use crate::model::copies::{Expected, Listed};
use crate::model::unchanged::{
    Contents, Found, Note, Now, Row, Rows, Verdict, dest_digest, is_settled, name_digest,
    source_digest,
};
use crate::model::{Entry, Kind, Listing, Meta, Time};

/// By what directories are taken for unchanged.
#[derive(Clone, Default)]
pub enum Passing {
    #[default]
    Never,
    /// As they and their copies were when earlier runs ended.
    Rows(Arc<dyn Rows>),
    /// When the source says that nothing in them was changed at this time or later, by the clock of this machine.
    Since(Time),
}

impl Passing {
    /// What changed at this time or later is compared. Filesystems that count in seconds, or by twos, say that less exactly.
    #[must_use]
    pub fn since(time: Time) -> Self {
        const COARSEST_TICK: i64 = 2;
        Self::Since(Time {
            sec: time.sec.saturating_sub(COARSEST_TICK),
            ..time
        })
    }

    /// What earlier runs left, in a run that remembers.
    #[must_use]
    pub fn rows(&self) -> Option<&Arc<dyn Rows>> {
        match self {
            Self::Rows(rows) => Some(rows),
            Self::Never | Self::Since(_) => None,
        }
    }
}

/// By what one directory may turn out to be unchanged.
pub(super) enum Hope {
    Row(Row),
    Since(Time),
}

/// The clock of the source's filesystem, where that may be another machine's: it is at least as late as the times that it has
/// given. So much is known to be ahead of our clock, in nanoseconds; less than nothing when it may be behind.
pub(super) struct SourceClock(AtomicI64);

impl Default for SourceClock {
    fn default() -> Self {
        Self(AtomicI64::new(i64::MIN))
    }
}

impl SourceClock {
    /// What the clock showed at the moment `at` of ours, at least; `newest` is a time that was seen since.
    fn at_least(&self, at: Time, newest: Time) -> Time {
        let ahead = newest.as_nanos().saturating_sub(now().as_nanos());
        let ahead = self.0.fetch_max(ahead, Relaxed).max(ahead);
        Time::from_nanos(at.as_nanos().saturating_add(ahead))
    }
}

pub(super) fn now() -> Time {
    SystemTime::now().into()
}

/// From this time on by our clock a change is so young that it may not have been the last one, as far as is known here: `None` where
/// nothing is remembered that others may have changed.
pub(super) fn young_from(shard: &Shard, dir: &Handle) -> Option<Time> {
    /// Clients of NFS remember attributes for so long, unless a mount says otherwise (acregmax).
    const REMEMBERED_MAX: Duration = Duration::from_secs(60);
    if !shard.source.remembers_attributes(dir) {
        return None;
    }
    SystemTime::now()
        .checked_sub(REMEMBERED_MAX)
        .map(Time::from)
}

/// What lets a directory whose copy is there turn out to be unchanged.
pub(super) async fn hope(shard: &Shard, node: &Arc<Node>) -> Option<Hope> {
    let options = &shard.shared.options;
    if options.mode != Mode::Sync || !node.reach.is_whole() {
        return None;
    }
    let hope = match &options.passing {
        Passing::Rows(rows) => Hope::Row(rows.row(node.key())?),
        // The destination may be another disk than it was: so much of it is always looked at.
        Passing::Since(_) if node.parent().is_none() => return None,
        Passing::Since(since) => Hope::Since(*since),
        Passing::Never => return None,
    };
    let meta = look_at_dest(shard, node).await?;
    let as_it_was = match &hope {
        // Listed when nothing else has changed.
        Hope::Row(_) if !shard.dest.has_dir_times() => true,
        Hope::Row(row) => dest_digest(&meta) == row.dest,
        Hope::Since(_) => meta.kind == Kind::Dir,
    };
    if !as_it_was {
        return None;
    }
    node.set_meta(Side::Destination, meta);
    Some(hope)
}

/// A look at the copy of a directory from outside. What cannot be looked at is left to whoever opens it.
async fn look_at_dest(shard: &Shard, node: &Arc<Node>) -> Option<Meta> {
    if !shard.dest.has_dir_times() {
        // In a bucket, opening asks nobody.
        node::open_to_list(shard, node, Side::Destination)
            .await
            .ok()?;
        return node.meta(Side::Destination).copied();
    }
    let target = match node.parent() {
        None => Target::Open(node::root_dir(node, Side::Destination)?),
        Some(parent) => {
            let at = node::open(shard, parent, Side::Destination).await.ok()?;
            Target::Name(at, node.name().to_owned())
        }
    };
    stat(shard, target).await
}

async fn stat(shard: &Shard, target: Target) -> Option<Meta> {
    match shard.dest.start(Op::Stat { target }).await {
        Ok(Reply::Meta(meta)) => Some(meta),
        _ => None,
    }
}

/// Whether there is still hope when the source directory is open.
///
/// A time says nothing where it may come from another clock, be cached, or be no ctime at all (network filesystems, FUSE, FAT); nor
/// of what was mounted meanwhile.
pub(super) fn still_hopes(shard: &Shard, node: &Node, dir: &Handle, hope: &Hope) -> bool {
    let Some(source) = node.meta(Side::Source) else {
        return false;
    };
    let parent = node.parent().and_then(|parent| parent.meta(Side::Source));
    match hope {
        Hope::Row(row) => {
            let now = Now {
                source: source_digest(source),
                dest: None,
                contents: None,
            };
            row.judge(&now) == Verdict::Perhaps
        }
        Hope::Since(since) => {
            source.ctime < *since
                && parent.is_some_and(|parent| parent.dev == source.dev)
                && shard.source.has_own_clock(dir)
        }
    }
}

/// The entries of a source directory, to be counted; nothing when nobody asks for them.
pub(super) fn contents(shard: &Shard, node: &Node) -> Option<Contents> {
    let options = &shard.shared.options;
    let is_asked = !matches!(options.passing, Passing::Never);
    let wanted = is_asked && options.mode == Mode::Sync && node.reach.is_whole();
    wanted.then(Contents::default)
}

/// What is known of a source directory when it has been listed.
pub(super) struct Seen {
    pub(super) contents: Contents,
    /// The low halves of its subdirectories' keys.
    pub(super) subdirs: Vec<u64>,
}

impl Seen {
    /// With what another part of the directory has.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.contents.merge(&other.contents);
        self.subdirs.extend(other.subdirs);
        self
    }
}

/// Remembers what a source directory was found to be. Returns whether it is unchanged. `at`: our clock, before the directory
/// was opened.
pub(super) async fn judge(
    shard: &Shard,
    dirs: &Dirs,
    at: Time,
    seen: Seen,
    hope: Option<&Hope>,
) -> bool {
    let Some((source, dir)) = dirs.node.meta(Side::Source).zip(dirs.source.as_ref()) else {
        return false;
    };
    let rules = dirs.node.scope().map_or(0, |scope| scope.digest());
    let (digest, contents) = (source_digest(source), seen.contents.digest(rules));
    let newest = seen.contents.newest().max(source.ctime);
    let is_unchanged = match hope {
        None => false,
        Some(Hope::Row(row)) => {
            let mut now = Now {
                source: digest,
                dest: None,
                contents,
            };
            if contents.is_some() && row.judge(&now) == Verdict::Perhaps {
                now.dest = dest_now(shard, &dirs.node).await;
            }
            row.judge(&now) == Verdict::Unchanged
        }
        Some(Hope::Since(since)) => contents.is_some() && newest < *since,
    };
    // What is young is asked for anew where it is compared.
    let is_unchanged = is_unchanged && young_from(shard, dir).is_none_or(|young| newest < young);
    if shard.shared.options.passing.rows().is_none() {
        return is_unchanged;
    }
    let settled = is_settled(newest, clock(shard, dir, at, newest));
    let mut subdirs = seen.subdirs;
    subdirs.sort_unstable();
    dirs.node.set_found(Found {
        source: digest,
        contents: contents.filter(|_| settled),
        names: seen.contents.names(),
        is_unchanged,
        subdirs: subdirs.into(),
    });
    is_unchanged
}

/// How the copy of a directory looks, that nobody has opened to list it.
async fn dest_now(shard: &Shard, node: &Arc<Node>) -> Option<u64> {
    if shard.dest.has_dir_times() {
        return node.meta(Side::Destination).map(dest_digest);
    }
    let at = node::open(shard, node, Side::Destination).await.ok()?;
    // Its parent's listing may have told what is in it.
    let itself = Op::OpenDirBelow {
        at,
        path: Vec::new(),
    };
    let listed = list(shard, itself, Listed::since(Time::default())).await?;
    listed.digest()
}

/// Lists a directory of the destination, where only that tells how it looks.
async fn list(shard: &Shard, open: Op, mut listed: Listed) -> Option<Listed> {
    let Ok(Reply::Opened(dir, _)) = shard.dest.start(open).await else {
        return None;
    };
    see_all(shard, &dir, |name, entry| listed.see(name, entry)).await?;
    Some(listed)
}

/// Shows all names of an open directory of the destination. Nothing when not all could be listed, or some are none.
async fn see_all(shard: &Shard, dir: &Handle, mut see: impl FnMut(&[u8], &Entry)) -> Option<()> {
    let mut listing = shard.take_listing();
    loop {
        let (read, more) = read_batch(&shard.dest, dir, listing).await.ok()?;
        listing = read;
        if !listing.refused.is_empty() {
            // Each run tells of that.
            return None;
        }
        for entry in &listing.entries {
            see(listing.name_bytes(entry), entry);
        }
        listing.clear();
        if !more {
            break;
        }
    }
    shard.keep_listing(listing);
    Some(())
}

fn clock(shard: &Shard, dir: &Handle, at: Time, newest: Time) -> Time {
    if shard.source.has_own_clock(dir) {
        return at;
    }
    let guess = || shard.shared.source_clock.at_least(at, newest);
    shard.source.clock(at).unwrap_or_else(guess)
}

/// Counts a directory that is taken for unchanged.
pub(super) fn count_dir(shard: &Shard, node: &Node) {
    /// To open it, to list it, to see that the list has ended; less the look from outside.
    const CALLS_SAVED: u64 = 3 - 1;
    let tally = shard.tally();
    tally.dirs_unchanged.add(1);
    if shard.dest.has_dir_times() {
        tally.calls_saved.add(CALLS_SAVED);
    }
    tally.entries_equal.add(u64::from(node.depth() > 0));
}

/// Counts the entries of one: nobody looks at their copies.
pub(super) fn count_entries(shard: &Shard, source: &Listing) {
    let is_file = |entry: &&Entry| entry.kind() != Some(Kind::Dir);
    let calls = if shard.dest.has_dir_times() {
        source.len()
    } else if shard.shared.options.policy.dest_keeps_no_times {
        // A listing tells all that is wanted.
        0
    } else {
        source.entries.iter().filter(is_file).count()
    };
    shard.tally().calls_saved.add(calls as u64);
}

/// What a listing of the destination will tell of a directory, when somebody is to remember that.
pub(super) fn expected(shard: &Shard, node: &Node) -> Option<Expected> {
    let is_asked = shard.shared.options.passing.rows().is_some() && !shard.dest.has_dir_times();
    let wanted = is_asked && contents(shard, node).is_some();
    wanted.then(|| {
        let at = now();
        Expected::since(shard.dest.clock(at).unwrap_or(at))
    })
}

/// This run has made all names of a plan. From now on nobody changes them but others.
pub(super) async fn note_filled(shard: &Shard, dirs: &Dirs, plan: &Plan) {
    let node = &dirs.node;
    if let Some(part) = &plan.expected.get() {
        let parts = if plan.is_split {
            shard.shared.shards()
        } else {
            1
        };
        if let Some(expected) = node.expect_copies(part, parts)
            && let Some(dir) = &dirs.dest
        {
            note_copies(shard, node, dir, &expected).await;
        }
        return;
    }
    if let (Some(dir), Presence::Made, Some(_)) = (&dirs.dest, node.presence, node.found())
        && let Some(meta) = stat_open(shard, dir).await
    {
        node.set_filled(meta.ctime);
    }
}

/// Looks once more at what this run has written, as soon as it is all there.
async fn note_copies(shard: &Shard, node: &Node, dir: &Handle, expected: &Expected) {
    if node.has_failed()
        || shard.cancelled()
        || node
            .found()
            .is_none_or(|found| found.is_unchanged || found.contents.is_none())
    {
        return;
    }
    let again = match expected.to_confirm() {
        Some(listed) => {
            let anew = Op::OpenDir {
                at: dir.clone(),
                name: c".".to_owned(),
                links: Links::Refuse,
            };
            list(shard, anew, listed).await
        }
        None => None,
    };
    if let Some(digest) = expected.digest(again.as_ref()) {
        node.set_copies(digest);
    }
}

async fn stat_open(shard: &Shard, dir: &Handle) -> Option<Meta> {
    stat(shard, Target::Open(dir.clone())).await
}

/// Whether nobody has changed names in a directory that this run made, since they were complete. It has still to get its times.
pub async fn is_as_filled(shard: &Shard, node: &Node, dir: &Handle) -> bool {
    let Some(filled) = node.filled() else {
        return false;
    };
    let now = stat_open(shard, dir).await;
    now.is_some_and(|now| now.ctime == filled)
}

/// How a directory that this run made looks with its times; nothing when it has other names than the source: somebody else was at
/// work there. What comes after this look shows in the directory's times.
pub async fn look_again(shard: &Shard, node: &Node, dir: &Handle) -> Option<Meta> {
    let found = node.found()?;
    let now = stat_open(shard, dir).await?;
    let mut names = 0_u64;
    let add = |name: &[u8], _: &Entry| names = names.wrapping_add(name_digest(name));
    see_all(shard, dir, add).await?;
    (names == found.names).then_some(now)
}

/// Tells of a directory that is finished. `dest`: how its copy looks now, when nobody else can have changed it unseen.
pub async fn tell(shard: &Shard, node: &Node, dest: Option<&Meta>) {
    let Some(rows) = shard.shared.options.passing.rows() else {
        return;
    };
    let Some(found) = node.found() else { return };
    let has_failed = node.has_failed();
    if shard.cancelled() || (found.is_unchanged && !has_failed) {
        return;
    }
    let dest = if shard.dest.has_dir_times() {
        dest.map(dest_digest)
    } else {
        node.copies()
    };
    let relied_upon = found.contents.zip(dest).filter(|_| !has_failed);
    let row = relied_upon.map(|(contents, dest)| Row {
        source: found.source,
        contents,
        dest,
        run: rows.run(),
    });
    let told = Note {
        key: node.key(),
        row,
        subdirs: Some(found.subdirs.clone()),
    };
    rows.note(told).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_at_least_as_late_as_the_times_it_gave() {
        let clock = SourceClock::default();
        let later = |by: i64| Time::from_nanos(now().as_nanos() + by);
        let (hour, second) = (3_600_000_000_000, 1_000_000_000);
        // Behind by an hour, as far as anybody knows.
        let known = clock.at_least(now(), later(-hour));
        assert!(known <= later(-hour) && known >= later(-hour - second));
        // One that is newer tells that it is not.
        let known = clock.at_least(now(), later(-second));
        assert!(known >= later(-2 * second));
        let known = clock.at_least(now(), later(-hour));
        assert!(known >= later(-2 * second), "it does not forget");
    }
}
