//! `--partial` as a user sees it: what an interrupted run leaves of a large file, and what the next one makes of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::snap::{assert_equal_trees, temporaries};
use support::tree::write_noise;
use support::{Outcome, Pair, Running, command, sync_args, under_each_engine};

under_each_engine!(
    a_killed_run_is_gone_on_with,
    an_interrupted_run_is_gone_on_with,
    what_is_not_as_it_was_written_is_copied_again,
);

const MIB: u64 = 1 << 20;
const SIZE: u64 = 300 * MIB + 77;

/// A large file, half copied.
struct Half {
    pair: Pair,
    state: PathBuf,
}

impl Half {
    /// Copies slowly, and ends it when some chunks are known to be there.
    fn new(engine: &str, signal: Signal) -> Self {
        let pair = Pair::new();
        write_noise(&pair.src.join("large"), SIZE, 5);
        // Of a source that is younger than its clock's tick nobody knows whether it stays so.
        thread::sleep(Duration::from_millis(120));
        let half = Self {
            state: pair.scratch.path().join("state"),
            pair,
        };
        let options = [&half.options()[..], &["--bwlimit", "40M"]].concat();
        let args = sync_args(engine, &options, &half.pair.src, &half.pair.dst);
        let running = Running::start(command(support::BINARY, &args));
        let began = Instant::now();
        while temporaries(&half.pair.dst).is_empty() {
            assert!(began.elapsed() < Duration::from_secs(60), "it never begins");
            thread::sleep(Duration::from_millis(20));
        }
        // At most four chunks are in work, so the first ones are whole after two seconds, and told of two seconds later.
        thread::sleep(Duration::from_secs(5));
        running.signal(signal);
        running.wait();
        assert!(half.part().metadata().unwrap().len() == SIZE);
        half
    }

    fn options(&self) -> [&str; 5] {
        let state = self.state.to_str().unwrap();
        ["--resume", "--partial", "--state", state, "--json"]
    }

    fn sync(&self, engine: &str) -> Outcome {
        self.pair.sync(engine, &self.options())
    }

    /// The file in part.
    fn part(&self) -> PathBuf {
        let left = temporaries(&self.pair.dst);
        assert_eq!(left.len(), 1, "{left:?}");
        self.pair.dst.join(&left[0])
    }

    fn is_whole(&self) {
        assert_equal_trees(&self.pair.src, &self.pair.dst);
        assert!(temporaries(&self.pair.dst).is_empty());
    }
}

fn a_killed_run_is_gone_on_with(engine: &str) {
    let half = Half::new(engine, Signal::SIGKILL);
    let resumed = half.sync(engine);
    let there = resumed.exits(0).count("bytes_resumed");
    assert!(there >= 16 * MIB, "{}", resumed.describe());
    assert_eq!(there + resumed.count("bytes_copied"), SIZE);
    half.is_whole();
    assert_eq!(half.sync(engine).exits(0).count("files_copied"), 0);
}

fn an_interrupted_run_is_gone_on_with(engine: &str) {
    let half = Half::new(engine, Signal::SIGINT);
    let resumed = half.sync(engine);
    assert!(resumed.exits(0).count("bytes_resumed") >= 16 * MIB);
    half.is_whole();
}

fn what_is_not_as_it_was_written_is_copied_again(engine: &str) {
    let half = Half::new(engine, Signal::SIGKILL);
    let part = File::options().write(true).open(half.part()).unwrap();
    // As after a loss of power: no chunk is as it was written.
    for mib in (0..SIZE / MIB).step_by(8) {
        part.write_all_at(&[0; 4096], mib * MIB).unwrap();
    }
    let resumed = half.sync(engine);
    assert_eq!(resumed.exits(0).count("bytes_resumed"), 0);
    half.is_whole();
}

#[test]
fn a_source_that_has_changed_is_copied_from_its_beginning() {
    let half = Half::new("auto", Signal::SIGKILL);
    write_noise(&half.pair.src.join("large"), SIZE, 6);
    let again = half.sync("auto");
    assert_eq!(again.exits(0).count("bytes_resumed"), 0);
    assert_eq!(again.count("strays_removed"), 1);
    half.is_whole();
}

#[test]
fn without_partial_what_is_left_is_removed() {
    let half = Half::new("auto", Signal::SIGKILL);
    let again = half.pair.sync("auto", &["--json"]);
    assert_eq!(again.exits(0).count("strays_removed"), 1);
    half.is_whole();
}

#[test]
fn a_part_that_is_not_needed_any_more_is_removed() {
    let half = Half::new("auto", Signal::SIGKILL);
    let (src, dst) = (half.pair.src.join("large"), half.pair.dst.join("large"));
    fs::copy(&src, &dst).unwrap();
    let times = src.metadata().unwrap();
    File::options()
        .write(true)
        .open(&dst)
        .unwrap()
        .set_modified(times.modified().unwrap())
        .unwrap();
    let again = half.sync("auto");
    assert_eq!(again.exits(0).count("strays_removed"), 1);
    assert_eq!(again.count("bytes_copied"), 0);
    half.is_whole();
}

#[test]
fn another_file_under_the_name_is_not_gone_on_with() {
    let half = Half::new("auto", Signal::SIGKILL);
    let (part, other) = (half.part(), half.pair.scratch.path().join("other"));
    fs::copy(&part, &other).unwrap();
    fs::rename(&other, &part).unwrap();
    let again = half.sync("auto");
    assert_eq!(again.exits(0).count("bytes_resumed"), 0);
    half.is_whole();
}

#[test]
fn a_part_that_another_run_is_at_work_on_is_left_to_it() {
    let half = Half::new("auto", Signal::SIGKILL);
    let part = File::open(half.part()).unwrap();
    rustix::fs::flock(&part, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let again = half.sync("auto");
    assert_eq!(again.exits(0).count("bytes_resumed"), 0);
    let copy = fs::read(half.pair.dst.join("large")).unwrap();
    assert!(copy == fs::read(half.pair.src.join("large")).unwrap());
    assert_eq!(temporaries(&half.pair.dst).len(), 1);
    drop(part);
    half.sync("auto").exits(0);
    half.is_whole();
}

#[test]
fn a_dry_run_leaves_the_part() {
    let half = Half::new("auto", Signal::SIGKILL);
    let part = half.part();
    let options = [&half.options()[..], &["-n"]].concat();
    let dry = half.pair.sync("auto", &options);
    assert_eq!(dry.exits(0).count("files_copied"), 1);
    assert!(part.exists());
    assert!(half.sync("auto").exits(0).count("bytes_resumed") >= 16 * MIB);
    half.is_whole();
}
