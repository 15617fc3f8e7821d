//! Every operation of a sync fails once, with every kind of error, on a simulated filesystem. Whatever happens: nothing
//! is lost, nothing is half-written, the failure is told, and the next run repairs everything.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/simfs.rs"]
mod simfs;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use ringsync::error::{Class, Error, OpKind, Side};
use ringsync::io::{EngineChoice, Fs, Op, Pending};
use ringsync::model::{Item, Kind, Policy, Sink};
use ringsync::report::{ErrorCounts, summary};
use ringsync::run::{Delete, Job, Outcome, Roots, Run, Task, limits};
use simfs::{Fault, SimFs};

/// Errors that end an entry, the run, or nothing at all.
const ERRNOS: [Errno; 5] = [
    Errno::EIO,
    Errno::EACCES,
    Errno::ENOSPC,
    Errno::ENOENT,
    Errno::ESTALE,
];

#[derive(Default)]
struct Collect(Mutex<Vec<Error>>);

impl Sink for Collect {
    fn error(&self, error: Error) {
        self.0.lock().unwrap().push(error);
    }

    fn item(&self, _item: Item) {}

    fn wants_items(&self) -> bool {
        true
    }
}

struct Ended {
    outcome: Outcome,
    errors: Vec<Error>,
    exit_code: u8,
}

fn job(delete: Delete) -> Job {
    // One shard: the order of operations is the same in every run.
    let cpus = limits::allowed_cpus()[..1].to_vec();
    let (source, dest) = (PathBuf::from("source"), PathBuf::from("dest"));
    Job {
        delete,
        engine: EngineChoice::Inline,
        io_depth: 16,
        ..Job::archive(Task::Sync, source, Some(dest), cpus)
    }
}

fn sync(source: &SimFs, dest: &SimFs, delete: Delete) -> Ended {
    sync_with(source, dest, job(delete))
}

fn sync_with(source: &SimFs, dest: &SimFs, job: Job) -> Ended {
    let (source_fs, dest_fs) = (source.clone(), dest.clone());
    let roots = Roots {
        source: source.root(),
        dest: Some(dest.root()),
        dest_identity: Some(dest.root_identity()),
        fs: Arc::new(move || Ok((source_fs.mount(), dest_fs.mount()))),
    };
    let run = Run::with_roots(job, roots);
    let collect = Arc::new(Collect::default());
    let sink: Arc<dyn Sink> = collect.clone();
    let outcome = run.execute(&sink).unwrap();
    let errors = collect.0.lock().unwrap().clone();
    let count = |class| errors.iter().filter(|error| error.class() == class).count() as u64;
    let counts = ErrorCounts {
        warnings: count(Class::Warning),
        vanished: count(Class::Vanished),
        entry: count(Class::Entry),
        fatal: count(Class::Fatal),
        unprinted: 0,
    };
    Ended {
        exit_code: summary::exit_code(Task::Sync, &outcome, &counts),
        outcome,
        errors,
    }
}

/// Both sides differ in every way that a sync has to deal with.
fn trees() -> (SimFs, SimFs) {
    let (source, dest) = (SimFs::new(1), SimFs::new(2));
    source.add("same", Kind::File, 0o644, 10, b"same");
    dest.add("same", Kind::File, 0o644, 10, b"same");
    source.add("changed", Kind::File, 0o644, 20, b"new contents");
    dest.add("changed", Kind::File, 0o644, 10, b"old");
    source.add("mode", Kind::File, 0o600, 10, b"m");
    dest.add("mode", Kind::File, 0o644, 10, b"m");
    dest.add("extra", Kind::File, 0o644, 10, b"extra");
    source.add("link", Kind::Symlink, 0o777, 10, b"elsewhere");
    dest.add("link", Kind::Symlink, 0o777, 10, b"otherwise");
    source.add("fifo", Kind::Fifo, 0o640, 10, b"");
    source.add("dir", Kind::Dir, 0o750, 30, b"");
    dest.add("dir", Kind::Dir, 0o755, 10, b"");
    source.add("dir/inner", Kind::File, 0o644, 10, b"inner");
    dest.add("dir/inner", Kind::File, 0o644, 10, b"inner");
    source.add("dir/fresh", Kind::File, 0o644, 10, b"fresh");
    dest.add("dir/extra", Kind::File, 0o644, 10, b"extra");
    source.add("newdir", Kind::Dir, 0o711, 30, b"");
    source.add("newdir/file", Kind::File, 0o644, 10, b"file");
    source.add("newdir/deep", Kind::Dir, 0o755, 30, b"");
    dest.add("gone", Kind::Dir, 0o755, 10, b"");
    dest.add("gone/file", Kind::File, 0o644, 10, b"gone");
    dest.add("gone/deep", Kind::Dir, 0o755, 10, b"");
    source.add("kind", Kind::File, 0o644, 10, b"now a file");
    dest.add("kind", Kind::Dir, 0o755, 10, b"");
    dest.add("kind/file", Kind::File, 0o644, 10, b"was a directory");
    (source, dest)
}

fn assert_equal(source: &SimFs, dest: &SimFs, context: &str) {
    let (source, dest) = (source.seen(), dest.seen());
    assert_eq!(source, dest, "{context}");
}

/// What must hold after any run with one failure.
fn assert_safe(source: &SimFs, before: &SimFs, after: &SimFs, ended: &Ended, context: &str) {
    let (source, before, after) = (source.seen(), before.seen(), after.seen());
    for (path, entry) in &after {
        if entry.kind != Kind::File {
            continue;
        }
        let name = path.rsplit('/').next().unwrap();
        assert!(
            !name.contains(".rs-") || !ended.errors.is_empty(),
            "{context}: stray {path}"
        );
        let whole = [source.get(path), before.get(path)];
        let is_whole = whole
            .iter()
            .flatten()
            .any(|entry_of| entry_of.data == entry.data);
        assert!(
            is_whole || name.contains(".rs-"),
            "{context}: {path} is half-written"
        );
    }
    for (path, entry) in &before {
        let in_both = source
            .get(path)
            .is_some_and(|other| other.kind == entry.kind);
        assert!(
            !in_both || after.contains_key(path),
            "{context}: {path} was lost"
        );
    }
}

/// Nothing is deleted where the source could not be listed.
fn assert_kept_where_listing_failed(after: &SimFs, ended: &Ended, context: &str) {
    let after = after.seen();
    let listing_failed = |dir: &str| {
        ended.errors.iter().any(|error| {
            let path = std::str::from_utf8(&error.path).unwrap();
            let lists = matches!(error.op, OpKind::ReadDir | OpKind::OpenDir);
            lists && error.side == Side::Source && path == dir
        })
    };
    for (dir, extra) in [("", "extra"), ("dir", "dir/extra")] {
        if listing_failed(dir) {
            assert!(
                after.contains_key(extra),
                "{context}: {extra} was deleted after a failed listing"
            );
        }
    }
}

#[test]
fn without_faults_the_trees_become_equal_and_stay_untouched() {
    for delete in [Delete::During, Delete::After] {
        let (source, dest) = trees();
        let first = sync(&source, &dest, delete);
        assert_eq!(
            (first.exit_code, first.errors.len()),
            (0, 0),
            "{:?}",
            first.errors
        );
        assert_equal(&source, &dest, "after the first run");
        let second = sync(&source, &dest, delete);
        assert_eq!(second.exit_code, 0);
        let totals = second.outcome.totals;
        let changes = totals.files_copied
            + totals.entries_repaired
            + totals.entries_deleted
            + totals.dirs_made;
        assert_eq!(changes, 0, "{totals:?}");
    }
}

#[test]
fn contents_that_differ_beyond_a_short_read_are_seen() {
    let (source, dest) = (SimFs::new(1), SimFs::new(2));
    source.add("file", Kind::File, 0o644, 10, b"equal at first, then A");
    dest.add("file", Kind::File, 0o644, 10, b"equal at first, then B");
    let policy = Policy {
        compare_contents: true,
        ..Policy::archive()
    };
    let ended = sync_with(
        &source,
        &dest,
        Job {
            policy,
            ..job(Delete::Never)
        },
    );
    assert_eq!((ended.exit_code, ended.outcome.totals.files_copied), (0, 1));
    assert_equal(&source, &dest, "compared by contents");
}

/// Failures of one side, one after another until the run has no more operations.
fn every_operation_fails_once(faulty: Side, delete: Delete) {
    let (source, dest) = trees();
    for errno in ERRNOS {
        for at in 0.. {
            assert!(at < 1000, "a small sync does not need so many operations");
            let (source, dest, before) = (source.fork(), dest.fork(), dest.fork());
            let side = match faulty {
                Side::Source => &source,
                Side::Destination => &dest,
            };
            side.set_fault(Some(Fault { at, errno }));
            let ended = sync(&source, &dest, delete);
            let Some((kind, name)) = side.failed() else {
                assert_equal(&source, &dest, "a run that met no fault");
                break;
            };
            let context = format!(
                "{faulty:?} {kind:?} {name:?} fails with {errno:?} (operation {at}, {delete:?})"
            );
            assert_safe(&source, &before, &dest, &ended, &context);
            if delete == Delete::During {
                // The second pass of the other mode has a complete listing of its own.
                assert_kept_where_listing_failed(&dest, &ended, &context);
            }
            side.set_fault(None);
            // An unlink that says "not there" says that its work is done; nobody looks again.
            let believed = (kind, errno) == (OpKind::Unlink, Errno::ENOENT);
            let told = ended.exit_code != 0 || believed;
            let equal = source.seen() == dest.seen();
            assert!(equal || told, "{context}: not told\n{:#?}", ended.errors);
            let repaired = sync(&source, &dest, delete);
            assert_eq!(repaired.exit_code, 0, "{context}: {:?}", repaired.errors);
            assert_equal(&source, &dest, &context);
        }
    }
}

#[test]
fn every_source_operation_may_fail() {
    every_operation_fails_once(Side::Source, Delete::During);
}

#[test]
fn every_destination_operation_may_fail() {
    every_operation_fails_once(Side::Destination, Delete::During);
}

#[test]
fn every_operation_may_fail_with_deletion_at_the_end() {
    every_operation_fails_once(Side::Source, Delete::After);
    every_operation_fails_once(Side::Destination, Delete::After);
}

#[test]
fn a_full_destination_ends_the_run_early() {
    let (source, dest) = trees();
    let mut fatal = 0;
    for at in 0..200 {
        let dest = dest.fork();
        let errno = Errno::ENOSPC;
        dest.set_fault(Some(Fault { at, errno }));
        let ended = sync(&source.fork(), &dest, Delete::During);
        let write = matches!(
            dest.failed(),
            Some((OpKind::Create | OpKind::Write | OpKind::MakeDir, _))
        );
        if write {
            assert_eq!(ended.exit_code, summary::exit::FILE_IO);
            fatal += 1;
        }
    }
    assert!(fatal >= 5, "the tree has more writes than {fatal}");
}

/// A source that is not written as it should be: the engine must survive its own bugs in good order.
struct Panics(Rc<dyn Fs>);

impl Fs for Panics {
    fn start(&self, op: Op) -> Pending {
        if let Op::OpenDir { name, .. } = &op {
            assert_ne!(name.as_c_str(), c"newdir", "injected");
        }
        self.0.start(op)
    }

    fn is_slow(&self, dev: u64) -> bool {
        self.0.is_slow(dev)
    }
}

#[test]
fn a_shard_that_panics_ends_the_run_and_hangs_nobody() {
    let (source, dest) = trees();
    let (source_fs, dest_fs) = (source.clone(), dest.clone());
    let roots = Roots {
        source: source.root(),
        dest: Some(dest.root()),
        dest_identity: Some(dest.root_identity()),
        fs: Arc::new(move || Ok((Rc::new(Panics(source_fs.mount())), dest_fs.mount()))),
    };
    let job = Job {
        cpus: limits::allowed_cpus().into_iter().take(4).collect(),
        ..job(Delete::During)
    };
    let sink: Arc<dyn Sink> = Arc::new(Collect::default());
    let error = Run::with_roots(job, roots).execute(&sink).unwrap_err();
    assert!(error.to_string().contains("a shard was lost"), "{error}");
}
