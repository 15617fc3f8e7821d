//! The source tree's imports go one way: each module may use only what stands below it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each room may use. A room that is missing here fails the test, so a new one is placed on purpose.
const MAY_USE: &[(&str, &[&str])] = &[
    (
        "main",
        &["cli", "config", "doctor", "report", "session", "state"],
    ),
    (
        "session",
        &[
            "config", "detect", "io", "model", "monitor", "report", "run", "s3", "state",
            "transfer",
        ],
    ),
    (
        "doctor",
        &["detect", "error", "io", "model", "report", "run", "s3"],
    ),
    ("detect", &[]),
    ("cli", &[]),
    (
        "config",
        &[
            "cli", "control", "detect", "io", "model", "monitor", "report", "run", "s3", "state",
            "transfer",
        ],
    ),
    (
        "run",
        &[
            "control", "error", "io", "model", "monitor", "s3", "shard", "throttle", "transfer",
        ],
    ),
    // The summary reads how a run ended; it starts nothing.
    (
        "report",
        &["error", "model", "monitor", "run", "state", "throttle"],
    ),
    ("state", &["model"]),
    ("monitor", &["control", "error", "model", "throttle"]),
    ("shard", &["control", "error", "io", "model", "throttle"]),
    ("transfer", &["error", "io", "model", "throttle"]),
    ("s3", &["control", "error", "io", "model", "throttle"]),
    ("io", &["control", "error", "model"]),
    ("throttle", &["control"]),
    ("control", &[]),
    ("model", &["error"]),
    // `escape`, for messages: the one place where the two lowest rooms need each other.
    ("error", &["model"]),
    ("lib", &[]),
];

fn sources() -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// The top-level module that a file belongs to.
fn room(file: &Path) -> String {
    let below = file
        .strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .unwrap();
    let first = below.components().next().unwrap();
    let name = Path::new(first.as_os_str()).file_stem().unwrap();
    name.to_str().unwrap().to_owned()
}

/// The top-level modules that a line of code names after `crate::` or `ringsync::`, in groups too.
fn named(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for prefix in ["crate::", "ringsync::"] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            if let Some(group) = rest.strip_prefix('{') {
                let group = group.split('}').next().unwrap();
                let first = |part: &str| part.trim().split("::").next().unwrap().to_owned();
                rooms.extend(group.split(',').map(first));
            } else {
                let is_name = |c: char| c.is_alphanumeric() || c == '_';
                rooms.insert(rest.chars().take_while(|&c| is_name(c)).collect());
            }
        }
    }
    rooms
}

fn without_comments(text: &str) -> String {
    let code = text
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    code.collect::<Vec<_>>().join("\n")
}

#[test]
fn imports_go_one_way() {
    let mut wrong = Vec::new();
    let mut seen = 0;
    for file in sources() {
        let room = room(&file);
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == room) else {
            panic!("'{room}' has no place among the rooms of tests/arrows.rs");
        };
        let code = without_comments(&fs::read_to_string(&file).unwrap());
        for used in named(&code) {
            let known = MAY_USE.iter().any(|(name, _)| *name == used);
            seen += usize::from(known);
            if known && used != room && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses {used}", file.display()));
            }
        }
    }
    assert!(seen > 50, "the imports were not found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn words(code: &str) -> impl Iterator<Item = &str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_')
}

#[test]
fn unsafe_code_stays_in_io() {
    for file in sources().iter().filter(|file| room(file) != "io") {
        let code = without_comments(&fs::read_to_string(file).unwrap());
        assert!(
            !words(&code).any(|word| word == "unsafe"),
            "{} has unsafe code",
            file.display()
        );
    }
}
