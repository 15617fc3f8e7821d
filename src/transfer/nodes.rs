//! Symlinks, fifos, sockets and device nodes: inodes that are made whole by one call.

use std::ffi::CString;

use nix::errno::Errno;

use super::backup::Kept;
use super::{Failure, Lane, Place, WriteMode, version_of};
use crate::error::Side;
use crate::io::{Handle, Op, Reply};
use crate::model::copies::Version;
use crate::model::{Attrs, Meta};

impl Lane {
    /// Makes the destination's symlink point where the source's does. Returns its version, where it has one.
    ///
    /// # Errors
    /// What failed; the destination then has what it had before.
    pub async fn copy_symlink(
        &self,
        place: Place<'_>,
        wanted: &Meta,
        existing: Option<&Meta>,
    ) -> Result<Option<Version>, Failure> {
        let link = self.read_link(place, Side::Source).await?;
        if self.options.write_mode == WriteMode::Whole {
            return self.put_symlink(place, wanted, link).await;
        }
        self.make(place, wanted, existing, |at, name| Op::MakeSymlink {
            at,
            name,
            target: link.clone(),
        })
        .await?;
        Ok(None)
    }

    async fn put_symlink(
        &self,
        place: Place<'_>,
        wanted: &Meta,
        target: CString,
    ) -> Result<Option<Version>, Failure> {
        let nothing = Meta {
            unknown: Attrs::all(),
            ..*wanted
        };
        let op = Op::PutSymlink {
            at: place.dest.clone(),
            name: place.name.to_owned(),
            target,
            change: self.change_for(wanted, &nothing, None),
        };
        let version = version_of(&self.on_dest(op).await?);
        // It is there beside what was in its way.
        self.clear_way(place).await?;
        Ok(version)
    }

    /// Makes a fifo, socket or device node like the source's.
    ///
    /// # Errors
    /// What failed; the destination then has what it had before.
    pub async fn copy_special(
        &self,
        place: Place<'_>,
        wanted: &Meta,
        existing: Option<&Meta>,
    ) -> Result<(), Failure> {
        self.make(place, wanted, existing, |at, name| Op::MakeNode {
            at,
            name,
            kind: wanted.kind,
            mode: 0o600,
            rdev: wanted.rdev,
        })
        .await
    }

    /// Whether both sides' symlinks have the same target.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn symlinks_equal(&self, place: Place<'_>) -> Result<bool, Failure> {
        let source = self.read_link(place, Side::Source).await?;
        let dest = self.read_link(place, Side::Destination).await?;
        Ok(source == dest)
    }

    /// The target of a symlink.
    ///
    /// # Errors
    /// What could not be read.
    pub async fn read_link(&self, place: Place<'_>, side: Side) -> Result<CString, Failure> {
        let (fs, at) = match side {
            Side::Source => (&self.source, place.source),
            Side::Destination => (&self.dest, place.dest),
        };
        let (at, name) = (at.clone(), place.name.to_owned());
        match fs.start(Op::ReadLink { at, name }).await {
            Ok(Reply::Link(target)) => Ok(target),
            Ok(other) => unreachable!("a readlink does not reply {other:?}"),
            Err(error) => Err(Failure::new(side, error)),
        }
    }

    /// Makes an inode under its final name when that is free, else under a temporary one that then replaces it.
    async fn make(
        &self,
        place: Place<'_>,
        wanted: &Meta,
        existing: Option<&Meta>,
        op: impl Fn(Handle, CString) -> Op,
    ) -> Result<(), Failure> {
        if existing.is_none() && place.way.is_none() {
            match self
                .on_dest(op(place.dest.clone(), place.name.to_owned()))
                .await
            {
                Ok(_) => return self.dress(place, place.name, wanted).await,
                // Somebody was faster: replace it like any other.
                Err(failure) if failure.is(Errno::EEXIST) => {}
                Err(failure) => return Err(failure),
            }
        }
        let temp = self.temp_names.next(place.name);
        if let Err(failure) = self.on_dest(op(place.dest.clone(), temp.clone())).await {
            // It may have been made, by a call that was repeated.
            self.discard(place.dest, &temp).await;
            return Err(failure);
        }
        // An attribute that cannot be set is told, and costs nothing else.
        let dressed = self.dress(place, &temp, wanted).await;
        if let Err(failure) = self.replace(place, temp.clone(), existing).await {
            self.discard(place.dest, &temp).await;
            return Err(failure);
        }
        dressed
    }

    pub(super) async fn clear_way(&self, place: Place<'_>) -> Result<(), Failure> {
        match place.way {
            Some(way) => way.clear().await,
            None => Ok(()),
        }
    }

    /// Renames what is complete over the name; what was there gets its backup name first, if it is to have one.
    pub(super) async fn replace(
        &self,
        place: Place<'_>,
        from: CString,
        existing: Option<&Meta>,
    ) -> Result<(), Failure> {
        self.clear_way(place).await?;
        let kept = self.keep_linked(place, existing).await?;
        let result = self.rename(place.dest, from, place.name).await;
        match &result {
            // The backup may be the last name of what was replaced. What was moved away goes back in any case.
            Err(failure) if failure.may_be_done() && kept == Kept::Linked => {}
            Err(_) => self.restore(place, kept).await,
            Ok(()) => {}
        }
        result
    }
}
