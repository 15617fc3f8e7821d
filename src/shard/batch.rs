//! Lists and stats in batches, so that other tasks of the shard get their turn in between.

use std::ops::Range;
use std::rc::Rc;

use nix::errno::Errno;

use super::{Node, Shard};
use crate::error::{Error, OpKind, Side};
use crate::io::{Fs, Handle, Op, Outcome, Reply};
use crate::model::Listing;
use crate::model::path::join;

/// Entries of one statx batch.
const STAT_BATCH: usize = 256;

/// Appends what one call lists.
pub(super) async fn read_batch(
    fs: &Rc<dyn Fs>,
    dir: &Handle,
    listing: Listing,
) -> Result<(Listing, bool), Errno> {
    let dir = dir.clone();
    match fs.start(Op::ReadDir { dir, listing }).await {
        Ok(Reply::Listed { listing, more }) => Ok((listing, more)),
        other => Err(unexpected(other)),
    }
}

/// Tells of what the directory has and no tree can hold. Returns whether there was something.
pub(super) fn report_refused(
    shard: &Shard,
    node: &Node,
    side: Side,
    listing: &mut Listing,
) -> bool {
    let refused = std::mem::take(&mut listing.refused);
    let any = !refused.is_empty();
    for (name, cause) in refused {
        let path = join(&node.path(), &name);
        shard.report(node, Error::new(OpKind::ReadDir, side, path, cause));
    }
    any
}

/// statx for all entries that are [asked](crate::model::State::is_asked) for, from position `from` on. Failures are in the entries. In
/// a run that ends, the rest stays as it is: nothing is decided about those.
pub(super) async fn stat_all(
    shard: &Shard,
    fs: &Rc<dyn Fs>,
    dir: &Handle,
    listing: Listing,
    from: usize,
) -> Listing {
    let range = from..listing.len();
    stat_range(shard, fs, dir, listing, range).await
}

/// The same for the entries at some positions.
pub(super) async fn stat_range(
    shard: &Shard,
    fs: &Rc<dyn Fs>,
    dir: &Handle,
    mut listing: Listing,
    range: Range<usize>,
) -> Listing {
    let Range { mut start, end: to } = range;
    while start < to && !shard.cancelled() {
        let end = to.min(start + STAT_BATCH);
        let (dir, range) = (dir.clone(), start..end);
        let op = Op::StatMany {
            dir,
            listing,
            range,
        };
        listing = match fs.start(op).await {
            Ok(Reply::Listed { listing, .. }) => listing,
            other => unreachable!("statx failures are in the entries, not {other:?}"),
        };
        start = end;
        glommio::executor().yield_if_needed().await;
    }
    listing
}

fn unexpected(outcome: Outcome) -> Errno {
    match outcome {
        Err(error) => error.errno,
        Ok(reply) => unreachable!("a listing does not reply {reply:?}"),
    }
}
