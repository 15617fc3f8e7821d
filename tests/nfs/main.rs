//! On NFS: the kernel's own server and client, in a guest that `tests/nfs/run` boots. What is here runs only there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod behaviour;
mod faults;
mod places;
mod requests;
#[path = "../support/mod.rs"]
mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use support::{Scratch, command, run};

/// What the server exports, as it has it itself.
const EXPORT: &str = "/run/export";
const DISK: &str = "/run/local";
/// Where it is mounted.
const MOUNT: &str = "/run/nfs";

/// `3` or `4.2`: what the guest has mounted.
fn version() -> String {
    std::env::var("nfs_version").expect("the guest says which version it has mounted")
}

/// `kernel` or `ganesha`.
fn server() -> String {
    std::env::var("nfs_server").expect("the guest says which server it runs")
}

/// Runs a command of the guest's system, which must succeed.
fn system(words: &str) -> String {
    let mut words = words.split(' ');
    run(command(words.next().unwrap(), &words.collect::<Vec<_>>()))
        .exits(0)
        .out()
}

/// A directory on a disk beside the server.
fn on_disk() -> Scratch {
    Scratch::below(Path::new(DISK))
}

fn on_nfs() -> Scratch {
    Scratch::below(Path::new(MOUNT))
}

/// What the server has of a path below the mount.
fn on_server(path: &Path) -> PathBuf {
    Path::new(EXPORT).join(path.strip_prefix(MOUNT).unwrap())
}

/// The client forgets what it knows of files that nobody has open.
fn forget() {
    std::fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

/// Another mount of the export, or one with other options, for as long as this lives.
struct Mounted {
    point: PathBuf,
}

impl Mounted {
    /// `options` beside the version, with commas between them.
    fn new(name: &str, options: &str) -> Self {
        let (version, point) = (version(), PathBuf::from(format!("/run/{name}")));
        let from = if version == "3" { EXPORT } else { "/" };
        std::fs::create_dir_all(&point).unwrap();
        let comma = if options.is_empty() { "" } else { "," };
        let all = format!("vers={version},nolock,proto=tcp{comma}{options}");
        system(&format!(
            "mount -t nfs -o {all} 127.0.0.1:{from} {}",
            point.display()
        ));
        Self { point }
    }

    fn path(&self) -> &Path {
        &self.point
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a test that failed may have left something open.
        let _ = Command::new("umount").arg("-l").arg(&self.point).status();
    }
}
