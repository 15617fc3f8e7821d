//! Seeing a run from outside: metrics as Prometheus parses them, the page as a browser opens it, snapshots by signal, errors by
//! kind. The dashboard has tests/dashboard.rs.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use support::snap::assert_equal_trees;
use support::{BINARY, Pair, Running, Scratch, command, command_exists, ringsync, run, skip};

/// How long anything is waited for that happens at once on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(50);
/// Debian's own, which has Debian's packages.
const PYTHON: &str = "/usr/bin/python3";

fn filled(files: usize) -> Pair {
    let pair = Pair::new();
    for file in 0..files {
        let dir = pair.src.join(format!("dir{}", file % 20));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join(format!("file{file}")), vec![b'x'; file % 5000]).unwrap();
    }
    pair
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Looks until there is something.
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "{what} did not come");
        thread::sleep(LOOK);
    }
}

fn get(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    let (head, body) = reply.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("openmetrics-text"), "{head}");
    body.to_owned()
}

/// Every sample as `name{labels} value`, from the parser that Prometheus' own client library has.
const PARSE: &str = "
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    for sample in family.samples:
        print(family.type, sample.name, sorted(sample.labels.items()), sample.value)
";

fn has_parser() -> bool {
    let import = command(PYTHON, &["-c", "import prometheus_client"]);
    Path::new(PYTHON).exists() && run(import).code() == Some(0)
}

fn parsed(metrics: &str) -> String {
    let mut child = Command::new(PYTHON)
        .args(["-c", PARSE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(metrics.as_bytes()).unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}\n{metrics}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn metrics_are_what_prometheus_understands() {
    if !has_parser() {
        return skip("python3-prometheus-client is not installed");
    }
    let pair = filled(3000);
    let args = ["sync", "--metrics-listen", "0", "--ops-limit", "1000"];
    let args = [
        &args[..],
        &["--sample-interval", "0.1", text(&pair.src), text(&pair.dst)],
    ]
    .concat();
    let mut child = command(BINARY, &args).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.next().unwrap().unwrap();
    let address = line.strip_prefix("ringsync: metrics at http://").unwrap();
    let address = address.strip_suffix("/metrics").unwrap();
    let samples = until("an operation", || {
        let samples = parsed(&get(address));
        let found = samples
            .lines()
            .find(|line| line.starts_with("histogram ringsync_operation_seconds_count"));
        found.map(|_| samples.clone())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    for start in [
        "info ringsync_build_info",
        "gauge ringsync_elapsed_seconds [] ",
        "gauge ringsync_throttle_engaged [('resource', 'memory')] 0.0",
        "gauge ringsync_index_entries_limit [] ",
        "gauge ringsync_resident_bytes [] ",
        "histogram ringsync_operation_seconds_count [('operation', 'statx'), ('side', 'source')] ",
        "histogram ringsync_wait_seconds_bucket [('le', '+Inf'), ('stage', 'queue')] ",
        "counter ringsync_copied_bytes_total [] ",
        "counter ringsync_errors_total [('class', 'entry')] 0",
        "gauge ringsync_core_in_flight_depth ",
    ] {
        let found = samples.lines().any(|line| line.starts_with(start));
        assert!(found, "{start} is missing in\n{samples}");
    }
}

#[test]
fn an_address_that_is_taken_is_refused_before_anything_is_done() {
    let pair = filled(3);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let args = [
        "sync",
        "--metrics-listen",
        &address,
        text(&pair.src),
        text(&pair.dst),
    ];
    ringsync(&args).exits(1).complains_of(&[&address]);
    let args = [
        "sync",
        "--metrics-listen",
        "nowhere",
        text(&pair.src),
        text(&pair.dst),
    ];
    ringsync(&args).exits(1).complains_of(&["127.0.0.1"]);
    assert!(fs::read_dir(&pair.dst).map_or(0, Iterator::count) == 0);
}

#[test]
fn a_browser_opens_the_page_without_complaint() {
    if !command_exists("chromium") {
        return skip("chromium is not installed");
    }
    let pair = filled(500);
    let scratch = Scratch::new();
    let page = scratch.path().join("page.html");
    let args = [
        "sync",
        "--report",
        text(&page),
        text(&pair.src),
        text(&pair.dst),
    ];
    ringsync(&args).exits(0);
    let profile = format!("--user-data-dir={}", text(&scratch.dir("profile")));
    let url = format!("file://{}", text(&page));
    let flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
    ];
    let rest = ["--enable-logging=stderr", &profile, "--dump-dom", &url];
    let outcome = run(command("chromium", &[&flags[..], &rest].concat()));
    let (dom, messages) = (outcome.out(), outcome.err());
    assert!(!messages.contains("CONSOLE"), "{messages}");
    for part in [
        "ringsync sync",
        "Over time",
        "<svg",
        "Latencies",
        "File sizes",
        "Slowest directories",
        "Settings",
        "built in",
    ] {
        assert!(dom.contains(part), "{part} is missing in\n{dom}");
    }
}

#[test]
fn a_page_that_cannot_be_written_is_refused_before_anything_is_done() {
    let pair = filled(3);
    let args = [
        "sync",
        "--report",
        "/nowhere/page.html",
        text(&pair.src),
        text(&pair.dst),
    ];
    ringsync(&args)
        .exits(1)
        .complains_of(&["/nowhere/page.html"]);
    assert!(fs::read_dir(&pair.dst).map_or(0, Iterator::count) == 0);
}

#[test]
fn sigusr1_prints_how_things_stand_and_nothing_else_happens() {
    let pair = filled(2000);
    let args = ["sync", "--ops-limit", "4000", "--sample-interval", "0.1"];
    let args = [&args[..], &[text(&pair.src), text(&pair.dst)]].concat();
    let mut running = Running::start(command(BINARY, &args));
    // Not before it listens: until then the signal would end it, as it ends any process.
    until("a first file", || {
        let first = fs::read_dir(&pair.dst).ok()?.next();
        first.map(|_| ())
    });
    // More than once: the first figures come with the second sample.
    while !running.has_ended() {
        running.signal(Signal::SIGUSR1);
        thread::sleep(LOOK * 4);
    }
    let outcome = running.wait();
    outcome.exits(0);
    for part in [
        "files copied",
        "directories: ",
        "memory: ",
        "statx source",
        "p99",
    ] {
        assert!(outcome.err().contains(part), "{}", outcome.describe());
    }
    assert_equal_trees(&pair.src, &pair.dst);
}

#[test]
fn many_errors_of_a_kind_are_told_as_one() {
    let scratch = Scratch::new();
    let pair = filled(0);
    for file in 0..300 {
        fs::write(pair.src.join(format!("file{file}")), "secret").unwrap();
    }
    support::give_to_nobody(&pair.src);
    support::give_to_nobody(&pair.dst);
    for entry in fs::read_dir(&pair.src).unwrap() {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(entry.unwrap().path(), fs::Permissions::from_mode(0o000)).unwrap();
    }
    let args = ["sync", "--json", text(&pair.src), text(&pair.dst)];
    let outcome = support::ringsync_as_nobody(&scratch, &args);
    outcome.exits(23);
    let told = outcome.err().matches("cannot open source 'file").count();
    assert_eq!(told, 100, "{}", outcome.err());
    outcome.complains_of(&["more errors of this kind are counted only"]);
    let objects = outcome.json();
    let errors = objects
        .iter()
        .filter(|object| object["event"] == "error")
        .count();
    assert_eq!(errors, 300, "--json has all");
    let group = &outcome.summary()["error_groups"][0];
    assert_eq!(
        (group["count"].as_u64(), &group["operation"]),
        (Some(300), &"open".into())
    );
    let args = ["sync", text(&pair.src), text(&pair.dst)];
    let outcome = support::ringsync_as_nobody(&scratch, &args);
    assert!(
        outcome.out().contains("300 x cannot open source: "),
        "{}",
        outcome.out()
    );
}
