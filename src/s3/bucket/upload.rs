//! Objects that are being written. Nothing of one can be seen before it is closed: small ones go in one request then, large
//! ones in parts, as soon as each is full, and are put together in the end.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use nix::errno::Errno;
use tokio::sync::{OnceCell, OwnedSemaphorePermit};

use super::about::{About, dressed};
use super::copy::Original;
use super::dir::head;
use super::failure::errno_of;
use super::store::{Store, patient};
use crate::io::Change;
use crate::model::Kind;
use crate::model::copies::Version;

/// No object has more parts.
const PARTS_MAX: u64 = 10_000;
/// Smaller files have one writer, who may therefore wait for memory; the writers of others are few.
const SHARED_BYTES_MIN: u64 = 64 << 20;
/// Whose upload an object is: a reply that is lost says nothing of whether the parts were put together.
const UPLOAD_ID: &str = "ringsync-upload";

/// An object that is not there yet.
pub(super) struct Upload {
    store: Arc<Store>,
    key: String,
    /// Tells it from all other uploads.
    own_id: String,
    /// Told once by the server, when the first part goes.
    id: OnceCell<String>,
    written: Mutex<Written>,
}

#[derive(Default)]
struct Written {
    /// In bytes; 0 when nobody knows.
    size: u64,
    change: Change,
    /// By number, from 0 on.
    parts: HashMap<u64, Part>,
    sent: Vec<CompletedPart>,
    sent_bytes: u64,
    /// Its contents and attributes are those of an object that is there already.
    copy_of: Option<Arc<Original>>,
    /// The server has nothing unfinished of it.
    is_over: bool,
    /// It has been closed, and is there.
    is_there: bool,
}

/// A part that is not full yet.
#[derive(Default)]
struct Part {
    bytes: Vec<u8>,
    filled: u64,
    memory: Option<OwnedSemaphorePermit>,
}

impl Upload {
    pub(super) fn new(store: Arc<Store>, key: String) -> Self {
        Self {
            store,
            key,
            own_id: format!("{:016x}", RandomState::new().build_hasher().finish()),
            id: OnceCell::new(),
            written: Mutex::default(),
        }
    }

    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says how many bytes will come, before any does.
    pub(super) fn expect(&self, size: u64) {
        self.written().size = size;
    }

    /// The attributes that the object is to have, before its contents come.
    pub(super) fn dress(&self, change: Change) {
        self.written().change = change;
    }

    /// Has the server copy an object when this one is closed.
    pub(super) fn copy(&self, from: Arc<Original>) {
        self.written().copy_of = Some(from);
    }

    pub(super) fn key(&self) -> &str {
        &self.key
    }

    pub(super) fn id(&self) -> Option<String> {
        self.id.get().cloned()
    }

    pub(super) fn part_bytes(&self, size: u64) -> u64 {
        part_bytes(self.store.part_bytes, size)
    }

    /// Takes bytes that belong at `offset`, and sends the parts that they fill.
    ///
    /// # Errors
    /// Those of [`errno_of`].
    pub(super) async fn write(&self, mut bytes: &[u8], mut offset: u64) -> Result<(), Errno> {
        let size = self.written().size;
        let part_bytes = self.part_bytes(size);
        while !bytes.is_empty() {
            let (number, start) = (offset / part_bytes, offset % part_bytes);
            let room = usize::try_from(part_bytes - start).unwrap_or(usize::MAX);
            let (here, rest) = bytes.split_at(bytes.len().min(room));
            self.put(number, here, start, size, part_bytes).await?;
            bytes = rest;
            offset += here.len() as u64;
        }
        Ok(())
    }

    async fn put(
        &self,
        number: u64,
        bytes: &[u8],
        start: u64,
        size: u64,
        part_bytes: u64,
    ) -> Result<(), Errno> {
        let end = size.saturating_sub(number * part_bytes).min(part_bytes);
        let (is_new, waiting) = {
            let mut written = self.written();
            // Of an object whose size nobody knows, the first part may be all there is.
            let waiting = (size == 0 && number > 0).then(|| written.parts.remove(&0));
            (!written.parts.contains_key(&number), waiting.flatten())
        };
        if let Some(part) = waiting {
            self.send(0, part).await?;
        }
        let memory = if is_new && size < SHARED_BYTES_MIN {
            let len = if size == 0 { part_bytes } else { end };
            Some(self.store.memory(len).await?)
        } else {
            None
        };
        let full = {
            let mut written = self.written();
            let part = written.parts.entry(number).or_insert_with(|| Part {
                bytes: Vec::with_capacity(usize::try_from(end).unwrap_or(0)),
                filled: 0,
                memory,
            });
            part.add(bytes, start);
            let is_full = part.filled == part_bytes || size > 0 && part.filled == end;
            let goes_in_parts = number > 0 || size > part_bytes;
            let goes = is_full && goes_in_parts;
            goes.then(|| written.parts.remove(&number)).flatten()
        };
        match full {
            Some(part) => self.send(number, part).await,
            None => Ok(()),
        }
    }

    async fn send(&self, number: u64, part: Part) -> Result<(), Errno> {
        let about = || About::new(&self.store, self.metadata());
        let id = self
            .id
            .get_or_try_init(|| self.begin(about()))
            .await?
            .clone();
        let number = i32::try_from(number + 1).map_err(|_| Errno::EFBIG)?;
        let bytes = part.filled;
        let store = &self.store;
        let request = store.client.upload_part();
        let request = request.bucket(&store.bucket).key(&self.key);
        let request = request.upload_id(id).part_number(number);
        let request = request.body(ByteStream::from(part.bytes));
        let request = request.customize().config_override(patient(bytes));
        let answer = store.ask(request.send()).await?;
        drop(part.memory);
        let sent = CompletedPart::builder().part_number(number);
        let sent = sent.set_e_tag(answer.e_tag);
        let sent = sent.set_checksum_crc32(answer.checksum_crc32);
        let mut written = self.written();
        written.sent.push(sent.build());
        written.sent_bytes += bytes;
        Ok(())
    }

    /// Tells the server that parts will come, of an object that has so much besides them.
    ///
    /// # Errors
    /// Those of [`errno_of`].
    pub(super) async fn begin_with(&self, about: About) -> Result<(), Errno> {
        self.id
            .get_or_try_init(|| self.begin(about))
            .await
            .map(drop)
    }

    /// Returns what the server calls the upload.
    async fn begin(&self, mut about: About) -> Result<String, Errno> {
        let store = &self.store;
        let own_id = (UPLOAD_ID.to_owned(), self.own_id.clone());
        about.metadata.extend([own_id]);
        let request = store.client.create_multipart_upload();
        let request = request.bucket(&store.bucket).key(&self.key);
        let request = dressed!(request, about);
        let request = request.set_checksum_algorithm(store.checksum.clone());
        // Nobody could abort what he was not told of.
        let answer = store.ask_to_end(request.send()).await?;
        answer.upload_id.ok_or(Errno::EPROTO)
    }

    fn metadata(&self) -> HashMap<String, String> {
        self.store.form.metadata(Kind::File, &self.written().change)
    }

    /// The object is there with the end of this, and not before. Returns its version.
    ///
    /// # Errors
    /// Those of [`errno_of`]; then what was there under its key still is.
    pub(super) async fn close(&self) -> Result<Option<Version>, Errno> {
        let version = self.finish().await?;
        self.written().is_there = true;
        Ok(version)
    }

    async fn finish(&self) -> Result<Option<Version>, Errno> {
        let (parts, copy_of) = {
            let mut written = self.written();
            let waiting: u64 = written.parts.values().map(|part| part.filled).sum();
            let has_all = written.sent_bytes + waiting == written.size;
            if written.size > 0 && !has_all && written.copy_of.is_none() {
                // What is missing would be zeros.
                return Err(Errno::ESTALE);
            }
            (std::mem::take(&mut written.parts), written.copy_of.take())
        };
        if let Some(from) = copy_of {
            return from.copy_to(&self.store, &self.key, self.metadata()).await;
        }
        if self.id.get().is_none() {
            let bytes = parts.into_values().next().unwrap_or_default();
            return put_object(&self.store, &self.key, self.metadata(), bytes).await;
        }
        for (number, part) in parts {
            self.send(number, part).await?;
        }
        let parts = std::mem::take(&mut self.written().sent);
        self.complete(parts).await
    }

    /// Puts parts together that the server has. Returns the version of the object.
    ///
    /// # Errors
    /// Those of [`errno_of`].
    pub(super) async fn complete(
        &self,
        mut parts: Vec<CompletedPart>,
    ) -> Result<Option<Version>, Errno> {
        parts.sort_unstable_by_key(CompletedPart::part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(parts));
        let store = self.store.clone();
        let request = store.client.complete_multipart_upload();
        let request = request.bucket(&store.bucket).key(&self.key);
        let request = request
            .set_upload_id(self.id.get().cloned())
            .multipart_upload(parts.build())
            .customize()
            .config_override(patient(u64::MAX));
        let (key, own_id) = (self.key.clone(), self.own_id.clone());
        let completing = self.store.clone();
        let completed = store.run_to_end(async move {
            let answer = completing.in_turn(request.send()).await;
            let errno = match answer {
                Ok(answer) => return Ok(answer.e_tag),
                Err(error) => errno_of(&error),
            };
            // The reply to an attempt before may have been lost.
            let there = head(&completing, &key).await;
            let (listed, answer) = there.map_err(|_| errno)?;
            let metadata = answer.metadata.unwrap_or_default();
            let is_ours = metadata.get(UPLOAD_ID) == Some(&own_id);
            is_ours.then_some(Some(listed.etag)).ok_or(errno)
        });
        let etag = completed.await?;
        self.written().is_over = true;
        Ok(Version::of_etag(&etag.unwrap_or_default()))
    }

    /// Gives the object up: nothing of it stays, also when it is there already. Not even the end of the run keeps it.
    pub(super) async fn abandon(&self) {
        self.written().parts.clear();
        if std::mem::take(&mut self.written().is_there) {
            let request = self.store.client.delete_object();
            let request = request.bucket(&self.store.bucket).key(&self.key);
            if let Err(errno) = self.store.ask_to_end(request.send()).await {
                tracing::warn!(key = self.key, "an object that is not right stays: {errno}");
            }
        }
        if let Some(abort) = self.abort() {
            let aborted = self.store.run_to_end(async move {
                abort.await;
                Ok(())
            });
            // It only says that the runtime is gone.
            let _ = aborted.await;
        }
    }

    /// `None` when the server knows of nothing that is unfinished.
    fn abort(&self) -> Option<impl Future<Output = ()> + Send + 'static> {
        if std::mem::replace(&mut self.written().is_over, true) {
            return None;
        }
        let id = self.id.get()?.clone();
        let (store, key) = (self.store.clone(), self.key.clone());
        Some(async move {
            let request = store.client.abort_multipart_upload();
            let request = request.bucket(&store.bucket).key(&key).upload_id(id);
            if let Err(error) = store.in_turn(request.send()).await {
                tracing::warn!(key, "the parts of an upload stay: {}", errno_of(&error));
            }
        })
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(abort) = self.abort() {
            self.store.spawn(abort);
        }
    }
}

impl Part {
    fn add(&mut self, bytes: &[u8], start: u64) {
        let start = usize::try_from(start).unwrap_or(usize::MAX);
        if self.bytes.len() == start {
            self.bytes.extend_from_slice(bytes);
        } else {
            let end = start + bytes.len();
            if self.bytes.len() < end {
                self.bytes.resize(end, 0);
            }
            self.bytes[start..end].copy_from_slice(bytes);
        }
        self.filled += bytes.len() as u64;
    }
}

/// The smallest part size from `least` on, in bytes, with which an object of so many bytes has few enough parts.
fn part_bytes(least: u64, size: u64) -> u64 {
    let mut part_bytes = least;
    while size.div_ceil(part_bytes) > PARTS_MAX {
        part_bytes *= 2;
    }
    part_bytes
}

async fn put_object(
    store: &Arc<Store>,
    key: &str,
    metadata: HashMap<String, String>,
    part: Part,
) -> Result<Option<Version>, Errno> {
    let request = store.client.put_object();
    let request = request.bucket(&store.bucket).key(key);
    let request = dressed!(request, About::new(store, metadata));
    let request = request.body(ByteStream::from(part.bytes));
    let request = request.customize();
    let request = request.config_override(patient(part.filled));
    let answer = store.ask(request.send()).await;
    drop(part.memory);
    Ok(Version::of_etag(&answer?.e_tag.unwrap_or_default()))
}

/// A small object with its contents: the marker of a directory, a symlink. Returns its version.
///
/// # Errors
/// Those of [`errno_of`].
pub(super) async fn put(
    store: &Arc<Store>,
    key: &str,
    metadata: HashMap<String, String>,
    bytes: &[u8],
) -> Result<Option<Version>, Errno> {
    let mut part = Part::default();
    part.add(bytes, 0);
    put_object(store, key, metadata, part).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_parts_are_enough() {
        let least = 16 << 20;
        assert_eq!(part_bytes(least, 0), least);
        assert_eq!(part_bytes(least, least * PARTS_MAX), least);
        assert_eq!(part_bytes(least, least * PARTS_MAX + 1), 2 * least);
        let largest: u64 = 5 << 40;
        assert!(largest.div_ceil(part_bytes(8 << 20, largest)) <= PARTS_MAX);
    }

    #[test]
    fn a_part_is_filled_in_any_order() {
        let mut part = Part::default();
        part.add(b"cd", 2);
        part.add(b"ab", 0);
        part.add(b"e", 4);
        assert_eq!((part.bytes.as_slice(), part.filled), (&b"abcde"[..], 5));
    }
}
