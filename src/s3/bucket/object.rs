//! Objects that are read. What is small comes with the answer that tells of it; of others each reader has a stream of its own,
//! which goes on where it broke off.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use nix::errno::Errno;
use tokio::sync::mpsc;

use super::attributes::Listed;
use super::copy::Original;
use super::failure::errno_of;
use super::store::Store;
use crate::model::Meta;

/// Objects of up to so many bytes come as a whole.
const WHOLE_BYTES_MAX: u64 = 256 << 10;
/// A reader of a part asks for so many bytes at once: what one of those takes that share a large file.
const PART_BYTES: u64 = 16 << 20;
/// Pieces of an answer that wait for their reader.
const PIECES_MAX: usize = 2;
/// A body that breaks off is asked for anew so often without a byte of progress.
const BREAKS_MAX: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// Streams that wait for a reader who goes on where they are.
const STREAMS_MAX: usize = 64;

/// An object that is open for reading: always the same contents.
pub(super) struct Object {
    store: Arc<Store>,
    key: String,
    /// What tells its contents from those it had before.
    version: Listed,
    pub(super) meta: Meta,
    contents: Contents,
    /// What the server can copy it by.
    pub(super) original: Option<Arc<Original>>,
}

enum Contents {
    Whole(Bytes),
    Parts(Mutex<Vec<Stream>>),
}

/// A part of an object on its way.
struct Stream {
    at: u64,
    end: u64,
    /// What has come and was not read yet.
    piece: Bytes,
    pieces: mpsc::Receiver<Result<Bytes, Errno>>,
}

impl Object {
    /// # Errors
    /// ENOENT, and others of [`errno_of`].
    pub(super) async fn open(store: &Arc<Store>, key: String) -> Result<Self, Errno> {
        let request = store.client.get_object().bucket(&store.bucket).key(&key);
        let asking = store.clone();
        let opened = store.run(async move {
            let mut breaks = 0;
            loop {
                let asked = asking.in_turn(request.clone().send()).await;
                let mut answer = asked.map_err(|error| errno_of(&error))?;
                let size = answer.content_length();
                let listed = Listed::new(size, answer.last_modified(), answer.e_tag());
                let listed = listed.ok_or(Errno::EPROTO)?;
                let body = std::mem::take(&mut answer.body);
                let metadata = answer.metadata.unwrap_or_default();
                if listed.size > WHOLE_BYTES_MAX {
                    return Ok((listed, metadata, Err(body)));
                }
                match body.collect().await {
                    Ok(whole) => return Ok((listed, metadata, Ok(whole.into_bytes()))),
                    Err(error) => tracing::warn!("an object broke off: {error}"),
                }
                breaks += 1;
                if breaks > BREAKS_MAX {
                    return Err(Errno::ECONNRESET);
                }
                tokio::time::sleep(PAUSE * breaks).await;
            }
        });
        let (version, metadata, body) = opened.await?;
        let meta = store.form.file(&version, &metadata, store.dev);
        let contents = match body {
            Ok(whole) if whole.len() as u64 == version.size => Contents::Whole(whole),
            Ok(_) => return Err(Errno::EPROTO),
            Err(body) => {
                let part = Part {
                    store: store.clone(),
                    key: key.clone(),
                    version: version.clone(),
                    range: 0..version.size.min(PART_BYTES),
                };
                Contents::Parts(Mutex::new(vec![part.stream(Some(body))]))
            }
        };
        Ok(Self {
            store: store.clone(),
            key,
            version,
            meta,
            contents,
            original: None,
        })
    }

    /// Opens an object that the server is to copy: its contents come only when somebody reads them all the same.
    ///
    /// # Errors
    /// As [`Object::open`].
    pub(super) async fn open_original(store: &Arc<Store>, key: String) -> Result<Self, Errno> {
        let original = Original::find(store, key.clone()).await?;
        Ok(Self {
            store: store.clone(),
            key,
            meta: original.meta(store),
            version: original.version.clone(),
            contents: Contents::Parts(Mutex::default()),
            original: Some(Arc::new(original)),
        })
    }

    /// Fills `buffer` from `offset` on, up to the end of a part or of the object. Returns how many bytes there were.
    ///
    /// # Errors
    /// ESTALE when the object was replaced; others of [`errno_of`].
    pub(super) async fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let left = self.meta.size.saturating_sub(offset);
        let wanted = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let buffer = &mut buffer[..wanted];
        match &self.contents {
            Contents::Whole(whole) => {
                let at = usize::try_from(offset).map_err(|_| Errno::EOVERFLOW)?;
                buffer.copy_from_slice(&whole[at..at + wanted]);
            }
            Contents::Parts(streams) => {
                let mut stream = self.stream_at(streams, offset);
                let mut filled = 0;
                while filled < wanted && stream.at < stream.end {
                    let coming = stream.read(&mut buffer[filled..]);
                    match self.store.unless_it_ends(coming).await? {
                        0 => return Err(Errno::EPROTO),
                        count => filled += count,
                    }
                }
                if stream.at < stream.end {
                    let mut waiting = streams.lock().unwrap_or_else(PoisonError::into_inner);
                    if waiting.len() == STREAMS_MAX {
                        waiting.remove(0);
                    }
                    waiting.push(stream);
                }
                return Ok(filled);
            }
        }
        Ok(wanted)
    }

    fn stream_at(&self, waiting: &Mutex<Vec<Stream>>, offset: u64) -> Stream {
        let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let known = waiting.iter().position(|stream| stream.at == offset);
        match known {
            Some(at) => waiting.remove(at),
            None => self.part_at(offset).stream(None),
        }
    }

    fn part_at(&self, offset: u64) -> Part {
        Part {
            store: self.store.clone(),
            key: self.key.clone(),
            version: self.version.clone(),
            // Those who share an object begin at multiples.
            range: offset..self.meta.size.min((offset / PART_BYTES + 1) * PART_BYTES),
        }
    }
}

impl Stream {
    /// 0 at the end of the part.
    async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        while self.piece.is_empty() {
            match self.pieces.recv().await {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.piece.len());
        buffer[..count].copy_from_slice(&self.piece.split_to(count));
        self.at += count as u64;
        Ok(count)
    }
}

/// A range of an object that is to come.
struct Part {
    store: Arc<Store>,
    key: String,
    version: Listed,
    range: Range<u64>,
}

impl Part {
    /// Has it come, with what is on its way already.
    fn stream(self, body: Option<ByteStream>) -> Stream {
        let (sender, pieces) = mpsc::channel(PIECES_MAX);
        let Range { start: at, end } = self.range;
        let store = self.store.clone();
        store.spawn(async move {
            if let Err(errno) = self.send(body, &sender).await {
                // Without a reader nobody wants to know.
                let _ = sender.send(Err(errno)).await;
            }
        });
        Stream {
            at,
            end,
            piece: Bytes::new(),
            pieces,
        }
    }

    /// Sends the whole range, or as much as somebody wants of it.
    async fn send(
        mut self,
        mut body: Option<ByteStream>,
        pieces: &mpsc::Sender<Result<Bytes, Errno>>,
    ) -> Result<(), Errno> {
        let mut breaks = 0;
        while !self.range.is_empty() {
            let mut coming = match body.take() {
                Some(body) => body,
                None => self.ask().await?,
            };
            while let Some(piece) = coming.next().await {
                let Ok(mut piece) = piece.inspect_err(|error| {
                    tracing::debug!(%error, key = self.key, at = self.range.start, "an object broke off");
                }) else {
                    break;
                };
                let left = usize::try_from(self.range.end - self.range.start);
                piece.truncate(left.unwrap_or(usize::MAX));
                self.range.start += piece.len() as u64;
                breaks = 0;
                if pieces.send(Ok(piece)).await.is_err() || self.range.is_empty() {
                    return Ok(());
                }
            }
            breaks += 1;
            if breaks > BREAKS_MAX {
                return Err(Errno::ECONNRESET);
            }
            tokio::time::sleep(PAUSE * breaks).await;
        }
        Ok(())
    }

    async fn ask(&self) -> Result<ByteStream, Errno> {
        let Range { start, end } = self.range;
        let request = self.store.client.get_object();
        let request = request.bucket(&self.store.bucket).key(&self.key);
        let request = request
            .range(format!("bytes={start}-{}", end - 1))
            .set_if_match(self.version.condition());
        let answer = self.store.in_turn(request.send()).await;
        let answer = answer.map_err(|error| errno_of(&error))?;
        let size = answer.content_length();
        let part = Listed::new(size, answer.last_modified(), answer.e_tag());
        let part = part.ok_or(Errno::EPROTO)?;
        // Not every server looks at the condition.
        if (&part.etag, part.modified) != (&self.version.etag, self.version.modified) {
            return Err(Errno::ESTALE);
        }
        // Whoever does not know ranges sends everything.
        if part.size != end - start {
            return Err(Errno::EPROTO);
        }
        Ok(answer.body)
    }
}
