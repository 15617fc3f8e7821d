//! One run of the command as a user sees it: from the log file and signals to the summary and the exit code.

use std::env;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::{Duration, SystemTime};

use ringsync::config::{Config, LogFormat, Memory};
use ringsync::detect::mounts;
use ringsync::io::probe;
use ringsync::model::Time;
use ringsync::model::path::escape;
use ringsync::monitor::listen::MetricsServer;
use ringsync::monitor::{Board, Snapshot};
use ringsync::report::dashboard::{Title, restore_terminal};
use ringsync::report::page::{self, PageInput};
use ringsync::report::summary::{self, exit};
use ringsync::report::{Errors, Reporter, View, figures, say};
use ringsync::run::watchdog::Watchdog;
use ringsync::run::{Job, Outcome, Passing, Run, Task, limits};
use ringsync::s3::Url;
use ringsync::state::{Ending, JobKey, State, Use};
use ringsync::transfer::Fsync;

/// Why a run could not be made: an exit code, and words.
struct Refusal {
    code: u8,
    message: String,
}

fn refuse(code: u8, message: impl Into<String>) -> Refusal {
    let message = message.into();
    Refusal { code, message }
}

/// Runs a job from its roots to its summary. Returns the exit code.
pub(crate) fn run(config: Config) -> u8 {
    match Session::open(config).and_then(Session::run) {
        Ok(code) => code,
        Err(Refusal { code, message }) => {
            say(&format!("ringsync: {message}"));
            code
        }
    }
}

/// A run that can begin.
struct Session {
    told: Told,
    run: Run,
    /// What the job remembers.
    state: Option<Arc<State>>,
    signals: Signals,
    board: Arc<Board>,
    /// Serves while it is there.
    _metrics: Option<MetricsServer>,
    config: Config,
}

/// What messages and reports say of the job.
struct Told {
    task: Task,
    dry_run: bool,
    umask: u32,
    title: Title,
    started: SystemTime,
}

impl Told {
    fn of(job: &Job) -> Self {
        let name = match job.task {
            Task::Sync => "sync",
            Task::Check => "check",
            Task::Scan => "scan",
        };
        let dry_run = job.dry_run && job.task == Task::Sync;
        let shown = |path: &PathBuf| escape(path.as_os_str().as_encoded_bytes());
        Self {
            task: job.task,
            dry_run: job.dry_run,
            umask: job.umask,
            title: Title {
                task: format!("{name}{}", if dry_run { " (dry run)" } else { "" }),
                source: shown(&job.source),
                destination: job.dest.as_ref().map(shown),
            },
            started: SystemTime::now(),
        }
    }
}

impl Session {
    fn open(config: Config) -> Result<Self, Refusal> {
        if let Some(path) = &config.log_file {
            start_log(path, config.log_format, config.job.umask).map_err(|error| {
                let shown = path.display();
                refuse(
                    exit::USAGE,
                    format!("cannot write --log-file '{shown}': {error}"),
                )
            })?;
        }
        if let Some(path) = &config.page {
            page::check_writable(path).map_err(|error| {
                let shown = path.display();
                refuse(
                    exit::USAGE,
                    format!("cannot write --report '{shown}': {error}"),
                )
            })?;
        }
        probe::check_io_uring().map_err(|message| refuse(exit::FILE_IO, message))?;
        let signals = catch_signals(config.report.dashboard)
            .map_err(|error| refuse(exit::FILE_IO, format!("cannot catch signals: {error}")))?;
        let board = Arc::<Board>::default();
        let metrics = match config.metrics {
            None => None,
            Some(address) => {
                let server = MetricsServer::start(address, board.clone()).map_err(|error| {
                    let message = format!("cannot serve metrics at {address}: {error}");
                    refuse(exit::USAGE, message)
                })?;
                let address = server.address();
                say(&format!("ringsync: metrics at http://{address}/metrics"));
                Some(server)
            }
        };
        let told = Told::of(&config.job);
        let mut run = Run::open(config.job.clone())
            .map_err(|error| refuse(error.exit_code, error.to_string()))?;
        let state = match &config.memory {
            Some(memory) => open_state(memory, &config.job)?.map(Arc::new),
            None => None,
        };
        run = run.passing(passing(&config, state.as_ref()));
        if let (Some(memory), Some(state)) = (&config.memory, &state)
            && memory.partial
        {
            run = run.with_chunks(state.clone());
        }
        Ok(Self {
            told,
            run,
            state,
            signals,
            board,
            _metrics: metrics,
            config,
        })
    }

    fn run(mut self) -> Result<u8, Refusal> {
        let flights = match self.config.watch.timeout {
            Some(_) => self.run.watch_operations(),
            None => Arc::default(),
        };
        let view = View {
            tallies: self.run.tallies.clone(),
            board: self.board.clone(),
            snapshot_wanted: self.signals.snapshot_wanted.clone(),
            cancel: self.run.cancel.clone(),
            title: self.told.title.clone(),
        };
        let reporter = Reporter::start(self.config.report, view)
            .map_err(|error| refuse(exit::USAGE, format!("--dashboard: {error}")))?;
        let sampler = self.run.sample(reporter.errors(), self.board.clone());
        let (interrupted, unread) = (self.signals.interrupted.clone(), reporter.unread());
        let watchdog = Watchdog::start(
            self.config.watch,
            self.run.cancel.clone(),
            flights,
            move || interrupted.load(SeqCst),
            move |waiting| give_up(&waiting, unread()),
        );
        let outcome = self.run.execute(&reporter.sink());
        watchdog.finish();
        let last = sampler.finish();
        let errors = reporter.finish();
        let outcome = outcome.map_err(|error| refuse(error.exit_code, error.to_string()))?;
        let code = summary::exit_code(self.told.task, &outcome, &errors.counts);
        let remembered = self.remember(code);
        self.tell(&outcome, &errors, &last);
        match remembered {
            Ok(()) => Ok(code),
            // The sync is done; the next run has more to do than it should.
            Err(message) => {
                tracing::error!("{message}");
                say(&format!("ringsync: {message}"));
                Ok(if code == exit::DONE {
                    exit::PARTIAL
                } else {
                    code
                })
            }
        }
    }

    /// Ends the run in the state.
    fn remember(&self, code: u8) -> Result<(), String> {
        let Some(state) = &self.state else {
            return Ok(());
        };
        let ending = match code {
            exit::DONE => Ending::Complete,
            exit::INTERRUPTED | exit::TIMEOUT | exit::FILE_IO => Ending::Interrupted,
            _ => Ending::Incomplete,
        };
        // Flushing file by file leaves out repairs, and what others wrote.
        let flushed = self.config.job.fsync == Fsync::End;
        state.finish(ending, flushed)
    }

    /// The summary, in whatever form it is wanted.
    fn tell(&self, outcome: &Outcome, errors: &Errors, last: &Snapshot) {
        let Told { task, dry_run, .. } = self.told;
        let words = summary::words(task, dry_run, outcome, errors);
        tracing::info!("{words}");
        let config = &self.config;
        let mut text = String::new();
        if config.report.json {
            text = summary::json(task, dry_run, outcome, errors, last) + "\n";
        } else if config.quiet {
            for trouble in summary::troubles(outcome, errors) {
                say(&format!("ringsync: {trouble}"));
            }
        } else {
            text = words.clone() + "\n";
        }
        if config.stats && !config.report.json {
            text += &(summary::stats(outcome, &errors.counts) + "\n");
            text += &(figures::words(last) + "\n");
        }
        // The sync is done, whether or not somebody still reads about it.
        let _ = std::io::stdout().write_all(text.as_bytes());
        if let Some(path) = &config.page {
            self.write_page(path, &words, outcome, errors, last);
        }
    }

    fn write_page(
        &self,
        path: &Path,
        words: &str,
        outcome: &Outcome,
        errors: &Errors,
        last: &Snapshot,
    ) {
        let input = PageInput {
            title: &self.told.title,
            started: self.told.started,
            words,
            exit_code: summary::exit_code(self.told.task, outcome, &errors.counts),
            snapshot: last,
            history: &self.board.history(),
            errors: &errors.groups,
            settings: &self.config.settings,
        };
        // The sync itself is done; a page less does not change how it went.
        if let Err(error) = page::write(path, self.told.umask, &input) {
            let shown = path.display();
            tracing::error!("cannot write the report '{shown}': {error}");
            say(&format!(
                "ringsync: cannot write --report '{shown}': {error}"
            ));
        }
    }
}
/// By what the run takes directories for unchanged.
fn passing(config: &Config, state: Option<&Arc<State>>) -> Passing {
    let since = |time: Option<Time>| time.map_or(Passing::Never, Passing::since);
    match (&config.memory, state) {
        (None, _) => since(config.since),
        (Some(memory), Some(state)) if memory.purpose == Use::Since => since(state.last_complete()),
        (Some(_), Some(state)) => Passing::Rows(state.clone()),
        (Some(_), None) => Passing::Never,
    }
}

/// Opens what a job remembers. Both roots are there.
fn open_state(memory: &Memory, job: &Job) -> Result<Option<State>, Refusal> {
    let Some(dest) = &job.dest else {
        return Ok(None);
    };
    let (source, dest_path) = match (place(job, &job.source), place(job, dest)) {
        (Ok(source), Ok(dest)) => (source, dest),
        // A dry run into a directory that is not there.
        (_, Err(_)) if job.dry_run => return Ok(None),
        (Err(error), _) | (_, Err(error)) => {
            let message = format!("cannot tell where SRC and DST are: {error}");
            return Err(refuse(exit::LOCATION, message));
        }
    };
    let key = JobKey {
        source,
        dest: dest_path,
        options: memory.options.clone(),
    };
    let places = if job.to_bucket() {
        // What a server has confirmed is on its disks.
        Vec::new()
    } else {
        mounts::below(dest)
    };
    State::open(&memory.dir, &key, memory.purpose, memory.dry_run, places)
        .map_err(|message| refuse(exit::FILE_IO, message))
}

/// What all names of a place share: its URL, and the server where one is given, or its path without symlinks.
fn place(job: &Job, path: &Path) -> io::Result<Vec<u8>> {
    if let Some(Ok(url)) = Url::parse(path.as_os_str().as_bytes()) {
        let variables = ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"];
        let given = job.s3.endpoint.clone();
        let endpoint = given.or_else(|| variables.into_iter().find_map(|name| env::var(name).ok()));
        let at = endpoint.map_or_else(String::new, |endpoint| format!(" at {endpoint}"));
        return Ok(format!("{url}{at}").into_bytes());
    }
    Ok(path.canonicalize()?.into_os_string().into_encoded_bytes())
}

/// Ends the process although the run has not ended: something in it hangs (a network filesystem whose server is gone).
/// Like a kill, it leaves what the next run repairs.
fn give_up(waiting: &[String], unread: bool) {
    let reason = if unread {
        // Operations that are under way too wait for the shard, which waits for the reader.
        String::from(" somebody to read the output")
    } else {
        format!("\n  {}", waiting.join("\n  "))
    };
    let words = format!(
        "gave up: nothing was completed for --timeout seconds, and again while ending; waiting for:{reason}"
    );
    let last_words = move || {
        restore_terminal();
        tracing::error!("{words}");
        say(&format!("ringsync: {words}"));
    };
    exit_after(last_words, exit::TIMEOUT);
}

/// Ends the process at once, or nearly: what hangs may also be whoever reads our last words.
fn exit_after(last_words: impl FnOnce() + Send + 'static, code: u8) -> ! {
    const TELL_MAX: Duration = Duration::from_secs(1);
    let (told, is_told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        last_words();
        told.send(())
    });
    let _ = is_told.recv_timeout(TELL_MAX);
    signal_hook::low_level::exit(i32::from(code))
}

/// What signals asked for.
struct Signals {
    /// SIGINT, SIGTERM, SIGHUP: the run is to end.
    interrupted: Arc<AtomicBool>,
    /// SIGUSR1: how does it stand?
    snapshot_wanted: Arc<AtomicBool>,
}

/// The first signal to end lets what is in flight end; the second ends the process at once. One that is ignored (`nohup`)
/// stays ignored. Where a `dashboard` has the terminal, a thread handles them: it can give the terminal back.
fn catch_signals(dashboard: bool) -> std::io::Result<Signals> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
    let interrupted = Arc::new(AtomicBool::new(false));
    let ignored = limits::ignored_signals();
    let wanted = [SIGINT, SIGTERM, SIGHUP]
        .into_iter()
        .filter(|signal| ignored >> (signal - 1) & 1 == 0);
    if dashboard {
        let mut signals = signal_hook::iterator::Signals::new(wanted)?;
        let interrupted = interrupted.clone();
        std::thread::spawn(move || {
            for _ in signals.forever() {
                if interrupted.swap(true, SeqCst) {
                    exit_after(restore_terminal, exit::INTERRUPTED);
                }
            }
        });
    } else {
        let code = i32::from(exit::INTERRUPTED);
        for signal in wanted {
            signal_hook::flag::register_conditional_shutdown(signal, code, interrupted.clone())?;
            signal_hook::flag::register(signal, interrupted.clone())?;
        }
    }
    let snapshot_wanted = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register(SIGUSR1, snapshot_wanted.clone())?;
    Ok(Signals {
        interrupted,
        snapshot_wanted,
    })
}

/// Appends what is traced to a file; `RINGSYNC_LOG` chooses levels, as in `debug` or `ringsync=trace`.
fn start_log(path: &Path, format: LogFormat, umask: u32) -> std::io::Result<()> {
    use tracing_subscriber::EnvFilter;
    let file = std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o666 & !umask)
        .open(path)?;
    let filter = EnvFilter::try_from_env("RINGSYNC_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false)
        .with_writer(std::sync::Mutex::new(file));
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}
