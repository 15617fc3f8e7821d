//! What every test crate shares: running the binary, scratch space, skips, and the engines to run under.
//!
//! `run` runs the binary, `tree` builds trees, `snap` and `full` look at them, `image` mounts filesystems, `rng` is the seeded randomness.

// Every test crate compiles its own copy of this module and uses only some of it.
#![allow(dead_code, unused_imports, clippy::unwrap_used, clippy::expect_used)]

pub(crate) mod full;
pub(crate) mod image;
pub(crate) mod rng;
pub(crate) mod run;
pub(crate) mod snap;
pub(crate) mod tree;

pub(crate) use run::{
    Outcome, Running, command, killed_by, ringsync, ringsync_as_nobody, rsync, run, sync, sync_args,
};

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// The binary under test.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_ringsync");
/// A shared-memory filesystem with less room than this (containers have 64 MiB) is not used for scratch space.
const SCRATCH_BYTES_MIN: u64 = 3 << 30;
/// The user and group `nobody`, which the unprivileged tests run as.
pub(crate) const NOBODY: u32 = 65534;

/// The values of `--io-engine` that every behaviour is tested under.
pub(crate) fn engines() -> [&'static str; 3] {
    ["ring", "inline", "auto"]
}

/// Turns `fn name(engine: &str)` into the tests `ring::name`, `inline::name` and `auto::name`.
#[allow(unused_macros)]
macro_rules! under_each_engine {
    ($($name:ident),+ $(,)?) => {
        mod ring { $( #[test] fn $name() { super::$name("ring"); } )+ }
        mod inline { $( #[test] fn $name() { super::$name("inline"); } )+ }
        mod auto { $( #[test] fn $name() { super::$name("auto"); } )+ }
    };
}
pub(crate) use under_each_engine;

/// Records that this test could not run here. The caller returns right after; `tests/run` counts these apart from passes.
pub(crate) fn skip(reason: &str) {
    let test = std::env::var("NEXTEST_TEST_NAME")
        .unwrap_or_else(|_| thread::current().name().unwrap_or("unnamed").to_owned());
    let line = format!("{}::{test}\t{reason}\n", env!("CARGO_CRATE_NAME"));
    eprint!("SKIP: {line}");
    if let Some(log) = std::env::var_os("RINGSYNC_SKIP_LOG") {
        append(log.as_ref(), &line);
    }
}

/// Adds to a count that `tests/run` sums up and prints at its end.
pub(crate) fn count(what: &str, number: u64) {
    let line = format!("{what}\t{number}\n");
    eprint!("COUNT: {line}");
    if let Some(log) = std::env::var_os("RINGSYNC_COUNT_LOG") {
        append(log.as_ref(), &line);
    }
}

/// One write, so that lines of several processes do not mix.
fn append(log: &Path, line: &str) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    file.write_all(line.as_bytes()).unwrap();
}

pub(crate) fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

/// True when not root, after recording the skip.
pub(crate) fn skip_unless_root(why: &str) -> bool {
    if !is_root() {
        skip(&format!("not root: {why}"));
    }
    !is_root()
}

/// Makes `nobody` the owner of a tree, whose paths must be UTF-8.
pub(crate) fn give_to_nobody(root: &Path) {
    for path in snap::snapshot(root).keys() {
        let path = root.join(std::str::from_utf8(path).unwrap());
        std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
}

/// True when `rsync`, the reference, is missing, after recording the skip.
pub(crate) fn skip_without_rsync() -> bool {
    let missing = !command_exists("rsync");
    if missing {
        skip("rsync is not installed");
    }
    missing
}

pub(crate) fn is_on_nfs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == rustix::fs::NFS_SUPER_MAGIC)
}

pub(crate) fn command_exists(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/sbin", "/usr/sbin"].map(PathBuf::from));
    folders
        .map(|folder| folder.join(name))
        .any(|file| file.is_file())
}

/// A directory of this test's own, removed with everything in it (however deep or unreadable) when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self::below(&scratch_root())
    }

    pub(crate) fn below(root: &Path) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("ringsync-")
            .tempdir_in(root)
            .unwrap();
        let path = folder.keep();
        // Open to the unprivileged tests.
        fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
        Self { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Creates and returns a directory in it.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir(&path).unwrap();
        path
    }
}

/// Removes a tree, however deep or unreadable. `remove_dir_all` would hold a descriptor for each level.
pub(crate) fn remove_tree(path: &Path) -> bool {
    let succeeds = |command: &mut Command| command.status().is_ok_and(|status| status.success());
    if !is_root() {
        succeeds(
            Command::new("chmod")
                .args(["-R", "u+rwx"])
                .arg(path)
                .stderr(Stdio::null()),
        );
    }
    succeeds(
        Command::new("rm")
            .args(["-rf", "--one-file-system", "--"])
            .arg(path),
    )
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = remove_tree(&self.path);
        assert!(
            removed || thread::panicking(),
            "{} could not be removed",
            self.path.display()
        );
    }
}

fn scratch_root() -> PathBuf {
    if let Some(root) = std::env::var_os("RINGSYNC_TEST_DIR") {
        return root.into();
    }
    let memory = PathBuf::from("/dev/shm");
    let roomy =
        rustix::fs::statvfs(&memory).is_ok_and(|fs| fs.f_bavail * fs.f_frsize >= SCRATCH_BYTES_MIN);
    let writable = rustix::fs::access(&memory, rustix::fs::Access::WRITE_OK).is_ok();
    if roomy && writable {
        memory
    } else {
        std::env::temp_dir()
    }
}

/// An empty source and an empty destination side by side.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) src: PathBuf,
    pub(crate) dst: PathBuf,
    pub(crate) scratch: Scratch,
    pub(crate) sources: Option<Scratch>,
}

impl Pair {
    /// The source is below `RINGSYNC_TEST_SRC_DIR` when that is set: on another filesystem.
    pub(crate) fn new() -> Self {
        let scratch = Scratch::new();
        let elsewhere = std::env::var_os("RINGSYNC_TEST_SRC_DIR");
        let sources = elsewhere.map(|root| Scratch::below(root.as_ref()));
        Self {
            src: sources.as_ref().unwrap_or(&scratch).dir("src"),
            dst: scratch.dir("dst"),
            scratch,
            sources,
        }
    }

    /// `ringsync sync --io-engine ENGINE OPTIONS src dst`
    pub(crate) fn sync(&self, engine: &str, options: &[&str]) -> Outcome {
        sync(engine, options, &self.src, &self.dst)
    }
}

/// Whether a name is one that ringsync gives to a file that it has not finished: `.NAME.rs-` and eight hex digits.
pub(crate) fn is_temporary(name: &[u8]) -> bool {
    let Some((stem, digits)) = name.len().checked_sub(8).map(|at| name.split_at(at)) else {
        return false;
    };
    stem.starts_with(b".")
        && stem.ends_with(b".rs-")
        && digits.iter().all(|d| b"0123456789abcdef".contains(d))
}
