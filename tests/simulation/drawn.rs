//! What a seed draws: two trees, a job, and what goes wrong; and what every test of it asks.

use ringsync::model::Kind;
use ringsync::run::{Delete, Job};
use ringsync::transfer::WriteMode;

use crate::harness::Bench;
use crate::model::Expected;
use crate::simfs::rng::Rng;
use crate::simfs::watch::{is_temp, parent};
use crate::simfs::{Plan, Tree, World};
use crate::trees::{random_job, random_plan, random_world};

/// Everything that a seed decides.
pub(crate) struct Drawn {
    pub(crate) rng: Rng,
    pub(crate) world: World,
    pub(crate) job: Job,
    pub(crate) plan: Plan,
    pub(crate) wants_items: bool,
}

pub(crate) fn draw(bench: &Bench, salt: u64) -> Drawn {
    let mut rng = Rng::new(bench.seed ^ (salt << 32));
    let mut plan = random_plan(&mut rng);
    let links = rng.chance(40);
    let world = random_world(&mut rng, &plan, links);
    let job = random_job(&mut rng, bench.cpu, links);
    plan.atomic = job.write_mode == WriteMode::Atomic;
    plan.may_delete = job.delete != Delete::Never;
    plan.may_supplant_trees = job.force || plan.may_delete;
    Drawn {
        wants_items: rng.chance(50),
        rng,
        world,
        job,
        plan,
    }
}

pub(crate) fn words(drawn: &Drawn, text: &str) -> String {
    format!("{text}\n{:?}\n{:?}", drawn.plan, drawn.job)
}

/// A temporary file that somebody should have removed. Where no source directory corresponds, nobody looks for them.
pub(crate) fn left_over<'a>(
    expected: &Expected,
    source: &Tree,
    after: &'a Tree,
) -> Option<&'a String> {
    let left = after.iter().find(|(path, entry)| {
        let visited = source.contains_key(parent(path));
        let meant = expected.tree.contains_key(*path) || entry.kind == Kind::Dir;
        is_temp(path) && visited && !meant
    });
    left.map(|(path, _)| path)
}

/// The same kind of filesystem without anything going wrong.
pub(crate) fn healthy(plan: &Plan) -> Plan {
    Plan {
        fault: None,
        faults: 0,
        sticky_faults: 0,
        only: None,
        source_changes: 0,
        dest_changes: 0,
        crash_at: None,
        repeats: 0,
        omissions: 0,
        ..plan.clone()
    }
}
