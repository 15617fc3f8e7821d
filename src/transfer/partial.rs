//! Large files that an interrupted run leaves in part, and the next one goes on with (`--partial`): under a temporary name that
//! tells which contents they are to have. What a chunk of them holds is checked before it counts.

use std::collections::HashMap;
use std::ffi::CStr;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use nix::errno::Errno;
use xxhash_rust::xxh3::Xxh3;

use super::buffers::Buffers;
use super::contents::Pair;
use super::files::{Landing, Made, PRIVATE};
use super::large::LARGE_BYTES_MIN;
use super::{Failure, Lane, Place, temp};
use crate::io::{Handle, Op, Reply, Target};
use crate::model::chunks::{Chunks, INODE, Version, identity};
use crate::model::unchanged::is_settled;
use crate::model::{Kind, Meta, Time};

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
    /// Opens what an earlier run has left of a file, or makes a file that may be left in part. `None`: it is not worth it, or
    /// another run is at work.
    pub(super) async fn make_partial(
        &self,
        place: Place<'_>,
        (source, meta): (&Handle, &Meta),
    ) -> Result<Option<Made>, Failure> {
        let has_holes = self.method_for(meta).needs_size_first();
        let Some(chunks) = self.chunks.as_ref().filter(|_| !has_holes) else {
            return Ok(None);
        };
        if meta.size < LARGE_BYTES_MIN || !self.is_settled(source, meta) {
            return Ok(None);
        }
        let version = Version::of(meta);
        let name = temp::partial_name(place.name, version);
        let op = Op::OpenWrite {
            at: place.dest.clone(),
            name: name.clone(),
        };
        match self.on_dest(op).await {
            Ok(Reply::Opened(file, found)) => {
                let locked = self.locked(place.dest, &name, &file, &found);
                if locked.await.is_none() {
                    return Ok(None);
                }
                let is_ours = found.kind == Kind::File && found.nlink == 1;
                if is_ours && chunks.known(version).contains(&(INODE, identity(&found))) {
                    return Ok(Some(Made {
                        name,
                        file,
                        meta: found,
                        landing: Landing::Temp,
                        partial: Some(Partial {
                            version,
                            begun: true,
                        }),
                    }));
                }
                self.unlink_if_there(place.dest, &name).await?;
            }
            Ok(other) => unreachable!("an open does not reply {other:?}"),
            Err(failure) if failure.is(Errno::ENOENT) => {}
            // Whatever it is, it is not to be written to.
            Err(_) => return Ok(None),
        }
        let made = self.create(place.dest, name.clone(), PRIVATE, Landing::Temp);
        let made = match made.await {
            Err(failure) if failure.is(Errno::EEXIST) => return Ok(None),
            made => made?,
        };
        let Some(now) = self.locked(place.dest, &name, &made.file, &made.meta).await else {
            return Ok(None);
        };
        // Not what the answer to its creation told: a FUSE server tells the birth only when it is asked.
        chunks.note(version, (INODE, identity(&now)));
        Ok(Some(Made {
            partial: Some(Partial {
                version,
                begun: false,
            }),
            ..made
        }))
    }

    /// Whether contents that change from now on get another ctime, by our clock. Where that is another machine's, much is allowed
    /// for its clock.
    fn is_settled(&self, source: &Handle, meta: &Meta) -> bool {
        const SKEW_MAX: i64 = 300;
        let mut clock = Time::from(SystemTime::now());
        if !self.source.has_own_clock(source) {
            clock.sec -= SKEW_MAX;
        }
        is_settled(meta.ctime, clock)
    }

    /// What a temporary file looks like if it is this run's alone, and still has its name: another one may have finished it
    /// meanwhile.
    async fn locked(&self, dest: &Handle, name: &CStr, file: &Handle, meta: &Meta) -> Option<Meta> {
        let file = file.clone();
        self.dest.start(Op::Lock { file }).await.ok()?;
        let target = Target::Name(dest.clone(), name.to_owned());
        match self.dest.start(Op::Stat { target }).await {
            Ok(Reply::Meta(now)) if now.ino == meta.ino => Some(now),
            _ => None,
        }
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
