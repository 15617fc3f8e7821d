//! Filesystems that keep to rates: `--bwlimit` and `--ops-limit`. Only made for runs that have one.
//!
//! Operations wait for their share before they start, and are charged then; what they did not use comes back. Contents count
//! when they are read from the source, or copied by the kernel: what is read and then written counts once. Large
//! operations are made smaller, so that a low rate is a steady one; whoever asked gets a short count and goes on.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use futures_util::future::select;
use futures_util::pin_mut;
use nix::errno::Errno;

use super::FsMaker;
use super::tuning::Tuning;
use crate::control::pacer::Pacer;
use crate::error::Side;
use crate::io::{Buffer, Fs, Handle, Op, OpError, Outcome, Pending, Reply};
use crate::model::Listing;
use crate::throttle::Cancel;

/// The rates of a run, for all shards together.
#[derive(Clone)]
pub(super) struct Rates {
    ops: Option<Arc<Pacer>>,
    bytes: Option<Arc<Pacer>>,
    started: Instant,
    cancel: Arc<Cancel>,
}

impl Rates {
    pub(super) fn of(tuning: &Tuning, cancel: Arc<Cancel>) -> Self {
        let pacer = |rate: Option<u64>| rate.map(|rate| Arc::new(Pacer::new(rate)));
        Self {
            ops: pacer(tuning.ops_per_second),
            bytes: pacer(tuning.bytes_per_second),
            started: Instant::now(),
            cancel,
        }
    }

    /// Makes filesystems that keep to the rates.
    pub(super) fn pace(self, make: FsMaker) -> FsMaker {
        if self.ops.is_none() && self.bytes.is_none() {
            return make;
        }
        Arc::new(move |instruments| {
            let (source, dest) = make(instruments)?;
            let paced = |fs, side| -> Rc<dyn Fs> {
                let rates = self.clone();
                Rc::new(Paced(Rc::new(Inner { fs, side, rates })))
            };
            Ok((paced(source, Side::Source), paced(dest, Side::Destination)))
        })
    }

    /// Waits until the next operation may start, or the run is told to end.
    async fn wait_for(&self, pacer: &Pacer) {
        loop {
            let delay = pacer.delay(self.started.elapsed());
            if delay.is_zero() || self.cancel.is_set() {
                return;
            }
            let (sleep, cancelled) = (glommio::timer::sleep(delay), self.cancel.cancelled());
            pin_mut!(sleep, cancelled);
            select(sleep, cancelled).await;
        }
    }

    /// Waits for the share of `count` operations, and takes it.
    async fn take_ops(&self, count: usize) {
        if let Some(ops) = &self.ops {
            self.wait_for(ops).await;
            ops.spend(self.started.elapsed(), count as u64);
        }
    }

    /// Waits until an operation may start that wants to move `wanted` bytes. Returns how many it may move; they are charged,
    /// for those that start beside it have to know.
    async fn take_bytes(&self, wanted: u64) -> u64 {
        let Some(bytes) = &self.bytes else {
            return wanted;
        };
        self.wait_for(bytes).await;
        let allowed = wanted.min(bytes.quantum());
        bytes.spend(self.started.elapsed(), allowed);
        allowed
    }

    /// It moved fewer.
    fn give_back_bytes(&self, count: u64) {
        if let Some(bytes) = &self.bytes {
            bytes.refund(count);
        }
    }
}

struct Paced(Rc<Inner>);

struct Inner {
    fs: Rc<dyn Fs>,
    side: Side,
    rates: Rates,
}

impl Fs for Paced {
    fn start(&self, op: Op) -> Pending {
        let inner = self.0.clone();
        Pending::Boxed(Box::pin(async move { inner.run(op).await }))
    }

    fn inner(&self) -> Option<&dyn Fs> {
        Some(&*self.0.fs)
    }

    fn is_slow(&self, dev: u64) -> bool {
        self.0.fs.is_slow(dev)
    }
}

impl Inner {
    async fn run(&self, op: Op) -> Outcome {
        match op {
            Op::StatMany {
                dir,
                listing,
                range,
            } => self.stat_many(dir, listing, range).await,
            Op::Read {
                file,
                buffer,
                offset,
            } if self.side == Side::Source => self.read(file, buffer, offset).await,
            // What may move at once is seldom whole blocks, and the rate is all that counts.
            Op::SetDirect { direct: true, .. } if self.rates.bytes.is_some() => Err(OpError {
                kind: op.kind(),
                errno: Errno::EOPNOTSUPP,
            }),
            Op::CopyRange {
                from,
                to,
                offset,
                len,
            } => {
                let len = self.rates.take_bytes(len).await;
                self.rates.take_ops(1).await;
                let op = Op::CopyRange {
                    from,
                    to,
                    offset,
                    len,
                };
                let outcome = self.fs.start(op).await;
                let moved = match &outcome {
                    Ok(Reply::Copied(count)) => *count,
                    _ => 0,
                };
                self.rates.give_back_bytes(len.saturating_sub(moved));
                outcome
            }
            op => {
                self.rates.take_ops(1).await;
                self.fs.start(op).await
            }
        }
    }

    /// Goes through the range in steps that a low rate can carry.
    async fn stat_many(&self, dir: Handle, mut listing: Listing, range: Range<usize>) -> Outcome {
        let quantum = self
            .rates
            .ops
            .as_ref()
            .map_or(u64::MAX, |ops| ops.quantum());
        let step = usize::try_from(quantum).unwrap_or(usize::MAX);
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start.saturating_add(step));
            let entries = &listing.entries[start..end];
            let wanted = entries.iter().filter(|entry| entry.state.is_asked());
            self.rates.take_ops(wanted.count()).await;
            let op = Op::StatMany {
                dir: dir.clone(),
                listing,
                range: start..end,
            };
            listing = match self.fs.start(op).await? {
                Reply::Listed { listing, .. } => listing,
                other => unreachable!("statx does not reply {other:?}"),
            };
            start = end;
        }
        let more = false;
        Ok(Reply::Listed { listing, more })
    }

    async fn read(&self, file: Handle, mut buffer: Buffer, offset: u64) -> Outcome {
        let len = buffer.len();
        let allowed = self.rates.take_bytes(len as u64).await;
        buffer.show(usize::try_from(allowed).unwrap_or(usize::MAX));
        self.rates.take_ops(1).await;
        let op = Op::Read {
            file,
            buffer,
            offset,
        };
        match self.fs.start(op).await {
            Ok(Reply::Moved(mut buffer, count)) => {
                self.rates
                    .give_back_bytes(allowed.saturating_sub(count as u64));
                buffer.show(len);
                Ok(Reply::Moved(buffer, count))
            }
            Ok(other) => unreachable!("a read does not reply {other:?}"),
            Err(error) => {
                self.rates.give_back_bytes(allowed);
                Err(error)
            }
        }
    }
}
