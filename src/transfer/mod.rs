//! Moves data and makes inodes. A lane belongs to one shard and works on open directories and single names; it knows
//! nothing of trees, queues or reports.

mod contents;
mod delete;
mod files;
mod large;
mod nodes;
pub mod temp;

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use std::sync::Arc;

pub use delete::TreeRemoval;
pub use large::LargeFile;
use nix::errno::Errno;

use crate::error::{Cause, OpKind, Side};
use crate::io::{Change, Fs, Handle, Op, OpError, Outcome, Reply, Target};
use crate::model::{Kind, Meta, Policy};
use crate::throttle::{Cancel, Semaphore};
use temp::TempNames;

/// Files that one lane copies or compares at once. Each has up to two descriptors and two buffers, so this is what
/// bounds a lane's memory. No deadlock: who holds a permit waits for I/O and for chunks that others have claimed, and
/// those need no permit.
const FILES_MAX: usize = 64;

/// `--write-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriteMode {
    /// Under a temporary name, renamed when complete.
    #[default]
    Atomic,
    /// Under the final name from the start: faster, and an interrupted run leaves incomplete files for the next one
    /// to repair.
    Direct,
}

/// `--reflink`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reflink {
    /// Where source and destination can share blocks.
    #[default]
    Auto,
    /// Or fail.
    Always,
    Never,
}

/// Options of a lane.
#[derive(Clone, Copy, Debug)]
pub struct LaneOptions {
    pub policy: Policy,
    pub write_mode: WriteMode,
    pub reflink: Reflink,
    /// Owner and group of the files that this process makes.
    pub own_ids: (u32, u32),
    /// The process's umask: what modes of new files lose when the source's modes are not carried.
    pub umask: u32,
}

/// A failure, without the path: the caller knows that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub op: OpKind,
    pub side: Side,
    pub cause: Cause,
}

impl Failure {
    fn new(side: Side, error: OpError) -> Self {
        Self {
            op: error.kind,
            side,
            cause: Cause::Errno(error.errno),
        }
    }

    /// The run ended before the entry was done.
    fn interrupted(side: Side) -> Self {
        Self {
            op: OpKind::Read,
            side,
            cause: Cause::Interrupted,
        }
    }

    fn is(&self, errno: Errno) -> bool {
        self.cause == Cause::Errno(errno)
    }
}

/// Where one name is: the same name below two open directories.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    pub source: &'a Handle,
    pub dest: &'a Handle,
    pub name: &'a CStr,
}

/// What a transfer did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    pub bytes: u64,
    /// The bytes are shared with the source, not copied.
    pub cloned: bool,
    /// The source kept changing: what is in place is one moment of it.
    pub unsettled: bool,
}

/// Gets other shards to work on a large file.
pub trait Spread {
    fn spread<'a>(&'a self, file: &'a Arc<LargeFile>) -> LocalBoxFuture<'a, ()>;
}

/// What one shard transfers with.
pub struct Lane {
    source: Rc<dyn Fs>,
    dest: Rc<dyn Fs>,
    options: LaneOptions,
    buffers: contents::Buffers,
    temp_names: TempNames,
    /// Caps the files that this lane has open: see [`FILES_MAX`].
    files: Arc<Semaphore>,
    cancel: Arc<Cancel>,
    /// Pairs of filesystems that cannot share blocks.
    unclonable: RefCell<Vec<(u64, u64)>>,
}

impl Lane {
    #[must_use]
    pub fn new(
        source: Rc<dyn Fs>,
        dest: Rc<dyn Fs>,
        options: LaneOptions,
        cancel: Arc<Cancel>,
        seed: u64,
    ) -> Self {
        Self {
            source,
            dest,
            options,
            buffers: contents::Buffers::default(),
            temp_names: TempNames::new(seed),
            files: Semaphore::new(FILES_MAX),
            cancel,
            unclonable: RefCell::default(),
        }
    }

    async fn on_source(&self, op: Op) -> Result<Reply, Failure> {
        let outcome: Outcome = self.source.start(op).await;
        outcome.map_err(|error| Failure::new(Side::Source, error))
    }

    async fn on_dest(&self, op: Op) -> Result<Reply, Failure> {
        let outcome: Outcome = self.dest.start(op).await;
        outcome.map_err(|error| Failure::new(Side::Destination, error))
    }

    /// What must be set on an inode of the destination that looks like `now` to make it as the policy wants.
    /// `existed` is what stood there before this run, whose mode stays when modes are not carried.
    fn change_for(&self, wanted: &Meta, now: &Meta, existed: Option<&Meta>) -> Change {
        let policy = &self.options.policy;
        let uid = (policy.carry_owner && wanted.uid != now.uid).then_some(wanted.uid);
        let gid = (policy.sets_group(wanted.gid) && wanted.gid != now.gid).then_some(wanted.gid);
        let mode = if policy.carry_mode {
            wanted.mode
        } else {
            existed.map_or(wanted.mode & 0o777 & !self.options.umask, |meta| meta.mode)
        };
        // chown clears setuid and setgid, so those are set again after it.
        let chowned_away = (uid.is_some() || gid.is_some()) && mode & 0o6000 != 0;
        Change {
            uid,
            gid,
            mode: (mode != now.mode || chowned_away).then_some(mode),
            mtime: policy.carry_times.then_some(wanted.mtime),
        }
    }

    async fn set_attrs(&self, target: Target, change: Change) -> Result<(), Failure> {
        if !change.is_empty() {
            self.on_dest(Op::SetAttrs { target, change }).await?;
        }
        Ok(())
    }

    /// Sets what differs on a name whose contents are right already.
    ///
    /// # Errors
    /// The operation that failed on the destination.
    pub async fn repair(&self, place: Place<'_>, wanted: &Meta, now: &Meta) -> Result<(), Failure> {
        let mut change = self.change_for(wanted, now, Some(now));
        if wanted.kind == Kind::Symlink {
            change.mode = None;
        }
        if self.options.policy.times_equal(wanted.mtime, now.mtime) {
            change.mtime = None;
        }
        let target = Target::Name(place.dest.clone(), place.name.to_owned());
        self.set_attrs(target, change).await
    }

    /// Makes the attributes of an open directory those of its source. `touched`: its mtime has moved since `now`.
    ///
    /// # Errors
    /// The operation that failed on the destination.
    pub async fn finish_dir(
        &self,
        dir: Handle,
        wanted: &Meta,
        now: &Meta,
        made: bool,
        touched: bool,
    ) -> Result<(), Failure> {
        let mut change = self.change_for(wanted, now, (!made).then_some(now));
        if !touched && self.options.policy.times_equal(wanted.mtime, now.mtime) {
            change.mtime = None;
        }
        self.set_attrs(Target::Open(dir), change).await
    }

    /// Lets the owner write into an existing directory for the time of the run; its mode is set again when it is finished.
    ///
    /// # Errors
    /// The operation that failed on the destination.
    pub async fn unlock_dir(&self, dir: Handle, now: &Meta) -> Result<(), Failure> {
        let change = Change {
            mode: Some(now.mode | 0o700),
            ..Change::default()
        };
        self.set_attrs(Target::Open(dir), change).await
    }

    /// Makes a directory that only its owner may enter until it is finished.
    ///
    /// # Errors
    /// The operation that failed on the destination.
    pub async fn make_dir(&self, dest: &Handle, name: &CStr) -> Result<(), Failure> {
        let (at, name) = (dest.clone(), name.to_owned());
        let mode = 0o700;
        self.on_dest(Op::MakeDir { at, name, mode }).await?;
        Ok(())
    }

    /// Gives an inode that was just made, under its final name, the attributes of its source.
    ///
    /// # Errors
    /// The operation that failed on the destination.
    pub async fn dress(&self, dest: &Handle, name: &CStr, wanted: &Meta) -> Result<(), Failure> {
        let target = Target::Name(dest.clone(), name.to_owned());
        let op = Op::Stat {
            target: target.clone(),
        };
        let now = match self.on_dest(op).await? {
            Reply::Meta(meta) => meta,
            other => unreachable!("a stat does not reply {other:?}"),
        };
        let mut change = self.change_for(wanted, &now, None);
        if wanted.kind == Kind::Symlink {
            // On Linux a symlink has no mode of its own.
            change.mode = None;
        }
        self.set_attrs(target, change).await
    }

    async fn rename(&self, dest: &Handle, from: CString, to: &CStr) -> Result<(), Failure> {
        let (at, to) = (dest.clone(), to.to_owned());
        self.on_dest(Op::Rename { at, from, to }).await?;
        Ok(())
    }

    /// Removes what may be left of a temporary name after a failure. That it cannot be removed adds nothing to the
    /// failure that is being reported; the next run removes it.
    async fn discard(&self, dest: &Handle, name: &CStr) {
        let (at, name) = (dest.clone(), name.to_owned());
        if let Err(error) = self.dest.start(Op::Unlink { at, name }).await {
            tracing::debug!(?error, "a temporary file stays for the next run to remove");
        }
    }
}
