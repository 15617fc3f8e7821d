//! The engine against a simulated world, by the thousand: random trees, random options, random failures, other processes at
//! work on both trees, and the end of the process after any operation.
//!
//! A failure prints its seed; `RINGSYNC_SEED=N` runs that seed alone.
#![allow(clippy::unwrap_used, clippy::expect_used, dead_code)]

mod drawn;
mod harness;
mod judge;
mod model;
#[path = "../support/simfs.rs"]
mod simfs;
#[path = "../support/simrun.rs"]
mod simrun;
mod trees;

use drawn::{Drawn, draw, healthy, left_over, words};
use harness::{Bench, simulate};
use judge::Case;
use ringsync::error::{OpKind, Side};
use ringsync::model::{Kind, Time};
use ringsync::run::Delete;
use simfs::{Plan, Seen, World};
use simrun::{Ended, sync_telling};

/// Runs with the plan, in which `spoil` has put what goes wrong.
fn run(drawn: &Drawn) -> (Case<'_>, Ended) {
    let Drawn {
        world,
        job,
        plan,
        wants_items,
        ..
    } = drawn;
    let case = Case {
        world,
        source: world.seen(Side::Source),
        dest: world.seen(Side::Destination),
        canary: world.canary(),
        job,
        wants_items: *wants_items,
    };
    world.set_plan(plan.clone());
    let ended = sync_telling(world, job.clone(), *wants_items);
    (case, ended)
}

/// The same command again, where nothing goes wrong any more: it ends well, and everything is as it should be.
fn repair(bench: &Bench, drawn: &Drawn) -> Result<(), String> {
    let world = drawn.world.fork();
    let (source, dest) = (world.seen(Side::Source), world.seen(Side::Destination));
    let expected = model::expected(&source, &dest, &drawn.job);
    world.set_plan(Plan {
        turns_late_max: 0,
        ..healthy(&drawn.plan)
    });
    let ended = sync_telling(&world, drawn.job.clone(), false);
    bench.count(&world, &ended);
    let after = world.seen(Side::Destination);
    let differences = expected.differences(&after, &drawn.job.policy);
    if !differences.is_empty() {
        return Err(format!(
            "the repairing run leaves {differences:#?}\nfrom {}\nand {}",
            model::list(&source),
            model::list(&dest)
        ));
    }
    let code = if expected.in_the_way.is_empty() {
        0
    } else {
        23
    };
    if ended.exit_code != code || ended.errors.len() != expected.in_the_way.len() {
        let errors = &ended.errors;
        return Err(format!("the repairing run ends with {errors:#?}"));
    }
    let violations = world.watched().violations;
    if !violations.is_empty() {
        return Err(format!("the repairing run: {violations:#?}"));
    }
    match left_over(&expected, &source, &after) {
        Some(path) => Err(format!("{path} is left over")),
        None => Ok(()),
    }
}

/// Operations fail, each as its own manual page says it can.
fn failing(bench: &Bench) -> Result<(), String> {
    let mut drawn = draw(bench, 1);
    let rng = &mut drawn.rng;
    match rng.below(10) {
        0 => {}
        1..6 => drawn.plan.faults = *rng.pick(&[3, 10, 30, 100, 400]),
        // Of one kind, so that the rare ones get their turn.
        6..9 => {
            drawn.plan.only = Some(*rng.pick(&OpKind::ALL));
            drawn.plan.faults = *rng.pick(&[50, 200, 500]);
        }
        _ => drawn.plan.sticky_faults = *rng.pick(&[10, 30, 100]),
    }
    drawn.plan.fatal_faults = rng.chance(50);
    let (case, ended) = run(&drawn);
    bench.count(&drawn.world, &ended);
    case.judge_faults(&ended)
        .and_then(|()| repair(bench, &drawn))
        .map_err(|text| words(&drawn, &text))
}

#[test]
fn failures_cost_only_their_entries_and_are_told_once() {
    simulate("failing", 0..2500, failing);
}

#[test]
fn a_directory_has_its_time_when_what_was_in_the_way_is_gone_and_nothing_could_be_made() {
    let world = World::new();
    let (time, in_the_way) = (Time { sec: 1000, nsec: 1 }, b"in the way");
    let dir = Seen::new(Kind::Dir, 0o755, 1000, b"");
    world.add(Side::Source, "name", &dir);
    let file = Seen::new(Kind::File, 0o644, 1000, in_the_way);
    world.add(Side::Destination, "name", &file);
    for side in [Side::Source, Side::Destination] {
        world.set_mtime(side, "", time);
    }
    world.set_plan(Plan {
        only: Some(OpKind::MakeDir),
        faults: 1000,
        fatal_faults: true,
        ..Plan::default()
    });
    let ended = sync_telling(&world, simrun::job(Delete::During), false);
    assert_eq!(ended.exit_code, 23);
    let left = world.seen(Side::Destination);
    assert!(!left.contains_key("name"));
    assert_eq!(left[""].mtime, time);
}

/// Others change the source, or the destination, or both, and operations fail besides.
fn racing(bench: &Bench) -> Result<(), String> {
    let mut drawn = draw(bench, 2);
    let rng = &mut drawn.rng;
    let rates = [0, 5, 20, 80];
    drawn.plan.source_changes = *rng.pick(&[5, 20, 80]);
    let source_only = rng.chance(50);
    if !source_only {
        drawn.plan.dest_changes = *rng.pick(&rates);
        drawn.plan.faults = *rng.pick(&rates);
        drawn.plan.racing_faults = true;
    }
    drawn.plan.omissions = *rng.pick(&[0, 0, 200]);
    let (case, ended) = run(&drawn);
    bench.count(&drawn.world, &ended);
    let judged = if source_only {
        case.judge_untouched(&ended)
    } else {
        case.judge_always(&ended)
    };
    judged
        .and_then(|()| repair(bench, &drawn))
        .map_err(|text| words(&drawn, &text))
}

#[test]
fn trees_that_change_meanwhile_lose_nothing() {
    simulate("racing", 0..2500, racing);
}

/// The process is killed before its `at`-th operation. Whether there was such an operation.
fn crash(bench: &Bench, drawn: &Drawn, at: usize) -> Result<bool, String> {
    let mut plan = drawn.plan.clone();
    plan.crash_at = Some(at);
    let drawn = Drawn {
        rng: drawn.rng.clone(),
        world: drawn.world.fork(),
        job: drawn.job.clone(),
        plan,
        wants_items: drawn.wants_items,
    };
    let (case, ended) = run(&drawn);
    let crashed = drawn.world.is_dead();
    if crashed {
        bench.count_crash(&drawn.world, &ended);
    } else {
        bench.count(&drawn.world, &ended);
    }
    case.judge_always(&ended)
        .and_then(|()| repair(bench, &drawn))
        .map_err(|text| words(&drawn, &text))?;
    Ok(crashed)
}

#[test]
fn a_crash_at_any_moment_is_repaired() {
    simulate("crashing", 0..1500, |bench| {
        let mut drawn = draw(bench, 3);
        let at = drawn.rng.below(*drawn.rng.clone().pick(&[20, 60, 200]));
        crash(bench, &drawn, at).map(drop)
    });
}

#[test]
fn a_crash_at_every_operation_of_a_run_is_repaired() {
    simulate("crashing everywhere", 0..12, |bench| {
        let mut drawn = draw(bench, 4);
        drawn.plan.bytes_per_call = drawn.plan.bytes_per_call.max(10);
        drawn.plan.names_per_read = 1000;
        let mut at = 0;
        while crash(bench, &drawn, at)? {
            at += 1;
        }
        Ok(())
    });
}
