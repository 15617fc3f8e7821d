//! Random trees, random differences: `ringsync` must leave what the installed `rsync -a` leaves, exit code included.
//!
//! A failure prints its seed; `RINGSYNC_SEED=N` runs that seed alone.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use support::rng::Rng;
use support::snap::{differences, snapshot};
use support::tree::{Kind, Node, Time, Tree};
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

const ENTRIES_MIN: usize = 5;
const ENTRIES_MAX: usize = 80;
const ODD_NAMES: [&[u8]; 16] = [
    b"new\nline",
    b"\xff\xfe",
    b"-rf",
    b"two words",
    b"quote'",
    b"double\"",
    b"back\\slash",
    b"*",
    b"[a]?",
    b".hidden",
    b"\\#012",
    b"caf\xc3\xa9",
    b"tab\t",
    b"trailing ",
    b"~",
    b"...",
];
const FILE_MODES: [u32; 9] = [
    0o644, 0o600, 0o755, 0o444, 0o777, 0o4755, 0o2755, 0o640, 0o1644,
];
const DIR_MODES: [u32; 6] = [0o755, 0o700, 0o775, 0o2775, 0o1777, 0o711];
/// Modes that bind an ordinary user, to whom the run would be another one.
const ROOT_MODES: [u32; 3] = [0o000, 0o200, 0o555];
const OWNERS: [(u32, u32); 4] = [(0, 0), (1, 1), (65534, 65534), (12_345, 54_321)];

fn random_name(rng: &mut Rng) -> Vec<u8> {
    if rng.chance(20) {
        return rng.pick(&ODD_NAMES).to_vec();
    }
    if rng.chance(2) {
        return vec![b'a' + u8::try_from(rng.below(26)).unwrap(); 255];
    }
    let len = 1 + rng.below(6);
    (0..len)
        .map(|_| b'a' + u8::try_from(rng.below(8)).unwrap())
        .collect()
}

/// A path below one of the directories that nothing has yet.
fn free_path(tree: &Tree, rng: &mut Rng) -> Vec<u8> {
    let mut dirs: Vec<Vec<u8>> = vec![Vec::new()];
    dirs.extend(
        tree.nodes
            .iter()
            .filter(|(_, node)| node.kind == Kind::Dir)
            .map(|(path, _)| [path, &b"/"[..]].concat()),
    );
    loop {
        let dir = rng.pick(&dirs).clone();
        let path = [dir, random_name(rng)].concat();
        if !tree.nodes.contains_key(&path) {
            return path;
        }
    }
}

/// Years ago and never the present: rsync compares whole seconds, so every two times here differ in these or not at all.
fn random_time(rng: &mut Rng) -> Time {
    let sec = 1_000_000_000 + i64::try_from(rng.below(600_000_000)).unwrap();
    Time {
        sec,
        nsec: u32::try_from(1 + rng.below(999_999_999)).unwrap(),
    }
}

fn random_kind(rng: &mut Rng) -> Kind {
    match rng.below(100) {
        0..55 => {
            let len = *rng.pick(&[0, 1, 10, 100, 1000, 4096, 5000, 40_000]);
            Kind::File(rng.bytes(len))
        }
        55..80 => Kind::Dir,
        80..92 => Kind::Symlink(random_name(rng)),
        92..96 => Kind::Fifo,
        96..98 => Kind::Socket,
        _ if is_root() => Kind::CharDevice(1, 3 + u32::try_from(rng.below(3)).unwrap()),
        _ => Kind::Fifo,
    }
}

fn random_mode(kind: &Kind, rng: &mut Rng) -> u32 {
    if is_root() && rng.chance(10) {
        return *rng.pick(&ROOT_MODES);
    }
    *rng.pick(if *kind == Kind::Dir {
        &DIR_MODES[..]
    } else {
        &FILE_MODES
    })
}

fn random_owner(rng: &mut Rng) -> Option<(u32, u32)> {
    (is_root() && rng.chance(30)).then(|| *rng.pick(&OWNERS))
}

fn add_random(tree: &mut Tree, path: &[u8], rng: &mut Rng) {
    let kind = random_kind(rng);
    let node = Node {
        mode: random_mode(&kind, rng),
        owner: random_owner(rng),
        mtime: random_time(rng),
        kind,
    };
    tree.nodes.insert(path.to_vec(), node);
}

fn random_tree(rng: &mut Rng) -> Tree {
    let mut tree = Tree::new();
    for _ in 0..ENTRIES_MIN + rng.below(ENTRIES_MAX - ENTRIES_MIN + 1) {
        let path = free_path(&tree, rng);
        add_random(&mut tree, &path, rng);
    }
    tree
}

/// The destination: the source with some of everything done to it; now and then something unrelated, or nothing at all.
fn mutated(src: &Tree, rng: &mut Rng) -> Tree {
    if rng.chance(5) {
        return Tree::new();
    }
    if rng.chance(5) {
        return random_tree(rng);
    }
    let mut tree = src.clone();
    for _ in 0..rng.below(src.nodes.len() + 1) {
        mutate(&mut tree, rng);
    }
    tree
}

fn mutate(tree: &mut Tree, rng: &mut Rng) {
    let paths: Vec<Vec<u8>> = tree.nodes.keys().cloned().collect();
    if paths.is_empty() {
        return;
    }
    let path = rng.pick(&paths).clone();
    match rng.below(100) {
        0..15 => {
            let free = free_path(tree, rng);
            add_random(tree, &free, rng);
        }
        15..28 => drop(tree.remove(&path)),
        28..55 => change_content(tree.node(&path), rng),
        55..65 => {
            let node = tree.node(&path);
            node.mode = random_mode(&node.kind.clone(), rng);
        }
        65..75 => tree.node(&path).mtime = random_time(rng),
        75..82 => tree.node(&path).owner = random_owner(rng),
        82..92 => {
            drop(tree.remove(&path));
            add_random(tree, &path, rng);
        }
        _ => rename(tree, &path, rng),
    }
}

fn change_content(node: &mut Node, rng: &mut Rng) {
    let mtime = random_time(rng);
    match &mut node.kind {
        Kind::File(content) => match rng.below(4) {
            // Another size, with the old time and with a new one.
            0 => content.push(b'+'),
            1 => {
                content.extend_from_slice(b"more");
                node.mtime = mtime;
            }
            // The same size with a new time, close by or far away.
            2 => {
                content.reverse();
                node.mtime = mtime;
            }
            _ => {
                flip(content, 1);
                node.mtime = node.mtime.plus(if rng.chance(50) { 1 } else { -700 });
            }
        },
        Kind::Symlink(target) => *target = random_name(rng),
        Kind::CharDevice(_, minor) => *minor = 7,
        _ => node.mtime = mtime,
    }
    // Same size and time but another content: only -c and -I may see it, and rsync's likewise.
    if let Kind::File(content) = &mut node.kind
        && rng.chance(10)
    {
        flip(content, 0x80);
    }
}

fn flip(content: &mut [u8], bits: u8) {
    for byte in content {
        *byte ^= bits;
    }
}

fn rename(tree: &mut Tree, from: &[u8], rng: &mut Rng) {
    let taken = tree.remove(from);
    let to = free_path(tree, rng);
    for (path, node) in taken {
        tree.nodes
            .insert([&to[..], &path[from.len()..]].concat(), node);
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
