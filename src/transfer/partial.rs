//! Large files that an interrupted run leaves in part, and the next one goes on with (`--partial`): under a temporary name that
//! tells which contents they are to have. What a chunk of them holds is checked before it counts.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use nix::errno::Errno;
use xxhash_rust::xxh3::Xxh3;

use super::buffers::Buffers;
use super::contents::Pair;
use super::files::{Landing, Made, PRIVATE};
use super::large::LARGE_BYTES_MIN;
use super::{Failure, Lane, Place, temp};
use crate::io::{Op, Reply};
use crate::model::chunks::{Chunks, Version};
use crate::model::{Kind, Meta};

/// Of a file that may be left in part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Partial {
    pub(super) version: Version,
    /// An earlier run has left something of it.
    begun: bool,
}

/// What the chunks of a file are to hold, as far as that is known, and who is told of more.
pub(super) struct Digests {
    version: Version,
    known: HashMap<u64, u128>,
    chunks: Arc<dyn Chunks>,
}

impl Digests {
    /// Copies a chunk, unless the destination has it already. Returns how far it got in bytes, and whether they were there.
    pub(super) async fn copy(
        &self,
        pair: &Pair<'_>,
        chunk: u64,
        span: Range<u64>,
        buffers: &Buffers,
    ) -> Result<(u64, bool), Failure> {
        if let Some(known) = self.known.get(&chunk)
            && pair.dest_digest(span.clone(), buffers).await? == *known
        {
            return Ok((span.end - span.start, true));
        }
        let mut digest = Xxh3::new();
        let len = span.end - span.start;
        let bytes = pair.copy_span(span, buffers, Some(&mut digest)).await?;
        if bytes == len {
            self.chunks.note(self.version, (chunk, digest.digest128()));
        }
        Ok((bytes, false))
    }
}

impl Lane {
    /// Opens what an earlier run has left of a file, or makes a file that may be left in part. `None`: it would not be worth it, or
    /// somebody has the name.
    pub(super) async fn make_partial(
        &self,
        place: Place<'_>,
        source: &Meta,
    ) -> Result<Option<Made>, Failure> {
        let has_holes = self.method_for(source).needs_size_first();
        if self.chunks.is_none() || source.size < LARGE_BYTES_MIN || has_holes {
            return Ok(None);
        }
        let version = Version::of(source);
        let name = temp::partial_name(place.name, version);
        let made = |made: Made, begun| Made {
            partial: Some(Partial { version, begun }),
            ..made
        };
        let (at, landing) = (place.dest.clone(), Landing::Temp);
        let opened = self
            .on_dest(Op::OpenWrite {
                at,
                name: name.clone(),
            })
            .await;
        match opened {
            Ok(Reply::Opened(file, meta)) if self.is_our_own(&meta) => {
                let left = Made {
                    name,
                    file,
                    meta,
                    landing,
                    partial: None,
                };
                Ok(Some(made(left, true)))
            }
            Err(failure) if failure.is(Errno::ENOENT) => {
                match self.create(place.dest, name, PRIVATE, landing).await {
                    Ok(fresh) => Ok(Some(made(fresh, false))),
                    Err(failure) if failure.is(Errno::EEXIST) => Ok(None),
                    Err(failure) => Err(failure),
                }
            }
            // Whatever it is, it is not to be written to.
            _ => Ok(None),
        }
    }

    /// Nobody else can have made it, or has it open.
    fn is_our_own(&self, file: &Meta) -> bool {
        let own = self.options.own_ids.0;
        file.kind == Kind::File && file.uid == own && file.mode == PRIVATE && file.nlink == 1
    }

    pub(super) fn digests(&self, partial: Option<Partial>) -> Option<Digests> {
        let (Partial { version, begun }, chunks) = (partial?, self.chunks.clone()?);
        let known = if begun {
            chunks.known(version)
        } else {
            Vec::new()
        };
        Some(Digests {
            version,
            known: known.into_iter().collect(),
            chunks,
        })
    }

    /// Nothing is to be known any more of a file that is complete.
    pub(super) fn forget_partial(&self, partial: Option<Partial>) {
        if let (Some(partial), Some(chunks)) = (partial, &self.chunks) {
            chunks.forget(partial.version);
        }
    }
}
