//! Every operation of a sync fails once, with every error that it can give, on a simulated filesystem. Whatever happens:
//! nothing is lost, nothing is half-written, the failure is told, and the next run repairs everything.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

#[path = "support/simfs.rs"]
mod simfs;
#[path = "support/simrun.rs"]
mod simrun;

use std::rc::Rc;
use std::sync::Arc;

use nix::errno::Errno;
use ringsync::error::{OpKind, Side};
use ringsync::io::{Fs, Op, Pending};
use ringsync::model::{Kind, Policy, Sink};
use ringsync::report::summary;
use ringsync::run::{Delete, Job, Roots, Run, limits};
use simfs::{Fault, Plan, Seen, Types, World};
use simrun::{Collect, Ended, job, roots, sync};

/// Errors that end an entry, the run, or nothing at all.
const ERRNOS: [Errno; 5] = [
    Errno::EIO,
    Errno::EACCES,
    Errno::ENOSPC,
    Errno::ENOENT,
    Errno::ESTALE,
];

/// Both sides differ in every way that a sync has to deal with.
fn trees() -> World {
    let world = World::new();
    let add = |side, path, kind, mode, mtime, data: &[u8]| {
        world.add(side, path, &Seen::new(kind, mode, mtime, data));
    };
    let (source, dest) = (Side::Source, Side::Destination);
    add(source, "same", Kind::File, 0o644, 10, b"same");
    add(dest, "same", Kind::File, 0o644, 10, b"same");
    add(source, "changed", Kind::File, 0o644, 20, b"new contents");
    add(dest, "changed", Kind::File, 0o644, 10, b"old");
    add(source, "mode", Kind::File, 0o600, 10, b"m");
    add(dest, "mode", Kind::File, 0o644, 10, b"m");
    add(dest, "extra", Kind::File, 0o644, 10, b"extra");
    add(source, "link", Kind::Symlink, 0o777, 10, b"elsewhere");
    add(dest, "link", Kind::Symlink, 0o777, 10, b"otherwise");
    add(source, "fifo", Kind::Fifo, 0o640, 10, b"");
    add(source, "dir", Kind::Dir, 0o750, 30, b"");
    add(dest, "dir", Kind::Dir, 0o755, 10, b"");
    add(source, "dir/inner", Kind::File, 0o644, 10, b"inner");
    add(dest, "dir/inner", Kind::File, 0o644, 10, b"inner");
    add(source, "dir/fresh", Kind::File, 0o644, 10, b"fresh");
    add(dest, "dir/extra", Kind::File, 0o644, 10, b"extra");
    add(source, "newdir", Kind::Dir, 0o711, 30, b"");
    add(source, "newdir/file", Kind::File, 0o644, 10, b"file");
    add(source, "newdir/deep", Kind::Dir, 0o755, 30, b"");
    add(dest, "gone", Kind::Dir, 0o755, 10, b"");
    add(dest, "gone/file", Kind::File, 0o644, 10, b"gone");
    add(dest, "gone/deep", Kind::Dir, 0o755, 10, b"");
    add(source, "kind", Kind::File, 0o644, 10, b"now a file");
    add(dest, "kind", Kind::Dir, 0o755, 10, b"");
    add(dest, "kind/file", Kind::File, 0o644, 10, b"was a directory");
    world
}

fn assert_equal(world: &World, context: &str) {
    let (source, dest) = (world.seen(Side::Source), world.seen(Side::Destination));
    assert_eq!(source, dest, "{context}");
}

/// What must hold after any run with one failure.
fn assert_safe(world: &World, before: &World, ended: &Ended, context: &str) {
    let source = world.seen(Side::Source);
    let (before, after) = (
        before.seen(Side::Destination),
        world.seen(Side::Destination),
    );
    for (path, entry) in &after {
        if entry.kind != Kind::File {
            continue;
        }
        let temporary = simfs::watch::is_temp(path);
        assert!(
            !temporary || !ended.errors.is_empty(),
            "{context}: stray {path}"
        );
        let whole = [source.get(path), before.get(path)];
        let is_whole = whole
            .iter()
            .flatten()
            .any(|entry_of| entry_of.data == entry.data);
        assert!(is_whole || temporary, "{context}: {path} is half-written");
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
    let violations = world.watched().violations;
    assert!(violations.is_empty(), "{context}: {violations:?}");
}

#[test]
fn without_faults_the_trees_become_equal_and_stay_untouched() {
    for delete in [Delete::During, Delete::After] {
        let world = trees();
        let first = sync(&world, job(delete));
        assert_eq!(
            (first.exit_code, first.errors.len()),
            (0, 0),
            "{:?}",
            first.errors
        );
        assert_equal(&world, "after the first run");
        let second = sync(&world, job(delete));
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
    let world = World::new();
    for (side, data) in [
        (Side::Source, b"equal at first, then A"),
        (Side::Destination, b"equal at first, then B"),
    ] {
        world.add(side, "file", &Seen::new(Kind::File, 0o644, 10, data));
    }
    let policy = Policy {
        compare_contents: true,
        ..Policy::archive()
    };
    let ended = sync(
        &world,
        Job {
            policy,
            ..job(Delete::Never)
        },
    );
    assert_eq!((ended.exit_code, ended.outcome.totals.files_copied), (0, 1));
    assert_equal(&world, "compared by contents");
}

/// One failure after another, until the run has no more operations.
fn every_operation_fails_once(errno: Errno, delete: Delete) {
    let before = trees();
    for at in 0.. {
        assert!(at < 1000, "a small sync does not need so many operations");
        let world = before.fork();
        world.set_plan(Plan {
            fault: Some(Fault { at, errno }),
            ..Plan::default()
        });
        let ended = sync(&world, job(delete));
        let Some(injected) = world.watched().injected.pop() else {
            assert_equal(&world, "a run that met no fault");
            assert!(at > 100, "only {at} operations");
            break;
        };
        let context = format!("{injected:?} ({delete:?})");
        assert_safe(&world, &before, &ended, &context);
        // A removal that hears "not there" hears that its work is done; nobody looks again.
        let removes = matches!(
            injected.kind,
            OpKind::Unlink | OpKind::RemoveDir | OpKind::OpenDir
        );
        let believed = removes && (injected.side, errno) == (Side::Destination, Errno::ENOENT);
        let told = ended.exit_code != 0 || believed;
        let equal = world.seen(Side::Source) == world.seen(Side::Destination);
        assert!(equal || told, "{context}: not told\n{:#?}", ended.errors);
        let world = world.fork();
        let repaired = sync(&world, job(delete));
        assert_eq!(repaired.exit_code, 0, "{context}: {:?}", repaired.errors);
        assert_equal(&world, &context);
    }
}

#[test]
fn every_operation_may_fail() {
    for errno in ERRNOS {
        every_operation_fails_once(errno, Delete::During);
    }
}

#[test]
fn every_operation_may_fail_with_deletion_at_the_end() {
    for errno in ERRNOS {
        every_operation_fails_once(errno, Delete::After);
    }
}

#[test]
fn a_full_destination_ends_the_run_early() {
    let before = trees();
    let mut fatal = 0;
    for at in 0..200 {
        let world = before.fork();
        let errno = Errno::ENOSPC;
        world.set_plan(Plan {
            fault: Some(Fault { at, errno }),
            ..Plan::default()
        });
        let ended = sync(&world, job(Delete::During));
        let write = world.watched().injected.iter().any(|injected| {
            let writes = matches!(
                injected.kind,
                OpKind::Create | OpKind::Write | OpKind::MakeDir
            );
            writes && injected.side == Side::Destination
        });
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
    let world = trees();
    let healthy = roots(&world);
    let fs = healthy.fs.clone();
    let roots = Roots {
        fs: Arc::new(move |instruments| {
            let (source, dest) = fs(instruments)?;
            Ok((Rc::new(Panics(source)), dest))
        }),
        ..healthy
    };
    let job = Job {
        cpus: limits::allowed_cpus().into_iter().take(4).collect(),
        ..job(Delete::During)
    };
    let sink: Arc<dyn Sink> = Arc::new(Collect::default());
    let error = Run::with_roots(job, roots).execute(&sink).unwrap_err();
    assert!(error.to_string().contains("a shard was lost"), "{error}");
}

#[test]
fn an_extra_entry_that_cannot_be_statted_is_told() {
    for delete in [Delete::During, Delete::After] {
        let world = World::new();
        let extra = Seen::new(Kind::File, 0o644, 10, b"extra");
        world.add(Side::Destination, "extra", &extra);
        for at in 0.. {
            let world = world.fork();
            world.set_plan(Plan {
                fault: Some(Fault {
                    at,
                    errno: Errno::EIO,
                }),
                types: Types::Unknown,
                ..Plan::default()
            });
            let ended = sync(&world, job(delete));
            let Some(injected) = world.watched().injected.pop() else {
                break;
            };
            assert_eq!(ended.errors.len(), 1, "{injected}: {:?}", ended.errors);
            assert_eq!(ended.exit_code, summary::exit::PARTIAL, "{injected}");
        }
    }
}

#[test]
fn an_extra_directory_that_is_listed_twice_is_no_error() {
    for delete in [Delete::During, Delete::After] {
        let world = World::new();
        let dir = Seen::new(Kind::Dir, 0o755, 10, b"");
        for path in ["extra", "extra/deep", "extra/other"] {
            world.add(Side::Destination, path, &dir);
        }
        world.set_plan(Plan {
            repeats: 1000,
            turns_late_max: 3,
            ..Plan::default()
        });
        let ended = sync(&world, job(delete));
        assert!(ended.errors.is_empty(), "{:?}", ended.errors);
        assert_eq!(world.seen(Side::Destination).len(), 1, "only the root");
        assert_eq!(ended.outcome.totals.entries_deleted, 3);
    }
}

#[test]
fn a_full_directory_in_the_way_that_is_listed_twice_is_no_error() {
    let world = World::new();
    let (file, dir) = (
        Seen::new(Kind::File, 0o644, 10, b"file"),
        Seen::new(Kind::Dir, 0o755, 10, b""),
    );
    world.add(Side::Source, "name", &file);
    for (path, entry) in [
        ("name", &dir),
        ("name/deep", &dir),
        ("name/deep/file", &file),
    ] {
        world.add(Side::Destination, path, entry);
    }
    for types in [Types::Told, Types::Unknown] {
        let world = world.fork();
        world.set_plan(Plan {
            repeats: 1000,
            types,
            ..Plan::default()
        });
        let ended = sync(&world, job(Delete::During));
        assert!(ended.errors.is_empty(), "{:?}", ended.errors);
        assert_equal(&world, "replaced");
    }
}

#[test]
fn a_directory_that_was_opened_up_is_closed_again_without_perms() {
    let world = World::new();
    for side in [Side::Source, Side::Destination] {
        let dir = Seen::new(Kind::Dir, 0o500, 10, b"");
        world.add(side, "dir", &dir);
    }
    let file = Seen::new(Kind::File, 0o644, 10, b"new");
    world.add(Side::Source, "dir/file", &file);
    let policy = Policy {
        carry_mode: false,
        ..Policy::archive()
    };
    let job = Job {
        policy,
        privileged: false,
        ..job(Delete::Never)
    };
    let ended = sync(&world, job);
    assert!(ended.errors.is_empty(), "{:?}", ended.errors);
    let dest = world.seen(Side::Destination);
    assert!(dest.contains_key("dir/file"));
    assert_eq!(dest["dir"].mode, 0o500);
}

#[test]
fn a_directory_that_opens_on_neither_side_is_told_for_both() {
    let world = World::new();
    for side in [Side::Source, Side::Destination] {
        world.add(side, "dir", &Seen::new(Kind::Dir, 0o755, 10, b""));
    }
    world.set_plan(Plan {
        sticky_faults: 1000,
        only: Some(OpKind::OpenDir),
        ..Plan::default()
    });
    let ended = sync(&world, job(Delete::During));
    let sides: Vec<Side> = ended.errors.iter().map(|error| error.side).collect();
    assert_eq!(sides.len(), 2, "{:?}", ended.errors);
    assert!(sides.contains(&Side::Source) && sides.contains(&Side::Destination));
}

#[test]
fn what_a_killed_run_left_goes_also_when_its_time_is_far_ahead() {
    let world = World::new();
    let file = Seen::new(Kind::File, 0o644, 4_000_000_000, b"from the future");
    world.add(Side::Source, "file", &file);
    world.add(Side::Destination, ".file.rs-0a1b2c3d", &file);
    let dir = Seen::new(Kind::Dir, 0o755, 4_000_000_000, b"");
    world.add(Side::Destination, ".dir.rs-0a1b2c3d", &dir);
    let ended = sync(&world, job(Delete::During));
    assert_eq!(ended.exit_code, 0, "{:?}", ended.errors);
    assert_equal(&world, "nothing is left over");
}
