//! statx of 256 names in a directory in memory, through `LocalFs`: the time for all of them.
//!
//! `batch` is one `Op::StatMany`, as a directory is compared; `single` is 256 times `Op::Stat`, started together, each with
//! a future of its own. Each runs `inline`, as the router decides (`auto`), and on the ring with 1, 32 or 256 operations in
//! flight. A filesystem in memory never blocks, so this is the price of the ring; what it gains shows on others.

use std::ffi::CString;
use std::fs::File;
use std::future::{Future, poll_fn};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use futures_util::future::join_all;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use ringsync::io::ring::RingOptions;
use ringsync::io::{Depth, EngineChoice, Fs, Handle, LocalFs, LocalFsOptions, Op, Reply, Target};
use ringsync::model::{Instruments, Listing, State};
use tempfile::TempDir;

use super::names::names;

/// One batch of a directory: `STAT_BATCH` of `src/shard/batch.rs`.
const NAMES: usize = 256;
/// See [`kept_awake`].
const PULSE: Duration = Duration::from_millis(20);

const WAYS: [(&str, EngineChoice, u32); 5] = [
    ("inline", EngineChoice::Inline, 1),
    ("auto", EngineChoice::Auto, 32),
    ("ring/1", EngineChoice::Ring, 1),
    ("ring/32", EngineChoice::Ring, 32),
    ("ring/256", EngineChoice::Ring, 256),
];

/// A directory with empty files.
struct Dir {
    handle: Handle,
    names: Vec<CString>,
    _scratch: TempDir,
}

impl Dir {
    fn new() -> Self {
        let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let scratch = scratch.unwrap();
        let names = names("img", NAMES);
        for name in &names {
            File::create(scratch.path().join(name.to_str().unwrap())).unwrap();
        }
        Self {
            handle: open(scratch.path()),
            names,
            _scratch: scratch,
        }
    }

    fn listing(&self) -> Listing {
        let mut listing = Listing::default();
        for name in &self.names {
            listing.push(name, 0, None);
        }
        listing
    }
}

fn open(path: &Path) -> Handle {
    let dir = File::open(path).unwrap();
    let dev = dir.metadata().unwrap().dev();
    Handle::new(dir.into(), dev)
}

async fn stat_batch(fs: &LocalFs, dir: &Dir, mut listing: Listing) -> Listing {
    for entry in &mut listing.entries {
        entry.state = State::Wanted;
    }
    let op = Op::StatMany {
        dir: dir.handle.clone(),
        range: 0..listing.len(),
        listing,
    };
    match fs.start(op).await {
        Ok(Reply::Listed { listing, .. }) => listing,
        other => panic!("{other:?}"),
    }
}

async fn stat_each(fs: &LocalFs, dir: &Dir) {
    let stat = |name: &CString| {
        let target = Target::Name(dir.handle.clone(), name.clone());
        fs.start(Op::Stat { target })
    };
    for outcome in join_all(dir.names.iter().map(stat)).await {
        assert!(matches!(outcome, Ok(Reply::Meta(_))));
    }
}

fn start(engine: EngineChoice, depth: u32) -> LocalFs {
    let ring = RingOptions {
        depth: Depth::new(depth),
    };
    LocalFs::start(LocalFsOptions { engine, ring }, &Instruments::default()).unwrap()
}

/// Times `iterations` batches, after one in which the kernel starts its workers.
async fn time_batches(fs: LocalFs, dir: &Dir, iterations: u64) -> Duration {
    let mut listing = stat_batch(&fs, dir, dir.listing()).await;
    let since = Instant::now();
    for _ in 0..iterations {
        listing = stat_batch(&fs, dir, listing).await;
    }
    let elapsed = since.elapsed();
    let is_known = |at: usize| listing.entries[at].state == State::Known;
    assert!((0..NAMES).all(is_known));
    elapsed
}

async fn time_each(fs: LocalFs, dir: &Dir, iterations: u64) -> Duration {
    stat_each(&fs, dir).await;
    let since = Instant::now();
    for _ in 0..iterations {
        stat_each(&fs, dir).await;
    }
    since.elapsed()
}

/// Does the work, and wakes it now and then from another thread: glommio may fall asleep with tasks that could run, as
/// `src/shard/pulse.rs` tells, and shards have their own pulse.
async fn kept_awake<T>(work: impl Future<Output = T>) -> T {
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let (is_working, end) = mpsc::channel::<()>();
    let pulse = thread::spawn(move || {
        while end.recv_timeout(PULSE) == Err(RecvTimeoutError::Timeout) {
            waker.wake_by_ref();
        }
        // It belongs to the executor and is dropped there.
        waker
    });
    let result = work.await;
    drop(is_working);
    drop(pulse.join());
    result
}

fn executor() -> LocalExecutor {
    LocalExecutorBuilder::new(Placement::Unbound)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make()
        .unwrap()
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let (dir, executor) = (Dir::new(), executor());
    let mut group = criterion.benchmark_group("ring");
    group.throughput(Throughput::Elements(NAMES as u64));
    for (way, engine, depth) in WAYS {
        group.bench_function(BenchmarkId::new("batch", way), |bencher| {
            bencher.iter_custom(|iterations| {
                executor.run(kept_awake(async {
                    time_batches(start(engine, depth), &dir, iterations).await
                }))
            });
        });
        group.bench_function(BenchmarkId::new("single", way), |bencher| {
            bencher.iter_custom(|iterations| {
                executor.run(kept_awake(async {
                    time_each(start(engine, depth), &dir, iterations).await
                }))
            });
        });
    }
    group.finish();
}
