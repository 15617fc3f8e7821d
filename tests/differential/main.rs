//! Random trees, random differences: `ringsync` must leave what the installed `rsync -a` leaves, exit code included.
//!
//! A failure prints its seed; `RINGSYNC_SEED=N` runs that seed alone.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod fidelity;
mod generate;
#[path = "../support/mod.rs"]
mod support;

use generate::{ENTRIES_MAX, ENTRIES_MIN, mutated, random_tree};
use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use support::rng::Rng;
use support::snap::{differences, snapshot};
use support::tree::{Kind, Node, Tree};
use support::{Pair, engines, is_root, rsync, skip_without_rsync, sync};

/// One test for each range of seeds, so that they run side by side.
macro_rules! seeds {
    ($($name:ident: $seeds:expr, $options:expr;)+) => {
        $( #[test] fn $name() { compare_all($seeds, &$options); } )+
    };
}

seeds! {
    delete_seeds_0_to_39: 0..40, ["--delete"];
    delete_seeds_40_to_79: 40..80, ["--delete"];
    delete_seeds_80_to_119: 80..120, ["--delete"];
    delete_seeds_120_to_159: 120..160, ["--delete"];
    delete_seeds_160_to_199: 160..200, ["--delete"];
    delete_seeds_200_to_239: 200..240, ["--delete"];
    delete_after: 240..270, ["--delete-after"];
    without_delete: 270..310, [];
    force: 310..330, ["--force"];
    checksum: 330..360, ["--delete", "-c"];
    update: 360..390, ["--delete", "-u"];
    update_without_delete: 390..410, ["-u"];
    existing: 410..440, ["--delete", "--existing"];
    existing_without_delete: 440..460, ["--existing"];
    ignore_existing: 460..490, ["--delete", "--ignore-existing"];
    ignore_existing_without_delete: 490..510, ["--ignore-existing"];
    size_only: 510..530, ["--delete", "--size-only"];
    ignore_times: 530..550, ["--delete", "-I"];
    modify_window: 550..570, ["--delete", "--modify-window=1000"];
}

fn compare_all(seeds: Range<u64>, options: &[&str]) {
    if skip_without_rsync() {
        return;
    }
    if let Ok(only) = std::env::var("RINGSYNC_SEED") {
        compare(only.parse().expect("RINGSYNC_SEED is a number"), options);
        return;
    }
    let failures: Vec<String> = seeds
        .clone()
        .filter_map(|seed| compare(seed, options))
        .collect();
    assert!(
        failures.is_empty(),
        "{} of {seeds:?} differ\n{}",
        failures.len(),
        failures[0]
    );
}

/// Every case runs under the two engines there are, one in four under their mixture too.
fn engines_for(seed: u64) -> impl Iterator<Item = &'static str> {
    let mixed = seed.is_multiple_of(4);
    engines()
        .into_iter()
        .filter(move |engine| mixed || *engine != "auto")
}

/// Runs one case under each engine; the first difference in words.
fn compare(seed: u64, options: &[&str]) -> Option<String> {
    let mut rng = Rng::new(seed);
    let src = random_tree(&mut rng);
    let mut dst = mutated(&src, &mut rng);
    if options.contains(&"--ignore-existing") {
        spare_rsync(&src, &mut dst);
    }
    let pair = Pair::new();
    src.write_to(&pair.src);
    let reference = pair.scratch.dir("reference");
    dst.write_to(&reference);
    let theirs = rsync(&[&["-a"], options].concat(), &pair.src, &reference);
    let expected = snapshot(&reference);
    for engine in engines_for(seed) {
        let copy = pair.scratch.dir(engine);
        dst.write_to(&copy);
        // A random destination may have next to nothing in common with its source: ringsync's own guard would refuse.
        let ours: &[&str] = if options.iter().any(|option| option.starts_with("--delete")) {
            &["-a", "--force-delete"]
        } else {
            &["-a"]
        };
        let ours = sync(engine, &[ours, options].concat(), &pair.src, &copy);
        let differing = differences(&expected, &snapshot(&copy), "rsync", "ringsync");
        if !differing.is_empty() || ours.code() != theirs.code() {
            let report = format!(
                "seed {seed}, {options:?}, engine {engine} (RINGSYNC_SEED={seed} repeats it)\n{differing}\n{}\n{}",
                theirs.describe(),
                ours.describe()
            );
            return Some(report);
        }
        fs::remove_dir_all(&copy).unwrap();
    }
    None
}

/// `rsync --ignore-existing` keeps a file where the source has a directory, but then trips over it: it gives the file the
/// directory's time and exits 23. Nobody wants that copied, so such names are taken out.
fn spare_rsync(src: &Tree, dst: &mut Tree) {
    for (path, node) in &src.nodes {
        if node.kind == Kind::Dir && dst.nodes.get(path).is_some_and(|old| old.kind != Kind::Dir) {
            dst.remove(path);
        }
    }
}

/// The generator is part of the test: it must keep producing what the comparison is about.
#[test]
fn generated_cases_are_varied() {
    let (mut kinds, mut replacing) = (BTreeSet::new(), 0);
    for seed in 0..240 {
        let mut rng = Rng::new(seed);
        let src = random_tree(&mut rng);
        let dst = mutated(&src, &mut rng);
        let len = src.nodes.len();
        assert!(
            (ENTRIES_MIN..=ENTRIES_MAX).contains(&len),
            "seed {seed}: {len} entries"
        );
        let kind = |node: &Node| format!("{:?}", std::mem::discriminant(&node.kind));
        kinds.extend(src.nodes.values().map(kind));
        let replaced =
            |path: &Vec<u8>| src.nodes.get(path).map(kind) != dst.nodes.get(path).map(kind);
        replacing += usize::from(src.nodes.keys().any(replaced));
        for path in src.nodes.keys().chain(dst.nodes.keys()) {
            assert!(
                path.split(|byte| *byte == b'/')
                    .all(|name| (1..=255).contains(&name.len()))
            );
        }
    }
    assert!(kinds.len() >= if is_root() { 6 } else { 5 }, "{kinds:?}");
    assert!(
        replacing > 100,
        "only {replacing} of 240 cases lose or replace an entry"
    );
}
