//! The `ringsync` command. Where things live:
//!
//! ```text
//! main.rs      allocator, parse, exit code          session.rs  one run as a user sees it: log, signals, reports
//! lib.rs       the same engine as a library
//! cli.rs       what was typed                     config.rs   what was decided
//!   config/         settings and where they come from: options, environment, file, machine
//! run.rs       composition root: opens the roots, starts the shards, runs the passes
//!   run/hands.rs    where shard and transfer meet     run/work.rs    a directory's plan, entry by entry
//!   run/links.rs    what --hard-links remembers    run/linked.rs  what it does
//!   run/roots.rs    opens the two directories            run/objects.rs  buckets instead of them
//!   run/guards.rs   what is refused
//!   run/way.rs      a directory in the way of another kind
//!   run/watchdog.rs signals, --stop-after, --timeout     run/flight.rs  what a run waits for
//!   run/backup.rs   where --backup keeps things          run/tuning.rs  its limits and how they move
//!   run/paced.rs    --bwlimit, --ops-limit              run/cleanup.rs  uploads that nobody finished
//! doctor/      what machine and filesystems can do: gathers facts, judges them, tells
//! detect/      memory, control groups, mounts
//! error.rs     one error type, and its class
//! model/       pure: entry, listing, compare, action, xattr, symlink, path, size, tally, event; what counts as unchanged, and
//!              as the same chunk
//!   model/filter/   rules, merge files' scopes, --files-from        fuzz/  targets for what is pure
//! control/     pure: the router between inline calls and the ring, and its trials; limits and how they move: hysteresis, tuner,
//!              depth, pacer, requests; when what failed is tried again; when a server has gone; when a run must end
//! state/       what a job remembers between runs: a row for each directory, chunks of files in part, the runs, the lock
//! throttle/    the coordinator: which directory may begin; permits, budgets, the switch that ends a run
//! monitor/     latencies of each shard, the sampler, snapshots and their history, Prometheus metrics
//! io/          operations as values; inline, ring and pool; buffers and direct I/O; the only unsafe code
//! s3/          what a URL says; s3/bucket/  buckets as trees: the connection and its turns, listings, objects and their attributes;
//!              uploads, copies, deletions
//! shard/       per-core executors, queues, directory visits, the index, giant directories, what rules leave
//! transfer/    files; large ones in chunks, past the page cache, in part; symlinks and specials, deletion; backups, flushing,
//!              verification
//! report/      errors, itemized changes, progress, summary, exit code
//!   report/dashboard/  the whole screen                report/page/  one page about a run
//! ```
//!
//! Calls go downwards in that list only; `tests/arrows.rs` holds the code to it. Beside `src`: `tests/` (with `faultfs`, a
//! filesystem that fails or is slow when told to), `benches/` for single functions, `perf/` for whole runs.

mod session;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use ringsync::cli::{CleanupArgs, Cli, Command, DoctorArgs, JobsAction, JobsArgs, S3Command};
use ringsync::config::{self, Config};
use ringsync::report::summary::exit;
use ringsync::report::{self, say};

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
        Command::Doctor(args) => return doctor(*args),
        Command::Config(args) => {
            return match config::describe(&args) {
                Ok(text) => print(text.as_bytes()),
                Err(message) => fail(exit::USAGE, &message),
            };
        }
        Command::Jobs(args) => return jobs(args),
        Command::S3(S3Command::Cleanup(args)) => return cleanup(*args),
        Command::Completions { shell } => return print(&completions(shell)),
        Command::Man => return print(&manual()),
    };
    match config {
        Ok(config) => ExitCode::from(session::run(config)),
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

fn doctor(args: DoctorArgs) -> ExitCode {
    let buckets = config::buckets_of(args.s3);
    let report = ringsync::doctor::examine(args.src.as_deref(), args.dst.as_deref(), &buckets);
    let text = if args.json {
        report.json() + "\n"
    } else {
        report.words()
    };
    // Whoever closed the pipe still gets the exit code.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(report.exit_code())
}

fn jobs(args: JobsArgs) -> ExitCode {
    let dir = match config::state_dir(args.state) {
        Ok(dir) => dir,
        Err(message) => return fail(exit::USAGE, &message),
    };
    match args.action {
        None => match ringsync::state::jobs::list(&dir) {
            Ok(jobs) => print(report::jobs::text(&dir, &jobs, args.json).as_bytes()),
            Err(message) => fail(exit::FILE_IO, &message),
        },
        Some(JobsAction::Forget { jobs }) => {
            let forget = |job: &String| ringsync::state::jobs::forget(&dir, job);
            let failures: Vec<String> = jobs.iter().filter_map(|job| forget(job).err()).collect();
            if failures.is_empty() {
                ExitCode::from(exit::DONE)
            } else {
                fail(exit::USAGE, &failures.join("\nringsync: "))
            }
        }
    }
}

/// Tells of each unfinished upload what became of it.
fn cleanup(args: CleanupArgs) -> ExitCode {
    let cleanup = match config::cleanup(args) {
        Ok(cleanup) => cleanup,
        Err(message) => return fail(exit::USAGE, &message),
    };
    let ended = match cleanup.run() {
        Ok(ended) => ended,
        Err(message) => return fail(exit::LOCATION, &message),
    };
    let printed = print(report::uploads::text(&ended).as_bytes());
    match report::uploads::exit_code(&ended) {
        exit::DONE => printed,
        code => ExitCode::from(code),
    }
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
