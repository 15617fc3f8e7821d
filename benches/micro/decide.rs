//! `model::decide` with the rules of `-a`: the time for 1024 pairs of entries, of which one in 16 is a directory and one in
//! 16 a symlink. In `mixed`, nine pairs in ten are equal and the others differ in one of the ways.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use ringsync::model::{Attrs, Kind, Meta, Policy, Time, decide};

const PAIRS: usize = 1024;

type Change = fn(&mut Meta);

const CHANGES: [(&str, Change); 4] = [
    ("equal", |_| {}),
    ("newer", |meta| meta.mtime.sec += 3600),
    ("metadata", |meta| (meta.mode, meta.uid) = (0o600, 0)),
    ("type", |meta| {
        meta.kind = match meta.kind {
            Kind::Dir => Kind::File,
            _ => Kind::Dir,
        };
    }),
];

fn entry(at: usize) -> Meta {
    let number = at as u64;
    Meta {
        kind: match at % 16 {
            7 => Kind::Dir,
            11 => Kind::Symlink,
            _ => Kind::File,
        },
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        nlink: 1,
        size: number * 977,
        mtime: Time {
            sec: 1_700_000_000 + i64::from(u32::try_from(at).unwrap()),
            nsec: 123_456_789,
        },
        ctime: Time::default(),
        btime: Time::default(),
        atime: None,
        ino: 4096 + number,
        dev: 2049,
        rdev: 0,
        has_holes: false,
        unknown: Attrs::NONE,
    }
}

fn pairs(change: impl Fn(usize) -> Change) -> Vec<(Meta, Option<Meta>)> {
    let pair = |at| {
        let (mut src, dst) = (entry(at), entry(at));
        change(at)(&mut src);
        (src, Some(dst))
    };
    (0..PAIRS).map(pair).collect()
}

fn mixed(at: usize) -> Change {
    let changed = at.is_multiple_of(10);
    let which = if changed { 1 + at / 10 % 3 } else { 0 };
    CHANGES[which].1
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let policy = Policy::archive();
    let mut group = criterion.benchmark_group("decide");
    group.throughput(Throughput::Elements(PAIRS as u64));
    let mut run = |name: &str, pairs: Vec<(Meta, Option<Meta>)>| {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for (src, dst) in black_box(&pairs) {
                    black_box(decide(src, dst.as_ref(), &policy));
                }
            });
        });
    };
    for (name, change) in CHANGES {
        run(name, pairs(|_| change));
    }
    let missing = |(src, _)| (src, None);
    run("missing", pairs(mixed).into_iter().map(missing).collect());
    run("mixed", pairs(mixed));
}
