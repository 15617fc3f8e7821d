//! What is timed while a run works. The engine measures; who keeps the figures is decided by the composition root.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use super::tally::Tally;
use crate::error::{OpKind, Side};

/// Operations that are told together, because a user would tune the same thing for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum OpClass {
    /// Names of a directory.
    List,
    Stat,
    /// Opening files and directories that exist.
    Open,
    Create,
    Read,
    Write,
    /// Data that the kernel moves or shares by itself.
    Copy,
    /// A small file, all its operations in one go.
    SmallFile,
    Close,
    /// Directories, symlinks, special files, hard links.
    Make,
    Rename,
    Unlink,
    /// Owners, modes, times, extended attributes, targets of symlinks.
    Metadata,
    /// Waiting for stable storage.
    Flush,
}

impl OpClass {
    pub const ALL: [Self; 14] = [
        Self::List,
        Self::Stat,
        Self::Open,
        Self::Create,
        Self::Read,
        Self::Write,
        Self::Copy,
        Self::SmallFile,
        Self::Close,
        Self::Make,
        Self::Rename,
        Self::Unlink,
        Self::Metadata,
        Self::Flush,
    ];

    /// The word in metrics, JSON and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Stat => "statx",
            Self::Open => "open",
            Self::Create => "create",
            Self::Read => "read",
            Self::Write => "write",
            Self::Copy => "copy",
            Self::SmallFile => "small file",
            Self::Close => "close",
            Self::Make => "make",
            Self::Rename => "rename",
            Self::Unlink => "unlink",
            Self::Metadata => "metadata",
            Self::Flush => "flush",
        }
    }
}

impl From<OpKind> for OpClass {
    fn from(kind: OpKind) -> Self {
        match kind {
            OpKind::ReadDir => Self::List,
            OpKind::Stat => Self::Stat,
            OpKind::OpenDir | OpKind::Open | OpKind::ReadRules => Self::Open,
            OpKind::Create => Self::Create,
            OpKind::Read | OpKind::SeekData | OpKind::DropCache | OpKind::Prepare => Self::Read,
            OpKind::Write | OpKind::Truncate => Self::Write,
            OpKind::CopyRange | OpKind::Clone => Self::Copy,
            OpKind::Close => Self::Close,
            OpKind::MakeDir | OpKind::MakeNode | OpKind::MakeSymlink | OpKind::Link => Self::Make,
            OpKind::Rename | OpKind::Backup => Self::Rename,
            OpKind::Unlink | OpKind::RemoveDir => Self::Unlink,
            OpKind::SetOwner
            | OpKind::SetMode
            | OpKind::SetTimes
            | OpKind::ReadXattrs
            | OpKind::SetXattrs
            | OpKind::ReadLink => Self::Metadata,
            OpKind::Fsync | OpKind::SyncFs => Self::Flush,
        }
    }
}

/// Requests to a server of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum RequestKind {
    List,
    Head,
    Get,
    Put,
    Copy,
    CreateUpload,
    UploadPart,
    UploadPartCopy,
    CompleteUpload,
    AbortUpload,
    Delete,
    DeleteMany,
    /// What runs do not ask for, or seldom.
    Other,
}

impl RequestKind {
    pub const ALL: [Self; 13] = [
        Self::List,
        Self::Head,
        Self::Get,
        Self::Put,
        Self::Copy,
        Self::CreateUpload,
        Self::UploadPart,
        Self::UploadPartCopy,
        Self::CompleteUpload,
        Self::AbortUpload,
        Self::Delete,
        Self::DeleteMany,
        Self::Other,
    ];

    /// As servers and their bills have it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::List => "ListObjectsV2",
            Self::Head => "HeadObject",
            Self::Get => "GetObject",
            Self::Put => "PutObject",
            Self::Copy => "CopyObject",
            Self::CreateUpload => "CreateMultipartUpload",
            Self::UploadPart => "UploadPart",
            Self::UploadPartCopy => "UploadPartCopy",
            Self::CompleteUpload => "CompleteMultipartUpload",
            Self::AbortUpload => "AbortMultipartUpload",
            Self::Delete => "DeleteObject",
            Self::DeleteMany => "DeleteObjects",
            Self::Other => "other",
        }
    }
}

/// Where a directory waits for its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Wait {
    /// In the queue of its shard, from when its parent was listed.
    Queue,
    /// At the head of the queue, for the permit of the throttle coordinator.
    Permit,
    /// Compared, for a transfer slot of its shard.
    Transfer,
}

impl Wait {
    pub const ALL: [Self; 3] = [Self::Queue, Self::Permit, Self::Transfer];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Permit => "permit",
            Self::Transfer => "transfer",
        }
    }
}

/// What a time was measured of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timed {
    /// One system call, or several that are one operation.
    Op(OpClass, Side),
    Wait(Wait),
    /// One directory, from its permit until everything that was to be done in it is done.
    Directory,
    /// From when a request is sent until its answer begins. One that is repeated counts each time.
    Request(RequestKind),
}

/// Told of what was measured on one shard.
pub trait Meter {
    /// `count` times of the same kind that took `each` on average.
    fn record(&self, what: Timed, each: Duration, count: u64);

    /// A directory is done: how long it took and how many source entries it has. `path` is asked for only when it is kept.
    fn directory(&self, elapsed: Duration, entries: u64, path: &dyn Fn() -> Vec<u8>);
}

/// Told of requests to servers, on threads that belong to no shard.
pub trait RequestMeter: Send + Sync {
    fn record(&self, kind: RequestKind, took: Duration);
}

/// What the parts of one shard tell the world with: its counters, and the meter of a run that is measured.
#[derive(Clone)]
pub struct Instruments {
    tallies: Arc<[CachePadded<Tally>]>,
    shard: usize,
    meter: Option<Rc<dyn Meter>>,
}

impl Instruments {
    /// # Panics
    /// If there are no counters for the shard.
    #[must_use]
    pub fn new(
        tallies: Arc<[CachePadded<Tally>]>,
        shard: usize,
        meter: Option<Rc<dyn Meter>>,
    ) -> Self {
        assert!(shard < tallies.len());
        Self {
            tallies,
            shard,
            meter,
        }
    }

    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tallies[self.shard]
    }

    /// The time, in a run that is measured: in others nobody looks at a clock.
    #[must_use]
    pub fn now(&self) -> Option<Instant> {
        self.meter.as_ref().map(|_| Instant::now())
    }

    /// Counts one operation while somebody waits for it.
    #[must_use]
    pub fn in_flight(&self) -> InFlight<'_> {
        self.tally().levels.ops_in_flight.add(1);
        InFlight(self)
    }

    #[must_use]
    pub fn is_measured(&self) -> bool {
        self.meter.is_some()
    }

    /// See [`Meter::record`].
    pub fn record(&self, what: Timed, each: Duration, count: u64) {
        if let Some(meter) = &self.meter {
            meter.record(what, each, count);
        }
    }

    /// Records one that began at `since`, a time of [`Instruments::now`].
    pub fn record_since(&self, what: Timed, since: Option<Instant>) {
        if let Some(since) = since {
            self.record(what, since.elapsed(), 1);
        }
    }

    /// See [`Meter::directory`].
    pub fn directory(&self, elapsed: Duration, entries: u64, path: &dyn Fn() -> Vec<u8>) {
        if let Some(meter) = &self.meter {
            meter.directory(elapsed, entries, path);
        }
    }
}

/// See [`Instruments::in_flight`].
pub struct InFlight<'a>(&'a Instruments);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.tally().levels.ops_in_flight.sub(1);
    }
}

impl Default for Instruments {
    /// Counters that nobody reads.
    fn default() -> Self {
        Self::new(Arc::from([CachePadded::default()]), 0, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_operation_has_a_class_and_every_class_an_operation() {
        let mut classes: BTreeSet<OpClass> = OpKind::ALL.into_iter().map(OpClass::from).collect();
        // It stands for several.
        assert!(classes.insert(OpClass::SmallFile));
        assert_eq!(classes, BTreeSet::from(OpClass::ALL));
    }

    #[test]
    fn names_are_unique() {
        let names: BTreeSet<&str> = OpClass::ALL.iter().map(|class| class.name()).collect();
        assert_eq!(names.len(), OpClass::ALL.len());
        let names: BTreeSet<&str> = RequestKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), RequestKind::ALL.len());
    }
}
