//! `--incremental` and `--resume` with buckets: what was equal is known by listings alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::server::{Fault, Request, Server};
use crate::support::{self, Outcome};
use crate::{POSIX, Scene, noise, wait_for};

/// A source, a destination and a state.
struct Job {
    scene: Scene,
    places: [String; 2],
    src: PathBuf,
}

impl Job {
    fn new(from_bucket: bool, to_bucket: bool) -> Self {
        let scene = Scene::new();
        let src = scene.scratch.dir("src");
        let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
        let bucket = |name: &str| format!("s3://bucket/{name}");
        let source = if from_bucket {
            bucket("from")
        } else {
            path(&src)
        };
        let dest = if to_bucket {
            bucket("to")
        } else {
            path(&scene.dst)
        };
        Self {
            scene,
            places: [source, dest],
            src,
        }
    }

    /// From a directory with some files to a bucket, equal and remembered.
    fn uploaded() -> Self {
        let job = Self::new(false, true);
        for dir in ["one", "two", "two/deep"] {
            fs::create_dir_all(job.src.join(dir)).unwrap();
            for name in ["a", "b"] {
                fs::write(job.src.join(dir).join(name), dir).unwrap();
            }
        }
        fs::create_dir(job.src.join("empty")).unwrap();
        job.settle();
        assert_eq!(job.sync(&["--delete"]).exits(0).count("files_copied"), 6);
        job
    }

    fn sync(&self, options: &[&str]) -> Outcome {
        self.run(&[&["--incremental"], options].concat())
    }

    /// What was changed before is no longer young afterwards, by the clock of files and by that of objects.
    fn settle(&self) {
        thread::sleep(Duration::from_millis(120));
        self.scene.server.pass(3);
    }

    fn run(&self, options: &[&str]) -> Outcome {
        support::run(self.command(options))
    }

    fn command(&self, options: &[&str]) -> Command {
        let state = self.scene.scratch.path().join("state");
        let places = ["sync", &self.places[0], &self.places[1]];
        let mut options = options.to_vec();
        options.extend(["--json", "--state", state.to_str().unwrap()]);
        self.scene.command(&places, &options)
    }

    /// Requests of a run that are no listings, and how many are.
    fn asked(&self, run: impl FnOnce()) -> (Vec<Request>, usize) {
        self.scene.server.seen();
        run();
        let seen = self.scene.server.seen().into_iter();
        let is_list = |request: &Request| matches!(request, Request::List(_));
        let (lists, others): (Vec<_>, Vec<_>) = seen.partition(is_list);
        (others, lists.len())
    }

    fn finds_nothing_to_ask(&self, options: &[&str]) {
        let (asked, lists) = self.asked(|| {
            let told = self.sync(options);
            let dirs = told.exits(0).count("dirs_listed");
            assert_eq!(told.count("dirs_unchanged"), dirs, "{}", told.describe());
            assert_eq!(told.count("entries_equal"), told.count("entries_found"));
        });
        assert_eq!(asked, []);
        // On each side one that tells of all, a look before the run, and one of what may be deleted.
        let buckets = self.places.iter().filter(|place| place.starts_with("s3:"));
        assert!(lists <= 3 * buckets.count(), "{lists}");
    }
}

#[test]
fn a_run_after_an_upload_only_lists() {
    let job = Job::uploaded();
    job.finds_nothing_to_ask(&["--delete"]);
    job.finds_nothing_to_ask(&["--delete"]);
}

#[test]
fn a_tree_that_was_equal_before_is_asked_about_once() {
    let job = Job::uploaded();
    fs::remove_dir_all(job.scene.scratch.path().join("state")).unwrap();
    job.settle();
    let (asked, _) = job.asked(|| {
        job.sync(&["--delete"]).exits(0);
    });
    assert_eq!(asked.len(), 6, "{asked:?}");
    job.finds_nothing_to_ask(&["--delete"]);
}

#[test]
fn changes_in_the_source_are_uploaded_and_remembered() {
    let job = Job::uploaded();
    fs::write(job.src.join("one/a"), "ONE").unwrap();
    fs::write(job.src.join("two/new"), "new").unwrap();
    fs::remove_file(job.src.join("two/deep/b")).unwrap();
    job.settle();
    let told = job.sync(&["--delete"]);
    assert_eq!(told.exits(0).count("files_copied"), 2);
    assert_eq!(told.count("entries_deleted"), 1);
    assert_eq!(
        told.count("dirs_unchanged"),
        2,
        "the root and the empty one"
    );
    job.finds_nothing_to_ask(&["--delete"]);
    assert_eq!(job.scene.server.body("to/one/a").unwrap(), b"ONE");
    assert!(job.scene.server.body("to/two/deep/b").is_none());
}

/// Whether these are to be written is seen only when they are looked at.
#[test]
fn symlinks_and_compared_contents_are_remembered_too() {
    for options in [&["--delete"][..], &["--delete", "-c"]] {
        let job = Job::uploaded();
        symlink("a", job.src.join("one/link")).unwrap();
        job.settle();
        for contents in ["ONE", "Two"] {
            job.sync(options).exits(0);
            job.settle();
            job.finds_nothing_to_ask(options);
            fs::write(job.src.join("one/a"), contents).unwrap();
            job.settle();
        }
        job.sync(options).exits(0);
        assert_eq!(job.scene.server.body("to/one/a").unwrap(), b"Two");
        job.settle();
        job.finds_nothing_to_ask(options);
    }
}

#[test]
fn what_others_do_to_the_bucket_is_seen() {
    type Change = fn(&Server);
    let changes: [(&str, Change); 6] = [
        ("other contents", |server| {
            server.overwrite("to/one/a", b"eno", POSIX);
        }),
        ("other metadata", |server| {
            server.overwrite("to/one/a", b"one", POSIX);
        }),
        ("one is gone", |server| server.remove("to/two/deep/a")),
        ("one more", |server| server.put("to/two/more", b"more", &[])),
        ("a directory more", |server| {
            server.put("to/two/more/a", b"more", &[]);
        }),
        ("an empty one is gone", |server| server.remove("to/empty/")),
    ];
    for (what, change) in changes {
        let job = Job::uploaded();
        let keys = job.scene.server.keys();
        job.settle();
        change(&job.scene.server);
        job.sync(&["--delete"]).exits(0);
        assert_eq!(job.scene.server.keys(), keys, "{what}");
        let body = job.scene.server.body("to/one/a").unwrap();
        assert_eq!(body, b"one", "{what}");
        let mtime = job.scene.server.metadata("to/one/a", "file-mtime");
        assert_ne!(mtime.as_deref(), Some(POSIX[0].1), "{what}");
        job.finds_nothing_to_ask(&["--delete"]);
    }
}

/// Between the upload of an object and the last look at its directory: with that, here.
#[test]
fn what_others_do_meanwhile_is_not_taken_for_ours() {
    for name in ["to/one/more", "to/one/b", "to/one/a"] {
        let job = Job::new(false, true);
        fs::create_dir(job.src.join("one")).unwrap();
        fs::write(job.src.join("one/a"), "one").unwrap();
        fs::write(job.src.join("one/b"), "one").unwrap();
        job.settle();
        job.sync(&["--delete"]).exits(0);
        job.settle();
        // As long as what others write.
        fs::write(job.src.join("one/a"), "second").unwrap();
        job.settle();
        let is_there = AtomicBool::new(false);
        job.scene.server.faults(move |request| match request {
            Request::Put(key) if key == "to/one/a" => {
                is_there.store(true, SeqCst);
                None
            }
            Request::List(_) if is_there.load(SeqCst) => Some(Fault::Meanwhile(name)),
            _ => None,
        });
        job.sync(&["--delete"]).exits(0);
        job.scene.server.faults(|_| None);
        let told = job.sync(&["--delete"]);
        assert_eq!(told.exits(0).count("dirs_unchanged"), 1, "the root: {name}");
        assert_eq!(job.scene.server.keys(), ["to/one/a", "to/one/b"]);
        assert_eq!(job.scene.server.body("to/one/a").unwrap(), b"second");
        assert_eq!(job.scene.server.body("to/one/b").unwrap(), b"one");
    }
}

#[test]
fn objects_in_parts_are_remembered_too() {
    let job = Job::new(false, true);
    fs::write(job.src.join("large"), noise(9 << 20)).unwrap();
    job.settle();
    let options = ["--part-size", "8M"];
    job.sync(&options).exits(0);
    let seen = job.scene.server.seen();
    let is_part = |request: &&Request| matches!(request, Request::Part(..));
    assert_eq!(seen.iter().filter(is_part).count(), 2);
    job.settle();
    job.finds_nothing_to_ask(&options);
}

#[test]
fn a_bucket_that_was_downloaded_is_only_listed() {
    for to_bucket in [false, true] {
        let job = Job::new(true, to_bucket);
        for key in ["from/a", "from/dir/b", "from/dir/c"] {
            job.scene.server.put(key, b"old", POSIX);
        }
        job.settle();
        job.sync(&[]).exits(0);
        if to_bucket {
            job.settle();
        } else {
            // A directory of this machine that was there before is known from the second run on.
            job.sync(&[]).exits(0);
        }
        job.finds_nothing_to_ask(&[]);
        let later = [("file-mtime", "1600000001000ms")];
        job.scene.server.put("from/dir/b", b"new", &later);
        let told = job.sync(&[]);
        assert_eq!(told.exits(0).count("dirs_unchanged"), 1, "the root");
        let read = |path: &str| {
            if to_bucket {
                job.scene.server.body(&format!("to/{path}"))
            } else {
                fs::read(job.scene.dst.join(path)).ok()
            }
        };
        assert_eq!(read("dir/b").as_deref(), Some(&b"new"[..]));
        assert_eq!(read("dir/c").as_deref(), Some(&b"old"[..]));
    }
}

#[test]
fn an_upload_that_was_stopped_is_resumed_without_questions() {
    let job = Job::new(false, true);
    for dir in ["done", "later"] {
        fs::create_dir(job.src.join(dir)).unwrap();
        for name in ["a", "b"] {
            fs::write(job.src.join(dir).join(name), dir).unwrap();
        }
    }
    job.settle();
    let looked_again = Arc::new(AtomicBool::new(false));
    let (told, mut written) = (looked_again.clone(), 0);
    job.scene.server.faults(move |request| {
        match request {
            Request::Put(key) if key.starts_with("to/later/") => return Some(Fault::Status(503)),
            Request::Put(_) => written += 1,
            Request::List(prefix) if prefix == "to/done/" && written == 2 => {
                told.store(true, SeqCst);
            }
            _ => {}
        }
        None
    });
    let mut run = job.command(&["--resume"]).spawn().unwrap();
    wait_for(&looked_again);
    // What was just listed is to be remembered.
    thread::sleep(Duration::from_millis(300));
    kill(Pid::from_raw(run.id().cast_signed()), Signal::SIGINT).unwrap();
    assert_eq!(run.wait().unwrap().code(), Some(20));
    job.scene.server.faults(|_| None);
    let (asked, _) = job.asked(|| {
        job.run(&["--resume"]).exits(0);
    });
    let is_put = |request: &Request| matches!(request, Request::Put(_));
    assert!(asked.len() == 2 && asked.iter().all(is_put), "{asked:?}");
}
