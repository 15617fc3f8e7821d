//! `--backup`: what is replaced or deleted is kept under another name, in the same directory or in a tree of its own.
//!
//! ```text
//!   replace   link OLD -> BACKUP, rename TEMP -> OLD    the name is never absent
//!             rename OLD -> BACKUP                      where links are not possible, or files are written directly
//!   delete    rename OLD -> BACKUP
//!   in place  copy OLD -> BACKUP                        and for the others, when BACKUP is on another filesystem
//! ```

use std::ffi::{CStr, CString};
use std::sync::Arc;

use nix::errno::Errno;

use super::contents::{Method, Pair, Way};
use super::delete::TreeRemoval;
use super::{Failure, Fsync, Lane, PRIVATE_DIR, Place};
use crate::error::{OpKind, Side};
use crate::io::{Change, Handle, Links, Op, OpError, Reply, Target};
use crate::model::compare::is_incomplete;
use crate::model::listing::NAME_LEN_MAX;
use crate::model::{Carried, Kind, Meta, XattrChange, Xattrs};

/// How often a directory of the backup tree is looked for while others of this run make it.
const OPEN_TRIES_MAX: u32 = 8;

/// Where the entries of one directory are kept.
#[derive(Clone, Debug)]
pub struct Backup {
    pub dir: Handle,
    /// Added to the names; not empty when they are kept beside the entries themselves.
    pub suffix: Arc<[u8]>,
    /// The directory is not one of backups alone: nothing else in it may be cleared away for them.
    pub beside: bool,
}

/// What became of the old entry under a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kept {
    /// Nothing was done yet.
    #[default]
    NotYet,
    /// There was none.
    Nothing,
    /// It has its backup name as well.
    Linked,
    /// It has its backup name only.
    Moved,
    Copied,
}

impl Backup {
    /// The name under which `name` is kept.
    fn name_of(&self, name: &CStr) -> Result<CString, Failure> {
        let bytes = [name.to_bytes(), &self.suffix].concat();
        if bytes.len() > NAME_LEN_MAX {
            return Err(backup_errno(Errno::ENAMETOOLONG));
        }
        match CString::new(bytes) {
            Ok(name) => Ok(name),
            Err(_) => unreachable!("neither a name nor a suffix of the command line has a NUL"),
        }
    }
}

fn backup_errno(errno: Errno) -> Failure {
    let kind = OpKind::Backup;
    Failure::new(Side::Destination, OpError { kind, errno })
}

/// The step that failed says little to a user whose file was not backed up; the reason stays.
fn told_as_backup(failure: Failure) -> Failure {
    let op = OpKind::Backup;
    Failure { op, ..failure }
}

impl Lane {
    /// Before something complete is renamed over a name: gives what is there its backup name too.
    pub(super) async fn keep_linked(
        &self,
        place: Place<'_>,
        existing: Option<&Meta>,
    ) -> Result<Kept, Failure> {
        let (Some(backup), Some(existing)) = (place.backup, existing) else {
            return Ok(Kept::Nothing);
        };
        let kept = self.link_away(place, existing, backup).await;
        kept.map_err(told_as_backup)
    }

    /// Before a name gets something that is not complete yet: frees it.
    pub(super) async fn keep_moved(
        &self,
        place: Place<'_>,
        existing: Option<&Meta>,
    ) -> Result<Kept, Failure> {
        match (place.backup, existing) {
            (_, None) => Ok(Kept::Nothing),
            (None, Some(_)) => {
                self.unlink_if_there(place.dest, place.name).await?;
                Ok(Kept::Nothing)
            }
            (Some(backup), Some(existing)) => {
                let moved = self.move_away(place.dest, place.name, existing, backup);
                moved.await.map_err(told_as_backup)
            }
        }
    }

    /// Before a file is written in place: copies it.
    pub(super) async fn keep_copied(
        &self,
        place: Place<'_>,
        existing: &Meta,
    ) -> Result<Kept, Failure> {
        let Some(backup) = place.backup else {
            return Ok(Kept::Nothing);
        };
        if is_incomplete(existing.mtime) {
            // Half-written by a run that failed. What it was before has its backup, which must not be lost for this.
            return Ok(Kept::Nothing);
        }
        let copied = self.copy_away(place.dest, place.name, existing, backup);
        copied.await.map_err(told_as_backup)?;
        Ok(Kept::Copied)
    }

    /// After a failure: makes what was kept the entry that it was. That this cannot be done adds nothing to the failure
    /// that is being reported; nothing is lost then, it has its backup name.
    pub(super) async fn restore(&self, place: Place<'_>, kept: Kept) {
        let Some(backup) = place.backup else { return };
        let Ok(backup_name) = backup.name_of(place.name) else {
            return;
        };
        let restored = match kept {
            Kept::NotYet | Kept::Nothing | Kept::Copied => return,
            Kept::Linked => {
                // Only while the entry has its own name as well.
                let now = self.stat(place.dest, place.name).await;
                let kept = self.stat(&backup.dir, &backup_name).await;
                match (now, kept) {
                    (Ok(now), Ok(kept)) if now.identity() == kept.identity() => {
                        self.unlink(&backup.dir, &backup_name).await
                    }
                    _ => return,
                }
            }
            Kept::Moved => {
                let op = Op::Move {
                    from: backup.dir.clone(),
                    from_name: backup_name,
                    to: place.dest.clone(),
                    to_name: place.name.to_owned(),
                };
                self.on_dest(op).await.map(drop)
            }
        };
        if let Err(failure) = restored {
            tracing::debug!(?failure, "a backup of an entry that was not replaced stays");
        }
    }

    /// Deletes a name that is not a directory, and keeps it under its backup name if there is to be one.
    ///
    /// # Errors
    /// What failed on the destination: as for an unlink, `ENOENT` when there is nothing and `EISDIR` for a directory.
    pub async fn unlink_or_keep(
        &self,
        dest: &Handle,
        name: &CStr,
        backup: Option<&Backup>,
    ) -> Result<(), Failure> {
        let Some(backup) = backup else {
            return self.unlink(dest, name).await;
        };
        // Not every filesystem tells in a listing what is a directory, and a rename would take one as well.
        let existing = self.meta_of(dest, name).await?;
        if existing.kind == Kind::Dir {
            let (kind, errno) = (OpKind::Unlink, Errno::EISDIR);
            return Err(Failure::new(Side::Destination, OpError { kind, errno }));
        }
        let moved = self.move_away(dest, name, &existing, backup).await;
        moved.map_err(told_as_backup)?;
        if existing.nlink > 1 {
            // Renaming one name of an inode to another one of it does nothing, and says that it went well.
            self.unlink_if_there(dest, name).await?;
        }
        Ok(())
    }

    async fn meta_of(&self, dest: &Handle, name: &CStr) -> Result<Meta, Failure> {
        let target = Target::Name(dest.clone(), name.to_owned());
        match self.on_dest(Op::Stat { target }).await? {
            Reply::Meta(meta) => Ok(meta),
            other => unreachable!("a stat does not reply {other:?}"),
        }
    }

    async fn link_away(
        &self,
        place: Place<'_>,
        existing: &Meta,
        backup: &Backup,
    ) -> Result<Kept, Failure> {
        let (dest, name) = (place.dest, place.name);
        let backup_name = backup.name_of(name)?;
        let link = || Op::Link {
            from: dest.clone(),
            from_name: name.to_owned(),
            to: backup.dir.clone(),
            to_name: backup_name.clone(),
        };
        let mut linked = self.on_dest(link()).await;
        if let Err(failure) = &linked
            && failure.is(Errno::EEXIST)
        {
            // An older backup. The entry itself is still in place, so one complete version is there at every moment.
            self.clear(backup, &backup_name).await?;
            linked = self.on_dest(link()).await;
        }
        match linked {
            Ok(_) => Ok(Kept::Linked),
            Err(failure) if failure.is(Errno::EXDEV) => {
                self.copy_away(dest, name, existing, backup).await?;
                Ok(Kept::Copied)
            }
            Err(failure) if failure.is(Errno::ENOENT) => {
                self.nothing_there(dest, name, failure).await
            }
            Err(failure) if is_unlinkable(&failure) => {
                self.move_away(dest, name, existing, backup).await
            }
            Err(failure) => Err(failure),
        }
    }

    /// `ENOENT` may be about the entry, which then needs no backup, or about the directory of the backups.
    async fn nothing_there(
        &self,
        dest: &Handle,
        name: &CStr,
        failure: Failure,
    ) -> Result<Kept, Failure> {
        match self.meta_of(dest, name).await {
            Err(gone) if gone.is(Errno::ENOENT) => Ok(Kept::Nothing),
            _ => Err(failure),
        }
    }

    async fn move_away(
        &self,
        dest: &Handle,
        name: &CStr,
        existing: &Meta,
        backup: &Backup,
    ) -> Result<Kept, Failure> {
        let backup_name = backup.name_of(name)?;
        let rename = || Op::Move {
            from: dest.clone(),
            from_name: name.to_owned(),
            to: backup.dir.clone(),
            to_name: backup_name.clone(),
        };
        let mut moved = self.on_dest(rename()).await;
        if let Err(failure) = &moved
            && (failure.is(Errno::EISDIR) || failure.is(Errno::ENOTEMPTY))
        {
            self.clear(backup, &backup_name).await?;
            moved = self.on_dest(rename()).await;
        }
        match moved {
            Ok(_) => Ok(Kept::Moved),
            Err(failure) if failure.is(Errno::EXDEV) => {
                self.copy_away(dest, name, existing, backup).await?;
                self.unlink(dest, name).await?;
                Ok(Kept::Copied)
            }
            Err(failure) if failure.is(Errno::ENOENT) => {
                self.nothing_there(dest, name, failure).await
            }
            Err(failure) => Err(failure),
        }
    }

    /// Removes what stands where a backup must go. In a tree of backups that may be a whole directory, as in rsync; beside
    /// the entries a directory is somebody's data and not a backup, because directories have none.
    async fn clear(&self, backup: &Backup, backup_name: &CStr) -> Result<(), Failure> {
        match self.unlink_if_there(&backup.dir, backup_name).await {
            // With a suffix, a directory there may be a backup of this very run.
            Err(failure)
                if failure.is(Errno::EISDIR) && !backup.beside && backup.suffix.is_empty() => {}
            result => return result,
        }
        // Boxed, because the removal of a tree may itself make backups, though this one does not.
        let removed = Box::pin(self.remove_tree(
            &backup.dir,
            backup_name,
            None,
            &|_, _| true,
            &|_, _| false,
            None,
        ));
        let removed = removed.await?;
        debug_assert_eq!(removed, TreeRemoval::Removed, "nothing refused it");
        Ok(())
    }

    /// A copy with all attributes, complete before it gets the backup name.
    async fn copy_away(
        &self,
        dest: &Handle,
        name: &CStr,
        existing: &Meta,
        backup: &Backup,
    ) -> Result<(), Failure> {
        let backup_name = backup.name_of(name)?;
        let temp = self.temp_names.next(&backup_name);
        let mut result = self.copy_to_temp(dest, name, existing, backup, &temp).await;
        if result.is_ok() {
            result = self.rename(&backup.dir, temp.clone(), &backup_name).await;
        }
        if let Err(failure) = &result
            && failure.is(Errno::EISDIR)
        {
            self.clear(backup, &backup_name).await?;
            result = self.rename(&backup.dir, temp.clone(), &backup_name).await;
        }
        if result.is_err() {
            self.discard(&backup.dir, &temp).await;
        }
        result
    }

    async fn copy_to_temp(
        &self,
        dest: &Handle,
        name: &CStr,
        existing: &Meta,
        backup: &Backup,
        temp: &CStr,
    ) -> Result<(), Failure> {
        let (at, own_name) = (backup.dir.clone(), temp.to_owned());
        match existing.kind {
            Kind::File => return self.copy_file_to_temp(dest, name, backup, temp).await,
            Kind::Dir => return Err(backup_errno(Errno::EISDIR)),
            Kind::Symlink => {
                let (from, from_name) = (dest.clone(), name.to_owned());
                let op = Op::ReadLink {
                    at: from,
                    name: from_name,
                };
                let target = match self.on_dest(op).await? {
                    Reply::Link(target) => target,
                    other => unreachable!("a readlink does not reply {other:?}"),
                };
                let name = own_name;
                self.on_dest(Op::MakeSymlink { at, name, target }).await?;
            }
            kind => {
                let op = Op::MakeNode {
                    at,
                    name: own_name,
                    kind,
                    mode: 0o600,
                    rdev: existing.rdev,
                };
                self.on_dest(op).await?;
            }
        }
        let (inode, now) = self.open_place(&backup.dir, temp.to_owned()).await?;
        let original = Target::Name(dest.clone(), name.to_owned());
        let change = self.change_to(original, existing, &now).await?;
        self.dress_backup(inode, change).await
    }

    async fn copy_file_to_temp(
        &self,
        dest: &Handle,
        name: &CStr,
        backup: &Backup,
        temp: &CStr,
    ) -> Result<(), Failure> {
        let (at, name, links) = (dest.clone(), name.to_owned(), Links::Refuse);
        let (old, existing) = match self.on_dest(Op::Open { at, name, links }).await? {
            Reply::Opened(file, meta) => (file, meta),
            other => unreachable!("an open does not reply {other:?}"),
        };
        if existing.kind != Kind::File {
            return Err(super::files::replaced(Side::Destination));
        }
        let made = self
            .create(
                &backup.dir,
                temp.to_owned(),
                0o600,
                super::files::Landing::Temp,
            )
            .await?;
        let pair = Pair {
            source_fs: &self.dest,
            dest_fs: &self.dest,
            source: &old,
            dest: &made.file,
            cancel: &self.cancel,
            method: Method {
                way: Way::Kernel,
                skip_holes: existing.has_holes,
                make_holes: false,
            },
        };
        self.truncate(&made.file, existing.size).await?;
        pair.copy_span(0..existing.size, &self.buffers, None)
            .await?;
        let original = Target::Open(old);
        let change = self.change_to(original, &existing, &made.meta).await?;
        self.dress_backup(made.file.clone(), change).await?;
        if self.options.fsync == Fsync::File {
            self.flush_file(&made.file).await?;
        }
        self.on_dest(Op::Close { file: made.file }).await?;
        Ok(())
    }

    /// What gives a backup the attributes of its original, whatever is carried from the source.
    async fn change_to(
        &self,
        original: Target,
        meta: &Meta,
        now: &Meta,
    ) -> Result<Change, Failure> {
        // An ACL that is left behind would open the copy to others than the original.
        let carried = Carried {
            acls: true,
            xattrs: true,
            every_namespace: self.is_root(),
        };
        let target = original;
        let xattrs = match self.on_dest(Op::ReadXattrs { target, carried }).await? {
            Reply::Xattrs(xattrs) => xattrs,
            other => unreachable!("reading attributes does not reply {other:?}"),
        };
        let change = self.change_for(meta, now, Some(meta));
        let chowned = change.uid.is_some() || change.gid.is_some();
        let ids = (change.uid.unwrap_or(now.uid), change.gid.unwrap_or(now.gid));
        let set_ids = if ids == (meta.uid, meta.gid) {
            0o6000
        } else {
            0
        };
        Ok(Change {
            // Nothing is setuid to another than its original.
            mode: change.mode.map(|mode| mode & (0o1777 | set_ids)),
            mtime: Some(meta.mtime),
            xattrs: XattrChange::between(&Xattrs::default(), &xattrs, chowned),
            ..change
        })
    }

    /// Attributes that the filesystem of the backups does not have, or that this user may not set, are done without; their
    /// absence has narrowed the mode.
    async fn dress_backup(&self, inode: Handle, change: Change) -> Result<(), Failure> {
        match self.set_attrs(inode, change).await {
            Err(failure) if failure.is(Errno::EOPNOTSUPP) || failure.is(Errno::EPERM) => {
                tracing::warn!(?failure, "a backup lacks an attribute of its original");
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// The directory of the backup tree for a directory called `name`; made like the original if it is missing. Something
    /// else that has its place is an older backup, and goes.
    ///
    /// # Errors
    /// What failed on the destination.
    pub async fn backup_below(
        &self,
        parent: &Backup,
        name: &CStr,
        original: (&Handle, &Meta),
    ) -> Result<Backup, Failure> {
        let dir = self.open_backup_dir(parent, name, original).await;
        Ok(Backup {
            dir: dir.map_err(told_as_backup)?,
            ..parent.clone()
        })
    }

    async fn open_backup_dir(
        &self,
        parent: &Backup,
        name: &CStr,
        original: (&Handle, &Meta),
    ) -> Result<Handle, Failure> {
        let mut tried = 1;
        loop {
            let made = match self.make_dir(&parent.dir, name, PRIVATE_DIR).await {
                Ok(()) => true,
                Err(failure) if failure.is(Errno::EEXIST) => false,
                Err(failure) => return Err(failure),
            };
            let (at, own_name) = (parent.dir.clone(), name.to_owned());
            let op = Op::OpenDir {
                at,
                name: own_name,
                links: Links::Refuse,
            };
            match self.on_dest(op).await {
                Ok(Reply::Opened(dir, now)) => {
                    self.dress_backup_dir(&dir, &now, original, made).await?;
                    return Ok(dir);
                }
                Ok(other) => unreachable!("an open does not reply {other:?}"),
                Err(failure) if tried == OPEN_TRIES_MAX => return Err(failure),
                Err(failure)
                    if !parent.beside
                        && parent.suffix.is_empty()
                        && (failure.is(Errno::ENOTDIR) || failure.is(Errno::ELOOP)) =>
                {
                    match self.unlink_if_there(&parent.dir, name).await {
                        // Another shard was faster, and has made the directory.
                        Err(failure) if failure.is(Errno::EISDIR) => {}
                        result => result?,
                    }
                }
                Err(failure) if failure.is(Errno::ENOENT) => {}
                Err(failure) => return Err(failure),
            }
            tried += 1;
        }
    }

    /// A directory made now looks like its original; in any of them its owner can make entries until the end.
    async fn dress_backup_dir(
        &self,
        dir: &Handle,
        now: &Meta,
        (original, meta): (&Handle, &Meta),
        made: bool,
    ) -> Result<(), Failure> {
        let mut change = Change::default();
        if made {
            let original = Target::Open(original.clone());
            change = self.change_to(original, meta, now).await?;
            change.mtime = None;
        }
        let mode_then = change.mode.unwrap_or(now.mode);
        if !self.is_root() && mode_then & 0o700 != 0o700 {
            change.mode = Some(mode_then | 0o700);
        }
        self.dress_backup(dir.clone(), change).await
    }

    /// When nothing more is kept in a directory of the backup tree: the mode of its original, and a flush if wanted.
    ///
    /// # Errors
    /// What failed on the destination.
    pub async fn finish_backup_dir(&self, dir: &Handle, original: &Meta) -> Result<(), Failure> {
        if !self.is_root() && original.mode & 0o700 != 0o700 {
            let change = Change {
                mode: Some(original.mode),
                ..Change::default()
            };
            let closed = self.set_attrs(dir.clone(), change).await;
            closed.map_err(told_as_backup)?;
        }
        self.flush_dir(dir).await.map_err(told_as_backup)
    }

    fn is_root(&self) -> bool {
        self.options.own_uid == 0
    }
}

/// Filesystems without hard links, links that are not allowed to this user, and inodes that have all the links they can.
fn is_unlinkable(failure: &Failure) -> bool {
    [
        Errno::EPERM,
        Errno::EMLINK,
        Errno::EOPNOTSUPP,
        Errno::ENOSYS,
    ]
    .into_iter()
    .any(|errno| failure.is(errno))
}
