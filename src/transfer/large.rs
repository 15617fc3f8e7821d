//! Large files, copied in chunks by as many shards as have time. Chunks are claimed, not assigned: a shard that is busy
//! claims none, and one that comes late finds nothing left.

use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use async_channel::{Receiver, Sender};
use futures_util::future::join_all;

use super::Failure;
use super::buffers::Buffers;
use super::contents::{Method, Pair};
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

/// The copy of one large file. The destination has its final size already.
pub(super) struct LargeFile {
    source: Handle,
    dest: Handle,
    method: Method,
    size: u64,
    chunks: u64,
    finished: AtomicU64,
    bytes: AtomicU64,
    failure: OnceLock<Failure>,
    cancel: Arc<Cancel>,
    /// Closed when the last chunk is finished.
    done: (Sender<()>, Receiver<()>),
}

impl LargeFile {
    pub(super) fn new(pair: &Pair<'_>, size: u64, cancel: Arc<Cancel>) -> Arc<Self> {
        Arc::new(Self {
            source: pair.source.clone(),
            dest: pair.dest.clone(),
            method: pair.method,
            size,
            chunks: size.div_ceil(CHUNK_BYTES),
            finished: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failure: OnceLock::new(),
            cancel,
            done: async_channel::bounded(1),
        })
    }

    /// Copies a chunk. After a failure, or when the run is cancelled, it only counts as finished.
    async fn copy(&self, chunk: u64, gear: Gear<'_>) {
        if self.cancel.is_set() {
            let _ = self.failure.set(Failure::interrupted(Side::Source));
        }
        if self.failure.get().is_none() {
            let pair = Pair {
                source_fs: gear.source,
                dest_fs: gear.dest,
                source: &self.source,
                dest: &self.dest,
                method: self.method,
                cancel: &self.cancel,
            };
            let start = chunk * CHUNK_BYTES;
            let end = self.size.min(start + CHUNK_BYTES);
            match pair.copy_span(start..end, gear.buffers).await {
                Ok(bytes) => {
                    self.bytes.fetch_add(bytes, SeqCst);
                }
                Err(failure) => {
                    // The first one is told; more of them would say the same.
                    let _ = self.failure.set(failure);
                }
            }
        }
        if self.finished.fetch_add(1, SeqCst) + 1 == self.chunks {
            self.done.0.close();
        }
    }

    /// Waits until all chunks are finished, by whomever. Returns the bytes copied.
    pub(super) async fn wait(&self) -> Result<u64, Failure> {
        // Nothing is ever sent: the end is the closing.
        let closed = self.done.1.recv().await;
        debug_assert!(closed.is_err());
        match self.failure.get() {
            Some(failure) => Err(failure.clone()),
            None => Ok(self.bytes.load(SeqCst)),
        }
    }
}

/// What a shard copies with.
#[derive(Clone, Copy)]
pub struct Gear<'a> {
    pub source: &'a Rc<dyn Fs>,
    pub dest: &'a Rc<dyn Fs>,
    /// The filesystems of the file because of which it was called.
    pub devs: (u64, u64),
    pub buffers: &'a Buffers,
}

impl Gear<'_> {
    fn copiers_max(&self) -> usize {
        let (source, dest) = self.devs;
        if self.source.is_slow(source) || self.dest.is_slow(dest) {
            COPIERS_MAX
        } else {
            1
        }
    }
}

/// The large files that have chunks left, and who copies them. One for all shards: it is locked once for each chunk.
#[derive(Default)]
pub struct LargeFiles(Mutex<Board>);

#[derive(Default)]
struct Board {
    open: Vec<Open>,
    /// Of each shard, how many chunks it copies at once.
    copiers: Vec<usize>,
}

struct Open {
    file: Arc<LargeFile>,
    next_chunk: u64,
    /// How many work on it.
    copiers: usize,
}

impl LargeFiles {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Offers a file. Then each shard is to call [`Self::help`], this one too.
    pub(super) fn offer(&self, file: Arc<LargeFile>) {
        self.board().open.push(Open {
            file,
            next_chunk: 0,
            copiers: 0,
        });
    }

    fn claim(&self, shard: usize, last: Option<&Arc<LargeFile>>) -> Option<(Arc<LargeFile>, u64)> {
        self.board().claim(shard, last)
    }

    /// Copies chunks until none is left, unless the shard does so already. Where calls take their time, it copies many at once.
    pub async fn help(&self, shard: usize, gear: Gear<'_>) {
        let count = self.board().enlist(shard, gear.copiers_max());
        let copiers = (0..count).map(|_| async {
            let mut last = None;
            while let Some((file, chunk)) = self.claim(shard, last.as_ref()) {
                file.copy(chunk, gear).await;
                last = Some(file);
            }
        });
        join_all(copiers).await;
    }
}

impl Board {
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
    /// file wait for each other where its inode is locked for each write. `None`: nothing is left, and it ends.
    fn claim(
        &mut self,
        shard: usize,
        last: Option<&Arc<LargeFile>>,
    ) -> Option<(Arc<LargeFile>, u64)> {
        let is_last = |open: &Open| last.is_some_and(|last| Arc::ptr_eq(last, &open.file));
        if let Some(left) = self.open.iter_mut().find(|open| is_last(open)) {
            left.copiers -= 1;
        }
        let fewest = (0..self.open.len()).min_by_key(|&at| {
            let open = &self.open[at];
            (open.copiers, !is_last(open))
        });
        let Some(at) = fewest else {
            self.copiers[shard] -= 1;
            return None;
        };
        let open = &mut self.open[at];
        let chunk = open.next_chunk;
        open.next_chunk += 1;
        open.copiers += 1;
        let file = open.file.clone();
        if open.next_chunk == file.chunks {
            self.open.swap_remove(at);
        }
        Some((file, chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    fn large_file(chunks: u64) -> Arc<LargeFile> {
        let handle = || Handle::new(File::open("/dev/null").unwrap().into(), 0);
        let method = Method {
            in_kernel: false,
            skip_holes: false,
            make_holes: false,
        };
        Arc::new(LargeFile {
            source: handle(),
            dest: handle(),
            method,
            size: chunks * CHUNK_BYTES,
            chunks,
            finished: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            failure: OnceLock::new(),
            cancel: Arc::default(),
            done: async_channel::bounded(1),
        })
    }

    fn board(files: &[&Arc<LargeFile>]) -> Board {
        let large = LargeFiles::default();
        for file in files {
            large.offer((*file).clone());
        }
        large.0.into_inner().unwrap()
    }

    fn is(claim: Option<&(Arc<LargeFile>, u64)>, file: &Arc<LargeFile>, chunk: u64) -> bool {
        claim.is_some_and(|(claimed, number)| Arc::ptr_eq(claimed, file) && *number == chunk)
    }

    #[test]
    fn each_has_a_file_of_its_own_while_there_are_enough_and_then_they_share() {
        let (one, two) = (large_file(4), large_file(2));
        let mut board = board(&[&one, &two]);
        assert_eq!((board.enlist(0, 1), board.enlist(1, 1)), (1, 1));
        let mut last = [None, None];
        let wanted = [
            (0, &one, 0),
            (1, &two, 0),
            (0, &one, 1),
            (1, &two, 1),
            (1, &one, 2),
            (0, &one, 3),
        ];
        for (shard, file, chunk) in wanted {
            let claim = board.claim(shard, last[shard].as_ref());
            assert!(
                is(claim.as_ref(), file, chunk),
                "shard {shard}, chunk {chunk}"
            );
            last[shard] = claim.map(|(file, _)| file);
        }
        assert!(board.open.is_empty());
    }

    #[test]
    fn who_shares_a_file_goes_to_one_that_nobody_copies() {
        let (one, two) = (large_file(9), large_file(9));
        let mut board = board(&[&one]);
        assert_eq!((board.enlist(0, 1), board.enlist(1, 1)), (1, 1));
        assert!(is(board.claim(0, None).as_ref(), &one, 0));
        assert!(is(board.claim(1, None).as_ref(), &one, 1));
        board.open.push(Open {
            file: two.clone(),
            next_chunk: 0,
            copiers: 0,
        });
        assert!(is(board.claim(1, Some(&one)).as_ref(), &two, 0));
        assert!(is(board.claim(0, Some(&one)).as_ref(), &one, 2));
        assert!(is(board.claim(1, Some(&two)).as_ref(), &two, 1));
    }

    #[test]
    fn a_shard_has_as_many_copiers_as_wanted_and_is_called_again_when_they_have_gone() {
        let file = large_file(1);
        let mut board = board(&[&file]);
        assert_eq!(board.enlist(3, 2), 2);
        assert_eq!(board.enlist(3, 2), 0);
        assert!(is(board.claim(3, None).as_ref(), &file, 0));
        assert!(board.claim(3, None).is_none());
        assert_eq!(board.enlist(3, 2), 1);
        assert!(board.claim(3, Some(&file)).is_none());
        assert_eq!(board.enlist(3, 2), 1);
    }
}
