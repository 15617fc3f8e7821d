//! Regular files, from open to rename.

use std::ffi::{CStr, CString};

use nix::errno::Errno;

use super::backup::Kept;
use super::partial::Partial;
use super::{
    Copied, Failure, Fsync, Lane, LaneOptions, Place, Spread, WriteMode, verify, version_of,
};
use crate::error::{Cause, OpKind, Side};
use crate::io::{Change, Handle, Links, Op, Reply, Target};
use crate::model::compare::INCOMPLETE;
use crate::model::copies::Version;
use crate::model::{Attrs, Kind, Meta};

/// How often a file is copied again because it changed meanwhile.
const ATTEMPTS_MAX: u32 = 3;
/// How many temporary names are tried; each is taken with a probability of one in 2^32.
const NAMES_MAX: u32 = 8;

/// The mode of what nobody else may open, until it is finished.
pub(super) const PRIVATE: u32 = 0o600;

/// Where a file is while it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Landing {
    /// Under a temporary name.
    Temp,
    /// A new file under its final name.
    Final,
    /// An existing file.
    InPlace,
    /// Nowhere that anybody could see: it gets its name when it is closed.
    Closing,
}

/// A file that is not complete yet.
pub(super) struct Made {
    pub(super) name: CString,
    pub(super) file: Handle,
    pub(super) meta: Meta,
    pub(super) landing: Landing,
    /// It may be left in part when the run is interrupted.
    pub(super) partial: Option<Partial>,
}

/// How one attempt to copy a file went.
struct Filled {
    copied: Copied,
    /// The source looked the same before and after.
    settled: bool,
    /// All that the source had at first has come.
    whole: bool,
    /// What was read back is what the source has; also true when nobody asked.
    faithful: bool,
}

/// What was read back of a file.
enum ReadBack {
    Faithful,
    /// The source has changed meanwhile.
    Changed,
    /// Not what the source has.
    Other,
}

impl Filled {
    /// `before` and `after`: how the source looked.
    fn new(copied: Copied, before: &Meta, after: &Meta, faithful: bool) -> Self {
        let whole = copied.bytes >= before.size;
        let settled = whole && after.size == before.size && after.mtime == before.mtime;
        Self {
            copied,
            settled,
            whole,
            faithful,
        }
    }
}

impl Lane {
    /// Copies a regular file with its attributes. `wanted` is how it was listed; `existing` is what the
    /// destination has under the name: nothing, or something that is not a directory.
    ///
    /// # Errors
    /// What failed; the destination then has what it had before (in direct mode: possibly an incomplete file or none, in
    /// place: possibly a half-written one).
    pub async fn copy_file(
        &self,
        place: Place<'_>,
        wanted: &Meta,
        existing: Option<&Meta>,
        spread: &dyn Spread,
    ) -> Result<Copied, Failure> {
        let _permit = self.files.acquire().await;
        if let Some(copied) = self.copy_in_one_go(place, wanted, existing).await {
            return copied;
        }
        let mut kept = Kept::NotYet;
        let copied = self.copy_until_settled(place, existing, spread, &mut kept);
        let copied = copied.await;
        if copied.is_err() {
            self.restore(place, kept).await;
        }
        copied
    }

    async fn copy_until_settled(
        &self,
        place: Place<'_>,
        existing: Option<&Meta>,
        spread: &dyn Spread,
        kept: &mut Kept,
    ) -> Result<Copied, Failure> {
        let (mut attempts, mut corrupt) = (0, 0);
        loop {
            attempts += 1;
            let (source, before) = self.open_source(place).await?;
            let made = self
                .make_file(place, (&source, &before), existing, kept)
                .await?;
            let filled = if made.landing == Landing::Closing {
                self.fill_closing(&source, &before, &made, existing, spread)
                    .await
            } else {
                self.fill(&source, &before, &made, existing, spread).await
            };
            self.close_source(source).await;
            let filled = match filled {
                Ok(filled) => filled,
                Err(failure) => {
                    // Another run goes on with it.
                    if made.partial.is_none() {
                        self.abandon(place, &made).await;
                    }
                    // Replaced on the server: its name may lead to the new one.
                    let stale = failure.side == Side::Source && failure.is(Errno::ESTALE);
                    if stale && attempts < ATTEMPTS_MAX {
                        continue;
                    }
                    return Err(failure);
                }
            };
            corrupt += u32::from(filled.settled && !filled.faithful);
            let again = if filled.settled {
                !filled.faithful && corrupt < verify::COPIES_MAX
            } else {
                attempts < ATTEMPTS_MAX
            };
            if again {
                self.abandon(place, &made).await;
                continue;
            }
            if filled.settled && !filled.faithful {
                self.abandon(place, &made).await;
                return Err(verify::corrupted());
            }
            let closing = made.landing == Landing::Closing;
            if closing && !filled.whole {
                self.abandon(place, &made).await;
                return Err(changing());
            }
            let mut copied = filled.copied;
            copied.unsettled = !filled.settled;
            let written = closing.then(|| made.file.clone());
            match self.install(place, made, existing).await {
                Err(failure) if copied.cloned && closing && failure.is_about_original() => {
                    if attempts < ATTEMPTS_MAX {
                        continue;
                    }
                    return Err(failure.of_original());
                }
                installed => copied.version = installed?,
            }
            if let Some(file) = written
                && self.options.verify
                && !copied.unsettled
            {
                match self.read_back(place, &before).await {
                    Ok(ReadBack::Faithful) => {}
                    Ok(ReadBack::Changed) => copied.unsettled = true,
                    other => {
                        // Its size and its time would say that it is equal.
                        self.give_up(file).await;
                        other?;
                        corrupt += 1;
                        if corrupt < verify::COPIES_MAX {
                            continue;
                        }
                        return Err(verify::corrupted());
                    }
                }
            }
            return Ok(copied);
        }
    }

    /// What a file is that could not be read back before it had its name. `before`: how the source looked.
    async fn read_back(&self, place: Place<'_>, before: &Meta) -> Result<ReadBack, Failure> {
        if self.contents_equal_at(place).await? {
            return Ok(ReadBack::Faithful);
        }
        let after = self.stat_in_source(place).await?;
        let is_same = after.size == before.size && after.mtime == before.mtime;
        Ok(if is_same {
            ReadBack::Other
        } else {
            ReadBack::Changed
        })
    }

    pub(super) async fn open_source(&self, place: Place<'_>) -> Result<(Handle, Meta), Failure> {
        let (at, name) = (place.source.clone(), place.name.to_owned());
        let links = place.links;
        match self.on_source(Op::Open { at, name, links }).await {
            Ok(Reply::Opened(_, meta)) if meta.kind != Kind::File => Err(replaced(Side::Source)),
            Ok(Reply::Opened(file, meta)) => Ok((file, meta)),
            Ok(other) => unreachable!("an open does not reply {other:?}"),
            // A symlink has taken the file's place.
            Err(failure) if failure.is(Errno::ELOOP) => Err(replaced(Side::Source)),
            Err(failure) => Err(failure),
        }
    }

    /// A server may be asked once more when a file is closed; the executor does not wait for it. That a file was only read
    /// makes what it answers nobody's concern.
    async fn close_source(&self, file: Handle) {
        if let Err(failure) = self.on_source(Op::Close { file }).await {
            tracing::debug!(?failure, "a source file was closed with an error");
        }
    }

    async fn make_file(
        &self,
        place: Place<'_>,
        (file, source): (&Handle, &Meta),
        existing: Option<&Meta>,
        kept: &mut Kept,
    ) -> Result<Made, Failure> {
        if self.options.write_mode == WriteMode::Whole {
            let (name, mode) = (place.name.to_owned(), self.mode_to_make(source));
            return self.create(place.dest, name, mode, Landing::Closing).await;
        }
        if self.options.write_mode == WriteMode::Atomic {
            return match self.make_partial(place, (file, source)).await? {
                Some(made) => Ok(made),
                None => self.make_temp(place, self.mode_to_make(source)).await,
            };
        }
        if self.options.write_mode == WriteMode::InPlace
            && let Some(existing) = existing
            && self.may_write_in_place(existing)
        {
            if *kept == Kept::NotYet {
                *kept = self.keep_copied(place, existing).await?;
            }
            return self.open_in_place(place, source, existing).await;
        }
        self.clear_way(place).await?;
        // A new inode: other names of the old one, and those who read it now, keep what they have.
        if *kept == Kept::NotYet {
            *kept = self.keep_moved(place, existing).await?;
        }
        let (name, mode) = (place.name.to_owned(), self.mode_to_make(source));
        self.create(place.dest, name, mode, Landing::Final).await
    }

    /// The mode with which a file is made: its own where that lets in nobody but those who may open it in the end, which spares
    /// setting it. Its group may be another one until it is set (that of a setgid directory), so that must make no difference;
    /// and the bits of a group with an ACL mean something else.
    pub(super) fn mode_to_make(&self, source: &Meta) -> u32 {
        let LaneOptions {
            policy, own_uid, ..
        } = &self.options;
        let carries_mode = policy.carried_of(source).has(Attrs::MODE);
        let is_settled = carries_mode && source.uid == *own_uid && policy.extended.is_nothing();
        let group_is_like_others = source.mode >> 3 & 0o7 == source.mode & 0o7;
        let has_special_bits = source.mode & 0o7000 != 0;
        if is_settled && group_is_like_others && !has_special_bits {
            source.mode
        } else {
            PRIVATE
        }
    }

    /// When hard links are carried, an inode with several names may stand for another file of the source by its other ones.
    fn may_write_in_place(&self, existing: &Meta) -> bool {
        let is_shared = self.options.policy.carry_links && existing.nlink > 1;
        existing.kind == Kind::File && !is_shared
    }

    async fn make_temp(&self, place: Place<'_>, mode: u32) -> Result<Made, Failure> {
        let mut tried = 1;
        loop {
            let name = self.temp_names.next(place.name);
            let landing = Landing::Temp;
            match self.create(place.dest, name.clone(), mode, landing).await {
                Err(failure) if failure.is(Errno::EEXIST) && tried < NAMES_MAX => tried += 1,
                Err(failure) => {
                    // It may have been made, and failed when it was asked for its attributes.
                    if !failure.is(Errno::EEXIST) {
                        self.discard(place.dest, &name).await;
                    }
                    return Err(failure);
                }
                done => return done,
            }
        }
    }

    pub(super) async fn create(
        &self,
        dest: &Handle,
        name: CString,
        mode: u32,
        landing: Landing,
    ) -> Result<Made, Failure> {
        let op = Op::Create {
            at: dest.clone(),
            name: name.clone(),
            mode,
            readable: self.options.verify,
        };
        match self.on_dest(op).await? {
            Reply::Opened(file, meta) => Ok(Made {
                name,
                file,
                meta,
                landing,
                partial: None,
            }),
            other => unreachable!("a create does not reply {other:?}"),
        }
    }

    /// Opens the file that was compared, and no other, to be overwritten. Whoever may not read the source's contents loses
    /// the right to read this file before they are in it.
    async fn open_in_place(
        &self,
        place: Place<'_>,
        source: &Meta,
        existing: &Meta,
    ) -> Result<Made, Failure> {
        let (at, name) = (place.dest.clone(), place.name.to_owned());
        let (file, mut meta) = match self.on_dest(Op::OpenWrite { at, name }).await {
            Ok(Reply::Opened(file, meta)) => (file, meta),
            Ok(other) => unreachable!("an open does not reply {other:?}"),
            Err(failure) if failure.is(Errno::ELOOP) => return Err(replaced(Side::Destination)),
            Err(failure) => return Err(failure),
        };
        if meta.kind != Kind::File || meta.ino != existing.ino {
            return Err(replaced(Side::Destination));
        }
        let carried = self.options.policy.carried_of(source);
        let other_owner = carried.has(Attrs::OWNER) && source.uid != meta.uid
            || carried.has(Attrs::GROUP) && source.gid != meta.gid;
        let readers = if other_owner {
            0o700
        } else {
            source.mode & 0o777
        };
        let narrow = meta.mode & readers;
        if carried.has(Attrs::MODE) && narrow != meta.mode {
            let change = Change {
                mode: Some(narrow),
                ..Change::default()
            };
            self.set_attrs(file.clone(), change).await?;
            meta.mode = narrow;
        }
        Ok(Made {
            name: place.name.to_owned(),
            file,
            meta,
            landing: Landing::InPlace,
            partial: None,
        })
    }

    /// Contents, then attributes: the mtime is set only when the data is whole. A file that has its final name looks
    /// complete from then on, so its data is checked and on disk before; a temporary one is flushed once, with everything.
    async fn fill(
        &self,
        source: &Handle,
        before: &Meta,
        made: &Made,
        existing: Option<&Meta>,
        spread: &dyn Spread,
    ) -> Result<Filled, Failure> {
        let in_place = made.landing == Landing::InPlace;
        if in_place && self.method_for(before).needs_size_first() {
            // Holes are left out, so nothing old may be where they will be.
            self.truncate(&made.file, 0).await?;
        }
        let mut copied = self
            .copy_contents(source, &made.file, before, made.partial, spread)
            .await?;
        let mut after = self.stat_source(Target::Open(source.clone())).await?;
        let shrank = after.size < before.size;
        if in_place || shrank {
            // What is beyond its end is no content of it.
            let len = if shrank { after.size } else { copied.bytes };
            self.truncate(&made.file, len).await?;
        }
        // What may be left in part stays private until it is whole.
        let is_private = made.landing == Landing::Temp && made.partial.is_none();
        // Reading it back would be an access.
        let checked_first = !is_private || self.options.verify && self.options.atimes;
        let mut faithful = true;
        if checked_first {
            faithful = self.check_data(source, &made.file).await?;
        }
        let kept = existing.filter(|meta| meta.kind == Kind::File);
        if faithful {
            let dressed = self.dress_file(source, before, &made.file, &made.meta, kept);
            copied.unset = dressed.await.err();
        }
        if !checked_first {
            faithful = self.check_data(source, &made.file).await?;
        } else if faithful && self.options.fsync == Fsync::File {
            self.flush_file(&made.file).await?;
        }
        if !faithful {
            // The source may have changed between being copied and being compared.
            after = self.stat_source(Target::Open(source.clone())).await?;
        }
        Ok(Filled::new(copied, before, &after, faithful))
    }

    /// Attributes, then contents: they go together, and nothing of them is seen before the file is closed. Only then can it
    /// be read back.
    async fn fill_closing(
        &self,
        source: &Handle,
        before: &Meta,
        made: &Made,
        existing: Option<&Meta>,
        spread: &dyn Spread,
    ) -> Result<Filled, Failure> {
        let kept = existing.filter(|meta| meta.kind == Kind::File);
        self.dress_file(source, before, &made.file, &made.meta, kept)
            .await?;
        let copied = self
            .copy_contents(source, &made.file, before, None, spread)
            .await?;
        let after = self.stat_source(Target::Open(source.clone())).await?;
        Ok(Filled::new(copied, before, &after, true))
    }

    pub(super) async fn stat_source(&self, target: Target) -> Result<Meta, Failure> {
        match self.on_source(Op::Stat { target }).await? {
            Reply::Meta(meta) => Ok(meta),
            other => unreachable!("a stat does not reply {other:?}"),
        }
    }

    pub(super) async fn truncate(&self, file: &Handle, len: u64) -> Result<(), Failure> {
        let file = file.clone();
        self.on_dest(Op::Truncate { file, len }).await?;
        Ok(())
    }

    /// What is asked for before written data counts: that it is on the disk, and that it is what the source has.
    async fn check_data(&self, source: &Handle, file: &Handle) -> Result<bool, Failure> {
        if self.options.verify {
            return self.is_faithful(source, file).await;
        }
        if self.options.fsync == Fsync::File {
            self.flush_file(file).await?;
        }
        Ok(true)
    }

    /// Closes the file, which may tell late write errors, and gives it its final name. Returns its version, where it has one.
    async fn install(
        &self,
        place: Place<'_>,
        made: Made,
        existing: Option<&Meta>,
    ) -> Result<Option<Version>, Failure> {
        let Made {
            name,
            file,
            landing,
            partial,
            ..
        } = made;
        // Nobody else may have it open: the last close tells late errors.
        let kept = (landing == Landing::Closing).then(|| file.clone());
        let installed = match self.on_dest(Op::Close { file }).await {
            Ok(_) if landing == Landing::Temp => self.replace(place, name.clone(), existing).await,
            Ok(made) if landing == Landing::Closing => {
                // It is there beside what was in its way.
                self.clear_way(place).await?;
                return Ok(version_of(&made));
            }
            Ok(_) => Ok(()),
            Err(failure) => Err(failure),
        };
        self.forget_partial(partial);
        if installed.is_err() {
            if let Some(kept) = kept {
                self.give_up(kept).await;
            } else if landing == Landing::InPlace {
                if let Ok((inode, _)) = self.open_place(place.dest, name).await {
                    self.mark_incomplete(inode).await;
                }
            } else {
                self.discard(place.dest, &name).await;
            }
        }
        installed.map(|()| None)
    }

    /// After an attempt that failed: nothing of it stays, or what stays cannot be taken for complete.
    async fn abandon(&self, place: Place<'_>, made: &Made) {
        if made.landing == Landing::Closing {
            self.give_up(made.file.clone()).await;
        } else if made.landing == Landing::InPlace {
            self.mark_incomplete(made.file.clone()).await;
        } else {
            self.discard(place.dest, &made.name).await;
        }
    }

    async fn give_up(&self, file: Handle) {
        if let Err(failure) = self.on_dest(Op::Discard { file }).await {
            tracing::debug!(?failure, "what was written of a file may stay");
        }
    }

    /// That this cannot be done adds nothing to the failure that is being reported; writing has moved the mtime already.
    async fn mark_incomplete(&self, inode: Handle) {
        let change = Change {
            mtime: Some(INCOMPLETE),
            ..Change::default()
        };
        if let Err(failure) = self.set_attrs(inode, change).await {
            tracing::debug!(
                ?failure,
                "a half-written file keeps the time of its last write"
            );
        }
    }

    /// Whether source and destination have the same bytes under a name, as far as their checksums or reading them
    /// tell. `wanted` and `existing` are how they were listed.
    ///
    /// # Errors
    /// What could not be opened or read.
    pub async fn files_equal(
        &self,
        place: Place<'_>,
        wanted: &Meta,
        existing: &Meta,
    ) -> Result<bool, Failure> {
        let _permit = self.files.acquire().await;
        let by_checksum = self.equal_by_checksum(place, wanted, existing);
        Ok(by_checksum.await? || self.contents_equal_at(place).await?)
    }

    async fn contents_equal_at(&self, place: Place<'_>) -> Result<bool, Failure> {
        let (source, _) = self.open_source(place).await?;
        match self.open_dest(place).await? {
            Some(dest) => self.contents_equal(&source, &dest).await,
            None => Ok(false),
        }
    }

    /// The destination's file, to be read; nothing when it is none.
    pub(super) async fn open_dest(&self, place: Place<'_>) -> Result<Option<Handle>, Failure> {
        let (at, name) = (place.dest.clone(), place.name.to_owned());
        let links = Links::Refuse;
        match self.on_dest(Op::Open { at, name, links }).await? {
            Reply::Opened(file, meta) => Ok((meta.kind == Kind::File).then_some(file)),
            other => unreachable!("an open does not reply {other:?}"),
        }
    }

    pub(super) async fn unlink_if_there(&self, dest: &Handle, name: &CStr) -> Result<(), Failure> {
        match self.unlink(dest, name).await {
            Err(failure) if !failure.is(Errno::ENOENT) => Err(failure),
            _ => Ok(()),
        }
    }
}

/// It was never the same for long enough.
fn changing() -> Failure {
    Failure {
        op: OpKind::Read,
        side: Side::Source,
        cause: Cause::Changing,
    }
}

/// Another inode has the name than when it was listed.
pub(super) fn replaced(side: Side) -> Failure {
    Failure {
        op: OpKind::Open,
        side,
        cause: Cause::Replaced,
    }
}
