//! What counts as different, by table, and how what differs is brought over.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use support::snap::{
    NodeState, assert_equal_trees, assert_same, assert_untouched, snapshot, stamp, stamps,
    temporaries,
};
use support::tree::{LONG_AGO, Time, Tree};
use support::{Pair, under_each_engine};

under_each_engine!(
    comparison_table,
    checksum_repairs_times_without_copying,
    size_only_repairs_times_without_copying,
    existing_skips_whole_new_directories,
    ignore_existing_still_fills_directories,
    dry_run_touches_nothing_and_lists_the_same,
    atomic_mode_leaves_other_links_of_the_old_file_alone,
);

/// Every state a file can be in, as (name, source content and time, destination content and time).
fn states() -> (Tree, Tree) {
    let sub_second = Time {
        nsec: LONG_AGO.nsec - 1,
        ..LONG_AGO
    };
    let both = [
        ("same", "AAAA", "AAAA", LONG_AGO),
        ("sneaky", "AAAA", "BBBB", LONG_AGO),
        ("nanosecond", "AAAA", "BBBB", sub_second),
        ("older", "AAAA", "BBBB", LONG_AGO.plus(-100)),
        ("newer", "AAAA", "BBBB", LONG_AGO.plus(100)),
        ("two seconds newer", "AAAA", "BBBB", LONG_AGO.plus(2)),
        ("other size", "AAAA", "BB", LONG_AGO),
    ];
    let (mut src, mut dst) = (Tree::new(), Tree::new());
    for (name, src_content, dst_content, dst_time) in both {
        src.file(name, src_content);
        dst.file(name, dst_content).at(dst_time);
    }
    src.file("only here", "AAAA");
    dst.file("only there", "BBBB");
    (src, dst)
}

/// Which states are copied under which options. All else must stay as it is in content and inode.
const TABLE: [(&[&str], &[&str]); 11] = [
    (
        &[],
        &[
            "nanosecond",
            "newer",
            "older",
            "only here",
            "other size",
            "two seconds newer",
        ],
    ),
    (
        &["-c"],
        &[
            "nanosecond",
            "newer",
            "older",
            "only here",
            "other size",
            "sneaky",
            "two seconds newer",
        ],
    ),
    (&["--size-only"], &["only here", "other size"]),
    (
        &["-I"],
        &[
            "nanosecond",
            "newer",
            "older",
            "only here",
            "other size",
            "same",
            "sneaky",
            "two seconds newer",
        ],
    ),
    (&["-u"], &["nanosecond", "older", "only here", "other size"]),
    (
        &["--existing"],
        &[
            "nanosecond",
            "newer",
            "older",
            "other size",
            "two seconds newer",
        ],
    ),
    (&["--ignore-existing"], &["only here"]),
    (&["--existing", "--ignore-existing"], &[]),
    (
        &["--modify-window", "1"],
        &[
            "newer",
            "older",
            "only here",
            "other size",
            "two seconds newer",
        ],
    ),
    (
        &["--modify-window", "2"],
        &["newer", "older", "only here", "other size"],
    ),
    (
        &["-c", "-u"],
        &["nanosecond", "older", "only here", "other size", "sneaky"],
    ),
];

fn comparison_table(engine: &str) {
    for (options, copied) in TABLE {
        let pair = Pair::new();
        let (src, dst) = states();
        src.write_to(&pair.src);
        dst.write_to(&pair.dst);
        let (wanted, before) = (snapshot(&pair.src), snapshot(&pair.dst));
        let before_stamps = stamps(&pair.dst);
        let outcome = pair.sync(engine, &[options, &["-i"]].concat());
        outcome.exits(0);

        let lines = outcome.itemized();
        let mut reported: Vec<&str> = lines
            .iter()
            .filter(|line| line.starts_with(">f"))
            .map(|line| &line[12..])
            .collect();
        reported.sort_unstable();
        assert_eq!(reported, copied, "{options:?}\n{}", outcome.describe());

        let (after, after_stamps) = (snapshot(&pair.dst), stamps(&pair.dst));
        for name in src.nodes.keys().chain(dst.nodes.keys()) {
            let shown = name.escape_ascii();
            let now = after.get(name);
            if copied.contains(&std::str::from_utf8(name).unwrap()) {
                assert_eq!(
                    now,
                    wanted.get(name),
                    "{options:?}: {shown} was not copied\n{}",
                    outcome.describe()
                );
                continue;
            }
            let content =
                |state: Option<&NodeState>| state.map(|state| (state.size, state.content));
            let inode = |stamp: Option<&support::snap::Stamp>| stamp.map(|stamp| stamp.inode);
            assert_eq!(
                content(now),
                content(before.get(name)),
                "{options:?}: {shown} changed\n{}",
                outcome.describe()
            );
            assert_eq!(
                inode(after_stamps.get(name)),
                inode(before_stamps.get(name)),
                "{options:?}: {shown}"
            );
            // Options that leave a file alone leave its time alone too; --size-only and -c call it equal and repair it.
            if !["-c", "--size-only"].contains(options.first().unwrap_or(&"")) {
                assert_eq!(
                    now,
                    before.get(name),
                    "{options:?}: {shown} was touched\n{}",
                    outcome.describe()
                );
            }
        }
    }
}

/// Two equal files, of which the destination's has another time.
fn equal_but_for_the_time() -> Pair {
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("dir/file", "equal content");
    tree.write_to(&pair.src);
    tree.node("dir/file").at(LONG_AGO.plus(1000));
    tree.write_to(&pair.dst);
    pair
}

fn checksum_repairs_times_without_copying(engine: &str) {
    repairs_the_time(engine, "-c");
}

fn size_only_repairs_times_without_copying(engine: &str) {
    repairs_the_time(engine, "--size-only");
}

fn repairs_the_time(engine: &str, option: &str) {
    let pair = equal_but_for_the_time();
    let inode = stamp(&pair.dst.join("dir/file")).inode;
    let outcome = pair.sync(engine, &[option, "-i"]);
    assert_eq!(outcome.exits(0).itemized(), [".f..t...... dir/file"]);
    assert_eq!(stamp(&pair.dst.join("dir/file")).inode, inode);
    assert_equal_trees(&pair.src, &pair.dst);
}

fn existing_skips_whole_new_directories(engine: &str) {
    let pair = Pair::new();
    let mut src = Tree::new();
    src.file("new/below/file", "1");
    src.file("old/file", "new content");
    src.file("old/new file", "1");
    src.symlink("old/new link", "x");
    src.write_to(&pair.src);
    let mut dst = Tree::new();
    dst.file("old/file", "old");
    dst.write_to(&pair.dst);
    pair.sync(engine, &["--existing"]).exits(0);
    let mut expected = snapshot(&pair.src);
    expected.retain(|path, _| [&b"."[..], b"old", b"old/file"].contains(&&path[..]));
    assert_same(&expected, &snapshot(&pair.dst), "expected", "destination");
}

fn ignore_existing_still_fills_directories(engine: &str) {
    let pair = Pair::new();
    let mut src = Tree::new();
    src.file("old/file", "new content").mode(0o600);
    src.file("old/new file", "1");
    src.symlink("old/link", "new target");
    src.file("new/file", "1");
    src.write_to(&pair.src);
    let mut dst = Tree::new();
    dst.file("old/file", "old");
    dst.symlink("old/link", "old target");
    dst.write_to(&pair.dst);
    let before = snapshot(&pair.dst);
    pair.sync(engine, &["--ignore-existing"]).exits(0);
    let mut expected = snapshot(&pair.src);
    for kept in ["old/file", "old/link"] {
        expected.insert(kept.into(), before[kept.as_bytes()].clone());
    }
    assert_same(&expected, &snapshot(&pair.dst), "expected", "destination");
}

fn dry_run_touches_nothing_and_lists_the_same(engine: &str) {
    for option in ["--delete", "--delete-after", "-c"] {
        let pair = Pair::new();
        let (mut src, mut dst) = states();
        src.file("new dir/below/file", "x");
        src.symlink("link", "new");
        dst.symlink("link", "old");
        dst.file("extra dir/below/file", "x");
        src.file("was link", "x");
        dst.symlink("was link", "x");
        src.file("mode", "x").mode(0o600);
        dst.file("mode", "x").mode(0o640);
        src.write_to(&pair.src);
        dst.write_to(&pair.dst);
        fs::write(pair.dst.join(".older.rs-0123abcd"), "left by a killed run").unwrap();
        fs::set_permissions(
            pair.dst.join(".older.rs-0123abcd"),
            Permissions::from_mode(0o600),
        )
        .unwrap();

        let (before_src, before_dst) = (stamps(&pair.src), stamps(&pair.dst));
        let dry = pair.sync(engine, &[option, "-n", "-i"]);
        dry.exits(0);
        assert_untouched(&before_dst, &pair.dst);
        assert_untouched(&before_src, &pair.src);
        let real = pair.sync(engine, &[option, "-i"]);
        assert_eq!(dry.itemized(), real.exits(0).itemized(), "{option}");
        assert!(dry.itemized().len() > 8, "{}", dry.describe());
        assert_eq!(temporaries(&pair.dst), Vec::<String>::new());
    }
}

/// The old file stays whole for whoever holds it: a new inode takes its name.
fn atomic_mode_leaves_other_links_of_the_old_file_alone(engine: &str) {
    let pair = Pair::new();
    fs::write(pair.src.join("file"), "new content").unwrap();
    fs::write(pair.dst.join("file"), "old").unwrap();
    let other = pair.scratch.path().join("other link");
    fs::hard_link(pair.dst.join("file"), &other).unwrap();
    let before = snapshot(pair.scratch.path())[&b"other link"[..]].clone();
    pair.sync(engine, &["--write-mode", "atomic"]).exits(0);
    assert_eq!(
        fs::read_to_string(pair.dst.join("file")).unwrap(),
        "new content"
    );
    assert_eq!(snapshot(pair.scratch.path())[&b"other link"[..]], before);
}
