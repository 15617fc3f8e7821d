//! Runs that are cut short, and the temporary files they may or may not leave behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use support::snap::{assert_equal_trees, snapshot, temporaries};
use support::tree::{LONG_AGO, Tree, set_mtime, write_noise};
use support::{Outcome, Pair, Running, command, is_temporary, killed_by, under_each_engine};

under_each_engine!(
    killed_while_copying_then_run_again,
    killed_while_writing_directly_then_run_again,
    interrupted_drains_and_leaves_no_temporary_files,
    temporary_files_of_a_killed_run_are_removed,
    lookalikes_of_temporary_files_stay,
    source_files_named_like_temporary_files_are_copied,
);

/// A run may end before the signal reaches it; then it is tried again with an empty destination, so many times.
const ATTEMPTS_MAX: usize = 20;

/// Files large enough to be caught half way, and enough small ones that there is always more to do.
fn long_work() -> Pair {
    let pair = Pair::new();
    let mut tree = Tree::new();
    for dir in 0..20 {
        for file in 0..100 {
            tree.file(format!("dir {dir}/file {file}"), vec![b'x'; 3000]);
        }
    }
    tree.write_to(&pair.src);
    for number in 0..3 {
        write_noise(
            &pair.src.join(format!("large {number}")),
            (96 << 20) + number,
            number,
        );
    }
    set_mtime(&pair.src, LONG_AGO);
    pair
}

/// Starts a sync of `src` into an empty destination and sends `signal` as soon as `seen(name)` holds for a name in the
/// destination's top directory. Repeats until `caught(outcome)`.
fn cut_short(
    pair: &Pair,
    args: &[&str],
    signal: Signal,
    seen: fn(&[u8]) -> bool,
    caught: impl Fn(&Outcome) -> bool,
) -> Outcome {
    let [src, dst] = [&pair.src, &pair.dst].map(|path| path.to_str().unwrap());
    for _ in 0..ATTEMPTS_MAX {
        fs::remove_dir_all(&pair.dst).unwrap();
        fs::create_dir(&pair.dst).unwrap();
        let mut running = Running::start(command(support::BINARY, &[args, &[src, dst]].concat()));
        while !running.has_ended() {
            if top_names(&pair.dst).iter().any(|name| seen(name)) {
                running.signal(signal);
                break;
            }
            thread::yield_now();
        }
        let outcome = running.wait();
        if caught(&outcome) {
            return outcome;
        }
        assert!(
            killed(&outcome) || outcome.code() == Some(0),
            "{}",
            outcome.describe()
        );
    }
    panic!("{ATTEMPTS_MAX} runs ended before they could be caught");
}

fn killed(outcome: &Outcome) -> bool {
    killed_by(outcome) == Some(Signal::SIGKILL as i32)
}

fn top_names(dir: &Path) -> Vec<Vec<u8>> {
    let name = |entry: fs::DirEntry| entry.file_name().into_encoded_bytes();
    fs::read_dir(dir)
        .unwrap()
        .filter_map(Result::ok)
        .map(name)
        .collect()
}

/// Whatever has its final name is whole.
fn assert_finished_files_are_whole(pair: &Pair) {
    let src = snapshot(&pair.src);
    for (path, state) in snapshot(&pair.dst) {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
        if state.kind == rustix::fs::FileType::RegularFile && !is_temporary(name) {
            let original = &src[&path];
            let (copy, original) = (
                (state.size, state.content),
                (original.size, original.content),
            );
            assert_eq!(copy, original, "{} is not whole", path.escape_ascii());
        }
    }
}

fn run_again(engine: &str, options: &[&str], pair: &Pair) {
    pair.sync(engine, options).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
    assert_eq!(temporaries(&pair.dst), Vec::<String>::new());
}

fn killed_while_copying_then_run_again(engine: &str) {
    let pair = long_work();
    let args = ["sync", "--io-engine", engine];
    // Killed between two files leaves nothing behind: as good as not caught.
    let left_something = |outcome: &Outcome| killed(outcome) && !temporaries(&pair.dst).is_empty();
    cut_short(&pair, &args, Signal::SIGKILL, is_temporary, left_something);
    assert_finished_files_are_whole(&pair);
    run_again(engine, &[], &pair);
}

fn killed_while_writing_directly_then_run_again(engine: &str) {
    let pair = long_work();
    let args = ["sync", "--io-engine", engine, "--write-mode", "direct"];
    let is_large = |name: &[u8]| name.starts_with(b"large");
    cut_short(&pair, &args, Signal::SIGKILL, is_large, killed);
    run_again(engine, &["--write-mode", "direct"], &pair);
}

fn interrupted_drains_and_leaves_no_temporary_files(engine: &str) {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let pair = long_work();
        let args = ["sync", "--io-engine", engine];
        cut_short(&pair, &args, signal, is_temporary, |outcome| {
            outcome.code() == Some(20)
        });
        assert_eq!(temporaries(&pair.dst), Vec::<String>::new());
        assert_finished_files_are_whole(&pair);
        run_again(engine, &["--delete"], &pair);
    }
}

/// A small tree on both sides.
fn small() -> Pair {
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("file", "content");
    tree.file("dir/file", "content");
    tree.write_to(&pair.src);
    tree.write_to(&pair.dst);
    pair
}

fn private_file(path: &Path) {
    fs::write(path, "half a fi").unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn temporary_files_of_a_killed_run_are_removed(engine: &str) {
    for options in [&[][..], &["--delete"], &["--write-mode", "direct"]] {
        let pair = small();
        for name in [
            ".file.rs-0123abcd",
            "dir/.file.rs-ffffffff",
            "dir/.gone from the source.rs-00000000",
        ] {
            private_file(&pair.dst.join(name));
        }
        // Killed after the final mode was set and before the rename.
        private_file(&pair.dst.join(".finished.rs-89abcdef"));
        fs::set_permissions(
            pair.dst.join(".finished.rs-89abcdef"),
            Permissions::from_mode(0o644),
        )
        .unwrap();
        run_again(engine, options, &pair);
    }
}

fn lookalikes_of_temporary_files_stay(engine: &str) {
    let pair = small();
    let names = [
        ".file.rs-0123ABCD",
        ".file.rs-0123abc",
        ".file.rs-0123abcde",
        "file.rs-0123abcd",
        ".file.rs_0123abcd",
        ".file.rs-0123abcg",
        ".file.RS-0123abcd",
        ".file.rs-0123abcd.txt",
    ];
    for name in names {
        private_file(&pair.dst.join(name));
    }
    // The right name, but ringsync makes no temporary directories. (A file of any mode and a symlink could be its own.)
    fs::create_dir(pair.dst.join(".dir.rs-0123abcd")).unwrap();
    let before = snapshot(&pair.dst);
    pair.sync(engine, &[]).exits(0);
    let after = snapshot(&pair.dst);
    let kept = |name: &&[u8]| after.contains_key(*name);
    let missing: Vec<_> = before
        .keys()
        .map(Vec::as_slice)
        .filter(|name| !kept(name))
        .map(|name| name.escape_ascii().to_string())
        .collect();
    assert!(missing.is_empty(), "removed: {missing:?}");
}

fn source_files_named_like_temporary_files_are_copied(engine: &str) {
    let pair = small();
    private_file(&pair.src.join(".file.rs-0123abcd"));
    private_file(&pair.src.join("dir/.file.rs-0123abcd"));
    for _ in 0..2 {
        pair.sync(engine, &["--delete"]).exits(0);
        assert_equal_trees(&pair.src, &pair.dst);
    }
}
