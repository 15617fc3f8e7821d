//! Settings from options, environment and file: which one holds, what `ringsync config` says of it, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::snap::snapshot;
use support::tree::Tree;
use support::{BINARY, Outcome, Pair, Scratch, command, run};

/// A home of its own, so that no configuration of whoever runs the tests counts.
struct Home {
    scratch: Scratch,
}

impl Home {
    fn new() -> Self {
        let scratch = Scratch::new();
        Self { scratch }
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.scratch.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    fn ringsync(&self, args: &[&str], variables: &[(&str, &str)]) -> Outcome {
        let mut command = command(BINARY, args);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RINGSYNC_") {
                command.env_remove(name);
            }
        }
        command
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("RINGSYNC_CONFIG")
            .env("HOME", self.scratch.path())
            .envs(variables.iter().copied());
        run(command)
    }

    /// What `ringsync config` says of one setting.
    fn setting(&self, name: &str, args: &[&str], variables: &[(&str, &str)]) -> Value {
        let args = [&["config", "--json"], args].concat();
        let outcome = self.ringsync(&args, variables);
        let object: Value = serde_json::from_str(&outcome.exits(0).out()).unwrap();
        object[name].clone()
    }
}

#[test]
fn each_source_overrides_the_ones_below() {
    let home = Home::new();
    let source = |args: &[&str], variables: &[(&str, &str)]| {
        let setting = home.setting("max-tasks", args, variables);
        let text = |key: &str| setting[key].as_str().unwrap().to_owned();
        (setting["value"].as_u64().unwrap(), text("source"))
    };
    let expected = |value: u64, source: &str| (value, source.to_owned());
    assert_eq!(source(&[], &[]), expected(50_000, "built-in"));
    home.file(".config/ringsync/config.toml", "max-tasks = 11\n");
    assert_eq!(source(&[], &[]), expected(11, "file"));
    let other = home.file("other.toml", "max-tasks = \"12\"\n");
    let other = other.to_str().unwrap();
    assert_eq!(source(&["--config", other], &[]), expected(12, "file"));
    assert_eq!(
        source(&[], &[("RINGSYNC_CONFIG", other)]),
        expected(12, "file")
    );
    let variable = [("RINGSYNC_MAX_TASKS", "13")];
    assert_eq!(source(&[], &variable), expected(13, "environment"));
    let option = ["--max-tasks", "14"];
    assert_eq!(source(&option, &variable), expected(14, "option"));
    let xdg = home.file("xdg/ringsync/config.toml", "max-tasks = 15\n");
    let xdg = xdg.parent().unwrap().parent().unwrap().to_str().unwrap();
    assert_eq!(
        source(&[], &[("XDG_CONFIG_HOME", xdg)]),
        expected(15, "file")
    );
}

#[test]
fn what_is_not_given_is_derived_from_the_machine() {
    let home = Home::new();
    let dir = home.scratch.path().to_str().unwrap();
    let setting = |name, args: &[&str]| home.setting(name, args, &[]);
    let dirs = setting("crawl-parallelism", &["--cores", "1", dir]);
    assert_eq!(dirs["source"], "derived");
    assert_eq!(dirs["value"]["start"], 4, "{dirs}");
    let memory = setting("max-memory", &[]);
    assert_eq!(memory["source"], "detected");
    let half = setting("max-memory", &["--max-memory", "50%"]);
    let halved = memory["value"].as_u64().unwrap() / 2;
    assert_eq!(half["value"].as_u64().unwrap(), halved);
    let files = setting("max-active-files", &["--max-memory", "2G"]);
    assert_eq!(files["value"]["start"], 1_000_000, "{files}");
    let depth = setting("io-depth", &["--io-depth", "7"]);
    assert_eq!(depth["value"]["ceiling"], 7);
}

#[test]
fn the_table_names_every_option_of_the_help() {
    let home = Home::new();
    let table = home.ringsync(&["config"], &[]).exits(0).out();
    let help = home.ringsync(&["config", "--help"], &[]).exits(0).out();
    let names: Vec<&str> = table
        .lines()
        .map(|line| line.split_whitespace().next().unwrap())
        .collect();
    assert!(names.len() >= 16, "{table}");
    for name in names {
        assert!(help.contains(&format!("--{name} <")), "{name}\n{help}");
    }
}

/// Runs a sync that is to be refused: exit code 1, the words in the message, nothing copied.
fn refused(home: &Home, args: &[&str], variables: &[(&str, &str)], words: &[&str]) {
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("file", "12345");
    tree.write_to(&pair.src);
    let [src, dst] = [&pair.src, &pair.dst].map(|path| path.to_str().unwrap());
    let outcome = home.ringsync(&[&["sync"], args, &[src, dst]].concat(), variables);
    outcome.exits(1);
    for word in words {
        outcome.complains_of(&[word]);
    }
    assert!(snapshot(Path::new(dst)).len() <= 1, "something was copied");
}

#[test]
fn absurd_values_are_refused_with_their_source_and_the_range() {
    let home = Home::new();
    for (name, values, range) in [
        (
            "crawl-parallelism",
            &["0", "-1", "65537", "x", ""][..],
            "1 to 65536",
        ),
        ("max-active-files", &["0", "-5", "1e9"], "1 to 100000000000"),
        ("max-tasks", &["0", "10000001"], "1 to 10000000"),
        ("max-memory", &["0", "1K", "31M", "0%", "101%", "9P"], "32M"),
        ("throttle-engage", &["0", "1", "101"], "2 to 100"),
        ("throttle-release", &["0", "100", "-3"], "1 to 99"),
        ("io-depth", &["0", "4097", "deep"], "1 to 4096"),
        ("ops-limit", &["-1", "many"], "0 to"),
        ("bwlimit", &["-1", "fast"], "rate"),
        ("sample-interval", &["0", "61", "nan"], "0.1 to 60"),
        ("consistency-threshold", &["0", "1001"], "1 to 1000"),
        ("adjustment-cooldown", &["-1", "86401"], "0 to 86400"),
        ("histograms", &["maybe"], "on, off"),
        ("log-format", &["xml"], "text, json"),
        ("io-engine", &["steam"], "inline"),
        ("cores", &["0", "0,999999"], "out of range"),
    ] {
        for value in values {
            let option = format!("--{name}");
            refused(&home, &[&option, value], &[], &[&option, range]);
        }
        let variable = format!("RINGSYNC_{}", name.replace('-', "_").to_uppercase());
        refused(&home, &[], &[(&variable, values[0])], &[&variable, range]);
        let file = home.file("bad.toml", &format!("{name} = \"{}\"\n", values[0]));
        let file = file.to_str().unwrap();
        refused(&home, &["--config", file], &[], &[name, file, range]);
    }
}

#[test]
fn thresholds_in_the_wrong_order_are_refused() {
    let home = Home::new();
    let args = ["--throttle-engage", "80", "--throttle-release", "80"];
    refused(&home, &args, &[], &["throttle-release", "below"]);
}

#[test]
fn files_with_mistakes_are_refused() {
    let home = Home::new();
    refused(
        &home,
        &["--config", "/nowhere.toml"],
        &[],
        &["/nowhere.toml"],
    );
    for (text, word) in [
        ("max-task = 3", "max-tasks"),
        ("max-tasks = [3]", "array"),
        ("max-tasks = ", "line 1"),
    ] {
        let file = home.file("bad.toml", text);
        let file = file.to_str().unwrap();
        refused(&home, &["--config", file], &[], &[file, word]);
    }
    // The usual place counts as well, and a directory is no file.
    fs::create_dir_all(home.scratch.path().join(".config/ringsync/config.toml")).unwrap();
    refused(&home, &[], &[], &["config.toml"]);
}

#[test]
fn a_log_in_json_has_one_object_a_line() {
    let home = Home::new();
    let pair = Pair::new();
    let log = home.scratch.path().join("log");
    let [src, dst, log] = [&pair.src, &pair.dst, &log].map(|path| path.to_str().unwrap());
    let args = ["sync", "--log-format", "json", "--log-file", log, src, dst];
    home.ringsync(&args, &[]).exits(0);
    let text = fs::read_to_string(log).unwrap();
    let messages: Vec<String> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .map(|line| line["fields"]["message"].as_str().unwrap().to_owned())
        .collect();
    for start in ["Active Dirs: ", "Throughput: ", "Memory utilization: "] {
        let found = messages.iter().any(|message| message.starts_with(start));
        assert!(found, "{start}\n{text}");
    }
}
