//! What may be a source and a destination, and what is refused because it could only do harm.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use support::snap::{assert_equal_trees, assert_untouched, stamps};
use support::tree::Tree;
use support::{Pair, ringsync, sync};

fn filled() -> Pair {
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("file", "12345");
    tree.file("dir/file", "1234567");
    tree.symlink("dir/link", "file");
    tree.write_to(&pair.src);
    pair
}

#[test]
fn check_of_a_missing_side_exits_3() {
    let pair = filled();
    let missing = pair.scratch.path().join("missing");
    for (src, dst) in [(&pair.src, &missing), (&missing, &pair.src)] {
        let outcome = ringsync(&["check".as_ref(), src.as_os_str(), dst.as_os_str()]);
        outcome.exits(3).complains_of(&["missing"]);
        assert!(!missing.exists());
    }
}

#[test]
fn destination_is_created_and_slashes_mean_nothing() {
    for (from, to) in [("", ""), ("/", ""), ("", "/"), ("/", "/"), ("/.", "/.")] {
        let pair = filled();
        if to != "/." {
            fs::remove_dir(&pair.dst).unwrap();
        }
        let src = format!("{}{from}", pair.src.display());
        let dst = format!("{}{to}", pair.dst.display());
        ringsync(&["sync", &src, &dst]).exits(0);
        assert_equal_trees(&pair.src, &pair.dst);
    }
}

#[test]
fn relative_paths_work() {
    let pair = filled();
    let mut command = support::command(
        support::BINARY,
        &["sync", "--delete", "./src", "src/../dst"],
    );
    command.current_dir(pair.scratch.path());
    support::run(command).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
}

#[test]
fn roots_may_be_symlinks_to_directories() {
    let pair = filled();
    let links = pair.scratch.dir("links");
    symlink(&pair.src, links.join("src")).unwrap();
    symlink(&pair.dst, links.join("dst")).unwrap();
    sync(
        "auto",
        &["--delete"],
        &links.join("src"),
        &links.join("dst"),
    )
    .exits(0);
    assert!(
        fs::symlink_metadata(links.join("dst"))
            .unwrap()
            .is_symlink()
    );
    assert_equal_trees(&pair.src, &pair.dst);
}

#[test]
fn overlapping_roots_are_refused() {
    let pair = filled();
    let before = stamps(pair.scratch.path());
    let inside = [
        pair.src.join("dir"),
        pair.src.join("new"),
        pair.src.join("dir/../dir/new"),
        pair.src.clone(),
    ];
    for dst in inside {
        for options in [&[][..], &["--delete"], &["-n"]] {
            sync("auto", options, &pair.src, &dst).exits(3);
            assert_untouched(&before, pair.scratch.path());
        }
    }
    symlink(&pair.src, pair.scratch.path().join("link")).unwrap();
    let before = stamps(pair.scratch.path());
    for dst in ["link", "link/dir", "link/new"] {
        sync(
            "auto",
            &["--delete"],
            &pair.src,
            &pair.scratch.path().join(dst),
        )
        .exits(3);
        assert_untouched(&before, pair.scratch.path());
    }
}

#[test]
fn destination_that_is_a_file_is_refused() {
    let pair = filled();
    let file = pair.scratch.path().join("a file");
    fs::write(&file, "precious").unwrap();
    sync("auto", &["--delete"], &pair.src, &file)
        .exits(3)
        .complains_of(&["a file"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn sibling_whose_name_starts_alike_is_no_overlap() {
    let pair = filled();
    let sibling = pair.scratch.path().join("src2");
    sync("auto", &[], &pair.src, &sibling).exits(0);
    assert_equal_trees(&pair.src, &sibling);
}
