//! Running commands: to their end, with a limit, and what they left behind.

use super::{BINARY, NOBODY, Scratch, is_root};
use nix::sys::signal::Signal;
use std::ffi::{OsStr, OsString};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// A run that takes longer than this has hung: it is killed and the test fails.
const RUN_LIMIT: Duration = Duration::from_secs(180);

/// What a finished command left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) command: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

impl Outcome {
    /// Panics with the whole output unless the command ended by itself with `code`.
    pub(crate) fn exits(&self, code: i32) -> &Self {
        assert!(
            self.status.code() == Some(code),
            "expected exit code {code}\n{}",
            self.describe()
        );
        self
    }

    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    pub(crate) fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub(crate) fn describe(&self) -> String {
        let Self {
            command, status, ..
        } = self;
        format!(
            "$ {command}\n{status}\n--- stdout\n{}--- stderr\n{}---",
            self.out(),
            self.err()
        )
    }

    /// Asserts that a word of `words` is in the messages, whatever its case.
    pub(crate) fn complains_of(&self, words: &[&str]) -> &Self {
        let messages = self.err().to_lowercase();
        let found = words
            .iter()
            .any(|word| messages.contains(&word.to_lowercase()));
        assert!(
            found,
            "none of {words:?} in the messages\n{}",
            self.describe()
        );
        self
    }

    /// The lines of rsync's itemized format in the output, sorted.
    pub(crate) fn itemized(&self) -> Vec<String> {
        let mut lines: Vec<String> = self
            .out()
            .lines()
            .filter(|line| is_itemized(line))
            .map(str::to_owned)
            .collect();
        lines.sort();
        lines
    }

    /// Every line of the output as JSON.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        let parse = |line: &str| {
            let value: serde_json::Value = serde_json::from_str(line)
                .unwrap_or_else(|e| panic!("{line:?} is not JSON: {e}\n{}", self.describe()));
            assert!(
                value.is_object(),
                "{line:?} is not an object\n{}",
                self.describe()
            );
            value
        };
        self.out().lines().map(parse).collect()
    }

    /// The summary, which is the last JSON line of a run with `--json`.
    pub(crate) fn summary(&self) -> serde_json::Value {
        let last = self
            .json()
            .pop()
            .unwrap_or_else(|| panic!("no JSON\n{}", self.describe()));
        assert_eq!(
            last["event"],
            "summary",
            "the last line is not the summary\n{}",
            self.describe()
        );
        last
    }

    /// A counter of the summary, at its top or one level down.
    pub(crate) fn count(&self, name: &str) -> u64 {
        let summary = self.summary();
        let groups = summary.as_object().unwrap().values();
        let found = std::iter::once(&summary)
            .chain(groups)
            .find_map(|group| group.get(name)?.as_u64());
        found.unwrap_or_else(|| panic!("no counter {name:?} in the summary\n{}", self.describe()))
    }
}

fn is_itemized(line: &str) -> bool {
    let bytes = line.as_bytes();
    let flags = bytes.len() > 12
        && b"<>ch.".contains(&bytes[0])
        && b"fdLDS".contains(&bytes[1])
        && bytes[11] == b' ';
    flags || line.starts_with("*deleting ")
}

/// Runs the binary with `args`.
pub(crate) fn ringsync<A: AsRef<OsStr>>(args: &[A]) -> Outcome {
    run(command(BINARY, args))
}

/// `ringsync sync --io-engine ENGINE OPTIONS SRC DST`
pub(crate) fn sync(engine: &str, options: &[&str], src: &Path, dst: &Path) -> Outcome {
    ringsync(&sync_args(engine, options, src, dst))
}

pub(crate) fn sync_args(engine: &str, options: &[&str], src: &Path, dst: &Path) -> Vec<OsString> {
    let start = ["sync", "--io-engine", engine]
        .into_iter()
        .chain(options.iter().copied())
        .map(OsString::from);
    start.chain([src.into(), dst.into()]).collect()
}

/// `rsync OPTIONS SRC/ DST/`, the reference.
pub(crate) fn rsync(options: &[&str], src: &Path, dst: &Path) -> Outcome {
    let slashed = |path: &Path| path.join("").into_os_string();
    let options = options.iter().map(OsString::from);
    run(command(
        "rsync",
        &options
            .chain([slashed(src), slashed(dst)])
            .collect::<Vec<_>>(),
    ))
}

/// The binary, run as `nobody` when this is root, else as whoever this is.
pub(crate) fn ringsync_as_nobody<A: AsRef<OsStr>>(scratch: &Scratch, args: &[A]) -> Outcome {
    if !is_root() {
        return ringsync(args);
    }
    // Out of the build folder, which may be closed to that user. Copied by another process: a descriptor of ours that is
    // open for writing could be inherited by a command that another thread starts, and the kernel runs no file like that.
    let program = scratch.path().join("ringsync-binary");
    if !program.exists() {
        run(command("cp", &[BINARY.as_ref(), program.as_os_str()])).exits(0);
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = command(program, args);
    // As root, this clears the supplementary groups too.
    command.uid(NOBODY).gid(NOBODY).current_dir(scratch.path());
    run(command)
}

pub(crate) fn command<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, args: &[A]) -> Command {
    let mut command = Command::new(program);
    command
        .args(args)
        .env("LC_ALL", "C")
        // The settings of whoever runs the tests are not theirs.
        .env("RINGSYNC_CONFIG", "/dev/null")
        .env_remove("RUST_LOG")
        .env_remove("RUST_BACKTRACE");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs a command to its end, or kills it at the limit and panics.
pub(crate) fn run(mut command: Command) -> Outcome {
    let text = format!("{command:?}");
    let child = command.spawn().unwrap_or_else(|e| panic!("{text}: {e}"));
    let (pid, (sender, receiver)) = (child.id(), mpsc::channel());
    let waiter = thread::spawn(move || sender.send(child.wait_with_output()));
    let ended = receiver.recv_timeout(RUN_LIMIT);
    let hung = ended.is_err();
    if hung {
        signal(pid, Signal::SIGKILL);
    }
    let output = ended.unwrap_or_else(|_| receiver.recv().unwrap()).unwrap();
    waiter.join().unwrap().unwrap();
    let outcome = Outcome {
        command: text,
        status: output.status,
        stdout: output.stdout,
        stderr: output.stderr,
    };
    assert!(!hung, "killed after {RUN_LIMIT:?}\n{}", outcome.describe());
    outcome
}

/// A command that is still running; killed when dropped.
#[derive(Debug)]
pub(crate) struct Running {
    child: Option<Child>,
    text: String,
}

impl Running {
    pub(crate) fn start(mut command: Command) -> Self {
        let text = format!("{command:?}");
        Self {
            child: Some(command.spawn().unwrap()),
            text,
        }
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().unwrap().try_wait().unwrap().is_some()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, number: Signal) {
        signal(self.pid(), number);
    }

    /// Its end; its output must fit a pipe.
    pub(crate) fn wait(mut self) -> Outcome {
        let Output {
            status,
            stdout,
            stderr,
        } = self.child.take().unwrap().wait_with_output().unwrap();
        Outcome {
            command: self.text.clone(),
            status,
            stdout,
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn signal(pid: u32, number: Signal) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
    let _ = nix::sys::signal::kill(pid, number);
}

/// The signal that ended a command.
pub(crate) fn killed_by(outcome: &Outcome) -> Option<i32> {
    outcome.status.signal()
}
