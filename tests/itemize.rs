//! `-i` speaks rsync's language: the same lines for the same states.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::Path;
use support::snap::{assert_same, snapshot};
use support::tree::{Kind, LONG_AGO, Tree};
use support::{Pair, is_root, rsync, skip_without_rsync, under_each_engine};

under_each_engine!(
    lines_by_example,
    first_copy_lists_what_rsync_lists,
    updates_list_what_rsync_lists,
    deletions_list_what_rsync_lists,
    type_changes_list_what_rsync_lists,
    checksum_lists_what_rsync_lists,
);

fn lines_by_example(engine: &str) {
    let pair = Pair::new();
    let mut src = Tree::new();
    src.file("new dir/name with spaces", "x");
    src.symlink("new link", "some/target");
    src.file("time only", "same");
    src.file("dir time/kept", "x");
    src.file("grown", "longer");
    src.file("mode", "x").mode(0o600);
    src.write_to(&pair.src);
    let mut dst = Tree::new();
    dst.file("time only", "same").at(LONG_AGO.plus(9));
    dst.file("dir time/kept", "x");
    dst.node("dir time").at(LONG_AGO.plus(9));
    dst.file("grown", "short");
    dst.file("mode", "x");
    dst.file("gone/child", "x");
    dst.write_to(&pair.dst);
    let outcome = pair.sync(engine, &["-a", "-i", "--delete", "--size-only"]);
    let expected = [
        "*deleting   gone/",
        "*deleting   gone/child",
        ".d..t...... dir time/",
        ".f...p..... mode",
        ".f..t...... time only",
        ">f+++++++++ new dir/name with spaces",
        ">f.s....... grown",
        "cL+++++++++ new link -> some/target",
        "cd+++++++++ new dir/",
    ];
    assert_eq!(
        outcome.exits(0).itemized(),
        expected,
        "{}",
        outcome.describe()
    );
}

/// Runs both from the same states and compares lines and results.
fn compare(engine: &str, options: &[&str], src: &Tree, dst: &Tree) {
    if skip_without_rsync() {
        return;
    }
    let pair = Pair::new();
    let reference = pair.scratch.dir("reference");
    src.write_to(&pair.src);
    dst.write_to(&pair.dst);
    dst.write_to(&reference);
    touch_roots_apart(&[&pair.dst, &reference]);
    let options = [&["-a", "-i"], options].concat();
    let theirs = rsync(&options, &pair.src, &reference);
    let ours = pair.sync(engine, &options);
    let (theirs_lines, ours_lines) = (theirs.exits(0).itemized(), ours.exits(0).itemized());
    let only = |a: &[String], b: &[String]| {
        a.iter()
            .filter(|line| !b.contains(line))
            .cloned()
            .collect::<Vec<_>>()
            .join("\n")
    };
    assert!(
        theirs_lines == ours_lines,
        "only from rsync:\n{}\nonly from ringsync:\n{}\n{}",
        only(&theirs_lines, &ours_lines),
        only(&ours_lines, &theirs_lines),
        ours.describe()
    );
    assert!(!ours_lines.is_empty());
    assert_same(
        &snapshot(&reference),
        &snapshot(&pair.dst),
        "rsync",
        "ringsync",
    );
}

/// The root is an entry like any other: with another time than the source's it has a line, `./`.
fn touch_roots_apart(roots: &[&Path]) {
    for root in roots {
        support::tree::set_mtime(root, LONG_AGO.plus(77));
    }
}

fn base() -> Tree {
    let mut tree = Tree::new();
    tree.file("file", "content");
    tree.file("a/b/c/file", "content");
    tree.file("a/empty", "");
    tree.dir("a/empty dir");
    tree.symlink("a/link", "target");
    tree.symlink("dangling", "/no/such/place");
    tree.add("a/fifo", Kind::Fifo);
    tree.add("a/socket", Kind::Socket);
    if is_root() {
        tree.add("device", Kind::CharDevice(1, 3));
        tree.add("block", Kind::BlockDevice(7, 99)).owner(3, 4);
    }
    tree
}

fn first_copy_lists_what_rsync_lists(engine: &str) {
    compare(engine, &["--delete"], &base(), &Tree::new());
    compare(engine, &[], &base(), &Tree::new());
}

fn updates_list_what_rsync_lists(engine: &str) {
    let (mut src, mut dst) = (base(), base());
    dst.node("file").at(LONG_AGO.plus(5));
    dst.file("a/empty", "not empty");
    dst.file("a/b/c/file", "other size")
        .at(LONG_AGO.plus(-5))
        .mode(0o600);
    dst.symlink("a/link", "other target");
    dst.node("dangling").at(LONG_AGO.plus(3));
    dst.node("a/b").mode(0o700);
    dst.node("a/empty dir").mode(0o1777).at(LONG_AGO.plus(1));
    dst.node("a/fifo").mode(0o600);
    dst.node("a/socket").at(LONG_AGO.plus(1));
    src.file("setuid", "x").mode(0o4755);
    dst.file("setuid", "x").mode(0o755);
    if is_root() {
        dst.add("device", Kind::CharDevice(1, 5));
        dst.node("block").owner(5, 4);
        src.file("owner", "x").owner(10, 11);
        dst.file("owner", "x").owner(10, 12);
    }
    compare(engine, &["--delete"], &src, &dst);
    compare(engine, &[], &src, &dst);
}

fn deletions_list_what_rsync_lists(engine: &str) {
    let mut dst = base();
    dst.file("extra/below/file", "x");
    dst.dir("extra/empty");
    dst.symlink("extra/link", "target");
    dst.file("a/extra", "x");
    dst.symlink("a/extra link", "target");
    dst.add("a/b/extra fifo", Kind::Fifo);
    compare(engine, &["--delete"], &base(), &dst);
    compare(engine, &["--delete-after"], &base(), &dst);
}

fn type_changes_list_what_rsync_lists(engine: &str) {
    let (mut src, mut dst) = (Tree::new(), Tree::new());
    src.file("file over link", "x");
    dst.symlink("file over link", "x");
    src.file("dir over file/child", "x");
    dst.file("dir over file", "x");
    src.symlink("link over file", "x");
    dst.file("link over file", "x");
    src.add("fifo over file", Kind::Fifo);
    dst.file("fifo over file", "x");
    src.file("file over empty dir", "x");
    dst.dir("file over empty dir");
    src.file("file over full dir", "x");
    dst.file("file over full dir/child", "x");
    compare(engine, &["--delete"], &src, &dst);
}

fn checksum_lists_what_rsync_lists(engine: &str) {
    let (mut src, mut dst) = (base(), base());
    src.file("sneaky", "AAAA");
    dst.file("sneaky", "BBBB");
    src.file("time only", "AAAA");
    dst.file("time only", "AAAA").at(LONG_AGO.plus(5));
    src.file("both", "AAAA");
    dst.file("both", "BBBB").at(LONG_AGO.plus(5));
    compare(engine, &["-c", "--delete"], &src, &dst);
    compare(engine, &["--size-only"], &src, &dst);
    compare(engine, &["-I"], &src, &dst);
}
