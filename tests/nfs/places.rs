//! Between a disk and NFS, both ways, and on NFS alone: everything arrives, and a second run has nothing to do.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::support::snap::{assert_equal_trees, assert_untouched, stamps, temporaries};
use super::support::tree::{Kind, LONG_AGO, Tree, all_kinds, odd_names, set_mtime, write_noise};
use super::support::{Scratch, ringsync, sync};
use super::{DISK, MOUNT, on_disk, server, version};

/// Two directories: the first below `source`, the second below `dest`.
struct Ends {
    src: PathBuf,
    dst: PathBuf,
    _scratch: [Scratch; 2],
}

/// The three ways.
fn each_way(test: fn(&Ends)) {
    for (source, dest) in [(DISK, MOUNT), (MOUNT, DISK), (MOUNT, MOUNT)] {
        eprintln!("from {source} to {dest}");
        let scratch = [source, dest].map(|root| Scratch::below(Path::new(root)));
        test(&Ends {
            src: scratch[0].dir("src"),
            dst: scratch[1].dir("dst"),
            _scratch: scratch,
        });
    }
}

impl Ends {
    fn sync(&self, options: &[&str]) -> super::support::Outcome {
        sync("auto", options, &self.src, &self.dst)
    }
}

/// Times that every version keeps: NFSv3 has none before 1970 and after 2106, and at both ends no parts of a second.
fn keep_times_of_v3(tree: &mut Tree) {
    for node in tree.nodes.values_mut() {
        if !(1..=4_000_000_000).contains(&node.mtime.sec) {
            node.mtime = LONG_AGO;
        }
    }
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn every_kind_and_odd_names_arrive_once() {
    each_way(|ends| {
        let mut tree = all_kinds();
        for (path, node) in odd_names().nodes {
            tree.nodes.entry(path).or_insert(node);
        }
        if version() == "3" {
            keep_times_of_v3(&mut tree);
        }
        if server() == "ganesha" {
            // It takes times of symlinks, and does not keep them.
            tree.nodes
                .retain(|_, node| !matches!(node.kind, Kind::Symlink(_)));
        }
        tree.write_to(&ends.src);
        ends.sync(&["--json"]).exits(0);
        assert_equal_trees(&ends.src, &ends.dst);
        assert_eq!(temporaries(&ends.dst), Vec::<String>::new());
        let before = stamps(&ends.dst);
        assert_eq!(ends.sync(&["-i"]).exits(0).itemized(), Vec::<String>::new());
        assert_untouched(&before, &ends.dst);
        let [src, dst] = [&ends.src, &ends.dst].map(|path| path.to_str().unwrap());
        ringsync(&["check", "-c", src, dst]).exits(0);
    });
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn changes_and_deletions_arrive() {
    each_way(|ends| {
        let mut tree = Tree::new();
        for number in 0..60 {
            tree.file(format!("d{}/f{number}", number % 6), format!("{number}"));
        }
        tree.symlink("link", "d1");
        tree.write_to(&ends.src);
        ends.sync(&[]).exits(0);
        fs::write(ends.src.join("d1/f1"), "changed").unwrap();
        fs::remove_dir_all(ends.src.join("d2")).unwrap();
        fs::rename(ends.src.join("d3/f3"), ends.src.join("d3/moved")).unwrap();
        fs::remove_file(ends.src.join("link")).unwrap();
        fs::create_dir(ends.src.join("link")).unwrap();
        set_mtime(&ends.src.join("link"), LONG_AGO);
        let changed = ends.sync(&["--delete", "--json"]);
        assert_eq!(changed.exits(0).count("files_copied"), 2);
        assert_equal_trees(&ends.src, &ends.dst);
    });
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn hard_links_and_large_files_arrive() {
    each_way(|ends| {
        write_noise(&ends.src.join("large"), (40 << 20) + 1, 1);
        write_noise(&ends.src.join("shared"), 300_000, 2);
        fs::hard_link(ends.src.join("shared"), ends.src.join("too")).unwrap();
        let outcome = ends.sync(&["-H", "-S", "--verify", "--json"]);
        assert_eq!(outcome.exits(0).count("links_made"), 1);
        assert_equal_trees(&ends.src, &ends.dst);
        let inode = |name| fs::metadata(ends.dst.join(name)).unwrap().ino();
        assert_eq!(inode("shared"), inode("too"));
    });
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn what_is_remembered_is_passed_over() {
    each_way(|ends| {
        let mut tree = Tree::new();
        for number in 0..40 {
            tree.file(format!("d{}/f{number}", number % 4), format!("{number}"));
        }
        tree.add("fifo", Kind::Fifo);
        tree.write_to(&ends.src);
        let state = on_disk();
        let remembering = [
            "--incremental",
            "--state",
            state.path().to_str().unwrap(),
            "--json",
        ];
        ends.sync(&remembering).exits(0);
        ends.sync(&remembering).exits(0);
        // One that its directory shows, and one that only a look at the file shows.
        fs::write(ends.src.join("d1/new"), "new").unwrap();
        fs::write(ends.src.join("d2/f2"), "changed").unwrap();
        let third = ends.sync(&remembering);
        assert_eq!(third.exits(0).count("files_copied"), 2);
        assert_equal_trees(&ends.src, &ends.dst);
    });
}
