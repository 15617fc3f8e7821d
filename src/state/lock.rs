//! Keeps two runs of one job apart.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

enum Refused {
    Held(String),
    Broken(String),
}

/// Held as long as it lives; the kernel frees it when the process ends, however it ends.
pub(super) struct Lock(#[allow(dead_code)] Flock<File>); // It is there to be dropped.

impl Lock {
    /// # Errors
    /// Who has it: process and host. Or why the file cannot be used.
    pub(super) fn take(path: &Path) -> Result<Self, String> {
        /// Somebody who only looks (`ringsync jobs`) has it for a moment.
        const PATIENCE: Duration = Duration::from_millis(500);
        const PAUSE: Duration = Duration::from_millis(20);
        let began = Instant::now();
        loop {
            match Self::try_take(path) {
                Err(Refused::Held(_)) if began.elapsed() < PATIENCE => thread::sleep(PAUSE),
                Err(Refused::Held(message) | Refused::Broken(message)) => return Err(message),
                Ok(lock) => return Ok(lock),
            }
        }
    }

    fn try_take(path: &Path) -> Result<Self, Refused> {
        let shown = path.display();
        let cannot = |error: std::io::Error| {
            Refused::Broken(format!("cannot use the lock '{shown}': {error}"))
        };
        let file = super::open_private(path).map_err(cannot)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut held) => {
                let host = nix::unistd::gethostname().unwrap_or_default();
                let owner = format!("process {} on {}", std::process::id(), host.display());
                held.set_len(0).map_err(cannot)?;
                held.rewind().map_err(cannot)?;
                held.write_all(owner.as_bytes()).map_err(cannot)?;
                Ok(Self(held))
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut owner = String::new();
                // Words for a message; without them it says less.
                let _ = file.read_to_string(&mut owner);
                let owner = if owner.is_empty() {
                    "another process"
                } else {
                    &owner
                };
                Err(Refused::Held(format!(
                    "another run of this job is under way: {owner} has the lock '{shown}'"
                )))
            }
            Err((_, errno)) => Err(cannot(errno.into())),
        }
    }
}
