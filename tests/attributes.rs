//! Modes, owners and times: repaired in place, left out on request, and within an ordinary user's means.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::Path;
use support::snap::{assert_equal_trees, assert_same, assert_untouched, snapshot, stamp, stamps};
use support::tree::{Kind, LONG_AGO, Tree, set_mtime};
use support::{
    NOBODY, Pair, is_root, ringsync_as_nobody, rsync, skip_unless_root, skip_without_rsync,
    sync_args, under_each_engine,
};

under_each_engine!(
    metadata_is_repaired_without_copying,
    attributes_that_are_not_wanted,
    one_file_system,
    read_only_directories_are_filled_by_an_ordinary_user,
    read_only_directories_are_deleted_by_an_ordinary_user,
    second_run_by_an_ordinary_user_touches_nothing,
);

fn metadata_is_repaired_without_copying(engine: &str) {
    let pair = Pair::new();
    let mut tree = Tree::new();
    let names = ["dir", "dir/fifo", "dir/file", "dir/link", "setuid"];
    tree.file("dir/file", "content");
    tree.file("setuid", "content").mode(0o4711);
    tree.symlink("dir/link", "target");
    tree.add("dir/fifo", Kind::Fifo);
    tree.write_to(&pair.src);
    for name in names {
        let node = tree.node(name);
        node.mode = if name == "setuid" { 0o711 } else { 0o700 };
        if is_root() {
            node.owner(7, 8);
        }
        // A file with another time is copied; all others are repaired.
        if !matches!(node.kind, Kind::File(_)) {
            node.at(LONG_AGO.plus(-5));
        }
    }
    tree.write_to(&pair.dst);
    let inodes = || names.map(|name| stamp(&pair.dst.join(name)).inode);
    let before = inodes();
    let outcome = pair.sync(engine, &["-i"]);
    outcome.exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
    assert_eq!(inodes(), before, "{}", outcome.describe());
    let lines = outcome.itemized();
    assert_eq!(lines.len(), names.len(), "{}", outcome.describe());
    assert!(
        lines.iter().all(|line| line.starts_with('.')),
        "{}",
        outcome.describe()
    );
    let owner = if is_root() { "og" } else { ".." };
    assert!(
        lines.contains(&format!(".f...p{owner}... dir/file")),
        "{}",
        outcome.describe()
    );
}

/// `--no-perms` and its siblings against rsync, which they are named after.
fn attributes_that_are_not_wanted(engine: &str) {
    if skip_without_rsync() {
        return;
    }
    for option in [
        "--no-perms",
        "--no-owner",
        "--no-group",
        "--no-devices",
        "--no-specials",
    ] {
        let pair = Pair::new();
        let mut tree = support::tree::all_kinds();
        tree.write_to(&pair.src);
        for path in ["file", "dir", "dir/child", "fifo", "times/file 0 1"] {
            let node = tree.node(path);
            node.mode = 0o711;
            if is_root() {
                node.owner(5, 6);
            }
        }
        tree.remove(b"modes");
        tree.remove(b"socket");
        tree.write_to(&pair.dst);
        let reference = pair.scratch.dir("reference");
        tree.write_to(&reference);
        rsync(&["-a", option], &pair.src, &reference).exits(0);
        pair.sync(engine, &["-a", option]).exits(0);
        assert_same(
            &snapshot(&reference),
            &snapshot(&pair.dst),
            &format!("rsync -a {option}"),
            "ringsync",
        );
    }
    let pair = Pair::new();
    let (mut src, mut dst) = (Tree::new(), Tree::new());
    src.file("newer", "AAAA");
    dst.file("newer", "BBBB").at(LONG_AGO.plus(100));
    src.file("only here", "AAAA");
    src.write_to(&pair.src);
    dst.write_to(&pair.dst);
    pair.sync(engine, &["-a", "--no-times"]).exits(0);
    let (src, dst) = (snapshot(&pair.src), snapshot(&pair.dst));
    for name in ["newer", "only here"] {
        assert_eq!(
            dst[name.as_bytes()].content,
            src[name.as_bytes()].content,
            "{name}"
        );
        assert!(
            dst[name.as_bytes()].mtime.sec > LONG_AGO.sec + 100,
            "{name} got the source's time"
        );
    }
}

fn one_file_system(engine: &str) {
    if skip_unless_root("cannot mount") || skip_without_rsync() {
        return;
    }
    let pair = Pair::new();
    let Some(other) = support::image::Image::sized("tmpfs", 8) else {
        return;
    };
    let mut tree = Tree::new();
    tree.file("on the other one", "x");
    tree.write_to(other.path());
    let mut tree = Tree::new();
    tree.file("dir/file", "x");
    tree.dir("dir/mountpoint");
    tree.write_to(&pair.src);
    let mut old = Tree::new();
    old.file("dir/extra", "x");
    old.write_to(&pair.dst);
    let reference = pair.scratch.dir("reference");
    old.write_to(&reference);

    let mounted = support::image::Bind::new(other.path(), &pair.src.join("dir/mountpoint"));
    rsync(&["-ax", "--delete"], &pair.src, &reference).exits(0);
    pair.sync(engine, &["-x", "--delete"]).exits(0);
    assert_same(
        &snapshot(&reference),
        &snapshot(&pair.dst),
        "rsync -ax --delete",
        "ringsync",
    );
    // What is there under the name of a mount point is nobody's business, whatever is mounted.
    for delete in ["--delete", "--delete-after"] {
        for name in ["dir/mountpoint/earlier", "dir/extra"] {
            fs::write(pair.dst.join(name), "x").unwrap();
        }
        pair.sync(engine, &["-x", delete]).exits(0);
        assert!(pair.dst.join("dir/mountpoint/earlier").exists(), "{delete}");
        assert!(!pair.dst.join("dir/extra").exists(), "{delete}");
    }
    pair.sync(engine, &["--delete"]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
    drop(mounted);
}

#[test]
fn files_of_others_lose_setuid_when_their_owner_is_not_carried() {
    if skip_unless_root("cannot change owners") {
        return;
    }
    let pair = Pair::new();
    fs::write(pair.src.join("program"), "x").unwrap();
    lchown(pair.src.join("program"), Some(1), Some(1)).unwrap();
    fs::set_permissions(pair.src.join("program"), Permissions::from_mode(0o4755)).unwrap();
    set_mtime(&pair.src.join("program"), LONG_AGO);
    // As an ordinary user: the copy must not be setuid to somebody else than the original.
    lchown(&pair.dst, Some(support::NOBODY), Some(support::NOBODY)).unwrap();
    let args = support::sync_args("auto", &["-a"], &pair.src, &pair.dst);
    support::ringsync_as_nobody(&pair.scratch, &args);
    let copy = snapshot(&pair.dst)[&b"program"[..]].clone();
    assert_eq!(copy.uid, support::NOBODY);
    assert_eq!(copy.mode & 0o777, 0o755);
}

/// Directories and files that their owner may not write to.
fn closed_tree() -> Tree {
    let mut tree = Tree::new();
    tree.file("closed/inner/file", "1");
    tree.file("closed/file", "1").mode(0o400);
    for dir in ["closed", "closed/inner"] {
        tree.node(dir).mode(0o555);
    }
    tree
}

/// Syncs as an ordinary user, who owns both trees.
fn sync_as_nobody(engine: &str, pair: &Pair, src: &Path) {
    if is_root() {
        support::give_to_nobody(src);
        support::give_to_nobody(&pair.dst);
    }
    let args = sync_args(
        engine,
        &["-a", "--delete", "--force-delete"],
        src,
        &pair.dst,
    );
    ringsync_as_nobody(&pair.scratch, &args).exits(0);
    assert_equal_trees(src, &pair.dst);
}

/// As with rsync: who owns a read-only directory may still sync what is in it.
fn read_only_directories_are_filled_by_an_ordinary_user(engine: &str) {
    let pair = Pair::new();
    let mut tree = closed_tree();
    tree.write_to(&pair.src);
    let next = pair.scratch.dir("next");
    tree.file("closed/inner/file", "changed");
    tree.file("closed/inner/new", "1");
    tree.remove(b"closed/file");
    tree.write_to(&next);
    sync_as_nobody(engine, &pair, &pair.src);
    sync_as_nobody(engine, &pair, &next);
}

/// As with rsync, which opens them up for that.
fn read_only_directories_are_deleted_by_an_ordinary_user(engine: &str) {
    let pair = Pair::new();
    closed_tree().write_to(&pair.dst);
    Tree::new().write_to(&pair.src);
    sync_as_nobody(engine, &pair, &pair.src);
}

fn second_run_by_an_ordinary_user_touches_nothing(engine: &str) {
    let pair = Pair::new();
    let mut tree = closed_tree();
    tree.file("open/file", "1");
    tree.write_to(&pair.src);
    sync_as_nobody(engine, &pair, &pair.src);
    let before = stamps(&pair.dst);
    let args = sync_args(engine, &["-a", "--delete", "-i"], &pair.src, &pair.dst);
    let second = ringsync_as_nobody(&pair.scratch, &args);
    assert_eq!(second.exits(0).itemized(), Vec::<String>::new());
    assert_untouched(&before, &pair.dst);
}

#[test]
fn unprivileged_run_keeps_what_root_may_do_out_of_the_way() {
    if skip_unless_root("cannot give files to others") {
        return;
    }
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("of someone else", "readable").owner(1, 1);
    tree.file("dir/mine", "mine").owner(NOBODY, NOBODY);
    tree.write_to(&pair.src);
    for root in [&pair.src, &pair.dst] {
        lchown(root, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let args = sync_args("auto", &["-a", "--delete"], &pair.src, &pair.dst);
    // Owners cannot be carried over by an ordinary user; as in rsync this is no error.
    ringsync_as_nobody(&pair.scratch, &args).exits(0);
    let copied = snapshot(&pair.dst);
    assert_eq!(copied[&b"of someone else"[..]].uid, NOBODY);
    assert_eq!(
        copied[&b"of someone else"[..]].content,
        snapshot(&pair.src)[&b"of someone else"[..]].content
    );
    let before = stamps(&pair.dst);
    ringsync_as_nobody(&pair.scratch, &args).exits(0);
    assert_untouched(&before, &pair.dst);
}

#[test]
fn owners_are_shown_by_name_or_by_number() {
    if skip_unless_root("cannot change owners") {
        return;
    }
    for (options, from, to) in [
        (&["--json", "-i"][..], "daemon", "root"),
        (&["--json", "-i", "--numeric-ids"], "1", "0"),
    ] {
        let pair = Pair::new();
        let mut tree = Tree::new();
        tree.file("file", "content");
        tree.write_to(&pair.src);
        tree.node("file").owner(1, 1);
        tree.write_to(&pair.dst);
        let outcome = pair.sync("auto", options);
        let lines = outcome.exits(0).json();
        let item = lines.iter().find(|line| line["path"] == "file").unwrap();
        for field in ["owner", "group"] {
            assert_eq!(item[field]["from"], from, "{item}");
            assert_eq!(item[field]["to"], to, "{item}");
        }
    }
}

/// What is mounted in a directory of the destination is not removed with it, nor for what takes its place.
#[test]
fn mounts_in_the_destination_keep_what_is_on_them() {
    if skip_unless_root("cannot mount") {
        return;
    }
    for (name, delete) in [("data", "--delete"), ("data/mnt", "--delete")] {
        let pair = Pair::new();
        let Some(other) = support::image::Image::sized("tmpfs", 8) else {
            return;
        };
        fs::write(other.path().join("precious"), "x").unwrap();
        let mut tree = Tree::new();
        if name == "data" {
            tree.file("data/file", "x");
        } else {
            tree.file("data", "a file where a directory is");
        }
        tree.write_to(&pair.src);
        fs::create_dir_all(pair.dst.join(name)).unwrap();
        let mounted = support::image::Bind::new(other.path(), &pair.dst.join(name));
        pair.sync("auto", &["-x", delete, "--force-delete"]);
        assert!(other.path().join("precious").exists(), "{name}");
        drop(mounted);
    }
}
