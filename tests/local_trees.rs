//! What a tree can hold arrives: every kind of inode, odd names, extreme shapes, modes, owners and times.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use support::rng::Rng;
use support::snap::{assert_equal_trees, assert_untouched, stamps};
use support::tree::{Tree, all_kinds, odd_names, write_noise};
use support::{Pair, under_each_engine};

under_each_engine!(
    every_kind_of_inode,
    odd_names_arrive,
    second_run_touches_nothing,
    hard_links_become_separate_files,
    deep_chain,
    large_files,
    sparse_file_keeps_its_content,
    empty_source,
    hidden_times_of_directories_survive_updates_below,
    many_small_files_of_every_size,
    thousands_of_directories,
);

fn every_kind_of_inode(engine: &str) {
    for mode in ["atomic", "direct"] {
        let pair = Pair::new();
        all_kinds().write_to(&pair.src);
        pair.sync(engine, &["-a", "--write-mode", mode]).exits(0);
        assert_equal_trees(&pair.src, &pair.dst);
    }
}

fn odd_names_arrive(engine: &str) {
    for mode in ["atomic", "direct"] {
        let pair = Pair::new();
        odd_names().write_to(&pair.src);
        pair.sync(engine, &["--write-mode", mode]).exits(0);
        assert_equal_trees(&pair.src, &pair.dst);

        // Updating goes through temporary names again, and these must fit as well.
        let mut changed = odd_names();
        for node in changed.nodes.values_mut() {
            node.mtime = node.mtime.plus(1);
        }
        let pair = Pair {
            src: pair.scratch.dir("changed"),
            ..pair
        };
        changed.write_to(&pair.src);
        pair.sync(engine, &["--write-mode", mode]).exits(0);
        assert_equal_trees(&pair.src, &pair.dst);
    }
}

fn second_run_touches_nothing(engine: &str) {
    let pair = Pair::new();
    all_kinds().write_to(&pair.src);
    odd_names().write_to(&pair.src);
    pair.sync(engine, &[]).exits(0);
    let (src, dst) = (stamps(&pair.src), stamps(&pair.dst));
    let second = pair.sync(engine, &["-i", "--delete"]);
    second.exits(0);
    assert_eq!(second.itemized(), Vec::<String>::new());
    assert_untouched(&dst, &pair.dst);
    assert_untouched(&src, &pair.src);
    let third = pair.sync(engine, &["--json"]);
    assert_eq!(
        third.exits(0).count("files_copied"),
        0,
        "{}",
        third.describe()
    );
    assert_untouched(&dst, &pair.dst);
}

fn hard_links_become_separate_files(engine: &str) {
    let pair = Pair::new();
    fs::write(pair.src.join("one"), "shared").unwrap();
    fs::create_dir(pair.src.join("dir")).unwrap();
    for name in ["two", "dir/three"] {
        fs::hard_link(pair.src.join("one"), pair.src.join(name)).unwrap();
    }
    pair.sync(engine, &["-a"]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
    for name in ["one", "two", "dir/three"] {
        assert_eq!(
            fs::metadata(pair.dst.join(name)).unwrap().nlink(),
            1,
            "{name}"
        );
    }
}

fn deep_chain(engine: &str) {
    const LEVELS: usize = 1000;
    let pair = Pair::new();
    let mut tree = Tree::new();
    let chain = vec!["d"; LEVELS].join("/");
    tree.file(format!("{chain}/bottom"), "deep down");
    tree.file(format!("{}/middle", &chain[..LEVELS - 1]), "half way");
    tree.write_to(&pair.src);
    pair.sync(engine, &[]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
    let before = stamps(&pair.dst);
    pair.sync(engine, &["--delete"]).exits(0);
    assert_untouched(&before, &pair.dst);

    assert!(support::remove_tree(&pair.src.join("d/d")));
    pair.sync(engine, &["--delete"]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
}

fn large_files(engine: &str) {
    const MIB: u64 = 1 << 20;
    let sizes = [64 * MIB - 1, 64 * MIB, 64 * MIB + 12_345, 150 * MIB + 7];
    for options in [
        &["--write-mode", "atomic"][..],
        &["--write-mode", "direct"],
        &["--reflink", "never"],
    ] {
        let pair = Pair::new();
        for (seed, size) in sizes.iter().enumerate() {
            write_noise(&pair.src.join(format!("large {size}")), *size, seed as u64);
        }
        pair.sync(engine, options).exits(0);
        assert_equal_trees(&pair.src, &pair.dst);

        // Over an existing longer and an existing shorter file, so that leftovers of either would show.
        write_noise(
            &pair.src.join(format!("large {}", sizes[3])),
            sizes[2] + 1,
            10,
        );
        write_noise(
            &pair.src.join(format!("large {}", sizes[2])),
            sizes[3] + 1,
            11,
        );
        pair.sync(engine, options).exits(0);
        assert_equal_trees(&pair.src, &pair.dst);
    }
}

fn sparse_file_keeps_its_content(engine: &str) {
    use std::os::unix::fs::FileExt;
    let pair = Pair::new();
    for (name, len) in [("small", 300_000), ("large", 80 << 20)] {
        let file = fs::File::create(pair.src.join(name)).unwrap();
        file.set_len(len).unwrap();
        for at in [4096, len / 2 + 5, len - 3] {
            file.write_all_at(b"abc", at).unwrap();
        }
        fs::File::create(pair.src.join(format!("{name} hole")))
            .unwrap()
            .set_len(len)
            .unwrap();
    }
    pair.sync(engine, &[]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
}

fn empty_source(engine: &str) {
    let pair = Pair::new();
    pair.sync(engine, &["--delete"]).exits(0);
    Tree::new().write_to(&pair.src);
    pair.sync(engine, &["--delete"]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
}

fn hidden_times_of_directories_survive_updates_below(engine: &str) {
    let pair = Pair::new();
    let mut tree = Tree::new();
    for at in 0..20 {
        for file in 0..10 {
            tree.file(format!("outer {at}/inner/file {file}"), "1");
        }
        tree.node(format!("outer {at}"))
            .mtime(1_000_000_000 + at, 7);
        tree.node(format!("outer {at}/inner"))
            .mtime(1_100_000_000 + at, 8)
            .mode(0o555);
    }
    tree.write_to(&pair.src);
    pair.sync(engine, &[]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);

    // Only children change now; the times of their directories are equal on both sides before the run.
    let next = pair.scratch.dir("next");
    for at in 0..20 {
        tree.file(format!("outer {at}/inner/file 3"), "longer")
            .mtime(1_650_000_000, 9);
        tree.remove(format!("outer {at}/inner/file 4").as_bytes());
        tree.file(format!("outer {at}/inner/new"), "new");
    }
    tree.write_to(&next);
    support::sync(engine, &["--delete"], &next, &pair.dst).exits(0);
    assert_equal_trees(&next, &pair.dst);
}

fn many_small_files_of_every_size(engine: &str) {
    let pair = Pair::new();
    let mut rng = Rng::new(7);
    let mut tree = Tree::new();
    // Around the sizes at which buffers, pages and blocks end.
    for power in 0..=21 {
        let size = 1_usize << power;
        for len in [size - 1, size, size + 1] {
            let content = rng.bytes(len);
            tree.file(format!("{power}/{len}"), content)
                .mode(0o600 + power);
        }
    }
    tree.write_to(&pair.src);
    pair.sync(engine, &[]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
}

/// Enough directories that every core has many, deep and shallow ones, and finishes them in any order.
fn thousands_of_directories(engine: &str) {
    let pair = Pair::new();
    let mut tree = Tree::new();
    for number in 0..3000_i64 {
        let path = format!("{}/{}/{number}", number % 7, number % 61);
        for file in 0..3 {
            tree.file(format!("{path}/{file}"), format!("{number} {file}"))
                .mtime(number, 1);
        }
        tree.node(&path).mtime(1_000_000_000 - number, 2);
    }
    tree.write_to(&pair.src);
    pair.sync(engine, &[]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);

    let next = pair.scratch.dir("next");
    for number in (0..3000).step_by(2) {
        let path = format!("{}/{}/{number}", number % 7, number % 61);
        tree.remove(format!("{path}/1").as_bytes());
        tree.file(format!("{path}/0"), "changed");
    }
    tree.remove(b"3");
    tree.file("3/instead", "x");
    tree.write_to(&next);
    support::sync(engine, &["--delete"], &next, &pair.dst).exits(0);
    assert_equal_trees(&next, &pair.dst);
    let before = stamps(&pair.dst);
    support::sync(engine, &["--delete"], &next, &pair.dst).exits(0);
    assert_untouched(&before, &pair.dst);
}
