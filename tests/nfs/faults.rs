//! Servers that stop, squash, run full or lose files under our hands.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::support::run::Running;
use super::support::snap::{assert_equal_trees, temporaries};
use super::support::tree::write_noise;
use super::support::{command, run, sync, sync_args};
use super::{EXPORT, MOUNT, Mounted, on_disk, on_nfs, on_server, system, version};

fn many_files(root: &Path, count: usize) {
    for dir in 0..count / 50 {
        let dir = root.join(format!("d{dir}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..50 {
            fs::write(dir.join(format!("f{file}")), format!("{file}")).unwrap();
        }
    }
}

/// A run that has copied something, and is not done.
fn under_way(src: &Path, dst: &Path, options: &[&str]) -> Running {
    let options = [&["--ops-limit", "300"], options].concat();
    let mut ringsync = Running::start(command(
        super::support::BINARY,
        &sync_args("auto", &options, src, dst),
    ));
    let began = Instant::now();
    while !fs::read_dir(dst).is_ok_and(|mut names| names.next().is_some()) {
        assert!(began.elapsed() < Duration::from_secs(60) && !ringsync.has_ended());
        thread::sleep(Duration::from_millis(20));
    }
    ringsync
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn a_server_that_starts_again_is_waited_for() {
    let local = on_disk();
    let remote = on_nfs();
    let (src, dst) = (local.dir("src"), remote.dir("dst"));
    many_files(&src, 400);
    let ringsync = under_way(&src, &dst, &[]);
    system("rpc.nfsd 0");
    thread::sleep(Duration::from_secs(2));
    system("rpc.nfsd -G 10 -L 10 8");
    fs::write("/proc/fs/nfsd/v4_end_grace", "Y").unwrap();
    ringsync.wait().exits(0);
    assert_equal_trees(&src, &dst);
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn a_soft_mount_without_a_server_fails_and_the_next_run_completes() {
    let local = on_disk();
    let soft = Mounted::new("soft", "soft,timeo=5,retrans=1,nosharecache");
    let (src, dst) = (local.dir("src"), soft.path().join("soft-dst"));
    many_files(&src, 400);
    fs::create_dir(&dst).unwrap();
    // The client of v4 fails no call before it has spoken with its server again: there the run's own patience counts.
    let ringsync = under_way(&src, &dst, &["--timeout", "15"]);
    system("tc qdisc add dev lo root netem loss 100%");
    let outcome = ringsync.wait();
    system("tc qdisc del dev lo root");
    let (code, words) = if version() == "3" {
        (11, "does not answer")
    } else {
        (30, "--timeout")
    };
    outcome.exits(code);
    assert!(outcome.out().contains(words), "{}", outcome.describe());
    let began = Instant::now();
    while fs::read_dir(&dst).is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(100),
            "the client does not come back"
        );
    }
    sync("auto", &[], &src, &dst).exits(0);
    assert_equal_trees(&src, &dst);
    assert_eq!(temporaries(&dst), Vec::<String>::new());
    fs::remove_dir_all(&dst).unwrap();
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn a_directory_that_goes_on_the_server_is_no_disaster() {
    let local = on_disk();
    let remote = on_nfs();
    let (src, dst) = (remote.dir("src"), local.dir("dst"));
    many_files(&src, 600);
    let ringsync = under_way(&src, &dst, &[]);
    let on_server = on_server(&src);
    for dir in 8..12 {
        fs::remove_dir_all(on_server.join(format!("d{dir}"))).unwrap();
    }
    let outcome = ringsync.wait();
    assert!(
        matches!(outcome.code(), Some(0 | 23 | 24)),
        "{}",
        outcome.describe()
    );
    // The client believes for a while what it knew.
    super::forget();
    sync("auto", &["--delete"], &src, &dst).exits(0);
    assert_equal_trees(&src, &dst);
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn owners_that_a_server_squashes_are_told_once() {
    let squashed = Path::new(EXPORT).join("squashed");
    fs::create_dir_all(&squashed).unwrap();
    system(&format!("chmod 777 {}", squashed.display()));
    let local = on_disk();
    for number in 0..150 {
        let file = local.path().join(format!("f{number}"));
        fs::write(&file, "x").unwrap();
        chown(file, Some(1000), Some(1000)).unwrap();
    }
    system(&format!(
        "exportfs -i -o rw,root_squash,no_subtree_check,insecure,fsid=0 *:{EXPORT}"
    ));
    let dst = Path::new(MOUNT).join("squashed/dst");
    let refused = sync("auto", &["--json"], local.path(), &dst);
    let without = sync("auto", &["--no-owner", "--no-group"], local.path(), &dst);
    system(&format!(
        "exportfs -i -o rw,no_root_squash,no_subtree_check,insecure,fsid=0 *:{EXPORT}"
    ));
    let told = refused.exits(23).err();
    assert!(told.lines().count() <= 5, "{told}");
    refused.complains_of(&["no_root_squash"]);
    assert!(refused.count("errors") >= 150);
    without.exits(0);
    fs::remove_dir_all(squashed).unwrap();
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn a_full_quota_on_the_server_stops_the_run() {
    let remote = on_nfs();
    let local = on_disk();
    let src = local.dir("src");
    for number in 0..8 {
        write_noise(&src.join(format!("f{number}")), 1 << 20, number);
    }
    let dst = remote.dir("dst");
    // As somebody who has a quota: root has none.
    chown(&dst, Some(4242), Some(4242)).unwrap();
    system("setquota -u 4242 3072 3072 0 0 /run/export");
    let program = local.path().join("ringsync");
    fs::copy(super::support::BINARY, &program).unwrap();
    let mut words = sync_args("auto", &[], &src, &dst);
    words.insert(0, program.into());
    let mut all = ["--reuid=4242", "--regid=4242", "--clear-groups"]
        .map(Into::into)
        .to_vec();
    all.append(&mut words);
    let outcome = run(command("setpriv", &all));
    system("setquota -u 4242 0 0 0 0 /run/export");
    outcome.exits(11).complains_of(&["quota"]);
    assert_eq!(temporaries(&dst), Vec::<String>::new());
    sync("auto", &["--no-owner", "--no-group"], &src, &dst).exits(0);
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn two_runs_on_one_destination_both_end_well() {
    let local = on_disk();
    let remote = on_nfs();
    let (src, dst) = (local.dir("src"), remote.dir("dst"));
    many_files(&src, 200);
    let start = || {
        Running::start(command(
            super::support::BINARY,
            &sync_args("auto", &[], &src, &dst),
        ))
    };
    let (one, two) = (start(), start());
    for outcome in [one.wait(), two.wait()] {
        assert!(
            matches!(outcome.code(), Some(0 | 23)),
            "{}",
            outcome.describe()
        );
    }
    sync("auto", &[], &src, &dst).exits(0);
    assert_equal_trees(&src, &dst);
    assert_eq!(temporaries(&dst), Vec::<String>::new());
}
