//! One directory of 50, 1000 or 65,536 entries (the largest that one shard holds): the time for all of them.
//!
//! `push` lists the names into a listing that is used again, `insert` makes an index of them, `find` looks for the same
//! names in another order, as the other side lists them, and `miss` looks for names that are not there.

use std::ffi::CString;
use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use foldhash::quality::RandomState;
use ringsync::model::{Kind, Listing};
use ringsync::shard::NameIndex;

use super::names::{names, shuffled};

const SIZES: [usize; 3] = [50, 1000, 65_536];

fn push(listing: &mut Listing, names: &[CString]) {
    for (ino, name) in (1..).zip(names) {
        listing.push(name, ino, Some(Kind::File));
    }
}

fn index_of(listing: &Listing, hasher: &RandomState) -> NameIndex {
    let mut index = NameIndex::new(hasher.clone());
    index.reserve(listing, listing.len());
    for at in 0..listing.len() {
        index.insert(listing, at);
    }
    index
}

/// How many of the names are there.
fn count_found(index: &NameIndex, listing: &Listing, names: &[CString]) -> usize {
    let is_there = |name: &&CString| index.find(listing, name.to_bytes()).is_some();
    names.iter().filter(is_there).count()
}

pub(crate) fn bench(criterion: &mut Criterion) {
    let hasher = RandomState::default();
    let mut group = criterion.benchmark_group("index");
    for size in SIZES {
        let present = names("img", size);
        let (same, absent) = (shuffled(&present), names("doc", size));
        let mut listing = Listing::default();
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::new("push", size), |bencher| {
            bencher.iter(|| {
                listing.clear();
                push(&mut listing, &present);
            });
        });
        listing.clear();
        push(&mut listing, &present);
        group.bench_function(BenchmarkId::new("insert", size), |bencher| {
            bencher.iter(|| black_box(index_of(&listing, &hasher)));
        });
        let index = index_of(&listing, &hasher);
        for (what, names, found) in [("find", &same, size), ("miss", &absent, 0)] {
            assert_eq!(count_found(&index, &listing, names), found);
            group.bench_function(BenchmarkId::new(what, size), |bencher| {
                bencher.iter(|| black_box(count_found(&index, &listing, names)));
            });
        }
    }
    group.finish();
}
