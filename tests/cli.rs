//! The command line: what it accepts, refuses, prints, and exits with.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::thread::available_parallelism;
use support::snap::{assert_equal_trees, assert_untouched, snapshot, stamps};
use support::tree::{LONG_AGO, Tree, all_kinds, set_mtime};
use support::{Outcome, Pair, ringsync};

fn filled() -> Pair {
    let pair = Pair::new();
    let mut tree = Tree::new();
    tree.file("file", "12345");
    tree.file("dir/file", "1234567");
    tree.symlink("dir/link", "file");
    tree.write_to(&pair.src);
    pair
}

/// `ringsync COMMAND OPTIONS src dst`
fn on(pair: &Pair, command: &str, options: &[&str]) -> Outcome {
    let [src, dst] = [&pair.src, &pair.dst].map(|path| path.to_str().unwrap());
    ringsync(&[&[command], options, &[src, dst]].concat())
}

#[test]
fn help_names_commands_and_options() {
    let help = ringsync(&["--help"]);
    for word in ["sync", "check", "scan", "doctor", "completions", "man"] {
        assert!(
            help.exits(0).out().contains(word),
            "{word} is missing\n{}",
            help.describe()
        );
    }
    let help = ringsync(&["sync", "--help"]);
    for word in [
        "--delete",
        "--dry-run",
        "--checksum",
        "--write-mode",
        "--io-engine",
        "--max-delete",
        "--force-delete",
        "--stop-after",
        "--timeout",
        "--cores",
    ] {
        assert!(
            help.exits(0).out().contains(word),
            "{word} is missing\n{}",
            help.describe()
        );
    }
    let version = ringsync(&["--version"]);
    assert!(
        version.exits(0).out().starts_with("ringsync "),
        "{}",
        version.describe()
    );
}

#[test]
fn bad_usage_exits_1_and_says_what_is_wrong() {
    let cases: [(&[&str], &str); 9] = [
        (&["sync", "--no-such-option", "a", "b"], "--no-such-option"),
        (&["sync", "only-one"], "DST"),
        (&["sync", "a", "b", "c"], "'c'"),
        (&["no-such-command"], "no-such-command"),
        (&["sync", "--io-engine", "steam", "a", "b"], "inline"),
        (&["sync", "--write-mode", "slow", "a", "b"], "direct"),
        (&["sync", "--reflink", "maybe", "a", "b"], "never"),
        (&["sync", "--max-delete", "many", "a", "b"], "--max-delete"),
        (&["sync", "--modify-window", "-5", "a", "b"], "-5"),
    ];
    for (args, word) in cases {
        let outcome = ringsync(args);
        outcome.exits(1).complains_of(&[word]);
        assert!(outcome.stdout.is_empty(), "{}", outcome.describe());
    }
    ringsync::<&str>(&[]).exits(1);
}

#[test]
fn absurd_values_are_refused_with_the_range() {
    let pair = filled();
    let cases = [
        ("--cores", "0"),
        ("--cores", "1000000"),
        ("--cores", "0,999999"),
        ("--cores", "0,x"),
        ("--cores", ""),
        ("--io-depth", "0"),
        ("--io-depth", "100000000"),
    ];
    for (option, value) in cases {
        let outcome = on(&pair, "sync", &[option, value]);
        outcome.exits(1).complains_of(&[&option[2..]]);
        let has_number = outcome
            .err()
            .replace(value, "")
            .chars()
            .any(|c| c.is_ascii_digit());
        assert!(
            has_number || value.contains('x') || value.is_empty(),
            "no range is named\n{}",
            outcome.describe()
        );
        assert_eq!(
            snapshot(&pair.dst).len(),
            1,
            "{option} {value} wrote something"
        );
    }
}

#[test]
fn cores_and_depth_give_the_same_result() {
    let mut cases = vec![["--cores", "1"], ["--io-depth", "1"], ["--io-depth", "64"]];
    if available_parallelism().unwrap().get() >= 2 {
        // A list is of CPU numbers; 0 and 1 are ours on any machine that is not partitioned.
        cases.extend([["--cores", "2"], ["--cores", "0,1"]]);
    }
    for options in cases {
        for engine in support::engines() {
            let pair = Pair::new();
            all_kinds().write_to(&pair.src);
            pair.sync(engine, &options).exits(0);
            assert_equal_trees(&pair.src, &pair.dst);
        }
    }
}

#[test]
fn quiet_prints_nothing_on_success() {
    let pair = filled();
    for _ in 0..2 {
        let outcome = on(&pair, "sync", &["-q"]);
        outcome.exits(0);
        assert!(
            outcome.stdout.is_empty() && outcome.stderr.is_empty(),
            "{}",
            outcome.describe()
        );
    }
}

#[test]
fn a_plain_run_ends_with_a_summary_and_no_messages() {
    let pair = filled();
    let outcome = on(&pair, "sync", &[]);
    outcome.exits(0);
    assert!(!outcome.stdout.is_empty(), "{}", outcome.describe());
    assert!(outcome.stderr.is_empty(), "{}", outcome.describe());
    assert_eq!(outcome.itemized(), Vec::<String>::new());
    let stats = on(&pair, "sync", &["--stats"]);
    assert!(
        stats.exits(0).stdout.len() > outcome.stdout.len(),
        "{}",
        stats.describe()
    );
}

#[test]
fn progress_never_draws_on_a_pipe() {
    for style in ["auto", "plain", "none"] {
        let pair = filled();
        let outcome = on(&pair, "sync", &["--progress", style]);
        outcome.exits(0);
        for byte in [b'\r', 0x1b] {
            let drawn = outcome.stdout.contains(&byte) || outcome.stderr.contains(&byte);
            assert!(!drawn, "--progress {style}\n{}", outcome.describe());
        }
    }
}

#[test]
fn log_file_gets_a_line_for_what_was_done() {
    let pair = filled();
    let log = pair.scratch.path().join("log");
    on(&pair, "sync", &["-q", "--log-file", log.to_str().unwrap()]).exits(0);
    let mode = fs::metadata(&log).unwrap().permissions().mode();
    assert_eq!(mode & 0o022, 0, "others could write to the log");
    let first = fs::read_to_string(&log).unwrap();
    assert!(first.lines().count() >= 1);
    // A second run adds to it.
    on(&pair, "sync", &["-q", "--log-file", log.to_str().unwrap()]).exits(0);
    let second = fs::read_to_string(&log).unwrap();
    assert!(
        second.starts_with(&first) && second.len() > first.len(),
        "first:\n{first}\nthen:\n{second}"
    );
}

#[test]
fn json_lines_parse_and_the_summary_counts() {
    let pair = filled();
    let dry = on(&pair, "sync", &["--json", "-n", "-i"]);
    dry.exits(0).summary();
    let first = on(&pair, "sync", &["--json", "-i", "-v", "--stats"]);
    assert_eq!(
        first.exits(0).count("files_copied"),
        2,
        "{}",
        first.describe()
    );
    assert_eq!(first.count("bytes_copied"), 12, "{}", first.describe());
    assert!(
        first.json().len() > 1,
        "itemized lines are JSON too\n{}",
        first.describe()
    );
    fs::write(pair.dst.join("extra"), "x").unwrap();
    let second = on(&pair, "sync", &["--json", "--delete"]);
    assert_eq!(
        second.exits(0).count("files_copied"),
        0,
        "{}",
        second.describe()
    );
    assert_eq!(second.count("entries_deleted"), 1, "{}", second.describe());
    assert_eq!(second.count("errors"), 0, "{}", second.describe());
}

type Change = fn(&Path);

#[test]
fn check_tells_equal_from_different_and_writes_nothing() {
    let pair = filled();
    on(&pair, "sync", &[]).exits(0);
    let states = || (stamps(&pair.src), stamps(&pair.dst));
    let check = |code: i32| {
        let (src, dst) = states();
        on(&pair, "check", &[]).exits(code);
        assert_untouched(&src, &pair.src);
        assert_untouched(&dst, &pair.dst);
    };
    check(0);
    let changes: [(&str, Change); 5] = [
        ("extra entry", |dst| {
            fs::write(dst.join("dir/extra"), "x").unwrap();
        }),
        ("missing entry", |dst| {
            fs::remove_file(dst.join("dir/link")).unwrap();
        }),
        ("other size", |dst| {
            fs::write(dst.join("file"), "1").unwrap();
        }),
        ("other time", |dst| {
            set_mtime(&dst.join("dir"), LONG_AGO.plus(1));
        }),
        ("other kind", |dst| {
            fs::remove_file(dst.join("file")).unwrap();
            symlink("12345", dst.join("file")).unwrap();
        }),
    ];
    for (what, change) in changes {
        change(&pair.dst);
        check(23);
        on(&pair, "sync", &["--delete"]).exits(0);
        assert_equal_trees(&pair.src, &pair.dst);
        let after = on(&pair, "check", &[]);
        assert_eq!(
            after.code(),
            Some(0),
            "after {what} was repaired\n{}",
            after.describe()
        );
    }
    assert!(
        on(&pair, "check", &["--json"])
            .exits(0)
            .summary()
            .is_object()
    );
}

#[test]
fn scan_counts() {
    let pair = filled();
    let scan = ringsync(&["scan", "--json", pair.src.to_str().unwrap()]);
    let counts =
        ["files_found", "dirs_found", "symlinks_found"].map(|name| scan.exits(0).count(name));
    // The root is not counted.
    assert_eq!(counts, [2, 1, 1], "{}", scan.describe());
    assert_eq!(scan.count("bytes_found"), 12, "{}", scan.describe());
    let scan = ringsync(&["scan", pair.src.to_str().unwrap()]);
    assert!(!scan.exits(0).stdout.is_empty());
    ringsync(&["scan", "/no/such/place"])
        .exits(3)
        .complains_of(&["/no/such/place"]);
}

#[test]
fn completions_and_manual() {
    let bash = ringsync(&["completions", "bash"]);
    assert!(
        bash.exits(0).out().contains("complete ") && bash.out().contains("ringsync"),
        "{}",
        bash.describe()
    );
    for shell in ["zsh", "fish"] {
        assert!(
            ringsync(&["completions", shell])
                .exits(0)
                .out()
                .contains("max-delete")
        );
    }
    ringsync(&["completions", "no-such-shell"]).exits(1);
    let man = ringsync(&["man"]);
    assert!(
        man.exits(0).out().contains(".TH ringsync"),
        "{}",
        man.describe()
    );
}

#[test]
fn short_options_combine() {
    let pair = filled();
    let outcome = on(&pair, "sync", &["-aniv", "--delete"]);
    assert_eq!(
        outcome.exits(0).itemized().len(),
        5,
        "{}",
        outcome.describe()
    );
    assert_eq!(snapshot(&pair.dst).len(), 1);
}
