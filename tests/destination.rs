//! What becomes of a destination's old entries, and of one that takes no more: `--backup`, `--backup-dir`, `--suffix`,
//! `--inplace`, `--fsync`, `--verify`, and full disks. Where rsync has the option, it is the reference.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use support::image::Image;
use support::rng::Rng;
use support::snap::{Snapshot, assert_equal_trees, differences, snapshot, temporaries};
use support::tree::{Kind, LONG_AGO, Tree, set_mtime, write_noise};
use support::{
    Pair, engines, give_to_nobody, is_root, ringsync_as_nobody, rsync, skip_unless_root,
    skip_without_rsync, sync, sync_args, under_each_engine,
};

under_each_engine!(
    existing_files_are_written_in_place,
    in_place_follows_no_symlink,
    a_backup_dir_inside_is_left_alone,
    a_backup_dir_on_another_filesystem,
    backups_lie_beside_their_originals,
    a_backup_never_takes_the_place_of_a_source_entry,
    a_symlink_planted_in_the_destination_leads_no_backup_outside,
    ordinary_users_keep_what_is_in_closed_directories,
    backups_with_hard_links,
    flushed_and_verified_trees_are_equal,
    full_ext4,
);

/// Sync twice from a source that changes in between: the second time there are backups already.
macro_rules! like_rsync {
    ($($name:ident: $seeds:expr, $options:expr;)+) => {
        $( #[test] fn $name() { compare_all($seeds, &$options); } )+
    };
}

like_rsync! {
    suffix_as_rsync: 0..15, ["--backup", "--delete"];
    other_suffix_as_rsync: 15..25, ["-b", "--suffix=.old", "--delete"];
    suffix_without_delete_as_rsync: 25..35, ["-b"];
    backup_dir_as_rsync: 35..60, ["--backup-dir=../kept", "--delete"];
    backup_dir_with_suffix_as_rsync: 60..70, ["--backup-dir=../kept", "--suffix=.old", "--delete"];
    backup_dir_without_delete_as_rsync: 70..80, ["-b", "--backup-dir=../kept"];
    backup_dir_delete_after_as_rsync: 80..90, ["--backup-dir=../kept", "--delete-after"];
    in_place_as_rsync: 90..110, ["--inplace", "--delete"];
    in_place_with_backups_as_rsync: 110..120, ["--inplace", "--backup-dir=../kept", "--delete"];
    in_place_with_suffix_as_rsync: 120..130, ["--inplace", "-b", "--delete"];
}

fn compare_all(seeds: Range<u64>, options: &[&str]) {
    if skip_without_rsync() {
        return;
    }
    for seed in seeds {
        compare(seed, options);
    }
}

fn compare(seed: u64, options: &[&str]) {
    let mut rng = Rng::new(seed);
    let pair = Pair::new();
    // Where a directory is in the way, rsync may leave it half removed: beside its originals a backup keeps it from going.
    // In place, it also trips over an older backup of another kind.
    let deletes = options.iter().any(|option| option.starts_with("--delete"));
    let in_place = options.contains(&"--inplace");
    let kinds_by_name = !options.contains(&"--backup-dir=../kept") || !deletes || in_place;
    let (before, after) = (
        random_tree(&mut rng, kinds_by_name),
        random_tree(&mut rng, kinds_by_name),
    );
    let old = random_tree(&mut rng, kinds_by_name);
    for source in ["before", "after"] {
        pair.scratch.dir(source);
    }
    before.write_to(&pair.scratch.path().join("before"));
    after.write_to(&pair.scratch.path().join("after"));
    for who in ["rsync", "ring", "inline"] {
        let root = pair.scratch.dir(who);
        let dst = root.join("dst");
        fs::create_dir(&dst).unwrap();
        old.write_to(&dst);
        for source in ["before", "after"] {
            let src = pair.scratch.path().join(source);
            // rsync 3.5.0 cannot combine --inplace with a backup directory that goes up.
            let absolute = format!("--backup-dir={}/kept", root.display());
            let mut all = [&["-a"], options].concat();
            for option in all.iter_mut().filter(|_| in_place) {
                if option.starts_with("--backup-dir") {
                    *option = &absolute;
                }
            }
            let outcome = if who == "rsync" {
                rsync(&all, &src, &dst)
            } else {
                sync(who, &all, &src, &dst)
            };
            outcome.exits(0);
        }
        let ours = comparable(&root);
        let reference = comparable(&pair.scratch.path().join("rsync"));
        let differing = differences(&reference, &ours, "rsync", "ringsync");
        assert!(
            differing.is_empty(),
            "seed {seed}, {options:?}, {who}\n{differing}"
        );
    }
}

/// Times of directories are not compared: with `--backup`, rsync does not set them, and those of the backup tree move with
/// each entry.
fn comparable(root: &Path) -> Snapshot {
    let mut all = snapshot(root);
    for node in all.values_mut() {
        if node.kind == rustix::fs::FileType::Directory {
            node.mtime = LONG_AGO;
        }
    }
    all
}

/// Few names, so that trees meet often, and modes by name, so that a directory has one mode for all.
fn random_tree(rng: &mut Rng, kinds_by_name: bool) -> Tree {
    let mut tree = Tree::new();
    let mut dirs = vec![String::new()];
    for _ in 0..25 {
        let letter = rng.below(8);
        let name = char::from(b'a' + u8::try_from(letter).unwrap());
        let path = format!("{}{name}", rng.pick(&dirs));
        let taken = |at: &str| tree.nodes.contains_key(at.as_bytes());
        if taken(&path) {
            continue;
        }
        let is_dir = if kinds_by_name {
            letter < 3
        } else {
            rng.chance(35)
        };
        if is_dir {
            tree.dir(&path).mode([0o755, 0o750, 0o700][letter % 3]);
            dirs.push(format!("{path}/"));
            continue;
        }
        let time = 1_000_000_000 + i64::try_from(rng.below(4)).unwrap() * 1000;
        let mode = *rng.pick(&[0o644, 0o600, 0o755]);
        let len = *rng.pick(&[0, 3, 2000]);
        let kind = match rng.below(10) {
            0 | 1 => Kind::Symlink(vec![b'x'; 1 + rng.below(2)]),
            2 => Kind::Fifo,
            _ => Kind::File(rng.bytes(len)),
        };
        tree.add(&path, kind).mode(mode).mtime(time, 5);
    }
    tree
}

fn read(path: &Path) -> String {
    String::from_utf8(fs::read(path).unwrap()).unwrap()
}

/// `src/NAME` is newer than `dst/NAME`.
fn update(pair: &Pair, name: &str, new: &str, old: &str) {
    fs::write(pair.src.join(name), new).unwrap();
    fs::write(pair.dst.join(name), old).unwrap();
    set_mtime(&pair.dst.join(name), LONG_AGO);
}

fn existing_files_are_written_in_place(engine: &str) {
    let pair = Pair::new();
    update(&pair, "shrinks", "new", "a longer old one");
    update(&pair, "grows", "a longer new one", "old");
    update(&pair, "empty", "", "old");
    fs::write(pair.src.join("fresh"), "fresh").unwrap();
    write_noise(&pair.src.join("large"), (64 << 20) + 77, 1);
    write_noise(&pair.dst.join("large"), (64 << 20) + 9_000, 2);
    fs::hard_link(
        pair.dst.join("shrinks"),
        pair.scratch.path().join("other name"),
    )
    .unwrap();
    fs::set_permissions(pair.src.join("grows"), PermissionsExt::from_mode(0o4600)).unwrap();
    let inode = |name: &str| fs::metadata(pair.dst.join(name)).unwrap().ino();
    let names = ["shrinks", "grows", "empty", "large"];
    let before = names.map(inode);
    pair.sync(engine, &["--inplace"]).exits(0);
    assert_eq!(names.map(inode), before);
    assert_equal_trees(&pair.src, &pair.dst);
    assert_eq!(read(&pair.scratch.path().join("other name")), "new");
    let again = pair.sync(engine, &["--inplace", "-i"]);
    assert_eq!(again.exits(0).itemized(), Vec::<String>::new());
    pair.sync(engine, &["--inplace", "--write-mode", "direct"])
        .exits(0);
    pair.sync(engine, &["--inplace", "--write-mode", "atomic"])
        .exits(1)
        .complains_of(&["--inplace"]);
}

fn in_place_follows_no_symlink(engine: &str) {
    let pair = Pair::new();
    let outside = pair.scratch.path().join("outside");
    fs::write(&outside, "mine").unwrap();
    fs::write(pair.src.join("file"), "new").unwrap();
    symlink(&outside, pair.dst.join("file")).unwrap();
    pair.sync(engine, &["--inplace"]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
    assert_eq!(read(&outside), "mine");
}

fn a_backup_dir_inside_is_left_alone(engine: &str) {
    let pair = Pair::new();
    fs::create_dir(pair.dst.join("old")).unwrap();
    fs::write(pair.dst.join("old/file"), "in the way").unwrap();
    update(&pair, "file", "new", "old one");
    let options = ["--delete", "--backup-dir", "old/of/today"];
    pair.sync(engine, &options).exits(0);
    let kept = pair.dst.join("old/of/today");
    assert_eq!(read(&kept.join("file")), "old one");
    // What was beside the backups was not in the source: it is a backup itself now.
    assert_eq!(read(&kept.join("old/file")), "in the way");
    for _ in 0..2 {
        let again = pair.sync(
            engine,
            &[&options[..], &["-i", "--max-delete", "0"]].concat(),
        );
        assert_eq!(again.exits(0).itemized(), Vec::<String>::new());
        assert_eq!(read(&kept.join("file")), "old one");
    }
    // A source that has the name is not mixed with backups, and neither is a name beside it lost.
    fs::create_dir_all(pair.src.join("old/of/today")).unwrap();
    fs::write(pair.src.join("old/of/today/file"), "source").unwrap();
    let clash = pair.sync(engine, &options);
    clash.exits(23).complains_of(&["--backup-dir"]);
    assert_eq!(read(&kept.join("file")), "old one");
    fs::remove_dir_all(pair.src.join("old")).unwrap();
    fs::write(pair.src.join("old"), "a file").unwrap();
    pair.sync(engine, &options).exits(23);
    assert_eq!(read(&kept.join("file")), "old one");
}

fn a_backup_dir_on_another_filesystem(engine: &str) {
    let Some(image) = Image::sized("ext4", 32) else {
        return;
    };
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("gone/file", "old").mode(0o640).owner(1, 2);
    tree.file("gone/large", vec![7; 300_000]);
    tree.symlink("gone/link", "somewhere");
    tree.add("gone/fifo", Kind::Fifo).mode(0o600);
    tree.dir("gone").mode(0o750).owner(3, 4);
    tree.write_to(&pair.dst);
    update(&pair, "file", "new", "old one");
    let before = snapshot(&pair.dst);
    let kept = image.path().join("kept");
    let dir = kept.to_str().unwrap();
    pair.sync(engine, &["--delete", "--backup-dir", dir])
        .exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
    let after = snapshot(&kept);
    for name in ["gone/file", "gone/large", "gone/link", "gone/fifo", "file"] {
        let name = name.as_bytes();
        assert_eq!(after.get(name), before.get(name));
    }
    let owner = |snapshot: &Snapshot| {
        let dir = &snapshot[&b"gone"[..]];
        (dir.mode, dir.uid, dir.gid)
    };
    assert_eq!(owner(&after), owner(&before));
    assert_eq!(temporaries(&kept), Vec::<String>::new());
}

fn backups_lie_beside_their_originals(engine: &str) {
    let pair = Pair::new();
    update(&pair, "file", "new", "old one");
    fs::write(pair.dst.join("file~"), "an older one").unwrap();
    fs::write(pair.dst.join("extra"), "extra").unwrap();
    fs::create_dir(pair.dst.join("gone")).unwrap();
    fs::write(pair.dst.join("gone/file"), "gone").unwrap();
    let inode = |name: &str| fs::metadata(pair.dst.join(name)).unwrap().ino();
    let before = (inode("file"), inode("extra"));
    let dry = pair.sync(engine, &["-b", "--delete", "-n", "-i"]);
    let told = pair.sync(engine, &["-b", "--delete", "-i"]);
    assert_eq!(dry.exits(0).itemized(), told.exits(0).itemized());
    // The very inodes: nothing was copied.
    assert_eq!((inode("file~"), inode("extra~")), before);
    assert_eq!(read(&pair.dst.join("gone/file~")), "gone");
    assert_eq!(read(&pair.dst.join("file")), "new");
    let again = pair.sync(engine, &["-b", "--delete", "-i"]);
    assert_eq!(again.exits(0).itemized(), Vec::<String>::new());
    // Without backups these are names like others.
    pair.sync(engine, &["--delete"]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
}

fn a_backup_never_takes_the_place_of_a_source_entry(engine: &str) {
    let pair = Pair::new();
    update(&pair, "file", "new", "old one");
    fs::write(pair.dst.join("extra"), "extra").unwrap();
    for name in ["file~", "extra~"] {
        fs::write(pair.src.join(name), "the source's own").unwrap();
    }
    // An equal file needs no backup.
    fs::write(pair.src.join("equal"), "equal").unwrap();
    fs::write(pair.src.join("equal~"), "equal too").unwrap();
    fs::copy(pair.src.join("equal"), pair.dst.join("equal")).unwrap();
    let outcome = pair.sync(engine, &["-b", "--delete", "-c"]);
    outcome.exits(23).complains_of(&["--suffix"]);
    for (name, content) in [
        ("file", "old one"),
        ("extra", "extra"),
        ("file~", "the source's own"),
        ("extra~", "the source's own"),
        ("equal~", "equal too"),
    ] {
        assert_eq!(read(&pair.dst.join(name)), content, "{name}");
    }
    pair.sync(engine, &["-b", "--delete", "--suffix", ".old"])
        .exits(0);
    assert_eq!(read(&pair.dst.join("file.old")), "old one");
    assert_eq!(read(&pair.dst.join("file")), "new");
}

fn a_symlink_planted_in_the_destination_leads_no_backup_outside(engine: &str) {
    let pair = Pair::new();
    let outside = pair.scratch.dir("outside");
    fs::create_dir_all(pair.dst.join("dir")).unwrap();
    fs::create_dir_all(pair.src.join("dir")).unwrap();
    update(&pair, "dir/file", "new", "old one");
    symlink(&outside, pair.dst.join("kept")).unwrap();
    let refused = pair.sync(engine, &["--backup-dir", "kept"]);
    refused.exits(3).complains_of(&["symlinks"]);
    // Deeper down it is an old backup like another, and makes way for the directory.
    fs::remove_file(pair.dst.join("kept")).unwrap();
    fs::create_dir(pair.dst.join("kept")).unwrap();
    symlink(&outside, pair.dst.join("kept/dir")).unwrap();
    pair.sync(engine, &["--backup-dir", "kept"]).exits(0);
    assert_eq!(read(&pair.dst.join("kept/dir/file")), "old one");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

fn ordinary_users_keep_what_is_in_closed_directories(engine: &str) {
    let pair = Pair::new();
    fs::write(pair.src.join("stays"), "stays").unwrap();
    let mut tree = Tree::new();
    tree.file("closed/file", "old one");
    tree.file("closed/deep/file", "old one");
    for dir in ["closed", "closed/deep"] {
        tree.dir(dir).mode(0o555);
    }
    tree.write_to(&pair.dst);
    if is_root() {
        give_to_nobody(pair.scratch.path());
    }
    for content in ["old one", "newer one"] {
        let mut options = vec!["--delete", "--backup-dir", "../kept"];
        if content == "newer one" {
            options.push("-b");
        }
        let args = sync_args(engine, &options, &pair.src, &pair.dst);
        ringsync_as_nobody(&pair.scratch, &args).exits(0);
        let kept = pair.scratch.path().join("kept");
        for dir in ["closed", "closed/deep"] {
            let dir = kept.join(dir);
            assert_eq!(read(&dir.join("file")), content);
            assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o555);
        }
        // The same again, where the backup tree is closed already.
        tree.file("closed/file", "newer one");
        tree.file("closed/deep/file", "newer one");
        for dir in ["closed", "closed/deep"] {
            tree.dir(dir).mode(0o555);
        }
        tree.write_to(&pair.dst);
        if is_root() {
            give_to_nobody(&pair.dst);
        }
    }
}

fn backups_with_hard_links(engine: &str) {
    let pair = Pair::new();
    update(&pair, "a", "new", "old a");
    update(&pair, "b", "new", "old b");
    fs::remove_file(pair.src.join("b")).unwrap();
    fs::hard_link(pair.src.join("a"), pair.src.join("b")).unwrap();
    pair.sync(engine, &["-H", "-b"]).exits(0);
    let inode = |name: &str| fs::metadata(pair.dst.join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("b"));
    assert_eq!(read(&pair.dst.join("a~")), "old a");
    assert_eq!(read(&pair.dst.join("b~")), "old b");
}

fn flushed_and_verified_trees_are_equal(engine: &str) {
    let trees = Pair::new();
    let mut tree = support::tree::all_kinds();
    for number in 0..100 {
        tree.file(
            format!("many/{}/file {number}", number % 5),
            vec![b'm'; number * 997],
        );
    }
    tree.write_to(&trees.src);
    for options in [
        &["--fsync", "file"][..],
        &["--fsync", "end"],
        &["--verify"],
        &["--verify", "--fsync", "file", "--write-mode", "direct"],
        &["--verify", "--fsync", "end", "--inplace", "-I"],
    ] {
        let outcome = trees.sync(engine, &[&["-a", "--delete"], options].concat());
        outcome.exits(0);
        assert_equal_trees(&trees.src, &trees.dst);
        if !options.contains(&"direct") {
            fs::remove_dir_all(&trees.dst).unwrap();
            fs::create_dir(&trees.dst).unwrap();
        }
    }
}

const FILES: u64 = 300;

fn full_ext4(engine: &str) {
    full("ext4", 32, engine);
}

#[test]
fn full_xfs() {
    full("xfs", 300, "auto");
}

#[test]
fn full_btrfs() {
    full("btrfs", 128, "auto");
}

/// A destination that fills up keeps what was complete, and the next run on a larger one goes on from there.
fn full(kind: &str, mib: u64, engine: &str) {
    let Some(image) = Image::sized(kind, mib) else {
        return;
    };
    let ballast = image.path().join("ballast");
    let room = fill(&ballast);
    OpenOptions::new()
        .write(true)
        .open(&ballast)
        .and_then(|file| file.set_len(room / 10 * 4))
        .unwrap();
    image.free();
    // Too much for now, and not too much for later.
    let pair = Pair::new();
    let len = room / 10 * 8 / FILES;
    for number in 0..FILES {
        write_noise(&pair.src.join(format!("file {number}")), len, number);
    }
    let dst = image.dir("dst");
    for fsync in ["end", "file"] {
        let outcome = sync(engine, &["--fsync", fsync], &pair.src, &dst);
        outcome.exits(11).complains_of(&["no space left", "quota"]);
        assert_eq!(temporaries(&dst), Vec::<String>::new());
        assert_complete(&pair.src, &dst);
    }
    let copied = fs::read_dir(&dst).unwrap().count();
    assert!(copied > 10, "only {copied} of {FILES}");
    // More room, and what is there stays there.
    fs::remove_file(&ballast).unwrap();
    image.free();
    let before = fs::metadata(dst.join("file 0")).ok().map(|meta| meta.ino());
    sync(engine, &[], &pair.src, &dst).exits(0);
    assert_equal_trees(&pair.src, &dst);
    if let Some(inode) = before {
        assert_eq!(fs::metadata(dst.join("file 0")).unwrap().ino(), inode);
    }
}

/// Writes until there is no room left. Returns how much there was.
fn fill(path: &Path) -> u64 {
    let mut file = fs::File::create(path).unwrap();
    let block = Rng::new(1).bytes(1 << 20);
    let mut written = 0;
    loop {
        match file.write(&block) {
            Ok(count) => written += count as u64,
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                return written;
            }
        }
    }
}

fn assert_complete(src: &Path, dst: &Path) {
    let originals = snapshot(src);
    for (path, copy) in snapshot(dst) {
        let same = path == b"." || copy.content == originals[&path].content;
        assert!(same, "{} is not whole", path.escape_ascii());
    }
}

#[test]
fn backup_directories_that_cannot_be_are_refused() {
    let pair = Pair::new();
    fs::write(pair.src.join("file"), "new").unwrap();
    fs::create_dir(pair.src.join("dir")).unwrap();
    fs::write(pair.scratch.path().join("a file"), "x").unwrap();
    symlink(&pair.dst, pair.scratch.path().join("to dst")).unwrap();
    let inside_source = pair.src.join("dir/kept");
    let through_link = pair.scratch.path().join("to dst");
    for (dir, word) in [
        (".", "itself"),
        ("..", "contains"),
        ("/", "contains"),
        ("../src", "source"),
        (inside_source.to_str().unwrap(), "source"),
        ("../a file", "directory"),
        ("../a file/below", "directory"),
        ("missing/../kept", ".."),
        (through_link.to_str().unwrap(), "itself"),
    ] {
        let outcome = pair.sync("inline", &["--backup-dir", dir]);
        outcome.exits(3).complains_of(&[word]);
        assert_eq!(fs::read_dir(&pair.dst).unwrap().count(), 0, "{dir}");
    }
    for (options, word) in [
        (&["--suffix", "x"][..], "--backup"),
        (&["-b", "--suffix", ""], "empty"),
        (&["-b", "--suffix", "a/b"], "slash"),
        (&["--fsync", "always"], "possible values"),
    ] {
        pair.sync("inline", options).exits(1).complains_of(&[word]);
    }
    // A directory that nothing needs is not made.
    pair.sync("inline", &["--backup-dir", "../kept"]).exits(0);
    assert!(!pair.scratch.path().join("kept").exists());
    // What the user's own symlinks lead to is as good as another name.
    fs::write(pair.src.join("file"), "newer").unwrap();
    let dir = through_link.join("kept");
    pair.sync("inline", &["--backup-dir", dir.to_str().unwrap()])
        .exits(0);
    assert_eq!(read(&pair.dst.join("kept/file")), "new");
}

/// The final name is there at every moment, also while the old file gets its backup name.
#[test]
fn names_are_never_absent_while_backups_are_made() {
    let pair = Pair::new();
    let names: Vec<String> = (0..400).map(|number| format!("file {number}")).collect();
    for name in &names {
        update(&pair, name, "new", "old one");
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                for name in &names {
                    assert!(pair.dst.join(name).exists(), "{name} was absent");
                }
            }
        });
        let outcome = pair.sync("ring", &["-b"]);
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        outcome.exits(0);
    });
    assert_eq!(read(&pair.dst.join("file 399~")), "old one");
}

#[test]
fn in_place_an_ordinary_user_gets_an_error_for_a_file_that_is_not_writable() {
    if skip_unless_root("the file belongs to somebody else") {
        return;
    }
    let pair = Pair::new();
    update(&pair, "file", "new", "old one");
    update(&pair, "other", "new", "old one");
    give_to_nobody(pair.scratch.path());
    std::os::unix::fs::chown(pair.dst.join("file"), Some(1), Some(1)).unwrap();
    for engine in engines() {
        let args = sync_args(engine, &["--inplace"], &pair.src, &pair.dst);
        ringsync_as_nobody(&pair.scratch, &args)
            .exits(23)
            .complains_of(&["permission denied"]);
        assert_eq!(read(&pair.dst.join("file")), "old one");
        assert_eq!(read(&pair.dst.join("other")), "new");
    }
}
