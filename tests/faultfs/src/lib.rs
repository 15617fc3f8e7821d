//! A filesystem that does what another one does, and fails or is slow when told to: FUSE, passing through to a directory.
//!
//! ```text
//!   kernel ──request──> serving threads ──> rules: fail, later, short, twice ... ──> backing directory
//!                                              │ delayed                                  ^
//!                                              └──────────> timer ─────────────────────────┘
//! ```
//!
//! Short counts reach the caller. A delayed request holds no thread and no lock: any number wait at once, as with a network
//! filesystem. Tests mount it to see things fail; `latencyfs` mounts it to measure.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::return_self_not_must_use
)]

mod backing;
#[path = "../../support/rng.rs"]
#[allow(dead_code)]
mod rng;
mod rules;
mod serve;
mod timer;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use backing::Backing;
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
pub use rules::{Call, Effect, Faults, Rule};
use serve::Server;

/// Threads that take requests. More of them would not be faster: they work, they do not wait.
const THREADS: usize = 4;

/// How it behaves when no rule says otherwise. The default is at once, and the kernel caches nothing: every look at a name,
/// at attributes or at contents arrives here.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manner {
    /// Before the answer to each request.
    pub delay: Duration,
    /// How long the kernel may believe a name or attributes, as `acregmin` of NFS says.
    pub ttl: Duration,
}

/// A served mount. Ends with [`Mount::end`], or when the process dies and fusermount3 is installed.
pub struct Mount {
    session: BackgroundSession,
}

impl Mount {
    /// Mounts `backing` at `mountpoint`, named `name` in the table of mounts.
    ///
    /// # Errors
    /// `backing` cannot be opened, or FUSE cannot be had.
    pub fn new(
        name: &str,
        backing: &Path,
        mountpoint: &Path,
        faults: &Arc<Faults>,
        manner: Manner,
    ) -> std::io::Result<Self> {
        let server =
            || Backing::open(backing).map(|backing| Server::new(backing, faults.clone(), manner));
        let mut config = Config::default();
        config.n_threads = Some(THREADS);
        config.mount_options = vec![
            MountOption::FSName(name.into()),
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
                return Ok(Self { session });
            }
        }
        let session = fuser::spawn_mount(server()?, mountpoint, &config)?;
        Ok(Self { session })
    }

    /// Waits for the end of the session; who calls has unmounted it.
    pub fn join(self) {
        let _ = self.session.umount_and_join();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Unmounts what is at `mountpoint`, or lazily: when the last who uses it has gone. Whether that went well.
#[must_use]
pub fn unmount(mountpoint: &Path, lazily: bool) -> bool {
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
    command.arg(mountpoint).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
