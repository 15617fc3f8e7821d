//! The pacer among threads.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use proptest::prelude::*;
use ringsync::control::pacer::{BURST, Pacer};

const THREADS: u64 = 8;
const SECONDS: u64 = 10;

/// Threads spend as fast as they may. Their clock goes on when one of them has to wait: to the time for which it waits.
fn spent(pacer: &Pacer, amounts: &[u64]) -> u128 {
    let clock = AtomicU64::new(0);
    let end = Duration::from_secs(SECONDS);
    let spend = |amount: u64| {
        let mut sum = 0;
        loop {
            let now = Duration::from_nanos(clock.load(SeqCst));
            if now >= end {
                return sum;
            }
            let delay = pacer.delay(now);
            if delay.is_zero() {
                pacer.spend(now, amount);
                sum += u128::from(amount);
            } else {
                let until = u64::try_from((now + delay).as_nanos()).unwrap();
                clock.fetch_max(until, SeqCst);
            }
        }
    };
    thread::scope(|scope| {
        let spend = &spend;
        let threads: Vec<_> = amounts
            .iter()
            .map(|amount| scope.spawn(move || spend(*amount)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    /// What threads spend together is the rate, within 1 %, but for the burst and for what all may start at one moment.
    #[test]
    fn threads_keep_the_rate_together(per_second in 1000_u64..1 << 40, shares in prop::collection::vec(1_u64..100, 8)) {
        let pacer = Pacer::new(per_second);
        let least = (per_second / 20_000).max(1);
        let amounts: Vec<u64> = shares.iter().map(|share| (pacer.quantum() / 8 / share).max(least)).collect();
        let sum = spent(&pacer, &amounts);
        let due = u128::from(per_second) * u128::from(SECONDS);
        let at_once: u128 = amounts.iter().map(|amount| u128::from(*amount)).sum();
        let burst = u128::from(per_second) * BURST.as_millis() / 1000;
        prop_assert!(sum >= due - due / 100, "{sum} of {due}");
        prop_assert!(sum <= due + due / 100 + burst + at_once, "{sum} of {due}");
    }
}

#[test]
fn no_spending_is_lost_among_threads() {
    // All at one moment: what they spent is what the virtual time is ahead.
    let pacer = Pacer::new(1000);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| (0..10_000).for_each(|_| pacer.spend(Duration::ZERO, 1)));
        }
    });
    let ahead = pacer.delay(Duration::ZERO) + BURST;
    assert_eq!(ahead, Duration::from_secs(THREADS * 10));
}

#[test]
fn quanta_keep_a_slow_rate_smooth() {
    // Eight shards that move 1 KiB/s together: in no second does more than twice that pass.
    let pacer = Pacer::new(1024);
    let mut seconds = [0; 60];
    for tick in 0..60_000 {
        let now = Duration::from_millis(tick);
        if pacer.delay(now).is_zero() {
            pacer.spend(now, pacer.quantum());
            seconds[usize::try_from(tick / 1000).unwrap()] += pacer.quantum();
        }
    }
    assert!(
        seconds.iter().all(|bytes| (512..=2048).contains(bytes)),
        "{seconds:?}"
    );
}
