//! The `ringsync` command. Where things live:
//!
//! ```text
//! main.rs      allocator, parse, run, exit code
//! lib.rs       the same engine as a library
//! cli.rs       what was typed                     config.rs   what was decided
//! run.rs       composition root: opens the roots, starts the shards, runs the passes
//!   run/hands.rs    where shard and transfer meet     run/work.rs    a directory's plan, entry by entry
//!   run/links.rs    what --hard-links remembers    run/linked.rs  what it does
//!   run/roots.rs    opens the two directories            run/guards.rs  what is refused
//!   run/way.rs      a directory in the way of another kind
//!   run/watchdog.rs signals, --stop-after, --timeout     run/flight.rs  what a run waits for
//! doctor/      what machine and filesystems can do: gathers facts, judges them, tells
//!   run/backup.rs   where --backup keeps things
//! error.rs     one error type, and its class
//! model/       pure: entry, listing, compare, action, xattr, symlink, path, size, tally, event
//!   model/filter/   rules, merge files' scopes, --files-from        fuzz/  targets for what is pure
//! control/     pure: the router between inline calls and the ring, when a run must end
//! throttle/    permits, budgets, the switch that ends a run
//! io/          operations as values; inline, ring and pool; the only unsafe code
//! shard/       per-core executors, queues, directory visits, the index, giant directories, what rules leave
//! transfer/    files, large files, symlinks and specials, deletion; backups, flushing, verification
//! report/      errors, itemized changes, progress, summary, exit code
//! ```
//!
//! Calls go downwards in that list only; `tests/arrows.rs` holds the code to it.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use ringsync::cli::{Cli, Command, DoctorArgs};
use ringsync::config::Config;
use ringsync::io::probe;
use ringsync::report::summary::{self, exit};
use ringsync::report::{Reporter, say};
use ringsync::run::watchdog::Watchdog;
use ringsync::run::{Run, limits};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, everything else is a usage error. The output may be a closed pipe.
            let _ = error.print();
            let code = if error.use_stderr() {
                exit::USAGE
            } else {
                exit::DONE
            };
            return ExitCode::from(code);
        }
    };
    let config = match cli.command {
        Command::Sync(args) => Config::for_sync(*args),
        Command::Check(args) => Config::for_check(*args),
        Command::Scan(args) => Config::for_scan(*args),
        Command::Doctor(args) => return doctor(&args),
        Command::Completions { shell } => return print(&completions(shell)),
        Command::Man => return print(&manual()),
    };
    match config {
        Ok(config) => ExitCode::from(run(config)),
        Err(message) => fail(exit::USAGE, &message),
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    say(&format!("ringsync: {message}"));
    ExitCode::from(code)
}

fn print(text: &[u8]) -> ExitCode {
    match std::io::stdout().write_all(text) {
        Ok(()) => ExitCode::from(exit::DONE),
        Err(error) => fail(
            exit::FILE_IO,
            &format!("cannot write to standard output: {error}"),
        ),
    }
}

fn doctor(args: &DoctorArgs) -> ExitCode {
    let report = ringsync::doctor::examine(args.src.as_deref(), args.dst.as_deref());
    let text = if args.json {
        report.json() + "\n"
    } else {
        report.words()
    };
    // Whoever closed the pipe still gets the exit code.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(report.exit_code())
}

fn completions(shell: clap_complete::Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ringsync", &mut script);
    script
}

/// One page: the command itself, and then each subcommand with its options.
fn manual() -> Vec<u8> {
    let mut command = Cli::command();
    command.build();
    let mut page = Vec::new();
    let mut render = |command: clap::Command| {
        // Writing to memory cannot fail.
        let _ = clap_mangen::Man::new(command).render(&mut page);
    };
    render(command.clone());
    for subcommand in command
        .get_subcommands()
        .filter(|sub| sub.get_name() != "help")
    {
        render(subcommand.clone());
    }
    page
}

/// Runs a job from its roots to its summary.
fn run(config: Config) -> u8 {
    let fail = |code: u8, message: &str| {
        say(&format!("ringsync: {message}"));
        code
    };
    if let Some(path) = &config.log_file
        && let Err(error) = start_log(path, config.job.umask)
    {
        let shown = path.display();
        return fail(
            exit::USAGE,
            &format!("cannot write --log-file '{shown}': {error}"),
        );
    }
    if let Err(message) = probe::check_io_uring() {
        return fail(exit::FILE_IO, &message);
    }
    let interrupted = match catch_signals() {
        Ok(flag) => flag,
        Err(error) => return fail(exit::FILE_IO, &format!("cannot catch signals: {error}")),
    };
    let (task, dry_run) = (config.job.task, config.job.dry_run);
    let mut run = match Run::open(config.job) {
        Ok(run) => run,
        Err(error) => return fail(error.exit_code, &error.to_string()),
    };
    let flights = match config.watch.timeout {
        Some(_) => run.watch_operations(),
        None => Arc::default(),
    };
    let reporter = Reporter::start(config.report, run.tallies.clone());
    let unread = reporter.unread();
    let watchdog = Watchdog::start(
        config.watch,
        run.cancel.clone(),
        flights,
        move || interrupted.load(SeqCst),
        move |waiting| give_up(&waiting, unread()),
    );
    let outcome = run.execute(&reporter.sink());
    watchdog.finish();
    let errors = reporter.finish();
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => return fail(error.exit_code, &error.to_string()),
    };
    let words = summary::words(task, dry_run, &outcome, &errors);
    tracing::info!("{words}");
    let mut text = String::new();
    if config.report.json {
        text = summary::json(task, dry_run, &outcome, &errors) + "\n";
    } else if config.quiet {
        for trouble in summary::troubles(&outcome, &errors) {
            say(&format!("ringsync: {trouble}"));
        }
    } else {
        text = words + "\n";
    }
    if config.stats && !config.report.json {
        text += &(summary::stats(&outcome, &errors) + "\n");
    }
    // The sync is done, whether or not somebody still reads about it.
    let _ = std::io::stdout().write_all(text.as_bytes());
    summary::exit_code(task, &outcome, &errors)
}

/// Ends the process although the run has not ended: something in it hangs (a network filesystem whose server is gone).
/// Like a kill, it leaves what the next run repairs.
fn give_up(waiting: &[String], unread: bool) {
    /// What hangs may also be whoever reads our messages.
    const TELL_MAX: Duration = Duration::from_secs(1);
    let reason = if unread {
        // Operations that are under way too wait for the shard, which waits for the reader.
        String::from(" somebody to read the output")
    } else {
        format!("\n  {}", waiting.join("\n  "))
    };
    let words = format!(
        "gave up: nothing was completed for --timeout seconds, and again while ending; waiting for:{reason}"
    );
    let (told, is_told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        tracing::error!("{words}");
        say(&format!("ringsync: {words}"));
        told.send(())
    });
    let _ = is_told.recv_timeout(TELL_MAX);
    signal_hook::low_level::exit(i32::from(exit::TIMEOUT));
}

/// The first of these signals lets what is in flight end; the second ends the process at once. One that is ignored
/// (`nohup`) stays ignored.
fn catch_signals() -> std::io::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let interrupted = Arc::new(AtomicBool::new(false));
    let ignored = limits::ignored_signals();
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if ignored >> (signal - 1) & 1 == 1 {
            continue;
        }
        let code = i32::from(exit::INTERRUPTED);
        signal_hook::flag::register_conditional_shutdown(signal, code, interrupted.clone())?;
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    Ok(interrupted)
}

/// Appends what is traced to a file; `RINGSYNC_LOG` chooses levels, as in `debug` or `ringsync=trace`.
fn start_log(path: &Path, umask: u32) -> std::io::Result<()> {
    use tracing_subscriber::EnvFilter;
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o666 & !umask)
        .open(path)?;
    let filter = EnvFilter::try_from_env("RINGSYNC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::sync::Mutex::new(file))
        .init();
    Ok(())
}
