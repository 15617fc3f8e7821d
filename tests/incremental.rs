//! `--incremental`, `--resume` and `--since` as a user sees them: what is passed over, what is seen, and the state between the runs.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use support::snap::{assert_equal_trees, snapshot};
use support::tree::{LONG_AGO, Tree, all_kinds, odd_names, set_mtime};
use support::{Outcome, Pair, Running, command, ringsync, sync_args, under_each_engine};

under_each_engine!(
    a_second_run_lists_no_copy_that_has_not_changed,
    changes_on_both_sides_are_seen_and_what_vanished_is_forgotten,
    a_dry_run_leaves_the_state_alone,
    killed_runs_are_resumed,
    since_the_last_success_only_what_changed_is_compared,
    since_a_time_only_what_changed_later_is_compared,
);

/// What changed so shortly before the time of `--since`, in whole seconds, counts as changed after it.
const SINCE_MARGIN: Duration = Duration::from_millis(3300);

/// A pair with a state directory of its own.
struct Remembering {
    pair: Pair,
    state: PathBuf,
}

impl Remembering {
    fn new(tree: &Tree) -> Self {
        let pair = Pair::new();
        tree.write_to(&pair.src);
        let state = pair.scratch.path().join("state");
        Self { pair, state }
    }

    /// Makes sure first that what was changed before is no longer young.
    fn sync(&self, engine: &str, options: &[&str]) -> Outcome {
        thread::sleep(Duration::from_millis(120));
        let mut all = vec!["--json", "--state", self.state.to_str().unwrap()];
        all.extend(options);
        self.pair.sync(engine, &all)
    }

    fn jobs(&self) -> Vec<serde_json::Value> {
        let outcome = ringsync(&["jobs", "--json", "--state", self.state.to_str().unwrap()]);
        outcome.exits(0).json()
    }

    fn database(&self) -> PathBuf {
        let files = fs::read_dir(&self.state).unwrap();
        let mut paths = files.map(|entry| entry.unwrap().path());
        paths
            .find(|path| path.extension().unwrap() == "redb")
            .unwrap()
    }
}

/// `dirs` directories of three files, and everything that is odd.
fn tree(dirs: usize) -> Tree {
    let mut tree = all_kinds();
    tree.nodes.extend(odd_names().nodes);
    for dir in 0..dirs {
        for file in 0..3 {
            tree.file(format!("dirs/{}/{dir}/{file}", dir % 7), "contents");
        }
    }
    tree
}

fn a_second_run_lists_no_copy_that_has_not_changed(engine: &str) {
    let job = Remembering::new(&tree(40));
    let options = ["--incremental", "--delete"];
    job.sync(engine, &options).exits(0);
    assert_equal_trees(&job.pair.src, &job.pair.dst);
    // Directories that had been there are known from the second run on.
    job.sync(engine, &options).exits(0);
    let third = job.sync(engine, &options);
    third.exits(0);
    let dirs = third.count("dirs_listed");
    assert_eq!(third.count("dirs_unchanged"), dirs);
    assert!(third.count("calls_saved") > third.count("entries_found"));
    assert_eq!(third.count("entries_equal"), third.count("entries_found"));
    assert_equal_trees(&job.pair.src, &job.pair.dst);
    let jobs = job.jobs();
    assert_eq!(jobs.len(), 1);
    assert_eq!(jobs[0]["directories"], dirs);
    assert_eq!(jobs[0]["last_run"]["ending"], "complete");
}

fn changes_on_both_sides_are_seen_and_what_vanished_is_forgotten(engine: &str) {
    let job = Remembering::new(&tree(40));
    let options = ["--incremental", "--delete"];
    for _ in 0..2 {
        job.sync(engine, &options).exits(0);
    }
    let (src, dst) = (&job.pair.src, &job.pair.dst);
    fs::write(src.join("dirs/1/1/0"), "other").unwrap();
    fs::remove_dir_all(src.join("dirs/2")).unwrap();
    fs::remove_file(dst.join("dirs/3/3/1")).unwrap();
    fs::rename(dst.join("dirs/4"), dst.join("dirs/moved")).unwrap();
    fs::write(dst.join("dirs/5/extra"), "extra").unwrap();
    fs::set_permissions(dst.join("dirs/6"), PermissionsExt::from_mode(0o700)).unwrap();
    // A tree with old times comes from elsewhere.
    let old = job.pair.scratch.dir("old");
    fs::write(old.join("file"), "old").unwrap();
    set_mtime(&old.join("file"), LONG_AGO);
    fs::rename(&old, src.join("dirs/new")).unwrap();
    let seen = job.sync(engine, &options);
    seen.exits(0);
    assert!(seen.count("dirs_unchanged") > 10);
    assert_equal_trees(src, dst);
    job.sync(engine, &options).exits(0);
    let settled = job.sync(engine, &options);
    assert_eq!(
        settled.count("dirs_unchanged"),
        settled.count("dirs_listed")
    );
    assert_eq!(job.jobs()[0]["directories"], settled.count("dirs_listed"));
}

fn a_dry_run_leaves_the_state_alone(engine: &str) {
    let job = Remembering::new(&tree(10));
    job.sync(engine, &["--incremental", "-n"]).exits(0);
    assert!(!job.state.exists());
    for _ in 0..2 {
        job.sync(engine, &["--incremental"]).exits(0);
    }
    let (before, told) = (fs::read(job.database()).unwrap(), job.jobs());
    fs::write(job.pair.src.join("dirs/1/1/0"), "other").unwrap();
    let dry = job.sync(engine, &["--incremental", "-n"]);
    assert_eq!(dry.exits(0).count("files_copied"), 1);
    assert!(dry.count("dirs_unchanged") > 10);
    assert_eq!(job.jobs(), told);
    assert!(
        fs::read(job.database()).unwrap() == before,
        "the database is another one"
    );
}

fn killed_runs_are_resumed(engine: &str) {
    let mut tree = Tree::new();
    for dir in 0..400 {
        for file in 0..20 {
            tree.file(format!("{dir}/{file}"), "contents");
        }
    }
    let job = Remembering::new(&tree);
    thread::sleep(Duration::from_millis(120));
    let state = job.state.to_str().unwrap();
    // Slow enough to be killed in the midst, and long after the first rows were committed.
    let options = ["--resume", "--state", state, "--ops-limit", "12000"];
    let args = sync_args(engine, &options, &job.pair.src, &job.pair.dst);
    let running = Running::start(command(support::BINARY, &args));
    thread::sleep(Duration::from_millis(3500));
    running.signal(Signal::SIGKILL);
    running.wait();
    assert_eq!(job.jobs()[0]["last_run"]["ending"], "open");
    let copied = snapshot(&job.pair.dst).len() as u64;
    let resumed = job.sync(engine, &["--resume"]);
    resumed.exits(0);
    let passed_over = resumed.count("dirs_unchanged");
    assert!(
        passed_over > 0,
        "{copied} entries were there: {}",
        resumed.describe()
    );
    assert_equal_trees(&job.pair.src, &job.pair.dst);
    // That run came to its end, so the next one compares everything.
    assert_eq!(job.sync(engine, &["--resume"]).count("dirs_unchanged"), 0);
}

#[test]
fn a_file_changed_where_it_is_is_seen_when_everything_is_compared() {
    let job = Remembering::new(&tree(10));
    for _ in 0..2 {
        job.sync("auto", &["--incremental"]).exits(0);
    }
    let copy = job.pair.dst.join("dirs/1/1/0");
    let file = File::options().write(true).open(&copy).unwrap();
    file.set_len(3).unwrap();
    file.set_modified(SystemTime::now()).unwrap();
    job.sync("auto", &["--incremental"]).exits(0);
    assert_eq!(fs::metadata(&copy).unwrap().len(), 3, "as the help says");
    let verified = job.sync("auto", &["--incremental=verify-meta"]);
    assert_eq!(verified.exits(0).count("dirs_unchanged"), 0);
    assert_equal_trees(&job.pair.src, &job.pair.dst);
}

#[test]
fn other_options_and_other_rules_make_another_job() {
    let job = Remembering::new(&tree(10));
    let rules = job.pair.scratch.path().join("rules");
    fs::write(&rules, "*.o\n").unwrap();
    let from = format!("--exclude-from={}", rules.to_str().unwrap());
    let option_sets: [&[&str]; 5] = [&[], &["--delete"], &["-X"], &["--exclude=x"], &[&from]];
    for (at, options) in option_sets.iter().enumerate() {
        let options = [&["--incremental"], *options].concat();
        job.sync("auto", &options).exits(0);
        assert_eq!(job.jobs().len(), at + 1, "{options:?}");
        job.sync("auto", &options).exits(0);
        assert_eq!(job.jobs().len(), at + 1, "{options:?}");
    }
    // What a file of rules says counts, not its name.
    fs::write(&rules, "*.tmp\n").unwrap();
    job.sync("auto", &["--incremental", &from]).exits(0);
    assert_eq!(job.jobs().len(), 6);
}

#[test]
fn merge_files_that_change_are_obeyed_below_them_too() {
    let mut tree = Tree::new();
    tree.file("rules", "- *.o\n");
    tree.file("deep/down/a.o", "object");
    tree.file("deep/down/a.c", "source");
    let job = Remembering::new(&tree);
    let options = ["--incremental", "--filter", ": rules"];
    for _ in 0..3 {
        job.sync("auto", &options).exits(0);
    }
    assert!(!job.pair.dst.join("deep/down/a.o").exists());
    fs::write(job.pair.src.join("rules"), "- *.c\n").unwrap();
    job.sync("auto", &options).exits(0);
    assert!(job.pair.dst.join("deep/down/a.o").exists());
}

#[test]
fn two_runs_of_one_job_are_kept_apart() {
    let mut tree = Tree::new();
    for file in 0..2000 {
        tree.file(format!("{file}"), "contents");
    }
    let job = Remembering::new(&tree);
    let state = job.state.to_str().unwrap();
    let options = ["--incremental", "--state", state, "--ops-limit", "300"];
    let args = sync_args("auto", &options, &job.pair.src, &job.pair.dst);
    let running = Running::start(command(support::BINARY, &args));
    thread::sleep(Duration::from_secs(1));
    let pid = running.pid().to_string();
    let second = job.sync("auto", &["--incremental"]);
    second
        .exits(11)
        .complains_of(&["another run of this job", &pid]);
    // A job of its own is not in the way.
    job.sync("auto", &["--incremental", "--delete"]).exits(0);
    let listed = ringsync(&["jobs", "--state", state]);
    assert!(
        listed.exits(0).out().contains("under way"),
        "{}",
        listed.describe()
    );
    running.signal(Signal::SIGINT);
    running.wait();
    job.sync("auto", &["--incremental"]).exits(0);
    assert_equal_trees(&job.pair.src, &job.pair.dst);
}

#[test]
fn a_damaged_state_is_refused_and_made_anew() {
    let job = Remembering::new(&tree(10));
    job.sync("auto", &["--incremental"]).exits(0);
    let database = job.database();
    let id = database.file_stem().unwrap().to_str().unwrap().to_owned();
    fs::write(&database, "not a database at all").unwrap();
    let refused = job.sync("auto", &["--incremental"]);
    refused.exits(11).complains_of(&[&id, "jobs forget"]);
    assert!(job.jobs()[0]["error"].is_string());
    let forget = [
        "jobs",
        "forget",
        &id,
        "--state",
        job.state.to_str().unwrap(),
    ];
    ringsync(&forget).exits(0);
    assert!(job.jobs().is_empty());
    ringsync(&forget).exits(1).complains_of(&["no job"]);
    job.sync("auto", &["--incremental"]).exits(0);
    let whole = job.sync("auto", &["--incremental"]);
    assert!(whole.count("dirs_unchanged") > 0);
}

#[test]
fn what_does_not_go_together_is_refused_in_words() {
    let job = Remembering::new(&tree(1));
    for (options, word) in [
        (&["--incremental", "--delete-after"][..], "--delete-after"),
        (&["--incremental", "-I"], "--ignore-times"),
        (&["--resume", "--no-times"], "--no-times"),
        (&["--incremental=verify-meta", "--resume"], "verify-meta"),
        (&[], "--incremental, --resume or --since last"),
        (&["--since", "@1"], "--state"),
        (&["--since", "last", "--incremental"], "leave --since out"),
        (&["--since", "last", "--resume"], "leave --since out"),
        (&["--since", "last", "--delete"], "--delete"),
        (&["--since", "last", "--delete-after"], "--delete"),
        (&["--since", "last", "-I"], "--ignore-times"),
        (&["--since", "last", "-F"], "merge files"),
        (&["--resume", "--partial", "-S"], "--sparse"),
        (
            &["--resume", "--partial", "--inplace"],
            "--write-mode atomic",
        ),
        (&["--since", "last", "--partial"], "--partial"),
        (&["--since", "soon"], "'soon' is not a time"),
        (&["--since", "2 days"], "yet to come"),
    ] {
        job.sync("auto", options).exits(1).complains_of(&[word]);
    }
    assert!(!job.state.exists());
}

fn since_the_last_success_only_what_changed_is_compared(engine: &str) {
    let job = Remembering::new(&tree(20));
    let (src, dst) = (&job.pair.src, &job.pair.dst);
    let old = job.pair.scratch.dir("old");
    fs::create_dir(old.join("sub")).unwrap();
    fs::write(old.join("sub/file"), "old").unwrap();
    thread::sleep(SINCE_MARGIN);
    let options = ["--since", "last"];
    let first = job.sync(engine, &options);
    assert_eq!(first.exits(0).count("dirs_unchanged"), 0);
    assert_equal_trees(src, dst);
    assert_eq!(job.jobs()[0]["directories"], 0);
    let dry = job.sync(engine, &["--since", "last", "-n"]);
    let second = job.sync(engine, &options);
    let dirs = second.exits(0).count("dirs_listed");
    // But the root, which is always looked at.
    assert_eq!(second.count("dirs_unchanged"), dirs - 1);
    assert_eq!(dry.count("dirs_unchanged"), dirs - 1);
    assert_eq!(job.jobs()[0]["runs"], 2);

    // Two changes, one of which cannot be carried over: they stay due until they are.
    fs::rename(&old, src.join("dirs/new")).unwrap();
    fs::write(src.join("dirs/1/1/0"), "other").unwrap();
    fs::remove_file(dst.join("dirs/1/1/0")).unwrap();
    fs::create_dir_all(dst.join("dirs/1/1/0/in the way")).unwrap();
    thread::sleep(SINCE_MARGIN);
    let failed = job.sync(engine, &options);
    assert!(failed.exits(23).count("dirs_unchanged") > 10);
    assert_eq!(fs::read(dst.join("dirs/new/sub/file")).unwrap(), b"old");
    fs::remove_dir_all(dst.join("dirs/1/1/0")).unwrap();
    let repaired = job.sync(engine, &options);
    assert_eq!(repaired.exits(0).count("files_copied"), 1);
    assert_equal_trees(src, dst);
    let settled = job.sync(engine, &options);
    let listed = settled.exits(0).count("dirs_listed");
    assert_eq!(settled.count("dirs_unchanged"), listed - 1);
    // As when another disk is mounted there.
    fs::remove_dir_all(dst).unwrap();
    job.sync(engine, &options).exits(0);
    assert_equal_trees(src, dst);
}

fn since_a_time_only_what_changed_later_is_compared(engine: &str) {
    let job = Remembering::new(&tree(20));
    let (src, dst) = (&job.pair.src, &job.pair.dst);
    job.pair.sync(engine, &["--since", "2 days ago"]).exits(0);
    assert_equal_trees(src, dst);
    thread::sleep(SINCE_MARGIN);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = format!("@{}", now.as_secs());
    fs::write(src.join("dirs/1/1/0"), "other").unwrap();
    // Which it does not look at, but for directories that are missing.
    fs::write(dst.join("dirs/2/2/0"), "changed here").unwrap();
    fs::remove_dir_all(dst.join("dirs/3/3")).unwrap();
    let seen = job.pair.sync(engine, &["--since", &now, "--json"]);
    seen.exits(23).complains_of(&["dirs/3/3"]);
    assert_eq!(seen.count("files_copied"), 1);
    assert_eq!(fs::read(dst.join("dirs/2/2/0")).unwrap(), b"changed here");
    job.pair.sync(engine, &[]).exits(0);
    assert_equal_trees(src, dst);
}

#[test]
fn a_run_that_was_killed_while_it_made_the_state_is_no_obstacle() {
    let job = Remembering::new(&tree(1));
    job.sync("auto", &["--incremental"]).exits(0);
    // As far as it had got, under the name that the state has until it is one.
    let database = job.database();
    fs::remove_file(&database).unwrap();
    fs::write(database.with_extension("new"), vec![0; 100_000]).unwrap();
    job.sync("auto", &["--incremental", "-n"]).exits(0);
    job.sync("auto", &["--incremental"]).exits(0);
    assert_eq!(job.jobs()[0]["last_run"]["ending"], "complete");
    assert!(!database.with_extension("new").exists());
}

#[test]
fn the_state_is_nobody_elses_business() {
    let job = Remembering::new(&tree(1));
    job.sync("auto", &["--incremental"]).exits(0);
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&job.state), 0o700);
    assert_eq!(mode(&job.database()), 0o600);
}
