//! The rest of a large directory, listed from several keys on at once: a page takes its time with a server, however near.
//!
//! One worker lists what is left. While there are fewer than the most, each worker looks for a key in the midst of what it has
//! still to list, and leaves what comes from there on to another one. A worker begins and ends with its range, so nothing is told twice; a
//! listing is whole when all have ended well.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::dir::head;
use super::listing::{Cursor, Page, first_names};
use super::store::Store;

/// Workers of one directory.
const WORKERS_MAX: usize = 16;
/// Pages that nobody has taken yet.
const PAGES_MAX: usize = 8;
/// Bytes of names that keys are divided by.
const FIRST: u8 = b'0';
const BEYOND: u8 = b'z' + 1;
/// How far a key is extended to find one between two that are near each other.
const DEPTH_MAX: usize = 16;

/// What workers tell.
enum Message {
    Page(Page),
    Failure(Errno),
    /// A range for another worker.
    Begin(Cursor, OwnedSemaphorePermit, Sender<Message>),
}

pub(super) struct Ranges {
    told: Receiver<Message>,
    workers: JoinSet<()>,
    job: Arc<Job>,
    /// What a worker met. Without its names the listing is not whole, however often somebody asks.
    failure: Option<Errno>,
}

/// What the workers have in common.
struct Job {
    store: Arc<Store>,
    prefix: String,
    places: Arc<Semaphore>,
    /// Of names that a divide begins with: whether there may be an object of that name.
    known: Mutex<HashMap<String, bool>>,
    /// So many were told, and looked for.
    pages: AtomicUsize,
    looks: AtomicUsize,
}

impl Ranges {
    /// Goes on where a cursor is.
    pub(super) fn new(store: &Arc<Store>, prefix: &str, cursor: Cursor) -> Self {
        let (sender, told) = channel(PAGES_MAX);
        let mut ranges = Self {
            told,
            workers: JoinSet::new(),
            failure: None,
            job: Arc::new(Job {
                store: store.clone(),
                prefix: prefix.to_owned(),
                places: Arc::new(Semaphore::new(WORKERS_MAX - 1)),
                known: Mutex::default(),
                pages: AtomicUsize::new(0),
                looks: AtomicUsize::new(0),
            }),
        };
        ranges.begin(cursor, None, sender);
        ranges
    }

    fn begin(
        &mut self,
        cursor: Cursor,
        place: Option<OwnedSemaphorePermit>,
        sender: Sender<Message>,
    ) {
        let work = self.job.clone().work(cursor, sender);
        let work = async move {
            work.await;
            drop(place);
        };
        self.workers.spawn_on(work, self.job.store.handle());
    }

    /// The next page of whichever range, and whether there may be more. An empty one is the last.
    ///
    /// # Errors
    /// The first that a worker met; ECANCELED when the run ends.
    pub(super) async fn next(&mut self) -> Result<(Page, bool), Errno> {
        let store = self.job.store.clone();
        store.unless_it_ends(self.next_page()).await
    }

    async fn next_page(&mut self) -> Result<(Page, bool), Errno> {
        if let Some(errno) = self.failure {
            return Err(errno);
        }
        let page = self.page_of_workers().await;
        self.failure = page.as_ref().err().copied();
        page
    }

    async fn page_of_workers(&mut self) -> Result<(Page, bool), Errno> {
        loop {
            match self.told.recv().await {
                Some(Message::Page(page)) => return Ok((page, true)),
                Some(Message::Failure(errno)) => return Err(errno),
                Some(Message::Begin(cursor, place, sender)) => {
                    self.begin(cursor, Some(place), sender);
                }
                None => break,
            }
        }
        while let Some(ended) = self.workers.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a listing was lost");
                return Err(Errno::EIO);
            }
        }
        Ok((Page::default(), false))
    }
}

impl Job {
    async fn work(self: Arc<Self>, mut cursor: Cursor, sender: Sender<Message>) {
        loop {
            if let Some((beyond, place)) = self.divide(&mut cursor).await {
                let begin = Message::Begin(beyond, place, sender.clone());
                if sender.send(begin).await.is_err() {
                    return;
                }
            }
            let told = cursor.next(&self.store, &self.prefix).await;
            self.pages.fetch_add(1, Relaxed);
            let (told, more) = match told {
                Ok((page, more)) => (Message::Page(page), more),
                Err(errno) => (Message::Failure(errno), false),
            };
            // Nobody listens any more when the directory is closed.
            if sender.send(told).await.is_err() || !more {
                return;
            }
        }
    }

    /// Leaves a part of what is left to somebody else, when there is a place for one, and enough to do.
    async fn divide(&self, cursor: &mut Cursor) -> Option<(Cursor, OwnedSemaphorePermit)> {
        if !cursor.is_long() {
            return None;
        }
        let place = self.places.clone().try_acquire_owned().ok()?;
        let (_, last, _) = cursor.reach();
        if !self.begins_behind(last).await {
            return None;
        }
        while self.may_look() {
            let (first, last, end) = cursor.reach();
            let divide = between(first, last, end, self.prefix.len())?;
            if !self.parts_no_name(&divide.key).await {
                return None;
            }
            // When that cannot be told now, the one who would have asked lists it all.
            let found = self.first_behind(&divide.before).await;
            let is_empty = match found.ok()? {
                None => true,
                Some(next) => end.is_some_and(|end| next.as_slice() >= end),
            };
            let beyond = cursor.leave(divide);
            if !is_empty {
                return Some((beyond, place));
            }
        }
        None
    }

    /// The first name behind a key.
    async fn first_behind(&self, key: &str) -> Result<Option<Vec<u8>>, Errno> {
        let names = first_names(&self.store, &self.prefix, Some(key), 1).await?;
        Ok(names.into_iter().next())
    }

    /// Looks cost as much as pages do: there are few for each page.
    fn may_look(&self) -> bool {
        const PAGES_PER_LOOK: usize = 4;
        const FREE: usize = 8;
        let looks = self.looks.fetch_add(1, Relaxed);
        let may = looks < FREE + self.pages.load(Relaxed) / PAGES_PER_LOOK;
        if !may {
            self.looks.fetch_sub(1, Relaxed);
        }
        may
    }

    /// Whether the server begins behind a key that it does not have, which not all do. It is tried once.
    async fn begins_behind(&self, last: &[u8]) -> bool {
        let tried = self.store.begins_behind.get_or_try_init(|| async {
            let name = last.strip_suffix(b"/").unwrap_or(last);
            let (end, common) = name.split_last().ok_or(Errno::EAGAIN)?;
            let common = std::str::from_utf8(common).map_err(|_| Errno::EAGAIN)?;
            if common.len() < self.prefix.len() || !end.is_ascii_alphanumeric() {
                return Err(Errno::EAGAIN);
            }
            let before = format!("{common}{}~", char::from(before(*end)));
            let found = self.first_behind(&before).await?;
            Ok(found.is_some_and(|found| found.as_slice() > before.as_bytes() && *found <= *last))
        });
        tried.await.is_ok_and(|begins| *begins)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, bool>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no object on this side of a key can have the name of a directory on its other side. Nobody would see that they have
    /// one name.
    async fn parts_no_name(&self, key: &str) -> bool {
        for (at, byte) in key.bytes().enumerate().skip(self.prefix.len() + 1) {
            if byte > b'/' {
                continue;
            }
            let name = &key[..at];
            let known = self.known().get(name).copied();
            let may_be = if let Some(may_be) = known {
                may_be
            } else {
                let asked = head(&self.store, name).await;
                let may_be = asked.err() != Some(Errno::ENOENT);
                self.known().insert(name.to_owned(), may_be);
                may_be
            };
            if may_be {
                return false;
            }
        }
        true
    }
}

/// A key that divides others, and one before it with next to nothing between them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Divide {
    pub(super) key: String,
    pub(super) before: String,
}

/// Divides the keys between `last` and `end`, or the end of the directory. Nothing where they are too near each other. `first`: of
/// the directory.
fn between(first: &[u8], last: &[u8], end: Option<&[u8]>, prefix: usize) -> Option<Divide> {
    let end = end.unwrap_or_default();
    let name_end = last.iter().skip(prefix).position(|byte| *byte == b'/');
    let name = &last[..name_end.map_or(last.len(), |at| prefix + at)];
    // Where names begin alike, most have nothing behind that, and else something quite different.
    let common = &name[..alike(first, name)];
    let is_beyond = name.get(common.len()).is_none_or(|byte| *byte < b'~');
    if common.len() > prefix
        && is_beyond
        && !end.starts_with(common)
        && let Ok(common) = std::str::from_utf8(common)
    {
        return Some(Divide {
            key: format!("{common}~"),
            before: format!("{common}}}~"),
        });
    }
    let alike = alike(name, end).max(prefix);
    // Longer names than the last one are not looked for.
    for at in alike..name.len().min(alike + DEPTH_MAX) {
        let byte = name[at];
        let low = byte.max(FIRST - 1);
        // Behind the first byte that differs, all is free.
        let limit = end.get(at).filter(|_| at == alike);
        let high = limit.copied().unwrap_or(BEYOND).min(beyond_its_kind(byte));
        let middle = low + high.saturating_sub(low) / 2;
        let Ok(common) = std::str::from_utf8(&name[..at]) else {
            continue;
        };
        if middle > low && middle < high {
            let before = format!("{common}{}~", char::from(before(middle)));
            // What has been told is not to be told again.
            if before.as_bytes() >= last {
                let key = format!("{common}{}", char::from(middle));
                return Some(Divide { key, before });
            }
        }
    }
    None
}

/// The byte before one that divides: not a slash, which would make a key within a directory.
fn before(byte: u8) -> u8 {
    if byte == FIRST { b'.' } else { byte - 1 }
}

/// How many bytes two keys begin with in common.
fn alike(one: &[u8], other: &[u8]) -> usize {
    one.iter()
        .zip(other)
        .take_while(|(one, other)| one == other)
        .count()
}

/// Where there is a digit, there are digits in other names, mostly.
fn beyond_its_kind(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => b'9' + 1,
        b'A'..=b'Z' => b'Z' + 1,
        _ => BEYOND,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without anything in common so far.
    fn key(last: &str, end: Option<&str>) -> Option<String> {
        let divide = between(b"p/", last.as_bytes(), end.map(str::as_bytes), 2)?;
        let Divide { key, before } = divide;
        assert!(last < key.as_str(), "{last} {key}");
        assert!(end.is_none_or(|end| key.as_str() < end), "{key} {end:?}");
        assert!(
            before < key && last <= before.as_str(),
            "{last} {before} {key}"
        );
        Some(key)
    }

    #[test]
    fn a_divide_is_between_two_keys() {
        for (last, end, divide) in [
            ("p/a", None, "p/n"),
            ("p/img-0099", None, "p/r"),
            ("p/img-0099", Some("p/r"), "p/m"),
            ("p/img-0099", Some("p/j"), "p/it"),
            ("p/img-0099", Some("p/in"), "p/imq"),
            ("p/img-0099", Some("p/img-1"), "p/img-05"),
            ("p/img-0019", Some("p/img-01"), "p/img-005"),
            ("p/za", None, "p/zn"),
            ("p/A0", None, "p/N"),
        ] {
            assert_eq!(key(last, end).as_deref(), Some(divide), "{last} {end:?}");
        }
        assert_eq!(key("p/img-0099", Some("p/img-01")), None);
        assert_eq!(key("p/zz", None), None);
        let accented = "p/a\u{e9}5";
        // What comes before 'b' was told, in part.
        assert_eq!(key(accented, Some("p/c")).as_deref(), Some("p/a\u{e9}7"));
    }

    #[test]
    fn what_is_beyond_all_that_begins_alike_is_looked_for_first() {
        let divide = |end: Option<&[u8]>| {
            let divide = between(b"p/img-0001", b"p/img-0042", end, 2);
            divide.map(|divide| (divide.key, divide.before))
        };
        let pair = |key: &str, before: &str| Some((key.to_owned(), before.to_owned()));
        assert_eq!(divide(None), pair("p/img-00~", "p/img-00}~"));
        assert_eq!(divide(Some(b"p/z")), pair("p/img-00~", "p/img-00}~"));
        let behind = between(b"p/img-1", b"p/img-~1", None, 2).unwrap();
        assert!(behind.key.as_str() > "p/img-~1", "{behind:?}");
        let narrow = divide(Some(b"p/img-00~"));
        assert_eq!(narrow, pair("p/img-007", "p/img-006~"));
    }

    #[test]
    fn names_are_not_divided_behind_their_slash() {
        for (last, end) in [("p/a/", None), ("p/some/", None), ("p/ /", Some("p/1"))] {
            let divide = between(b"p/", last.as_bytes(), end.map(str::as_bytes), 2).unwrap();
            assert!(!divide.key[2..].contains('/'), "{divide:?}");
            assert!(!divide.before[2..].contains('/'), "{divide:?}");
        }
    }

    #[test]
    fn ranges_shrink_until_nothing_is_between() {
        let last = "p/img-0099.jpg";
        let mut end = key(last, None);
        let mut steps = 0;
        while let Some(now) = end {
            end = key(last, Some(&now));
            steps += 1;
        }
        assert!((10..100).contains(&steps), "{steps}");
    }
}
