//! `--dashboard` on a real terminal, which `tmux` plays.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use support::snap::assert_equal_trees;
use support::tree::Tree;
use support::{BINARY, Pair, Scratch, command_exists, ringsync, skip};

/// What takes longer than this to be seen never comes.
const SEEN_LIMIT: Duration = Duration::from_secs(20);
/// A slowed run that goes on by itself ends within this.
const END_LIMIT: Duration = Duration::from_secs(150);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
const PROMPT: &str = "ready>";

/// Files of a run that lasts some seconds, so that there is time to look, and of one that nobody waits for.
const FILES_FEW: usize = 600;
const FILES_MANY: usize = 6000;
/// `--ops-limit`: operations per second. A file takes several.
const OPS_LIMIT: &str = "300";

/// A terminal with a shell in it; both end when dropped.
struct Terminal {
    socket: PathBuf,
    _scratch: Scratch,
}

impl Terminal {
    /// Absent where there is no `tmux`, after recording the skip. `environment` is as `env` takes it.
    fn open(width: u16, height: u16, environment: &[&str]) -> Option<Self> {
        if !command_exists("tmux") {
            skip("tmux is not installed");
            return None;
        }
        let scratch = Scratch::new();
        let terminal = Self {
            socket: scratch.path().join("tmux"),
            _scratch: scratch,
        };
        let (width, height) = (width.to_string(), height.to_string());
        let prompt = format!("PS1={PROMPT} ");
        let shell = [
            "env",
            "-u",
            "NO_COLOR",
            "-u",
            "ENV",
            "LC_ALL=C.UTF-8",
            &prompt,
        ];
        let start = ["new-session", "-d", "-x", &width, "-y", &height];
        terminal.tmux(&[&start[..], &shell, environment, &["sh"]].concat());
        terminal.wait_for(PROMPT);
        Some(terminal)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("tmux");
        command
            .args(["-u", "-f", "/dev/null", "-S"])
            .arg(&self.socket)
            .args(args)
            .env("LC_ALL", "C.UTF-8")
            .env_remove("TMUX")
            .stdin(Stdio::null());
        command
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = self.command(args).output().unwrap();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {args:?}: {complaint}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Types a line.
    fn type_line(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.press("Enter");
    }

    fn press(&self, key: &str) {
        self.tmux(&["send-keys", key]);
    }

    fn resize(&self, width: u16, height: u16) {
        let (width, height) = (width.to_string(), height.to_string());
        self.tmux(&["resize-window", "-x", &width, "-y", &height]);
    }

    /// What is seen now; lines that the terminal had to break are whole.
    fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-J"])
    }

    /// What is seen now, with the sequences that make its colours.
    fn coloured(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    fn has_second_screen(&self) -> bool {
        self.tmux(&["display-message", "-p", "#{alternate_on}"])
            .trim()
            == "1"
    }

    fn wait_until(&self, what: &str, limit: Duration, holds: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + limit;
        loop {
            let text = self.text();
            if holds(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "never seen: {what}\n{text}");
            sleep(LOOK_INTERVAL);
        }
    }

    fn wait_for(&self, wanted: &str) -> String {
        self.wait_until(wanted, SEEN_LIMIT, |text| text.contains(wanted))
    }

    fn wait_for_all(&self, wanted: &[&str]) -> String {
        let all = |text: &str| wanted.iter().all(|wanted| text.contains(wanted));
        self.wait_until(&format!("all of {wanted:?}"), SEEN_LIMIT, all)
    }

    /// Starts a slowed run with a dashboard.
    fn start_run(&self, pair: &Pair) {
        let quoted = |path: &Path| format!("'{}'", path.display());
        let mut line = format!("'{BINARY}' sync --dashboard --ops-limit {OPS_LIMIT} ");
        // The exit code cannot be seen in the line itself.
        let (src, dst) = (quoted(&pair.src), quoted(&pair.dst));
        write!(line, "{src} {dst}; echo ended with $?").unwrap();
        self.type_line(&line);
    }

    /// The process that the terminal is for now.
    fn foreground(&self) -> Pid {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", shell.trim())).unwrap();
        // proc(5): after the name in parentheses, field 8 is the foreground process group.
        let fields = stat.rsplit(')').next().unwrap();
        let group = fields.split_whitespace().nth(5).unwrap();
        Pid::from_raw(group.parse().unwrap())
    }

    fn interrupt_run(&self) -> String {
        self.press("C-c");
        self.wait_for("ended with 20")
    }

    /// The terminal is as a shell wants it: lines are edited and echoed, and ^C and ^Z make signals.
    fn assert_restored(&self) {
        assert!(!self.has_second_screen());
        assert_eq!(
            self.tmux(&["display-message", "-p", "#{cursor_flag}"])
                .trim(),
            "1"
        );
        self.type_line("clear; stty -a; echo mode $((1 + 1))");
        let text = self.wait_for("mode 2");
        for word in ["icanon", "echo", "isig", "iexten", "ixon", "opost"] {
            let is_on = text.split_whitespace().any(|other| other == word);
            assert!(is_on, "{word} is off\n{text}");
        }
        assert!(
            text.contains("susp = ^Z") && text.contains("quit = ^\\"),
            "{text}"
        );
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self
            .command(&["kill-server"])
            .stderr(Stdio::null())
            .status();
    }
}

fn pair(files: usize) -> Pair {
    let pair = Pair::new();
    let mut tree = Tree::new();
    for number in 0..files {
        let path = format!("directory-{:03}/file-{number:05}", number / 50);
        tree.file(&path, "some contents");
    }
    tree.write_to(&pair.src);
    pair
}

/// Whether a text has a sequence that sets a colour (ECMA-48 SGR).
fn has_colours(text: &str) -> bool {
    let sequences = text.split("\x1b[").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != ';')?;
        rest[end..].starts_with('m').then_some(&rest[..end])
    });
    let is_colour = |code: &str| {
        let code = code.parse().unwrap_or(0);
        matches!(code, 30..=38 | 40..=48 | 90..=97 | 100..=107)
    };
    sequences.flat_map(|codes| codes.split(';')).any(is_colour)
}

#[test]
fn the_view_shows_figures_and_q_leaves_it_but_not_the_run() {
    let Some(terminal) = Terminal::open(80, 24, &["TERM=xterm-256color"]) else {
        return;
    };
    let pair = pair(FILES_FEW);
    terminal.start_run(&pair);
    terminal.wait_for_all(&[
        "ringsync sync",
        "RUNNING",
        "Active dirs",
        "Waiting dirs",
        "In index",
        "Processed",
        "Copied",
        "Files/s",
        "Dirs/s",
        "Memory",
        "CPU",
        "FILES  [NORMAL]",
        "MEMORY [NORMAL]",
        "TASKS  [NORMAL]",
        "Latencies",
        "p50",
        "q: leave this view",
    ]);
    assert!(terminal.has_second_screen());
    // The first sample with work in it.
    terminal.wait_until("a latency", SEEN_LIMIT, |text| {
        let is_latency = |word: &str| {
            let unit = word.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
            unit != word && matches!(unit, "us" | "ms")
        };
        text.split_whitespace().any(is_latency)
    });
    terminal.press("h");
    terminal.wait_for("^C: end the run");
    terminal.press("p");
    terminal.wait_for("view paused");
    terminal.press("Left");
    terminal.press("p");
    terminal.wait_until("a view that goes on", SEEN_LIMIT, |text| {
        text.contains("RUNNING") && !text.contains("view paused")
    });
    terminal.press("q");
    terminal.wait_until("the screen before", SEEN_LIMIT, |_| {
        !terminal.has_second_screen()
    });
    let ended = |text: &str| text.contains("ended with 0");
    let text = terminal.wait_until("the end of the run", END_LIMIT, ended);
    assert!(text.contains("600 files copied"), "{text}");
    terminal.assert_restored();
    assert_equal_trees(&pair.src, &pair.dst);
}

#[test]
fn a_run_that_ends_leaves_the_view_and_says_what_it_did() {
    let Some(terminal) = Terminal::open(120, 40, &["TERM=xterm-256color"]) else {
        return;
    };
    let pair = pair(FILES_FEW / 2);
    terminal.start_run(&pair);
    terminal.wait_for_all(&["RUNNING", "Cores", "p90", "Limit events", "Errors"]);
    let ended = |text: &str| text.contains("ended with 0");
    let text = terminal.wait_until("the end of the run", END_LIMIT, ended);
    assert!(text.contains("300 files copied"), "{text}");
    assert!(!text.contains("RUNNING"), "{text}");
    terminal.assert_restored();
    assert_equal_trees(&pair.src, &pair.dst);
}

#[test]
fn the_view_follows_the_size_of_the_terminal() {
    let Some(terminal) = Terminal::open(120, 40, &["TERM=xterm-256color"]) else {
        return;
    };
    let pair = pair(FILES_MANY);
    terminal.start_run(&pair);
    terminal.wait_for_all(&["RUNNING", "Cores", "p90", "q: leave this view"]);
    terminal.resize(80, 24);
    terminal.wait_until("80x24", SEEN_LIMIT, |text| {
        let is_whole = text.contains("Counters") && text.contains("q: leave this view");
        is_whole && !text.contains("Cores") && text.trim_end().lines().count() == 24
    });
    terminal.resize(40, 10);
    terminal.wait_until("40x10", SEEN_LIMIT, |text| {
        text.contains("Processed") && text.contains("TASKS  [NORMAL]") && !text.contains("Counters")
    });
    terminal.resize(20, 5);
    terminal.wait_until("20x5", SEEN_LIMIT, |text| {
        text.contains(" err") && text.trim().lines().count() == 1
    });
    terminal.resize(160, 50);
    terminal.wait_for_all(&["Cores", "Slowest directories", "q: leave this view"]);
    terminal.interrupt_run();
    terminal.assert_restored();
}

#[test]
fn an_interrupt_ends_the_run_and_gives_the_terminal_back() {
    let Some(terminal) = Terminal::open(80, 24, &["TERM=xterm-256color"]) else {
        return;
    };
    let pair = pair(FILES_MANY);
    terminal.start_run(&pair);
    terminal.wait_for("RUNNING");
    let text = terminal.interrupt_run();
    assert!(text.contains("interrupted"), "{text}");
    terminal.assert_restored();
}

/// The second one ends the process at once, without the ordinary way out.
#[test]
fn two_interrupts_give_the_terminal_back_too() {
    let Some(terminal) = Terminal::open(80, 24, &["TERM=xterm-256color"]) else {
        return;
    };
    let pair = pair(FILES_MANY);
    terminal.start_run(&pair);
    terminal.wait_for("RUNNING");
    terminal.press("C-c");
    terminal.interrupt_run();
    terminal.assert_restored();
}

#[test]
fn a_run_that_was_stopped_gets_its_view_back() {
    let Some(terminal) = Terminal::open(80, 24, &["TERM=xterm-256color"]) else {
        return;
    };
    let pair = pair(FILES_MANY);
    terminal.start_run(&pair);
    terminal.wait_for("RUNNING");
    let pid = terminal.foreground();
    kill(pid, Signal::SIGSTOP).unwrap();
    terminal.wait_until("the shell", SEEN_LIMIT, |_| terminal.foreground() != pid);
    terminal.type_line("clear; echo mode $((1 + 1))");
    terminal.wait_for("mode 2");
    terminal.type_line("fg");
    terminal.wait_for_all(&["RUNNING", "Counters", "q: leave this view"]);
    terminal.press("q");
    let left = |_: &str| !terminal.has_second_screen();
    terminal.wait_until("the screen before", SEEN_LIMIT, left);
    terminal.press("C-c");
    terminal.wait_for("interrupted");
    terminal.assert_restored();
}

#[test]
fn colours_are_only_where_they_are_wanted() {
    let cases = [
        ("TERM=xterm-256color", "NO_COLOR=", true),
        ("TERM=xterm-256color", "NO_COLOR=1", false),
        ("TERM=vt100", "NO_COLOR=", false),
    ];
    for (term, no_color, expected) in cases {
        let Some(terminal) = Terminal::open(80, 24, &[term, no_color]) else {
            return;
        };
        let pair = pair(FILES_MANY);
        terminal.start_run(&pair);
        terminal.wait_for_all(&["RUNNING", "FILES  [NORMAL]"]);
        let coloured = terminal.coloured();
        assert_eq!(
            has_colours(&coloured),
            expected,
            "{term} {no_color}\n{coloured:?}"
        );
        terminal.interrupt_run();
        terminal.assert_restored();
    }
}

#[test]
fn without_a_terminal_it_says_so_and_copies_nothing() {
    let pair = pair(3);
    let [src, dst] = [&pair.src, &pair.dst].map(|path| path.to_str().unwrap());
    let outcome = ringsync(&["sync", "--dashboard", src, dst]);
    outcome.exits(1).complains_of(&["is not a terminal"]);
    assert_eq!(std::fs::read_dir(&pair.dst).unwrap().count(), 0);
}
