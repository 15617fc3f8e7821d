//! Pages of keys, as the names of a directory.

use std::collections::HashSet;
use std::ffi::CString;
use std::sync::Arc;

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::operation::list_objects_v2::builders::ListObjectsV2FluentBuilder;
use aws_sdk_s3::types::EncodingType;
use nix::errno::Errno;
use percent_encoding::percent_decode_str;

use super::attributes::Listed;
use super::failure::errno_of_list;
use super::ranges::Divide;
use super::store::Store;
use super::subtree::{self, Name, Subtree, Told};
use crate::error::{Cause, Side};
use crate::model::listing::NAME_LEN_MAX;

pub(super) const DELIMITER: &str = "/";

/// What one page tells of a directory.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) files: Vec<(CString, Listed)>,
    pub(super) dirs: Vec<CString>,
    /// Keys that cannot be names in a tree, and why; without the prefix.
    pub(super) refused: Vec<(Vec<u8>, Cause)>,
    /// What it tells of directories below.
    pub(super) subtree: Option<Arc<Subtree>>,
}

/// Where the next page begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Start,
    /// Behind a key, which need not be there.
    Behind(String),
    Token(String),
}

/// Where the listing of a directory goes on. A range of it, that somebody else has left, has a start; from the end on it is left to
/// somebody else.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools)] // Facts that are learned apart.
pub(super) struct Cursor {
    next: Next,
    /// All keys below are asked for, not names.
    is_deep: bool,
    /// No page had anything.
    is_empty: bool,
    ended: bool,
    /// Keys that a prefix may still be made of: each begins with the one before, and the last page's last key with all.
    shorter: Vec<String>,
    /// Names that a listing of all keys has told, until they are passed. The directory that its last key is in comes once more; and
    /// there are servers that begin anew.
    told: HashSet<Vec<u8>>,
    start: Option<Start>,
    end: Option<Vec<u8>>,
    /// The first name of the directory, and the last one so far.
    first: Vec<u8>,
    last: Vec<u8>,
    /// Names have come as bytes are sorted.
    in_order: bool,
    /// So many were told.
    pages: usize,
}

#[derive(Clone, Debug)]
struct Start {
    key: Vec<u8>,
    /// Behind which it was asked for.
    before: Vec<u8>,
}

impl Default for Cursor {
    fn default() -> Self {
        Self {
            next: Next::Start,
            is_deep: false,
            is_empty: true,
            ended: false,
            shorter: Vec::new(),
            told: HashSet::new(),
            start: None,
            end: None,
            first: Vec::new(),
            last: Vec::new(),
            in_order: true,
            pages: 0,
        }
    }
}

impl Cursor {
    /// The next page, and whether there are more. An empty one is the last. The first request is for all keys below the prefix, and
    /// so are those that follow as long as that tells of many directories: what is in those comes with the page.
    ///
    /// # Errors
    /// ENOENT when no key begins with the prefix; EPROTO when names of a range do not come in order; else see [`errno_of`].
    pub(super) async fn next(
        &mut self,
        store: &Arc<Store>,
        prefix: &str,
    ) -> Result<(Page, bool), Errno> {
        if self.ended {
            return Ok((Page::default(), false));
        }
        self.pages += 1;
        let (mut page, mut is_refused) = (None, false);
        self.is_deep |= self.next == Next::Start && store.lists_trees();
        if self.is_deep {
            page = match self.ask(store, prefix, None).await {
                Ok(found) => self.whole_keys(store, prefix, &found)?,
                // There are policies that allow no more than a directory's names.
                Err(Errno::EACCES) if self.next == Next::Start => {
                    is_refused = true;
                    None
                }
                Err(errno) => return Err(errno),
            };
            self.is_deep &= page.is_some();
        }
        let page = if let Some(page) = page {
            page
        } else {
            let found = match self.ask(store, prefix, Some(DELIMITER)).await {
                Err(errno) if self.may_begin_anew(errno) => {
                    self.next = Next::Start;
                    self.in_order = false;
                    self.ask(store, prefix, Some(DELIMITER)).await?
                }
                found => found?,
            };
            if is_refused {
                store.list_directories();
            }
            self.names_of(&found, prefix)?
        };
        let may_be_new = store.side == Side::Destination;
        if self.ended && self.is_empty && !prefix.is_empty() && !may_be_new {
            return Err(Errno::ENOENT);
        }
        Ok((page, !self.ended))
    }

    /// A server may refuse to begin behind a key that is none of its own.
    fn may_begin_anew(&self, errno: Errno) -> bool {
        let is_behind = matches!(self.next, Next::Behind(_)) && self.start.is_none();
        is_behind && errno != Errno::ECANCELED
    }

    pub(super) fn is_at_start(&self) -> bool {
        self.next == Next::Start && !self.ended
    }

    /// The page of a directory of which all keys are known.
    pub(super) fn take(&mut self, prefix: &str, keys: &[Told]) -> Page {
        self.ended = true;
        self.sort_out(prefix, subtree::names(keys, prefix))
    }

    async fn ask(
        &self,
        store: &Arc<Store>,
        prefix: &str,
        delimiter: Option<&str>,
    ) -> Result<ListObjectsV2Output, Errno> {
        let (after, token) = match &self.next {
            Next::Start => (None, None),
            Next::Behind(key) => (Some(key.clone()), None),
            Next::Token(token) => (None, Some(token.clone())),
        };
        let request = page_of(store, prefix)
            .set_delimiter(delimiter.map(str::to_owned))
            .set_start_after(after)
            .set_continuation_token(token);
        ask(store, request).await
    }

    /// Takes what was told of all keys below the prefix, or of the first of them; nothing when that does not say where the names of
    /// the directory go on.
    fn whole_keys(
        &mut self,
        store: &Store,
        prefix: &str,
        found: &ListObjectsV2Output,
    ) -> Result<Option<Page>, Errno> {
        /// Below, so many requests were made for directories.
        const DIRS_MIN: usize = 20;
        let mut keys = keys_of(found)?;
        let is_first = self.next == Next::Start;
        let is_last = found.is_truncated() != Some(true);
        if is_first && is_last {
            keys.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        }
        let follows = keys.first().is_none_or(|(key, _)| *key >= self.last);
        if !follows || !keys.is_sorted_by(|(one, _), (other, _)| one < other) {
            self.in_order = false;
            self.next = Next::Start;
            return Ok(None);
        }
        let mut names = subtree::names(&keys, prefix);
        // The last directory may go on.
        names.retain(|(name, _)| *name != self.last);
        if !is_last {
            let last = keys.last().map(|(key, _)| String::from_utf8(key.clone()));
            let Some(Ok(last)) = last else {
                self.next = Next::Start;
                return Ok(None);
            };
            self.told.extend(names.iter().map(|(name, _)| name.clone()));
            self.next = Next::Behind(last);
        }
        let dirs = names.iter().filter(|(_, listed)| listed.is_none()).count();
        self.is_empty &= keys.is_empty();
        self.ended = is_last;
        self.note(&names);
        let mut page = self.sort_out(prefix, names);
        if Subtree::is_of_use(&keys, prefix, is_last)
            && let Some(room) = store.room_for_keys(keys.len())
        {
            page.subtree = Some(Arc::new(Subtree::new(keys, (is_first, is_last), room)));
        }
        let token = found.next_continuation_token.clone();
        match token.filter(|_| !is_last && dirs >= DIRS_MIN && page.subtree.is_some()) {
            Some(token) => self.next = Next::Token(token),
            None => self.is_deep = false,
        }
        Ok(Some(page))
    }

    fn names_of(&mut self, found: &ListObjectsV2Output, prefix: &str) -> Result<Page, Errno> {
        let keys = keys_of(found)?;
        let dirs = found.common_prefixes().iter();
        let dirs = dirs.map(|dir| Some(told(dir.prefix()?, found.encoding_type())));
        let dirs: Vec<Vec<u8>> = dirs.collect::<Option<_>>().ok_or(Errno::EPROTO)?;
        self.in_order &= keys.is_sorted_by(|(one, _), (other, _)| one < other);
        self.in_order &= dirs.is_sorted_by(|one, other| one < other);
        let keys = keys.into_iter().map(|(key, listed)| (key, Some(listed)));
        let mut names: Vec<_> = keys
            .chain(dirs.into_iter().map(|key| (key, None)))
            .collect();
        self.is_empty &= names.is_empty();
        if found.is_truncated() == Some(true) {
            let token = found.next_continuation_token.clone();
            let token = token.map(Next::Token).filter(|token| *token != self.next);
            // Whatever comes next, nobody would get to it.
            self.next = token.ok_or(Errno::EPROTO)?;
        } else {
            self.ended = true;
        }
        names.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let before = names.len();
        names.retain(|(name, _)| !self.told.contains(name));
        if before > 0 && names.len() == before {
            self.told.clear();
        }
        self.keep_own(&mut names)?;
        self.note(&names);
        if !self.in_order && (self.start.is_some() || self.end.is_some()) {
            return Err(Errno::EPROTO);
        }
        Ok(self.sort_out(prefix, names))
    }

    /// Drops what belongs to somebody else.
    fn keep_own(&mut self, names: &mut Vec<Name>) -> Result<(), Errno> {
        if let Some(start) = &self.start {
            if names.first().is_some_and(|(name, _)| *name <= start.before) {
                return Err(Errno::EPROTO);
            }
            names.retain(|(name, _)| *name >= start.key);
        }
        if let Some(end) = &self.end {
            let count = names.partition_point(|(name, _)| name < end);
            self.ended |= count < names.len();
            names.truncate(count);
        }
        Ok(())
    }

    /// `names` are sorted.
    fn note(&mut self, names: &[Name]) {
        let (Some((first, _)), Some((last, _))) = (names.first(), names.last()) else {
            return;
        };
        self.in_order &= *first >= self.last;
        if self.first.is_empty() {
            self.first.clone_from(first);
        }
        self.last.clone_from(last);
    }

    /// Whether so many pages have come, and are to come, that others may well list a part of the rest. Only where names are sorted.
    pub(super) fn is_long(&self) -> bool {
        const PAGES: usize = 8;
        let is_begun = matches!(self.next, Next::Token(_));
        self.pages >= PAGES && is_begun && !self.is_deep && self.in_order && !self.ended
    }

    /// The first name of the directory, the last one so far, and the first that is somebody else's.
    pub(super) fn reach(&self) -> (&[u8], &[u8], Option<&[u8]>) {
        (&self.first, &self.last, self.end.as_deref())
    }

    /// Leaves the names from `divide` on to somebody else: to the cursor that comes back.
    pub(super) fn leave(&mut self, divide: Divide) -> Self {
        let key = divide.key.into_bytes();
        let end = self.end.replace(key.clone());
        Self {
            is_empty: false,
            end,
            first: self.first.clone(),
            last: key.clone(),
            pages: self.pages,
            start: Some(Start {
                key,
                before: divide.before.clone().into_bytes(),
            }),
            next: Next::Behind(divide.before),
            ..Self::default()
        }
    }

    /// `keys` are sorted; they come with what is known of their objects, and common prefixes without.
    fn sort_out(&mut self, prefix: &str, keys: Vec<Name>) -> Page {
        let mut page = Page::default();
        for (key, listed) in keys {
            let Some(rest) = key.strip_prefix(prefix.as_bytes()) else {
                page.refused.push((key, Cause::KeyIsNoPath));
                continue;
            };
            self.shorter
                .retain(|shorter| key.starts_with(shorter.as_bytes()));
            match listed {
                // The directory's own object; with contents, no file could hold them.
                Some(listed) if rest.is_empty() => {
                    if listed.size > 0 {
                        page.refused.push((Vec::new(), Cause::ObjectAndPrefix));
                    }
                }
                Some(listed) => match name_of(rest) {
                    Some(name) => {
                        page.files.push((name, listed));
                        if let Ok(key) = String::from_utf8(key) {
                            self.shorter.push(key);
                        }
                    }
                    None => page.refused.push((rest.to_vec(), Cause::KeyIsNoPath)),
                },
                None => {
                    let name = rest.strip_suffix(DELIMITER.as_bytes()).unwrap_or(rest);
                    let of_file = &key[..prefix.len() + name.len()];
                    let is_taken = self.shorter.iter().any(|key| key.as_bytes() == of_file);
                    match name_of(name) {
                        Some(_) if is_taken => {
                            page.refused.push((name.to_vec(), Cause::ObjectAndPrefix));
                        }
                        Some(name) => page.dirs.push(name),
                        None => page.refused.push((name.to_vec(), Cause::KeyIsNoPath)),
                    }
                }
            }
        }
        page
    }
}

fn page_of(store: &Store, prefix: &str) -> ListObjectsV2FluentBuilder {
    let request = store.client.list_objects_v2().bucket(&store.bucket);
    request.prefix(prefix).encoding_type(EncodingType::Url)
}

async fn ask(
    store: &Arc<Store>,
    request: ListObjectsV2FluentBuilder,
) -> Result<ListObjectsV2Output, Errno> {
    let asking = store.clone();
    let sent = async move {
        let sent = asking.in_turn(request.send()).await;
        sent.map_err(|error| errno_of_list(&error))
    };
    store.run(sent).await
}

/// The first names of a directory, `count` at most, or the first behind a key: keys of objects, and what those of subdirectories
/// begin with.
///
/// # Errors
/// See [`errno_of_list`], and EPROTO when the answer has neither a name nor an end.
pub(super) async fn first_names(
    store: &Store,
    prefix: &str,
    after: Option<&str>,
    count: i32,
) -> Result<Vec<Vec<u8>>, Errno> {
    let request = page_of(store, prefix).delimiter(DELIMITER).max_keys(count);
    let request = request.set_start_after(after.map(str::to_owned));
    let found = store.in_turn(request.send()).await;
    let found = found.map_err(|error| errno_of_list(&error))?;
    let keys = found.contents().iter().map(|object| object.key());
    let dirs = found.common_prefixes().iter().map(|dir| dir.prefix());
    let names = keys.chain(dirs).flatten();
    let names = names.map(|name| told(name, found.encoding_type()));
    let mut names: Vec<Vec<u8>> = names.collect();
    if names.is_empty() && found.is_truncated() == Some(true) {
        return Err(Errno::EPROTO);
    }
    names.sort_unstable();
    Ok(names)
}

/// # Errors
/// EPROTO when something of it cannot be understood.
fn keys_of(found: &ListObjectsV2Output) -> Result<Vec<Told>, Errno> {
    let objects = found.contents().iter();
    let keys = objects.map(|object| {
        let listed = Listed::new(object.size(), object.last_modified(), object.e_tag())?;
        Some((told(object.key()?, found.encoding_type()), listed))
    });
    keys.collect::<Option<_>>().ok_or(Errno::EPROTO)
}

/// A name that a directory can have.
fn name_of(bytes: &[u8]) -> Option<CString> {
    let is_special = bytes.is_empty() || bytes == b"." || bytes == b"..";
    let is_key = std::str::from_utf8(bytes).is_ok();
    if is_special || !is_key || bytes.contains(&b'/') || bytes.len() > NAME_LEN_MAX {
        return None;
    }
    CString::new(bytes).ok()
}

/// The bytes of a key that came in this encoding.
pub(super) fn told(key: &str, encoding: Option<&EncodingType>) -> Vec<u8> {
    if encoding == Some(&EncodingType::Url) {
        decoded(key)
    } else {
        key.as_bytes().to_vec()
    }
}

/// Keys come encoded as in a query, for XML has no way to write control characters.
fn decoded(key: &str) -> Vec<u8> {
    percent_decode_str(&key.replace('+', " ")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Time;

    fn listed(size: u64) -> Listed {
        Listed {
            size,
            modified: Time::default(),
            etag: String::new(),
        }
    }

    fn files(page: &Page) -> Vec<&str> {
        let names = page.files.iter();
        names.map(|(name, _)| name.to_str().unwrap()).collect()
    }

    #[test]
    fn keys_are_names_of_their_directory() {
        let keys = vec![
            (b"p/".to_vec(), Some(listed(0))),
            (b"p/file".to_vec(), Some(listed(3))),
            (b"p/sp ace".to_vec(), Some(listed(3))),
            (b"p/dir/".to_vec(), None),
        ];
        let page = Cursor::default().sort_out("p/", keys);
        assert_eq!(files(&page), ["file", "sp ace"]);
        assert_eq!(page.dirs, [c"dir".to_owned()]);
        assert_eq!(page.refused, []);
    }

    #[test]
    fn what_cannot_be_a_name_is_told() {
        let long = "x".repeat(256);
        let keys = [
            ("/", None),
            ("./", None),
            ("../", None),
            ("..", Some(listed(1))),
            ("a\0b", Some(listed(1))),
            (long.as_str(), Some(listed(1))),
        ];
        let mut keys: Vec<_> = keys
            .into_iter()
            .map(|(key, listed)| (key.as_bytes().to_vec(), listed))
            .collect();
        keys.push((b"\xff".to_vec(), Some(listed(1))));
        let page = Cursor::default().sort_out("", keys);
        assert_eq!((page.files.len(), page.dirs.len()), (0, 0));
        assert_eq!(page.refused.len(), 7);
        for (name, cause) in &page.refused {
            assert_eq!(*cause, Cause::KeyIsNoPath, "{name:?}");
        }
        let page = Cursor::default().sort_out("p/", vec![(b"p/".to_vec(), Some(listed(1)))]);
        assert_eq!(page.refused, [(vec![], Cause::ObjectAndPrefix)]);
    }

    #[test]
    fn an_object_and_a_prefix_of_one_name_are_found_on_other_pages_too() {
        let mut cursor = Cursor::default();
        let key = |key: &str, size| (key.as_bytes().to_vec(), Some(listed(size)));
        let page = cursor.sort_out("", vec![key("a", 1), key("a!", 1), key("a-b", 1)]);
        assert_eq!(page.files.len(), 3);
        let page = cursor.sort_out("", vec![key("a-c", 1), (b"a-c/".to_vec(), None)]);
        assert_eq!(page.refused, [(b"a-c".to_vec(), Cause::ObjectAndPrefix)]);
        let page = cursor.sort_out("", vec![(b"a/".to_vec(), None), (b"b/".to_vec(), None)]);
        assert_eq!(page.refused, [(b"a".to_vec(), Cause::ObjectAndPrefix)]);
        assert_eq!(page.dirs, [c"b".to_owned()]);
    }

    #[test]
    fn encoded_keys() {
        assert_eq!(decoded("a+b%2Bc%0A/%C3%A9"), "a b+c\n/é".as_bytes());
    }
}
