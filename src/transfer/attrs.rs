//! Owners, modes, ACLs, extended attributes and times of the destination. Each is set on an open inode, so that nothing
//! that happens to a name meanwhile can lead a change to another inode.

use std::ffi::{CStr, CString};

use futures_util::future::try_join;
use nix::errno::Errno;

use super::files::replaced;
use super::{Failure, Lane, Place, version_of};
use crate::error::{OpKind, Side};
use crate::io::{Change, Handle, Links, Op, OpError, Reply, Target};
use crate::model::copies::Version;
use crate::model::{Attrs, Kind, Meta, XattrChange, Xattrs};

impl Place<'_> {
    /// The inode on the source side.
    fn source_target(&self) -> Target {
        let (at, name) = (self.source.clone(), self.name.to_owned());
        match self.links {
            Links::Refuse => Target::Name(at, name),
            Links::Follow => Target::Followed(at, name),
        }
    }

    fn dest_target(&self) -> Target {
        Target::Name(self.dest.clone(), self.name.to_owned())
    }
}

impl Lane {
    /// What must be set on an inode of the destination that looks like `now` to make it as the policy wants, besides
    /// extended attributes. `existed` is what stood there before this run, whose mode stays when modes are not carried.
    pub(super) fn change_for(&self, wanted: &Meta, now: &Meta, existed: Option<&Meta>) -> Change {
        let policy = &self.options.policy;
        let carried = policy.carried_of(wanted);
        let sets = |attr, differs| carried.has(attr) && (differs || now.unknown.has(attr));
        let uid = sets(Attrs::OWNER, wanted.uid != now.uid).then_some(wanted.uid);
        let gid = sets(Attrs::GROUP, wanted.gid != now.gid).then_some(wanted.gid);
        let mode = if carried.has(Attrs::MODE) {
            wanted.mode
        } else {
            let existed = existed.filter(|meta| !meta.unknown.has(Attrs::MODE));
            existed.map_or(wanted.mode & 0o777 & !self.options.umask, |meta| meta.mode)
        };
        // chown clears setuid and setgid, so those are set again after it.
        let chowned_away = (uid.is_some() || gid.is_some()) && mode & 0o6000 != 0;
        // On Linux a symlink has no mode of its own.
        let is_other_mode = mode != now.mode || now.unknown.has(Attrs::MODE);
        let sets_mode = wanted.kind != Kind::Symlink && (is_other_mode || chowned_away);
        Change {
            uid,
            gid,
            mode: sets_mode.then_some(mode),
            xattrs: XattrChange::default(),
            mtime: carried.has(Attrs::TIMES).then_some(wanted.mtime),
            atime: wanted
                .atime
                .filter(|_| self.options.atimes && carried.has(Attrs::TIMES)),
        }
    }

    /// What a name of the source is.
    ///
    /// # Errors
    /// What failed on the source.
    pub async fn stat_in_source(&self, place: Place<'_>) -> Result<Meta, Failure> {
        self.stat_source(place.source_target()).await
    }

    async fn xattrs(&self, side: Side, target: Target) -> Result<Xattrs, Failure> {
        let carried = self.options.policy.extended;
        let op = Op::ReadXattrs { target, carried };
        let reply = match side {
            Side::Source => self.on_source(op).await,
            Side::Destination => self.on_dest(op).await,
        };
        match reply? {
            Reply::Xattrs(xattrs) => Ok(xattrs),
            other => unreachable!("reading attributes does not reply {other:?}"),
        }
    }

    /// What makes the extended attributes of `dest` those of `source`. Nothing is read when none are carried.
    async fn xattr_change(
        &self,
        source: Target,
        dest: Target,
        chowned: bool,
    ) -> Result<XattrChange, Failure> {
        if self.options.policy.extended.is_nothing() {
            return Ok(XattrChange::default());
        }
        let wanted = self.xattrs(Side::Source, source);
        let now = self.xattrs(Side::Destination, dest);
        let (wanted, now) = try_join(wanted, now).await?;
        Ok(XattrChange::between(&now, &wanted, chowned))
    }

    /// Which extended attributes differ under a name that both sides have.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn xattrs_differing(&self, place: Place<'_>) -> Result<Attrs, Failure> {
        if self.options.policy.extended.is_nothing() {
            return Ok(Attrs::NONE);
        }
        let (source, dest) = (place.source_target(), place.dest_target());
        let change = self.xattr_change(source, dest, false).await?;
        Ok(attrs_of(&change))
    }

    /// Which extended attributes differ between two open directories.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn dir_xattrs_differing(
        &self,
        source: &Handle,
        dest: &Handle,
    ) -> Result<Attrs, Failure> {
        let (source, dest) = (Target::Open(source.clone()), Target::Open(dest.clone()));
        let change = self.xattr_change(source, dest, false).await?;
        Ok(attrs_of(&change))
    }

    pub(super) async fn set_attrs(
        &self,
        inode: Handle,
        change: Change,
    ) -> Result<Option<Version>, Failure> {
        if change.is_empty() {
            return Ok(None);
        }
        let set = self.on_dest(Op::SetAttrs { inode, change }).await?;
        Ok(version_of(&set))
    }

    /// Adds what the extended attributes need to `change`, and makes the whole change. What can be set is set also when
    /// something else fails.
    async fn set_all(
        &self,
        source: Target,
        inode: Handle,
        mut change: Change,
    ) -> Result<(), Failure> {
        let read = self.add_xattrs(source, &inode, &mut change).await;
        self.set_attrs(inode, change).await?;
        read
    }

    async fn add_xattrs(
        &self,
        source: Target,
        inode: &Handle,
        change: &mut Change,
    ) -> Result<(), Failure> {
        let chowned = change.uid.is_some() || change.gid.is_some();
        let xattrs = self.xattr_change(source, Target::Open(inode.clone()), chowned);
        change.xattrs = xattrs.await?;
        Ok(())
    }

    /// Opens an inode of the destination to set its attributes.
    pub(super) async fn open_place(
        &self,
        dest: &Handle,
        name: CString,
    ) -> Result<(Handle, Meta), Failure> {
        let at = dest.clone();
        match self.on_dest(Op::OpenPlace { at, name }).await? {
            Reply::Opened(inode, meta) => Ok((inode, meta)),
            other => unreachable!("an open does not reply {other:?}"),
        }
    }

    /// Sets what differs on a name whose contents are right already. Returns its version now, where it has one.
    ///
    /// # Errors
    /// The operation that failed on the destination; `ESTALE` when the name has another inode than `now`,
    /// [`Cause::Replaced`](crate::error::Cause::Replaced) when the source's has another than `wanted` and the inode has other names.
    pub async fn repair(
        &self,
        place: Place<'_>,
        wanted: &Meta,
        now: &Meta,
    ) -> Result<Option<Version>, Failure> {
        let (inode, found) = self.open_place(place.dest, place.name.to_owned()).await?;
        if (found.dev, found.ino, found.kind) != (now.dev, now.ino, now.kind) {
            return Err(swapped());
        }
        let mut change = self.change_for(wanted, now, Some(now));
        if self.options.policy.times_equal(wanted.mtime, now.mtime) {
            change.mtime = None;
        }
        let source = place.source_target();
        let mut read = self.add_xattrs(source.clone(), &inode, &mut change).await;
        if now.nlink > 1 && !change.xattrs.is_empty() {
            // They were read by a name, which may belong to another inode by now; that has no say in the other names of this one.
            // A listing does not tell devices.
            let source = self.stat_source(source).await?;
            if (source.ino, source.kind) != (wanted.ino, wanted.kind) {
                change.xattrs = XattrChange::default();
                read = Err(replaced(Side::Source));
            }
        }
        let version = self.set_attrs(inode, change).await?;
        read.map(|()| version)
    }

    /// Makes the attributes of a file that was just written those of its source, which is open.
    ///
    /// # Errors
    /// The operation that failed; what could be set is.
    pub(super) async fn dress_file(
        &self,
        source: &Handle,
        wanted: &Meta,
        file: &Handle,
        now: &Meta,
        existed: Option<&Meta>,
    ) -> Result<(), Failure> {
        let change = self.change_for(wanted, now, existed);
        let source = Target::Open(source.clone());
        self.set_all(source, file.clone(), change).await
    }

    /// Gives an inode that was just made, under its final or a temporary name, the attributes of its source.
    ///
    /// # Errors
    /// The operation that failed on the destination; what could be set is.
    pub async fn dress(&self, place: Place<'_>, made: &CStr, wanted: &Meta) -> Result<(), Failure> {
        let (inode, now) = self.open_place(place.dest, made.to_owned()).await?;
        if now.kind != wanted.kind {
            return Err(swapped());
        }
        let change = self.change_for(wanted, &now, None);
        self.set_all(place.source_target(), inode, change).await
    }

    /// Makes the attributes of an open directory those of its source, which is open too when extended attributes are
    /// carried. `existed` is what it was before this run, if it was there; `touched`: its mtime has moved since `now`.
    ///
    /// # Errors
    /// The operation that failed; what could be set is.
    pub async fn finish_dir(
        &self,
        dirs: (Option<&Handle>, &Handle),
        wanted: &Meta,
        now: &Meta,
        existed: Option<&Meta>,
        touched: bool,
    ) -> Result<(), Failure> {
        self.note_dir(dirs.1);
        let mut change = self.change_for(wanted, now, existed);
        if !touched && self.options.policy.times_equal(wanted.mtime, now.mtime) {
            change.mtime = None;
        }
        match dirs {
            (Some(source), dest) => {
                let source = Target::Open(source.clone());
                self.set_all(source, dest.clone(), change).await
            }
            (None, dest) => self.set_attrs(dest.clone(), change).await.map(drop),
        }
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
        self.set_attrs(dir, change).await.map(drop)
    }
}

/// The name has another inode than a moment ago.
fn swapped() -> Failure {
    let (kind, errno) = (OpKind::Open, Errno::ESTALE);
    Failure::new(Side::Destination, OpError { kind, errno })
}

fn attrs_of(change: &XattrChange) -> Attrs {
    Attrs::ACLS.when(change.has_acls()) | Attrs::XATTRS.when(change.has_xattrs())
}
