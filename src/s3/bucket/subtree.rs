//! The keys of a subtree that one request has told: directories with few objects need none of their own.

use std::ops::Range;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::attributes::Listed;

/// Older ones are listed again: others may have been at work meanwhile.
const AGE_MAX: Duration = Duration::from_secs(60);

/// A name of a directory: the key of a file with what was told of it, or what the keys of a subdirectory begin with.
pub(super) type Name = (Vec<u8>, Option<Listed>);

/// A key, and what a listing told of its object.
pub(super) type Told = (Vec<u8>, Listed);

/// Keys below a directory that follow each other in a bucket.
#[derive(Debug)]
pub(super) struct Subtree {
    keys: Vec<Told>,
    /// Those below the directory begin here.
    is_first: bool,
    /// There are no more.
    is_last: bool,
    told: Instant,
    /// For keys that are kept.
    _room: OwnedSemaphorePermit,
}

impl Subtree {
    /// `keys` are sorted, and may be the first and the last ones.
    pub(super) fn new(
        keys: Vec<Told>,
        (is_first, is_last): (bool, bool),
        room: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            keys,
            is_first,
            is_last,
            told: Instant::now(),
            _room: room,
        }
    }

    /// All keys that begin with a prefix; nothing when they may not be all, or others by now.
    pub(super) fn below(&self, prefix: &str) -> Option<&[Told]> {
        let Range { start, end } = range(&self.keys, prefix.as_bytes());
        let is_complete = (self.is_first || start > 0) && (self.is_last || end < self.keys.len());
        let is_known = start < end && is_complete && !self.is_old();
        is_known.then(|| &self.keys[start..end])
    }

    pub(super) fn is_old(&self) -> bool {
        self.told.elapsed() >= AGE_MAX
    }

    /// Whether a directory in it is complete, so that it is worth being kept.
    pub(super) fn is_of_use(keys: &[Told], prefix: &str, is_last: bool) -> bool {
        let below = |told| dir_of(told, prefix);
        let first = keys.iter().find_map(below);
        // The last directory of a part may have more keys.
        first.is_some() && (is_last || first != keys.last().and_then(below))
    }
}

/// The directory right below a prefix that a key is in, if it is in one.
fn dir_of<'a>((key, _): &'a Told, prefix: &str) -> Option<&'a [u8]> {
    let rest = key.strip_prefix(prefix.as_bytes())?;
    let slash = rest.iter().position(|byte| *byte == b'/')?;
    Some(&key[..=prefix.len() + slash])
}

fn range(keys: &[Told], prefix: &[u8]) -> Range<usize> {
    let start = keys.partition_point(|(key, _)| key.as_slice() < prefix);
    let count = keys[start..].partition_point(|(key, _)| key.starts_with(prefix));
    start..start + count
}

/// The names of a directory in sorted keys: its files with what was told of them, and each directory once.
pub(super) fn names(keys: &[Told], prefix: &str) -> Vec<Name> {
    let mut names: Vec<Name> = Vec::new();
    for told in keys {
        match dir_of(told, prefix) {
            None => names.push((told.0.clone(), Some(told.1.clone()))),
            Some(dir) if names.last().is_some_and(|(last, _)| last == dir) => {}
            Some(dir) => names.push((dir.to_vec(), None)),
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Semaphore;

    use super::*;
    use crate::model::Time;

    fn told(keys: &[&str]) -> Vec<Told> {
        let listed = Listed {
            size: 1,
            modified: Time::default(),
            etag: String::from("tag"),
        };
        let keys = keys.iter().map(|key| key.as_bytes().to_vec());
        keys.map(|key| (key, listed.clone())).collect()
    }

    fn subtree(keys: &[&str], is_whole: bool) -> Subtree {
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        Subtree::new(told(keys), (true, is_whole), room)
    }

    fn count(subtree: &Subtree, prefix: &str) -> Option<usize> {
        subtree.below(prefix).map(<[Told]>::len)
    }

    #[test]
    fn directories_are_known_up_to_the_one_that_may_go_on() {
        let keys = ["p/a/1", "p/a/2", "p/a/x/1", "p/b", "p/c/1", "p/c/2"];
        let part = subtree(&keys, false);
        assert_eq!(count(&part, "p/a/"), Some(3));
        assert_eq!(count(&part, "p/a/x/"), Some(1));
        assert_eq!(count(&part, "p/c/"), None, "it may go on");
        assert_eq!(count(&part, "p/b/"), None, "there is none");
        assert_eq!(count(&part, "p/d/"), None, "nobody knows");
        let whole = subtree(&keys, true);
        assert_eq!(count(&whole, "p/c/"), Some(2));
        assert_eq!(count(&whole, "p/d/"), None, "there is none");
    }

    #[test]
    fn what_may_have_begun_before_is_not_known() {
        let mut later = subtree(&["p/a/1", "p/b/1", "p/c/1"], false);
        later.is_first = false;
        assert_eq!(count(&later, "p/a/"), None);
        assert_eq!(count(&later, "p/b/"), Some(1));
        assert_eq!(count(&later, "p/c/"), None);
    }

    #[test]
    fn what_is_too_old_is_not_known() {
        let mut old = subtree(&["p/a/1"], true);
        old.told = Instant::now().checked_sub(AGE_MAX).unwrap();
        assert_eq!(count(&old, "p/a/"), None);
    }

    #[test]
    fn names_of_a_directory_are_told_once() {
        let keys = told(&["p/", "p/a", "p/a-b/1", "p/a/1", "p/a/2/3", "p//1", "p/c/"]);
        let names = names(&keys, "p/");
        let told = names.iter().map(|(key, listed)| {
            let key = std::str::from_utf8(key).unwrap();
            (key, listed.is_some())
        });
        let expected = [
            ("p/", true),
            ("p/a", true),
            ("p/a-b/", false),
            ("p/a/", false),
            ("p//", false),
            ("p/c/", false),
        ];
        assert_eq!(told.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn what_knows_no_directory_is_not_kept() {
        let is_of_use = |keys: &[&str], is_last| Subtree::is_of_use(&told(keys), "p/", is_last);
        assert!(!is_of_use(&["p/a", "p/b"], true));
        assert!(is_of_use(&["p/a", "p/b/1"], true));
        assert!(!is_of_use(&["p/a", "p/b/1"], false));
        assert!(is_of_use(&["p/a/1", "p/b"], false));
        assert!(is_of_use(&["p/a/1", "p/b/1"], false));
    }
}
