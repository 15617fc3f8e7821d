//! The tree that a bucket is taken for, as the engine sees filesystems.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::error::SdkError;
use futures_util::{StreamExt, stream};
use nix::errno::Errno;
use tokio::sync::Mutex as AsyncMutex;

use super::attributes::{self, Listed};
use super::failure::{errno_of, errno_of_list};
use super::listing::Cursor;
use super::object::Object;
use super::store::Store;
use crate::error::Side;
use crate::io::{Fs, Handle, Op, OpError, Outcome, Pending, Reply, Target};
use crate::model::{Instruments, Kind, Listing, Meta, State, Timed, Xattrs};

/// Objects that are asked for their attributes at once, of one batch.
const HEADS_MAX: usize = 64;
/// No key is longer.
const KEY_BYTES_MAX: usize = 1024;
/// No device of the kernel's has it.
const DEV: u64 = u64::MAX;

/// A bucket, seen from one shard. Nothing in it is changed.
pub struct ObjectFs {
    store: Arc<Store>,
    instruments: Instruments,
    side: Side,
    asks: bool,
}

/// What a handle stands for.
enum Node {
    Dir(Dir),
    Object(Object),
}

struct Dir {
    /// Empty, or with a slash at its end.
    prefix: String,
    cursor: AsyncMutex<Cursor>,
    /// What the listing told of objects, until it is asked for; nothing where the objects themselves are asked.
    listed: Mutex<HashMap<CString, Listed>>,
}

/// The directory that a prefix is.
#[must_use]
pub fn root(prefix: &str) -> Handle {
    dir_handle(prefix.to_owned())
}

fn dir_handle(prefix: String) -> Handle {
    let dir = Dir {
        prefix,
        cursor: AsyncMutex::default(),
        listed: Mutex::default(),
    };
    Handle::elsewhere(Arc::new(Node::Dir(dir)), DEV)
}

impl ObjectFs {
    /// `asks`: whether objects are asked for what a listing does not tell, their own times among it.
    #[must_use]
    pub fn new(store: Arc<Store>, instruments: Instruments, side: Side, asks: bool) -> Self {
        Self {
            store,
            instruments,
            side,
            asks,
        }
    }

    /// Runs an operation on a thread without an executor.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn run_blocking(store: &Arc<Store>, op: Op) -> Outcome {
        let asks = false;
        let kind = op.kind();
        let outcome = store.block_on(run(store.clone(), asks, op));
        outcome.map_err(|errno| OpError { kind, errno })
    }
}

impl Fs for ObjectFs {
    fn start(&self, op: Op) -> Pending {
        let kind = op.kind();
        let instruments = self.instruments.clone();
        let (what, since) = (Timed::Op(kind.into(), self.side), instruments.now());
        let running = run(self.store.clone(), self.asks, op);
        Pending::Boxed(Box::pin(async move {
            let in_flight = instruments.in_flight();
            let outcome = running.await;
            drop(in_flight);
            instruments.record_since(what, since);
            outcome.map_err(|errno| OpError { kind, errno })
        }))
    }

    fn is_slow(&self, _dev: u64) -> bool {
        true
    }
}

async fn run(store: Arc<Store>, asks: bool, op: Op) -> Result<Reply, Errno> {
    let node = op.handle().get_elsewhere::<Node>().ok_or(Errno::EXDEV)?;
    let dir = || match &*node {
        Node::Dir(dir) => Ok(dir),
        Node::Object(_) => Err(Errno::ENOTDIR),
    };
    let object = || match &*node {
        Node::Dir(_) => Err(Errno::EISDIR),
        Node::Object(object) => Ok(object),
    };
    match op {
        Op::OpenDir { name, .. } => Ok(opened_dir(dir()?.below(&name)?)),
        Op::OpenDirBelow { path, .. } => Ok(opened_dir(dir()?.below_path(&path)?)),
        Op::ReadDir { listing, .. } => dir()?.read(&store, listing, asks).await,
        Op::StatMany { listing, range, .. } => {
            let listing = dir()?.stat_many(&store, listing, range, asks).await;
            let more = false;
            Ok(Reply::Listed { listing, more })
        }
        Op::Stat { target } => match target {
            Target::Open(_) => Ok(Reply::Meta(match &*node {
                Node::Dir(dir) => attributes::dir(&dir.prefix, DEV),
                Node::Object(object) => object.meta,
            })),
            Target::Name(_, name) | Target::Followed(_, name) => {
                let meta = look_up(&store, dir()?.key(&name)?).await?;
                Ok(Reply::Meta(meta))
            }
        },
        Op::Open { name, .. } => {
            let object = Object::open(&store, dir()?.key(&name)?, DEV).await?;
            let meta = object.meta;
            let handle = Handle::elsewhere(Arc::new(Node::Object(object)), DEV);
            Ok(Reply::Opened(handle, meta))
        }
        Op::Read {
            mut buffer, offset, ..
        } => {
            let count = object()?.read(&mut buffer, offset).await?;
            Ok(Reply::Moved(buffer, count))
        }
        Op::IsCached { .. } => Ok(Reply::Cached(false)),
        Op::ReadXattrs { .. } => Ok(Reply::Xattrs(Xattrs::default())),
        Op::SeekData { offset, .. } => {
            let size = object()?.meta.size;
            Ok(Reply::Data((offset < size).then_some(offset..size)))
        }
        Op::Close { .. } | Op::DropCache { .. } => Ok(Reply::Done),
        Op::ReadLink { .. } => Err(Errno::EINVAL),
        Op::SetDirect { .. } | Op::Lock { .. } => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EROFS),
    }
}

fn opened_dir(prefix: String) -> Reply {
    let meta = attributes::dir(&prefix, DEV);
    Reply::Opened(dir_handle(prefix), meta)
}

impl Dir {
    fn key(&self, name: &CStr) -> Result<String, Errno> {
        let name = name.to_str().map_err(|_| Errno::ENOENT)?;
        Ok(format!("{}{name}", self.prefix))
    }

    fn below(&self, name: &CStr) -> Result<String, Errno> {
        if name == c"." {
            return Ok(self.prefix.clone());
        }
        self.key(name).map(|key| key + "/")
    }

    fn below_path(&self, path: &[u8]) -> Result<String, Errno> {
        if path.is_empty() {
            return Ok(self.prefix.clone());
        }
        let path = std::str::from_utf8(path).map_err(|_| Errno::ENOENT)?;
        Ok(format!("{}{path}/", self.prefix))
    }

    fn listed(&self) -> std::sync::MutexGuard<'_, HashMap<CString, Listed>> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn read(
        &self,
        store: &Arc<Store>,
        mut listing: Listing,
        asks: bool,
    ) -> Result<Reply, Errno> {
        let (page, more) = self.cursor.lock().await.next(store, &self.prefix).await?;
        let mut all = true;
        for name in &page.dirs {
            all &= listing.push(name, inode_of(name), Some(Kind::Dir));
        }
        for (name, _) in &page.files {
            all &= listing.push(name, inode_of(name), Some(Kind::File));
        }
        if !asks {
            self.listed().extend(page.files);
        }
        listing.refused.extend(page.refused);
        if !all {
            return Err(Errno::EOVERFLOW);
        }
        Ok(Reply::Listed { listing, more })
    }

    async fn stat_many(
        &self,
        store: &Arc<Store>,
        mut listing: Listing,
        range: Range<usize>,
        asks: bool,
    ) -> Listing {
        let mut unknown = Vec::new();
        for at in range.clone() {
            let entry = listing.entries[at];
            if entry.state != State::Wanted {
                continue;
            }
            let name = listing.name(&entry);
            // Keys are UTF-8: such a name is not there.
            let Ok(key) = self.key(name) else {
                listing.entries[at].state = failed(Errno::ENOENT);
                continue;
            };
            let meta = match entry.kind() {
                Some(Kind::Dir) => Some(attributes::dir(&(key.clone() + "/"), DEV)),
                _ if asks => None,
                _ => {
                    let told = self.listed().remove(name);
                    told.map(|told| store.form.file(&told, &HashMap::new(), DEV))
                }
            };
            match meta {
                Some(meta) => listing.entries[at].fill(&meta),
                None => unknown.push((at, key)),
            }
        }
        if unknown.is_empty() {
            return listing;
        }
        let asking = store.clone();
        let asked = store.run(async move {
            let asked = stream::iter(unknown).map(|(at, key)| {
                let store = asking.clone();
                async move { (at, ask(&store, key).await) }
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
                for entry in entries.filter(|entry| entry.state == State::Wanted) {
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

/// Names are all that listings know of inodes.
fn inode_of(name: &CStr) -> u64 {
    xxhash_rust::xxh3::xxh3_64(name.to_bytes())
}

async fn look_up(store: &Arc<Store>, key: String) -> Result<Meta, Errno> {
    let asking = store.clone();
    store.run(async move { ask(&asking, key).await }).await
}

/// What a key stands for: an object, or a directory when only longer ones are there.
async fn ask(store: &Store, key: String) -> Result<Meta, Errno> {
    if key.len() > KEY_BYTES_MAX {
        return Err(Errno::ENOENT);
    }
    let request = store.client.head_object().bucket(&store.bucket).key(&key);
    let answer = match store.in_turn(request.send()).await {
        Ok(answer) => answer,
        Err(SdkError::ServiceError(error)) if error.raw().status().as_u16() == 404 => {
            return ask_dir(store, key + "/").await;
        }
        Err(error) => return Err(errno_of(&error)),
    };
    let size = answer.content_length();
    let listed = Listed::new(size, answer.last_modified(), answer.e_tag());
    let listed = listed.ok_or(Errno::EPROTO)?;
    let metadata = answer.metadata.unwrap_or_default();
    Ok(store.form.file(&listed, &metadata, DEV))
}

async fn ask_dir(store: &Store, prefix: String) -> Result<Meta, Errno> {
    let request = store.client.list_objects_v2().bucket(&store.bucket);
    let request = request.prefix(&prefix).max_keys(1);
    let answer = store.in_turn(request.send()).await;
    let answer = answer.map_err(|error| errno_of_list(&error))?;
    if answer.contents().is_empty() && answer.is_truncated() != Some(true) {
        return Err(Errno::ENOENT);
    }
    Ok(attributes::dir(&prefix, DEV))
}
