//! `--fsync`: when what was written is known to be on stable storage.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

use super::{Failure, Lane};
use crate::io::{Handle, Op};

/// `--fsync`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fsync {
    /// When the kernel gets round to it.
    #[default]
    None,
    /// Each file before it gets its final name, each directory that changed when it is finished.
    File,
    /// Every filesystem that was written to, once, at the end.
    End,
}

/// The filesystems that a pass has changed: one open directory of each. Opened before the first change, so that an error
/// of writing back anything after it is told to that descriptor.
#[derive(Clone, Debug, Default)]
pub struct Written(Arc<Mutex<Vec<Handle>>>);

impl Written {
    fn note(&self, dir: &Handle) {
        // A list of directories is whole at every step, so a panic elsewhere does not spoil it.
        let mut dirs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if dirs.iter().all(|known| known.dev() != dir.dev()) {
            dirs.push(dir.clone());
        }
    }

    fn take(&self) -> Vec<Handle> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What one lane has told [`Written`] already, so that it asks for the lock once for each filesystem.
#[derive(Debug, Default)]
pub(super) struct Noted {
    written: Written,
    devs: RefCell<Vec<u64>>,
}

impl Noted {
    pub(super) fn new(written: Written) -> Self {
        let devs = RefCell::default();
        Self { written, devs }
    }

    fn note(&self, dir: &Handle) {
        let mut devs = self.devs.borrow_mut();
        if !devs.contains(&dir.dev()) {
            devs.push(dir.dev());
            self.written.note(dir);
        }
    }
}

/// The directory in which an operation changes a name or what it stands for. Operations on open inodes have none; each is
/// preceded by one that opened the inode to be changed.
fn changed_dir(op: &Op) -> Option<&Handle> {
    match op {
        Op::Create { at, .. }
        | Op::OpenWrite { at, .. }
        | Op::MakeDir { at, .. }
        | Op::MakeNode { at, .. }
        | Op::MakeSymlink { at, .. }
        | Op::PutSymlink { at, .. }
        | Op::Unlink { at, .. }
        | Op::RemoveDir { at, .. }
        | Op::Rename { at, .. }
        | Op::Link { to: at, .. }
        | Op::Move { to: at, .. }
        | Op::OpenPlace { at, .. } => Some(at),
        _ => None,
    }
}

impl Lane {
    /// Remembers the filesystem that an operation is about to change, for the flush at the end.
    pub(super) fn note_change(&self, op: &Op) {
        if self.options.fsync == Fsync::End
            && let Some(dir) = changed_dir(op)
        {
            self.noted.note(dir);
        }
    }

    /// The same for a directory whose own attributes change.
    pub(super) fn note_dir(&self, dir: &Handle) {
        if self.options.fsync == Fsync::End {
            self.noted.note(dir);
        }
    }

    pub(super) async fn flush_file(&self, file: &Handle) -> Result<(), Failure> {
        let file = file.clone();
        self.on_dest(Op::Fsync { file }).await?;
        Ok(())
    }

    /// `--fsync file`: the names in a directory and its attributes, when nothing in it changes any more.
    ///
    /// # Errors
    /// What the flush said; late write errors show here.
    pub async fn flush_dir(&self, dir: &Handle) -> Result<(), Failure> {
        if self.options.fsync != Fsync::File {
            return Ok(());
        }
        match self.flush_file(dir).await {
            // Filesystems that have nothing to flush for a directory say so.
            Err(failure) if failure.is(Errno::EINVAL) => Ok(()),
            result => result,
        }
    }

    /// `--fsync end`: everything on the filesystems that this pass has changed, on any lane. Returns what failed.
    pub async fn flush_filesystems(&self) -> Vec<Failure> {
        let mut failures = Vec::new();
        for dir in self.noted.written.take() {
            failures.extend(self.on_dest(Op::SyncFs { dir }).await.err());
        }
        failures
    }

    /// See [`LaneOptions::waits_for_device`].
    ///
    /// [`LaneOptions::waits_for_device`]: super::LaneOptions::waits_for_device
    #[must_use]
    pub fn waits_for_device(&self) -> bool {
        self.options.waits_for_device()
    }
}
