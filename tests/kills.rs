//! SIGKILL at any moment: what has its final name is whole, and the same command, run again, makes both sides equal.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};
use support::rng::Rng;
use support::snap::{Snapshot, assert_same, snapshot, temporaries};
use support::tree::{LONG_AGO, Tree, set_mtime, write_noise};
use support::{
    Outcome, Pair, Running, command, count, engines, is_temporary, killed_by, remove_tree,
};

/// Kills of each scene: 50 in all. A giant directory takes longest to be made anew.
const KILLS_SMALL: usize = 32;
const KILLS_LARGE: usize = 14;
const KILLS_GIANT: usize = 4;
/// How many runs may end before they are killed, for each kill.
const MISSES_MAX: usize = 10;

/// What the source looks like and what the destination had before, which each run starts from anew.
struct Scene {
    pair: Pair,
    before: Box<dyn Fn(&Path)>,
    options: &'static [&'static str],
    source: Snapshot,
}

impl Scene {
    fn new(source: impl Fn(&Path), before: impl Fn(&Path) + 'static) -> Self {
        let pair = Pair::new();
        source(&pair.src);
        set_mtime(&pair.src, LONG_AGO);
        Self {
            source: snapshot(&pair.src),
            pair,
            before: Box::new(before),
            options: &["--delete"],
        }
    }

    fn start_over(&self) -> Snapshot {
        remove_tree(&self.pair.dst);
        std::fs::create_dir(&self.pair.dst).unwrap();
        (self.before)(&self.pair.dst);
        snapshot(&self.pair.dst)
    }

    fn run(&self, engine: &str) -> Running {
        let Pair { src, dst, .. } = &self.pair;
        let args = support::sync_args(engine, self.options, src, dst);
        Running::start(command(support::BINARY, &args))
    }

    /// How long a run takes from its start to its end.
    fn duration(&self, engine: &str) -> Duration {
        self.start_over();
        let started = Instant::now();
        self.run(engine).wait().exits(0);
        started.elapsed()
    }

    /// Starts a run and kills it after `delay`. `None` when it had ended by then.
    fn kill_after(&self, engine: &str, delay: Duration) -> Option<Outcome> {
        let running = self.run(engine);
        thread::sleep(delay);
        running.signal(Signal::SIGKILL);
        let ended = running.wait();
        (killed_by(&ended) == Some(Signal::SIGKILL as i32)).then_some(ended)
    }

    /// Nothing under a final name is partial: it is as before the run, or as in the source.
    fn assert_whole(&self, before: &Snapshot, context: &str) {
        for (path, state) in snapshot(&self.pair.dst) {
            let name = path.rsplit(|byte| *byte == b'/').next().unwrap();
            let data = |state: &support::snap::NodeState| (state.kind, state.size, state.content);
            let whole = [before.get(&path), self.source.get(&path)];
            let is_whole = whole
                .iter()
                .flatten()
                .any(|other| data(other) == data(&state));
            let shown = path.escape_ascii();
            assert!(
                is_whole || is_temporary(name),
                "{context}: {shown} is partial"
            );
        }
    }

    /// The kills, at moments spread over the time that a run takes.
    fn survives(&self, what: &str, kills: usize, seed: u64) {
        let durations: BTreeMap<_, _> = engines()
            .map(|engine| (engine, self.duration(engine)))
            .into();
        let mut rng = Rng::new(seed);
        let (mut killed, mut misses, mut left) = (0, 0, 0);
        while killed < kills {
            let engine = engines()[killed % engines().len()];
            let percent = u32::try_from(rng.below(100)).unwrap();
            let delay = durations[engine] * percent / 100;
            let context = format!("{what}, {engine}, seed {seed}, kill {killed} after {delay:?}");
            let before = self.start_over();
            if self.kill_after(engine, delay).is_none() {
                misses += 1;
                assert!(misses < kills * MISSES_MAX, "{context}: runs end too early");
                continue;
            }
            killed += 1;
            self.assert_whole(&before, &context);
            left += temporaries(&self.pair.dst).len();
            self.run(engine).wait().exits(0);
            let after = snapshot(&self.pair.dst);
            assert_same(
                &self.source,
                &after,
                "source",
                &format!("destination ({context})"),
            );
        }
        eprintln!(
            "{what}: {killed} kills, {left} temporary files left and removed, {misses} too late"
        );
        count("kills survived", killed as u64);
    }

    /// Kills in a row, each run going on where the one before was killed; for work that takes long to begin anew.
    fn survives_in_a_row(&self, what: &str, kills: usize, seed: u64) {
        let before = self.start_over();
        let mut rng = Rng::new(seed);
        for killed in 0..kills {
            let engine = engines()[killed % engines().len()];
            // Long enough to begin; all of it takes longer than the sum.
            let delay = Duration::from_millis(50 + rng.next() % 250);
            let context = format!("{what}, {engine}, seed {seed}, kill {killed} after {delay:?}");
            if self.kill_after(engine, delay).is_some() {
                count("kills survived", 1);
            }
            self.assert_whole(&before, &context);
        }
        self.run("auto").wait().exits(0);
        assert_same(
            &self.source,
            &snapshot(&self.pair.dst),
            "source",
            "destination",
        );
    }
}

#[test]
fn while_files_are_copied_and_names_deleted() {
    let source = |root: &Path| {
        let mut tree = Tree::new();
        for dir in 0..12 {
            for file in 0..30 {
                tree.file(
                    format!("dir {dir}/{file}"),
                    format!("{dir} {file} ").repeat(900),
                );
            }
            tree.symlink(format!("dir {dir}/link"), "there");
        }
        tree.write_to(root);
    };
    let before = |root: &Path| {
        let mut tree = Tree::new();
        for dir in 0..24 {
            for file in 0..15 {
                tree.file(format!("dir {dir}/{file}"), format!("older {file}"));
                tree.file(format!("dir {dir}/extra/{file}"), "to be deleted");
            }
        }
        tree.write_to(root);
    };
    Scene::new(source, before).survives("files and deletes", KILLS_SMALL, 1);
}

#[test]
fn while_large_files_are_copied_in_chunks() {
    let source = |root: &Path| {
        for number in 0..2 {
            write_noise(
                &root.join(format!("large {number}")),
                (65 << 20) + number,
                number,
            );
        }
    };
    let before = |root: &Path| write_noise(&root.join("large 0"), 1_000_000, 9);
    Scene::new(source, before).survives("large files", KILLS_LARGE, 2);
}

#[test]
fn while_a_giant_directory_is_synced() {
    // Over 65,536 names, so that it is split over the cores.
    let source = |root: &Path| {
        let giant = root.join("giant");
        std::fs::create_dir(&giant).unwrap();
        for number in 0..66_000 {
            std::fs::write(giant.join(number.to_string()), number.to_string()).unwrap();
        }
    };
    let before = |root: &Path| {
        let giant = root.join("giant");
        std::fs::create_dir(&giant).unwrap();
        for number in 64_000..70_000 {
            std::fs::write(giant.join(number.to_string()), "older").unwrap();
        }
    };
    Scene::new(source, before).survives_in_a_row("giant directory", KILLS_GIANT, 3);
}
