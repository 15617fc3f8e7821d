//! Random trees, and what somebody may have done to a copy of one.

use crate::support::is_root;
use crate::support::rng::Rng;
use crate::support::tree::{Kind, Node, Time, Tree};

pub(crate) const ENTRIES_MIN: usize = 5;
pub(crate) const ENTRIES_MAX: usize = 80;
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

pub(crate) fn random_name(rng: &mut Rng) -> Vec<u8> {
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
pub(crate) fn free_path(tree: &Tree, rng: &mut Rng) -> Vec<u8> {
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
pub(crate) fn random_time(rng: &mut Rng) -> Time {
    let sec = 1_000_000_000 + i64::try_from(rng.below(600_000_000)).unwrap();
    Time {
        sec,
        nsec: u32::try_from(1 + rng.below(999_999_999)).unwrap(),
    }
}

pub(crate) fn random_kind(rng: &mut Rng) -> Kind {
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

pub(crate) fn random_mode(kind: &Kind, rng: &mut Rng) -> u32 {
    if is_root() && rng.chance(10) {
        return *rng.pick(&ROOT_MODES);
    }
    *rng.pick(if *kind == Kind::Dir {
        &DIR_MODES[..]
    } else {
        &FILE_MODES
    })
}

pub(crate) fn random_owner(rng: &mut Rng) -> Option<(u32, u32)> {
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

pub(crate) fn random_tree(rng: &mut Rng) -> Tree {
    let mut tree = Tree::new();
    for _ in 0..ENTRIES_MIN + rng.below(ENTRIES_MAX - ENTRIES_MIN + 1) {
        let path = free_path(&tree, rng);
        add_random(&mut tree, &path, rng);
    }
    tree
}

/// The destination: the source with some of everything done to it; now and then something unrelated, or nothing at all.
pub(crate) fn mutated(src: &Tree, rng: &mut Rng) -> Tree {
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

pub(crate) fn mutate(tree: &mut Tree, rng: &mut Rng) {
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
