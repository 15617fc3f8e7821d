//! Buckets as destinations.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::server::{Fault, Request};
use crate::support::{self, Outcome};
use crate::{POSIX, Scene, heads, noise, wait_for};

const BUCKET: &str = "s3://bucket/p";

/// A scene with a source tree.
struct Sending {
    scene: Scene,
    src: PathBuf,
}

impl Sending {
    fn new() -> Self {
        let scene = Scene::new();
        let src = scene.scratch.dir("src");
        Self { scene, src }
    }

    /// A run of which the first part of a large object is on its way, slowly.
    fn under_way() -> (Self, Child) {
        let sending = Self::new();
        sending.write("large", &noise(80 << 20));
        let has_begun = Arc::new(AtomicBool::new(false));
        let told = has_begun.clone();
        sending.scene.server.faults(move |request| {
            if matches!(request, Request::Part(..)) {
                told.store(true, SeqCst);
                std::thread::sleep(Duration::from_millis(200));
            }
            None
        });
        let places = ["sync", sending.src.to_str().unwrap(), BUCKET];
        let mut command = sending.scene.command(&places, &["--part-size", "8M"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        wait_for(&has_begun);
        (sending, child)
    }

    fn write(&self, path: &str, contents: &[u8]) {
        let path = self.src.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }

    fn run(&self, command: &str, options: &[&str]) -> Outcome {
        let places = [command, self.src.to_str().unwrap(), BUCKET];
        support::run(self.scene.command(&places, options))
    }

    fn sync(&self, options: &[&str]) -> Outcome {
        self.run("sync", options)
    }

    fn body(&self, path: &str) -> Vec<u8> {
        let key = format!("p/{path}");
        self.scene.server.body(&key).unwrap()
    }

    fn seen(&self) -> Vec<Request> {
        self.scene.server.seen()
    }

    fn keys(&self) -> Vec<String> {
        self.scene.server.keys()
    }
}

type IsKind = fn(&Request) -> bool;

/// Objects have the second in which they were written.
fn next_second() {
    std::thread::sleep(Duration::from_millis(1100));
}

fn is_write(request: &Request) -> bool {
    !matches!(
        request,
        Request::List(_) | Request::Head(_) | Request::Get(_)
    )
}

#[test]
fn a_tree_becomes_a_bucket_and_a_tree_again() {
    let sending = Sending::new();
    sending.write("a", b"first");
    sending.write("sub/deep/odd + name & more \u{e9}\n", b"odd");
    sending.write("zero", b"");
    fs::create_dir(sending.src.join("empty")).unwrap();
    symlink("sub/deep", sending.src.join("link")).unwrap();
    let mode = fs::Permissions::from_mode(0o640);
    fs::set_permissions(sending.src.join("a"), mode).unwrap();
    let accessed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_500_000_000);
    let file = fs::File::open(sending.src.join("a")).unwrap();
    let times = fs::FileTimes::new().set_accessed(accessed);
    file.set_times(times).unwrap();
    sending.sync(&[]).exits(0);
    let seen = sending.seen();
    assert_eq!(heads(&seen), 0, "{seen:?}");
    assert!(
        !seen
            .iter()
            .any(|request| matches!(request, Request::Copy(_))),
        "what is known of a link goes with it: {seen:?}"
    );
    let odd = "p/sub/deep/odd + name & more \u{e9}\n";
    assert_eq!(sending.keys(), ["p/a", "p/empty/", "p/link", odd, "p/zero"]);
    assert_eq!(sending.body("a"), b"first");
    let told = |key, name| sending.scene.server.metadata(key, name);
    let meta = fs::metadata(sending.src.join("a")).unwrap();
    let (sec, nsec) = (meta.mtime(), meta.mtime_nsec());
    assert_eq!(told("p/a", "mtime").unwrap(), format!("{sec}.{nsec:09}"));
    assert_eq!(
        told("p/a", "file-mtime").unwrap(),
        format!("{sec}{nsec:09}ns")
    );
    assert_eq!(told("p/a", "file-atime").unwrap(), "1500000000000000000ns");
    assert_eq!(told("p/a", "file-permissions").unwrap(), "0100640");
    assert_eq!(told("p/link", "file-permissions").unwrap(), "0120777");
    let link = fs::symlink_metadata(sending.src.join("link")).unwrap();
    let (sec, nsec) = (link.mtime(), link.mtime_nsec());
    assert_eq!(
        told("p/link", "file-mtime").unwrap(),
        format!("{sec}{nsec:09}ns")
    );

    let again = sending.sync(&["--stats"]);
    assert!(
        again.exits(0).out().contains("0 files copied"),
        "{}",
        again.describe()
    );
    let seen = sending.seen();
    assert!(!seen.iter().any(is_write), "{seen:?}");
    assert_eq!(heads(&seen), 4, "one for each object: {seen:?}");
    sending.run("check", &["-c"]).exits(0);
    sending.run("check", &["--min-size", "1M"]).exits(0);

    sending.scene.sync(&[]).exits(0);
    let back = sending.scene.dst.clone();
    for name in ["a", "zero", "sub/deep/odd + name & more \u{e9}\n"] {
        let (here, there) = (sending.src.join(name), back.join(name));
        assert_eq!(fs::read(&here).unwrap(), fs::read(&there).unwrap());
        let (here, there) = (fs::metadata(here).unwrap(), fs::metadata(there).unwrap());
        assert_eq!(here.mode(), there.mode(), "{name}");
        let times = [&here, &there].map(|meta| (meta.mtime(), meta.mtime_nsec()));
        assert_eq!(times[0], times[1], "{name}");
    }
    assert!(back.join("empty").is_dir());
    let target = fs::read_link(back.join("link")).unwrap();
    assert_eq!(target.to_str(), Some("sub/deep"));
    let again = sending.scene.sync(&["-i"]);
    assert_eq!(
        again.exits(0).out().lines().count(),
        2,
        "{}",
        again.describe()
    );
}

#[test]
fn large_files_go_in_parts() {
    let sending = Sending::new();
    let files = [
        ("parts", 20 << 20),
        ("shared", (70 << 20) + 1),
        ("one", 8 << 20),
    ];
    for (name, len) in files {
        sending.write(name, &noise(len));
    }
    sending.sync(&["--part-size", "8M"]).exits(0);
    for (name, len) in files {
        assert!(sending.body(name) == noise(len), "{name}");
    }
    let seen = sending.seen();
    let parts = |name: &str| {
        let key = format!("p/{name}");
        let of_it = |request: &&Request| matches!(request, Request::Part(of, _) if *of == key);
        seen.iter().filter(of_it).count()
    };
    assert_eq!((parts("parts"), parts("shared"), parts("one")), (3, 9, 0));
    assert!(seen.contains(&Request::Put(String::from("p/one"))));
    assert_eq!(sending.scene.server.unfinished(), 0);
    sending.sync(&["--part-size", "8M", "-i"]).exits(0);
    assert!(!sending.seen().iter().any(is_write));
}

#[test]
fn files_that_say_nothing_of_their_size_are_read_to_their_end() {
    let sending = Sending::new();
    let places = ["sync", "/proc/sys/kernel/random", BUCKET];
    let told = support::run(
        sending
            .scene
            .command(&places, &["--include", "boot_id", "--exclude", "*"]),
    );
    told.exits(0);
    let boot_id = fs::read("/proc/sys/kernel/random/boot_id").unwrap();
    assert_eq!(sending.body("boot_id"), boot_id);
}

#[test]
fn objects_of_other_sizes_are_not_asked() {
    let sending = Sending::new();
    for name in ["same", "other", "new"] {
        sending.write(name, b"contents");
    }
    next_second();
    sending.scene.server.put("p/same", b"CONTENTS", POSIX);
    sending.scene.server.put("p/other", b"short", POSIX);
    sending.sync(&[]).exits(0);
    let seen = sending.seen();
    assert_eq!(heads(&seen), 1, "{seen:?}");
    for name in ["same", "other", "new"] {
        assert_eq!(sending.body(name), b"contents");
    }
    // A file that has come from elsewhere with its time is newer than the copy, and older than the object.
    let path = sending.src.join("same");
    let file = |contents: &[u8], time: u64| {
        fs::write(&path, contents).unwrap();
        let time = std::time::UNIX_EPOCH + Duration::from_secs(time);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
    };
    file(b"oldest!!", 1_000_000_000);
    sending.sync(&[]).exits(0);
    file(b"newer!!!", 1_000_000_001);
    sending.sync(&["--update"]).exits(0);
    assert_eq!(sending.body("same"), b"newer!!!");
    file(b"older!!!", 999_999_999);
    sending.sync(&["--update"]).exits(0);
    assert_eq!(sending.body("same"), b"newer!!!");
}

#[test]
fn a_directory_that_is_in_the_way_goes_only_when_that_is_asked_for() {
    let sending = Sending::new();
    sending.write("a", b"a file now");
    sending.scene.server.put("p/a/x", b"1", POSIX);
    sending.scene.server.put("p/a/y/z", b"2", POSIX);
    let told = sending.sync(&[]);
    assert!(told.exits(23).err().contains("'a'"), "{}", told.describe());
    assert_eq!(sending.keys(), ["p/a/x", "p/a/y/z"]);
    sending
        .scene
        .server
        .faults(|request| matches!(request, Request::Put(_)).then_some(Fault::Status(403)));
    sending.sync(&["--force"]).exits(23);
    assert_eq!(sending.keys(), ["p/a/x", "p/a/y/z"]);
    sending.scene.server.faults(|_| None);
    sending.sync(&["--force"]).exits(0);
    assert_eq!(sending.keys(), ["p/a"]);
    // And the other way round.
    fs::remove_file(sending.src.join("a")).unwrap();
    sending.write("a/x", b"1");
    sending.sync(&[]).exits(0);
    assert_eq!(sending.keys(), ["p/a/x"]);
}

#[test]
fn what_a_bucket_has_beside_a_directory_of_its_name_is_told() {
    let sending = Sending::new();
    sending.write("a", b"contents");
    sending.sync(&[]).exits(0);
    sending.scene.server.put("p/a/x", b"1", POSIX);
    let told = sending.sync(&["--delete"]);
    assert!(told.exits(23).err().contains("'a'"), "{}", told.describe());
}

#[test]
fn without_metadata_the_time_of_writing_counts() {
    let sending = Sending::new();
    sending.write("a", b"one");
    let options = ["--s3-metadata", "none"];
    next_second();
    sending.sync(&options).exits(0);
    assert_eq!(sending.scene.server.metadata("p/a", "mtime"), None);
    sending.seen();
    sending.sync(&options).exits(0);
    let seen = sending.seen();
    assert!(heads(&seen) == 0 && !seen.iter().any(is_write), "{seen:?}");
    sending.write("a", b"two");
    let later = std::time::SystemTime::now() + Duration::from_secs(10);
    let file = fs::File::options().write(true).open(sending.src.join("a"));
    file.unwrap().set_modified(later).unwrap();
    sending.sync(&options).exits(0);
    assert_eq!(sending.body("a"), b"two");
}

#[test]
fn attributes_alone_change_without_the_contents_being_sent() {
    let sending = Sending::new();
    sending.write("a", b"contents");
    sending.sync(&[]).exits(0);
    sending.seen();
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(sending.src.join("a"), mode).unwrap();
    let told = sending.sync(&["-i"]);
    assert!(
        told.exits(0).out().contains(".f...p..... a"),
        "{}",
        told.describe()
    );
    let seen = sending.seen();
    assert!(
        seen.contains(&Request::Copy(String::from("p/a"))),
        "{seen:?}"
    );
    assert!(
        !seen.contains(&Request::Put(String::from("p/a"))),
        "{seen:?}"
    );
    let told = |name| sending.scene.server.metadata("p/a", name);
    assert_eq!(told("file-permissions").unwrap(), "0100600");
    assert!(told("file-mtime").is_some(), "what it had stays");
    assert_eq!(sending.body("a"), b"contents");
}

#[test]
fn what_the_source_lacks_goes_many_at_a_time() {
    let sending = Sending::new();
    let server = &sending.scene.server;
    sending.write("kept", b"k");
    for number in 0..300 {
        server.put(&format!("p/old/{number}"), b"x", POSIX);
    }
    server.put("p/gone\u{1}", b"x", POSIX);
    server.put("q/not mine", b"x", POSIX);
    sending.sync(&["--delete"]).exits(0);
    assert_eq!(sending.keys(), ["p/kept", "q/not mine"]);
    let seen = sending.seen();
    let most = seen.iter().filter_map(|request| match request {
        Request::DeleteMany(count) => Some(*count),
        _ => None,
    });
    assert!(most.max() > Some(1), "{seen:?}");
    assert!(seen.contains(&Request::Delete(String::from("p/gone\u{1}"))));
    // A source that is empty has been mistaken for another.
    fs::remove_file(sending.src.join("kept")).unwrap();
    let refused = sending.sync(&["--delete"]);
    assert!(refused.exits(3).err().contains("refused to delete"));
    assert_eq!(sending.keys(), ["p/kept", "q/not mine"]);
}

#[test]
fn a_dry_run_writes_nothing() {
    let sending = Sending::new();
    sending.write("new/a", b"1");
    sending.scene.server.put("p/old", b"x", POSIX);
    let told = sending.sync(&["-n", "-i", "--delete"]);
    assert!(
        told.exits(0).out().contains("*deleting   old"),
        "{}",
        told.describe()
    );
    assert!(!sending.seen().iter().any(is_write));
}

#[test]
fn what_passes_is_repeated_and_leaves_nothing_behind() {
    let kinds: [(&str, IsKind); 7] = [
        ("list", |request| matches!(request, Request::List(_))),
        ("head", |request| matches!(request, Request::Head(_))),
        ("put", |request| matches!(request, Request::Put(_))),
        ("begin", |request| matches!(request, Request::Begin(_))),
        ("part", |request| matches!(request, Request::Part(..))),
        ("complete", |request| {
            matches!(request, Request::Complete(_))
        }),
        ("delete", |request| {
            matches!(request, Request::DeleteMany(_))
        }),
    ];
    std::thread::scope(|scope| {
        for (name, is_kind) in kinds {
            scope.spawn(move || {
                let late = Fault::Delay(Duration::from_millis(300));
                for fault in [Fault::Status(503), Fault::Reset, Fault::LostReply, late] {
                    strike_twice(name, is_kind, fault);
                }
                if name == "list" {
                    strike_twice(name, is_kind, Fault::CutAfter(300));
                }
            });
        }
    });
}

fn strike_twice(name: &str, is_kind: IsKind, fault: Fault) {
    let sending = Sending::new();
    let large = noise(20 << 20);
    sending.write("large", &large);
    sending.write("small", b"small");
    sending.scene.server.put("p/small", b"other", POSIX);
    sending.scene.server.put("p/old/1", b"x", POSIX);
    sending.scene.server.put("p/old/2", b"x", POSIX);
    let mut left = 2;
    sending.scene.server.faults(move |request| {
        let strikes = is_kind(request) && left > 0;
        left -= u32::from(strikes);
        strikes.then_some(fault)
    });
    let told = sending.sync(&["--part-size", "8M", "--delete"]);
    let context = format!("{name} {fault:?}: {}", told.describe());
    told.exits(0);
    assert!(sending.body("large") == large, "{context}");
    assert_eq!(sending.body("small"), b"small", "{context}");
    assert_eq!(sending.keys(), ["p/large", "p/small"], "{context}");
    // Nobody can abort an upload that he was never told of.
    let lost = name == "begin" && matches!(fault, Fault::LostReply);
    let unfinished = if lost { 2 } else { 0 };
    assert_eq!(sending.scene.server.unfinished(), unfinished, "{context}");
}

/// The same where the server copies.
#[test]
fn copies_are_repeated_and_leave_nothing_behind() {
    let kinds: [IsKind; 4] = [
        |request| matches!(request, Request::Copy(_)),
        |request| matches!(request, Request::CopyPart(..)),
        |request| matches!(request, Request::Complete(_)),
        |request| matches!(request, Request::Head(_)),
    ];
    std::thread::scope(|scope| {
        for is_kind in kinds {
            scope.spawn(move || {
                for fault in [Fault::Status(503), Fault::Reset, Fault::LostReply] {
                    strike_copies(is_kind, fault);
                }
            });
        }
    });
}

fn strike_copies(is_kind: IsKind, fault: Fault) {
    let scene = Scene::new();
    // More than 16 parts of 8 MiB are copied in parts.
    let large: Vec<u8> = (0..137).flat_map(|byte| vec![byte; 1 << 20]).collect();
    scene.server.put("p/large", &large, POSIX);
    scene.server.put("p/small", b"small", POSIX);
    scene.server.put("q/small", b"old", POSIX);
    let mut left = 2;
    scene.server.faults(move |request| {
        let strikes = is_kind(request) && left > 0;
        left -= u32::from(strikes);
        strikes.then_some(fault)
    });
    let places = ["sync", BUCKET, "s3://bucket/q"];
    let told = support::run(scene.command(&places, &["--part-size", "8M"]));
    let context = format!("{fault:?}: {}", told.describe());
    told.exits(0);
    assert!(scene.server.body("q/large").unwrap() == large, "{context}");
    assert_eq!(scene.server.body("q/small").unwrap(), b"small", "{context}");
    assert_eq!(scene.server.unfinished(), 0, "{context}");
}

#[test]
fn what_is_refused_leaves_what_was_there() {
    let sending = Sending::new();
    sending.write("large", &noise(20 << 20));
    sending.write("small", b"small");
    sending.scene.server.put("p/large", b"old", POSIX);
    sending.scene.server.put("p/small", b"older", POSIX);
    sending.scene.server.faults(|request| match request {
        Request::Part(_, 2) | Request::Put(_) => Some(Fault::Status(403)),
        _ => None,
    });
    let told = sending.sync(&["--part-size", "8M"]);
    assert!(
        told.exits(23).err().contains("EACCES"),
        "{}",
        told.describe()
    );
    assert_eq!(sending.body("large"), b"old");
    assert_eq!(sending.body("small"), b"older");
    assert_eq!(sending.scene.server.unfinished(), 0);
}

#[test]
fn an_interrupted_run_aborts_what_it_has_begun() {
    let (sending, mut child) = Sending::under_way();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(20));
    assert_eq!(sending.scene.server.unfinished(), 0);
    assert!(sending.keys().is_empty());
}

#[test]
fn a_file_that_changes_while_it_is_sent_is_sent_again() {
    let sending = Sending::new();
    sending.write("growing", &noise(20 << 20));
    let path = Mutex::new(Some(sending.src.join("growing")));
    sending.scene.server.faults(move |request| {
        let first = matches!(request, Request::Part(..)).then(|| path.lock().unwrap().take());
        if let Some(path) = first.flatten() {
            fs::write(path, noise(21 << 20)).unwrap();
        }
        None
    });
    sending.sync(&["--part-size", "8M"]).exits(0);
    assert!(sending.body("growing") == noise(21 << 20));
    assert_eq!(sending.scene.server.unfinished(), 0);
    sending.run("check", &["-c"]).exits(0);
}

#[test]
fn what_is_verified_is_read_back() {
    let sending = Sending::new();
    sending.write("a", b"contents");
    sending.sync(&["--verify"]).exits(0);
    assert!(sending.seen().contains(&Request::Get(String::from("p/a"))));
    // A server that gives back something else: what it has must not look equal to the next run.
    sending.write("b", b"contents");
    sending.scene.server.faults(|request| match request {
        Request::Get(_) => Some(Fault::Altered),
        _ => None,
    });
    let told = sending.sync(&["--verify"]);
    assert!(told.exits(23).err().contains("'b'"), "{}", told.describe());
    assert_eq!(sending.keys(), ["p/a"]);
    // A source that has grown since is no reason to take its copy away.
    let path = sending.src.join("b");
    sending.scene.server.faults(move |request| {
        if matches!(request, Request::Get(_)) {
            let mut log = fs::File::options().append(true).open(&path).unwrap();
            std::io::Write::write_all(&mut log, b"more").unwrap();
        }
        None
    });
    sending.sync(&["--verify"]).exits(23);
    assert!(sending.body("b").starts_with(b"contents"));
}

#[test]
fn a_bucket_is_copied_by_the_server() {
    let scene = Scene::new();
    let large = noise(130 << 20);
    scene.server.put("p/a b", b"one", POSIX);
    scene.server.put("p/sub/empty", b"", &[]);
    scene.server.put("p/large", &large, POSIX);
    let places = ["sync", "s3://bucket/p", "s3://bucket/q"];
    let options = ["--part-size", "8M"];
    support::run(scene.command(&places, &options)).exits(0);
    assert_eq!(scene.server.body("q/a b").unwrap(), b"one");
    assert_eq!(scene.server.body("q/sub/empty").unwrap(), b"");
    assert!(scene.server.body("q/large").unwrap() == large);
    assert_eq!(
        scene.server.metadata("q/a b", "file-permissions").unwrap(),
        "0100640"
    );
    let seen = scene.server.seen();
    let reads = |request: &Request| matches!(request, Request::Get(key) if key != "p/sub/empty");
    assert!(!seen.iter().any(reads), "{seen:?}");
    assert!(seen.contains(&Request::CopyPart(String::from("q/large"), 5)));
    assert_eq!(scene.server.unfinished(), 0);
    let again = support::run(scene.command(&places, &options));
    assert!(
        again.exits(0).out().contains("0 files copied"),
        "{}",
        again.describe()
    );
    // Through this machine, when that is asked for.
    scene.server.put("p/new", b"new", POSIX);
    support::run(scene.command(&places, &["--reflink", "never"])).exits(0);
    let seen = scene.server.seen();
    assert!(
        seen.contains(&Request::Put(String::from("q/new"))),
        "{seen:?}"
    );
    let inside = ["sync", "s3://bucket/p", "s3://bucket/p/sub"];
    let refused = support::run(scene.command(&inside, &[]));
    assert!(refused.exits(3).err().contains("copied into itself"));
    let around = ["sync", "s3://bucket/p/sub", "s3://bucket/p"];
    let refused = support::run(scene.command(&around, &[]));
    assert!(refused.exits(3).err().contains("could be overwritten"));
}

#[test]
fn links_and_devices_are_left_out_where_nothing_can_keep_them() {
    let sending = Sending::new();
    sending.write("a", b"1");
    symlink("a", sending.src.join("link")).unwrap();
    nix::unistd::mkfifo(&sending.src.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let told = sending.sync(&["--s3-metadata", "rclone"]);
    assert!(
        told.exits(0).out().contains("2 skipped"),
        "{}",
        told.describe()
    );
    assert_eq!(sending.keys(), ["p/a"]);
    fs::create_dir(sending.src.join("of links")).unwrap();
    symlink("../a", sending.src.join("of links/link")).unwrap();
    sending.sync(&["--s3-metadata", "rclone"]).exits(0);
    assert_eq!(sending.keys(), ["p/a", "p/of links/"]);
    let again = sending.sync(&["--s3-metadata", "rclone", "-i"]);
    assert!(
        !again.exits(0).out().contains("cd+"),
        "{}",
        again.describe()
    );
    assert_eq!(
        sending.scene.server.metadata("p/a", "file-permissions"),
        None
    );
    assert!(sending.scene.server.metadata("p/a", "mtime").is_some());
}

#[test]
fn new_objects_are_as_they_are_asked_for() {
    let sending = Sending::new();
    sending.write("a", b"1");
    let options = [
        "--storage-class",
        "STANDARD_IA",
        "--sse",
        "aws:kms",
        "--sse-kms-key-id",
        "k",
    ];
    sending.sync(&options).exits(0);
    let told = |name| sending.scene.server.header("p/a", name);
    assert_eq!(told("x-amz-storage-class").as_deref(), Some("STANDARD_IA"));
    assert_eq!(
        told("x-amz-server-side-encryption").as_deref(),
        Some("aws:kms")
    );
    assert_eq!(
        told("x-amz-server-side-encryption-aws-kms-key-id").as_deref(),
        Some("k")
    );
    assert!(told("x-amz-checksum-crc32").is_some());
}

#[test]
fn what_no_bucket_can_be_asked_is_refused() {
    let sending = Sending::new();
    sending.write("a", b"1");
    for (option, words) in [
        ("--inplace", "replaced as a whole"),
        ("--write-mode=direct", "replaced as a whole"),
        ("--backup", "versioning"),
        ("--sparse", "does not go with a bucket"),
        ("-H", "does not go with a bucket"),
        ("--since=2020-01-01", "buckets have none"),
        ("--resume --partial", "appears as a whole"),
        ("--part-size=12M", "is not one of"),
        ("--sse-kms-key-id=k", "goes with --sse aws:kms"),
    ] {
        let options: Vec<&str> = option.split(' ').collect();
        let refused = sending.sync(&options);
        assert!(refused.err().contains(words), "{}", refused.describe());
        assert!(refused.code() != Some(0), "{option}");
    }
    assert!(sending.keys().is_empty());
}

#[test]
fn uploads_that_a_killed_run_left_are_found_and_aborted() {
    let (sending, mut child) = Sending::under_way();
    child.kill().unwrap();
    child.wait().unwrap();
    sending.scene.server.faults(|_| None);
    assert_eq!(sending.scene.server.unfinished(), 1);
    assert!(sending.keys().is_empty());
    // What the server calls begun long ago.
    let cleanup = |options: &[&str]| {
        let places = ["s3", "cleanup", BUCKET];
        support::run(sending.scene.command(&places, options))
    };
    let young = cleanup(&["--before", "2020-01-01T00:00:00Z"]);
    assert!(young.exits(0).out().starts_with("no unfinished uploads"));
    let listed = cleanup(&["-n"]);
    assert!(listed.exits(0).out().contains("unfinished p/large"));
    assert_eq!(sending.scene.server.unfinished(), 1);
    let refused = cleanup(&["--before", "someday"]);
    assert!(refused.exits(1).err().contains("is not a time"));
    let aborted = cleanup(&[]);
    assert!(
        aborted.exits(0).out().contains("aborted p/large"),
        "{}",
        aborted.describe()
    );
    assert_eq!(sending.scene.server.unfinished(), 0);
    sending.sync(&["--part-size", "8M"]).exits(0);
    assert!(sending.body("large") == noise(80 << 20));
}

#[test]
fn a_server_that_is_asked_too_much_is_asked_less() {
    let sending = Sending::new();
    for number in 0..300 {
        sending.write(&format!("d{}/f{number}", number % 3), b"contents");
    }
    let mut left = 150;
    sending.scene.server.faults(move |request| {
        let strikes = matches!(request, Request::Put(_)) && left > 0;
        left -= u32::from(strikes);
        strikes.then_some(Fault::Status(503))
    });
    let log = sending.scene.scratch.path().join("log");
    let told = sending.sync(&["--log-file", log.to_str().unwrap()]);
    assert_eq!(told.exits(0).err(), "", "{}", told.describe());
    assert_eq!(sending.keys().len(), 300);
    let log = fs::read_to_string(log).unwrap();
    assert!(log.contains("the server is asked too much"), "{log}");
}

#[test]
fn the_doctor_tries_a_bucket_out_and_leaves_nothing() {
    let scene = Scene::new();
    scene.server.put("p/a", b"1", POSIX);
    let doctor = |options: &[&str]| {
        let places = ["doctor", "s3://bucket/p", "s3://bucket/q"];
        support::run(scene.command(&places, options))
    };
    let told = doctor(&[]);
    let out = told.exits(0).out();
    for line in [
        "latency",
        "versioning         yes",
        "checksums          yes",
        "deleting           yes",
    ] {
        assert!(out.contains(line), "{line}: {}", told.describe());
    }
    assert_eq!(scene.server.keys(), ["p/a"]);
    assert_eq!(scene.server.unfinished(), 0);
    scene
        .server
        .faults(|request| matches!(request, Request::Put(_)).then_some(Fault::Status(403)));
    let told = doctor(&["--json"]);
    assert!(
        told.exits(3).out().contains("s3:PutObject"),
        "{}",
        told.describe()
    );
    scene.server.faults(|_| Some(Fault::Status(403)));
    let told = doctor(&[]);
    assert!(
        told.exits(3).out().contains("AccessDenied"),
        "{}",
        told.describe()
    );
}

/// 1,024 bytes, with what the URL says.
#[test]
fn keys_may_be_as_long_as_servers_take() {
    let sending = Sending::new();
    let dirs = format!("{0}/{0}/{0}/{0}", "d".repeat(250));
    let longest = format!("{dirs}/{}", "f".repeat(1024 - "p/".len() - 4 * 251));
    let longer = format!("{longest}+");
    for path in [&longest, &longer] {
        sending.write(path, b"far down");
    }
    let told = sending.sync(&[]);
    assert!(
        told.exits(23).err().contains("ENAMETOOLONG"),
        "{}",
        told.describe()
    );
    let key = format!("p/{longest}");
    assert_eq!(key.len(), 1024);
    assert_eq!(sending.keys(), [key]);
    sending.scene.sync(&[]).exits(0);
    assert_eq!(sending.scene.read(&longest), b"far down");
}

#[test]
fn requests_are_told_by_their_kinds() {
    let sending = Sending::new();
    sending.write("a", b"1");
    sending.write("b", b"2");
    sending.write("large", &noise(9 << 20));
    let slow = AtomicBool::new(true);
    sending.scene.server.faults(move |request| {
        let is_put = matches!(request, Request::Put(_));
        (is_put && slow.swap(false, SeqCst)).then_some(Fault::Status(503))
    });
    let told = sending.sync(&["--part-size", "8M", "--json"]);
    let summary = told.exits(0).summary();
    let latencies = summary["latencies"].as_array().unwrap().iter();
    let requests = latencies.filter(|latency| latency["what"] == "request");
    let mut counts: Vec<(&str, u64)> = requests
        .map(|latency| {
            let name = latency["name"].as_str().unwrap();
            (name, latency["count"].as_u64().unwrap())
        })
        .filter(|(name, _)| *name != "ListObjectsV2")
        .collect();
    counts.sort_unstable();
    let expected = [
        ("CompleteMultipartUpload", 1),
        ("CreateMultipartUpload", 1),
        ("PutObject", 3),
        ("UploadPart", 2),
    ];
    assert_eq!(counts, expected, "with the one that was repeated");
    assert_eq!(summary["requests"]["slowed"], 1);
    assert!(summary["requests"]["limit"].as_u64().unwrap() >= 4);
}
