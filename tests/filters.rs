//! Filter rules: random ones must leave what the installed rsync leaves, and what rsync cannot show is tested by itself.
//!
//! A failure of a random case prints its seed; `RINGSYNC_SEED=N` runs that seed alone.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use support::rng::Rng;
use support::{
    Outcome, Pair, command, ringsync, ringsync_as_nobody, rsync, run, skip_without_rsync, sync,
    sync_args, under_each_engine,
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
        pattern.push_str(rng.pick::<&str>(&PARTS));
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
        modifiers.push_str(rng.pick::<&str>(allowed));
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
    for _ in 0..=rng.below(5) {
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
    compare_but(src, dst, options, seed, &[])
}

/// Directories at `may_make` need not be left out where rsync leaves them out.
fn compare_but(
    src: &Tree,
    dst: &Tree,
    options: &[String],
    seed: u64,
    may_make: &[String],
) -> Option<String> {
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
    let engine = match seed % 10 {
        0 => "ring",
        1..5 => "auto",
        _ => "inline",
    };
    // Some cases delete nearly everything, and mean it.
    let deletes = options.iter().any(|option| option.starts_with("--delete"));
    let first: &[&str] = if deletes {
        &["-a", "-I", "--force-delete"]
    } else {
        &["-a", "-I"]
    };
    let outcome = sync(
        engine,
        &[first, options.as_slice()].concat(),
        &pair.src,
        &ours,
    );
    let (expected, mut found) = (read_tree(&theirs), read_tree(&ours));
    found.retain(|path, _| expected.contains_key(path) || !may_make.contains(path));
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
        Node::File(contents) if Path::new(path).file_name() == Some(".rules".as_ref()) => {
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

/// rsync reads the merge files of both sides; the files are copied first and are never left out, so that both sides have the
/// same ones.
fn with_merge_files(rng: &mut Rng, seed: u64) -> Option<String> {
    let mut src = random_tree(rng);
    let mut dst = mutated(&src, rng);
    // rsync makes way for a file before it has the merge files that would protect something.
    dst.retain(|path, _| {
        let mut above = path.match_indices('/').map(|(at, _)| &path[..at]);
        let is_file = |path: &str| src.get(path).is_some_and(|node| *node != Node::Dir);
        !is_file(path) && !above.any(is_file)
    });
    let dirs: Vec<String> = src
        .iter()
        // rsync takes the directory of a merge file for a part of the patterns in it, brackets included.
        .filter(|(path, node)| **node == Node::Dir && !path.contains('['))
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
    for _ in 0..=rng.below(3) {
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

/// Lists of paths that are there, that are not, and that are written in odd ways.
fn with_list(rng: &mut Rng, seed: u64) -> Option<String> {
    let src = random_tree(rng);
    let mut dst = mutated(&src, rng);
    let known: Vec<&String> = src.keys().collect();
    let mut list = String::from("# a comment\n\n");
    for _ in 0..=rng.below(6) {
        let path = rng.pick(&known).as_str();
        // rsync follows a symlink that is listed with a slash behind it; ringsync never leaves the source that way.
        let slash = if src[path] == Node::Dir && rng.chance(40) {
            "/"
        } else {
            ""
        };
        let line = match rng.below(10) {
            0 => String::from("no-such/path"),
            1 => format!("//{path}{slash}"),
            2 => format!("../b/../{path}{slash}"),
            _ => format!("{path}{slash}"),
        };
        list += &line;
        list += *rng.pick(&["\n", "\r\n"]);
    }
    let scratch = support::Scratch::new();
    let file = scratch.path().join("list");
    fs::write(&file, &list).unwrap();
    let mut options = vec![format!("--files-from={}", file.display())];
    if rng.chance(50) {
        options.push(String::from("-r"));
    }
    if rng.chance(40) {
        options.extend(random_rules(rng));
    }
    if rng.chance(50) {
        options.push(String::from("--delete"));
    }
    // rsync leaves out the directories on the way to what a rule hides; ringsync makes them before it gets there.
    let ways: Vec<String> = known
        .iter()
        .filter(|path| src[**path] == Node::Dir && list.contains(&format!("{path}/")))
        .map(|path| String::from(*path))
        .collect();
    dst.retain(|path, node| *node == Node::Dir || !ways.contains(path));
    compare_but(&src, &dst, &options, seed, &ways).map(|report| format!("{report}\nlist: {list:?}"))
}

/// One test for each range of seeds, so that they run side by side.
macro_rules! seeds {
    ($($name:ident: $seeds:expr, $case:expr;)+) => {
        $( #[test] fn $name() { compare_all($seeds, $case); } )+
    };
}

seeds! {
    rules_seeds_0_to_49: 0..50, with_delete;
    rules_seeds_50_to_99: 50..100, with_delete;
    rules_seeds_100_to_149: 100..150, with_delete;
    rules_seeds_150_to_199: 150..200, with_delete;
    rules_seeds_200_to_249: 200..250, with_delete;
    rules_seeds_250_to_299: 250..300, with_delete;
    rules_without_delete_0_to_49: 300..350, without_delete;
    rules_without_delete_50_to_99: 350..400, without_delete;
    merge_files_seeds_0_to_49: 0..50, with_merge_files;
    merge_files_seeds_50_to_99: 50..100, with_merge_files;
    merge_files_seeds_100_to_149: 100..150, with_merge_files;
    merge_files_seeds_150_to_199: 150..200, with_merge_files;
    lists_seeds_0_to_49: 0..50, with_list;
    lists_seeds_50_to_99: 50..100, with_list;
    lists_seeds_100_to_149: 100..150, with_list;
}

// ---- What rsync cannot show, and what must not depend on chance -----------------------------------------------------

under_each_engine!(
    protects_what_is_excluded_deep_in_a_removed_directory,
    delete_excluded_spares_only_what_a_rule_protects,
    merge_files_hold_below_their_directory,
    a_directory_with_a_wrong_merge_file_is_left_alone,
    sizes_skip_files_and_keep_their_copies,
    a_list_takes_only_its_paths,
    a_directory_in_the_way_keeps_what_is_protected,
);

fn protects_what_is_excluded_deep_in_a_removed_directory(engine: &str) {
    for delete in ["--delete", "--delete-after"] {
        let pair = Pair::new();
        plant(&pair.src, &["a"]);
        plant(
            &pair.dst,
            &[
                "gone/x",
                "gone/deep/keep.o",
                "gone/deep/y",
                "gone/empty/",
                "old/z.p",
            ],
        );
        let rules = ["-f", "-p *.p", "--exclude=*.o", delete];
        pair.sync(engine, &rules).exits(0);
        assert_eq!(
            paths(&pair.dst),
            ["a", "gone", "gone/deep", "gone/deep/keep.o"],
            "{delete}"
        );
    }
}

fn delete_excluded_spares_only_what_a_rule_protects(engine: &str) {
    let pair = Pair::new();
    plant(&pair.src, &["a", "b.o"]);
    plant(&pair.dst, &["b.o", "c.o", "keep", "x"]);
    let rules = [
        "--delete-excluded",
        "--exclude=*.o",
        "-f",
        "P keep",
        "-f",
        "-sr x",
    ];
    pair.sync(engine, &rules).exits(0);
    assert_eq!(paths(&pair.dst), ["a", "keep", "x"]);
}

fn merge_files_hold_below_their_directory(engine: &str) {
    let pair = Pair::new();
    plant(
        &pair.src,
        &["a/x.o", "a/b/x.o", "a/b/top", "a/top", "c/x.o", "c/top"],
    );
    fs::write(pair.src.join("a/.rsync-filter"), "- *.o\n- /top\n").unwrap();
    fs::write(pair.src.join("a/b/.rsync-filter"), "+ x.o\n").unwrap();
    // Of the destination's own merge files nothing is read, and what only it has is judged by the parent's rules.
    plant(&pair.dst, &["a/gone/keep.o", "a/gone/y", "c/y"]);
    fs::write(pair.dst.join("c/.rsync-filter"), "P y\n").unwrap();
    pair.sync(engine, &["-FF", "--delete", "-f", "R .rsync-filter"])
        .exits(0);
    let expected = [
        "a",
        "a/b",
        "a/b/top",
        "a/b/x.o",
        "a/gone",
        "a/gone/keep.o",
        "c",
        "c/.rsync-filter",
        "c/top",
        "c/x.o",
    ];
    assert_eq!(paths(&pair.dst), expected);
}

fn a_directory_with_a_wrong_merge_file_is_left_alone(engine: &str) {
    let make = |message: &str, file: &Path| match message {
        "unknown filter rule" => fs::write(file, "nonsense\n").unwrap(),
        "not a regular file" => fs::create_dir(file).unwrap(),
        _ => std::os::unix::fs::symlink("x", file).unwrap(),
    };
    for message in [
        "unknown filter rule",
        "not a regular file",
        "symbolic links",
    ] {
        let pair = Pair::new();
        plant(&pair.src, &["a/new", "a/sub/new", "b/new"]);
        make(message, &pair.src.join("a/.rules"));
        plant(&pair.dst, &["a/old", "a/sub/old", "b/old"]);
        pair.sync(engine, &["--delete", "-f", ": .rules"])
            .exits(23)
            .complains_of(&["read filter rules in source 'a/.rules'"])
            .complains_of(&[message]);
        assert_eq!(
            paths(&pair.dst),
            ["a", "a/old", "a/sub", "a/sub/old", "b", "b/new"]
        );
    }
}

fn sizes_skip_files_and_keep_their_copies(engine: &str) {
    let pair = Pair::new();
    fs::write(pair.src.join("large"), [1; 2000]).unwrap();
    fs::write(pair.src.join("small"), [1; 10]).unwrap();
    fs::write(pair.src.join("right"), [1; 1000]).unwrap();
    fs::write(pair.dst.join("large"), b"old").unwrap();
    let options = ["--max-size=1kb", "--min-size=11b", "--delete", "--json"];
    let outcome = pair.sync(engine, &options);
    assert_eq!(outcome.exits(0).count("entries_skipped"), 2);
    assert_eq!(paths(&pair.dst), ["large", "right"]);
    assert_eq!(fs::read(pair.dst.join("large")).unwrap(), b"old");
}

fn a_list_takes_only_its_paths(engine: &str) {
    let pair = Pair::new();
    plant(
        &pair.src,
        &[
            "a/x",
            "a/y",
            "dir/in/deep",
            "dir/z",
            "whole/in/deep",
            "whole/z",
            "not",
        ],
    );
    plant(&pair.dst, &["a/old", "whole/old", "old"]);
    let list = pair.scratch.path().join("list");
    fs::write(&list, "a/x\0dir\0/whole/\0missing\0").unwrap();
    let list = list.to_str().unwrap();
    for delete in ["--delete-after", "--delete"] {
        pair.sync(engine, &["-0", "--files-from", list, delete])
            .exits(23)
            .complains_of(&["'missing': it is on the list"]);
        assert_eq!(
            paths(&pair.dst),
            [
                "a", "a/old", "a/x", "dir", "old", "whole", "whole/in", "whole/z"
            ],
            "{delete}"
        );
    }
    pair.sync(
        engine,
        &["-r", "-0", "--files-from", list, "--exclude=missing"],
    )
    .exits(0);
    assert!(pair.dst.join("dir/in/deep").exists() && pair.dst.join("whole/in/deep").exists());
    assert!(!pair.dst.join("not").exists() && !pair.dst.join("a/y").exists());
}

fn a_directory_in_the_way_keeps_what_is_protected(engine: &str) {
    let pair = Pair::new();
    plant(&pair.src, &["a", "b"]);
    plant(&pair.dst, &["a/x", "a/deep/keep.o", "b/x"]);
    pair.sync(engine, &["--delete", "--exclude=*.o"])
        .exits(23)
        .complains_of(&["a filter rule protects something in it"]);
    assert_eq!(paths(&pair.dst), ["a", "a/deep", "a/deep/keep.o", "b"]);
}

#[test]
fn an_excluded_directory_is_never_opened() {
    let pair = Pair::new();
    plant(&pair.src, &["a", "closed/x"]);
    fs::set_permissions(pair.src.join("closed"), fs::Permissions::from_mode(0o000)).unwrap();
    support::give_to_nobody(pair.scratch.path());
    let args = |options: &[&str]| sync_args("inline", options, &pair.src, &pair.dst);
    ringsync_as_nobody(&pair.scratch, &args(&["--exclude=closed"])).exits(0);
    assert_eq!(paths(&pair.dst), ["a"]);
    // The directory does close the way when it is not excluded.
    ringsync_as_nobody(&pair.scratch, &args(&[])).exits(23);
}

#[test]
fn a_hidden_entry_is_never_even_looked_at() {
    if !support::command_exists("strace") {
        return support::skip("strace is not installed");
    }
    let pair = Pair::new();
    plant(&pair.src, &["seen", "secret/x", "secret.o", "sub/secret.o"]);
    plant(&pair.dst, &["secret.o"]);
    let log = pair.scratch.path().join("calls");
    let strace = [
        OsString::from("-f"),
        "-o".into(),
        log.clone().into(),
        support::BINARY.into(),
    ];
    let args = sync_args(
        "inline",
        &["--exclude=secret*", "--delete"],
        &pair.src,
        &pair.dst,
    );
    let outcome = run(command("strace", &[strace.to_vec(), args].concat()));
    if outcome.err().contains("ptrace") {
        return support::skip("strace may not trace here");
    }
    outcome.exits(0);
    let calls = fs::read_to_string(log).unwrap();
    assert!(calls.contains("\"seen\""), "the log shows names");
    let looked: Vec<&str> = calls
        .lines()
        .filter(|line| line.contains("\"secret") && !line.contains("execve"))
        .collect();
    assert!(looked.is_empty(), "{looked:#?}");
}

/// More entries than one shard takes alone, on both sides.
#[test]
fn a_giant_directory_obeys_in_all_its_parts() {
    const SOURCE: usize = 70_000;
    const DEST: usize = 6_000;
    let pair = Pair::new();
    let plant_many = |dir: &Path, prefix: &str, count: usize| {
        for number in 0..count {
            let suffix = ["o", "txt", "tmp"][number % 3];
            fs::File::create(dir.join(format!("{prefix}{number}.{suffix}"))).unwrap();
        }
    };
    plant_many(&pair.src, "both", SOURCE);
    plant_many(&pair.dst, "dest", DEST);
    fs::create_dir(pair.src.join("dir.o")).unwrap();
    fs::write(pair.dst.join("both2.tmp"), b"hidden, not protected").unwrap();
    let rules = [
        "--force-delete",
        "--include=*.o/",
        "--exclude=*.o",
        "-f",
        "H *.tmp",
        "--json",
    ];
    for delete in ["--delete-after", "--delete"] {
        let outcome = pair.sync("inline", &[&rules[..], &[delete]].concat());
        let excluded = outcome.exits(0).count("entries_excluded");
        assert_eq!(excluded, (SOURCE - SOURCE / 3) as u64);
        let left = paths(&pair.dst);
        let with = |prefix: &str, suffix: &str| {
            let matches = |path: &&String| path.starts_with(prefix) && path.ends_with(suffix);
            left.iter().filter(matches).count()
        };
        assert_eq!(with("both", ".txt"), SOURCE / 3);
        assert_eq!(with("dest", ".o"), DEST / 3);
        assert_eq!(with("dir", ".o"), 1);
        assert_eq!(left.len(), SOURCE / 3 + DEST / 3 + 1);
    }
}

#[test]
fn what_rules_protect_is_no_alarming_loss() {
    let pair = Pair::new();
    plant(&pair.src, &["a"]);
    let names: Vec<String> = (0..50).map(|number| format!("{number}.o")).collect();
    plant(
        &pair.dst,
        &names.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    pair.sync("inline", &["--delete"])
        .exits(3)
        .complains_of(&["refused to delete"]);
    let list = pair.scratch.path().join("list");
    fs::write(&list, "a\n").unwrap();
    pair.sync("inline", &["--delete", "--exclude=*.o"]).exits(0);
    pair.sync(
        "inline",
        &["--delete", "--files-from", list.to_str().unwrap()],
    )
    .exits(0);
    assert_eq!(paths(&pair.dst).len(), 51);
}

#[test]
fn merge_files_above_the_source_count_too() {
    let pair = Pair::new();
    plant(&pair.src, &["a.o", "b.o", "sub/c", "sub/d", "d"]);
    let above = pair.scratch.path().join(".rsync-filter");
    fs::write(above, "+ b.o\n- *.o\n- /src/d\n- /sub\n").unwrap();
    plant(&pair.dst, &["old.o", "d"]);
    pair.sync("inline", &["-F", "--delete"]).exits(0);
    assert_eq!(
        paths(&pair.dst),
        ["b.o", "d", "old.o", "sub", "sub/c", "sub/d"]
    );
}

#[test]
fn files_of_rules_may_come_from_standard_input() {
    let pair = Pair::new();
    plant(&pair.src, &["a.o", "b", "c", "#d"]);
    let rules = pair.scratch.path().join("rules");
    fs::write(&rules, "# a comment\n\n; another\r\n+ a.o\n*.o\nb\n").unwrap();
    let feed = |args: &[&str]| {
        let mut command = command(
            support::BINARY,
            &sync_args("inline", args, &pair.src, &pair.dst),
        );
        command.stdin(fs::File::open(&rules).unwrap());
        run(command)
    };
    feed(&["--exclude-from=-"]).exits(0);
    assert_eq!(paths(&pair.dst), ["#d", "a.o", "c"]);
    feed(&["--exclude-from=-", "--files-from=-"])
        .exits(1)
        .complains_of(&["standard input was read already"]);
    fs::write(&rules, "c\nb\n").unwrap();
    feed(&["--files-from=-", "--exclude=b"]).exits(0);
}

#[test]
fn scan_and_check_obey_rules() {
    let pair = Pair::new();
    plant(&pair.src, &["a", "b.o", "dir/c.o"]);
    plant(&pair.dst, &["a", "dir/d.o"]);
    pair.sync("inline", &["--exclude=*.o"]).exits(0);
    let (src, dst) = (pair.src.to_str().unwrap(), pair.dst.to_str().unwrap());
    ringsync(&["check", "--exclude=*.o", src, dst]).exits(0);
    ringsync(&["check", src, dst]).exits(23);
    let outcome = ringsync(&["scan", "--json", "-f", "- *.o", src]);
    assert_eq!(outcome.exits(0).count("entries_found"), 2);
    assert_eq!(outcome.count("entries_excluded"), 2);
}

#[test]
fn wrong_options_are_refused_with_what_is_allowed() {
    let pair = Pair::new();
    let rows: [(&[&str], &str); 14] = [
        (&["-f", "nonsense"], "unknown filter rule"),
        (&["-f", "-x user.*"], "not offered"),
        (&["-f", "-q a"], "allowed are / ! C p r s"),
        (&["-f", "H,s a"], "allowed are / ! p"),
        (&["-f", ":! a"], "allowed are / C e n p r s w"),
        (&["-f", "-"], "ends without a pattern"),
        (&["-f", "! x"], "nothing may follow"),
        (&["-f", ". /no/such/file"], "cannot read '/no/such/file'"),
        (&["-f", ": a/"], "names a file"),
        (&["--exclude-from=/no/such"], "--exclude-from '/no/such'"),
        (&["--files-from=/no/such"], "--files-from '/no/such'"),
        (&["--max-size=many"], "--max-size: 'many' is not a size"),
        (&["--min-size=-1"], "is not a size"),
        (&["--delete-after", "--max-delete=x"], "invalid"),
    ];
    for (options, message) in rows {
        pair.sync("inline", options)
            .exits(1)
            .complains_of(&[message]);
    }
    let list = pair.scratch.path().join("list");
    fs::write(&list, "a/./b\n").unwrap();
    pair.sync("inline", &["--files-from", list.to_str().unwrap()])
        .exits(1)
        .complains_of(&["another path in the destination"]);
}

#[test]
fn left_over_temporary_files_go_unless_their_file_is_protected() {
    let pair = Pair::new();
    plant(&pair.src, &["a"]);
    let strays = [".a.rs-00000001", ".keep.o.rs-00000002"];
    plant(&pair.dst, &strays);
    for stray in strays {
        let old = fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
        let file = fs::File::options().write(true).open(pair.dst.join(stray));
        file.unwrap().set_times(old).unwrap();
    }
    pair.sync("inline", &["--exclude=.*", "--exclude=*.o"])
        .exits(0);
    assert_eq!(paths(&pair.dst), [".keep.o.rs-00000002", "a"]);
}
