//! What is refused before anything is changed, because it could only do harm: trees that overlap, and a deletion that
//! looks like a mistake.

use std::collections::BinaryHeap;
use std::collections::hash_map::DefaultHasher;
use std::ffi::{CStr, CString};
use std::hash::{Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;

use super::roots::Root;
use super::{Delete, Job, StartError, Task};
use crate::io::{Handle, Links, Op, OpError, Outcome, Reply, inline};
use crate::model::filter::Judge;
use crate::model::{Kind, Listing, State};
use crate::transfer::temp;

/// Names of the destination's root that are looked up in the source. The share that is missing there is then known to
/// about 1.4 % (one standard error), for the price of a thousand lstat.
const SAMPLE_MAX: usize = 1000;
/// Names that the sample is taken from at most; reading a million takes a third of a second on a local filesystem.
const NAMES_MAX: usize = 1 << 20;
/// The same where a thousand names take the time of a request.
const SLOW_NAMES_MAX: usize = 100_000;
/// With fewer entries in the destination's root, losing most of them is ordinary (a build folder, a handful of dumps),
/// and looking at what would be deleted is easy.
const ENTRIES_MIN: usize = 16;
/// The share of the root's entries that a deletion may take. Turnover in a tree that is synced again and again is below
/// this, even where half of the names rotate; a source that is not mounted, half mounted, or the wrong directory
/// lacks nearly all.
const SHARE_MAX: (usize, usize) = (3, 4);

/// One tree in the other, or both the same.
pub(super) fn refuse_overlap(job: &Job, source: &Root, dest: &Root) -> Result<(), StartError> {
    let shown = dest.path.display();
    if source.identity == dest.identity {
        return Err(StartError::location(format!(
            "source and destination are the same directory: '{shown}'"
        )));
    }
    refuse_inside(job, source, &dest.path, &dest.canonical, dest.handle.dev())?;
    // Without deletion it is harmless: a visit never enters the source where it meets it in the destination.
    let deletes = job.delete != Delete::Never && job.task == Task::Sync;
    if deletes && source.canonical.starts_with(&dest.canonical) {
        return Err(StartError::location(format!(
            "the source lies inside destination '{shown}', so deleting there would delete the source; leave out --delete or choose another destination"
        )));
    }
    Ok(())
}

/// A destination that is to be made must not be made inside the source.
pub(super) fn refuse_making_inside(
    job: &Job,
    source: &Root,
    path: &Path,
) -> Result<(), StartError> {
    let parent = match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => return Ok(()),
    };
    // A parent that is not there either is told when the directory is made.
    let (Ok(canonical), Ok(meta)) = (parent.canonicalize(), parent.metadata()) else {
        return Ok(());
    };
    refuse_inside(job, source, path, &canonical, meta.dev())
}

fn refuse_inside(
    job: &Job,
    source: &Root,
    path: &Path,
    canonical: &Path,
    dev: u64,
) -> Result<(), StartError> {
    // `-x` stops at the mount point that lies between them.
    let unreachable = job.one_file_system && dev != source.handle.dev();
    if unreachable || !canonical.starts_with(&source.canonical) {
        return Ok(());
    }
    Err(StartError::location(format!(
        "destination '{}' lies inside the source, so it would be copied into itself; choose one outside, or a file system of its own and -x",
        path.display()
    )))
}

/// A deletion that would take nearly everything: the source is a mount point whose filesystem is not there, or the wrong
/// directory.
pub(super) fn refuse_emptied_source(
    job: &Job,
    source: Looked<'_>,
    dest: Looked<'_>,
) -> Result<(), StartError> {
    if job.task != Task::Sync || job.delete == Delete::Never || job.force_delete {
        return Ok(());
    }
    if job
        .selection
        .as_ref()
        .is_some_and(|list| !list.root().is_whole())
    {
        // Of a list of names, the root loses nothing.
        return Ok(());
    }
    let filter = job.filter.as_ref();
    let mut judge = filter.map(|filter| Judge::new(filter, filter.top(), b"", false));
    let is_protected = |name: &CStr, kind| {
        let judge = judge.as_mut();
        judge.is_some_and(|judge| judge.protects(name.to_bytes(), kind) == Some(true))
    };
    // A root that cannot be listed is told by the run, which deletes nothing in it then.
    let Ok(loss) = Loss::expected(source, dest, is_protected) else {
        return Ok(());
    };
    let Some(what) = loss.alarming() else {
        return Ok(());
    };
    let dest = job.dest.as_deref().unwrap_or(Path::new("")).display();
    let source = job.source.display();
    Err(StartError::location(format!(
        "refused to delete: source '{source}' {what} destination '{dest}'; is it mounted, and the right directory? --force-delete deletes all the same"
    )))
}

/// A root that is looked at before the run, and how to ask its filesystem.
#[derive(Clone, Copy)]
pub(super) struct Looked<'a> {
    pub(super) root: &'a Handle,
    pub(super) ask: &'a dyn Fn(Op) -> Outcome,
    /// A page of names takes its time.
    pub(super) is_slow: bool,
}

impl<'a> Looked<'a> {
    pub(super) fn local(root: &'a Handle) -> Self {
        Self {
            root,
            ask: &inline::run,
            is_slow: false,
        }
    }
}

/// What a deletion would do to the destination's root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loss {
    source_is_empty: bool,
    /// Entries of the destination's root that were looked up in the source.
    sampled: usize,
    /// Those that the source lacks.
    missing: usize,
}

impl Loss {
    /// `stays` knows what filter rules protect.
    fn expected(
        source: Looked<'_>,
        dest: Looked<'_>,
        mut stays: impl FnMut(&CStr, Option<Kind>) -> bool,
    ) -> Result<Self, OpError> {
        // A temporary file of an earlier run goes in any case, and is nobody's loss.
        let names = sample(dest, |name, kind| {
            !temp::is_temp_name(name.to_bytes()) && !stays(name, kind)
        })?;
        Ok(Self {
            source_is_empty: is_empty(source)?,
            sampled: names.len(),
            missing: count_missing(source, &names)?,
        })
    }

    /// Why not to go on, as the middle of a sentence between source and destination.
    fn alarming(&self) -> Option<String> {
        let Self {
            sampled, missing, ..
        } = *self;
        if self.source_is_empty && missing > 0 {
            let at_least = if sampled == SAMPLE_MAX {
                "at least "
            } else {
                ""
            };
            return Some(format!(
                "is empty, so everything ({at_least}{sampled} entries) would go from"
            ));
        }
        let (part, whole) = SHARE_MAX;
        let alarming = sampled >= ENTRIES_MIN && missing * whole > sampled * part;
        alarming.then(|| format!("lacks {missing} of {sampled} entries sampled from"))
    }
}

/// A descriptor of its own, at the start of the directory.
fn reopen(dir: Looked<'_>) -> Result<Handle, OpError> {
    let op = Op::OpenDir {
        at: dir.root.clone(),
        name: c".".to_owned(),
        links: Links::Refuse,
    };
    match (dir.ask)(op)? {
        Reply::Opened(dir, _) => Ok(dir),
        other => unreachable!("an open does not reply {other:?}"),
    }
}

fn read(dir: Looked<'_>, listing: Listing) -> Result<(Listing, bool), OpError> {
    let ask = dir.ask;
    let dir = dir.root.clone();
    match ask(Op::ReadDir { dir, listing })? {
        Reply::Listed { listing, more } => Ok((listing, more)),
        other => unreachable!("a listing does not reply {other:?}"),
    }
}

fn is_empty(dir: Looked<'_>) -> Result<bool, OpError> {
    let root = &reopen(dir)?;
    loop {
        // A call may list nothing but `.` and `..`, with more to come.
        let (listing, more) = read(Looked { root, ..dir }, Listing::default())?;
        if !listing.is_empty() || !more {
            return Ok(listing.is_empty());
        }
    }
}

/// Up to [`SAMPLE_MAX`] names of a directory that `counts` accepts: those with the smallest hashes, so that the order in
/// which the filesystem lists them (often by age) does not matter, and the same names always give the same sample.
fn sample(
    dir: Looked<'_>,
    mut counts: impl FnMut(&CStr, Option<Kind>) -> bool,
) -> Result<Vec<CString>, OpError> {
    let root = &reopen(dir)?;
    let names_max = if dir.is_slow {
        SLOW_NAMES_MAX
    } else {
        NAMES_MAX
    };
    let mut smallest: BinaryHeap<(u64, CString)> = BinaryHeap::new();
    let (mut listing, mut seen) = (Listing::default(), 0);
    loop {
        let more;
        (listing, more) = read(Looked { root, ..dir }, listing)?;
        for entry in &listing.entries {
            let name = listing.name(entry);
            let mut hasher = DefaultHasher::new();
            name.hash(&mut hasher);
            let hash = hasher.finish();
            let is_small = smallest.len() < SAMPLE_MAX
                || smallest.peek().is_some_and(|(largest, _)| hash < *largest);
            if is_small && counts(name, entry.kind()) {
                smallest.push((hash, name.to_owned()));
            }
            if smallest.len() > SAMPLE_MAX {
                smallest.pop();
            }
        }
        seen += listing.len();
        listing.clear();
        if !more || seen >= names_max {
            return Ok(smallest.into_iter().map(|(_, name)| name).collect());
        }
    }
}

/// How many of the names a directory lacks. What cannot be told counts as there: a deletion would spare it too.
fn count_missing(dir: Looked<'_>, names: &[CString]) -> Result<usize, OpError> {
    let mut listing = Listing::default();
    for name in names {
        listing.push(name, 0, None);
    }
    for entry in &mut listing.entries {
        entry.state = State::Wanted;
    }
    let (ask, range) = (dir.ask, 0..listing.len());
    let op = Op::StatMany {
        dir: dir.root.clone(),
        listing,
        range,
    };
    let Reply::Listed { listing, .. } = ask(op)? else {
        unreachable!("a batch of statx gives its listing back");
    };
    let is_missing =
        |state| matches!(state, State::Failed(errno) if i32::from(errno) == Errno::ENOENT as i32);
    let states = listing.entries.iter().map(|entry| entry.state);
    Ok(states.filter(|state| is_missing(*state)).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(source_is_empty: bool, sampled: usize, missing: usize) -> Loss {
        Loss {
            source_is_empty,
            sampled,
            missing,
        }
    }

    #[test]
    fn most_of_many_or_all_for_nothing_is_alarming() {
        for (empty, sampled, missing, alarming) in [
            (true, 0, 0, false),
            (true, 1, 1, true),
            (true, 1000, 1000, true),
            (false, 15, 15, false),
            (false, 16, 12, false),
            (false, 16, 13, true),
            (false, 1000, 750, false),
            (false, 1000, 751, true),
            (false, 1000, 0, false),
        ] {
            let words = loss(empty, sampled, missing).alarming();
            assert_eq!(words.is_some(), alarming, "{empty} {sampled} {missing}");
        }
    }

    fn handle(path: &Path) -> Handle {
        Handle::new(std::fs::File::open(path).unwrap().into(), 0)
    }

    #[test]
    fn the_sample_is_fair_to_any_order_of_names() {
        let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let [source, dest] = [&dirs[0], &dirs[1]].map(tempfile::TempDir::path);
        // Made in the order of their names, as a filesystem may list them; the source has every third.
        for number in 0..3000 {
            let name = format!("{number:04}");
            std::fs::write(dest.join(&name), "").unwrap();
            if number < 1000 {
                std::fs::write(source.join(&name), "").unwrap();
            }
        }
        std::fs::write(dest.join(".a file.rs-0123abcd"), "").unwrap();
        let [source, dest] = &[source, dest].map(handle);
        let [source, dest] = [source, dest].map(Looked::local);
        let expected = || Loss::expected(source, dest, |_, _| false).unwrap();
        let loss = expected();
        assert_eq!((loss.source_is_empty, loss.sampled), (false, SAMPLE_MAX));
        assert!((600..=733).contains(&loss.missing), "{loss:?}");
        let again = expected();
        assert_eq!(loss, again);
    }
}
