//! Buckets on either side: what is in one arrives in the other, whatever the server does meanwhile, and nothing else does.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod checksums;
mod conformance;
mod dest;
mod remembering;
mod server;
mod source;
#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use server::{Request, Server};
use support::{Outcome, Scratch, run};

const RCLONE: &[(&str, &str)] = &[("mtime", "1600000000.25")];
const POSIX: &[(&str, &str)] = &[
    ("file-mtime", "1600000000500ms"),
    ("file-permissions", "0100640"),
];

struct Scene {
    server: Server,
    scratch: Scratch,
    dst: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let scratch = Scratch::new();
        let dst = scratch.path().join("dst");
        Self {
            server: Server::start(),
            scratch,
            dst,
        }
    }

    fn run(&self, command: &str, source: &str, options: &[&str]) -> Outcome {
        let dst = self.dst.to_str().unwrap();
        let places = if command == "scan" {
            &[command, source][..]
        } else {
            &[command, source, dst]
        };
        run(self.command(places, options))
    }

    /// A command on buckets of the scene's server.
    fn command(&self, places: &[&str], options: &[&str]) -> Command {
        let mut ringsync = bucket_command(self.scratch.path(), places, options);
        ringsync.args(["--endpoint-url", &self.server.url()]);
        ringsync
    }

    fn sync(&self, options: &[&str]) -> Outcome {
        self.run("sync", "s3://bucket/p", options)
    }

    /// Paths of files below the destination.
    fn files(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        collect(&self.dst, &self.dst, &mut found);
        found
    }

    fn read(&self, path: &str) -> Vec<u8> {
        fs::read(self.dst.join(path)).unwrap()
    }
}

/// A command on buckets, of which only the server is still to be said.
fn bucket_command(home: &Path, places: &[&str], options: &[&str]) -> Command {
    let mut ringsync = support::command(support::BINARY, places);
    // Nobody's own settings have a say.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        ringsync.env_remove(name);
    }
    ringsync
        .args(options)
        .env("HOME", home)
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret");
    ringsync
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else {
            let path = path.strip_prefix(root).unwrap();
            found.insert(path.to_str().unwrap().to_owned());
        }
    }
}

fn wait_for(flag: &AtomicBool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !flag.load(SeqCst) && Instant::now() < patience {
        thread::sleep(Duration::from_millis(5));
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut state = 7_u64;
    let bytes = std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        state.to_be_bytes()[0]
    });
    bytes.take(len).collect()
}

fn heads(seen: &[Request]) -> usize {
    seen.iter()
        .filter(|asked| matches!(asked, Request::Head(_)))
        .count()
}
