//! Regular files, from open to rename.

use std::ffi::{CStr, CString};

use nix::errno::Errno;

use super::{Copied, Failure, Lane, LaneOptions, Place, Spread, WriteMode};
use crate::error::{Cause, OpKind, Side};
use crate::io::{Handle, Links, Op, Reply, Target};
use crate::model::{Kind, Meta};

/// How often a file is copied again because it changed meanwhile.
const ATTEMPTS_MAX: u32 = 3;
/// How many temporary names are tried; each is taken with a probability of one in 2^32.
const NAMES_MAX: u32 = 8;

/// A file under its temporary or final name, not complete yet.
struct Made {
    name: CString,
    file: Handle,
    meta: Meta,
}

impl Lane {
    /// Copies a regular file with its attributes. `existing` is what the destination has under the name: nothing, or
    /// something that is not a directory.
    ///
    /// # Errors
    /// What failed; the destination then has what it had before (in direct mode: possibly an incomplete file).
    pub async fn copy_file(
        &self,
        place: Place<'_>,
        existing: Option<&Meta>,
        spread: &dyn Spread,
    ) -> Result<Copied, Failure> {
        let _permit = self.files.acquire().await;
        let mut attempt = 1;
        loop {
            let (source, before) = self.open_source(place).await?;
            let made = self.make_file(place, &before, existing).await?;
            let result = self.fill(&source, &before, &made, existing, spread).await;
            let (mut copied, after) = match result {
                Ok(result) => result,
                Err(failure) => {
                    self.discard(place.dest, &made.name).await;
                    return Err(failure);
                }
            };
            let whole = copied.bytes >= before.size;
            let settled = whole && after.size == before.size && after.mtime == before.mtime;
            if !settled && attempt < ATTEMPTS_MAX {
                attempt += 1;
                self.discard(place.dest, &made.name).await;
                continue;
            }
            copied.unsettled = !settled;
            self.install(place, made).await?;
            return Ok(copied);
        }
    }

    async fn open_source(&self, place: Place<'_>) -> Result<(Handle, Meta), Failure> {
        let (at, name) = (place.source.clone(), place.name.to_owned());
        let links = place.links;
        match self.on_source(Op::Open { at, name, links }).await {
            Ok(Reply::Opened(_, meta)) if meta.kind != Kind::File => Err(replaced()),
            Ok(Reply::Opened(file, meta)) => Ok((file, meta)),
            Ok(other) => unreachable!("an open does not reply {other:?}"),
            // A symlink has taken the file's place.
            Err(failure) if failure.is(Errno::ELOOP) => Err(replaced()),
            Err(failure) => Err(failure),
        }
    }

    async fn make_file(
        &self,
        place: Place<'_>,
        source: &Meta,
        existing: Option<&Meta>,
    ) -> Result<Made, Failure> {
        match self.options.write_mode {
            WriteMode::Atomic => self.make_temp(place).await,
            WriteMode::Direct => {
                // A new inode: other names of the old one, and those who read it now, keep what they have.
                if existing.is_some() {
                    self.unlink_if_there(place.dest, place.name).await?;
                }
                let LaneOptions {
                    policy, own_ids, ..
                } = &self.options;
                // Until it has its own owner, group and setuid bits, nobody else may open it.
                let private = source.mode & 0o7000 != 0
                    || !policy.carry_mode
                    || (source.uid, source.gid) != *own_ids;
                let mode = if private { 0o600 } else { source.mode };
                self.create(place.dest, place.name.to_owned(), mode).await
            }
        }
    }

    async fn make_temp(&self, place: Place<'_>) -> Result<Made, Failure> {
        let mut tried = 1;
        loop {
            let name = self.temp_names.next(place.name);
            match self.create(place.dest, name, 0o600).await {
                Err(failure) if failure.is(Errno::EEXIST) && tried < NAMES_MAX => tried += 1,
                result => return result,
            }
        }
    }

    async fn create(&self, dest: &Handle, name: CString, mode: u32) -> Result<Made, Failure> {
        let op = Op::Create {
            at: dest.clone(),
            name: name.clone(),
            mode,
        };
        match self.on_dest(op).await? {
            Reply::Opened(file, meta) => Ok(Made { name, file, meta }),
            other => unreachable!("a create does not reply {other:?}"),
        }
    }

    /// Contents, then attributes: the mtime is set only when the data is whole. Returns what the source looked like
    /// after it was read.
    async fn fill(
        &self,
        source: &Handle,
        before: &Meta,
        made: &Made,
        existing: Option<&Meta>,
        spread: &dyn Spread,
    ) -> Result<(Copied, Meta), Failure> {
        let mut copied = self
            .copy_contents(source, &made.file, before, spread)
            .await?;
        let target = Target::Open(source.clone());
        let after = match self.on_source(Op::Stat { target }).await? {
            Reply::Meta(meta) => meta,
            other => unreachable!("a stat does not reply {other:?}"),
        };
        let kept = existing.filter(|meta| meta.kind == Kind::File);
        if after.size < before.size {
            // What is beyond its end now is no content of it.
            let (file, len) = (made.file.clone(), after.size);
            self.on_dest(Op::Truncate { file, len }).await?;
        }
        let dressed = self.dress_file(source, before, &made.file, &made.meta, kept);
        copied.unset = dressed.await.err();
        Ok((copied, after))
    }

    /// Closes the file, which may tell late write errors, and gives it its final name.
    async fn install(&self, place: Place<'_>, made: Made) -> Result<(), Failure> {
        let Made { name, file, .. } = made;
        let installed = match self.on_dest(Op::Close { file }).await {
            Ok(_) if self.options.write_mode == WriteMode::Atomic => {
                self.rename(place.dest, name.clone(), place.name).await
            }
            Ok(_) => Ok(()),
            Err(failure) => Err(failure),
        };
        if installed.is_err() {
            self.discard(place.dest, &name).await;
        }
        installed
    }

    /// Whether source and destination have the same bytes under a name.
    ///
    /// # Errors
    /// What could not be opened or read.
    pub async fn files_equal(&self, place: Place<'_>) -> Result<bool, Failure> {
        let _permit = self.files.acquire().await;
        let (source, _) = self.open_source(place).await?;
        let (at, name) = (place.dest.clone(), place.name.to_owned());
        let links = Links::Refuse;
        let dest = match self.on_dest(Op::Open { at, name, links }).await? {
            Reply::Opened(_, meta) if meta.kind != Kind::File => return Ok(false),
            Reply::Opened(file, _) => file,
            other => unreachable!("an open does not reply {other:?}"),
        };
        self.contents_equal(&source, &dest).await
    }

    pub(super) async fn unlink_if_there(&self, dest: &Handle, name: &CStr) -> Result<(), Failure> {
        match self.unlink(dest, name).await {
            Err(failure) if !failure.is(Errno::ENOENT) => Err(failure),
            _ => Ok(()),
        }
    }
}

/// The source has another kind of inode under the name than it had when it was listed.
fn replaced() -> Failure {
    Failure {
        op: OpKind::Open,
        side: Side::Source,
        cause: Cause::Changing,
    }
}
