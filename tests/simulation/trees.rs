//! Random small trees and random jobs.

use std::ffi::CStr;

use ringsync::control::bounds::Bounds;
use ringsync::error::Side;
use ringsync::model::{Carried, Kind, Policy, Time};
use ringsync::run::tuning::Tuning;
use ringsync::run::{Delete, Job};
use ringsync::transfer::{Reflink, WriteMode};

use crate::simfs::rng::Rng;
use crate::simfs::watch::{is_within, parent};
use crate::simfs::{CANARY_PATH, Plan, Seen, Tree, Types, World, join};
use crate::simrun;

const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", ".dot", "two words"];
/// What a run that was killed leaves behind, or a user who likes such names.
const TEMP_NAMES: [&str; 3] = [".a.rs-0a1b2c3d", ".b.rs-ffffffff", ".zz.rs-00000000"];
const MODES: [u32; 8] = [0o644, 0o600, 0o755, 0o400, 0o4755, 0o2711, 0o1777, 0o000];
/// Few, so that many are equal; years apart, so that some are newer.
const TIMES: [Time; 7] = [
    time(4_000_000_000, 1),
    time(1_000_000_000, 7),
    time(1_000_000_000, 0),
    time(1_000_000_001, 7),
    time(1_300_000_000, 999_999_999),
    time(-5, 1),
    time(0, 0),
];
const XATTRS: [&CStr; 6] = [
    c"user.a",
    c"user.b",
    c"trusted.c",
    c"security.capability",
    c"system.posix_acl_access",
    c"system.posix_acl_default",
];
/// Over what copy_file_range is worth a call.
const LARGE_BYTES: usize = 200_000;

const fn time(sec: i64, nsec: u32) -> Time {
    Time { sec, nsec }
}

/// What decides about a tree's contents.
struct Taste {
    large: bool,
    links: bool,
    entries_max: usize,
}

fn random_entry(rng: &mut Rng, taste: &Taste) -> Seen {
    let (kind, data) = match rng.below(100) {
        0..50 if taste.large && rng.chance(10) => (Kind::File, rng.bytes(LARGE_BYTES)),
        0..50 => {
            let len = *rng.pick(&[0, 1, 4, 5, 6, 17, 40]);
            let mut data = rng.bytes(len);
            if rng.chance(15) {
                let end = rng.below(len + 1);
                data[..end].fill(0);
            }
            (Kind::File, data)
        }
        50..76 => (Kind::Dir, Vec::new()),
        76..88 => (Kind::Symlink, random_target(rng)),
        88..92 => (Kind::Fifo, Vec::new()),
        92..95 => (Kind::Socket, Vec::new()),
        _ => (Kind::CharDevice, Vec::new()),
    };
    let mut entry = Seen::new(kind, *rng.pick(&MODES), 0, &data);
    if kind == Kind::CharDevice {
        entry.rdev = 0x100 + rng.below(3) as u64;
    }
    random_attributes(&mut entry, rng);
    entry
}

fn random_target(rng: &mut Rng) -> Vec<u8> {
    let targets = [
        CANARY_PATH,
        "../canary/file",
        "../../canary/dir",
        "a",
        "b/c",
    ];
    targets[rng.below(targets.len())].into()
}

fn random_attributes(entry: &mut Seen, rng: &mut Rng) {
    entry.mtime = *rng.pick(&TIMES);
    if rng.chance(25) {
        (entry.uid, entry.gid) = *rng.pick(&[(1, 1), (1000, 1000), (0, 5)]);
    }
    entry.xattrs.clear();
    if rng.chance(25) {
        for _ in 0..=rng.below(3) {
            let name = XATTRS[rng.below(XATTRS.len())];
            let len = rng.below(4);
            entry.xattrs.insert(name.to_owned(), rng.bytes(len));
        }
    }
}

fn free_path(tree: &Tree, rng: &mut Rng) -> Option<String> {
    let dirs: Vec<&String> = tree
        .iter()
        .filter(|(_, entry)| entry.kind == Kind::Dir)
        .map(|(path, _)| path)
        .collect();
    let dir = rng.pick(&dirs);
    let name = if rng.chance(3) {
        TEMP_NAMES[rng.below(TEMP_NAMES.len())]
    } else {
        NAMES[rng.below(NAMES.len())]
    };
    let path = join(dir, name);
    (!tree.contains_key(&path)).then_some(path)
}

/// A second name for a file that is there.
fn add_link(tree: &mut Tree, rng: &mut Rng) {
    let files: Vec<String> = tree
        .iter()
        .filter(|(_, entry)| entry.kind == Kind::File)
        .map(|(path, _)| path.clone())
        .collect();
    if files.is_empty() {
        return;
    }
    let file = rng.pick(&files).clone();
    let Some(path) = free_path(tree, rng) else {
        return;
    };
    let entry = tree.get_mut(&file).unwrap();
    if entry.link.is_empty() {
        entry.link.clone_from(&file);
    }
    let entry = entry.clone();
    tree.insert(path, entry);
}

fn random_tree(rng: &mut Rng, taste: &Taste) -> Tree {
    let root = Seen::new(Kind::Dir, 0o755, 1_200_000_000, b"");
    let mut tree = Tree::from([(String::new(), root)]);
    for _ in 0..2 + rng.below(taste.entries_max) {
        if taste.links && rng.chance(25) {
            add_link(&mut tree, rng);
        } else if let Some(path) = free_path(&tree, rng) {
            tree.insert(path, random_entry(rng, taste));
        }
    }
    tree
}

fn mutated(source: &Tree, rng: &mut Rng, taste: &Taste) -> Tree {
    if rng.chance(10) {
        return random_tree(rng, taste);
    }
    let mut tree = source.clone();
    for _ in 0..rng.below(source.len() + 2) {
        mutate(&mut tree, rng, taste);
    }
    tree
}

fn mutate(tree: &mut Tree, rng: &mut Rng, taste: &Taste) {
    let paths: Vec<String> = tree.keys().cloned().collect();
    let path = rng.pick(&paths).clone();
    match rng.below(10) {
        0..3 if taste.links && rng.chance(40) => add_link(tree, rng),
        7 if taste.links && rng.chance(50) => tree.get_mut(&path).unwrap().link.clear(),
        0..3 => {
            if let Some(path) = free_path(tree, rng) {
                tree.insert(path, random_entry(rng, taste));
            }
        }
        3 | 4 if !path.is_empty() => tree.retain(|known, _| !is_within(known, &path)),
        5 | 6 if !path.is_empty() => {
            tree.retain(|known, _| !is_within(known, &path));
            tree.insert(path, random_entry(rng, taste));
        }
        7 | 8 => change_data(tree.get_mut(&path).unwrap(), rng),
        _ => {
            let entry = tree.get_mut(&path).unwrap();
            random_attributes(entry, rng);
            if entry.kind != Kind::Symlink {
                entry.mode = *rng.pick(&MODES);
            }
        }
    }
}

fn change_data(entry: &mut Seen, rng: &mut Rng) {
    match entry.kind {
        Kind::File => {
            let len = if rng.chance(50) {
                entry.data.len()
            } else {
                rng.below(40)
            };
            entry.data = rng.bytes(len);
            if rng.chance(80) {
                entry.mtime = *rng.pick(&TIMES);
            }
        }
        Kind::Symlink => entry.data = random_target(rng),
        _ => random_attributes(entry, rng),
    }
}

/// A world with a random source and a destination that is a changed copy of it.
pub(crate) fn random_world(rng: &mut Rng, plan: &Plan, links: bool) -> World {
    let taste = Taste {
        links,
        large: plan.bytes_per_call > 1000,
        entries_max: if rng.chance(20) { 28 } else { 14 },
    };
    let source = random_tree(rng, &taste);
    let dest = mutated(&source, rng, &taste);
    let world = World::new();
    for (side, tree) in [(Side::Source, source), (Side::Destination, dest)] {
        for (path, entry) in tree.iter().filter(|(path, _)| !path.is_empty()) {
            debug_assert!(tree.contains_key(parent(path)));
            world.add(side, path, entry);
        }
        for (path, entry) in &tree {
            world.set_mtime(side, path, entry.mtime);
        }
    }
    world
}

fn random_policy(rng: &mut Rng, links: bool) -> Policy {
    let mut policy = Policy::archive();
    policy.carry_links = links;
    policy.extended = Carried {
        acls: rng.chance(30),
        xattrs: rng.chance(30),
        every_namespace: true,
    };
    match rng.below(12) {
        // Names of one inode that are not brought up to date all together mean nothing certain.
        0 if !links => policy.compare_size_only = true,
        1 => policy.copy_always = true,
        2..4 => policy.compare_contents = true,
        _ => {}
    }
    if !links {
        policy.keep_newer = rng.chance(8);
        policy.only_existing = rng.chance(5);
        policy.only_missing = rng.chance(5);
        if rng.chance(10) {
            policy.modify_window_s = 1;
        }
        policy.carry_mode = !rng.chance(6);
        policy.carry_owner = !rng.chance(6);
        policy.carry_group = !rng.chance(6);
        policy.carry_times = !rng.chance(6);
    }
    policy.carry_devices = !rng.chance(10);
    policy.carry_specials = !rng.chance(10);
    policy
}

pub(crate) fn random_job(rng: &mut Rng, cpu: usize, links: bool) -> Job {
    let delete = *rng.pick(&[Delete::Never, Delete::During, Delete::During, Delete::After]);
    Job {
        policy: random_policy(rng, links),
        sparse: rng.chance(20),
        trust_holes: rng.chance(80),
        force: rng.chance(10),
        write_mode: if rng.chance(30) {
            WriteMode::Direct
        } else {
            WriteMode::Atomic
        },
        reflink: if rng.chance(20) {
            Reflink::Never
        } else {
            Reflink::Auto
        },
        cpus: vec![cpu],
        tuning: random_tuning(rng),
        // With few of them, directories are opened again from the root.
        descriptors_max: *rng.pick(&[0, 4, 1000]),
        privileged: rng.chance(70),
        ..simrun::job(delete)
    }
}

/// Few directories at once, and an index so small that they wait for each other.
fn random_tuning(rng: &mut Rng) -> Tuning {
    let dirs = Bounds::fixed(1 + rng.below(6) as u64);
    Tuning {
        dirs,
        files: Bounds::fixed(*rng.pick(&[1, 10, 1_000_000])),
        histograms: rng.chance(50),
        ..Tuning::for_machine(1, 1 << 30)
    }
}

/// A filesystem of some kind, where nothing goes wrong yet.
pub(crate) fn random_plan(rng: &mut Rng) -> Plan {
    Plan {
        seed: rng.next(),
        turns_late_max: *rng.pick(&[0, 0, 1, 5, 20]),
        slow: rng.chance(40),
        names_per_read: *rng.pick(&[1, 3, 1000]),
        bytes_per_call: *rng.pick(&[1, 5, 1000, 70_000, usize::MAX]),
        types: *rng.pick(&[Types::Told, Types::Told, Types::Sometimes, Types::Unknown]),
        repeats: *rng.pick(&[0, 0, 100]),
        clones: rng.chance(20),
        copies: rng.chance(40),
        ..Plan::default()
    }
}
