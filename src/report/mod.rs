//! Tells users what happens: errors, itemized changes, progress, the summary and the exit code. One thread owns the
//! terminal; shards send to it.

mod itemize;
mod names;
mod progress;
pub mod summary;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;

use crate::error::{Cause, Class, Error};
use crate::model::path::escape;
use crate::model::tally::Totals;
use crate::model::{Attrs, Item, Sink, Tally, What};
use names::Names;
use progress::Progress;

pub use progress::ProgressStyle;

/// Reports that may wait for the terminal. Beyond it items wait and errors are only counted and logged.
const REPORTS_MAX: usize = 4096;
/// Between two looks at the counters.
const TICK: Duration = Duration::from_millis(100);

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
}

/// Errors by class, exact even when the channel was full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorCounts {
    /// Told, and no failure.
    pub warnings: u64,
    pub vanished: u64,
    pub entry: u64,
    pub fatal: u64,
    /// Errors that were counted and not printed, because they came faster than the terminal took them.
    pub unprinted: u64,
}

impl ErrorCounts {
    #[must_use]
    pub fn total(&self) -> u64 {
        self.vanished + self.entry + self.fatal
    }
}

#[derive(Debug, Default)]
struct Counters {
    warnings: AtomicU64,
    vanished: AtomicU64,
    entry: AtomicU64,
    fatal: AtomicU64,
    unprinted: AtomicU64,
    /// Shards that wait for the terminal now.
    waiting: AtomicU64,
}

impl Counters {
    fn read(&self) -> ErrorCounts {
        ErrorCounts {
            warnings: self.warnings.load(Relaxed),
            vanished: self.vanished.load(Relaxed),
            entry: self.entry.load(Relaxed),
            fatal: self.fatal.load(Relaxed),
            unprinted: self.unprinted.load(Relaxed),
        }
    }
}

enum Report {
    Error(Error),
    Item(Item),
    End,
}

/// The sink that shards report to.
struct ChannelSink {
    sender: SyncSender<Report>,
    counters: Arc<Counters>,
    wants_items: bool,
}

impl Sink for ChannelSink {
    fn error(&self, error: Error) {
        let counter = match error.class() {
            Class::Warning => &self.counters.warnings,
            Class::Vanished => &self.counters.vanished,
            Class::Entry => &self.counters.entry,
            Class::Fatal => &self.counters.fatal,
        };
        counter.fetch_add(1, Relaxed);
        match self.sender.try_send(Report::Error(error)) {
            Ok(()) => {}
            Err(TrySendError::Full(report) | TrySendError::Disconnected(report)) => {
                self.counters.unprinted.fetch_add(1, Relaxed);
                if let Report::Error(error) = report {
                    tracing::error!("{error}");
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

/// The reporting thread of a run.
pub struct Reporter {
    sender: SyncSender<Report>,
    counters: Arc<Counters>,
    wants_items: bool,
    thread: JoinHandle<()>,
}

impl Reporter {
    #[must_use]
    pub fn start(options: ReportOptions, tallies: Arc<[CachePadded<Tally>]>) -> Self {
        let (sender, receiver) = sync_channel(REPORTS_MAX);
        let counters = Arc::new(Counters::default());
        let consumer = Consumer {
            options,
            tallies,
            counters: counters.clone(),
            progress: Progress::new(options.progress),
            names: Names::default(),
        };
        let thread = std::thread::spawn(move || consumer.run(&receiver));
        Self {
            sender,
            counters,
            wants_items: options.detail != Detail::None,
            thread,
        }
    }

    #[must_use]
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(ChannelSink {
            sender: self.sender.clone(),
            counters: self.counters.clone(),
            wants_items: self.wants_items,
        })
    }

    /// Tells at any time whether shards wait because nobody reads what is printed.
    pub fn unread(&self) -> impl Fn() -> bool + Send + 'static {
        let counters = self.counters.clone();
        move || counters.waiting.load(Relaxed) > 0
    }

    /// Prints what still waits, and ends the thread.
    #[must_use]
    pub fn finish(self) -> ErrorCounts {
        // Fails only when the thread is gone already; then there is nothing to end.
        let _ = self.sender.send(Report::End);
        if self.thread.join().is_err() {
            tracing::error!("the reporting thread panicked");
        }
        self.counters.read()
    }
}

struct Consumer {
    options: ReportOptions,
    tallies: Arc<[CachePadded<Tally>]>,
    counters: Arc<Counters>,
    progress: Progress,
    names: Names,
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
                let totals = Totals::sum(self.tallies.iter().map(|tally| &**tally));
                self.progress.show(&totals, self.counters.read().total());
                tick_at = Instant::now() + TICK;
            }
        }
        flush(&mut stdout);
        self.progress.clear();
    }

    fn error(&self, stdout: &mut impl Write, error: &Error) {
        tracing::error!("{error}");
        let class = error.class();
        let prefix = match class {
            Class::Warning | Class::Vanished => "warning: ",
            Class::Entry | Class::Fatal => "",
        };
        self.progress
            .above(|| say(&format!("ringsync: {prefix}{error}")));
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
        self.progress.above(|| {
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
