use super::*;
use crate::throttle::Reason;
use futures_util::task::{ArcWake, waker};
use proptest::prelude::*;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll};

fn limits(dirs_max: u64, files_max: u64) -> CoordinatorLimits {
    CoordinatorLimits {
        dirs_max,
        files_max,
        memory_max: 1000,
        tasks_max: 1000,
        engage_percent: 100,
        release_percent: 85,
        memory_engage_percent: 80,
        memory_release_percent: 70,
    }
}

fn coordinator(dirs_max: u64, files_max: u64) -> Arc<Coordinator> {
    Coordinator::new(limits(dirs_max, files_max), Arc::default())
}

/// A waker that counts.
#[derive(Default)]
struct Count(AtomicUsize);

impl ArcWake for Count {
    fn wake_by_ref(count: &Arc<Self>) {
        count.0.fetch_add(1, SeqCst);
    }
}

fn poll(future: &mut Admit, count: &Arc<Count>) -> Poll<Admission> {
    Pin::new(future).poll(&mut Context::from_waker(&waker(count.clone())))
}

#[test]
fn the_index_stays_below_its_limit_and_one_slice() {
    let all = coordinator(1000, 1000);
    let mut held = Vec::new();
    while let Some(mut admission) = all.try_admit() {
        admission.lease.settle(100);
        held.push(admission);
    }
    let gauge = all.gauge(Resource::Files);
    assert!(gauge.is_engaged);
    assert!(gauge.used <= 1000 + all.slice(), "{gauge:?}");
    // 850 release it, not 851.
    let waiting = |all: &Arc<Coordinator>| all.try_admit().is_none();
    while all.gauge(Resource::Files).used > 850 {
        assert!(waiting(&all));
        held.pop();
    }
    assert!(!waiting(&all));
}

#[test]
fn what_was_not_needed_goes_back() {
    let all = coordinator(4, 1_000_000);
    let mut admission = all.try_admit().unwrap();
    assert_eq!(all.gauge(Resource::Files).used, SLICE_START);
    admission.lease.settle(3);
    assert_eq!(all.gauge(Resource::Files).used, 3);
    admission.lease.hold(5000);
    assert_eq!(all.gauge(Resource::Files).used, 5000);
    drop(admission);
    assert_eq!(all.gauge(Resource::Files).used, 0);
}

#[test]
fn slices_follow_the_directories() {
    let all = coordinator(4, 1_000_000);
    for _ in 0..500 {
        all.try_admit().unwrap().lease.settle(50);
    }
    assert!((50..80).contains(&all.slice()), "{}", all.slice());
    all.try_admit().unwrap().lease.settle(7000);
    assert_eq!(all.slice(), 7000);
}

#[test]
fn memory_that_never_falls_leaves_one_directory_at_a_time() {
    let all = coordinator(8, 1000);
    all.note(5000, 0);
    let first = all.try_admit().unwrap();
    assert!(all.try_admit().is_none());
    let count = Arc::default();
    let mut waiting = all.admit();
    assert!(poll(&mut waiting, &count).is_pending());
    drop(first);
    assert_eq!(count.0.load(SeqCst), 1);
    assert!(poll(&mut waiting, &count).is_ready());
}

#[test]
fn memory_engages_at_80_percent_and_releases_at_70() {
    let all = coordinator(8, 1000);
    let _held = all.try_admit();
    for (memory, engaged) in [
        (799, false),
        (800, true),
        (701, true),
        (700, false),
        (799, false),
    ] {
        all.note(memory, 0);
        assert_eq!(all.gauge(Resource::Memory).is_engaged, engaged, "{memory}");
        assert_eq!(all.try_admit().is_none(), engaged);
    }
    assert_eq!(all.gauge(Resource::Memory).engagements, 1);
}

#[test]
fn a_raised_limit_lets_those_who_wait_begin() {
    let all = coordinator(1, 1000);
    let _held = all.try_admit().unwrap();
    let count = Arc::default();
    let mut waiting = all.admit();
    assert!(poll(&mut waiting, &count).is_pending());
    all.set_limits(2, 1000);
    assert_eq!(count.0.load(SeqCst), 1);
    assert!(poll(&mut waiting, &count).is_ready());
}

#[test]
fn cancellation_wakes_every_waiter() {
    let cancel = Arc::<Cancel>::default();
    let all = Coordinator::new(limits(100, 1000), cancel.clone());
    let _held = all.try_admit().unwrap();
    all.note(1_000_000, 1_000_000);
    let mut waiting: Vec<(Admit, Arc<Count>)> =
        (0..20).map(|_| (all.admit(), Arc::default())).collect();
    for (admit, count) in &mut waiting {
        assert!(poll(admit, count).is_pending());
    }
    cancel.set(Reason::Interrupted);
    for (admit, count) in &mut waiting {
        assert_eq!(count.0.load(SeqCst), 1);
        assert!(poll(admit, count).is_ready());
    }
}

/// As shards do it: each thread begins directories, lets them grow, and ends them; memory jumps up and down beside them.
fn stress(dirs_max: u64, files_max: u64) {
    const THREADS: u64 = 6;
    const DIRS: u64 = 300;
    let all = coordinator(dirs_max, files_max);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (all, done) = (&all, &done);
            scope.spawn(move || {
                for dir in 0..DIRS {
                    let Admission { permit, mut lease } = block_on(all.admit());
                    assert!(all.dirs_active() <= dirs_max);
                    let entries = usize::try_from((thread * 31 + dir * 17) % 90).unwrap();
                    lease.hold(entries / 2);
                    std::thread::yield_now();
                    lease.settle(entries);
                    drop(permit);
                    std::thread::yield_now();
                }
                done.fetch_add(1, SeqCst);
            });
        }
        let (all, done) = (&all, &done);
        scope.spawn(move || {
            let mut tick = 0;
            while done.load(SeqCst) < usize::try_from(THREADS).unwrap() {
                tick += 1;
                all.note(if tick % 3 == 0 { 900 } else { 100 }, tick % 1500);
                std::thread::yield_now();
            }
        });
    });
    assert_eq!(all.dirs_active(), 0);
    assert_eq!(all.in_hand.load(SeqCst), 0);
    assert_eq!(all.gauge(Resource::Files).used, 0);
}

fn block_on(admit: Admit) -> Admission {
    futures_util::pin_mut!(admit);
    let unpark = Arc::new(Unpark(std::thread::current()));
    loop {
        match admit
            .as_mut()
            .poll(&mut Context::from_waker(&waker(unpark.clone())))
        {
            Poll::Ready(admission) => return admission,
            Poll::Pending => std::thread::park(),
        }
    }
}

struct Unpark(std::thread::Thread);

impl ArcWake for Unpark {
    fn wake_by_ref(this: &Arc<Self>) {
        this.0.unpark();
    }
}

#[test]
fn all_directories_are_done_with_limits_of_1() {
    stress(1, 1);
    stress(4, 1);
    stress(1, 1_000_000);
}

#[test]
fn all_directories_are_done_with_limits_that_bind_now_and_then() {
    stress(3, 100);
    stress(8, 400);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask,
    GiveUp(usize),
    Hold(usize, usize),
    Settle(usize, usize),
    DropPermit(usize),
    DropLease(usize),
    Note(u64, u64),
    SetLimits(u64, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Ask),
        1 => any::<usize>().prop_map(Step::GiveUp),
        3 => (any::<usize>(), 0_usize..300).prop_map(|(at, entries)| Step::Hold(at, entries)),
        3 => (any::<usize>(), 0_usize..300).prop_map(|(at, entries)| Step::Settle(at, entries)),
        2 => any::<usize>().prop_map(Step::DropPermit),
        3 => any::<usize>().prop_map(Step::DropLease),
        1 => (0_u64..1200, 0_u64..1200).prop_map(|(memory, tasks)| Step::Note(memory, tasks)),
        1 => (1_u64..6, 1_u64..500).prop_map(|(dirs, files)| Step::SetLimits(dirs, files)),
    ]
}

/// Directories in hand and those who wait, driven step by step.
struct World {
    all: Arc<Coordinator>,
    held: Vec<(Option<DirPermit>, Option<IndexLease>)>,
    waiting: Vec<(Admit, Arc<Count>)>,
}

impl World {
    fn apply(&mut self, step: Step) {
        let count = self.held.len();
        match step {
            Step::Ask => {
                let (mut admit, count) = (self.all.admit(), Arc::default());
                match poll(&mut admit, &count) {
                    Poll::Ready(admission) => self.take(admission),
                    Poll::Pending => self.waiting.push((admit, count)),
                }
            }
            Step::GiveUp(at) if !self.waiting.is_empty() => {
                drop(self.waiting.remove(at % self.waiting.len()));
            }
            Step::Hold(at, entries) if count > 0 => {
                if let Some(lease) = &mut self.held[at % count].1 {
                    lease.hold(entries);
                }
            }
            Step::Settle(at, entries) if count > 0 => {
                if let Some(lease) = &mut self.held[at % count].1 {
                    let entries = entries.max(usize::try_from(lease.leased / 2).unwrap());
                    lease.settle(entries);
                }
            }
            Step::DropPermit(at) if count > 0 => drop(self.held[at % count].0.take()),
            // A lease is never given back before its permit.
            Step::DropLease(at) if count > 0 => drop(self.held.remove(at % count)),
            Step::Note(memory, tasks) => self.all.note(memory, tasks),
            Step::SetLimits(dirs, files) => self.all.set_limits(dirs, files),
            _ => {}
        }
    }

    fn take(&mut self, admission: Admission) {
        let Admission { permit, lease } = admission;
        self.held.push((Some(permit), Some(lease)));
    }

    /// Those who were woken try again, as an executor would let them.
    fn run_woken(&mut self) {
        let mut at = 0;
        while at < self.waiting.len() {
            let (admit, count) = &mut self.waiting[at];
            let woken = count.0.swap(0, SeqCst) > 0;
            if woken && let Poll::Ready(admission) = poll(admit, &count.clone()) {
                self.take(admission);
                drop(self.waiting.remove(at));
                at = 0;
            } else if woken {
                at = 0;
            } else {
                at += 1;
            }
        }
    }
}

proptest! {
    /// Any order of steps: the counts are exact, and nobody waits who could begin.
    #[test]
    fn nobody_sleeps_who_could_begin(
        dirs in 1_u64..5,
        files in 1_u64..500,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let all = coordinator(dirs, files);
        let mut world = World { all: all.clone(), held: Vec::new(), waiting: Vec::new() };
        for step in steps {
            world.apply(step);
            world.run_woken();
            let leased: u64 = world.held.iter().flat_map(|(_, lease)| lease).map(|lease| lease.leased).sum();
            prop_assert_eq!(all.gauge(Resource::Files).used, leased);
            prop_assert_eq!(all.in_hand.load(SeqCst), world.held.len() as u64);
            let permits = world.held.iter().filter(|(permit, _)| permit.is_some()).count();
            prop_assert_eq!(all.dirs_active(), permits as u64);
            if !world.waiting.is_empty() {
                prop_assert!(!world.held.is_empty(), "nothing is in hand and somebody sleeps");
                let may_begin = !all.is_throttled() && all.dirs_active() < all.dirs_max();
                prop_assert!(!may_begin, "somebody could begin and sleeps");
            }
        }
    }
}
