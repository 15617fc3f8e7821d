//! Limits that hold: the throttle coordinator from outside, on real trees.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::path::Path;
use std::time::Duration;

use support::snap::assert_equal_trees;
use support::{BINARY, Pair, Running, command, ringsync};

/// Entries of one directory of a [`wide`] tree, itself not counted.
const FILES_PER_DIR: usize = 100;

/// `dirs` directories of 100 files, at most 50 of them beside each other.
fn wide(root: &Path, dirs: usize) {
    for at in 0..dirs {
        let dir = root.join(format!("{}/{}", at / 50, at % 50));
        fs::create_dir_all(&dir).unwrap();
        for file in 0..FILES_PER_DIR {
            fs::write(dir.join(format!("file{file}")), []).unwrap();
        }
    }
}

fn sync(pair: &Pair, options: &[&str]) -> serde_json::Value {
    let [src, dst] = [&pair.src, &pair.dst].map(|path| path.to_str().unwrap());
    let fixed = ["sync", "--json", "--cores", "1"];
    let args = [&fixed[..], options, &[src, dst]].concat();
    ringsync(&args).exits(0).summary()
}

#[test]
fn the_index_of_200_000_files_stays_below_1000_entries_and_a_slice() {
    let pair = Pair::new();
    wide(&pair.src, 2000);
    let [src, dst] = [&pair.src, &pair.dst].map(|path| path.to_str().unwrap());
    let args = ["sync", "--json", "--max-active-files", "1000", src, dst];
    let summary = ringsync(&args).exits(0).summary();
    assert_eq!(summary["files_copied"], 200_000);
    let files = &summary["throttles"]["files"];
    let (used_max, limit) = (
        files["used_max"].as_u64().unwrap(),
        files["limit"].as_u64().unwrap(),
    );
    // The slice that a directory of 100 gets is at most the one of the beginning.
    let slice = summary["index_slice"].as_u64().unwrap().max(limit / 8);
    assert!(limit <= 1000, "{files}");
    assert!(used_max <= 1000 + slice, "{files} slice {slice}");
    assert!(files["engagements"].as_u64().unwrap() > 0, "{files}");
}

#[test]
fn limits_of_1_slow_a_run_down_and_do_not_stop_it() {
    let pair = Pair::new();
    wide(&pair.src, 60);
    for options in [
        &["--max-active-files", "1"][..],
        &["--max-tasks", "1"],
        &["--crawl-parallelism", "1"],
        &[
            "--max-active-files",
            "1",
            "--max-tasks",
            "1",
            "--crawl-parallelism",
            "1",
            "--io-engine",
            "ring",
            "--io-depth",
            "1",
        ],
    ] {
        let summary = sync(&pair, options);
        assert_eq!(summary["exit_code"], 0, "{options:?}");
        let scan = ringsync(&[&["scan"], options, &[pair.src.to_str().unwrap()]].concat());
        scan.exits(0);
    }
    assert_equal_trees(&pair.src, &pair.dst);
}

#[test]
fn a_giant_directory_passes_through_small_limits() {
    let pair = Pair::new();
    for file in 0..70_000 {
        fs::write(pair.src.join(format!("file{file}")), []).unwrap();
    }
    let [src, dst] = [&pair.src, &pair.dst].map(|path| path.to_str().unwrap());
    let args = [
        "sync",
        "--json",
        "--max-active-files",
        "10",
        "--crawl-parallelism",
        "1",
        src,
        dst,
    ];
    let summary = ringsync(&args).exits(0).summary();
    assert_eq!(summary["files_copied"], 70_000);
}

/// Bytes of resident memory of a process, the most that it ever had.
fn peak_rss(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[test]
fn memory_stays_below_its_limit_while_buffers_could_take_more() {
    const LIMIT: u64 = 88 << 20;
    let pair = Pair::new();
    // Files of two buffers each, many at once.
    for dir in 0..40 {
        let dir = pair.src.join(dir.to_string());
        fs::create_dir(&dir).unwrap();
        for file in 0..20 {
            fs::write(dir.join(file.to_string()), vec![7; 500_000]).unwrap();
        }
    }
    let [src, dst] = [&pair.src, &pair.dst].map(|path| path.to_str().unwrap());
    let args = [
        "sync",
        "--json",
        "--io-engine",
        "ring",
        "--reflink",
        "never",
    ];
    let args = [&args[..], &["--max-memory", "88M", src, dst]].concat();
    let mut running = Running::start(command(BINARY, &args));
    let mut peak = 0;
    while !running.has_ended() {
        peak = peak_rss(running.pid()).unwrap_or(0).max(peak);
        std::thread::sleep(Duration::from_millis(5));
    }
    let outcome = running.wait();
    let summary = outcome.exits(0).summary();
    assert!(
        peak > 0 && peak <= LIMIT,
        "{peak} bytes resident; {summary}"
    );
    assert_equal_trees(&pair.src, &pair.dst);
}
