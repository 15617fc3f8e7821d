//! Runs that are cut short, and the temporary files they may or may not leave behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

#[allow(dead_code)]
#[path = "support/simfs.rs"]
mod simfs;
mod support;

use nix::sys::signal::Signal;
use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::rc::Rc;
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use ringsync::error::{Error, OpKind, Side};
use ringsync::io::{EngineChoice, Fs, Op, Pending};
use ringsync::model::{Item, Kind, Sink};
use ringsync::report::{ErrorCounts, summary};
use ringsync::run::watchdog::{WatchLimits, Watchdog};
use ringsync::run::{Delete, Job, Roots, Run, Task, limits};
use ringsync::throttle::Cancel;
use simfs::{Seen, World};
use support::image::Image;
use support::snap::{assert_equal_trees, snapshot, temporaries};
use support::tree::{LONG_AGO, Tree, set_mtime, write_noise};
use support::{
    Outcome, Pair, Running, command, is_temporary, killed_by, skip, sync_args, under_each_engine,
};

under_each_engine!(
    killed_while_copying_then_run_again,
    killed_while_writing_directly_then_run_again,
    interrupted_drains_and_leaves_no_temporary_files,
    temporary_files_of_a_killed_run_are_removed,
    lookalikes_of_temporary_files_stay,
    source_files_named_like_temporary_files_are_copied,
    interrupted_in_a_large_file,
    interrupted_in_a_giant_directory,
    interrupted_while_deleting,
    interrupted_while_deleting_a_giant_directory,
    second_signal_forces_and_the_next_run_repairs,
    stop_after_ends_in_good_order,
    frozen_filesystem_is_given_up_and_named,
    frozen_filesystem_keeps_an_interrupted_run_that_says_so,
    output_that_nobody_reads_is_given_up,
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

// ---- Drained wherever it is ----

/// Starts a sync and sends signals as soon as `ready()`; `reset()` makes it as it was before. Repeats until the run was
/// caught: it ended with 20.
fn interrupt(
    pair: &Pair,
    args: &[&str],
    signals: &[Signal],
    reset: impl Fn(),
    ready: impl Fn() -> bool,
) -> Outcome {
    let [src, dst] = [&pair.src, &pair.dst].map(|path| path.to_str().unwrap());
    for _ in 0..ATTEMPTS_MAX {
        reset();
        let mut running = Running::start(command(support::BINARY, &[args, &[src, dst]].concat()));
        while !running.has_ended() {
            if ready() {
                for signal in signals {
                    running.signal(*signal);
                }
                break;
            }
            thread::yield_now();
        }
        let outcome = running.wait();
        match outcome.code() {
            Some(20) => return outcome,
            Some(0) => {}
            _ => panic!("{}", outcome.describe()),
        }
    }
    panic!("{ATTEMPTS_MAX} runs ended before they could be caught");
}

fn empty(dir: &Path) {
    fs::remove_dir_all(dir).unwrap();
    fs::create_dir(dir).unwrap();
}

/// A signal that was drained is told, and leaves no temporary file.
fn assert_drained(outcome: &Outcome, pair: &Pair) {
    assert!(
        outcome.out().contains("interrupted"),
        "{}",
        outcome.describe()
    );
    assert_eq!(outcome.err(), "", "{}", outcome.describe());
    assert_eq!(temporaries(&pair.dst), Vec::<String>::new());
    assert_finished_files_are_whole(pair);
}

fn interrupted_in_a_large_file(engine: &str) {
    let pair = Pair::new();
    write_noise(&pair.src.join("large"), 512 << 20, 1);
    for (signal, mode) in [(Signal::SIGINT, "atomic"), (Signal::SIGHUP, "direct")] {
        let args = ["sync", "--io-engine", engine, "--write-mode", mode];
        let begun = || !top_names(&pair.dst).is_empty();
        let outcome = interrupt(&pair, &args, &[signal], || empty(&pair.dst), begun);
        assert_drained(&outcome, &pair);
        assert_eq!(top_names(&pair.dst), Vec::<Vec<u8>>::new());
    }
    run_again(engine, &[], &pair);
}

/// More entries than one shard takes.
const GIANT: usize = 70_000;

fn fill(dir: &Path, count: usize) {
    fs::create_dir_all(dir).unwrap();
    for number in 0..count {
        fs::File::create(dir.join(number.to_string())).unwrap();
    }
}

fn interrupted_in_a_giant_directory(engine: &str) {
    let pair = Pair::new();
    fill(&pair.src.join("giant"), GIANT);
    let args = ["sync", "--io-engine", engine, "--delete"];
    let begun = || pair.dst.join("giant").exists();
    let outcome = interrupt(&pair, &args, &[Signal::SIGTERM], || empty(&pair.dst), begun);
    assert_drained(&outcome, &pair);
    assert!(fs::read_dir(pair.dst.join("giant")).unwrap().count() < GIANT);
    run_again(engine, &["--delete"], &pair);
}

fn interrupted_while_deleting(engine: &str) {
    let pair = small();
    for option in ["--delete", "--delete-after"] {
        let args = ["sync", "--io-engine", engine, "--force-delete", option];
        let refill = || {
            // Enough for a signal to arrive in the midst of it, on a machine that is busy too.
            for dir in 0..100 {
                fill(&pair.dst.join(format!("extra {dir}")), 500);
            }
        };
        let extras = || {
            let names = top_names(&pair.dst);
            names
                .iter()
                .filter(|name| name.starts_with(b"extra"))
                .count()
        };
        let begun = || extras() < 100;
        let outcome = interrupt(&pair, &args, &[Signal::SIGINT], refill, begun);
        assert_drained_deletion(&outcome, &pair, extras());
        run_again(engine, &[option, "--force-delete"], &pair);
    }
}

fn interrupted_while_deleting_a_giant_directory(engine: &str) {
    let pair = small();
    let giant = pair.dst.join("giant");
    let left = || fs::read_dir(&giant).map_or(0, Iterator::count);
    for option in ["--delete", "--delete-after"] {
        let args = ["sync", "--io-engine", engine, option];
        let begun = || !giant.join("0").exists() || !giant.join("69999").exists();
        let refill = || fill(&giant, GIANT);
        let outcome = interrupt(&pair, &args, &[Signal::SIGINT], refill, begun);
        assert_drained_deletion(&outcome, &pair, left());
        run_again(engine, &[option], &pair);
    }
}

/// Only what the source lacks has gone, and not all of it.
fn assert_drained_deletion(outcome: &Outcome, pair: &Pair, left: usize) {
    assert!(
        outcome.out().contains("interrupted"),
        "{}",
        outcome.describe()
    );
    assert_eq!(outcome.err(), "", "{}", outcome.describe());
    assert!(left > 0, "{}", outcome.describe());
    for path in snapshot(&pair.src).keys() {
        let path = pair.dst.join(std::str::from_utf8(path).unwrap());
        assert!(path.exists(), "{} is gone", path.display());
    }
}

fn second_signal_forces_and_the_next_run_repairs(engine: &str) {
    let pair = long_work();
    for mode in ["atomic", "direct"] {
        let args = ["sync", "--io-engine", engine, "--write-mode", mode];
        let begun = || {
            top_names(&pair.dst)
                .iter()
                .any(|name| name.starts_with(b".large") || name.starts_with(b"large"))
        };
        // Two of a kind could become one on their way.
        let signals = [Signal::SIGINT, Signal::SIGTERM];
        let outcome = interrupt(&pair, &args, &signals, || empty(&pair.dst), begun);
        assert_eq!(outcome.out(), "", "the second signal ends it at once");
        if mode == "atomic" {
            assert_finished_files_are_whole(&pair);
        }
        run_again(engine, &["--write-mode", mode], &pair);
    }
}

/// `nohup ringsync ... &`, and the terminal is closed.
#[test]
fn a_hangup_that_is_ignored_does_not_interrupt() {
    if !support::command_exists("nohup") {
        return skip("nohup is not installed");
    }
    let pair = long_work();
    let args = sync_args("auto", &[], &pair.src, &pair.dst);
    let args = [&[support::BINARY.into()], &args[..]].concat();
    let mut running = Running::start(command("nohup", &args));
    while !running.has_ended() && top_names(&pair.dst).is_empty() {
        thread::yield_now();
    }
    running.signal(Signal::SIGHUP);
    running.signal(Signal::SIGHUP);
    running.wait().exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
}

// ---- Limits of time ----

fn stop_after_ends_in_good_order(engine: &str) {
    let pair = long_work();
    // A fraction of a second: whatever was done by then stays, and the same command continues. A run may be faster.
    let stopped = [0.003, 0.002, 0.001, 0.0005, 0.0002]
        .into_iter()
        .map(|minutes: f64| {
            empty(&pair.dst);
            pair.sync(engine, &["--stop-after", &minutes.to_string()])
        })
        .find(|outcome| outcome.code() != Some(0))
        .expect("no run was stopped");
    stopped.exits(30);
    assert!(
        stopped.out().contains("--stop-after"),
        "{}",
        stopped.describe()
    );
    assert_eq!(temporaries(&pair.dst), Vec::<String>::new());
    assert_finished_files_are_whole(&pair);
    run_again(engine, &["--stop-after=1000", "--timeout=1000"], &pair);
}

#[test]
fn limits_out_of_range_are_refused() {
    let pair = small();
    for (option, allowed) in [
        ("--stop-after=0", "minutes above 0"),
        ("--stop-after=-1", "minutes above 0"),
        ("--stop-after=nan", "minutes above 0"),
        ("--stop-after=inf", "minutes above 0"),
        ("--time-limit=0", "minutes above 0"),
        ("--timeout=-1", "0 waits for ever"),
        ("--timeout=nan", "0 waits for ever"),
        ("--timeout=1e300", "0 waits for ever"),
    ] {
        pair.sync("auto", &[option])
            .exits(1)
            .complains_of(&[allowed]);
    }
    pair.sync("auto", &["--timeout=0"]).exits(0);
}

/// A filesystem that stops answering until it is dropped: threads wait in the kernel and cannot be woken, as with a network
/// filesystem whose server is gone.
struct Frozen<'a>(&'a Image);

impl<'a> Frozen<'a> {
    /// `None` where that cannot be done, which is told.
    fn new(image: &'a Image) -> Option<Self> {
        if support::command_exists("fsfreeze") && fsfreeze("--freeze", image) {
            return Some(Self(image));
        }
        skip("filesystems cannot be frozen here");
        None
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        assert!(fsfreeze("--unfreeze", self.0));
    }
}

fn fsfreeze(option: &str, image: &Image) -> bool {
    let args = [option.as_ref(), image.path().as_os_str()];
    support::run(command("fsfreeze", &args)).code() == Some(0)
}

/// Runs a sync to a frozen filesystem until `listen` has heard enough of its messages. Returns what that has heard and, when the
/// filesystem goes on, the other messages and how the run ended; the next run then completes.
fn sync_frozen(
    engine: &str,
    options: &[&str],
    listen: impl FnOnce(&Child, &mut dyn Iterator<Item = String>) -> Vec<String>,
) -> Option<(Vec<String>, Vec<String>, Option<i32>)> {
    let image = Image::sized("ext4", 64)?;
    let pair = small();
    let dst = image.dir("dst");
    let frozen = Frozen::new(&image)?;
    let args = sync_args(engine, options, &pair.src, &dst);
    let mut child = command(support::BINARY, &args).spawn().unwrap();
    let messages = BufReader::new(child.stderr.take().unwrap());
    let mut messages = messages.lines().map(Result::unwrap);
    let heard = listen(&child, &mut messages);
    drop(frozen);
    let code = child.wait().unwrap().code();
    support::sync(engine, &["--timeout", "60"], &pair.src, &dst).exits(0);
    assert_equal_trees(&pair.src, &dst);
    Some((heard, messages.collect(), code))
}

fn frozen_filesystem_is_given_up_and_named(engine: &str) {
    // The process ends only when the kernel lets go of its threads; but it tells before.
    let outcome = sync_frozen(engine, &["--timeout", "1"], |_, messages| {
        messages
            .take_while(|line| !line.starts_with("  "))
            .collect()
    });
    let Some((heard, _, code)) = outcome else {
        return;
    };
    assert_eq!(code, Some(30), "{heard:?}");
    assert!(heard[0].contains("gave up"), "{heard:?}");
}

fn frozen_filesystem_keeps_an_interrupted_run_that_says_so(engine: &str) {
    // What it says of metrics comes when it has begun to catch signals.
    let options = ["--metrics-listen", "127.0.0.1:0"];
    let outcome = sync_frozen(engine, &options, |child, messages| {
        let first = messages.next().unwrap();
        assert!(first.contains("metrics at"), "{first}");
        let pid = nix::unistd::Pid::from_raw(child.id().cast_signed());
        nix::sys::signal::kill(pid, Signal::SIGINT).unwrap();
        messages.take(1).collect()
    });
    let Some((heard, others, code)) = outcome else {
        return;
    };
    assert!(heard[0].contains("^C again ends at once"), "{heard:?}");
    assert_eq!(others, Vec::<String>::new(), "it is told once");
    assert_eq!(code, Some(20));
}

/// Messages wait for their reader, but not for ever when a limit was given.
fn output_that_nobody_reads_is_given_up(engine: &str) {
    let pair = Pair::new();
    // More lines than a pipe and the reporter hold together.
    for dir in 0..20 {
        fill(
            &pair.src.join(format!("a directory with a long name {dir}")),
            500,
        );
    }
    let args = sync_args(engine, &["-v", "--timeout", "1"], &pair.src, &pair.dst);
    let mut child = command(support::BINARY, &args).spawn().unwrap();
    let status = child.wait().unwrap();
    let mut told = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut told)
        .unwrap();
    assert_eq!(status.code(), Some(30), "{told}");
    assert!(told.contains("somebody to read the output"), "{told}");
    run_again(engine, &["--timeout", "60"], &pair);
}

/// `ringsync ... 2>&1 | head`, or a terminal that was closed: there is nobody to tell, and the work goes on.
#[test]
fn messages_that_nobody_takes_do_not_change_the_outcome() {
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("file", "content");
    tree.file("in the way", "a file");
    tree.write_to(&pair.src);
    fs::create_dir_all(pair.dst.join("in the way/of a file")).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut run = command(
        support::BINARY,
        &sync_args("auto", &["--progress", "plain"], &pair.src, &pair.dst),
    );
    run.stderr(Stdio::from(writer));
    support::run(run).exits(23);
    assert_eq!(fs::read(pair.dst.join("file")).unwrap(), b"content");
}

// ---- The engine as a library, on a filesystem that hangs ----

#[derive(Default)]
struct Quiet(Mutex<Vec<Error>>);

impl Sink for Quiet {
    fn error(&self, error: Error) {
        self.0.lock().unwrap().push(error);
    }

    fn item(&self, _item: Item) {}

    fn wants_items(&self) -> bool {
        false
    }
}

/// What becomes of operations of one kind.
#[derive(Clone)]
enum Hang {
    Never,
    /// Fails when the run is told to end, as a soft mount would at last.
    UntilCancelled(Arc<Mutex<Option<Arc<Cancel>>>>),
    /// Takes its time, again and again.
    Slow(Duration),
}

struct Hanging {
    fs: Rc<dyn Fs>,
    kind: OpKind,
    hang: Hang,
}

impl Fs for Hanging {
    fn start(&self, op: Op) -> Pending {
        let kind = op.kind();
        if kind != self.kind {
            return self.fs.start(op);
        }
        match self.hang.clone() {
            Hang::Never => {
                // An operation that is under way can wake its task; one that cannot would be dropped with the task.
                let mut waker: Option<Waker> = None;
                Pending::Boxed(Box::pin(std::future::poll_fn(move |cx| {
                    waker.replace(cx.waker().clone());
                    Poll::Pending
                })))
            }
            Hang::UntilCancelled(cancel) => Pending::Boxed(Box::pin(async move {
                loop {
                    glommio::timer::sleep(Duration::from_millis(10)).await;
                    if cancel
                        .lock()
                        .unwrap()
                        .as_ref()
                        .is_some_and(|it| it.is_set())
                    {
                        let errno = Errno::ETIMEDOUT;
                        return Err(ringsync::io::OpError { kind, errno });
                    }
                }
            })),
            Hang::Slow(time) => {
                let pending = self.fs.start(op);
                Pending::Boxed(Box::pin(async move {
                    glommio::timer::sleep(time).await;
                    pending.await
                }))
            }
        }
    }

    fn is_slow(&self, dev: u64) -> bool {
        self.fs.is_slow(dev)
    }
}

fn job() -> Job {
    let cpus = limits::allowed_cpus().into_iter().take(2).collect();
    let (source, dest) = (PathBuf::from("source"), PathBuf::from("dest"));
    Job {
        delete: Delete::During,
        engine: EngineChoice::Inline,
        ..Job::archive(Task::Sync, source, Some(dest), cpus)
    }
}

/// How a watched run ended: by itself, with an exit code, or given up with what it waited for.
#[derive(Debug)]
enum Ended {
    ByItself(u8),
    GivenUp(Vec<String>),
}

fn run_watched(world: &World, kind: OpKind, hang: Hang, timeout: f64) -> Ended {
    let of_shards = world.clone();
    let holder = match &hang {
        Hang::UntilCancelled(holder) => Some(holder.clone()),
        _ => None,
    };
    let roots = Roots {
        source: world.root(Side::Source),
        dest: Some(world.root(Side::Destination)),
        dest_identity: Some(World::root_identity(Side::Destination)),
        fs: Arc::new(move |_| {
            let fs = of_shards.mount(Side::Source);
            let hang = hang.clone();
            let dest = of_shards.mount(Side::Destination);
            Ok((Rc::new(Hanging { fs, kind, hang }), dest))
        }),
    };
    let mut run = Run::with_roots(job(), roots);
    if let Some(holder) = holder {
        *holder.lock().unwrap() = Some(run.cancel.clone());
    }
    let limits = WatchLimits {
        stop_after: None,
        timeout: Some(Duration::from_secs_f64(timeout)),
    };
    let (sender, ended) = mpsc::channel();
    let given_up = sender.clone();
    let watchdog = Watchdog::start(
        limits,
        run.cancel.clone(),
        run.watch_operations(),
        || false,
        move |waiting| given_up.send(Ended::GivenUp(waiting)).unwrap(),
    );
    // A run that hangs stays behind in its thread.
    thread::spawn(move || {
        let sink: Arc<dyn Sink> = Arc::new(Quiet::default());
        let outcome = run.execute(&sink).unwrap();
        watchdog.finish();
        let code = summary::exit_code(Task::Sync, &outcome, &ErrorCounts::default());
        sender.send(Ended::ByItself(code)).unwrap();
    });
    ended
        .recv_timeout(Duration::from_secs(60))
        .expect("it hangs")
}

fn two_trees() -> World {
    let world = World::new();
    let dir = Seen::new(Kind::Dir, 0o755, 10, b"");
    world.add(Side::Source, "dir", &dir);
    let file = Seen::new(Kind::File, 0o644, 10, &[b'x'; 400]);
    world.add(Side::Source, "dir/file", &file);
    let extra = Seen::new(Kind::File, 0o644, 10, b"extra");
    world.add(Side::Destination, "extra", &extra);
    world
}

#[test]
fn an_operation_that_never_completes_is_named() {
    let world = two_trees();
    match run_watched(&world, OpKind::Open, Hang::Never, 1.0) {
        Ended::GivenUp(waiting) => {
            assert_eq!(waiting.len(), 1, "{waiting:?}");
            assert!(
                waiting[0].starts_with("open source './file' (since"),
                "{waiting:?}"
            );
        }
        ended @ Ended::ByItself(_) => panic!("{ended:?}"),
    }
}

#[test]
fn an_operation_that_gives_up_at_last_ends_the_run_with_30() {
    let world = two_trees();
    let hang = Hang::UntilCancelled(Arc::default());
    let ended = run_watched(&world, OpKind::ReadDir, hang, 1.0);
    assert!(matches!(ended, Ended::ByItself(30)), "{ended:?}");
    // The listing failed, so nothing was deleted.
    assert!(world.seen(Side::Destination).contains_key("extra"));
}

/// One file that takes several timeouts is no reason to end: each block of it is progress.
#[test]
fn a_large_file_on_a_slow_filesystem_is_progress() {
    let world = two_trees();
    // 81 reads of 40 ms.
    let hang = Hang::Slow(Duration::from_millis(40));
    let ended = run_watched(&world, OpKind::Read, hang, 1.5);
    assert!(matches!(ended, Ended::ByItself(0)), "{ended:?}");
    assert_eq!(world.seen(Side::Source), world.seen(Side::Destination));
}
