//! Tells users what happens: errors, itemized changes, progress, the summary and the exit code. One thread owns the
//! terminal; shards send to it.

pub mod dashboard;
pub mod errors;
pub mod figures;
mod itemize;
pub mod jobs;
mod names;
pub mod page;
mod progress;
mod screen;
pub mod summary;
pub mod uploads;

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::error::{Cause, Class, Error};
use crate::model::path::escape;
use crate::model::tally::{ErrorTally, Totals};
use crate::model::{Attrs, Item, Sink, Tally, What};
use crate::monitor::Board;
use crate::throttle::{Cancel, Reason};
use dashboard::{Dashboard, Title};
use errors::{ErrorBook, ErrorGroup, Telling};
use names::Names;
use screen::Screen;

pub use crate::model::tally::ErrorCounts;
pub use progress::ProgressStyle;

/// Reports that may wait for the terminal. Beyond it items wait and errors are only counted and logged.
const REPORTS_MAX: usize = 4096;
/// Between two looks at the counters.
const TICK: Duration = Duration::from_millis(100);
/// An interrupted run that takes longer to end (two seconds) tells what else can be done.
const TICKS_OF_PATIENCE: u64 = 20;

/// How changes are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Not at all.
    None,
    /// One name a line.
    Names,
    /// rsync's eleven characters and the name.
    Itemized,
}

/// Options of the reporter.
#[derive(Clone, Copy, Debug)]
pub struct ReportOptions {
    pub detail: Detail,
    /// One JSON object a line instead of words.
    pub json: bool,
    /// Users and groups by number, not by name.
    pub numeric_ids: bool,
    pub progress: ProgressStyle,
    /// The whole screen instead of progress, until it is left.
    pub dashboard: bool,
}

enum Report {
    Error(Error),
    Item(Item),
    End,
}

/// All errors of a run that is over.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    pub counts: ErrorCounts,
    /// By kind. What came faster than it could be told may be in the counts, and in the log, alone.
    pub groups: Vec<ErrorGroup>,
}

/// The sink that shards report to.
struct ChannelSink {
    sender: SyncSender<Report>,
    counters: Arc<ErrorTally>,
    book: Arc<Mutex<ErrorBook>>,
    wants_items: bool,
}

impl Sink for ChannelSink {
    fn error(&self, error: Error) {
        self.counters.of(error.class()).fetch_add(1, Relaxed);
        match self.sender.try_send(Report::Error(error)) {
            Ok(()) => {}
            Err(TrySendError::Full(report) | TrySendError::Disconnected(report)) => {
                self.counters.unprinted.fetch_add(1, Relaxed);
                if let Report::Error(error) = report {
                    tracing::error!("{error}");
                    // Whoever has the book now is not waited for.
                    if let Ok(mut book) = self.book.try_lock() {
                        book.note(&error);
                    }
                }
            }
        }
    }

    fn item(&self, item: Item) {
        let Err(TrySendError::Full(report)) = self.sender.try_send(Report::Item(item)) else {
            // Sent, or the reporter is gone and nobody listens.
            return;
        };
        // Waits for a slow reader, as a pipe should.
        self.counters.waiting.fetch_add(1, Relaxed);
        let _ = self.sender.send(report);
        self.counters.waiting.fetch_sub(1, Relaxed);
    }

    fn wants_items(&self) -> bool {
        self.wants_items
    }
}

/// What a reporter looks at while a run lasts.
pub struct View {
    pub tallies: Arc<[CachePadded<Tally>]>,
    /// What the sampler knows.
    pub board: Arc<Board>,
    /// Set when somebody asked for a snapshot (SIGUSR1); it is printed and the flag cleared.
    pub snapshot_wanted: Arc<AtomicBool>,
    /// Tells when the run is to end.
    pub cancel: Arc<Cancel>,
    /// What the run is.
    pub title: Title,
}

fn lock(book: &Mutex<ErrorBook>) -> MutexGuard<'_, ErrorBook> {
    // Each change is one call, so a panic elsewhere does not spoil it.
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The reporting thread of a run.
pub struct Reporter {
    sender: SyncSender<Report>,
    counters: Arc<ErrorTally>,
    book: Arc<Mutex<ErrorBook>>,
    wants_items: bool,
    thread: JoinHandle<()>,
}

impl Reporter {
    /// # Errors
    /// When the dashboard is wanted and there is no terminal for it.
    pub fn start(options: ReportOptions, view: View) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(REPORTS_MAX);
        let counters = Arc::new(ErrorTally::default());
        let book = Arc::<Mutex<ErrorBook>>::default();
        let dashboard = if options.dashboard {
            Some(Dashboard::start(view.board.clone(), view.title.clone())?)
        } else {
            None
        };
        let consumer = Consumer {
            screen: Screen::new(dashboard, options.progress),
            options,
            view,
            counters: counters.clone(),
            book: book.clone(),
            names: Names::default(),
            ticks_interrupted: 0,
        };
        let thread = std::thread::spawn(move || consumer.run(&receiver));
        Ok(Self {
            sender,
            counters,
            book,
            wants_items: options.detail != Detail::None,
            thread,
        })
    }

    #[must_use]
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(ChannelSink {
            sender: self.sender.clone(),
            counters: self.counters.clone(),
            book: self.book.clone(),
            wants_items: self.wants_items,
        })
    }

    /// Tells at any time whether shards wait because nobody reads what is printed.
    pub fn unread(&self) -> impl Fn() -> bool + Send + 'static {
        let counters = self.counters.clone();
        move || counters.waiting.load(Relaxed) > 0
    }

    /// The counts of errors, for whoever shows them besides.
    #[must_use]
    pub fn errors(&self) -> Arc<ErrorTally> {
        self.counters.clone()
    }

    /// Prints what still waits, and ends the thread.
    #[must_use]
    pub fn finish(self) -> Errors {
        // Fails only when the thread is gone already; then there is nothing to end.
        let _ = self.sender.send(Report::End);
        if self.thread.join().is_err() {
            tracing::error!("the reporting thread panicked");
        }
        let book = lock(&self.book);
        Errors {
            counts: self.counters.read(),
            groups: book.groups(),
        }
    }
}

struct Consumer {
    options: ReportOptions,
    view: View,
    counters: Arc<ErrorTally>,
    book: Arc<Mutex<ErrorBook>>,
    screen: Screen,
    names: Names,
    /// Since the run was interrupted.
    ticks_interrupted: u64,
}

impl Consumer {
    fn run(mut self, receiver: &Receiver<Report>) {
        let mut stdout = std::io::BufWriter::new(std::io::stdout());
        let mut tick_at = Instant::now() + TICK;
        loop {
            let report = receiver.recv_timeout(tick_at.saturating_duration_since(Instant::now()));
            match report {
                Ok(Report::Error(error)) => self.error(&mut stdout, &error),
                Ok(Report::Item(item)) => self.item(&mut stdout, &item),
                Ok(Report::End) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() >= tick_at {
                flush(&mut stdout);
                self.tick();
                tick_at = Instant::now() + TICK;
            }
        }
        flush(&mut stdout);
        self.screen.clear();
    }

    fn tick(&mut self) {
        let totals = Totals::sum(self.view.tallies.iter().map(|tally| &**tally));
        let errors = self.counters.read().total();
        let groups = || lock(&self.book).groups();
        let is_ending = self.view.cancel.is_set();
        self.screen.show(&totals, errors, groups, is_ending);
        self.tell_that_it_lingers();
        if self.view.snapshot_wanted.swap(false, Relaxed) {
            self.screen.say(figures::words(&self.view.board.latest()));
        }
    }

    /// Once, when a server that is gone, say, keeps an interrupted run from ending.
    fn tell_that_it_lingers(&mut self) {
        self.ticks_interrupted += u64::from(self.view.cancel.reason() == Some(Reason::Interrupted));
        if self.ticks_interrupted == TICKS_OF_PATIENCE {
            self.screen.remark(
                "ringsync: interrupted, and waits for what is under way; ^C again ends at once and leaves what the next run repairs",
            );
        }
    }

    fn error(&mut self, stdout: &mut impl Write, error: &Error) {
        tracing::error!("{error}");
        let class = error.class();
        let prefix = match class {
            Class::Warning | Class::Vanished => "warning: ",
            Class::Entry | Class::Fatal => "",
        };
        let telling = lock(&self.book).note(error);
        if telling != Telling::Counted {
            self.screen.say(format!("ringsync: {prefix}{error}"));
        }
        if telling == Telling::WholeAndLast {
            let (verb, side) = (error.op.verb(), error.side.name());
            self.screen.say(format!(
                "ringsync: more errors of this kind are counted only: cannot {verb} {side}: {}",
                error.cause
            ));
            if error.is_refused_owner() {
                self.screen.say(String::from(
                    "ringsync: an NFS server that squashes root lets nobody give files away: no_root_squash there lets it, \
                     --no-owner --no-group do without",
                ));
            }
        }
        if self.options.json {
            let errno = match &error.cause {
                Cause::Errno(errno) => Some(format!("{errno:?}")),
                _ => None,
            };
            let object = serde_json::json!({
                "event": "error",
                "class": class.name(),
                "operation": error.op.verb(),
                "side": error.side.name(),
                "path": escape(&error.path),
                "errno": errno,
                "message": error.to_string(),
            });
            self.line(stdout, &object.to_string());
        }
    }

    fn item(&self, stdout: &mut impl Write, item: &Item) {
        let text = itemize::line(item);
        tracing::info!("{text}");
        if self.options.json {
            let mut object = serde_json::json!({
                "event": "item",
                "change": itemize::word(item.what),
                "kind": item.kind.name(),
                "path": escape(&item.path),
                "target": item.target.as_deref().map(escape),
                "itemized": itemize::code(item),
            });
            self.add_owners(&mut object, item);
            self.line(stdout, &object.to_string());
        } else if self.options.detail == Detail::Names {
            self.line(stdout, &itemize::name(item));
        } else {
            self.line(stdout, &text);
        }
    }

    /// Whose the entry was and is, where that changes.
    fn add_owners(&self, object: &mut serde_json::Value, item: &Item) {
        let (Some((from, to)), What::Repair(attrs) | What::Replace { attrs, .. }) =
            (item.owners, item.what)
        else {
            return;
        };
        let shown = |id: u32, name: &dyn Fn(u32) -> String| {
            if self.options.numeric_ids {
                id.to_string()
            } else {
                name(id)
            }
        };
        if attrs.has(Attrs::OWNER) {
            let [from, to] = [from.uid, to.uid].map(|uid| shown(uid, &|uid| self.names.user(uid)));
            object["owner"] = serde_json::json!({ "from": from, "to": to });
        }
        if attrs.has(Attrs::GROUP) {
            let [from, to] = [from.gid, to.gid].map(|gid| shown(gid, &|gid| self.names.group(gid)));
            object["group"] = serde_json::json!({ "from": from, "to": to });
        }
    }

    fn line(&self, stdout: &mut impl Write, line: &str) {
        self.screen.above(|| {
            if writeln!(stdout, "{line}").is_err() {
                // The reader has gone; the sync goes on without it.
                tracing::debug!("standard output is closed");
            }
        });
    }
}

/// Prints a line on standard error. Nobody may be there to read it (a terminal that was closed, a pipe into `head`), and
/// then the sync goes on without.
pub fn say(line: &str) {
    if writeln!(std::io::stderr(), "{line}").is_err() {
        tracing::debug!("standard error is closed");
    }
}

fn flush(stdout: &mut impl Write) {
    if stdout.flush().is_err() {
        tracing::debug!("standard output is closed");
    }
}
