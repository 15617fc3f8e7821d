//! Hard links, extended attributes, ACLs, holes, and symlinks that are followed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, chown, symlink};
use std::path::Path;

use rustix::fs::{XattrFlags, lgetxattr, lremovexattr, lsetxattr};
use support::image::Image;
use support::snap::{assert_equal_trees, assert_untouched, stamp, stamps, temporaries};
use support::tree::{LONG_AGO, Tree, set_mtime};
use support::{
    Pair, give_to_nobody, is_on_nfs, is_root, ringsync, ringsync_as_nobody, rsync,
    skip_unless_root, skip_without_rsync, sync, sync_args, under_each_engine,
};

under_each_engine!(
    hard_links_within_and_across_directories,
    hard_links_joined_and_broken_are_repaired,
    hard_links_wrongly_joined_do_not_mix_contents,
    hard_links_of_a_giant_directory,
    without_the_option_hard_links_become_files,
    xattrs_are_made_equal_without_copying,
    acls_are_made_equal_and_inherited_ones_removed,
    capabilities_survive_a_change_of_owner,
    attributes_of_read_only_files_are_carried_by_an_ordinary_user,
    contents_arrive_where_attributes_cannot_be_set,
    holes_are_kept,
    zeros_become_holes_on_request,
    followed_symlinks_as_rsync_does,
    symlink_loops_are_reported_and_end,
);

/// Names by inode, of those inodes that have several.
fn link_groups(root: &Path) -> Vec<Vec<String>> {
    let mut groups: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                dirs.push(entry.path());
            } else {
                let path = entry.path();
                let path = path.strip_prefix(root).unwrap().to_str().unwrap();
                groups.entry(meta.ino()).or_default().push(path.to_owned());
            }
        }
    }
    let mut groups: Vec<_> = groups
        .into_values()
        .filter(|names| names.len() > 1)
        .collect();
    for names in &mut groups {
        names.sort();
    }
    groups.sort();
    groups
}

fn link(root: &Path, from: &str, to: &str) {
    fs::hard_link(root.join(from), root.join(to)).unwrap();
}

/// Thirty directories, so that the names of one inode are met by several shards.
fn linked_tree(root: &Path) {
    let mut tree = Tree::new();
    tree.file("one", "first content");
    tree.file("alone", "content");
    tree.symlink("link", "one");
    tree.add("fifo", support::tree::Kind::Fifo);
    for dir in 0..30 {
        tree.dir(format!("dir {dir}"));
        tree.file(format!("dir {dir}/own"), format!("content {dir}"));
    }
    tree.write_to(root);
    for dir in 0..30 {
        link(root, "one", &format!("dir {dir}/one"));
        link(root, &format!("dir {dir}/own"), &format!("dir {dir}/too"));
        link(
            root,
            &format!("dir {dir}/own"),
            &format!("dir {}/next", (dir + 1) % 30),
        );
    }
    link(root, "link", "dir 1/link");
    link(root, "fifo", "dir 2/fifo");
    for dir in 0..30 {
        set_mtime(&root.join(format!("dir {dir}")), LONG_AGO);
    }
    set_mtime(root, LONG_AGO);
}

fn assert_linked(pair: &Pair) {
    assert_equal_trees(&pair.src, &pair.dst);
    assert_eq!(link_groups(&pair.src), link_groups(&pair.dst));
    assert_eq!(temporaries(&pair.dst), Vec::<String>::new());
}

fn hard_links_within_and_across_directories(engine: &str) {
    let pair = Pair::new();
    linked_tree(&pair.src);
    assert_eq!(link_groups(&pair.src).len(), 33);
    let outcome = pair.sync(engine, &["-H", "--json"]);
    assert_eq!(outcome.exits(0).count("links_made"), 92);
    assert_eq!(outcome.count("files_copied"), 32);
    assert_linked(&pair);
    let before = stamps(&pair.dst);
    let again = pair.sync(engine, &["-H", "--json"]);
    assert_eq!(again.exits(0).count("links_made"), 0);
    assert_untouched(&before, &pair.dst);
    let [src, dst] = [&pair.src, &pair.dst].map(|path| path.to_str().unwrap());
    ringsync(&["check", "-H", "--io-engine", engine, src, dst]).exits(0);
}

fn hard_links_joined_and_broken_are_repaired(engine: &str) {
    let pair = Pair::new();
    linked_tree(&pair.src);
    pair.sync(engine, &["-H"]).exits(0);
    // Broken on the destination, and joined there with a name of another inode, although contents and times are equal.
    for name in ["dir 3/one", "dir 4/too"] {
        let path = pair.dst.join(name);
        let copy = pair.dst.join("copy");
        fs::copy(&path, &copy).unwrap();
        set_mtime(&copy, LONG_AGO);
        fs::rename(&copy, &path).unwrap();
    }
    // Broken and joined on the source.
    fs::remove_file(pair.src.join("dir 5/one")).unwrap();
    fs::write(pair.src.join("dir 5/one"), "first content").unwrap();
    set_mtime(&pair.src.join("dir 5/one"), LONG_AGO);
    fs::remove_file(pair.src.join("alone")).unwrap();
    link(&pair.src, "dir 6/own", "alone");
    for dir in ["", "dir 3", "dir 4", "dir 5"] {
        set_mtime(&pair.src.join(dir), LONG_AGO);
        set_mtime(&pair.dst.join(dir), LONG_AGO);
    }
    set_mtime(&pair.src.join("dir 5/one"), LONG_AGO);
    let [src, dst] = [&pair.src, &pair.dst].map(|path| path.to_str().unwrap());
    ringsync(&["check", "-H", "--io-engine", engine, src, dst]).exits(23);
    pair.sync(engine, &["-H"]).exits(0);
    assert_linked(&pair);
}

/// Two files of equal size and time: on the destination their names are crosswise. Taking what is there for equal would
/// leave one file with the other's contents.
fn hard_links_wrongly_joined_do_not_mix_contents(engine: &str) {
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("a1", "contents of a");
    tree.file("b1", "contents of b");
    for root in [&pair.src, &pair.dst] {
        tree.write_to(root);
        let (a2, b2) = if *root == pair.src {
            ("a2", "b2")
        } else {
            ("b2", "a2")
        };
        link(root, "a1", a2);
        link(root, "b1", b2);
        set_mtime(root, LONG_AGO);
    }
    pair.sync(engine, &["-H"]).exits(0);
    assert_eq!(link_groups(&pair.src), link_groups(&pair.dst));
    pair.sync(engine, &["-H", "-c"]).exits(0);
    assert_linked(&pair);
    // And with all four joined.
    for name in ["a2", "b1", "b2"] {
        fs::remove_file(pair.dst.join(name)).unwrap();
        link(&pair.dst, "a1", name);
    }
    set_mtime(&pair.dst, LONG_AGO);
    pair.sync(engine, &["-H", "-c"]).exits(0);
    assert_linked(&pair);
}

fn hard_links_of_a_giant_directory(engine: &str) {
    let pair = Pair::new();
    for number in 0..35_000 {
        let name = pair.src.join(format!("file {number}"));
        File::create(&name).unwrap();
        fs::hard_link(&name, pair.src.join(format!("link {number}"))).unwrap();
    }
    let outcome = pair.sync(engine, &["-H", "--json"]);
    assert_eq!(outcome.exits(0).count("links_made"), 35_000);
    assert_eq!(link_groups(&pair.src), link_groups(&pair.dst));
}

fn without_the_option_hard_links_become_files(engine: &str) {
    let pair = Pair::new();
    linked_tree(&pair.src);
    pair.sync(engine, &[]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
    assert!(link_groups(&pair.dst).is_empty());
}

/// ext4 allows 65,000 names of one inode.
#[test]
fn too_many_links_are_copied_with_a_warning() {
    let Some(image) = Image::new("ext4") else {
        return;
    };
    let pair = Pair::new();
    fs::write(pair.src.join("first"), "content").unwrap();
    for number in 0..65_010 {
        let dir = pair.src.join(format!("dir {}", number % 10));
        if number < 10 {
            fs::create_dir(&dir).unwrap();
        }
        fs::hard_link(pair.src.join("first"), dir.join(format!("{number}"))).unwrap();
    }
    let dst = image.dir("dst");
    let outcome = sync("auto", &["-H", "--json"], &pair.src, &dst);
    outcome
        .exits(0)
        .complains_of(&["warning", "EMLINK", "copied instead"]);
    assert_eq!(outcome.count("files_copied"), 1 + outcome.count("warnings"));
    assert_equal_trees(&pair.src, &dst);
    let mut sizes: Vec<usize> = link_groups(&dst).iter().map(Vec::len).collect();
    sizes.sort_unstable();
    assert_eq!(sizes.last(), Some(&65_000));
    sync("auto", &["-H", "--json"], &pair.src, &dst).exits(0);
    assert_equal_trees(&pair.src, &dst);
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    lsetxattr(path, name, value, XattrFlags::empty()).unwrap();
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 65_536];
    let len = lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

fn xattrs_are_made_equal_without_copying(engine: &str) {
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("dir/file", "content");
    tree.symlink("link", "dir/file");
    for root in [&pair.src, &pair.dst] {
        tree.write_to(root);
    }
    set_xattr(&pair.src.join("dir/file"), "user.kept", b"value");
    set_xattr(&pair.src.join("dir/file"), "user.long", &[b'l'; 3000]);
    set_xattr(&pair.src.join("dir"), "user.empty", b"");
    set_xattr(&pair.dst.join("dir/file"), "user.kept", b"other");
    set_xattr(&pair.dst.join("dir"), "user.extra", b"gone soon");
    // NFS has those of users alone.
    let has_trusted = is_root()
        && ![&pair.src, &pair.dst]
            .into_iter()
            .any(|root| is_on_nfs(root));
    if has_trusted {
        set_xattr(&pair.src.join("link"), "trusted.of.link", b"t");
        set_xattr(&pair.src, "trusted.root", b"r");
    }
    let inode = stamp(&pair.dst.join("dir/file")).inode;
    let outcome = pair.sync(engine, &["-X", "-i"]);
    let lines = outcome.exits(0).itemized();
    for line in [".f........x dir/file", ".d........x dir/"] {
        assert!(lines.contains(&line.to_owned()), "{}", outcome.describe());
    }
    assert_eq!(stamp(&pair.dst.join("dir/file")).inode, inode);
    let dst = |name: &str, attr: &str| xattr(&pair.dst.join(name), attr);
    assert_eq!(dst("dir/file", "user.kept").unwrap(), b"value");
    assert_eq!(dst("dir/file", "user.long").unwrap(), [b'l'; 3000]);
    assert_eq!(dst("dir", "user.empty").unwrap(), b"");
    assert_eq!(dst("dir", "user.extra"), None);
    if has_trusted {
        assert_eq!(dst("link", "trusted.of.link").unwrap(), b"t");
        assert_eq!(dst("", "trusted.root").unwrap(), b"r");
    }
    let before = stamps(&pair.dst);
    pair.sync(engine, &["-X"]).exits(0);
    assert_untouched(&before, &pair.dst);
    assert_equal_trees(&pair.src, &pair.dst);
}

/// `system.posix_acl_*` as the kernel keeps it: version 2, then tag, permissions and id of each entry.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const NO_ID: u32 = u32::MAX;
const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// The owner reads and writes, user 7 has `user`, the group reads.
fn acl_for_user(user: u16) -> Vec<u8> {
    acl(&[
        (0x01, 7, NO_ID),
        (0x02, user, 7),
        (0x04, 4, NO_ID),
        (0x10, 7, NO_ID),
        (0x20, 0, NO_ID),
    ])
}

fn acls_are_made_equal_and_inherited_ones_removed(engine: &str) {
    let pair = Pair::new();
    let mut tree = Tree::new();
    for name in [
        "with",
        "without",
        "dir/inherits",
        "dir/below/deep",
        "plain/file",
    ] {
        tree.file(name, "content").mode(0o640);
    }
    tree.write_to(&pair.src);
    set_xattr(&pair.src.join("with"), ACCESS, &acl_for_user(6));
    set_xattr(&pair.src.join("dir"), DEFAULT, &acl_for_user(7));
    // Everything made in the destination inherits what the source does not have.
    set_xattr(&pair.dst, DEFAULT, &acl_for_user(7));
    for _ in 0..2 {
        pair.sync(engine, &["-A"]).exits(0);
        for name in [
            "",
            "with",
            "without",
            "dir",
            "dir/inherits",
            "dir/below",
            "plain/file",
        ] {
            for attr in [ACCESS, DEFAULT] {
                let [source, dest] =
                    [&pair.src, &pair.dst].map(|root| xattr(&root.join(name), attr));
                assert_eq!(source, dest, "{attr} of '{name}'");
            }
        }
        assert_equal_trees(&pair.src, &pair.dst);
        // And repaired when it differs later.
        set_xattr(&pair.dst.join("with"), ACCESS, &acl_for_user(7));
        set_xattr(&pair.dst.join("without"), ACCESS, &acl_for_user(4));
        lremovexattr(pair.dst.join("dir"), DEFAULT).unwrap();
        set_xattr(&pair.dst.join("plain"), DEFAULT, &acl_for_user(1));
    }
}

const CAPABILITY: &str = "security.capability";

fn capabilities_survive_a_change_of_owner(engine: &str) {
    if skip_unless_root("file capabilities are root's to set") {
        return;
    }
    let capability: Vec<u8> = [0x0200_0001_u32, 1 << 13, 0, 0, 0]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("tool", "content").mode(0o4755).owner(7, 8);
    tree.write_to(&pair.src);
    set_xattr(&pair.src.join("tool"), CAPABILITY, &capability);
    let expect = || {
        assert_equal_trees(&pair.src, &pair.dst);
        assert_eq!(
            xattr(&pair.dst.join("tool"), CAPABILITY).as_ref(),
            Some(&capability)
        );
    };
    pair.sync(engine, &["-X"]).exits(0);
    expect();
    chown(pair.dst.join("tool"), Some(9), None).unwrap();
    set_xattr(&pair.dst.join("tool"), CAPABILITY, &capability);
    pair.sync(engine, &["-X"]).exits(0);
    expect();
}

fn attributes_of_read_only_files_are_carried_by_an_ordinary_user(engine: &str) {
    if skip_unless_root("cannot become somebody else") {
        return;
    }
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("file", "content").mode(0o444);
    tree.write_to(&pair.src);
    set_xattr(&pair.src.join("file"), "user.a", b"1");
    give_to_nobody(&pair.src);
    give_to_nobody(&pair.dst);
    let args = sync_args(engine, &["-X"], &pair.src, &pair.dst);
    ringsync_as_nobody(&pair.scratch, &args).exits(0);
    assert_eq!(xattr(&pair.dst.join("file"), "user.a").unwrap(), b"1");
}

/// ramfs has neither extended attributes nor ACLs.
fn contents_arrive_where_attributes_cannot_be_set(engine: &str) {
    let Some(image) = Image::new("ramfs") else {
        return;
    };
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("file", "content");
    tree.file("acl", "content").mode(0o670);
    tree.write_to(&pair.src);
    set_xattr(&pair.src.join("file"), "user.a", b"1");
    // The group itself may only read: without the ACL, it must not get what the mask allows.
    set_xattr(&pair.src.join("acl"), ACCESS, &acl_for_user(7));
    let dst = image.dir("dst");
    let outcome = sync(engine, &["-AX"], &pair.src, &dst);
    outcome
        .exits(23)
        .complains_of(&["extended attributes", "file", "EOPNOTSUPP"]);
    for name in ["file", "acl"] {
        assert_eq!(fs::read(dst.join(name)).unwrap(), b"content");
        let mtime = |root: &Path| fs::metadata(root.join(name)).unwrap().mtime();
        assert_eq!(mtime(&dst), mtime(&pair.src));
    }
    assert_eq!(fs::metadata(dst.join("acl")).unwrap().mode() & 0o777, 0o740);
    assert_eq!(temporaries(&dst), Vec::<String>::new());
}

fn blocks(path: &Path) -> u64 {
    fs::metadata(path).unwrap().blocks() * 512
}

const MIB: u64 = 1 << 20;

/// Data in the middle and at an odd place near the end, holes at both ends; once small, once in chunks.
fn write_sparse(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    file.write_all_at(&[b'd'; 10_000], size / 2).unwrap();
    file.write_all_at(&[b'e'; 5000], size - 300_001).unwrap();
}

fn holes_are_kept(engine: &str) {
    let pair = Pair::new();
    write_sparse(&pair.src.join("small"), 3 * MIB + 5);
    write_sparse(&pair.src.join("large"), 300 * MIB + 5);
    File::create(pair.src.join("hole"))
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    for options in [
        &[][..],
        &["--reflink", "never"],
        &["--write-mode", "direct"],
    ] {
        fs::remove_dir_all(&pair.dst).unwrap();
        fs::create_dir(&pair.dst).unwrap();
        pair.sync(engine, options).exits(0);
        for name in ["small", "large"] {
            let [source, dest] = [&pair.src, &pair.dst].map(|root| root.join(name));
            assert!(fs::read(&source).unwrap() == fs::read(&dest).unwrap());
            assert!(blocks(&dest) <= blocks(&source), "{options:?} {name}");
        }
        let hole = fs::metadata(pair.dst.join("hole")).unwrap();
        assert_eq!((hole.len(), hole.blocks()), (1 << 40, 0));
    }
    fs::remove_file(pair.src.join("hole")).unwrap();
    pair.sync(
        engine,
        &["-I", "--delete", "--ignore-holes", "--reflink", "never"],
    )
    .exits(0);
    assert!(blocks(&pair.dst.join("small")) >= 3 * MIB);
    assert_equal_trees(&pair.src, &pair.dst);
}

fn zeros_become_holes_on_request(engine: &str) {
    let pair = Pair::new();
    for (name, size) in [("small", 3 * MIB + 5), ("large", 100 * MIB + 5)] {
        let mut file = File::create(pair.src.join(name)).unwrap();
        let zeros = vec![0; 1 << 20];
        let mut left = size;
        while left > 0 {
            let part = left.min(MIB);
            file.write_all(&zeros[..usize::try_from(part).unwrap()])
                .unwrap();
            left -= part;
        }
        file.seek(SeekFrom::Start(MIB)).unwrap();
        file.write_all(b"data in the middle").unwrap();
    }
    pair.sync(engine, &["-S", "--reflink", "never"]).exits(0);
    for name in ["small", "large"] {
        let [source, dest] = [&pair.src, &pair.dst].map(|root| root.join(name));
        assert!(fs::read(&source).unwrap() == fs::read(&dest).unwrap());
        assert!(blocks(&dest) <= 16 * 1024, "{name}: {}", blocks(&dest));
    }
    assert_equal_trees(&pair.src, &pair.dst);
}

/// `-L`, `--copy-unsafe-links` and `--safe-links` against rsync, which they are named after.
fn followed_symlinks_as_rsync_does(engine: &str) {
    if skip_without_rsync() {
        return;
    }
    for option in ["-L", "--copy-unsafe-links", "--safe-links"] {
        let pair = Pair::new();
        let outside = pair.src.parent().unwrap().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "outside content").unwrap();
        fs::create_dir_all(outside.join("dir/below")).unwrap();
        fs::write(outside.join("dir/below/file"), "below").unwrap();
        for dir in ["dir/below", "dir"] {
            set_mtime(&outside.join(dir), LONG_AGO);
        }
        let mut tree = Tree::new();
        tree.file("file", "content");
        tree.file("dir/deep/file", "content");
        for (name, target) in [
            ("to file", "file"),
            ("to dir", "dir"),
            ("dir/up", "../file"),
            ("dir/deep/up", "../../file"),
            ("dir/too high", "../../outside/file"),
            ("outside file", "../outside/file"),
            ("outside dir", "../outside/dir"),
            ("in and out", "dir/../file"),
        ] {
            tree.symlink(name, target);
        }
        tree.write_to(&pair.src);
        symlink(outside.join("file"), pair.src.join("absolute")).unwrap();
        set_mtime(&pair.src, LONG_AGO);
        pair.sync(engine, &[option]).exits(0);
        let theirs = pair.scratch.dir("theirs");
        rsync(&["-a", option], &pair.src, &theirs).exits(0);
        // rsync leaves the times of directories that it met through unsafe links as they come.
        for dir in ["outside dir/below", "outside dir"] {
            if theirs.join(dir).is_dir() {
                set_mtime(&theirs.join(dir), LONG_AGO);
            }
        }
        assert_equal_trees(&theirs, &pair.dst);
        for deletion in ["--delete", "--delete-after"] {
            pair.sync(engine, &[option, deletion]).exits(0);
            assert_equal_trees(&theirs, &pair.dst);
        }
    }
}

fn symlink_loops_are_reported_and_end(engine: &str) {
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("a/b/file", "content");
    tree.symlink("a/b/to a", "..");
    tree.symlink("self", ".");
    tree.symlink("nowhere", "missing");
    tree.write_to(&pair.src);
    fs::write(pair.dst.join("nowhere"), "its copy stays").unwrap();
    let outcome = pair.sync(engine, &["-L", "--delete"]);
    outcome
        .exits(23)
        .complains_of(&["a/b/to a", "leads to a directory that it is in"])
        .complains_of(&["self"])
        .complains_of(&["nowhere", "leads to nothing"]);
    assert_eq!(fs::read(pair.dst.join("a/b/file")).unwrap(), b"content");
    assert!(pair.dst.join("nowhere").exists());
}
