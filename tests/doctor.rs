//! `ringsync doctor`: what it finds out, what it advises, and that it leaves no trace.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use support::image::{Bind, Image};
use support::snap::{assert_untouched, snapshot, stamps};
use support::tree::all_kinds;
use support::{
    Outcome, Pair, command, command_exists, is_root, ringsync, ringsync_as_nobody, skip,
    skip_unless_root,
};

fn doctor(paths: &[&Path]) -> Outcome {
    let mut args = vec!["doctor".as_ref()];
    args.extend(paths.iter().map(|path| path.as_os_str()));
    ringsync(&args)
}

/// The facts about one side.
fn facts(side: &str, paths: &[&Path]) -> Value {
    let mut args = vec!["doctor".as_ref(), "--json".as_ref()];
    args.extend(paths.iter().map(|path| path.as_os_str()));
    let outcome = ringsync(&args);
    let mut objects = outcome.json();
    assert_eq!(objects.len(), 1, "{}", outcome.describe());
    let report = objects.remove(0);
    assert_eq!(report["exit_code"].as_i64(), outcome.code().map(i64::from));
    report[side].clone()
}

#[test]
fn healthy_paths_exit_0_and_stay_as_they_were() {
    let pair = Pair::new();
    for dir in [&pair.src, &pair.dst] {
        all_kinds().write_to(dir);
    }
    let (src, dst) = (stamps(&pair.src), snapshot(&pair.dst));
    let outcome = doctor(&[&pair.src, &pair.dst]);
    outcome.exits(0);
    for words in [
        "kernel",
        "io_uring",
        "CPUs",
        "memory",
        "ringsync can run here",
    ] {
        assert!(outcome.out().contains(words), "{}", outcome.describe());
    }
    assert_eq!(outcome.err(), "");
    assert_untouched(&src, &pair.src);
    // Its time included: only the root's ctime cannot be put back.
    support::snap::assert_same(&dst, &snapshot(&pair.dst), "before", "after");
}

#[test]
fn the_machine_alone_is_enough() {
    doctor(&[]).exits(0);
    let machine = facts("machine", &[]);
    assert!(machine["cpus_allowed"].as_u64().unwrap() >= 1);
    assert!(machine["memory_total"].as_u64().unwrap() > 1 << 20);
    assert_eq!(machine["io_uring"]["answer"], "yes");
    assert_eq!(machine["root"], is_root());
    assert_eq!(facts("source", &[]), Value::Null);
}

#[test]
fn a_source_is_only_looked_at() {
    let pair = Pair::new();
    fs::write(pair.src.join("file"), "x").unwrap();
    let before = stamps(&pair.src);
    let source = facts("source", &[&pair.src]);
    assert_eq!(source["usable"]["answer"], "yes");
    assert_eq!(source["trial"], Value::Null);
    assert_untouched(&before, &pair.src);
}

#[test]
fn what_cannot_be_used_exits_3_and_says_why() {
    let pair = Pair::new();
    let file = pair.scratch.path().join("a file");
    fs::write(&file, "x").unwrap();
    let missing = pair.scratch.path().join("missing");
    for (src, dst, reason) in [
        (&missing, &pair.dst, "no such file"),
        (&file, &pair.dst, "not a directory"),
        (&pair.src, &file, "not a directory"),
        (&pair.src, &missing.join("deeper"), "its parent directory"),
    ] {
        let outcome = doctor(&[src, dst]);
        let words = outcome.exits(3).out().to_lowercase();
        assert!(words.contains("problem"), "{}", outcome.describe());
        assert!(words.contains(reason), "{}", outcome.describe());
    }
    assert!(!missing.exists());
}

#[test]
fn a_destination_to_be_made_is_not_made() {
    let pair = Pair::new();
    let missing = pair.scratch.path().join("missing");
    let before = stamps(pair.scratch.path());
    let found = facts("destination", &[&pair.src, &missing]);
    assert_eq!(found["trial"], Value::Null);
    assert_eq!(found["writable"]["answer"], "unknown");
    doctor(&[&pair.src, &missing]).exits(0);
    assert_untouched(&before, pair.scratch.path());
}

#[test]
fn read_only_filesystems_are_sources_and_no_destinations() {
    let Some(image) = Image::sized("tmpfs", 16) else {
        return;
    };
    let pair = Pair::new();
    let dir = image.dir("dir");
    image.make_read_only();
    doctor(&[&dir, &pair.dst]).exits(0);
    let outcome = doctor(&[&pair.src, &dir]);
    assert!(
        outcome.exits(3).out().contains("mounted read-only"),
        "{}",
        outcome.describe()
    );
}

#[test]
fn unprivileged_users_learn_what_they_may_do() {
    let pair = Pair::new();
    if is_root() {
        support::give_to_nobody(&pair.dst);
    }
    let report = |dst: &Path| {
        let args = ["doctor".as_ref(), pair.src.as_os_str(), dst.as_os_str()];
        ringsync_as_nobody(&pair.scratch, &args)
    };
    let outcome = report(&pair.dst);
    let words = outcome.exits(0).out();
    for expected in ["not root", "only root may give files away"] {
        assert!(words.contains(expected), "{}", outcome.describe());
    }
    fs::set_permissions(&pair.dst, Permissions::from_mode(0o555)).unwrap();
    let outcome = report(&pair.dst);
    let words = outcome.exits(3).out();
    assert!(
        words.contains("Permission denied"),
        "{}",
        outcome.describe()
    );
    assert_eq!(fs::read_dir(&pair.dst).unwrap().count(), 0);
}

#[test]
fn too_little_locked_memory_exits_23_with_the_remedy() {
    if !command_exists("prlimit") {
        return skip("prlimit is not installed");
    }
    let limited = [
        "--memlock=65536",
        "--nofile=100:200",
        support::BINARY,
        "doctor",
    ];
    let outcome = support::run(command("prlimit", &limited));
    let words = outcome.exits(23).out();
    for expected in ["PROBLEM", "ulimit -l", "LimitNOFILE"] {
        assert!(words.contains(expected), "{}", outcome.describe());
    }
}

#[test]
fn fewer_cpus_than_the_machine_has_are_told() {
    let machine = facts("machine", &[]);
    if !command_exists("taskset") || machine["cpus_allowed"].as_u64() == Some(1) {
        return skip("there is only one CPU, or no taskset");
    }
    let limited = ["--cpu-list", "0", support::BINARY, "doctor"];
    let outcome = support::run(command("taskset", &limited));
    assert!(
        outcome.exits(0).out().contains("1 of "),
        "{}",
        outcome.describe()
    );
}

/// What is known of the filesystems that the tests can make.
#[test]
fn filesystems_are_told_apart() {
    for (kind, reflinks, links_max) in [
        ("tmpfs", "no", None),
        ("ext4", "no", Some(65_000)),
        ("xfs", "yes", Some(2_147_483_647)),
        ("btrfs", "yes", None),
    ] {
        let Some(image) = Image::new(kind) else {
            continue;
        };
        let (src, dst) = (image.dir("src"), image.dir("dst"));
        fs::write(src.join("sample"), vec![b'x'; 10_000]).unwrap();
        let found = facts("destination", &[&src, &dst]);
        let trial = &found["trial"];
        assert_eq!(found["mount"]["filesystem"], kind, "{found:#}");
        assert_eq!(trial["reflinks"]["answer"], reflinks, "{kind}");
        assert_eq!(trial["reflinks_from_source"]["answer"], reflinks, "{kind}");
        assert_eq!(trial["time_step_ns"], 1, "{kind}");
        assert_eq!(trial["case_sensitive"]["answer"], "yes", "{kind}");
        assert_eq!(trial["owners"]["answer"], "yes", "{kind}");
        assert_eq!(trial["find_holes"]["answer"], "yes", "{kind}");
        assert_eq!(found["birth_times"]["answer"], "yes", "{kind}");
        if links_max.is_some() {
            assert_eq!(found["links_max"].as_u64(), links_max, "{kind}");
        }
        // From another filesystem, blocks cannot be shared.
        let elsewhere = Pair::new();
        fs::write(elsewhere.src.join("sample"), "x").unwrap();
        let found = facts("destination", &[&elsewhere.src, &dst]);
        assert_eq!(
            found["trial"]["reflinks_from_source"]["answer"], "no",
            "{kind}"
        );
        let found = facts("destination", &[&elsewhere.dst, &dst]);
        assert_eq!(found["trial"]["reflinks_from_source"]["answer"], "unknown");
        assert_eq!(fs::read_dir(&dst).unwrap().count(), 0);
    }
}

#[test]
fn small_inodes_keep_seconds_and_end_in_2038() {
    if skip_unless_root("cannot mount") {
        return;
    }
    if !command_exists("mkfs.ext4") {
        return skip("mkfs.ext4 is not installed");
    }
    let pair = Pair::new();
    let file = pair.scratch.path().join("image");
    fs::File::create(&file).unwrap().set_len(16 << 20).unwrap();
    let run = |program: &str, args: &[&str]| support::run(command(program, args)).code() == Some(0);
    let [file, mount] = [&file, &pair.dst].map(|path| path.to_str().unwrap());
    if !run("mkfs.ext4", &["-q", "-F", "-I", "128", file])
        || !run("mount", &["-o", "loop", file, mount])
    {
        return skip("no ext4 with small inodes here");
    }
    let found = facts("destination", &[&pair.src, &pair.dst]);
    let words = doctor(&[&pair.src, &pair.dst]);
    assert!(run("umount", &[mount]));
    assert_eq!(found["trial"]["time_step_ns"], 1_000_000_000);
    assert_eq!(found["trial"]["times_after_2038"]["answer"], "no");
    assert!(
        words.exits(0).out().contains("WARNING: files from then"),
        "{}",
        words.describe()
    );
}

/// A mount over part of a tree is found by where the path really is.
#[test]
fn the_mount_of_a_path_is_its_own() {
    if skip_unless_root("cannot bind-mount") {
        return;
    }
    let Some(image) = Image::sized("tmpfs", 16) else {
        return;
    };
    let pair = Pair::new();
    let _bind = Bind::new(image.path(), &pair.dst);
    let options = Command::new("mount")
        .args(["-o", "remount,bind,ro"])
        .arg(&pair.dst)
        .status()
        .unwrap();
    assert!(options.success());
    let outcome = doctor(&[&pair.src, &pair.dst]);
    assert!(
        outcome.exits(3).out().contains("mounted read-only"),
        "{}",
        outcome.describe()
    );
    // The filesystem itself is not.
    doctor(&[&pair.src, image.path()]).exits(0);
}

#[test]
fn a_full_destination_is_told() {
    let Some(image) = Image::sized("tmpfs", 16) else {
        return;
    };
    let pair = Pair::new();
    fs::write(image.path().join("big"), vec![1; 16 << 20]).unwrap();
    let outcome = doctor(&[&pair.src, image.path()]);
    assert!(
        outcome.out().contains("nearly full"),
        "{}",
        outcome.describe()
    );
}
