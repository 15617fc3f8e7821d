//! Filesystems that do not tell types in their listings: rules for directories must wait for a stat, on both sides, and other
//! rules must not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/simfs.rs"]
#[allow(dead_code)] // The tests of faults use the rest of it.
mod simfs;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use ringsync::error::{Error, Side};
use ringsync::io::{EngineChoice, Fs, Op, Outcome, Pending, Reply};
use ringsync::model::filter::{Filter, Given, Surroundings};
use ringsync::model::{Item, Kind, Listing, Sink};
use ringsync::run::{Delete, Job, Roots, Run, Task, limits};
use simfs::{Seen, World};

/// Takes the types out of listings, and remembers whose attributes were asked for.
struct Untyped {
    fs: Rc<dyn Fs>,
    looked_at: Arc<Mutex<Vec<String>>>,
}

impl Fs for Untyped {
    fn start(&self, op: Op) -> Pending {
        if let Op::StatMany { listing, range, .. } = &op {
            let wanted = listing.entries[range.clone()]
                .iter()
                .filter(|entry| entry.state == ringsync::model::State::Wanted)
                .map(|entry| listing.name(entry).to_str().unwrap().to_owned());
            self.looked_at.lock().unwrap().extend(wanted);
        }
        let is_listing = matches!(op, Op::ReadDir { .. });
        let pending = self.fs.start(op);
        if !is_listing {
            return pending;
        }
        Pending::Boxed(Box::pin(async move { untype(pending.await) }))
    }

    fn is_slow(&self, dev: u64) -> bool {
        self.fs.is_slow(dev)
    }
}

fn untype(outcome: Outcome) -> Outcome {
    outcome.map(|reply| match reply {
        Reply::Listed { listing, more } => {
            let mut untyped = Listing::default();
            for entry in &listing.entries {
                assert!(untyped.push(listing.name(entry), entry.ino, None));
            }
            Reply::Listed {
                listing: untyped,
                more,
            }
        }
        other => other,
    })
}

struct Panics;

impl Sink for Panics {
    fn error(&self, error: Error) {
        panic!("{error}");
    }

    fn item(&self, _item: Item) {}

    fn wants_items(&self) -> bool {
        false
    }
}

fn filter(rules: &[&str]) -> Option<Arc<Filter>> {
    let rules: Vec<Given> = rules
        .iter()
        .map(|rule| Given::Rule(rule.as_bytes().to_vec()))
        .collect();
    let around = Surroundings {
        settings: ringsync::model::filter::Settings::default(),
        source: b"/source",
        dest: b"/dest",
        read: &mut |_| Err(String::from("no files here")),
        find: &mut |_| Ok(None),
        home: None,
        cvsignore: None,
    };
    Filter::compile(&rules, around).unwrap().map(Arc::new)
}

#[test]
fn rules_for_directories_wait_for_the_type() {
    for delete in [Delete::During, Delete::After] {
        let world = World::new();
        let (source, dest) = (Side::Source, Side::Destination);
        let add = |side, name, kind, mode, data: &[u8]| {
            world.add(side, name, &Seen::new(kind, mode, 10, data));
        };
        for (side, names) in [
            (source, ["dir", "keep", "keep2"]),
            (dest, ["gone", "kept", "gone/kept"]),
        ] {
            for name in names {
                add(side, name, Kind::Dir, 0o755, b"");
            }
        }
        // The names of directories that are hidden or protected, as files; and what is hidden whatever it is.
        add(source, "file", Kind::File, 0o644, b"file");
        add(source, "dir/keep", Kind::File, 0o644, b"a file");
        add(source, "secret", Kind::File, 0o644, b"secret");
        add(dest, "gone/file", Kind::File, 0o644, b"file");
        add(dest, "gone/kept/inner", Kind::File, 0o644, b"inner");

        let looked_at = Arc::new(Mutex::new(Vec::new()));
        let (mounted, looked) = (world.clone(), looked_at.clone());
        let untyped = move |side| -> Rc<dyn Fs> {
            Rc::new(Untyped {
                fs: mounted.mount(side),
                looked_at: looked.clone(),
            })
        };
        let roots = Roots {
            source: world.root(source),
            dest: Some(world.root(dest)),
            dest_identity: Some(World::root_identity(dest)),
            fs: Arc::new(move |_| Ok((untyped(source), untyped(dest)))),
        };
        let cpus = limits::allowed_cpus()[..1].to_vec();
        let paths = (PathBuf::from("source"), PathBuf::from("dest"));
        let job = Job {
            delete,
            engine: EngineChoice::Inline,
            filter: filter(&["- keep*/", "- kept/", "- secret"]),
            ..Job::archive(Task::Sync, paths.0, Some(paths.1), cpus)
        };
        let sink: Arc<dyn Sink> = Arc::new(Panics);
        Run::with_roots(job, roots).execute(&sink).unwrap();

        let left: Vec<String> = world
            .seen(dest)
            .into_keys()
            .filter(|path| !path.is_empty())
            .collect();
        let expected = [
            "dir",
            "dir/keep",
            "file",
            "gone",
            "gone/kept",
            "gone/kept/inner",
            "kept",
        ];
        assert_eq!(left, expected, "{delete:?}");
        let looked_at = looked_at.lock().unwrap();
        assert!(looked_at.iter().any(|name| name == "keep2"));
        assert!(!looked_at.iter().any(|name| name == "secret"));
    }
}
