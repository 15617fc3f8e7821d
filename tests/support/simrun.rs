//! Runs the engine in a simulated world.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ringsync::error::{Class, Error, Side};
use ringsync::io::EngineChoice;
use ringsync::model::unchanged::Rows;
use ringsync::model::{Item, Sink};
use ringsync::report::{ErrorCounts, summary};
use ringsync::run::{Delete, FsMaker, Job, Outcome, Passing, Roots, Run, Task, limits};

use super::simfs::World;

#[derive(Default)]
pub(crate) struct Collect {
    errors: Mutex<Vec<Error>>,
    wants_items: bool,
}

impl Sink for Collect {
    fn error(&self, error: Error) {
        self.errors.lock().unwrap().push(error);
    }

    fn item(&self, _item: Item) {}

    fn wants_items(&self) -> bool {
        self.wants_items
    }
}

/// How a run ended.
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) errors: Vec<Error>,
    pub(crate) exit_code: u8,
}

pub(crate) fn job(delete: Delete) -> Job {
    // One shard: the order of operations is the same in every run.
    let cpus = limits::allowed_cpus()[..1].to_vec();
    let (source, dest) = (PathBuf::from("source"), PathBuf::from("dest"));
    Job {
        delete,
        // Random trees may have next to nothing in common.
        force_delete: true,
        engine: EngineChoice::Inline,
        ..Job::archive(Task::Sync, source, Some(dest), cpus)
    }
}

pub(crate) fn roots(world: &World) -> Roots {
    let of_shards = world.clone();
    let fs: FsMaker = Arc::new(move |_| {
        Ok((
            of_shards.mount(Side::Source),
            of_shards.mount(Side::Destination),
        ))
    });
    Roots {
        source: world.root(Side::Source),
        dest: Some(world.root(Side::Destination)),
        dest_identity: Some(World::root_identity(Side::Destination)),
        fs,
    }
}

pub(crate) fn sync(world: &World, job: Job) -> Ended {
    sync_telling(world, job, true)
}

/// The same, where somebody looks at each change or nobody does.
pub(crate) fn sync_telling(world: &World, job: Job, wants_items: bool) -> Ended {
    execute(&Run::with_roots(job, roots(world)), wants_items)
}

/// The same, with what earlier runs left.
pub(crate) fn sync_remembering(world: &World, job: Job, rows: Arc<dyn Rows>) -> Ended {
    execute(
        &Run::with_roots(job, roots(world)).passing(Passing::Rows(rows)),
        false,
    )
}

fn execute(run: &Run, wants_items: bool) -> Ended {
    let collect = Arc::new(Collect {
        wants_items,
        ..Collect::default()
    });
    let sink: Arc<dyn Sink> = collect.clone();
    let outcome = run.execute(&sink).unwrap();
    let errors = collect.errors.lock().unwrap().clone();
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
