//! Removing names of the destination.

use std::ffi::{CStr, CString};

use nix::errno::Errno;

use super::{Backup, Failure, Lane};
use crate::error::{OpKind, Side};
use crate::io::{Handle, Links, Op, OpError, Reply};
use crate::model::{Kind, Listing, Meta};

/// Asked before each entry of a tree goes; told its kind and its path from the tree's root on.
pub(super) type MayRemove<'a> = dyn Fn(Kind, &[&CStr]) -> bool + 'a;

/// Asked before an entry is touched at all: whether it has to stay, and its directories with it. Its kind is not always known.
pub(super) type MustStay<'a> = dyn Fn(Option<Kind>, &[&CStr]) -> bool + 'a;

/// How the removal of a tree ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeRemoval {
    Removed,
    /// An entry was not allowed to go, so its directories stay too.
    Refused,
    /// Everything is gone but what had to stay, and its directories.
    Kept,
}

/// A directory on the way down.
struct Level {
    name: CString,
    dir: Handle,
    meta: Meta,
    /// Where its entries are kept, once one was.
    backup: Option<Backup>,
    listing: Listing,
    next: usize,
    /// Something in it had to stay.
    kept: bool,
}

impl Lane {
    /// Removes a name that is not a directory.
    ///
    /// # Errors
    /// What failed on the destination.
    pub async fn unlink(&self, dest: &Handle, name: &CStr) -> Result<(), Failure> {
        let (at, name) = (dest.clone(), name.to_owned());
        self.on_dest(Op::Unlink { at, name }).await?;
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// What failed on the destination; `ENOTEMPTY` when it is not empty.
    pub async fn remove_dir(&self, dest: &Handle, name: &CStr) -> Result<(), Failure> {
        let (at, name) = (dest.clone(), name.to_owned());
        self.on_dest(Op::RemoveDir { at, name }).await?;
        Ok(())
    }

    /// Removes a directory with everything in it, one entry after another: for what is in the way of something else.
    /// Each level is opened below the one before, following no symlink. What is gone already is all that was wanted.
    /// `spared` is a directory that must not be entered, by device and inode. With a `backup`, which must be in a tree of
    /// its own, everything but the directories is kept there.
    ///
    /// # Errors
    /// What failed on the destination; what was removed before that stays removed.
    pub async fn remove_tree(
        &self,
        dest: &Handle,
        name: &CStr,
        spared: Option<(u64, u64)>,
        may_remove: &MayRemove<'_>,
        must_stay: &MustStay<'_>,
        backup: Option<&Backup>,
    ) -> Result<TreeRemoval, Failure> {
        let mut levels = Vec::new();
        levels.extend(self.enter(dest, name, spared).await?);
        while let Some(level) = levels.last_mut() {
            let Some(entry) = level.listing.entries.get(level.next) else {
                if level.kept {
                    if let Some(Level {
                        backup: Some(backup),
                        meta,
                        ..
                    }) = levels.pop()
                    {
                        self.finish_backup_dir(&backup.dir, &meta).await?;
                    }
                    match levels.last_mut() {
                        Some(parent) => parent.kept = true,
                        None => return Ok(TreeRemoval::Kept),
                    }
                    continue;
                }
                let path: Vec<&CStr> = levels.iter().map(|level| level.name.as_c_str()).collect();
                if !may_remove(Kind::Dir, &path) {
                    return Ok(TreeRemoval::Refused);
                }
                let Some(done) = levels.pop() else { break };
                if let Some(backup) = &done.backup {
                    self.finish_backup_dir(&backup.dir, &done.meta).await?;
                }
                let parent = levels.last().map_or(dest, |level| &level.dir);
                gone_is_fine(self.remove_dir(parent, &done.name).await)?;
                continue;
            };
            let (name, kind) = (level.listing.name(entry).to_owned(), entry.kind());
            let dir = level.dir.clone();
            level.next += 1;
            let mut path: Vec<&CStr> = levels.iter().map(|level| level.name.as_c_str()).collect();
            path.push(&name);
            if must_stay(kind, &path) {
                if let Some(level) = levels.last_mut() {
                    level.kept = true;
                }
                continue;
            }
            if kind == Some(Kind::Dir) {
                levels.extend(self.enter(&dir, &name, spared).await?);
                continue;
            }
            if !may_remove(kind.unwrap_or(Kind::File), &path) {
                return Ok(TreeRemoval::Refused);
            }
            let backup = match backup {
                Some(backup) => Some(self.backup_of(&mut levels, backup).await?),
                None => None,
            };
            match self.unlink_or_keep(&dir, &name, backup.as_ref()).await {
                // The filesystem had not told that it is a directory.
                Err(failure) if failure.is(Errno::EISDIR) => {
                    levels.extend(self.enter(&dir, &name, spared).await?);
                }
                result => gone_is_fine(result)?,
            }
        }
        Ok(TreeRemoval::Removed)
    }

    /// Where entries of the deepest level are kept.
    async fn backup_of(&self, levels: &mut [Level], above: &Backup) -> Result<Backup, Failure> {
        let mut backup = above.clone();
        for level in levels {
            if let Some(known) = &level.backup {
                backup = known.clone();
                continue;
            }
            backup = self
                .backup_below(&backup, &level.name, (&level.dir, &level.meta))
                .await?;
            level.backup = Some(backup.clone());
        }
        Ok(backup)
    }

    /// Opens and lists a directory; `None` when it is gone.
    async fn enter(
        &self,
        at: &Handle,
        name: &CStr,
        spared: Option<(u64, u64)>,
    ) -> Result<Option<Level>, Failure> {
        let op = Op::OpenDir {
            at: at.clone(),
            name: name.to_owned(),
            links: Links::Refuse,
        };
        let (dir, meta) = match self.on_dest(op).await {
            Ok(Reply::Opened(_, meta)) if Some(meta.identity()) == spared => {
                return Err(Failure::loop_into_source());
            }
            Ok(Reply::Opened(_, meta)) if self.options.one_file_system && meta.dev != at.dev() => {
                let (kind, errno) = (OpKind::OpenDir, Errno::EXDEV);
                return Err(Failure::new(Side::Destination, OpError { kind, errno }));
            }
            Ok(Reply::Opened(dir, meta)) => (dir, meta),
            Ok(other) => unreachable!("an open does not reply {other:?}"),
            Err(failure) if failure.is(Errno::ENOENT) => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let mut listing = Listing::default();
        loop {
            if self.cancel.is_set() {
                return Err(Failure::interrupted(Side::Destination));
            }
            let op = Op::ReadDir {
                dir: dir.clone(),
                listing,
            };
            let more;
            (listing, more) = match self.dest.start(op).await {
                Ok(Reply::Listed { listing, more }) => (listing, more),
                Ok(other) => unreachable!("a listing does not reply {other:?}"),
                Err(OpError { kind, errno }) => {
                    return Err(Failure::new(Side::Destination, OpError { kind, errno }));
                }
            };
            if !more {
                break;
            }
        }
        drop_repeated(&mut listing);
        Ok(Some(Level {
            name: name.to_owned(),
            dir,
            meta,
            backup: None,
            listing,
            next: 0,
            kept: false,
        }))
    }
}

/// What somebody else removed need not be removed again; a listing may also tell a name twice.
fn gone_is_fine(removed: Result<(), Failure>) -> Result<(), Failure> {
    match removed {
        Err(failure) if failure.is(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

/// Drops the second entry of names that were listed twice, as busy network filesystems do.
fn drop_repeated(listing: &mut Listing) {
    let mut seen = std::collections::HashSet::with_capacity(listing.len());
    let is_first: Vec<bool> = (listing.entries.iter())
        .map(|entry| seen.insert(listing.name_bytes(entry)))
        .collect();
    let mut is_first = is_first.into_iter();
    listing.entries.retain(|_| is_first.next() == Some(true));
}
