//! Deleting: what is extraneous goes, exactly that, and nothing when the source could not be seen.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use support::snap::{assert_equal_trees, assert_untouched, snapshot, stamps};
use support::tree::{Kind, Tree, all_kinds, odd_names};
use support::{Outcome, Pair, is_root, ringsync_as_nobody, sync_args, under_each_engine};

under_each_engine!(
    extraneous_entries_stay_without_delete,
    extraneous_entries_of_every_kind_go,
    whole_subtrees_go,
    max_delete_is_exact_in_one_directory,
    max_delete_is_exact_over_many_directories,
    max_delete_counts_what_it_keeps,
    missing_source_deletes_nothing,
    source_that_is_a_file_deletes_nothing,
    unlistable_source_directory_protects_its_copy_only,
    unsearchable_source_directory_protects_its_copies,
    unreadable_source_file_keeps_its_copy,
);

fn extraneous_entries_stay_without_delete(engine: &str) {
    let pair = Pair::new();
    all_kinds().write_to(&pair.dst);
    let before = snapshot(&pair.dst);
    let mut tree = Tree::new();
    tree.file("new", "new");
    tree.write_to(&pair.src);
    pair.sync(engine, &[]).exits(0);
    let mut after = snapshot(&pair.dst);
    assert!(after.remove(&b"new"[..]).is_some());
    support::snap::assert_same(&before, &after, "before", "after");
}

fn extraneous_entries_of_every_kind_go(engine: &str) {
    for option in ["--delete", "--delete-after"] {
        let pair = Pair::new();
        let mut tree = Tree::new();
        tree.file("kept", "kept");
        tree.file("dir/kept", "kept");
        tree.write_to(&pair.src);
        let mut extra = all_kinds();
        extra.nodes.extend(odd_names().nodes);
        extra.file("dir/extra", "extra");
        extra.write_to(&pair.dst);
        pair.sync(engine, &[option, "--force-delete"]).exits(0);
        assert_equal_trees(&pair.src, &pair.dst);
    }
}

fn whole_subtrees_go(engine: &str) {
    let pair = Pair::new();
    let mut tree = Tree::new();
    for outer in 0..10 {
        for inner in 0..10 {
            for file in 0..10 {
                tree.file(format!("{outer}/{inner}/{file}"), "");
            }
        }
    }
    tree.write_to(&pair.dst);
    let outcome = pair.sync(engine, &["--delete", "--force-delete", "-i"]);
    outcome.exits(0);
    Tree::new().write_to(&pair.src);
    assert!(
        snapshot(&pair.dst).len() == 1,
        "left: {:?}",
        snapshot(&pair.dst).keys()
    );
    let deleted = outcome
        .itemized()
        .iter()
        .filter(|line| line.starts_with("*deleting "))
        .count();
    assert_eq!(deleted, 1110, "{}", outcome.describe());
}

fn entries(root: &Path) -> usize {
    snapshot(root).len() - 1
}

fn max_delete_is_exact_in_one_directory(engine: &str) {
    for (limit, left) in [("37", 63), ("0", 100), ("99", 1)] {
        let pair = Pair::new();
        let mut tree = Tree::new();
        for number in 0..100 {
            tree.file(format!("extra {number}"), "");
        }
        tree.write_to(&pair.dst);
        let options = ["--delete", "--force-delete", "--max-delete", limit];
        pair.sync(engine, &options).exits(25);
        assert_eq!(entries(&pair.dst), left, "--max-delete {limit}");
    }
    for limit in ["100", "101"] {
        let pair = Pair::new();
        let mut tree = Tree::new();
        for number in 0..100 {
            tree.file(format!("extra {number}"), "");
        }
        tree.write_to(&pair.dst);
        let options = ["--delete", "--force-delete", "--max-delete", limit];
        pair.sync(engine, &options).exits(0);
        assert_eq!(entries(&pair.dst), 0, "--max-delete {limit}");
    }
}

/// Directories that both sides have land on different shards, which share the one allowance.
fn max_delete_is_exact_over_many_directories(engine: &str) {
    for option in ["--delete", "--delete-after"] {
        let pair = Pair::new();
        let (mut src, mut dst) = (Tree::new(), Tree::new());
        for dir in 0..40 {
            src.file(format!("{dir}/kept"), "");
            dst.file(format!("{dir}/kept"), "");
            for file in 0..10 {
                dst.file(format!("{dir}/extra {file}"), "");
            }
        }
        src.write_to(&pair.src);
        dst.write_to(&pair.dst);
        let before = entries(&pair.dst);
        pair.sync(engine, &[option, "--max-delete", "37"]).exits(25);
        assert_eq!(before - entries(&pair.dst), 37, "{option}");
        for dir in 0..40 {
            assert!(pair.dst.join(format!("{dir}/kept")).exists());
        }
    }
}

/// Each entry of a subtree counts, as in rsync: a subtree larger than the allowance is not removed in one go.
fn max_delete_counts_what_it_keeps(engine: &str) {
    let pair = Pair::new();
    let mut tree = Tree::new();
    for dir in 0..10 {
        for file in 0..9 {
            tree.file(format!("extra {dir}/{file}"), "");
        }
    }
    tree.write_to(&pair.dst);
    assert_eq!(entries(&pair.dst), 100);
    let options = ["--delete", "--force-delete", "--max-delete", "37"];
    let outcome = pair.sync(engine, &options);
    let words = outcome.exits(25).out() + &outcome.err();
    assert!(words.contains("max-delete"), "{}", outcome.describe());
    assert_eq!(entries(&pair.dst), 63, "{}", outcome.describe());
}

fn missing_source_deletes_nothing(engine: &str) {
    let pair = Pair::new();
    all_kinds().write_to(&pair.dst);
    let before = stamps(&pair.dst);
    let missing = pair.scratch.path().join("not there");
    let outcome = support::sync(engine, &["--delete"], &missing, &pair.dst);
    outcome.exits(3).complains_of(&["not there"]);
    assert_untouched(&before, &pair.dst);
}

fn source_that_is_a_file_deletes_nothing(engine: &str) {
    let pair = Pair::new();
    all_kinds().write_to(&pair.dst);
    let before = stamps(&pair.dst);
    let file = pair.scratch.path().join("a file");
    fs::write(&file, "not a directory").unwrap();
    let outcome = support::sync(engine, &["--delete"], &file, &pair.dst);
    outcome.exits(3).complains_of(&["a file"]);
    assert_untouched(&before, &pair.dst);
}

/// Hands both trees to `nobody` and syncs them as that user, whom modes bind as they do not bind root.
fn sync_unprivileged(engine: &str, options: &[&str], pair: &Pair) -> Outcome {
    if is_root() {
        support::give_to_nobody(&pair.src);
        support::give_to_nobody(&pair.dst);
    }
    let args = sync_args(engine, options, &pair.src, &pair.dst);
    ringsync_as_nobody(&pair.scratch, &args)
}

fn unlistable_source_directory_protects_its_copy_only(engine: &str) {
    for option in ["--delete", "--delete-after"] {
        let pair = Pair::new();
        let mut tree = Tree::new();
        tree.file("closed/file", "new content");
        tree.file("closed/dir/file", "new content");
        tree.file("open/file", "new content");
        tree.node("closed").mode(0o000);
        tree.write_to(&pair.src);
        let mut old = Tree::new();
        for path in [
            "closed/file",
            "closed/extra",
            "closed/dir/file",
            "closed/dir/extra",
        ] {
            old.file(path, "old");
        }
        for path in ["open/file", "open/extra", "extra/below/file", "extra file"] {
            old.file(path, "old");
        }
        old.write_to(&pair.dst);

        let outcome = sync_unprivileged(engine, &[option], &pair);
        outcome.exits(23).complains_of(&["closed"]);
        // Whatever mode the copy of the closed directory has now, look inside.
        fs::set_permissions(
            pair.dst.join("closed"),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        for path in [
            "closed/file",
            "closed/extra",
            "closed/dir/file",
            "closed/dir/extra",
        ] {
            let content = fs::read_to_string(pair.dst.join(path))
                .unwrap_or_else(|e| panic!("{path} is gone: {e}"));
            assert_eq!(content, "old", "{path}");
        }
        assert_eq!(
            fs::read_to_string(pair.dst.join("open/file")).unwrap(),
            "new content"
        );
        for path in ["open/extra", "extra", "extra file"] {
            assert!(
                !pair.dst.join(path).exists(),
                "{path} was not deleted\n{}",
                outcome.describe()
            );
        }
    }
}

/// A directory that can be listed but whose entries cannot be looked at: their copies must not count as extraneous.
fn unsearchable_source_directory_protects_its_copies(engine: &str) {
    let pair = Pair::new();
    let (mut src, mut dst) = (Tree::new(), Tree::new());
    for name in ["file", "dir/child"] {
        src.file(format!("half closed/{name}"), "new");
        dst.file(format!("half closed/{name}"), "old");
    }
    src.node("half closed").mode(0o444);
    dst.file("extra", "old");
    src.write_to(&pair.src);
    dst.write_to(&pair.dst);
    let outcome = sync_unprivileged(engine, &["--delete"], &pair);
    outcome.exits(23).complains_of(&["half closed"]);
    fs::set_permissions(
        pair.dst.join("half closed"),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    for name in ["file", "dir/child"] {
        let path = pair.dst.join("half closed").join(name);
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "old",
            "{}",
            outcome.describe()
        );
    }
    assert!(!pair.dst.join("extra").exists(), "{}", outcome.describe());
}

fn unreadable_source_file_keeps_its_copy(engine: &str) {
    let pair = Pair::new();
    let (mut src, mut dst) = (Tree::new(), Tree::new());
    src.file("secret\nname", "new secret").mode(0o000);
    src.file("secret without copy", "new secret").mode(0o000);
    src.file("open", "new");
    dst.file("secret\nname", "old");
    dst.file("extra", "old");
    dst.add("extra fifo", Kind::Fifo);
    src.write_to(&pair.src);
    dst.write_to(&pair.dst);
    let outcome = sync_unprivileged(engine, &["--delete"], &pair);
    outcome.exits(23).complains_of(&["permission denied"]);
    let content = |name: &str| fs::read_to_string(pair.dst.join(name)).unwrap();
    assert_eq!(content("secret\nname"), "old");
    assert_eq!(content("open"), "new");
    assert_eq!(
        entries(&pair.dst),
        2,
        "left: {:?}\n{}",
        snapshot(&pair.dst).keys(),
        outcome.describe()
    );
    // One message is one line, whatever the name holds.
    for line in outcome.err().lines() {
        assert!(
            line.starts_with("ringsync: "),
            "stray line {line:?}\n{}",
            outcome.describe()
        );
    }
}
