//! Directories too large to be held by one shard, and paths too long for the kernel to take in one piece.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use rustix::fs::{AtFlags, Mode, OFlags};
use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use support::snap::{assert_equal_trees, assert_untouched, snapshot, stamps};
use support::tree::Tree;
use support::{Pair, under_each_engine};

under_each_engine!(giant_directory, paths_beyond_path_max);

/// Past the 65,536 entries at which a directory is split over the shards.
const FILES: usize = 66_500;
const DIRS: usize = 4_000;
const EXTRAS: usize = 1_500;

fn giant_directory(engine: &str) {
    let pair = Pair::new();
    let (src, dst) = (pair.src.join("giant"), pair.dst.join("giant"));
    fs::create_dir(&src).unwrap();
    fs::create_dir(&dst).unwrap();
    for number in 0..FILES {
        fs::write(src.join(format!("file {number}")), number.to_string()).unwrap();
    }
    for number in 0..DIRS {
        let dir = src.join(format!("dir {number}"));
        fs::create_dir(&dir).unwrap();
        if number % 10 == 0 {
            fs::write(dir.join("child"), "c").unwrap();
        }
    }
    // What the destination has already: extraneous files and trees, and some entries that are out of date.
    for number in 0..EXTRAS {
        fs::write(dst.join(format!("extra {number}")), "x").unwrap();
        fs::write(dst.join(format!("file {}", number * 7)), "out of date").unwrap();
        fs::create_dir_all(dst.join(format!("extra dir {number}/below"))).unwrap();
    }
    pair.sync(engine, &["--delete"]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);

    let before = stamps(&pair.dst);
    let second = pair.sync(engine, &["--delete", "-i"]);
    assert_eq!(second.exits(0).itemized(), Vec::<String>::new());
    assert_untouched(&before, &pair.dst);

    // Now the destination is the giant one.
    let few = pair.scratch.dir("few");
    let mut tree = Tree::new();
    tree.file("giant/file 5", "five");
    tree.file("giant/dir 9/new", "nine");
    tree.file("giant/file 6/is now a directory", "six");
    tree.write_to(&few);
    support::sync(engine, &["--delete"], &few, &pair.dst).exits(0);
    assert_equal_trees(&few, &pair.dst);
}

/// 20 levels of 255 bytes: more than the 4,096 that one system call takes.
const LEVELS: usize = 20;

fn paths_beyond_path_max(engine: &str) {
    let pair = Pair::new();
    let bottom = make_chain(&pair.src);
    write_at(&bottom, "file", "at the bottom");
    write_at(&bottom, &"f".repeat(255), "long name too");
    rustix::fs::symlinkat("target", &bottom, "link").unwrap();
    rustix::fs::mkdirat(&bottom, "empty", Mode::from_raw_mode(0o711)).unwrap();
    pair.sync(engine, &["-a"]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
    let longest = snapshot(&pair.dst).keys().map(Vec::len).max().unwrap();
    assert!(longest > 4096, "the longest path has only {longest} bytes");

    let before = stamps(&pair.dst);
    pair.sync(engine, &["-a", "--delete"]).exits(0);
    assert_untouched(&before, &pair.dst);

    write_at(&bottom, "file", "changed at the bottom");
    rustix::fs::unlinkat(&bottom, "link", AtFlags::empty()).unwrap();
    rustix::fs::unlinkat(&bottom, "empty", AtFlags::REMOVEDIR).unwrap();
    write_at(&bottom, "empty", "a file now");
    pair.sync(engine, &["-a", "--delete"]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);

    let nothing = pair.scratch.dir("nothing");
    support::sync(engine, &["--delete", "--force-delete"], &nothing, &pair.dst).exits(0);
    assert_equal_trees(&nothing, &pair.dst);
}

/// Makes the chain below `root` and returns its last directory.
fn make_chain(root: &Path) -> OwnedFd {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut fd = rustix::fs::open(root, flags, Mode::empty()).unwrap();
    for level in 0..LEVELS {
        let name = format!("{level:0>255}");
        rustix::fs::mkdirat(&fd, &name, Mode::from_raw_mode(0o755)).unwrap();
        fd = rustix::fs::openat(&fd, &name, flags, Mode::empty()).unwrap();
    }
    fd
}

fn write_at(dir: &OwnedFd, name: &str, content: &str) {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o644)).unwrap();
    fs::File::from(fd).write_all(content.as_bytes()).unwrap();
}
