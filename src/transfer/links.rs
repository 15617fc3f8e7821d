//! Hard links: a second name for what is in the destination already.

use std::ffi::{CStr, CString};

use nix::errno::Errno;

use super::{Failure, Lane, Place};
use crate::error::{OpKind, Side};
use crate::io::{Handle, Op, OpError, Reply, Target};
use crate::model::{Kind, Meta};

impl Lane {
    /// What a name of the destination is.
    ///
    /// # Errors
    /// What failed on the destination.
    pub async fn stat(&self, dest: &Handle, name: &CStr) -> Result<Meta, Failure> {
        let target = Target::Name(dest.clone(), name.to_owned());
        match self.on_dest(Op::Stat { target }).await? {
            Reply::Meta(meta) => Ok(meta),
            other => unreachable!("a stat does not reply {other:?}"),
        }
    }

    /// Whether a name of the destination is a directory.
    pub async fn is_dir(&self, dest: &Handle, name: &CStr) -> bool {
        let meta = self.stat(dest, name).await;
        meta.is_ok_and(|meta| meta.kind == Kind::Dir)
    }

    /// Opens a directory of the destination by its path below its root.
    ///
    /// # Errors
    /// What failed on the destination.
    pub async fn open_below(&self, root: &Handle, path: &[u8]) -> Result<Handle, Failure> {
        let (at, path) = (root.clone(), path.to_vec());
        match self.on_dest(Op::OpenDirBelow { at, path }).await? {
            Reply::Opened(dir, _) => Ok(dir),
            other => unreachable!("an open does not reply {other:?}"),
        }
    }

    /// Makes the destination's name of `place` a link to `from_name`, in place of `existing` or whatever has that name
    /// now. `is_it` tells whether the inode is the one that was meant: names may have changed hands.
    ///
    /// # Errors
    /// What failed on the destination, which then has what it had before; `ENOENT` when the inode is another one.
    pub async fn link(
        &self,
        from: &Handle,
        from_name: &CStr,
        place: Place<'_>,
        existing: Option<&Meta>,
        is_it: &dyn Fn(&Meta) -> bool,
    ) -> Result<(), Failure> {
        let direct = self.link_as(from, from_name, place, place.name, is_it);
        match direct.await {
            Err(failure) if failure.is(Errno::EEXIST) => {}
            result => return result,
        }
        let temp = self.temp_names.next(place.name);
        self.link_as(from, from_name, place, &temp, is_it).await?;
        let renamed = self.replace(place, temp.clone(), existing).await;
        if renamed.is_err() {
            self.discard(place.dest, &temp).await;
        }
        renamed
    }

    async fn link_as(
        &self,
        from: &Handle,
        from_name: &CStr,
        place: Place<'_>,
        name: &CStr,
        is_it: &dyn Fn(&Meta) -> bool,
    ) -> Result<(), Failure> {
        let to_name: CString = name.to_owned();
        self.on_dest(Op::Link {
            from: from.clone(),
            from_name: from_name.to_owned(),
            to: place.dest.clone(),
            to_name,
        })
        .await?;
        let linked = self.stat(place.dest, name).await;
        if linked.as_ref().is_ok_and(is_it) {
            return Ok(());
        }
        self.discard(place.dest, name).await;
        let (kind, errno) = (OpKind::Link, Errno::ENOENT);
        let other_inode = Failure::new(Side::Destination, OpError { kind, errno });
        Err(linked.err().unwrap_or(other_inode))
    }
}
