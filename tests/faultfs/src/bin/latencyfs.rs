//! `latencyfs BACKING MOUNTPOINT DELAY_MS [TTL_MS]`: shows what is in BACKING at MOUNTPOINT, each request answered
//! DELAY_MS milliseconds (0.2, 1, 5 ...) after it came, and as many at once as there are. The kernel asks again for names and
//! attributes that are older than TTL_MS (0 unless given). Ends with SIGINT or SIGTERM.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use faultfs::{Faults, Manner, Mount, unmount};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};

const USAGE: &str = "usage: latencyfs BACKING MOUNTPOINT DELAY_MS [TTL_MS]";

fn millis(word: &str) -> Result<Duration, String> {
    let millis: f64 = word
        .parse()
        .map_err(|_| format!("{word:?} is not a number of milliseconds"))?;
    Duration::try_from_secs_f64(millis / 1000.0).map_err(|error| format!("{word:?}: {error}"))
}

fn serve(words: &[String]) -> Result<(), String> {
    let (backing, mountpoint, manner) = match words {
        [backing, mountpoint, delay, ttl @ ..] if ttl.len() < 2 => {
            let ttl = ttl.first().map_or(Ok(Duration::ZERO), |ttl| millis(ttl))?;
            let delay = millis(delay)?;
            (
                Path::new(backing),
                Path::new(mountpoint),
                Manner { delay, ttl },
            )
        }
        _ => return Err(USAGE.into()),
    };
    // Most inodes that the kernel knows are held open.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(|error| error.to_string())?;
    // Before there are threads, so that none of them takes the signal.
    let ends: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    ends.thread_block().map_err(|error| error.to_string())?;
    let faults = Arc::new(Faults::new());
    let mount = Mount::new("latencyfs", backing, mountpoint, &faults, manner)
        .map_err(|error| format!("cannot mount at {}: {error}", mountpoint.display()))?;
    println!("mounted");
    ends.wait().map_err(|error| error.to_string())?;
    if unmount(mountpoint, false) {
        mount.join();
        return Ok(());
    }
    let _ = unmount(mountpoint, true);
    Err(format!("{} was still in use", mountpoint.display()))
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match serve(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("latencyfs: {text}");
            ExitCode::FAILURE
        }
    }
}
