//! `--checksum` where a server knows what its objects have in them: one side is read, or none.

use super::contents::read;
use super::{Failure, Lane, Place};
use crate::error::Side;
use crate::io::{Handle, Op, Reply};
use crate::model::checksum::Checksum;

impl Lane {
    /// Whether both sides are known to have the same bytes under a name without reading both. `false` says nothing.
    pub(super) async fn equal_by_checksum(&self, place: Place<'_>) -> Result<bool, Failure> {
        let source = self.checksum(Side::Source, place).await?;
        let dest = self.checksum(Side::Destination, place).await?;
        let (side, known) = match (source, dest) {
            (Some(ours), Some(theirs)) => return Ok(ours == theirs),
            (Some(known), None) => (Side::Destination, known),
            (None, Some(known)) => (Side::Source, known),
            (None, None) => return Ok(false),
        };
        let file = match side {
            Side::Source => Some(self.open_source(place).await?.0),
            Side::Destination => self.open_dest(place).await?,
        };
        match file {
            Some(file) => self.has_checksum(side, &file, &known).await,
            None => Ok(false),
        }
    }

    async fn checksum(&self, side: Side, place: Place<'_>) -> Result<Option<Checksum>, Failure> {
        let (fs, at) = match side {
            Side::Source => (&self.source, place.source),
            Side::Destination => (&self.dest, place.dest),
        };
        if !fs.keeps_checksums() {
            return Ok(None);
        }
        let (at, name) = (at.clone(), place.name.to_owned());
        match fs.start(Op::ReadChecksum { at, name }).await {
            Ok(Reply::Checksum(checksum)) => Ok(checksum),
            Ok(other) => unreachable!("a checksum is not {other:?}"),
            Err(error) => Err(Failure::new(side, error)),
        }
    }

    async fn has_checksum(
        &self,
        side: Side,
        file: &Handle,
        known: &Checksum,
    ) -> Result<bool, Failure> {
        let fs = match side {
            Side::Source => &self.source,
            Side::Destination => &self.dest,
        };
        let (mut hasher, mut at) = (known.hasher(), 0);
        let mut buffer = self.buffers.take();
        loop {
            let read = read(fs, file, buffer, at, side).await;
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
        Ok(hasher.finish() == *known)
    }
}
