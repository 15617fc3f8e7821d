//! Large files, copied in chunks by as many shards as have time. Chunks are claimed, not assigned: a shard that is busy
//! claims none, and one that comes late finds nothing left.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_channel::{Receiver, Sender};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::buffers::Buffers;
use super::contents::{Method, Pair, Way};
use super::partial::Digests;
use super::{Copied, Failure};
use crate::error::Side;
use crate::io::{Fs, Handle};
use crate::throttle::Cancel;

/// From this size on a file is split, in bytes.
pub const LARGE_BYTES_MIN: u64 = 64 << 20;
/// A chunk: some milliseconds of one core, so that the last ones to finish are not far apart.
const CHUNK_BYTES: u64 = 16 << 20;
const _: () = assert!(
    CHUNK_BYTES * 2 <= LARGE_BYTES_MIN,
    "a split file has chunks to share"
);
/// Chunks that one shard copies at once where each call takes its time. Each has a buffer.
const COPIERS_MAX: usize = 8;
/// Of a file that may be left in part: only chunks that are whole are gone on with.
const PARTIAL_COPIERS_MAX: usize = 4;

/// One large file. The destination has its final size already.
struct LargeFile {
    // Dropped in this order: when the end is told, nobody but the owner has the files open, and his close tells late errors.
    source: Handle,
    dest: Handle,
    _done: Sender<()>,
    method: Method,
    size: u64,
    digests: Option<Digests>,
    cancel: Arc<Cancel>,
    outcome: Arc<Outcome>,
}

#[derive(Default)]
struct Outcome {
    bytes: AtomicU64,
    /// Those that were there already.
    resumed: AtomicU64,
    failure: OnceLock<Failure>,
}

/// What the owner of a file waits with.
pub(super) struct Copying {
    done: Receiver<()>,
    outcome: Arc<Outcome>,
}

impl Copying {
    /// Waits until all chunks are finished, by whomever.
    pub(super) async fn end(self) -> Result<Copied, Failure> {
        // Nothing is ever sent: the end is the closing.
        let closed = self.done.recv().await;
        debug_assert!(closed.is_err());
        match self.outcome.failure.get() {
            Some(failure) => Err(failure.clone()),
            None => Ok(Copied {
                bytes: self.outcome.bytes.load(SeqCst),
                resumed: self.outcome.resumed.load(SeqCst),
                ..Copied::default()
            }),
        }
    }
}

impl LargeFile {
    fn chunks(&self) -> u64 {
        self.size.div_ceil(CHUNK_BYTES)
    }

    /// Copies a chunk; not after a failure, nor when the run is cancelled.
    ///
    /// Where a filesystem locks the inode for a write, those who share a file wait for each other. In copy_file_range they do
    /// so for the whole of the copy, with a buffer only while they write: on tmpfs two cores take 0.6 to 0.9 of the time with
    /// one. A core with a file of its own takes 1.2 of the time with a buffer.
    async fn copy(&self, chunk: u64, is_shared: bool, gear: Gear<'_>) {
        if self.cancel.is_set() {
            let _ = self.outcome.failure.set(Failure::interrupted(Side::Source));
        }
        if self.outcome.failure.get().is_some() {
            return;
        }
        let mut method = self.method;
        if method.way == Way::Kernel && is_shared && !gear.dest.offloads_copies(&self.dest) {
            method.way = Way::Buffers;
        }
        let pair = Pair {
            source_fs: gear.source,
            dest_fs: gear.dest,
            source: &self.source,
            dest: &self.dest,
            method,
            cancel: &self.cancel,
        };
        let start = chunk * CHUNK_BYTES;
        let end = self.size.min(start + CHUNK_BYTES);
        let copied = if let Some(digests) = &self.digests {
            digests.copy(&pair, chunk, start..end, gear.buffers).await
        } else {
            let copied = pair.copy_span(start..end, gear.buffers, None).await;
            copied.map(|bytes| (bytes, false))
        };
        match copied {
            Ok((bytes, was_there)) => {
                self.outcome.bytes.fetch_add(bytes, SeqCst);
                if was_there {
                    self.outcome.resumed.fetch_add(bytes, SeqCst);
                }
            }
            Err(failure) => {
                // The first one is told; more of them would say the same.
                let _ = self.outcome.failure.set(failure);
            }
        }
    }
}

/// What a shard copies with.
#[derive(Clone, Copy)]
pub struct Gear<'a> {
    pub source: &'a Rc<dyn Fs>,
    pub dest: &'a Rc<dyn Fs>,
    pub buffers: &'a Buffers,
}

impl Gear<'_> {
    /// Whether each call takes its time.
    fn is_slow(&self, file: &LargeFile) -> bool {
        self.source.is_slow(file.source.dev()) || self.dest.is_slow(file.dest.dev())
    }
}

/// The large files that have chunks left, and who copies them. One for all shards: it is locked once for each chunk.
pub struct LargeFiles {
    board: Mutex<Board>,
    copiers_max: usize,
}

#[derive(Default)]
struct Board {
    open: Vec<Open>,
    /// Of each shard, how many chunks it copies at once.
    copiers: Vec<usize>,
    offered: u64,
}

/// A file with chunks that nobody has claimed.
struct Open {
    id: u64,
    file: Arc<LargeFile>,
    next_chunk: u64,
    /// How many work on it.
    copiers: usize,
}

struct Claim {
    id: u64,
    file: Arc<LargeFile>,
    chunk: u64,
    /// Another one copies a chunk of the same file.
    is_shared: bool,
}

impl LargeFiles {
    /// One shard has at most so many copiers, and a buffer for each: `1..=8`.
    #[must_use]
    pub fn new(copiers_max: usize) -> Self {
        Self {
            board: Mutex::default(),
            copiers_max: copiers_max.clamp(1, COPIERS_MAX),
        }
    }

    #[must_use]
    pub fn copiers_max(&self) -> usize {
        self.copiers_max
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers a file. Then each shard is to call [`Self::help`], this one too. Either it starts a copier, or it has some that
    /// look once more: they end under the lock under which files are offered.
    pub(super) fn offer(
        &self,
        pair: &Pair<'_>,
        size: u64,
        digests: Option<Digests>,
        cancel: Arc<Cancel>,
    ) -> Copying {
        let (told, done) = async_channel::bounded(1);
        let outcome = Arc::<Outcome>::default();
        self.board().offer(LargeFile {
            source: pair.source.clone(),
            dest: pair.dest.clone(),
            _done: told,
            method: pair.method,
            size,
            digests,
            cancel,
            outcome: outcome.clone(),
        });
        Copying { done, outcome }
    }

    /// Copies chunks until none is left, unless the shard does so already. Where calls take their time, it copies many at once.
    pub async fn help(&self, shard: usize, gear: Gear<'_>) {
        let mut copiers = FuturesUnordered::new();
        let mut more = self.enlist(shard, gear);
        loop {
            copiers.extend((0..more).map(|_| self.copy_next(shard, None, gear)));
            more = match copiers.next().await {
                Some(Some(last)) => {
                    copiers.push(self.copy_next(shard, Some(last), gear));
                    // It may have turned out meanwhile how slow this is.
                    self.enlist(shard, gear)
                }
                Some(None) => 0,
                None => return,
            };
        }
    }

    fn enlist(&self, shard: usize, gear: Gear<'_>) -> usize {
        let mut board = self.board();
        let is_slow = board.open.iter().any(|open| gear.is_slow(&open.file));
        board.enlist(shard, if is_slow { self.copiers_max } else { 1 })
    }

    /// Copies a chunk, as a copier whose last one was of `last`. `None`: there was none, and it is a copier no more.
    async fn copy_next(&self, shard: usize, last: Option<u64>, gear: Gear<'_>) -> Option<u64> {
        let claim = self.board().claim(shard, last)?;
        claim.file.copy(claim.chunk, claim.is_shared, gear).await;
        Some(claim.id)
    }
}

impl Board {
    fn offer(&mut self, file: LargeFile) {
        self.open.push(Open {
            id: self.offered,
            file: Arc::new(file),
            next_chunk: 0,
            copiers: 0,
        });
        self.offered += 1;
    }

    /// How many copiers a shard has to start to have so many.
    fn enlist(&mut self, shard: usize, wanted: usize) -> usize {
        if self.copiers.len() <= shard {
            self.copiers.resize(shard + 1, 0);
        }
        let working = &mut self.copiers[shard];
        let more = wanted.saturating_sub(*working);
        *working += more;
        more
    }

    /// The next chunk for a copier whose last one was of `last`: of the file that has the fewest copiers, for those of one
    /// file wait for each other where its inode is locked for each write. `None`: nothing is left for it, and it ends.
    fn claim(&mut self, shard: usize, last: Option<u64>) -> Option<Claim> {
        let is_last = |open: &Open| last == Some(open.id);
        if let Some(left) = self.open.iter_mut().find(|open| is_last(open)) {
            left.copiers -= 1;
        }
        let has_room = |at: &usize| {
            let open = &self.open[*at];
            open.file.digests.is_none() || open.copiers < PARTIAL_COPIERS_MAX
        };
        let fewest = (0..self.open.len()).filter(has_room).min_by_key(|&at| {
            let open = &self.open[at];
            (open.copiers, !is_last(open))
        });
        let Some(at) = fewest else {
            self.copiers[shard] -= 1;
            return None;
        };
        let open = &mut self.open[at];
        let (id, chunk, is_shared) = (open.id, open.next_chunk, open.copiers > 0);
        open.next_chunk += 1;
        open.copiers += 1;
        let file = if open.next_chunk == open.file.chunks() {
            self.open.swap_remove(at).file
        } else {
            open.file.clone()
        };
        Some(Claim {
            id,
            file,
            chunk,
            is_shared,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// Offers a file of so many chunks.
    fn offer(board: &mut Board, chunks: u64) -> Receiver<()> {
        let handle = || Handle::new(File::open("/dev/null").unwrap().into(), 0);
        let (told, done) = async_channel::bounded(1);
        board.offer(LargeFile {
            source: handle(),
            dest: handle(),
            _done: told,
            method: Method {
                way: Way::Buffers,
                skip_holes: false,
                make_holes: false,
            },
            size: chunks * CHUNK_BYTES,
            digests: None,
            cancel: Arc::default(),
            outcome: Arc::default(),
        });
        done
    }

    fn claim(board: &mut Board, shard: usize, last: Option<u64>) -> Option<(u64, u64)> {
        board
            .claim(shard, last)
            .map(|claim| (claim.id, claim.chunk))
    }

    #[test]
    fn each_has_a_file_of_its_own_while_there_are_enough_and_then_they_share() {
        let mut board = Board::default();
        let _done = (offer(&mut board, 4), offer(&mut board, 2));
        assert_eq!((board.enlist(0, 1), board.enlist(1, 1)), (1, 1));
        let mut last = [None, None];
        let wanted = [
            (0, 0, 0),
            (1, 1, 0),
            (0, 0, 1),
            (1, 1, 1),
            (1, 0, 2),
            (0, 0, 3),
        ];
        for (shard, file, chunk) in wanted {
            assert_eq!(claim(&mut board, shard, last[shard]), Some((file, chunk)));
            last[shard] = Some(file);
        }
        assert!(board.open.is_empty());
    }

    #[test]
    fn who_shares_a_file_goes_to_one_that_nobody_copies() {
        let mut board = Board::default();
        let _done = offer(&mut board, 9);
        assert_eq!((board.enlist(0, 1), board.enlist(1, 1)), (1, 1));
        assert_eq!(claim(&mut board, 0, None), Some((0, 0)));
        assert_eq!(claim(&mut board, 1, None), Some((0, 1)));
        let _done = offer(&mut board, 9);
        assert_eq!(claim(&mut board, 1, Some(0)), Some((1, 0)));
        assert_eq!(claim(&mut board, 0, Some(0)), Some((0, 2)));
        assert_eq!(claim(&mut board, 1, Some(1)), Some((1, 1)));
    }

    #[test]
    fn a_chunk_is_shared_when_another_one_of_its_file_is_being_copied() {
        let mut board = Board::default();
        let _done = offer(&mut board, 9);
        assert_eq!((board.enlist(0, 1), board.enlist(1, 1)), (1, 1));
        let is_shared =
            |board: &mut Board, shard, last| board.claim(shard, last).unwrap().is_shared;
        assert!(!is_shared(&mut board, 0, None));
        assert!(is_shared(&mut board, 1, None));
        let _done = offer(&mut board, 9);
        assert!(!is_shared(&mut board, 1, Some(0)), "it goes to the new one");
        assert!(
            !is_shared(&mut board, 0, Some(0)),
            "and leaves the old one alone"
        );
    }

    #[test]
    fn a_shard_has_as_many_copiers_as_wanted_and_is_called_again_when_they_have_gone() {
        let mut board = Board::default();
        let _done = offer(&mut board, 1);
        assert_eq!(board.enlist(3, 2), 2);
        assert_eq!(board.enlist(3, 2), 0);
        assert_eq!(claim(&mut board, 3, None), Some((0, 0)));
        assert_eq!(claim(&mut board, 3, None), None);
        assert_eq!(board.enlist(3, 2), 1);
        assert_eq!(claim(&mut board, 3, Some(0)), None);
        assert_eq!(board.enlist(3, 2), 1);
    }

    #[test]
    fn the_end_is_told_when_nobody_has_the_files_open() {
        let mut board = Board::default();
        let done = offer(&mut board, 2);
        assert_eq!(board.enlist(0, 2), 2);
        let first = board.claim(0, None).unwrap();
        let handle = first.file.dest.clone();
        let second = board.claim(0, None).unwrap();
        drop(second);
        assert!(!done.is_closed());
        drop(first);
        assert!(done.is_closed());
        assert!(handle.into_fd().is_some(), "the owner's is the last one");
    }
}
