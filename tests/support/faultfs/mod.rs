//! A [`faultfs`] mount of a test's own, gone with it.

// Every test crate uses only some of it.
#![allow(dead_code)]

use crate::support::{Scratch, count, skip};
pub(crate) use faultfs::{Call, Effect, Faults, Rule};
use faultfs::{Manner, Mount, unmount};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

/// What the table of mounts calls it.
const NAME: &str = "ringsync-faults";

/// A mounted filesystem with faults. Gone when dropped; gone too when the process dies, where fusermount3 is installed.
pub(crate) struct FaultFs {
    faults: Arc<Faults>,
    mount: Option<Mount>,
    mountpoint: PathBuf,
    backing: PathBuf,
    aborted: bool,
    _scratch: Scratch,
}

impl FaultFs {
    /// An empty filesystem. `None`, with the skip recorded, where FUSE cannot be had.
    pub(crate) fn new() -> Option<Self> {
        sweep();
        let scratch = Scratch::new();
        let (backing, mountpoint) = (scratch.dir("backing"), scratch.dir("mount"));
        let faults = Arc::new(Faults::new());
        match Mount::new(NAME, &backing, &mountpoint, &faults, Manner::default()) {
            Ok(mount) => Some(Self {
                faults,
                mount: Some(mount),
                mountpoint,
                backing,
                aborted: false,
                _scratch: scratch,
            }),
            Err(error) => {
                skip(&format!("FUSE cannot be mounted here: {error}"));
                None
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// The same tree, where nothing fails.
    pub(crate) fn backing(&self) -> &Path {
        &self.backing
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.faults
    }

    /// As if the server had died: every call of those who use it fails from now on. Root only.
    pub(crate) fn abort(&mut self) {
        self.aborted = true;
        // A forced unmount aborts the connection first, and leaves the mount to those who use it.
        let mut command = Command::new("umount");
        command
            .arg("-f")
            .arg(&self.mountpoint)
            .stderr(Stdio::null());
        let _ = command.status();
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        self.faults.clear();
        for (effect, injected) in self.faults.injected() {
            count(&format!("faults injected: {effect}"), injected);
        }
        let Some(mount) = self.mount.take() else {
            return;
        };
        if unmount(&self.mountpoint, false) || (self.aborted && !is_mounted(&self.mountpoint)) {
            mount.join();
            return;
        }
        // Lazily then, so that it goes with the last process that uses it; but a user that is left is a failure.
        let _ = unmount(&self.mountpoint, true);
        assert!(
            thread::panicking(),
            "{} was still in use",
            self.mountpoint.display()
        );
    }
}

/// Unmounts what killed tests have left: the helper that unmounts for them can be too early, and then it gives up.
fn sweep() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = |line: &&str| line.contains(&format!(" - fuse {NAME} "));
    for mountpoint in mounts
        .lines()
        .filter(ours)
        .filter_map(|line| line.split(' ').nth(4))
    {
        if matches!(
            rustix::fs::stat(mountpoint),
            Err(rustix::io::Errno::NOTCONN)
        ) {
            let _ = unmount(Path::new(mountpoint), true);
        }
    }
}

fn is_mounted(mountpoint: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mountpoint = mountpoint.to_str().unwrap();
    mounts
        .lines()
        .any(|line| line.split(' ').nth(4) == Some(mountpoint))
}
