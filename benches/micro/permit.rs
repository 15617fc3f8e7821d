//! What one directory asks of the throttle coordinator: a permit and a lease of the index, the lease settled at the entries
//! that it has, and both given back. The time for one directory.
//!
//! `alone` is one thread. `together` is two threads that have permits enough, and meet only in the counters; in `one_permit`
//! they share one, and whoever finds it taken sleeps and is woken. With two threads the time is that of the wall, divided by
//! the directories of both: perfect would be half of `alone`.

use std::future::Future;
use std::hint::black_box;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use criterion::Criterion;
use ringsync::throttle::{Admission, Cancel, Coordinator, CoordinatorLimits};

const THREADS: u64 = 2;
/// Entries of each directory.
const ENTRIES: usize = 50;

fn coordinator(dirs_max: u64) -> Arc<Coordinator> {
    let limits = CoordinatorLimits {
        dirs_max,
        files_max: 4_000_000,
        memory_max: 8 << 30,
        tasks_max: 100_000,
        engage_percent: 100,
        release_percent: 85,
        memory_engage_percent: 80,
        memory_release_percent: 70,
    };
    Coordinator::new(limits, Arc::new(Cancel::default()))
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Sleeps until a directory may begin.
fn admitted(coordinator: &Arc<Coordinator>, waker: &Waker) -> Admission {
    let mut admit = pin!(coordinator.admit());
    loop {
        match admit.as_mut().poll(&mut Context::from_waker(waker)) {
            Poll::Ready(admission) => return admission,
            Poll::Pending => thread::park(),
        }
    }
}

fn visit(coordinator: &Arc<Coordinator>, waker: &Waker) {
    let Admission { permit, mut lease } = admitted(coordinator, waker);
    lease.settle(black_box(ENTRIES));
    drop((permit, lease));
}

fn waker_of_thread() -> Waker {
    Waker::from(Arc::new(Unpark(thread::current())))
}

/// The time until two threads have visited at least so many directories together.
fn time_threads(coordinator: &Arc<Coordinator>, directories: u64) -> Duration {
    let visit_share = || {
        let waker = waker_of_thread();
        for _ in 0..directories.div_ceil(THREADS) {
            visit(coordinator, &waker);
        }
    };
    let since = Instant::now();
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(visit_share);
        }
    });
    since.elapsed()
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("permit");
    group.bench_function("alone", |bencher| {
        let (coordinator, waker) = (coordinator(64), waker_of_thread());
        bencher.iter(|| visit(&coordinator, &waker));
    });
    for (name, dirs_max) in [("together", 64), ("one_permit", 1)] {
        let coordinator = coordinator(dirs_max);
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|directories| time_threads(&coordinator, directories));
        });
    }
    group.finish();
}
