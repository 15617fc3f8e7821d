//! Micro-benchmarks of what a sync does once for each entry or each directory. Times are per iteration; where an iteration
//! does more than one thing, criterion's `elem/s` counts the things. How to run them: `perf/README.md`.
//!
//! ```text
//! decide     the comparison of two entries       ring       statx, inline and in flight on the ring
//! index      listings and the index of names     permit     what a directory needs to begin
//! filter     rules against names                 histogram  recording latencies
//! ```
//! Without `--bench`, as `cargo test --benches` runs it, each benchmark runs once and nothing is measured.
#![allow(clippy::unwrap_used)] // A benchmark that cannot go on has nothing better to do.

mod decide;
mod filter;
mod histogram;
mod index;
mod names;
mod permit;
mod ring;

use std::time::Duration;

use criterion::Criterion;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    // All of them in about three minutes; the command line has the last word.
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    decide::bench(&mut criterion);
    index::bench(&mut criterion);
    filter::bench(&mut criterion);
    ring::bench(&mut criterion);
    permit::bench(&mut criterion);
    histogram::bench(&mut criterion);
    criterion.final_summary();
}
