//! Directories of a bucket: what a listing tells of the names in them, and what else their objects are asked for.

use std::ffi::CStr;
use std::ops::Range;
use std::sync::{Arc, Mutex as Slot, MutexGuard, PoisonError};

use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use futures_util::{StreamExt, stream};
use nix::errno::Errno;
use tokio::sync::Mutex;

use super::attributes::{self, Listed};
use super::delete::delete;
use super::failure::errno_of;
use super::listing::{Cursor, Page, first_names};
use super::ranges::Ranges;
use super::store::Store;
use super::subtree::Subtree;
use crate::io::Reply;
use crate::model::{Listing, Meta, State};

/// Objects that are asked for their attributes at once, of one batch.
const HEADS_MAX: usize = 64;
/// No key is longer.
const KEY_BYTES_MAX: usize = 1024;

pub(super) struct Dir {
    /// Empty, or with a slash at its end.
    prefix: String,
    listing: Mutex<Progress>,
    /// What another directory's listing has told of this one.
    known: Option<Arc<Subtree>>,
    /// What the last listing of this one has told of those below, for all who opened it.
    subtrees: Arc<Slot<Vec<Arc<Subtree>>>>,
}

/// How far the listing of a directory has got.
enum Progress {
    One(Cursor),
    /// It is a large one.
    Many(Ranges),
}

impl Default for Progress {
    fn default() -> Self {
        Self::One(Cursor::default())
    }
}

impl Dir {
    pub(super) fn new(prefix: String) -> Self {
        Self {
            prefix,
            listing: Mutex::default(),
            known: None,
            subtrees: Arc::default(),
        }
    }

    pub(super) fn meta(&self, store: &Store) -> Meta {
        attributes::dir(&self.prefix, store.dev)
    }

    pub(super) fn key(&self, name: &CStr) -> Result<String, Errno> {
        let name = name.to_str().map_err(|_| Errno::ENOENT)?;
        Ok(format!("{}{name}", self.prefix))
    }

    /// The key of an object that is to be made.
    ///
    /// # Errors
    /// EILSEQ and ENAMETOOLONG for what no key can be.
    pub(super) fn new_key(&self, name: &CStr) -> Result<String, Errno> {
        if name.to_str().is_err() {
            return Err(Errno::EILSEQ);
        }
        self.key(name).and_then(of_length)
    }

    /// The key of the object that keeps the directory when it is empty.
    ///
    /// # Errors
    /// ENAMETOOLONG.
    pub(super) fn marker(&self) -> Result<String, Errno> {
        of_length(self.prefix.clone())
    }

    /// Removes the directory, if it is empty.
    ///
    /// # Errors
    /// ENOTEMPTY, and others of [`errno_of`].
    pub(super) async fn remove(&self, store: &Arc<Store>) -> Result<(), Errno> {
        let (asking, prefix) = (store.clone(), self.prefix.clone());
        let listed = store.run(async move { first_names(&asking, &prefix, None, 2).await });
        match listed.await?.as_slice() {
            [] => Ok(()),
            [only] if *only == self.prefix.as_bytes() => delete(store, self.prefix.clone()).await,
            _ => Err(Errno::ENOTEMPTY),
        }
    }

    /// `.` is this directory, to be listed anew.
    pub(super) fn below(&self, name: &CStr) -> Result<Self, Errno> {
        if name == c"." {
            let subtrees = self.subtrees.clone();
            let dir = Self::new(self.prefix.clone());
            return Ok(Self { subtrees, ..dir });
        }
        self.below_path(name.to_bytes())
    }

    /// With no path it is this directory, of which another one's listing may have told.
    pub(super) fn below_path(&self, path: &[u8]) -> Result<Self, Errno> {
        if path.is_empty() {
            let known = self.known.clone();
            return Ok(Self {
                known,
                ..self.below(c".")?
            });
        }
        let path = std::str::from_utf8(path).map_err(|_| Errno::ENOENT)?;
        let dir = Self::new(format!("{}{path}/", self.prefix));
        let mut told = self.told();
        told.retain(|subtree| !subtree.is_old());
        let mut told = told.iter().chain(&self.known);
        let known = told.find(|subtree| subtree.below(&dir.prefix).is_some());
        let known = known.cloned();
        Ok(Self { known, ..dir })
    }

    /// Appends a page of names, each with what the listing tells of it. `asks`: whether objects can tell more.
    pub(super) async fn read(
        &self,
        store: &Arc<Store>,
        mut listing: Listing,
        asks: bool,
    ) -> Result<Reply, Errno> {
        let (page, more) = self.page(store).await?;
        let mut all = true;
        for name in &page.dirs {
            let below = attributes::dir(&(self.key(name)? + "/"), store.dev);
            all &= add(&mut listing, name, &below);
        }
        for (name, listed) in &page.files {
            all &= add(
                &mut listing,
                name,
                &store.form.listed(listed, store.dev, asks),
            );
        }
        listing.refused.extend(page.refused);
        if !all {
            return Err(Errno::EOVERFLOW);
        }
        Ok(Reply::Listed { listing, more })
    }

    fn told(&self) -> MutexGuard<'_, Vec<Arc<Subtree>>> {
        self.subtrees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn page(&self, store: &Arc<Store>) -> Result<(Page, bool), Errno> {
        let mut listing = self.listing.lock().await;
        let cursor = match &mut *listing {
            Progress::One(cursor) => cursor,
            Progress::Many(ranges) => return ranges.next().await,
        };
        let known = self.known.as_ref().filter(|_| cursor.is_at_start());
        if let Some(keys) = known.and_then(|known| known.below(&self.prefix)) {
            return Ok((cursor.take(&self.prefix, keys), false));
        }
        let is_first = cursor.is_at_start();
        let (mut page, more) = cursor.next(store, &self.prefix).await?;
        if is_first {
            self.told().clear();
        }
        self.told().extend(page.subtree.take());
        if store.sorts && cursor.is_long() {
            let rest = std::mem::take(cursor);
            *listing = Progress::Many(Ranges::new(store, &self.prefix, rest));
        }
        Ok((page, more))
    }

    /// Fills the wanted entries: with what the listing told, where it did and that has not been taken yet, else the objects
    /// are asked.
    pub(super) async fn stat_many(
        &self,
        store: &Arc<Store>,
        mut listing: Listing,
        range: Range<usize>,
    ) -> Listing {
        let mut to_ask = Vec::new();
        for at in range.clone() {
            let entry = &mut listing.entries[at];
            if !entry.state.is_asked() || entry.take_told() {
                continue;
            }
            // Keys are UTF-8: another name is not there.
            match self.key(listing.name(&listing.entries[at])) {
                Ok(key) => to_ask.push((at, key)),
                Err(errno) => listing.entries[at].state = failed(errno),
            }
        }
        if to_ask.is_empty() {
            return listing;
        }
        let asking = store.clone();
        let asked = store.run(async move {
            let asked = stream::iter(to_ask).map(|(at, key)| {
                let store = asking.clone();
                async move {
                    if store.is_ending() {
                        return (at, Err(Errno::ECANCELED));
                    }
                    match ask(&store, key).await {
                        Err(errno) => (at, Err(store.reason(errno).await)),
                        told => (at, told),
                    }
                }
            });
            Ok(asked.buffer_unordered(HEADS_MAX).collect::<Vec<_>>().await)
        });
        match asked.await {
            Ok(answers) => {
                for (at, answer) in answers {
                    match answer {
                        Ok(meta) => listing.entries[at].fill(&meta),
                        Err(errno) => listing.entries[at].state = failed(errno),
                    }
                }
            }
            Err(errno) => {
                let entries = listing.entries[range].iter_mut();
                for entry in entries.filter(|entry| entry.state.is_asked()) {
                    entry.state = failed(errno);
                }
            }
        }
        listing
    }
}

fn failed(errno: Errno) -> State {
    State::Failed(u16::try_from(errno as i32).unwrap_or(u16::MAX))
}

fn add(listing: &mut Listing, name: &CStr, meta: &Meta) -> bool {
    let added = listing.push(name, meta.ino, Some(meta.kind));
    if let Some(entry) = listing.entries.last_mut()
        && added
    {
        entry.tell(meta);
    }
    added
}

/// What a name stands for: an object, or a directory when only longer keys are there.
pub(super) async fn look_up(store: &Arc<Store>, key: String) -> Result<Meta, Errno> {
    let asking = store.clone();
    store.run(async move { ask(&asking, key).await }).await
}

async fn ask(store: &Store, key: String) -> Result<Meta, Errno> {
    match head(store, &key).await {
        Ok((listed, mut answer)) => {
            let metadata = answer.metadata.take().unwrap_or_default();
            Ok(store.form.file(&listed, &metadata, store.dev))
        }
        Err(Errno::ENOENT) => ask_dir(store, key + "/").await,
        Err(errno) => Err(errno),
    }
}

/// What the server tells of an object.
///
/// # Errors
/// ENOENT, and others of [`errno_of`].
pub(super) async fn head(store: &Store, key: &str) -> Result<(Listed, HeadObjectOutput), Errno> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Errno::ENOENT);
    }
    let request = store.client.head_object().bucket(&store.bucket).key(key);
    let answer = match store.in_turn(request.send()).await {
        Ok(answer) => answer,
        Err(error) => {
            let status = error.raw_response().map(|answer| answer.status().as_u16());
            return Err(match status {
                Some(404) => Errno::ENOENT,
                // What is wrong with a request without a body but who asks?
                Some(400) => Errno::EACCES,
                _ => errno_of(&error),
            });
        }
    };
    let size = answer.content_length();
    let listed = Listed::new(size, answer.last_modified(), answer.e_tag());
    Ok((listed.ok_or(Errno::EPROTO)?, answer))
}

async fn ask_dir(store: &Store, prefix: String) -> Result<Meta, Errno> {
    if prefix.len() > KEY_BYTES_MAX {
        return Err(Errno::ENOENT);
    }
    if first_names(store, &prefix, None, 1).await?.is_empty() {
        return Err(Errno::ENOENT);
    }
    Ok(attributes::dir(&prefix, store.dev))
}

fn of_length(key: String) -> Result<String, Errno> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(key)
}
