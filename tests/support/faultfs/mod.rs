//! A filesystem that does what another one does, and fails when told to: FUSE, passing through to a directory.
//!
//! ```text
//!   kernel ──request──> serving threads ──> rules: fail, later, short, twice ... ──> backing directory
//!                                              │ delayed                                  ^
//!                                              └──────────> timer ─────────────────────────┘
//! ```
//!
//! The kernel caches nothing of it: every look at a name, at attributes or at contents arrives here, and short counts
//! reach the caller. A delayed request holds no thread and no lock, so it serves as a filesystem with latency too.

// Every test crate uses only some of it.
#![allow(dead_code)]

mod backing;
mod rules;
mod serve;
mod timer;

pub(crate) use rules::{Call, Effect, Faults, Rule};

use crate::support::{Scratch, count, is_root, skip};
use backing::Backing;
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use serve::Server;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

/// Threads that take requests. More of them would not be faster: they work, they do not wait.
const THREADS: usize = 4;

/// A mounted filesystem with faults. Gone when dropped; gone too when the process dies, where fusermount3 is installed.
pub(crate) struct FaultFs {
    faults: Arc<Faults>,
    session: Option<BackgroundSession>,
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
        match mount(&backing, &mountpoint, &faults) {
            Ok(session) => Some(Self {
                faults,
                session: Some(session),
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
        run_quietly(Command::new("umount").arg("-f").arg(&self.mountpoint));
    }
}

impl Drop for FaultFs {
    fn drop(&mut self) {
        self.faults.clear();
        for (effect, injected) in self.faults.injected() {
            count(&format!("faults injected: {effect}"), injected);
        }
        let Some(session) = self.session.take() else {
            return;
        };
        if unmount(&self.mountpoint, false) || (self.aborted && !is_mounted(&self.mountpoint)) {
            let _ = session.umount_and_join();
            return;
        }
        // Lazily then, so that it goes with the last process that uses it; but a user that is left is a failure.
        unmount(&self.mountpoint, true);
        assert!(
            thread::panicking(),
            "{} was still in use",
            self.mountpoint.display()
        );
    }
}

fn mount(
    backing: &Path,
    mountpoint: &Path,
    faults: &Arc<Faults>,
) -> std::io::Result<BackgroundSession> {
    let server = || Backing::open(backing).map(|backing| Server::new(backing, faults.clone()));
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    config.mount_options = vec![
        MountOption::FSName("ringsync-faults".into()),
        MountOption::DefaultPermissions,
    ];
    if is_root() {
        config
            .mount_options
            .extend([MountOption::Dev, MountOption::Suid]);
        // The helper that unmounts after our death needs access for all, which root may give.
        config.acl = SessionACL::All;
        let mut with_helper = config.clone();
        with_helper.mount_options.push(MountOption::AutoUnmount);
        if let Ok(session) = fuser::spawn_mount(server()?, mountpoint, &with_helper) {
            return Ok(session);
        }
    }
    fuser::spawn_mount(server()?, mountpoint, &config)
}

fn unmount(mountpoint: &Path, lazily: bool) -> bool {
    let (program, lazy) = if is_root() {
        ("umount", "-l")
    } else {
        ("fusermount3", "-uz")
    };
    let mut command = Command::new(program);
    if lazily {
        command.arg(lazy);
    } else if !is_root() {
        command.arg("-u");
    }
    run_quietly(command.arg(mountpoint))
}

fn run_quietly(command: &mut Command) -> bool {
    let status = command.stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Unmounts what killed tests have left: the helper that unmounts for them can be too early, and then it gives up.
fn sweep() {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let ours = |line: &&str| line.contains(" - fuse ringsync-faults ");
    for mountpoint in mounts
        .lines()
        .filter(ours)
        .filter_map(|line| line.split(' ').nth(4))
    {
        if matches!(
            rustix::fs::stat(mountpoint),
            Err(rustix::io::Errno::NOTCONN)
        ) {
            unmount(Path::new(mountpoint), true);
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
