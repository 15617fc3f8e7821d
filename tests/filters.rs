//! Filter rules: random ones must leave what the installed rsync leaves, and what rsync cannot show is tested by itself.
//!
//! A failure of a random case prints its seed; `RINGSYNC_SEED=N` runs that seed alone.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use support::rng::Rng;
use support::{
    Outcome, Pair, command, engines, ringsync, ringsync_as_nobody, rsync, run, skip_without_rsync,
    sync, sync_args, under_each_engine,
};

/// What a file, symlink or directory is, and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Dir,
    File(Vec<u8>),
    Link(String),
}

type Tree = BTreeMap<String, Node>;

fn write_tree(tree: &Tree, root: &Path) {
    fs::create_dir_all(root).unwrap();
    for (path, node) in tree {
        let path = root.join(path);
        match node {
            Node::Dir => fs::create_dir(&path).unwrap(),
            Node::File(contents) => fs::write(&path, contents).unwrap(),
            Node::Link(target) => std::os::unix::fs::symlink(target, &path).unwrap(),
        }
    }
}

/// Files of a tree in few words: `dir/` makes a directory, anything else a file.
fn plant(root: &Path, paths: &[&str]) {
    for path in paths {
        let full = root.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        if path.ends_with('/') {
            fs::create_dir_all(&full).unwrap();
        } else {
            fs::write(&full, path.as_bytes()).unwrap();
        }
    }
}

fn read_tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut dirs = vec![String::new()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(root.join(&dir)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{dir}{}", entry.file_name().to_str().unwrap());
            let kind = entry.file_type().unwrap();
            let node = if kind.is_dir() {
                dirs.push(format!("{path}/"));
                Node::Dir
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap();
                Node::Link(target.to_str().unwrap().to_owned())
            } else {
                Node::File(fs::read(entry.path()).unwrap())
            };
            tree.insert(path, node);
        }
    }
    tree
}

fn paths(root: &Path) -> Vec<String> {
    read_tree(root).into_keys().collect()
}

// ---- Against rsync --------------------------------------------------------------------------------------------------

const NAMES: [&str; 12] = [
    "a", "b", "ab", "ba", "c.o", "a.o", "d", "foo", "x[y]", "CVS", "core", "z~",
];
const PARTS: [&str; 22] = [
    "a",
    "b",
    "ab",
    "foo",
    "d",
    "*",
    "**",
    "***",
    "?",
    "a*",
    "*b",
    "*.o",
    "[ab]",
    "[!a]",
    "[^f]*",
    "?[a-c]",
    "[[:alpha:]]",
    "x\\[y\\]",
    "x[y]",
    "*~",
    "\\a*",
    "c.o",
];

fn random_tree(rng: &mut Rng) -> Tree {
    let mut tree = Tree::new();
    let mut dirs = vec![String::new()];
    for _ in 0..5 + rng.below(35) {
        let path = format!("{}{}", rng.pick(&dirs), rng.pick(&NAMES));
        if tree.contains_key(&path) {
            continue;
        }
        let node = match rng.below(10) {
            0..5 => Node::Dir,
            5..9 => {
                let len = *rng.pick(&[0, 1, 10, 1023, 1024, 1025, 3000]);
                Node::File(rng.bytes(len))
            }
            _ => Node::Link(String::from("a")),
        };
        if node == Node::Dir {
            dirs.push(format!("{path}/"));
        }
        tree.insert(path, node);
    }
    tree
}

/// Another tree that has much in common with `tree`.
fn mutated(tree: &Tree, rng: &mut Rng) -> Tree {
    let mut other = random_tree(rng);
    for (path, node) in tree {
        let parent_is_dir = path
            .rsplit_once('/')
            .is_none_or(|(parent, _)| other.get(parent) == Some(&Node::Dir));
        if parent_is_dir && !other.contains_key(path) && rng.chance(60) {
            other.insert(path.clone(), node.clone());
        }
    }
    other
}

fn random_pattern(rng: &mut Rng) -> String {
    let mut pattern = String::new();
    if rng.chance(20) {
        pattern.push('/');
    }
    let parts = 1 + rng.below(3);
    for at in 0..parts {
        if at > 0 && rng.chance(85) {
            pattern.push('/');
        }
        pattern.push_str(*rng.pick(&PARTS));
    }
    if rng.chance(8) {
        pattern.push_str("/***");
    } else if rng.chance(20) {
        pattern.push('/');
    }
    pattern
}

/// A rule for `--filter` or for a merge file.
fn random_rule(rng: &mut Rng) -> String {
    let sign = *rng.pick(&["-", "-", "-", "-", "+", "+", "H", "S", "P", "R"]);
    let mut modifiers = String::new();
    let allowed: &[&str] = if sign == "-" || sign == "+" {
        &["s", "r", "p", "!", "sr", "/"]
    } else {
        &["p", "!", "/"]
    };
    if rng.chance(25) {
        modifiers.push_str(*rng.pick(allowed));
    }
    let prefix = match (rng.below(4), sign) {
        (0, "-") => "exclude,",
        (0, "+") => "include,",
        (0, "H") => "hide,",
        (0, "P") => "protect,",
        (1, _) => &format!("{sign},"),
        _ => sign,
    };
    let separator = if rng.chance(80) { ' ' } else { '_' };
    format!("{prefix}{modifiers}{separator}{}", random_pattern(rng))
}

fn random_rules(rng: &mut Rng) -> Vec<String> {
    let mut options = Vec::new();
    for _ in 0..1 + rng.below(5) {
        let pattern = random_pattern(rng);
        options.push(match rng.below(10) {
            0..3 => format!("--exclude={pattern}"),
            3..5 => format!("--include={pattern}"),
            5 => format!("--exclude=+ {pattern}"),
            6 if rng.chance(20) => String::from("--filter=!"),
            _ => format!("--filter={}", random_rule(rng)),
        });
    }
    if rng.chance(10) {
        options.push(String::from("-C"));
    }
    if rng.chance(15) {
        options.push(String::from("--max-size=1K"));
    }
    if rng.chance(10) {
        options.push(String::from("--min-size=1kb"));
    }
    options
}

/// One side-by-side case: both programs start from the same trees, and must leave the same.
fn compare(src: &Tree, dst: &Tree, options: &[String], seed: u64) -> Option<String> {
    let pair = Pair::new();
    write_tree(src, &pair.src);
    let theirs = pair.scratch.path().join("theirs");
    write_tree(dst, &theirs);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let reference = rsync(
        &[&["-a", "-I"], options.as_slice()].concat(),
        &pair.src,
        &theirs,
    );
    let ours = pair.scratch.path().join("ours");
    write_tree(dst, &ours);
    let engine = engines()[usize::try_from(seed).unwrap() % 3];
    let outcome = sync(
        engine,
        &[&["-a", "-I"], options.as_slice()].concat(),
        &pair.src,
        &ours,
    );
    let (expected, found) = (read_tree(&theirs), read_tree(&ours));
    if expected == found && same_code(&reference, &outcome) {
        return None;
    }
    let only = |a: &Tree, b: &Tree| -> Vec<String> {
        let differing = a.iter().filter(|(path, node)| b.get(*path) != Some(node));
        differing.map(|(path, _)| path.clone()).collect()
    };
    Some(format!(
        "seed {seed} (RINGSYNC_SEED={seed} repeats it)\nonly rsync: {:?}\nonly ringsync: {:?}\nsource: {:?}\ndestination before: {:?}\n{}\n{}",
        only(&expected, &found),
        only(&found, &expected),
        src.iter()
            .map(|(path, node)| shown(path, node))
            .collect::<Vec<_>>(),
        dst.iter()
            .map(|(path, node)| shown(path, node))
            .collect::<Vec<_>>(),
        reference.describe(),
        outcome.describe()
    ))
}

fn same_code(reference: &Outcome, outcome: &Outcome) -> bool {
    reference.code() == outcome.code()
}

fn shown(path: &str, node: &Node) -> String {
    match node {
        Node::Dir => format!("{path}/"),
        Node::File(contents) if path.ends_with(".rules") => {
            format!("{path}: {:?}", String::from_utf8_lossy(contents))
        }
        Node::File(contents) => format!("{path} ({})", contents.len()),
        Node::Link(_) => format!("{path}@"),
    }
}

fn compare_all(seeds: Range<u64>, case: fn(&mut Rng, u64) -> Option<String>) {
    if skip_without_rsync() {
        return;
    }
    let seeds = match std::env::var("RINGSYNC_SEED") {
        Ok(only) => {
            let only = only.parse().expect("RINGSYNC_SEED is a number");
            only..only + 1
        }
        Err(_) => seeds,
    };
    let differing: Vec<String> = seeds
        .clone()
        .filter_map(|seed| case(&mut Rng::new(seed), seed))
        .collect();
    assert!(
        differing.is_empty(),
        "{} of {seeds:?} differ\n{}",
        differing.len(),
        differing[0]
    );
}

fn with_delete(rng: &mut Rng, seed: u64) -> Option<String> {
    let src = random_tree(rng);
    let dst = mutated(&src, rng);
    let mut options = random_rules(rng);
    options.push(String::from(*rng.pick(&[
        "--delete",
        "--delete",
        "--delete-after",
        "--delete-excluded",
    ])));
    compare(&src, &dst, &options, seed)
}

fn without_delete(rng: &mut Rng, seed: u64) -> Option<String> {
    let src = random_tree(rng);
    compare(&src, &Tree::new(), &random_rules(rng), seed)
}

#[test]
fn random_rules_0_to_149() {
    compare_all(0..150, with_delete);
}

#[test]
fn random_rules_150_to_299() {
    compare_all(150..300, with_delete);
}

#[test]
fn random_rules_without_delete() {
    compare_all(300..400, without_delete);
}

/// rsync reads the merge files of both sides; the files are copied first and are never left out, so that both sides have the
/// same ones.
fn with_merge_files(rng: &mut Rng, seed: u64) -> Option<String> {
    let mut src = random_tree(rng);
    let dst = mutated(&src, rng);
    let dirs: Vec<String> = src
        .iter()
        .filter(|(_, node)| **node == Node::Dir)
        .map(|(path, _)| format!("{path}/"))
        .chain([String::new()])
        .collect();
    let kind = *rng.pick(&["", "", "", "n", "s", "r", "-", "+", "p", "w-", "C"]);
    for dir in &dirs {
        if rng.chance(40) {
            src.insert(
                format!("{dir}.rules"),
                Node::File(random_merge_file(kind, rng)),
            );
        }
    }
    let mut options = vec![String::from("--filter=+ .rules")];
    if rng.chance(50) {
        options.extend(
            random_rules(rng)
                .into_iter()
                .filter(|rule| rule != "--filter=!"),
        );
    }
    options.retain(|option| !option.contains("size="));
    options.push(format!("--filter=:{kind} .rules"));
    if rng.chance(50) {
        options.extend(
            random_rules(rng)
                .into_iter()
                .filter(|rule| rule != "--filter=!"),
        );
    }
    options.retain(|option| !option.contains("size="));
    options.push(String::from("--delete-after"));
    compare(&src, &dst, &options, seed)
}

fn random_merge_file(kind: &str, rng: &mut Rng) -> Vec<u8> {
    let mut text = String::new();
    for _ in 0..1 + rng.below(3) {
        let rule = match kind {
            "-" | "+" | "w-" | "C" => random_pattern(rng),
            "s" | "r" => loop {
                // A rule must not name a side when the merge rule does.
                let rule = random_rule(rng);
                let head = rule.split([' ', '_']).next().unwrap();
                let names_side = head.starts_with(['H', 'S', 'P', 'R', 'h', 'p'])
                    || head
                        .trim_start_matches("exclude")
                        .trim_start_matches("include")
                        .contains(['s', 'r']);
                if !names_side {
                    break rule;
                }
            },
            _ if rng.chance(6) => String::from("!"),
            _ if rng.chance(6) => String::from("# a comment"),
            _ => random_rule(rng),
        };
        text += &rule;
        text += *rng.pick(&["\n", "\n", "\r\n", "\n\n"]);
    }
    text.into_bytes()
}

#[test]
fn random_merge_files_0_to_99() {
    compare_all(0..100, with_merge_files);
}

#[test]
fn random_merge_files_100_to_199() {
    compare_all(100..200, with_merge_files);
}
