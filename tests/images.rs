//! The same cycle on real filesystems, each of which has its own idea of times, inodes, reflinks and being full.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, IoSliceMut, ReadWriteFlags, preadv2};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use support::image::Image;
use support::snap::{assert_equal_trees, assert_untouched, snapshot, stamps, temporaries};
use support::tree::{Kind, Tree, all_kinds, odd_names, write_noise};
use support::{Outcome, Pair, sync, under_each_engine};

under_each_engine!(
    tmpfs_cycle,
    ext4_cycle,
    xfs_cycle,
    btrfs_cycle,
    ext4_without_d_type_cycle,
    full_tmpfs,
    full_ext4,
    full_xfs,
    full_btrfs,
    read_only_destination,
    reflink_shares_on_btrfs,
    reflink_shares_on_xfs,
    reflink_always_fails_each_file_on_ext4,
    large_cold_files_go_past_the_page_cache_on_ext4,
    large_cold_files_go_past_the_page_cache_on_xfs,
    inodes_of_two_filesystems_are_no_hard_links,
);

fn tmpfs_cycle(engine: &str) {
    cycle("tmpfs", engine);
}

fn ext4_cycle(engine: &str) {
    cycle("ext4", engine);
}

fn xfs_cycle(engine: &str) {
    cycle("xfs", engine);
}

fn btrfs_cycle(engine: &str) {
    cycle("btrfs", engine);
}

fn ext4_without_d_type_cycle(engine: &str) {
    cycle("ext4 ^filetype", engine);
}

fn everything() -> Tree {
    let mut tree = all_kinds();
    tree.nodes.extend(odd_names().nodes);
    for number in 0..300 {
        tree.file(
            format!("many/{}/file {number}", number % 7),
            vec![b'm'; number * 100],
        );
    }
    tree
}

/// The same tree after a while: some of everything is changed, added, gone, or of another kind.
fn everything_later() -> Tree {
    let mut tree = everything();
    for number in (0..300).step_by(3) {
        tree.file(
            format!("many/{}/file {number}", number % 7),
            format!("changed {number}"),
        );
    }
    for number in (1..300).step_by(10) {
        tree.remove(format!("many/{}/file {number}", number % 7).as_bytes());
    }
    tree.remove(b"dir");
    tree.file("dir", "a file now");
    tree.remove(b"file");
    tree.file("file/is a dir/now", "x");
    tree.symlink("fifo", "a link now");
    tree.add("link to dir", Kind::Fifo);
    tree.symlink("link to file", "other target");
    tree.node("socket").mode(0o600);
    tree.node("times").mtime(1_234_567_890, 987_654_321);
    tree.remove(b"links");
    tree.file("new/dir/file", "new");
    tree
}

/// Copy, copy nothing, modify and delete, copy nothing: within the filesystem and into it from another.
fn cycle(kind: &str, engine: &str) {
    let Some(image) = Image::new(kind) else {
        return;
    };
    let elsewhere = Pair::new();
    for src_root in [image.path(), elsewhere.scratch.path()] {
        for mode in ["atomic", "direct"] {
            let dst = image.dir("dst");
            for (name, tree) in [("before", everything()), ("after", everything_later())] {
                let src = src_root.join(name);
                fs::create_dir(&src).unwrap();
                tree.write_to(&src);
                sync(
                    engine,
                    &["-a", "--delete", "--write-mode", mode],
                    &src,
                    &dst,
                )
                .exits(0);
                assert_equal_trees(&src, &dst);
                let (src_stamps, dst_stamps) = (stamps(&src), stamps(&dst));
                let again = sync(
                    engine,
                    &["-a", "--delete", "-i", "--write-mode", mode],
                    &src,
                    &dst,
                );
                assert_eq!(
                    again.exits(0).itemized(),
                    Vec::<String>::new(),
                    "{kind} {mode}"
                );
                assert_untouched(&dst_stamps, &dst);
                assert_untouched(&src_stamps, &src);
                fs::remove_dir_all(&src).unwrap();
            }
            fs::remove_dir_all(&dst).unwrap();
        }
    }
}

/// Files of 16 KiB: three times as many as fit, and far more than are ever in flight at once.
const FILES: u64 = 3000;

fn too_much() -> Pair {
    let pair = Pair::new();
    for number in 0..FILES {
        write_noise(&pair.src.join(format!("file {number}")), 16 << 10, number);
    }
    pair
}

fn full_tmpfs(engine: &str) {
    full("tmpfs", 128, engine);
}

fn full_ext4(engine: &str) {
    full("ext4", 128, engine);
}

fn full_xfs(engine: &str) {
    full("xfs", 320, engine);
}

fn full_btrfs(engine: &str) {
    full("btrfs --mixed", 128, engine);
}

fn full(kind: &str, mib: u64, engine: &str) {
    const ROOM: u64 = 16 * MIB;
    let Some(image) = Image::sized(kind, mib) else {
        return;
    };
    leave(ROOM, &image);
    let pair = too_much();
    let dst = image.dir("dst");
    let outcome = sync(engine, &[], &pair.src, &dst);
    outcome.exits(11).complains_of(&["no space left"]);
    assert_eq!(temporaries(&dst), Vec::<String>::new());
    assert_all_whole(&pair, &dst, &outcome);
    // It stops: what was in flight may be reported, what was not begun is not tried.
    let messages = outcome.err().lines().count();
    assert!(
        messages < 1000,
        "{messages} messages\n{}",
        outcome.describe()
    );
    fs::remove_file(image.path().join("filler")).unwrap();
    // Some filesystems give space back a little later.
    image.free();
    sync(engine, &[], &pair.src, &dst).exits(0);
    assert_equal_trees(&pair.src, &dst);
}

/// Takes all space but so much. What is free by the filesystem's own account cannot always be had.
fn leave(room: u64, image: &Image) {
    let filler = fs::File::create(image.path().join("filler")).unwrap();
    let mut taken = 0;
    while rustix::fs::fallocate(&filler, FallocateFlags::empty(), taken, 4 * MIB).is_ok() {
        taken += 4 * MIB;
    }
    filler.set_len(taken.checked_sub(room).unwrap()).unwrap();
    image.free();
}

fn assert_all_whole(pair: &Pair, dst: &Path, outcome: &Outcome) {
    let (originals, copies) = (snapshot(&pair.src), snapshot(dst));
    assert!(
        copies.len() > 100,
        "hardly anything was copied\n{}",
        outcome.describe()
    );
    for (path, copy) in copies.iter().filter(|(path, _)| **path != b".") {
        let original = originals[path].content;
        let shown = path.escape_ascii();
        assert_eq!(copy.content, original, "{shown} is not whole");
    }
}

fn read_only_destination(engine: &str) {
    let Some(image) = Image::sized("tmpfs", 16) else {
        return;
    };
    let pair = too_much();
    let dst = image.dir("dst");
    fs::write(dst.join("extra"), "x").unwrap();
    image.make_read_only();
    let before = snapshot(&dst);
    let outcome = sync(engine, &["--delete"], &pair.src, &dst);
    outcome.exits(11).complains_of(&["read-only"]);
    assert_eq!(snapshot(&dst), before);
}

const MIB: u64 = 1 << 20;

fn reflink_shares_on_btrfs(engine: &str) {
    reflink_shares("btrfs", engine);
}

fn reflink_shares_on_xfs(engine: &str) {
    reflink_shares("xfs", engine);
}

fn reflink_shares(kind: &str, engine: &str) {
    let Some(image) = Image::new(kind) else {
        return;
    };
    let src = image.dir("src");
    write_noise(&src.join("large"), 70 * MIB + 123, 1);
    write_noise(&src.join("small"), 20_000, 2);
    Tree::new().write_to(&src);
    let used_by = |mode: &str| {
        let (before, dst) = (image.free(), image.dir(mode));
        sync(engine, &["--reflink", mode], &src, &dst).exits(0);
        assert_equal_trees(&src, &dst);
        before.saturating_sub(image.free())
    };
    for mode in ["always", "auto"] {
        let used = used_by(mode);
        assert!(
            used < 20 * MIB,
            "--reflink {mode} used {used} bytes on {kind}"
        );
    }
    let used = used_by("never");
    assert!(
        used > 60 * MIB,
        "--reflink never used only {used} bytes on {kind}"
    );
}

fn large_cold_files_go_past_the_page_cache_on_ext4(engine: &str) {
    large_cold_files_go_past_the_page_cache("ext4", engine);
}

fn large_cold_files_go_past_the_page_cache_on_xfs(engine: &str) {
    large_cold_files_go_past_the_page_cache("xfs", engine);
}

fn large_cold_files_go_past_the_page_cache(kind: &str, engine: &str) {
    let Some(image) = Image::new(kind) else {
        return;
    };
    let src = image.dir("src");
    // One ends with a whole block, the others do not.
    for (name, size) in [("a", 70 * MIB + 123), ("b", 64 * MIB), ("c", 65 * MIB - 1)] {
        write_noise(&src.join(name), size, size);
    }
    // A filesystem on a disk that rotates is read through the cache.
    let can = !rotates(&src);
    for (how, is_cold, goes_past) in [
        (&["--verify"][..], true, can),
        (&["--write-mode", "direct"], true, can),
        (&["--inplace", "-I"], true, can),
        (&["--direct-io", "never"], true, false),
        (&["--bwlimit", "1G"], true, false),
        (&[], false, false),
    ] {
        let dst = image.path().join("dst");
        let options = [&["--reflink", "never"], how].concat();
        for name in ["a", "b", "c"] {
            if is_cold {
                drop_cached(&src.join(name));
            }
        }
        sync(engine, &options, &src, &dst).exits(0);
        if how != ["--verify"] {
            // Some of it may have been reclaimed.
            let mut looks = (0..64).step_by(4);
            let is_past = !looks.any(|mib| is_cached(&dst.join("a"), mib * MIB));
            assert_eq!(is_past, goes_past, "{how:?} on {kind}");
        }
        assert_equal_trees(&src, &dst);
        if how != ["--write-mode", "direct"] {
            fs::remove_dir_all(&dst).unwrap();
        }
    }
}

fn drop_cached(path: &Path) {
    let file = fs::File::open(path).unwrap();
    file.sync_all().unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

fn is_cached(path: &Path, offset: u64) -> bool {
    let mut byte = [0];
    let mut into = [IoSliceMut::new(&mut byte)];
    let file = fs::File::open(path).unwrap();
    preadv2(&file, &mut into, offset, ReadWriteFlags::NOWAIT) != Err(Errno::AGAIN)
}

fn rotates(path: &Path) -> bool {
    let dev = path.metadata().unwrap().dev();
    let (major, minor) = (rustix::fs::major(dev), rustix::fs::minor(dev));
    let told = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/queue/rotational"));
    told.unwrap().trim() != "0"
}

fn reflink_always_fails_each_file_on_ext4(engine: &str) {
    let Some(image) = Image::new("ext4") else {
        return;
    };
    let (src, dst) = (image.dir("src"), image.dir("dst"));
    let mut tree = Tree::new();
    for number in 0..5 {
        tree.file(
            format!("dir/file {number}"),
            vec![b'x'; 10_000 * (number + 1)],
        );
    }
    tree.symlink("link", "dir");
    tree.write_to(&src);
    let outcome = sync(engine, &["--reflink", "always"], &src, &dst);
    outcome.exits(23).complains_of(&["reflink", "clone"]);
    for number in 0..5 {
        outcome.complains_of(&[&format!("file {number}")]);
        assert!(
            !dst.join(format!("dir/file {number}")).exists(),
            "{}",
            outcome.describe()
        );
    }
    assert!(is_symlink(&dst.join("link")), "{}", outcome.describe());
    assert_eq!(temporaries(&dst), Vec::<String>::new());
    sync(engine, &["--reflink", "auto"], &src, &dst).exits(0);
    assert_equal_trees(&src, &dst);
}

fn is_symlink(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
}

/// `-L` leads to files of two filesystems, whose inodes have the same number and several names each.
fn inodes_of_two_filesystems_are_no_hard_links(engine: &str) {
    let (Some(one), Some(two)) = (Image::sized("tmpfs", 16), Image::sized("tmpfs", 16)) else {
        return;
    };
    let pair = Pair::new();
    fs::create_dir(&pair.src).ok();
    for (image, name) in [(&one, "one"), (&two, "two")] {
        let file = image.path().join("file");
        fs::write(&file, name).unwrap();
        fs::hard_link(&file, image.path().join("other name")).unwrap();
        std::os::unix::fs::symlink(&file, pair.src.join(name)).unwrap();
    }
    let inode = |image: &Image| {
        std::os::unix::fs::MetadataExt::ino(&fs::metadata(image.path().join("file")).unwrap())
    };
    assert_eq!(inode(&one), inode(&two), "else this tests nothing");
    pair.sync(engine, &["-L", "-H"]).exits(0);
    for name in ["one", "two"] {
        assert_eq!(fs::read_to_string(pair.dst.join(name)).unwrap(), name);
    }
}
