//! A name that is one kind of thing in the source and another in the destination, for every pair of kinds.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use support::snap::{
    Snapshot, assert_equal_trees, assert_same, assert_untouched, snapshot, stamps,
};
use support::tree::{Kind, Node, Tree};
use support::{
    Pair, give_to_nobody, is_root, ringsync_as_nobody, skip_unless_root, sync_args,
    under_each_engine,
};

under_each_engine!(
    delete_replaces_every_kind_by_every_other,
    force_replaces_too_but_deletes_nothing_else,
    without_either_a_full_directory_stays,
    dry_run_of_type_changes_touches_nothing,
    planted_symlinks_are_replaced_and_never_followed,
    a_file_that_cannot_be_copied_costs_no_directory_in_its_way,
);

const FULL: &str = "full";

fn kinds() -> Vec<&'static str> {
    let mut kinds = vec!["file", "empty", FULL, "link", "fifo", "socket"];
    if is_root() {
        kinds.push("device");
    }
    kinds
}

/// Puts a node of the kind at the name; `side` makes contents differ.
fn put(tree: &mut Tree, name: &str, kind: &str, side: &str) {
    let _: &mut Node = match kind {
        "file" => tree.file(name, side),
        "empty" => tree.dir(name),
        FULL => tree.file(format!("{name}/of {side}/child"), side),
        "link" => tree.symlink(name, side),
        "fifo" => tree.add(name, Kind::Fifo),
        "socket" => tree.add(name, Kind::Socket),
        "device" => tree.add(name, Kind::CharDevice(1, 5)),
        other => panic!("no kind {other}"),
    };
}

/// Source and destination with one name for each ordered pair of kinds: `DST becomes SRC`.
fn matrix() -> Pair {
    let pair = Pair::new();
    let (mut src, mut dst) = (Tree::new(), Tree::new());
    for old in kinds() {
        for new in kinds().into_iter().filter(|new| *new != old) {
            let name = format!("{old} becomes {new}");
            put(&mut src, &name, new, "source");
            put(&mut dst, &name, old, "destination");
        }
    }
    src.write_to(&pair.src);
    dst.write_to(&pair.dst);
    pair
}

fn below(tree: &Snapshot, name: &str) -> Snapshot {
    let inside = format!("{name}/");
    let belongs = |path: &[u8]| path == name.as_bytes() || path.starts_with(inside.as_bytes());
    tree.iter()
        .filter(|(path, _)| belongs(path))
        .map(|(path, state)| (path.clone(), state.clone()))
        .collect()
}

/// An emptied directory is no type change: without `--delete` its old children stay.
fn with_kept_children(mut expected: Snapshot, before: &Snapshot) -> Snapshot {
    let mut children = below(before, "full becomes empty");
    children.remove(&b"full becomes empty"[..]);
    expected.extend(children);
    expected
}

fn delete_replaces_every_kind_by_every_other(engine: &str) {
    for options in [
        &["--delete"][..],
        &["--delete-after"],
        &["--delete", "--write-mode", "direct"],
    ] {
        let pair = matrix();
        pair.sync(engine, options).exits(0);
        assert_equal_trees(&pair.src, &pair.dst);
    }
}

fn force_replaces_too_but_deletes_nothing_else(engine: &str) {
    let pair = matrix();
    let expected = with_kept_children(snapshot(&pair.src), &snapshot(&pair.dst));
    pair.sync(engine, &["--force"]).exits(0);
    assert_same(&expected, &snapshot(&pair.dst), "expected", "destination");
}

fn without_either_a_full_directory_stays(engine: &str) {
    let pair = matrix();
    let before = snapshot(&pair.dst);
    let mut expected = with_kept_children(snapshot(&pair.src), &before);
    for new in kinds()
        .into_iter()
        .filter(|new| *new != FULL && *new != "empty")
    {
        let name = format!("full becomes {new}");
        expected.remove(name.as_bytes());
        expected.extend(below(&before, &name));
    }
    let outcome = pair.sync(engine, &[]);
    outcome.exits(23).complains_of(&["full becomes file"]);
    assert_same(&expected, &snapshot(&pair.dst), "expected", "destination");
}

fn dry_run_of_type_changes_touches_nothing(engine: &str) {
    let pair = matrix();
    let before = stamps(&pair.dst);
    pair.sync(engine, &["-n", "--delete"]).exits(0);
    pair.sync(engine, &["-n", "--force"]).exits(0);
    assert_untouched(&before, &pair.dst);
}

/// The destination holds symlinks out of it where the source has files and directories.
fn planted_symlinks_are_replaced_and_never_followed(engine: &str) {
    let option_sets = [
        &[][..],
        &["--delete"],
        &["--write-mode", "direct"],
        &["--write-mode", "direct", "--delete"],
    ];
    for options in option_sets {
        let pair = Pair::new();
        let outside = pair.scratch.dir("outside");
        let mut victim = Tree::new();
        victim.file("file", "victim");
        victim.file("dir/file", "victim");
        victim.file("dir/extra", "victim");
        victim.write_to(&outside);

        let mut tree = Tree::new();
        tree.file("file", "source");
        tree.file("new/file", "source");
        tree.file("dir/file", "source");
        tree.file("dir/inner/file", "source");
        tree.write_to(&pair.src);
        symlink(outside.join("file"), pair.dst.join("file")).unwrap();
        symlink(outside.join("not there"), pair.dst.join("new")).unwrap();
        symlink(outside.join("dir"), pair.dst.join("dir")).unwrap();

        let before = stamps(&outside);
        pair.sync(engine, options).exits(0);
        assert_untouched(&before, &outside);
        assert_equal_trees(&pair.src, &pair.dst);
        assert!(fs::symlink_metadata(pair.dst.join("dir")).unwrap().is_dir());
    }
}

fn a_file_that_cannot_be_copied_costs_no_directory_in_its_way(engine: &str) {
    if skip_unless_root("everything can be read by its owner") {
        return;
    }
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("name", "nobody may read this").mode(0o600);
    tree.write_to(&pair.src);
    let mut tree = Tree::new();
    tree.file("name/precious", "the only copy");
    tree.write_to(&pair.dst);
    give_to_nobody(&pair.dst);
    let args = sync_args(
        engine,
        &["--delete", "--force-delete"],
        &pair.src,
        &pair.dst,
    );
    let outcome = ringsync_as_nobody(&pair.scratch, &args);
    outcome.exits(23).complains_of(&["name", "EACCES"]);
    let kept = fs::read(pair.dst.join("name/precious")).unwrap();
    assert_eq!(kept, b"the only copy");
}
