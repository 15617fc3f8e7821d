//! The runs of a job: which have ended and how, and whose rows may be relied upon.
//!
//! Data that was written may be lost when the machine loses power before the kernel flushed it, and the copy's directories
//! need not show it. So rows count as long as the machine that wrote them has not started anew, and for good once the
//! destination was flushed: by `--fsync` in the run itself, or when the next run begins.

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database, ReadTransaction, ReadableTable, Table, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{CHUNKS, StoreError, Use};
use crate::model::Time;

/// By run; each a [`RunRecord`] in JSON.
pub(super) const RUNS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("runs");
/// Records of runs that are kept.
const KEPT_MAX: u32 = 100;

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// It has not: it is under way, or was killed.
    Open,
    /// Everything is equal now.
    Complete,
    /// Some entries failed.
    Incomplete,
    Interrupted,
    /// What was written could not be flushed: nothing that this run wrote down may be relied upon.
    Void,
}

/// One run of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunRecord {
    /// Seconds since 1970, by this machine's clock.
    pub began: u64,
    pub ended: Option<u64>,
    pub ending: Ending,
    /// Names one start of one machine's kernel.
    boot: String,
    /// The destination was flushed since, or needs not be.
    flushed: bool,
    /// Rows of runs before this one say nothing any more, for what they speak of may be in work.
    oldest: u32,
}

/// The runs of a job, seen from the one under way.
#[derive(Clone)]
pub(super) struct Runs {
    current: u32,
    record: RunRecord,
    /// Runs whose rows may speak of data that was lost.
    doubtful: Arc<[u32]>,
    /// Those of which a flush tells whether it was.
    unflushed: Arc<[u32]>,
    /// When the last one began that made all equal, as in [`RunRecord`].
    last_complete: Option<u64>,
    /// How that flush went, when it is over.
    is_flushed: Arc<OnceLock<bool>>,
}

impl Runs {
    /// A run after those that are told of.
    pub(super) fn after(
        table: &impl ReadableTable<u32, &'static [u8]>,
        purpose: Use,
    ) -> Result<Self, StoreError> {
        let boot = boot_id();
        let (mut doubtful, mut unflushed) = (Vec::new(), Vec::new());
        let (mut last, mut last_ended, mut oldest) = (0, 0, 0);
        let mut last_complete = None;
        for entry in table.iter()? {
            let (run, bytes) = entry?;
            last = run.value();
            let Some(record) = parse(bytes.value()) else {
                doubtful.push(last);
                continue;
            };
            oldest = record.oldest;
            if matches!(record.ending, Ending::Complete | Ending::Incomplete) {
                last_ended = last;
            }
            if record.ending == Ending::Void || (record.boot != boot && !record.flushed) {
                doubtful.push(last);
                continue;
            }
            if !record.flushed {
                unflushed.push(last);
            }
            if record.ending == Ending::Complete {
                // One that is yet to come was told by a clock that has been set back.
                last_complete = Some(record.began).filter(|began| *began <= now());
            }
        }
        let current = last + 1;
        let record = RunRecord {
            began: now(),
            ended: None,
            ending: Ending::Open,
            boot,
            flushed: false,
            oldest: match purpose {
                Use::Skip | Use::Since => oldest,
                Use::Resume => oldest.max(last_ended + 1),
                Use::Verify => current,
            },
        };
        Ok(Self {
            current,
            record,
            doubtful: doubtful.into(),
            unflushed: unflushed.into(),
            last_complete,
            is_flushed: Arc::default(),
        })
    }

    /// What this run writes is on the destination's disks as soon as it is there.
    pub(super) fn set_durable(&mut self) {
        self.record.flushed = true;
    }

    /// Writes that this run has begun.
    pub(super) fn tell(&self, table: &mut Table<'_, u32, &[u8]>) -> Result<(), StoreError> {
        put(table, self.current, &self.record)
    }

    pub(super) fn last_complete(&self) -> Option<Time> {
        let sec = i64::try_from(self.last_complete?).ok()?;
        Some(Time { sec, nsec: 0 })
    }

    pub(super) fn current(&self) -> u32 {
        self.current
    }

    /// Whether the rows of a run are sure to be true.
    pub(super) fn may_rely_on(&self, run: u32) -> bool {
        let is_lost = || self.is_flushed.get() == Some(&false) && self.unflushed.contains(&run);
        run >= self.record.oldest && !self.doubtful.contains(&run) && !is_lost()
    }

    /// Flushes these filesystems of the destination, if earlier runs would profit from it.
    pub(super) fn flush(&self, places: &[PathBuf]) {
        if self.unflushed.is_empty() {
            return;
        }
        for place in places {
            let Ok(root) = File::open(place) else {
                // What cannot be opened cannot be flushed, and nobody knows how it stands.
                return;
            };
            if nix::unistd::syncfs(root).is_err() {
                let _ = self.is_flushed.set(false);
                return;
            }
        }
        let _ = self.is_flushed.set(true);
    }

    pub(super) fn end(
        &self,
        db: &Database,
        ending: Ending,
        flushed: bool,
    ) -> Result<(), StoreError> {
        // What it passed over as finished by earlier runs may be lost.
        let is_lost = self.is_flushed.get() == Some(&false);
        let ending = if is_lost { Ending::Void } else { ending };
        let txn = db.begin_write()?;
        {
            let mut table = txn.open_table(RUNS)?;
            let record = RunRecord {
                ended: Some(now()),
                ending,
                flushed: (flushed || self.record.flushed) && ending != Ending::Void,
                ..self.record.clone()
            };
            put(&mut table, self.current, &record)?;
            for run in self.unflushed.iter() {
                let record = table.get(run)?.and_then(|bytes| parse(bytes.value()));
                let (Some(mut record), Some(is_flushed)) = (record, self.is_flushed.get()) else {
                    continue;
                };
                record.flushed = *is_flushed;
                if !is_flushed {
                    record.ending = Ending::Void;
                }
                put(&mut table, *run, &record)?;
            }
        }
        if ending == Ending::Complete {
            // No file is left in part, and what is told of one is of no use.
            txn.delete_table(CHUNKS)?;
            txn.open_table(CHUNKS)?;
        }
        txn.commit()?;
        Ok(())
    }
}

/// What `ringsync jobs` shows.
pub(super) fn last(txn: &ReadTransaction) -> Result<Option<(u32, RunRecord)>, StoreError> {
    let table = txn.open_table(RUNS)?;
    let last = table.last()?;
    Ok(last.and_then(|(run, bytes)| Some((run.value(), parse(bytes.value())?))))
}

fn put(table: &mut Table<'_, u32, &[u8]>, run: u32, record: &RunRecord) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(record).unwrap_or_default();
    table.insert(run, bytes.as_slice())?;
    // Older ones are of no use, but for those that say what is not to be relied upon.
    let kept_from = run.saturating_sub(KEPT_MAX);
    table.retain_in(..kept_from, |_, bytes| {
        parse(bytes).is_none_or(|record| !record.flushed)
    })?;
    Ok(())
}

/// One that is not understood is as good as none: its rows are not relied upon.
fn parse(bytes: &[u8]) -> Option<RunRecord> {
    serde_json::from_slice(bytes).ok()
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Where it cannot be told, every run is one of its own.
fn boot_id() -> String {
    let read = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    read.map_or_else(|_| format!("unknown {}", now()), |id| id.trim().to_owned())
}
