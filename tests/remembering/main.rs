//! `--incremental` in the simulated world: what earlier runs left, in memory, and the traps.
//!
//! A test crate of its own, and so a process of its own under `cargo test`: each executor that ends leaves a descriptor behind in
//! glommio, and these are many runs.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

#[path = "../simulation/drawn.rs"]
mod drawn;
#[path = "../simulation/harness.rs"]
mod harness;
#[path = "../simulation/model.rs"]
mod model;
#[path = "../support/simfs.rs"]
mod simfs;
#[path = "../support/simrun.rs"]
mod simrun;
#[path = "../simulation/trees.rs"]
mod trees;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use ringsync::error::{OpKind, Side};
use ringsync::model::unchanged::{Key, Note, Row, Rows};
use ringsync::model::{Kind, Policy, Time};
use ringsync::run::{Delete, Job};

use drawn::{draw, healthy, left_over, words};
use harness::{Bench, simulate};
use simfs::{Manner, Plan, Seen, World};
use simrun::{Ended, sync_remembering};

/// What a state keeps, and what was asked of it.
#[derive(Default)]
struct Remembered {
    rows: Mutex<BTreeMap<Key, Row>>,
    run: AtomicU32,
}

impl Rows for Remembered {
    fn row(&self, key: Key) -> Option<Row> {
        self.rows.lock().unwrap().get(&key).copied()
    }

    fn note(&self, note: Note) -> BoxFuture<'_, ()> {
        let mut rows = self.rows.lock().unwrap();
        match note.row {
            Some(row) => rows.insert(note.key, row),
            None => rows.remove(&note.key),
        };
        Box::pin(std::future::ready(()))
    }

    fn run(&self) -> u32 {
        self.run.load(SeqCst)
    }

    fn distrust(&self) {
        self.rows.lock().unwrap().clear();
    }
}

/// A job that may remember: see the rules of `config/memory.rs`.
fn remembering(mut job: Job) -> Job {
    if job.delete == Delete::After {
        job.delete = Delete::During;
    }
    job.dry_run = false;
    job.policy = Policy {
        copy_always: false,
        carry_times: true,
        ..job.policy
    };
    job
}

/// Runs follow each other, and between them both trees change: other processes do everything to the source, and in the
/// destination everything but to change a file where it is. Now and then operations fail, the process is killed, or others
/// are at work during a run. After a run where nothing of that happened, the destination is what a run that compares everything would have made of it.
fn changing(bench: &Bench) -> Result<(), String> {
    let mut drawn = draw(bench, 6);
    drawn.job = remembering(drawn.job);
    drawn.plan.may_delete = drawn.job.delete != Delete::Never;
    drawn.plan.may_supplant_trees = drawn.job.force || drawn.plan.may_delete;
    let state = Arc::<Remembered>::default();
    let mut world = drawn.world.clone();
    for round in 0..6 {
        let rng = &mut drawn.rng;
        let mut plan = Plan {
            seed: bench.seed * 8 + round,
            ..healthy(&drawn.plan)
        };
        match rng.below(5) {
            0 => plan.faults = *rng.pick(&[10, 50, 200]),
            1 => plan.crash_at = Some(rng.below(400)),
            // Others are at work in both trees meanwhile.
            2 => {
                plan.source_changes = *rng.pick(&[0, 5, 20]);
                plan.dest_changes = *rng.pick(&[5, 20, 80]);
                plan.dest_manner = Manner::NewNames;
            }
            _ => {}
        }
        let is_well =
            plan.faults + plan.source_changes + plan.dest_changes == 0 && plan.crash_at.is_none();
        let (source, dest) = (world.seen(Side::Source), world.seen(Side::Destination));
        world.set_plan(plan);
        state.run.fetch_add(1, SeqCst);
        let ended = sync_remembering(&world, drawn.job.clone(), state.clone());
        if world.is_dead() {
            bench.count_crash(&world, &ended);
        } else {
            bench.count(&world, &ended);
        }
        if is_well {
            let expected = model::expected(&source, &dest, &drawn.job);
            let after = world.seen(Side::Destination);
            let differences = expected.differences(&after, &drawn.job.policy);
            if !differences.is_empty() {
                let text = format!(
                    "round {round} leaves {differences:#?}\nfrom {}\nand {}",
                    model::list(&source),
                    model::list(&dest)
                );
                return Err(words(&drawn, &text));
            }
            if let Some(left) = left_over(&expected, &source, &after) {
                return Err(words(
                    &drawn,
                    &format!("round {round}: {left} is left over"),
                ));
            }
        }
        world = world.fork();
        world.set_plan(Plan {
            seed: bench.seed * 8 + round,
            ..Plan::default()
        });
        let rng = &mut drawn.rng;
        world.change(Side::Source, *rng.pick(&[0, 0, 1, 2, 5]));
        world.change(Side::Destination, *rng.pick(&[0, 0, 1, 2]));
    }
    Ok(())
}

#[test]
fn what_is_passed_over_is_equal_in_the_end() {
    simulate("changing", 0..2500, changing);
}

/// A source of two directories of two files.
fn small_world() -> World {
    let world = World::new();
    for (dir, len) in [("a", 2), ("b", 5)] {
        world.add(Side::Source, dir, &Seen::new(Kind::Dir, 0o755, 1000, b""));
        for (name, more) in [("x", 0), ("y", 1)] {
            // All differ in size: it is what tells which is which.
            let file = Seen::new(Kind::File, 0o644, 1000, &vec![b'.'; len + more]);
            world.add(Side::Source, &format!("{dir}/{name}"), &file);
        }
    }
    // What was seen last in the source tells how late it is there: something newer than all that matters.
    world.add(
        Side::Source,
        "new",
        &Seen::new(Kind::Fifo, 0o644, 1000, b""),
    );
    world
}

struct Case {
    world: World,
    job: Job,
    state: Arc<Remembered>,
}

impl Case {
    fn new(change: impl FnOnce(&mut Job)) -> Self {
        let mut job = simrun::job(Delete::During);
        change(&mut job);
        Self {
            world: small_world(),
            job,
            state: Arc::default(),
        }
    }

    fn run(&self, plan: Plan) -> Ended {
        self.world.set_plan(plan);
        self.state.run.fetch_add(1, SeqCst);
        sync_remembering(&self.world, self.job.clone(), self.state.clone())
    }

    /// Runs until nothing is left to do. Returns how many directories the last run took for unchanged.
    fn settle(&self) -> u64 {
        for _ in 0..3 {
            assert_eq!(self.run(Plan::default()).exit_code, 0);
        }
        self.run(Plan::default()).outcome.totals.dirs_unchanged
    }

    fn assert_equal(&self) {
        let (source, dest) = (
            self.world.seen(Side::Source),
            self.world.seen(Side::Destination),
        );
        assert_eq!(source, dest);
    }
}

#[test]
fn settled_trees_are_passed_over_and_their_copies_not_listed() {
    let case = Case::new(|_| {});
    // The root has what is newest; whether that can still change unseen is never certain here.
    assert!(case.settle() >= 2);
    case.assert_equal();
}

#[test]
fn what_failed_is_tried_again_and_not_passed_over_for_ever() {
    let case = Case::new(|_| {});
    let broken = Plan {
        only: Some(OpKind::Read),
        faults: 1000,
        ..Plan::default()
    };
    let failed = case.run(broken);
    assert_eq!(failed.exit_code, 23, "{:?}", failed.errors);
    assert_eq!(case.run(Plan::default()).outcome.totals.files_copied, 4);
    case.assert_equal();
}

#[test]
fn what_comes_goes_or_is_renamed_in_the_destination_is_seen() {
    let case = Case::new(|_| {});
    case.settle();
    let churn: [fn(&World); 3] = [
        |world| {
            world.add(
                Side::Destination,
                "a/extra",
                &Seen::new(Kind::File, 0o600, 1, b"?"),
            );
        },
        |world| world.swap(Side::Destination, "a", "b"),
        |world| world.swap(Side::Destination, "a/x", "a/y"),
    ];
    for (at, churn) in churn.into_iter().enumerate() {
        churn(&case.world);
        if at == 0 {
            // As for everybody who makes a name, the directory's time moves.
            case.world
                .set_mtime(Side::Destination, "a", Time { sec: 5, nsec: 5 });
        }
        case.run(Plan::default());
        case.assert_equal();
    }
}

#[test]
fn directories_that_were_swapped_in_the_source_are_seen() {
    let case = Case::new(|_| {});
    case.settle();
    case.world.swap(Side::Source, "a", "b");
    case.run(Plan::default());
    case.assert_equal();
}

#[test]
fn contents_that_changed_under_the_old_mtime_are_seen_by_their_ctime() {
    let case = Case::new(|job| job.policy.compare_contents = true);
    case.settle();
    case.world.forge(Side::Source, "a/x", b"??");
    let ended = case.run(Plan::default());
    assert_eq!(ended.outcome.totals.files_copied, 1);
    case.assert_equal();
}

#[test]
fn a_change_within_the_tick_of_the_last_look_is_seen() {
    let case = Case::new(|job| job.policy.compare_contents = true);
    case.settle();
    case.world.freeze(true);
    for side in [Side::Source, Side::Destination] {
        case.world.forge(side, "a/x", b"11");
    }
    // They are equal, and nothing is touched: there would be a row, were it not for the tick.
    assert_eq!(case.run(Plan::default()).outcome.totals.files_copied, 0);
    // The same size, mtime and ctime as at the last look.
    case.world.forge(Side::Source, "a/x", b"22");
    case.run(Plan::default());
    case.assert_equal();
}

#[test]
fn a_file_changed_where_it_is_in_the_destination_is_not_seen_as_the_help_says() {
    let case = Case::new(|_| {});
    case.settle();
    case.world
        .forge(Side::Destination, "a/x", b"something else");
    case.run(Plan::default());
    assert_eq!(
        case.world.seen(Side::Destination)["a/x"].data,
        b"something else"
    );
    // A run that compares everything does see it.
    case.state.distrust();
    case.run(Plan::default());
    case.assert_equal();
}

#[test]
fn names_of_one_inode_are_compared_every_time_when_they_are_carried() {
    let case = Case::new(|job| job.policy.carry_links = true);
    let mut linked = Seen::new(Kind::File, 0o644, 1000, b"linked");
    linked.link = String::from("a/l");
    case.world.add(Side::Source, "a/l", &linked);
    case.world.add(Side::Source, "b/l", &linked);
    case.settle();
    let dest = case.world.seen(Side::Destination);
    assert_eq!(dest["b/l"].link, "a/l");
    // One of the names goes: the other one's directory is untouched, and they belong together again.
    case.world.take(Side::Destination, "b/l");
    case.run(Plan::default());
    case.assert_equal();
}
