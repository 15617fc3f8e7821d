//! `--checksum` where a server knows what its objects have in them: one side is read, or none.

use super::contents::read;
use super::{Failure, Lane, Place};
use crate::error::Side;
use crate::io::{Op, Reply};
use crate::model::Meta;
use crate::model::checksum::{Checksum, Hasher};
use crate::model::copies::Version;

/// Smaller objects are hardly ever in parts.
const IN_PARTS_BYTES_MIN: u64 = 5 << 20;

impl Lane {
    /// Whether both sides are known to have the same bytes under a name without reading both. `false` says nothing. `wanted` and
    /// `existing` are how they were listed.
    pub(super) async fn equal_by_checksum(
        &self,
        place: Place<'_>,
        wanted: &Meta,
        existing: &Meta,
    ) -> Result<bool, Failure> {
        match (self.source.keeps_checksums(), self.dest.keeps_checksums()) {
            (false, false) => Ok(false),
            (true, true) => self.are_equal_objects(place, existing).await,
            (false, true) => self.is_object(place, Side::Source, existing).await,
            (true, false) => self.is_object(place, Side::Destination, wanted).await,
        }
    }

    /// Whether the file on one side has the bytes of the object on the other.
    async fn is_object(
        &self,
        place: Place<'_>,
        side: Side,
        object: &Meta,
    ) -> Result<bool, Failure> {
        if object.size < IN_PARTS_BYTES_MIN {
            // Its listing told the ETag.
            let file = self.hash(place, side, Hasher::of_whole()).await?;
            let version = file.and_then(|file| file.version());
            return Ok(version == Some(Version(object.ino)));
        }
        match self.checksum(side.other(), place).await {
            Some(known) => self.has_checksum(place, side, &known).await,
            None => Ok(false),
        }
    }

    async fn are_equal_objects(&self, place: Place<'_>, existing: &Meta) -> Result<bool, Failure> {
        let source = self.checksum(Side::Source, place).await;
        let version = source.as_ref().and_then(Checksum::version);
        if version == Some(Version(existing.ino)) {
            // Its listing told the ETag.
            return Ok(true);
        }
        let dest = self.checksum(Side::Destination, place).await;
        match (source, dest) {
            (Some(source), Some(dest)) if source.is_like(&dest) => Ok(source == dest),
            // One has parts, or others.
            (Some(known), _) => self.has_checksum(place, Side::Destination, &known).await,
            (None, Some(known)) => self.has_checksum(place, Side::Source, &known).await,
            (None, None) => Ok(false),
        }
    }

    async fn has_checksum(
        &self,
        place: Place<'_>,
        side: Side,
        known: &Checksum,
    ) -> Result<bool, Failure> {
        let file = self.hash(place, side, known.hasher()).await?;
        Ok(file.as_ref() == Some(known))
    }

    /// What a server knows of an object. One that cannot be asked may still be read.
    async fn checksum(&self, side: Side, place: Place<'_>) -> Option<Checksum> {
        let (fs, at) = match side {
            Side::Source => (&self.source, place.source),
            Side::Destination => (&self.dest, place.dest),
        };
        let (at, name) = (at.clone(), place.name.to_owned());
        match fs.start(Op::ReadChecksum { at, name }).await {
            Ok(Reply::Checksum(checksum)) => checksum,
            Ok(other) => unreachable!("a checksum is not {other:?}"),
            Err(error) => {
                tracing::debug!(?error, "an object is read, not asked about");
                None
            }
        }
    }

    /// The checksum of a file; nothing when it is none any more.
    async fn hash(
        &self,
        place: Place<'_>,
        side: Side,
        mut hasher: Hasher,
    ) -> Result<Option<Checksum>, Failure> {
        let (fs, file) = match side {
            Side::Source => (&self.source, Some(self.open_source(place).await?.0)),
            Side::Destination => (&self.dest, self.open_dest(place).await?),
        };
        let Some(file) = file else { return Ok(None) };
        let (mut buffer, mut at) = (self.buffers.take(), 0);
        loop {
            let read = read(fs, &file, buffer, at, side).await;
            let count;
            (buffer, count) = read.inspect_err(|_| self.buffers.lose(1))?;
            if count == 0 {
                break;
            }
            if self.cancel.is_set() {
                self.buffers.give_back(buffer);
                return Err(Failure::interrupted(side));
            }
            hasher.update(&buffer[..count]);
            at += count as u64;
            glommio::executor().yield_if_needed().await;
        }
        self.buffers.give_back(buffer);
        Ok(Some(hasher.finish()))
    }
}
