//! What measuring costs a shard: the time for one operation that is recorded.
//!
//! `off` is a run that is not measured, `record` puts a latency that is known into its histogram, and `timed` looks at the
//! clock twice besides. `tick` is all that happens once in a tick with one shard: its first record hands its figures over,
//! and the sampler collects them, when every kind of operation occurred on both sides.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use crossbeam_utils::CachePadded;
use ringsync::error::Side;
use ringsync::model::{Instruments, Meter, OpClass, Timed};
use ringsync::monitor::Latencies;
use ringsync::monitor::recorder::Collector;

const STAT: Timed = Timed::Op(OpClass::Stat, Side::Source);
/// From a microsecond to about a millisecond.
const LATENCIES_NS: [u64; 8] = [900, 1_300, 2_100, 4_700, 17_000, 63_000, 220_000, 1_100_000];

fn instruments(meter: Option<Rc<dyn Meter>>) -> Instruments {
    Instruments::new(Arc::from([CachePadded::default()]), 0, meter)
}

fn record_each_kind(instruments: &Instruments) {
    for class in OpClass::ALL {
        for side in [Side::Source, Side::Destination] {
            let what = Timed::Op(class, side);
            instruments.record(what, Duration::from_nanos(LATENCIES_NS[3]), 1);
        }
    }
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let all = Latencies::new(1);
    let off = instruments(None);
    let on = instruments(Some(Rc::new(all.recorder(0))));
    let mut group = criterion.benchmark_group("histogram");
    for (name, instruments) in [("off", &off), ("record", &on)] {
        let mut latencies = LATENCIES_NS.into_iter().cycle().map(Duration::from_nanos);
        group.bench_function(name, |bencher| {
            bencher.iter(|| black_box(instruments).record(STAT, latencies.next().unwrap(), 1));
        });
    }
    group.bench_function("timed", |bencher| {
        bencher.iter(|| on.record_since(STAT, black_box(on.now())));
    });
    let mut collector = Collector::new(all);
    group.bench_function("tick", |bencher| {
        bencher.iter(|| {
            record_each_kind(&on);
            collector.collect();
        });
    });
    group.finish();
}
