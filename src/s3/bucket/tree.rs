//! The tree that a bucket is taken for, as the engine sees filesystems.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::Arc;

use nix::errno::Errno;

use super::attributes;
use super::checksum;
use super::copy::Original;
use super::delete::delete;
use super::dir::{Dir, look_up};
use super::object::Object;
use super::options::{Form, Ways};
use super::store::Store;
use super::upload::{self, Upload};
use crate::error::Side;
use crate::io::{Fs, Handle, Op, OpError, Outcome, Pending, Reply, Target};
use crate::model::copies::Version;
use crate::model::{Instruments, Kind, Time, Timed, Xattrs};

/// No path is longer, so no symlink leads farther.
const LINK_BYTES_MAX: u64 = 4095;

/// A bucket, seen from one shard.
pub struct ObjectFs {
    store: Arc<Store>,
    instruments: Instruments,
    side: Side,
    ways: Ways,
}

/// What a handle stands for.
enum Node {
    Dir(Dir),
    Object(Object),
    Upload(Upload),
    /// An object whose attributes are to be changed.
    Place(Original),
}

/// The directory that a prefix is.
#[must_use]
pub fn root(store: &Store, prefix: &str) -> Handle {
    handle(store, Node::Dir(Dir::new(prefix.to_owned())))
}

fn handle(store: &Store, node: Node) -> Handle {
    Handle::elsewhere(Arc::new(node), store.dev)
}

impl ObjectFs {
    #[must_use]
    pub fn new(store: Arc<Store>, instruments: Instruments, side: Side, ways: Ways) -> Self {
        Self {
            store,
            instruments,
            side,
            ways,
        }
    }

    /// Runs an operation on a thread without an executor.
    ///
    /// # Errors
    /// Those of the operation.
    pub fn run_blocking(store: &Arc<Store>, op: Op) -> Outcome {
        let kind = op.kind();
        let outcome = store.block_on(run(store.clone(), Ways::default(), op));
        outcome.map_err(|errno| OpError { kind, errno })
    }
}

impl Fs for ObjectFs {
    fn start(&self, op: Op) -> Pending {
        let kind = op.kind();
        let instruments = self.instruments.clone();
        let (what, since) = (Timed::Op(kind.into(), self.side), instruments.now());
        let running = run(self.store.clone(), self.ways, op);
        let store = self.store.clone();
        Pending::Boxed(Box::pin(async move {
            let in_flight = instruments.in_flight();
            let outcome = match running.await {
                Err(errno) => Err(store.reason(errno).await),
                done => done,
            };
            drop(in_flight);
            instruments.record_since(what, since);
            outcome.map_err(|errno| OpError { kind, errno })
        }))
    }

    fn is_slow(&self, _dev: u64) -> bool {
        true
    }

    fn locks_names(&self) -> bool {
        false
    }

    fn clock(&self, at: Time) -> Option<Time> {
        self.store.clock.at(at)
    }

    fn has_dir_times(&self) -> bool {
        false
    }

    fn keeps_checksums(&self) -> bool {
        true
    }
}

/// What an operation is about.
#[derive(Clone)]
struct Subject(Arc<Node>);

impl Subject {
    fn of(handle: &Handle) -> Result<Self, Errno> {
        handle.get_elsewhere().map(Self).ok_or(Errno::EXDEV)
    }

    fn dir(&self) -> Result<&Dir, Errno> {
        match &*self.0 {
            Node::Dir(dir) => Ok(dir),
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn object(&self) -> Result<&Object, Errno> {
        match &*self.0 {
            Node::Object(object) => Ok(object),
            Node::Dir(_) => Err(Errno::EISDIR),
            Node::Upload(_) | Node::Place(_) => Err(Errno::EBADF),
        }
    }

    fn upload(&self) -> Result<&Upload, Errno> {
        match &*self.0 {
            Node::Upload(upload) => Ok(upload),
            _ => Err(Errno::EBADF),
        }
    }
}

async fn run(store: Arc<Store>, ways: Ways, op: Op) -> Result<Reply, Errno> {
    let subject = Subject::of(op.handle())?;
    match op {
        Op::OpenDir { name, .. } => Ok(opened_dir(&store, subject.dir()?.below(&name)?)),
        Op::OpenDirBelow { path, .. } => Ok(opened_dir(&store, subject.dir()?.below_path(&path)?)),
        Op::ReadDir { listing, .. } => subject.dir()?.read(&store, listing, ways.asks).await,
        Op::StatMany { listing, range, .. } => {
            let listing = subject.dir()?.stat_many(&store, listing, range).await;
            let more = false;
            Ok(Reply::Listed { listing, more })
        }
        Op::Stat { target } => match target {
            Target::Open(_) | Target::Anew(_) => match &*subject.0 {
                Node::Dir(dir) => Ok(Reply::Meta(dir.meta(&store))),
                _ => Ok(Reply::Meta(subject.object()?.meta)),
            },
            Target::Name(_, name) | Target::Followed(_, name) => {
                let meta = look_up(&store, subject.dir()?.key(&name)?).await?;
                Ok(Reply::Meta(meta))
            }
        },
        Op::Open { name, .. } => {
            let key = subject.dir()?.key(&name)?;
            let object = if ways.copies {
                Object::open_original(&store, key).await?
            } else {
                Object::open(&store, key).await?
            };
            let meta = object.meta;
            Ok(Reply::Opened(handle(&store, Node::Object(object)), meta))
        }
        Op::Read {
            mut buffer, offset, ..
        } => {
            let count = subject.object()?.read(&mut buffer, offset).await?;
            Ok(Reply::Moved(buffer, count))
        }
        Op::IsCached { .. } => Ok(Reply::Cached(false)),
        Op::ReadXattrs { .. } => Ok(Reply::Xattrs(Xattrs::default())),
        Op::SeekData { offset, .. } => {
            let size = subject.object()?.meta.size;
            Ok(Reply::Data((offset < size).then_some(offset..size)))
        }
        Op::ReadLink { name, .. } => {
            let link = read_link(&store, subject.dir()?.key(&name)?).await?;
            Ok(Reply::Link(link))
        }
        Op::ReadChecksum { name, .. } => {
            let known = checksum::read(&store, subject.dir()?.key(&name)?).await?;
            Ok(Reply::Checksum(known))
        }
        Op::DropCache { .. } => Ok(Reply::Done),
        Op::SetDirect { .. } | Op::Lock { .. } => Err(Errno::EOPNOTSUPP),
        op => change(store, &subject, op).await,
    }
}

/// What changes something in the bucket.
async fn change(store: Arc<Store>, subject: &Subject, op: Op) -> Result<Reply, Errno> {
    match op {
        Op::Create { name, .. } => {
            let upload = Upload::new(store.clone(), subject.dir()?.new_key(&name)?);
            let meta = attributes::unwritten(store.dev);
            return Ok(Reply::Opened(handle(&store, Node::Upload(upload)), meta));
        }
        Op::Write {
            buffer,
            range,
            offset,
            ..
        } => {
            let count = range.len();
            subject.upload()?.write(&buffer[range], offset).await?;
            return Ok(Reply::Moved(buffer, count));
        }
        Op::OpenPlace { name, .. } => {
            let original = Original::find(&store, subject.dir()?.key(&name)?).await?;
            let meta = original.meta(&store);
            return Ok(Reply::Opened(handle(&store, Node::Place(original)), meta));
        }
        Op::Truncate { len, .. } => subject.upload()?.expect(len),
        Op::Clone { from, .. } => {
            let from = Subject::of(&from)?;
            let original = from.object()?.original.clone();
            subject.upload()?.copy(original.ok_or(Errno::EOPNOTSUPP)?);
        }
        Op::SetAttrs { change, .. } => match &*subject.0 {
            // Nothing keeps a directory's attributes.
            Node::Dir(_) => {}
            Node::Upload(upload) => upload.dress(change),
            Node::Place(original) => return original.redress(&store, &change).await.map(made),
            Node::Object(_) => return Err(Errno::EBADF),
        },
        Op::Close { .. } => {
            if let Node::Upload(upload) = &*subject.0 {
                return upload.close().await.map(made);
            }
        }
        Op::Discard { .. } => subject.upload()?.abandon().await,
        Op::MakeDir { name, .. } => {
            // A directory is there as soon as something is in it. The empty ones are kept by an object of their own.
            subject.dir()?.new_key(&name)?;
            let key = subject.dir()?.below(&name)?.marker()?;
            if name.as_c_str() == c"." && !key.is_empty() {
                upload::put(&store, &key, HashMap::new(), b"").await?;
            }
        }
        Op::PutSymlink {
            name,
            target,
            change,
            ..
        } => {
            if store.form != Form::Posix {
                return Err(Errno::EOPNOTSUPP);
            }
            let metadata = store.form.metadata(Kind::Symlink, &change);
            let key = subject.dir()?.new_key(&name)?;
            let put = upload::put(&store, &key, metadata, target.to_bytes()).await;
            return put.map(made);
        }
        Op::Unlink { name, .. } => delete(&store, subject.dir()?.key(&name)?).await?,
        Op::RemoveDir { name, .. } => subject.dir()?.below(&name)?.remove(&store).await?,
        // What a server has confirmed is on its disks.
        Op::Fsync { .. } | Op::SyncFs { .. } => {}
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(Reply::Done)
}

fn made(version: Option<Version>) -> Reply {
    version.map_or(Reply::Done, Reply::Made)
}

fn opened_dir(store: &Store, dir: Dir) -> Reply {
    let meta = dir.meta(store);
    Reply::Opened(handle(store, Node::Dir(dir)), meta)
}

async fn read_link(store: &Arc<Store>, key: String) -> Result<CString, Errno> {
    let object = Object::open(store, key).await?;
    if object.meta.kind != Kind::Symlink || object.meta.size > LINK_BYTES_MAX {
        return Err(Errno::EINVAL);
    }
    let mut target = vec![0; usize::try_from(object.meta.size).unwrap_or(0)];
    object.read(&mut target, 0).await?;
    CString::new(target).map_err(|_| Errno::EINVAL)
}
