//! The runs of a job: which have ended and how, and whose rows may be relied upon.
//!
//! Data that was written may be lost when the machine loses power before the kernel flushed it, and the copy's directories
//! need not show it. So rows count as long as the machine that wrote them has not started anew, and for good once the
//! destination was flushed: by `--fsync` in the run itself, or when the next run begins.

use std::fs;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use redb::{Database, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::StoreError;

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
    /// The destination was flushed since.
    flushed: bool,
}

/// The runs of a job, seen from the one under way.
#[derive(Clone)]
pub(super) struct Runs {
    current: u32,
    record: RunRecord,
    /// Runs whose rows may speak of data that was lost.
    doubtful: Arc<[u32]>,
    /// Those that a flush now makes sure.
    unflushed: Arc<[u32]>,
    /// Whether that flush was done.
    flushed: Arc<OnceLock<()>>,
}

impl Runs {
    /// `is_told`: the run gets a record.
    pub(super) fn begin(txn: &WriteTransaction, is_told: bool) -> Result<Self, StoreError> {
        let boot = boot_id();
        let mut table = txn.open_table(RUNS)?;
        let (mut doubtful, mut unflushed, mut last) = (Vec::new(), Vec::new(), 0);
        for entry in table.iter()? {
            let (run, bytes) = entry?;
            last = run.value();
            let record = parse(bytes.value());
            match record {
                Some(record) if record.ending == Ending::Void => doubtful.push(last),
                Some(record) if record.flushed => {}
                Some(record) if record.boot == boot => unflushed.push(last),
                _ => doubtful.push(last),
            }
        }
        let record = RunRecord {
            began: now(),
            ended: None,
            ending: Ending::Open,
            boot,
            flushed: false,
        };
        let current = last + 1;
        if is_told {
            put(&mut table, current, &record)?;
        }
        Ok(Self {
            current,
            record,
            doubtful: doubtful.into(),
            unflushed: unflushed.into(),
            flushed: Arc::default(),
        })
    }

    pub(super) fn current(&self) -> u32 {
        self.current
    }

    pub(super) fn may_rely_on(&self, run: u32) -> bool {
        !self.doubtful.contains(&run)
    }

    /// Whether earlier runs would profit from a flush of the destination.
    pub(super) fn wants_flush(&self) -> bool {
        !self.unflushed.is_empty()
    }

    /// The destination was flushed, so what earlier runs wrote is sure.
    pub(super) fn note_flush(&self) {
        let _ = self.flushed.set(());
    }

    pub(super) fn end(
        &self,
        db: &Database,
        ending: Ending,
        flushed: bool,
    ) -> Result<(), StoreError> {
        let txn = db.begin_write()?;
        {
            let mut table = txn.open_table(RUNS)?;
            let record = RunRecord {
                ended: Some(now()),
                ending,
                flushed,
                ..self.record.clone()
            };
            put(&mut table, self.current, &record)?;
            if self.flushed.get().is_some() {
                for run in self.unflushed.iter() {
                    let record = table.get(run)?.and_then(|bytes| parse(bytes.value()));
                    if let Some(record) = record {
                        put(
                            &mut table,
                            *run,
                            &RunRecord {
                                flushed: true,
                                ..record
                            },
                        )?;
                    }
                }
            }
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

fn put(
    table: &mut redb::Table<'_, u32, &[u8]>,
    run: u32,
    record: &RunRecord,
) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(record).unwrap_or_default();
    table.insert(run, bytes.as_slice())?;
    // Records of older runs are of no use, but for those whose rows are not to be relied upon.
    let oldest = run.saturating_sub(KEPT_MAX);
    table.retain_in(..oldest, |_, bytes| {
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
