//! A giant directory, split by the hash of the name: each shard indexes, compares and transfers its part. The shard that
//! met the directory lists both sides and sends the names on in batches; nobody holds the whole.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use async_channel::{Receiver, Sender};
use nix::errno::Errno;

use super::batch::{read_batch, report_refused};
use super::part::Part;
use super::plan::InHand;
use super::skip::{Hope, Seen};
use super::{Dirs, Message, Mode, Shard, node, skip, traverser};
use crate::error::{Error, OpKind, Side};
use crate::model::{Listing, Time};
use crate::throttle::{DirPermit, IndexLease};

/// From so many entries on, a directory is split. Below it, one core is done before the others had begun.
pub(super) const ENTRIES_MIN: usize = 64 * 1024;
/// Names collected for one shard before they are sent.
const BATCH: usize = 1024;
/// Batches that wait for one part. Its shard's receiver waits when it is full.
const PART_INBOX_MAX: usize = 4;

/// One message of a split directory. All messages of one directory to one shard come from one sender, in order.
pub struct PartMessage {
    dirs: Dirs,
    /// Given back when the last part has its plan.
    permit: Arc<Split>,
    body: Body,
}

/// The permit of a split directory. The lease is empty, and says that something is in hand: between the splitter's end and
/// the parts' beginning there would be nothing else to say so.
struct Split {
    _permit: DirPermit,
    _lease: IndexLease,
}

enum Body {
    Source(Listing),
    SourceEnd {
        complete: bool,
        /// Gets what this part has seen.
        seen: Sender<Option<Seen>>,
    },
    Dest(Listing),
    DestEnd {
        complete: bool,
        /// The destination has exactly these names, and was not listed.
        is_unchanged: bool,
    },
}

/// The parts alive on a shard, by the address of their directory's node (which each part keeps alive).
#[derive(Default)]
pub(super) struct Parts(RefCell<HashMap<usize, Sender<PartMessage>>>);

/// Splits the directory whose first names `part` has listed. `since`: before it was opened. `hope`: by what it may be unchanged;
/// its copy is not open then.
pub(super) async fn split(
    shard: &Rc<Shard>,
    dirs: Dirs,
    mut part: Part,
    permit: DirPermit,
    (since, hope): (Time, Option<Hope>),
) {
    tracing::debug!(path = %crate::model::path::escape(&dirs.node.path()), "split a giant directory over the shards");
    dirs.node.expect(shard.shared.shards());
    let mut splitter = Splitter {
        shard,
        dirs,
        permit: Arc::new(Split {
            _permit: permit,
            _lease: shard.shared.coordinator.lease(),
        }),
    };
    let all = splitter.send_side(Side::Source, part.take_source()).await;
    let complete = all && !part.has_refused;
    let (seen, parts) = async_channel::bounded(shard.shared.shards());
    let source_end = || Body::SourceEnd {
        complete,
        seen: seen.clone(),
    };
    splitter.send_all(source_end).await;
    drop(seen);
    let mut is_unchanged = false;
    if let Some(seen) = collect(shard, &parts).await {
        is_unchanged = skip::judge(shard, &splitter.dirs, since, seen, hope.as_ref()).await;
    }
    if is_unchanged {
        skip::count_dir(shard, &splitter.dirs.node);
    }
    let mut is_open = true;
    if hope.is_some() && !is_unchanged {
        let opened = traverser::open_dest_late(shard, &mut splitter.dirs).await;
        is_open = opened.is_some();
    }
    let complete = match (&splitter.dirs.dest, shard.shared.options.mode) {
        _ if !is_open => false,
        (None, _) | (_, Mode::Scan) => true,
        _ => {
            splitter
                .send_side(Side::Destination, shard.take_listing())
                .await
        }
    };
    let dest_end = || Body::DestEnd {
        complete,
        is_unchanged,
    };
    splitter.send_all(dest_end).await;
}

/// What all parts have seen of the source; nothing when one of them cannot say.
async fn collect(shard: &Shard, parts: &Receiver<Option<Seen>>) -> Option<Seen> {
    let mut all: Option<Seen> = None;
    for _ in 0..shard.shared.shards() {
        let part = parts.recv().await.ok()??;
        all = Some(match all {
            None => part,
            Some(all) => all.and(part),
        });
    }
    all
}

struct Splitter<'a> {
    shard: &'a Rc<Shard>,
    dirs: Dirs,
    permit: Arc<Split>,
}

impl Splitter<'_> {
    /// Sends what `listing` holds and then the rest of that side's directory. Returns whether its end was reached.
    async fn send_side(&self, side: Side, mut listing: Listing) -> bool {
        let (fs, dir) = match side {
            Side::Source => (&self.shard.source, &self.dirs.source),
            Side::Destination => (&self.shard.dest, &self.dirs.dest),
        };
        let Some(dir) = dir else { return false };
        let mut batches: Vec<Listing> = Vec::new();
        batches.resize_with(self.shard.shared.shards(), Listing::default);
        let mut is_whole = true;
        let complete = loop {
            for entry in &listing.entries {
                let to = self.shard.shared.place_of(listing.name_bytes(entry));
                batches[to].push_from(&listing, entry);
                if batches[to].len() >= BATCH {
                    let batch = std::mem::take(&mut batches[to]);
                    self.send(to, body_of(side, batch)).await;
                }
            }
            listing.clear();
            if self.shard.cancelled() {
                // As after a failed listing: what was not seen is not known to be missing.
                break false;
            }
            match read_batch(fs, dir, listing).await {
                Ok((read, more)) => {
                    listing = read;
                    let refused = report_refused(self.shard, &self.dirs.node, side, &mut listing);
                    // What the destination has besides names is nothing that the source could lack.
                    is_whole &= !refused || side == Side::Destination;
                    if !more && listing.is_empty() {
                        break is_whole;
                    }
                }
                Err(errno) => {
                    let path = self.dirs.node.path();
                    let error = Error::errno(OpKind::ReadDir, side, path, errno);
                    self.shard.report(&self.dirs.node, error);
                    break false;
                }
            }
        };
        for (to, batch) in batches.into_iter().enumerate() {
            self.send(to, body_of(side, batch)).await;
        }
        complete
    }

    async fn send_all(&self, body: impl Fn() -> Body) {
        for to in 0..self.shard.shared.shards() {
            self.send(to, body()).await;
        }
    }

    async fn send(&self, to: usize, body: Body) {
        let message = PartMessage {
            dirs: self.dirs.clone(),
            permit: self.permit.clone(),
            body,
        };
        // Closed only when a shard was lost; then nothing matters any more.
        let _ = self.shard.shared.addresses[to]
            .messages
            .send(Message::Part(message))
            .await;
    }
}

fn body_of(side: Side, batch: Listing) -> Body {
    match side {
        Side::Source => Body::Source(batch),
        Side::Destination => Body::Dest(batch),
    }
}

/// The shard for a hash. The low bits choose slots in hash tables, so the high ones choose the shard.
pub(super) fn place(hash: u64, shards: usize) -> usize {
    usize::try_from((u128::from(hash) * shards as u128) >> 64).unwrap_or(0)
}

/// Hands a message to its part, which begins with the first one. Waits while the part is busy with earlier batches.
pub(super) async fn receive(shard: &Rc<Shard>, message: PartMessage) {
    let key = Arc::as_ptr(&message.dirs.node) as usize;
    let last = matches!(message.body, Body::DestEnd { .. });
    let known = shard.parts.0.borrow().get(&key).cloned();
    let part = known.unwrap_or_else(|| {
        let (sender, receiver) = async_channel::bounded(PART_INBOX_MAX);
        let dirs = message.dirs.clone();
        glommio::spawn_local(work(shard.clone(), dirs, receiver)).detach();
        shard.parts.0.borrow_mut().insert(key, sender.clone());
        sender
    });
    if last {
        shard.parts.0.borrow_mut().remove(&key);
    }
    let sent = part.send(message).await;
    debug_assert!(sent.is_ok(), "a part lives until its last message");
}

/// One part, from its first batch of names to its last transfer.
async fn work(shard: Rc<Shard>, mut dirs: Dirs, inbox: Receiver<PartMessage>) {
    let in_hand = InHand {
        lease: shard.shared.coordinator.lease(),
        began: shard.instruments.now(),
    };
    let mut part = Part::new(&shard, dirs.clone(), in_hand);
    part.set_split();
    let (mut permit, mut has_all) = (None, true);
    while let Ok(message) = inbox.recv().await {
        permit = Some(message.permit);
        if let (None, Some(dest)) = (&dirs.dest, message.dirs.dest) {
            part.set_dest(dest.clone());
            dirs.dest = Some(dest);
        }
        match message.body {
            Body::Source(batch) => {
                let indexed = part.source_len();
                has_all &= part.append_source(&batch);
                part.index_source(&shard, indexed).await;
            }
            Body::SourceEnd { complete, seen } => {
                if !has_all {
                    let (op, side) = (OpKind::ReadDir, Side::Source);
                    let path = dirs.node.path();
                    shard.report(&dirs.node, Error::errno(op, side, path, Errno::EOVERFLOW));
                }
                part.source_complete = complete && has_all;
                part.trim_lease();
                // As many fit as there are parts; when nobody listens, the run is over.
                let _ = seen.try_send(part.seen());
            }
            Body::Dest(batch) => {
                if let Some(dir) = &dirs.dest {
                    part.match_dest(&shard, dir, batch).await;
                }
            }
            Body::DestEnd {
                complete,
                is_unchanged,
            } => {
                part.dest_complete = complete;
                if is_unchanged {
                    skip::count_entries(&shard, part.source());
                    part.set_unchanged();
                }
                break;
            }
        }
    }
    traverser::settle(&shard, &dirs, part.finish(&shard).await, permit).await;
    node::release(&shard, dirs.node).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_spread_over_all_shards_and_never_beyond() {
        assert_eq!(place(0, 7), 0);
        assert_eq!(place(u64::MAX, 7), 6);
        let mut counts = [0; 7];
        for i in 0..7000_u64 {
            counts[place(i.wrapping_mul(0x9e37_79b9_7f4a_7c15), 7)] += 1;
        }
        assert!(
            counts.iter().all(|count| (900..1100).contains(count)),
            "{counts:?}"
        );
    }
}
