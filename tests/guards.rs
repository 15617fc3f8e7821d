//! What is refused before anything changes, what is left alone although it lies in the way, and that limits are exact.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use support::image::{Bind, Image};
use support::rng::Rng;
use support::snap::{assert_equal_trees, assert_untouched, snapshot, stamps};
use support::tree::{Tree, set_mtime};
use support::{
    Outcome, Pair, give_to_nobody, is_root, ringsync, ringsync_as_nobody, rsync, skip_unless_root,
    skip_without_rsync, sync, sync_args, under_each_engine,
};

under_each_engine!(
    source_mounted_in_the_destination_is_left_alone,
    source_inside_the_destination_is_not_written_to,
    destination_mounted_in_the_source_is_not_entered,
    part_of_the_destination_mounted_in_the_source_ends,
    max_delete_is_exact_in_a_large_random_tree,
    max_delete_counts_what_a_replaced_directory_holds,
    unwritable_destination_fails_entry_by_entry,
);

fn filled() -> Pair {
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("file", "12345");
    tree.file("dir/file", "1234567");
    tree.file("dir/deep/er/file", "123");
    tree.write_to(&pair.src);
    pair
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

// ---- Trees that overlap ----

#[test]
fn same_directory_by_two_names_is_refused() {
    if skip_unless_root("cannot bind-mount") {
        return;
    }
    let pair = filled();
    let _bind = Bind::new(&pair.src, &pair.dst);
    let before = stamps(&pair.src);
    for options in [&[][..], &["--delete"], &["-n"]] {
        pair.sync("auto", options)
            .exits(3)
            .complains_of(&["the same directory"]);
    }
    assert_untouched(&before, &pair.src);
}

#[test]
fn destination_inside_the_source_needs_a_filesystem_of_its_own_and_x() {
    let Some(image) = Image::sized("tmpfs", 16) else {
        return;
    };
    let pair = filled();
    let mount = pair.src.join("mounted");
    fs::create_dir(&mount).unwrap();
    let _bind = Bind::new(image.path(), &mount);
    for dst in [mount.clone(), mount.join("new")] {
        sync("auto", &["--delete"], &pair.src, &dst)
            .exits(3)
            .complains_of(&["inside the source"]);
        assert_eq!(names(&mount), Vec::<String>::new());
    }
    // Not another filesystem: -x would not stop there.
    sync("auto", &["-x"], &pair.src, &pair.src.join("dir/new")).exits(3);
    for _ in 0..2 {
        let dst = mount.join("new");
        sync("auto", &["-x", "--delete"], &pair.src, &dst).exits(0);
        assert_eq!(names(&dst), ["dir", "file", "mounted"]);
        assert_eq!(names(&dst.join("mounted")), Vec::<String>::new());
    }
}

fn destination_mounted_in_the_source_is_not_entered(engine: &str) {
    if skip_unless_root("cannot bind-mount") {
        return;
    }
    for option in ["--delete", "--delete-after", "--force"] {
        let pair = filled();
        let mount = pair.src.join("dir/deep/here");
        fs::create_dir(&mount).unwrap();
        let _bind = Bind::new(&pair.dst, &mount);
        for _ in 0..2 {
            let outcome = pair.sync(engine, &[option]);
            outcome
                .exits(23)
                .complains_of(&["'dir/deep/here': it is the destination itself"]);
            let told = outcome.err().matches("the destination itself").count();
            assert_eq!(told, 1, "{}", outcome.describe());
            assert_eq!(names(&pair.dst), ["dir", "file"]);
            assert_eq!(names(&pair.dst.join("dir/deep/here")), Vec::<String>::new());
            assert_eq!(fs::read(pair.dst.join("dir/deep/er/file")).unwrap(), b"123");
        }
    }
}

/// `a/x` of the source is `a` of the destination, so what is made there for `a/x` is seen as `a/x/x`, and so on for ever.
fn part_of_the_destination_mounted_in_the_source_ends(engine: &str) {
    if skip_unless_root("cannot bind-mount") {
        return;
    }
    for below in ["x", "x/y"] {
        let pair = Pair::new();
        fs::create_dir(pair.dst.join("a")).unwrap();
        let mount = pair.src.join("a").join(below);
        fs::create_dir_all(&mount).unwrap();
        fs::write(pair.src.join("a/file"), "content").unwrap();
        let _bind = Bind::new(&pair.dst.join("a"), &mount);
        pair.sync(engine, &[])
            .exits(23)
            .complains_of(&["it is the destination itself"]);
        assert_eq!(fs::read(pair.dst.join("a/file")).unwrap(), b"content");
    }
}

fn source_inside_the_destination_is_not_written_to(engine: &str) {
    let pair = Pair::new();
    let src = pair.dst.join("s");
    let mut tree = Tree::new();
    tree.file("file", "content");
    tree.file("s/file", "not for the source itself");
    tree.file("s/s/file", "nor this");
    // The source root's own attributes are another thing that must not change.
    tree.node("s").mode(0o711).mtime(1_000_000_000, 0);
    fs::create_dir(&src).unwrap();
    tree.write_to(&src);
    let before = stamps(&src);
    for option in ["--delete", "--delete-after"] {
        sync(engine, &[option, "--force-delete"], &src, &pair.dst)
            .exits(3)
            .complains_of(&["the source lies inside"]);
        assert_eq!(names(&pair.dst), ["s"]);
    }
    for _ in 0..2 {
        sync(engine, &[], &src, &pair.dst)
            .exits(23)
            .complains_of(&["'s': it is the source itself"]);
        assert_untouched(&before, &src);
        assert_eq!(names(&pair.dst), ["file", "s"]);
    }
}

/// What is to be done to the name under which the source is met.
fn source_mounted_in_the_destination_is_left_alone(engine: &str) {
    if skip_unless_root("cannot bind-mount") {
        return;
    }
    // Extraneous, and deep in what is extraneous; where a file must go, and deep in what is in the file's way.
    for mounted in ["extra", "extra/below/it", "file", "file/below/it", "dir"] {
        for options in [&["--delete"][..], &["--delete-after"], &["--force"]] {
            let pair = filled();
            fs::set_permissions(pair.src.join("dir"), Permissions::from_mode(0o711)).unwrap();
            fs::create_dir_all(pair.dst.join(mounted)).unwrap();
            fs::create_dir_all(pair.dst.join("other extra/dir")).unwrap();
            let bind = Bind::new(&pair.src, &pair.dst.join(mounted));
            let before = stamps(&pair.src);
            let outcome = pair.sync(engine, options);
            assert_untouched(&before, &pair.src);
            let deletes = options != ["--force"];
            let concerned = deletes || !mounted.starts_with("extra");
            if concerned {
                outcome.exits(23).complains_of(&["it is the source itself"]);
            } else {
                outcome.exits(0);
            }
            let told = outcome.err().matches("the source itself").count();
            assert_eq!(told, usize::from(concerned), "{}", outcome.describe());
            assert_eq!(pair.dst.join("other extra").exists(), !deletes);
            assert!(pair.dst.join(mounted).join("dir/deep").exists());
            drop(bind);
            // The mount point and its ancestors stay as well.
            assert!(pair.dst.join(mounted).exists(), "{}", outcome.describe());
        }
    }
}

// ---- A source that is not there ----

fn keep_safe(pair: &Pair, options: &[&str]) -> Outcome {
    let before = stamps(&pair.dst);
    let outcome = pair.sync("auto", options);
    outcome.exits(3).complains_of(&["--force-delete"]);
    assert_untouched(&before, &pair.dst);
    outcome
}

#[test]
fn empty_source_deletes_nothing_unless_forced() {
    let pair = Pair::new();
    fs::write(pair.dst.join("the only copy"), "precious").unwrap();
    for options in [&["--delete"][..], &["--delete-after"], &["--delete", "-n"]] {
        keep_safe(&pair, options).complains_of(&["is empty"]);
    }
    keep_safe(&pair, &["--delete", "--max-delete", "10"]);
    pair.sync("auto", &[]).exits(0);
    pair.sync("auto", &["--force-delete"])
        .exits(1)
        .complains_of(&["--delete"]);
    ringsync(&["check".as_ref(), pair.src.as_os_str(), pair.dst.as_os_str()]).exits(23);
    assert_eq!(names(&pair.dst), ["the only copy"]);
    pair.sync("auto", &["--delete", "--force-delete"]).exits(0);
    assert_eq!(names(&pair.dst), Vec::<String>::new());
    // Nothing to lose, nothing to refuse; a temporary file of a killed run is no loss.
    pair.sync("auto", &["--delete"]).exits(0);
    fs::write(pair.dst.join(".a.rs-0123abcd"), "half").unwrap();
    pair.sync("auto", &["--delete"]).exits(0);
}

#[test]
fn source_that_lacks_most_names_deletes_nothing_unless_forced() {
    for (count, kept, is_refused) in [
        (15, 0, false),
        (16, 0, true),
        (16, 3, true),
        (16, 4, false),
        (4000, 400, true),
        (4000, 1600, false),
    ] {
        let pair = Pair::new();
        fs::write(pair.src.join("lost+found"), "not empty").unwrap();
        for number in 0..count {
            fs::write(pair.dst.join(format!("{number:05}")), "x").unwrap();
        }
        // The newest names are left, as in a folder that is rotated: a guard that asked for the first ones would refuse.
        for number in count - kept..count {
            fs::write(pair.src.join(format!("{number:05}")), "x").unwrap();
        }
        if is_refused {
            keep_safe(&pair, &["--delete"]).complains_of(&["lacks"]);
            pair.sync("auto", &["--delete", "--force-delete"]).exits(0);
        } else {
            pair.sync("auto", &["--delete"]).exits(0);
        }
        assert_equal_trees(&pair.src, &pair.dst);
    }
}

// ---- --max-delete ----

/// A tree of some thousand entries, with directories of all sizes, one of them giant when asked.
fn random_tree(rng: &mut Rng, giant: bool) -> Tree {
    let mut tree = Tree::new();
    let mut dirs = vec![String::new()];
    for number in 0..300 {
        let parent = rng.pick(&dirs).clone();
        let dir = format!("{parent}d{number}/");
        tree.dir(dir.trim_end_matches('/'));
        for file in 0..rng.below(20) {
            tree.file(format!("{dir}f{file}"), "");
        }
        dirs.push(dir);
    }
    for file in 0..if giant { 70_000 } else { 500 } {
        tree.file(format!("giant/f{file}"), "");
    }
    tree
}

fn max_delete_is_exact_in_a_large_random_tree(engine: &str) {
    for (seed, limit) in [(1, 0), (2, 1), (3, 777), (4, 1500), (5, 50_000)] {
        let mut rng = Rng::new(seed);
        let tree = random_tree(&mut rng, limit > 2000);
        for option in ["--delete", "--delete-after"] {
            let pair = Pair::new();
            tree.write_to(&pair.dst);
            let mut source = Tree::new();
            source.file("new", "new");
            // Some directories stay, so that what goes is at every depth.
            for (path, node) in &tree.nodes {
                if rng.chance(10) && matches!(node.kind, support::tree::Kind::Dir) {
                    source.dir(path);
                }
            }
            source.write_to(&pair.src);
            let before = snapshot(&pair.dst);
            let max = format!("--max-delete={limit}");
            let options = [option, "--force-delete", &max, "--json"];
            let outcome = pair.sync(engine, &options);
            let context = format!(
                "seed {seed}, {option}, limit {limit}\n{}",
                outcome.describe()
            );
            let after = snapshot(&pair.dst);
            let gone = before.keys().filter(|path| !after.contains_key(*path));
            assert_eq!(gone.count(), limit, "{context}");
            assert_eq!(outcome.exits(25).count("entries_deleted"), limit as u64);
            // Whatever is still there has its parent.
            for path in after.keys().filter(|path| path.contains(&b'/')) {
                let parent = path.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap();
                assert!(after.contains_key(parent), "{context}");
            }
            // The rest goes when it may.
            pair.sync(engine, &[option, "--force-delete"]).exits(0);
            assert_equal_trees(&pair.src, &pair.dst);
        }
    }
}

#[test]
fn negative_max_delete_allows_none_as_in_rsync() {
    let pair = filled();
    fs::write(pair.dst.join("extra"), "x").unwrap();
    pair.sync("auto", &["--delete", "--max-delete=-1"])
        .exits(25);
    assert!(pair.dst.join("extra").exists());
}

fn max_delete_counts_what_a_replaced_directory_holds(engine: &str) {
    if skip_without_rsync() {
        return;
    }
    for limit in [0, 3, 9, 10] {
        let pair = Pair::new();
        fs::write(pair.src.join("x"), "a file now").unwrap();
        let reference = pair.scratch.dir("reference");
        for dst in [&pair.dst, &reference] {
            fs::create_dir(dst.join("x")).unwrap();
            for number in 0..10 {
                fs::write(dst.join(format!("x/{number}")), "").unwrap();
            }
        }
        let max = format!("--max-delete={limit}");
        let theirs = rsync(&["-a", "--delete", &max], &pair.src, &reference);
        let ours = pair.sync(engine, &["--delete", &max]);
        assert_eq!(ours.code(), theirs.code(), "{}", ours.describe());
        let left = |dst: &Path| snapshot(dst).len();
        assert_eq!(left(&pair.dst), left(&reference), "{}", ours.describe());
    }
}

// ---- Permissions and read-only filesystems ----

#[test]
fn read_only_source_is_as_good_as_any() {
    let Some(image) = Image::sized("tmpfs", 16) else {
        return;
    };
    let pair = Pair::new();
    let src = image.dir("src");
    let mut tree = support::tree::all_kinds();
    tree.file("large", vec![b'x'; 3 << 20]);
    tree.write_to(&src);
    image.make_read_only();
    for options in [
        &["--delete"][..],
        &["-c"],
        &["-I", "--write-mode", "direct"],
    ] {
        sync("auto", options, &src, &pair.dst).exits(0);
        assert_equal_trees(&src, &pair.dst);
    }
}

#[test]
fn read_only_destination_is_exit_11_and_says_so() {
    let Some(image) = Image::sized("tmpfs", 16) else {
        return;
    };
    let pair = filled();
    let dst = image.dir("dst");
    sync("auto", &[], &pair.src, &dst).exits(0);
    image.make_read_only();
    // Nothing to do is no error.
    sync("auto", &["--delete"], &pair.src, &dst).exits(0);
    for changed in ["new", "dir/new"] {
        fs::write(pair.src.join(changed), "new").unwrap();
        for options in [&[][..], &["--delete"], &["--write-mode", "direct"]] {
            sync("auto", options, &pair.src, &dst)
                .exits(11)
                .complains_of(&["read-only file system"]);
        }
        fs::remove_file(pair.src.join(changed)).unwrap();
    }
    // Only a directory's time differs now.
    set_mtime(&pair.src.join("dir"), support::tree::LONG_AGO.plus(5));
    sync("auto", &[], &pair.src, &dst)
        .exits(11)
        .complains_of(&["read-only file system"]);
    sync("auto", &[], &pair.src, &image.path().join("missing"))
        .exits(11)
        .complains_of(&["cannot make destination"]);
}

fn as_nobody(engine: &str, options: &[&str], pair: &Pair) -> Outcome {
    let args = sync_args(engine, options, &pair.src, &pair.dst);
    ringsync_as_nobody(&pair.scratch, &args)
}

#[test]
fn unreadable_source_is_refused() {
    for mode in [0o000, 0o311] {
        let pair = filled();
        fs::write(pair.dst.join("extra"), "x").unwrap();
        if is_root() {
            give_to_nobody(&pair.src);
            give_to_nobody(&pair.dst);
        }
        fs::set_permissions(&pair.src, Permissions::from_mode(mode)).unwrap();
        let before = stamps(&pair.dst);
        as_nobody("auto", &["--delete"], &pair)
            .exits(3)
            .complains_of(&["permission denied"]);
        assert_untouched(&before, &pair.dst);
    }
}

/// The names of the root are there to be read, and nothing else is.
#[test]
fn unsearchable_source_root_deletes_nothing() {
    let pair = filled();
    for number in 0..20 {
        fs::write(pair.src.join(format!("{number}")), "new").unwrap();
        fs::write(pair.dst.join(format!("{number}")), "old").unwrap();
    }
    if is_root() {
        give_to_nobody(&pair.src);
        give_to_nobody(&pair.dst);
    }
    fs::set_permissions(&pair.src, Permissions::from_mode(0o444)).unwrap();
    let before = snapshot(&pair.dst);
    as_nobody("auto", &["--delete"], &pair)
        .exits(23)
        .complains_of(&["permission denied"]);
    let after = snapshot(&pair.dst);
    assert_eq!(
        before.keys().collect::<Vec<_>>(),
        after.keys().collect::<Vec<_>>()
    );
}

/// A destination of somebody else's: every entry fails by itself, and nothing is half done.
fn unwritable_destination_fails_entry_by_entry(engine: &str) {
    if skip_unless_root("cannot own what others may not write") {
        return;
    }
    let pair = filled();
    fs::write(pair.dst.join("extra"), "x").unwrap();
    fs::write(pair.dst.join("file"), "old").unwrap();
    let before = stamps(&pair.dst);
    let outcome = as_nobody(engine, &["--delete"], &pair);
    outcome.exits(23).complains_of(&["permission denied"]);
    for name in ["file", "dir", "extra"] {
        assert!(outcome.err().contains(name), "{}", outcome.describe());
    }
    assert_untouched(&before, &pair.dst);
}
