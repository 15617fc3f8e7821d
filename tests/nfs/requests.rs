//! How many requests a job takes, as the client counts them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::support::{ringsync, rsync, sync};
use super::{EXPORT, Mounted, on_disk, version};

const DIRS: u64 = 8;
const FILES_EACH: u64 = 50;
const FILES: u64 = DIRS * FILES_EACH;
/// Of those that are flushed.
const FLUSHED: u64 = 10;

/// Requests by operation.
pub(super) type Counts = BTreeMap<String, u64>;

/// Of one mount, since it was mounted (`/proc/self/mountstats`: a line for each operation, its count first).
pub(super) fn counts(mount: &Path) -> Counts {
    let text = fs::read_to_string("/proc/self/mountstats").unwrap();
    let of_mount = format!(" mounted on {} with", mount.display());
    let lines = text
        .lines()
        .skip_while(|line| !line.contains(&of_mount))
        .skip(1);
    let own = lines.take_while(|line| !line.starts_with("device "));
    let counts = own
        .skip_while(|line| !line.contains("per-op statistics"))
        .skip(1);
    counts
        .filter_map(|line| {
            let (name, figures) = line.trim().split_once(": ")?;
            Some((name.to_owned(), figures.split(' ').next()?.parse().ok()?))
        })
        .collect()
}

/// Those that came since.
pub(super) fn since(before: &Counts, mount: &Path) -> Counts {
    let mut now = counts(mount);
    for (name, count) in &mut now {
        *count -= before.get(name).copied().unwrap_or(0);
    }
    now.retain(|_, count| *count > 0);
    now
}

/// What a job takes of a client that knows nothing, told as a figure.
fn measured(name: &str, point: &str, job: impl FnOnce(&Path)) -> u64 {
    let mounted = Mounted::new(point, "");
    super::forget();
    let before = counts(mounted.path());
    job(mounted.path());
    let asked = since(&before, mounted.path());
    let total = asked.values().sum();
    println!("FIGURE: v{} {name}: {total} {asked:?}", version());
    total
}

fn make_tree(root: &Path) {
    for dir in 0..DIRS {
        let dir = root.join(format!("d{dir}"));
        fs::create_dir(&dir).unwrap();
        for file in 0..FILES_EACH {
            fs::write(dir.join(format!("f{file}")), vec![7; 5000]).unwrap();
        }
    }
}

/// Within a tenth of what the job needs, and not more than rsync takes.
fn within(ours: u64, least: u64, theirs: u64, what: &str) {
    assert!(ours * 10 <= least * 11, "{what}: {ours}, {least} would do");
    // A request or two of each run.
    assert!(ours <= theirs + 4, "{what}: {ours}, rsync {theirs}");
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn jobs_take_the_requests_they_need() {
    let local = on_disk();
    let src = local.dir("src");
    make_tree(&src);
    let quiet = |options: &[&str], src: &Path, dst: &Path| {
        sync("auto", options, src, dst).exits(0);
    };
    // A directory: its attributes, whether it may be read, and its listing. And a few for the mount and the root.
    let (each_dir, rest) = (3 * DIRS, 12);

    let up = measured("first copy", "counted", |to| {
        quiet(&[], &src, &to.join("ours"));
    });
    let theirs = measured("first copy, rsync", "counted", |to| {
        rsync(&["-a"], &src, &to.join("theirs")).exits(0);
    });
    // v3: create, its mode (an exclusive create has none), write, time, rename. v4: a close more.
    let each_file = if version() == "3" { 5 } else { 6 };
    // A directory that is made: itself, its mode, its time; and whether it may be written to.
    within(
        up,
        each_file * FILES + 4 * DIRS + rest,
        theirs,
        "first copy",
    );

    let nothing = measured("nothing to do", "counted", |to| {
        quiet(&[], &src, &to.join("ours"));
    });
    let theirs = measured("nothing to do, rsync", "counted", |to| {
        rsync(&["-a"], &src, &to.join("theirs")).exits(0);
    });
    within(nothing, each_dir + rest, theirs, "nothing to do");

    // Files of their own: those that were read may be promised to this client (delegations), which their deletion returns.
    for name in ["to-ours", "to-theirs"] {
        let tree = Path::new(EXPORT).join(name);
        fs::create_dir(&tree).unwrap();
        make_tree(&tree);
    }
    let down = measured("first copy from there", "counted", |from| {
        quiet(&[], &from.join("to-ours"), &local.path().join("ours"));
    });
    let theirs = measured("first copy from there, rsync", "counted", |from| {
        rsync(
            &["-a"],
            &from.join("to-theirs"),
            &local.path().join("theirs"),
        )
        .exits(0);
    });
    // v3: may it be read, is it as it was, read. v4: open, read, close.
    within(
        down,
        3 * FILES + each_dir + rest,
        theirs,
        "first copy from there",
    );

    let empty = local.dir("empty");
    let gone = measured("deletion", "counted", |to| {
        quiet(&["--delete", "--force-delete"], &empty, &to.join("ours"));
    });
    let theirs = measured("deletion, rsync", "counted", |to| {
        rsync(&["-a", "--delete"], &empty, &to.join("theirs")).exits(0);
    });
    within(gone, FILES + DIRS + each_dir + rest, theirs, "deletion");
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn names_of_a_large_directory_come_with_their_attributes() {
    const NAMES: u64 = 6000;
    let large = Path::new(EXPORT).join("large");
    fs::create_dir(&large).unwrap();
    for name in 0..NAMES {
        fs::write(large.join(format!("f{name}")), "").unwrap();
    }
    let asked = measured("crawl of a large directory", "counted", |from| {
        ringsync(&["scan", "-q", from.join("large").to_str().unwrap()]).exits(0);
    });
    fs::remove_dir_all(large).unwrap();
    assert!(asked < NAMES / 100, "{asked} requests");
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn flushing_takes_what_was_asked_for() {
    let local = on_disk();
    let src = local.dir("src");
    fs::create_dir(src.join("d")).unwrap();
    // Each is more than one write, so that it is not stable before it is committed.
    for file in 0..FLUSHED {
        fs::write(src.join(format!("d/f{file}")), vec![7; 600_000]).unwrap();
    }
    for mode in ["none", "file", "end"] {
        let mounted = Mounted::new("flushed", "");
        let before = counts(mounted.path());
        sync("auto", &["--fsync", mode], &src, &mounted.path().join(mode)).exits(0);
        let asked = since(&before, mounted.path());
        println!(
            "FIGURE: v{} --fsync {mode}, {FLUSHED} files: {asked:?}",
            version()
        );
        // Closing a file commits it: a flush before that takes its place.
        assert_eq!(asked["COMMIT"], FLUSHED, "{mode}: {asked:?}");
    }
}
