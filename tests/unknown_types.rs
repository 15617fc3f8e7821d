//! Filesystems that do not tell types in their listings: rules for directories must wait for a stat, on both sides, and other
//! rules must not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/simfs.rs"]
#[allow(dead_code)] // The tests of faults use the rest of it.
mod simfs;

use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use ringsync::error::Error;
use ringsync::io::{EngineChoice, Fs, Op, Outcome, Pending, Reply};
use ringsync::model::filter::{Filter, Given, Surroundings};
use ringsync::model::{Item, Kind, Listing, Sink};
use ringsync::run::{Delete, Job, Roots, Run, Task, limits};
use simfs::SimFs;

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
        let (source, dest) = (SimFs::new(1), SimFs::new(2));
        for (fs, names) in [
            (&source, ["dir", "keep", "keep2"]),
            (&dest, ["gone", "kept", "gone/kept"]),
        ] {
            for name in names {
                fs.add(name, Kind::Dir, 0o755, 10, b"");
            }
        }
        // The names of directories that are hidden or protected, as files; and what is hidden whatever it is.
        source.add("file", Kind::File, 0o644, 10, b"file");
        source.add("dir/keep", Kind::File, 0o644, 10, b"a file");
        source.add("secret", Kind::File, 0o644, 10, b"secret");
        dest.add("gone/file", Kind::File, 0o644, 10, b"file");
        dest.add("gone/kept/inner", Kind::File, 0o644, 10, b"inner");

        let looked_at = Arc::new(Mutex::new(Vec::new()));
        let (source_fs, dest_fs, looked) = (source.clone(), dest.clone(), looked_at.clone());
        let untyped = move |fs: &SimFs| -> Rc<dyn Fs> {
            Rc::new(Untyped {
                fs: fs.mount(),
                looked_at: looked.clone(),
            })
        };
        let roots = Roots {
            source: source.root(),
            dest: Some(dest.root()),
            dest_identity: Some(dest.root_identity()),
            fs: Arc::new(move || Ok((untyped(&source_fs), untyped(&dest_fs)))),
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

        let left: Vec<String> = dest
            .seen()
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
