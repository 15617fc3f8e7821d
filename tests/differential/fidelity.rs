//! `ringsync sync -HAXS --delete` against `rsync -aHAXS --delete --numeric-ids`, over trees with everything that these options
//! speak of, on the filesystems that people use; and each one's verdict on what the other one made.

use crate::generate::{free_path, mutate, random_time, random_tree};
use crate::support::full::{FullSnapshot, FullState, Xattrs, full_snapshot, set_xattr};
use crate::support::image::Image;
use crate::support::rng::Rng;
use crate::support::tree::{Kind, LONG_AGO, Node, Tree, set_mtime};
use crate::support::{Pair, engines, is_on_nfs, ringsync, rsync, skip_without_rsync, sync};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Trees that one run of each program works on: starting them costs more than a small tree.
const BATCH: u64 = 12;
const RSYNC: [&str; 3] = ["-aHS", "--delete", "--numeric-ids"];
const RINGSYNC: [&str; 4] = ["-H", "-S", "--delete", "--force-delete"];
/// From this size on a file of zeros in the main is written with holes.
const SPARSE_BYTES_MIN: usize = 32 * 1024;
/// Less is the business of the filesystem.
const HOLE_BYTES: usize = 4096;

#[test]
fn on_tmpfs() {
    compare_on("tmpfs", 0..132);
}

#[test]
fn on_ext4() {
    compare_on("ext4", 1000..1132);
}

#[test]
fn on_xfs() {
    compare_on("xfs", 2000..2132);
}

#[test]
fn on_btrfs() {
    compare_on("btrfs", 3000..3132);
}

/// A tree with names that share an inode, and extended attributes.
#[derive(Clone, Debug, Default)]
struct Rich {
    tree: Tree,
    /// Further names, by path: the name whose inode they share.
    links: BTreeMap<Vec<u8>, Vec<u8>>,
    xattrs: BTreeMap<Vec<u8>, Xattrs>,
}

/// Where trees are, and what both sides keep beside a mode.
#[derive(Clone, Copy, Debug)]
struct Places<'a> {
    src: &'a Path,
    dst: &'a Path,
    options: &'a [&'a str],
    keeps: fn(&[u8]) -> bool,
    is_nfs: bool,
}

impl Places<'_> {
    /// What is there, of what both sides keep.
    fn snapshot(&self, root: &Path) -> FullSnapshot {
        let mut all = full_snapshot(root);
        for state in all.values_mut() {
            state.xattrs.retain(|name, _| (self.keeps)(name));
        }
        all
    }
}

/// From and to where the guest says (`tests/nfs/plans`). v3 has ACLs of POSIX and no extended attributes, v4.2 those of users.
#[test]
#[ignore = "a guest of tests/nfs runs it"]
fn on_nfs() {
    let pair = Pair::new();
    let version =
        std::env::var("nfs_version").expect("the guest says which version it has mounted");
    let (option, keeps): (_, fn(&[u8]) -> bool) = if version == "3" {
        ("-A", |name| name.starts_with(b"system.posix_acl"))
    } else {
        ("-X", |name| name.starts_with(b"user."))
    };
    let places = Places {
        src: &pair.src,
        dst: &pair.dst,
        options: &[option],
        keeps,
        is_nfs: true,
    };
    // Other trees in each direction, by another engine.
    let first = match [&pair.src, &pair.dst].map(|root| is_on_nfs(root)) {
        [false, true] => 4000,
        [true, false] => 4012,
        [true, true] => 4024,
        [false, false] => panic!("neither side is on NFS"),
    };
    compare_in(&places, "NFS", first..first + BATCH);
}

fn compare_on(filesystem: &str, seeds: Range<u64>) {
    if skip_without_rsync() {
        return;
    }
    let Some(image) = Image::new(filesystem) else {
        return;
    };
    let places = Places {
        src: image.path(),
        dst: image.path(),
        options: &["-A", "-X"],
        keeps: |_| true,
        is_nfs: false,
    };
    compare_in(&places, filesystem, seeds);
}

fn compare_in(places: &Places<'_>, filesystem: &str, seeds: Range<u64>) {
    let seeds = match std::env::var("RINGSYNC_SEED") {
        Ok(only) => {
            let only = only.parse().expect("RINGSYNC_SEED is a number");
            only..only + 1
        }
        Err(_) => seeds,
    };
    let mut totals = Totals::default();
    let mut failures = Vec::new();
    for start in seeds.clone().step_by(usize::try_from(BATCH).unwrap()) {
        let batch = start..seeds.end.min(start + BATCH);
        let engines = engines();
        let engine = engines[usize::try_from(start / BATCH).unwrap() % engines.len()];
        // Blocks that are shared with the source take no space, but stat says they do.
        let shares = (start / BATCH).is_multiple_of(2);
        failures.extend(compare_batch(places, batch, (engine, shares), &mut totals));
    }
    eprintln!("{filesystem}: {totals:?}");
    assert!(
        failures.is_empty(),
        "{} of {seeds:?} differ on {filesystem} (RINGSYNC_SEED=N repeats one)\n{}",
        failures.len(),
        failures[..failures.len().min(3)].join("\n")
    );
}

/// What was compared, for the line at the end.
#[derive(Debug, Default)]
struct Totals {
    trees: usize,
    entries: usize,
    linked: usize,
    with_xattrs: usize,
    with_acls: usize,
    /// Entries that rsync leaves other than they are in the source.
    left_by_rsync: usize,
}

impl Totals {
    fn add(&mut self, source: &FullSnapshot, theirs: &FullSnapshot) {
        self.entries += source.len();
        for (path, state) in source {
            let acls = state
                .xattrs
                .keys()
                .filter(|name| name.starts_with(b"system."))
                .count();
            self.linked += usize::from(state.link.is_some());
            self.with_acls += usize::from(acls > 0);
            self.with_xattrs += usize::from(state.xattrs.len() > acls);
            let equal = theirs.get(path).is_some_and(|other| same(state, other));
            self.left_by_rsync += usize::from(!equal);
        }
    }
}

fn compare_batch(
    places: &Places<'_>,
    seeds: Range<u64>,
    (engine, shares): (&str, bool),
    totals: &mut Totals,
) -> Vec<String> {
    let [src, ours, theirs] = [
        (places.src, "src"),
        (places.dst, "ours"),
        (places.dst, "theirs"),
    ]
    .map(|(root, name)| root.join(name));
    for root in [&src, &ours, &theirs] {
        fs::create_dir(root).unwrap();
    }
    for seed in seeds.clone() {
        let mut rng = Rng::new(seed);
        let source = random_rich(&mut rng);
        let dest = changed(&source, &mut rng);
        let name = seed.to_string();
        for (root, rich) in [(&src, &source), (&ours, &dest), (&theirs, &dest)] {
            let root = root.join(&name);
            fs::create_dir(&root).unwrap();
            rich.write_to(&root, places.keeps);
        }
        totals.trees += 1;
    }
    for root in [&src, &ours, &theirs] {
        set_mtime(root, LONG_AGO);
    }
    // It asks what is in the way of a directory for a default ACL, and takes the refusal for a failure.
    let options = [&RSYNC[..], places.options].concat();
    if rsync(&options, &src, &theirs).code() == Some(23) {
        rsync(&options, &src, &theirs).exits(0);
    }
    let reflink = ["--reflink", if shares { "auto" } else { "never" }];
    let ours_options = [&RINGSYNC[..], places.options, &reflink].concat();
    let outcome = sync(engine, &ours_options, &src, &ours);
    // Sizes on disk are known when it is there.
    rustix::fs::syncfs(File::open(&ours).unwrap()).unwrap();
    let [source, made, reference] = [&src, &ours, &theirs].map(|root| places.snapshot(root));
    totals.add(&source, &reference);
    let mut failures = Vec::new();
    if outcome.code() != Some(0) {
        failures.push(outcome.describe());
    }
    // NFS tells sizes on disk as they are known to the client.
    let any_size = shares || places.is_nfs;
    failures.extend(differences(&source, &reference, &made, any_size));
    // Each one's verdict on the other one's work.
    let dry_run = |dst| {
        let dry = [&options[..], &["-n", "-i"]].concat();
        rsync(&dry, &src, dst).exits(0).out()
    };
    let left = dry_run(&ours);
    let left_by_itself = if places.is_nfs {
        dry_run(&theirs)
    } else {
        String::new()
    };
    // NFS v3 leaves out the mask of an ACL that says no more than the group's bits, whoever sets it.
    let is_ours = |line: &&str| !left_by_itself.lines().any(|other| other == *line);
    let left: Vec<&str> = left.lines().filter(is_ours).collect();
    if !left.is_empty() {
        failures.push(format!("rsync would still change\n{}", left.join("\n")));
    }
    let [src_arg, theirs_arg] = [&src, &theirs].map(|path| path.to_str().unwrap());
    let check = [
        &["check", "-H", "--io-engine", engine],
        places.options,
        &[src_arg, theirs_arg],
    ];
    let check = ringsync(&check.concat());
    let looks_equal = source.iter().all(|(path, state)| {
        let unread = |state: &FullState| {
            let mut state = state.clone();
            state.node.content = 0;
            state
        };
        reference
            .get(path)
            .is_some_and(|other| same(&unread(state), &unread(other)))
    });
    if check.code() != Some(if looks_equal { 0 } else { 23 }) {
        failures.push(format!("check of rsync's work: {}", check.describe()));
    }
    for root in [&src, &ours, &theirs] {
        assert!(crate::support::remove_tree(root));
    }
    failures
        .into_iter()
        .map(|text| format!("seeds {seeds:?}, engine {engine}: {text}"))
        .collect()
}

/// ringsync's work against rsync's. Where rsync's is not what the source has (in rare cases it gets the group of an ACL
/// wrong), the source says what is right.
fn differences(
    source: &FullSnapshot,
    theirs: &FullSnapshot,
    ours: &FullSnapshot,
    any_size: bool,
) -> Option<String> {
    let mut text = String::new();
    for path in theirs.keys().filter(|path| !ours.contains_key(*path)) {
        let _ = writeln!(text, "lacks {}", path.escape_ascii());
    }
    for (path, made) in ours {
        let Some((right, reference)) = source.get(path).zip(theirs.get(path)) else {
            let _ = writeln!(text, "extra {}", path.escape_ascii());
            continue;
        };
        let expected = if same(made, right) { right } else { reference };
        let allocated_most = if any_size {
            u64::MAX
        } else {
            // Both make holes of zeros, each in its own steps.
            reference.allocated + 4 * HOLE_BYTES as u64
        };
        if let Some(how) = difference(expected, allocated_most, made) {
            let _ = writeln!(text, "{}: {how}", path.escape_ascii());
        }
    }
    (!text.is_empty()).then_some(text)
}

/// Equal in all but the space they take.
fn same(left: &FullState, right: &FullState) -> bool {
    (&left.node, &left.xattrs, &left.link) == (&right.node, &right.xattrs, &right.link)
}

fn difference(expected: &FullState, allocated_most: u64, made: &FullState) -> Option<String> {
    if !same(expected, made) {
        return Some(format!("is {made:?}\n    should be {expected:?}"));
    }
    (made.allocated > allocated_most)
        .then(|| format!("takes {} bytes, at most {allocated_most}", made.allocated))
}

const XATTR_NAMES: [&[u8]; 5] = [
    b"user.note",
    b"user.\xff odd\n",
    b"trusted.ringsync",
    b"trusted.other",
    b"security.capability",
];

fn random_rich(rng: &mut Rng) -> Rich {
    let mut rich = Rich {
        tree: random_tree(rng),
        ..Rich::default()
    };
    let paths: Vec<Vec<u8>> = rich.tree.nodes.keys().cloned().collect();
    for path in &paths {
        if rng.chance(5) {
            make_sparse(rich.tree.node(path), rng);
        }
        if rng.chance(40) {
            change_xattrs(&mut rich, path, rng);
        }
    }
    for _ in 0..rng.below(paths.len() / 3 + 1) {
        add_link(&mut rich, rng);
    }
    rich
}

fn make_sparse(node: &mut Node, rng: &mut Rng) {
    if let Kind::File(content) = &mut node.kind {
        content.resize(SPARSE_BYTES_MIN + rng.below(200_000), 0);
        for _ in 0..rng.below(4) {
            let at = rng.below(content.len() - 100);
            let bytes = rng.bytes(100);
            content[at..at + 100].copy_from_slice(&bytes);
        }
    }
}

/// A further name for something that is not a directory.
fn add_link(rich: &mut Rich, rng: &mut Rng) {
    let leaders: Vec<Vec<u8>> = rich
        .tree
        .nodes
        .iter()
        .filter(|(_, node)| node.kind != Kind::Dir)
        .map(|(path, _)| path.clone())
        .collect();
    if leaders.is_empty() {
        return;
    }
    let leader = rng.pick(&leaders).clone();
    let path = free_path(&rich.tree, rng);
    rich.links.entry(path).or_insert(leader);
}

/// The copy that is to be brought up to date.
fn changed(source: &Rich, rng: &mut Rng) -> Rich {
    if rng.chance(8) {
        return Rich::default();
    }
    let mut rich = source.clone();
    for _ in 0..rng.below(source.tree.nodes.len() + 1) {
        change(&mut rich, rng);
    }
    rich
}

fn change(rich: &mut Rich, rng: &mut Rng) {
    let paths: Vec<Vec<u8>> = rich.tree.nodes.keys().cloned().collect();
    let followers: Vec<Vec<u8>> = rich.links.keys().cloned().collect();
    if paths.is_empty() {
        return;
    }
    let path = rng.pick(&paths).clone();
    match rng.below(100) {
        0..40 => {
            let before = rich.tree.clone();
            mutate(&mut rich.tree, rng);
            touch_silent_changes(&before, &mut rich.tree, rng);
        }
        40..65 => change_xattrs(rich, &path, rng),
        65..75 => add_link(rich, rng),
        75..90 if !followers.is_empty() => break_link(rich, rng.pick(&followers).clone(), rng),
        _ => join(rich, path, rng),
    }
}

/// Contents that differ under an equal size and time are seen by nobody, and then it is open whose a joined inode gets.
fn touch_silent_changes(before: &Tree, after: &mut Tree, rng: &mut Rng) {
    for (path, node) in &mut after.nodes {
        let silent = |old: &Node| old.kind != node.kind && old.mtime == node.mtime;
        if before.nodes.get(path).is_some_and(silent) {
            node.mtime = random_time(rng);
        }
    }
}

/// A name gets an inode of its own: a copy, or nothing at all.
fn break_link(rich: &mut Rich, follower: Vec<u8>, rng: &mut Rng) {
    let leader = rich.links.remove(&follower).unwrap();
    let Some(node) = rich.tree.nodes.get(&leader).cloned() else {
        return;
    };
    let has_parent = match follower.iter().rposition(|byte| *byte == b'/') {
        Some(at) => rich.tree.nodes.get(&follower[..at]).is_some_and(is_dir),
        None => true,
    };
    let is_free = has_parent && !rich.tree.nodes.contains_key(&follower);
    if rng.chance(70) && !is_dir(&node) && is_free {
        if let Some(xattrs) = rich.xattrs.get(&leader).cloned() {
            rich.xattrs.insert(follower.clone(), xattrs);
        }
        rich.tree.nodes.insert(follower, node);
    }
}

fn is_dir(node: &Node) -> bool {
    node.kind == Kind::Dir
}

/// A file becomes a further name of another one.
fn join(rich: &mut Rich, path: Vec<u8>, rng: &mut Rng) {
    let is_leader = rich.links.values().any(|leader| *leader == path);
    if rich.tree.nodes[&path].kind == Kind::Dir || is_leader {
        return;
    }
    let node = rich.tree.nodes.remove(&path).unwrap();
    let xattrs = rich.xattrs.remove(&path);
    let leaders: Vec<Vec<u8>> = rich
        .tree
        .nodes
        .iter()
        .filter(|(_, node)| node.kind != Kind::Dir)
        .map(|(path, _)| path.clone())
        .collect();
    if leaders.is_empty() {
        rich.tree.nodes.insert(path.clone(), node);
        rich.xattrs.extend(xattrs.map(|xattrs| (path, xattrs)));
    } else {
        rich.links.insert(path, rng.pick(&leaders).clone());
    }
}

fn change_xattrs(rich: &mut Rich, path: &[u8], rng: &mut Rng) {
    let kind = rich.tree.nodes[path].kind.clone();
    let xattrs = rich.xattrs.entry(path.to_vec()).or_default();
    for _ in 0..=rng.below(2) {
        let name = *rng.pick(&XATTR_NAMES);
        if rng.chance(30) {
            xattrs.remove(name);
        } else if may_have(&kind, name) {
            xattrs.insert(name.to_vec(), random_value(name, rng));
        }
    }
    for (name, of) in [
        (&b"system.posix_acl_access"[..], true),
        (b"system.posix_acl_default", kind == Kind::Dir),
    ] {
        let takes_acls = of && !matches!(kind, Kind::Symlink(_));
        if takes_acls && rng.chance(40) {
            xattrs.insert(name.to_vec(), random_acl(rng));
        } else if rng.chance(30) {
            xattrs.remove(name);
        }
    }
}

/// The kernel has `user.*` on files and directories only; capabilities mean something on files.
fn may_have(kind: &Kind, name: &[u8]) -> bool {
    match kind {
        Kind::File(_) => true,
        Kind::Dir => !name.starts_with(b"security."),
        _ => name.starts_with(b"trusted."),
    }
}

fn random_value(name: &[u8], rng: &mut Rng) -> Vec<u8> {
    if name == b"security.capability" {
        // struct vfs_cap_data, revision 2: magic, then permitted and inheritable, low and high words.
        let mut value = 0x0200_0001_u32.to_le_bytes().to_vec();
        let permitted = u32::try_from(rng.below(1 << 16)).unwrap();
        value.extend(permitted.to_le_bytes());
        value.extend([0; 12]);
        return value;
    }
    let len = *rng.pick(&[0, 1, 31, 32, 33, 200, 700]);
    rng.bytes(len)
}

/// What the kernel writes: version 2, then tag, permissions and id of each entry, in the order of tags.
fn random_acl(rng: &mut Rng) -> Vec<u8> {
    const USER_OBJ: u16 = 0x01;
    const USER: u16 = 0x02;
    const GROUP_OBJ: u16 = 0x04;
    const GROUP: u16 = 0x08;
    const MASK: u16 = 0x10;
    const OTHER: u16 = 0x20;
    let mut entries = vec![(USER_OBJ, u32::MAX)];
    for (tag, object) in [(USER, GROUP_OBJ), (GROUP, MASK)] {
        for id in [1, 1000, 70_000] {
            if rng.chance(40) {
                entries.push((tag, id));
            }
        }
        entries.push((object, u32::MAX));
    }
    entries.push((OTHER, u32::MAX));
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, id) in entries {
        let permissions = u16::try_from(rng.below(8)).unwrap();
        acl.extend(tag.to_le_bytes());
        acl.extend(permissions.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    acl
}

impl Rich {
    /// With those extended attributes that are kept there.
    fn write_to(&self, root: &Path, keeps: fn(&[u8]) -> bool) {
        let at = |path: &[u8]| root.join(OsStr::from_bytes(path));
        self.tree.write_to(root);
        for (path, node) in &self.tree.nodes {
            // The others have their zeros in full.
            if let Kind::File(content) = &node.kind
                && content.len() >= SPARSE_BYTES_MIN
                && content.len() % 2 == 1
            {
                write_sparse(&at(path), content);
            }
        }
        for (follower, leader) in &self.links {
            // Changes may have taken the leader, the directory, or the name.
            let is_shareable = self
                .tree
                .nodes
                .get(leader)
                .is_some_and(|n| n.kind != Kind::Dir);
            let follower = at(follower);
            let has_parent = follower
                .parent()
                .is_some_and(|dir| fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir()));
            if is_shareable && has_parent && fs::symlink_metadata(&follower).is_err() {
                fs::hard_link(at(leader), &follower).unwrap();
            }
        }
        for (path, xattrs) in &self.xattrs {
            let Some(node) = self.tree.nodes.get(path) else {
                continue;
            };
            let carries = |name: &[u8]| match name {
                b"system.posix_acl_default" => node.kind == Kind::Dir,
                b"system.posix_acl_access" => !matches!(node.kind, Kind::Symlink(_)),
                name => may_have(&node.kind, name),
            };
            for (name, value) in xattrs
                .iter()
                .filter(|(name, _)| carries(name) && keeps(name))
            {
                set_xattr(&at(path), name, value);
            }
        }
        for (path, node) in &self.tree.nodes {
            set_mtime(&at(path), node.mtime);
        }
        set_mtime(root, LONG_AGO);
    }
}

/// The same bytes, with holes where there are none but zeros.
fn write_sparse(path: &Path, content: &[u8]) {
    let file = File::options()
        .write(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.set_len(content.len() as u64).unwrap();
    for (at, block) in content.chunks(HOLE_BYTES).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.write_all_at(block, (at * HOLE_BYTES) as u64).unwrap();
        }
    }
}
