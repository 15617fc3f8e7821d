//! Which job a state belongs to, and what there is in a state directory.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use redb::{ReadOnlyDatabase, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table};
use xxhash_rust::xxh3::xxh3_64;

use super::lock::Lock;
use super::runs::{self, RunRecord};
use super::{FACTS, FORMAT, ROWS, StoreError};
use crate::model::path::escape;

/// What makes two runs runs of one job: the same places, and the same idea of what is equal. Anything else would make rows of
/// one say nothing to the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobKey {
    /// Absolute, without symlinks; of a bucket its URL, and where that was reached.
    pub source: Vec<u8>,
    pub dest: Vec<u8>,
    /// Every option that has a say in what the destination holds afterwards.
    pub options: String,
}

impl JobKey {
    /// Names the job's files, and the job to `ringsync jobs forget`.
    #[must_use]
    pub fn id(&self) -> String {
        let mut all = Vec::new();
        for part in [&self.source, &self.dest, self.options.as_bytes()] {
            all.extend_from_slice(&(part.len() as u64).to_le_bytes());
            all.extend_from_slice(part);
        }
        format!("{:016x}", xxh3_64(&all))
    }

    pub(super) fn file_in(&self, dir: &Path, extension: &str) -> PathBuf {
        dir.join(self.id()).with_extension(extension)
    }

    fn facts(&self) -> [(&'static str, Vec<u8>); 4] {
        [
            ("format", FORMAT.to_le_bytes().to_vec()),
            ("source", self.source.clone()),
            ("destination", self.dest.clone()),
            ("options", self.options.clone().into_bytes()),
        ]
    }

    /// Signs a new state.
    pub(super) fn sign(&self, facts: &mut Table<'_, &str, &[u8]>) -> Result<(), StoreError> {
        for (name, value) in self.facts() {
            facts.insert(name, value.as_slice())?;
        }
        Ok(())
    }

    /// Compares the signature of a state. The inner error says that it is another's.
    pub(super) fn check(
        &self,
        facts: &impl ReadableTable<&'static str, &'static [u8]>,
    ) -> Result<Result<(), String>, StoreError> {
        for (name, value) in self.facts() {
            if facts.get(name)?.is_none_or(|found| found.value() != value) {
                let id = self.id();
                return Ok(Err(format!(
                    "the state of job {id} has another {name}, so it is not this job's or not this version's; \
                     'ringsync jobs forget {id}' removes it"
                )));
            }
        }
        Ok(Ok(()))
    }
}

/// What a state directory says of one job.
#[derive(Debug)]
pub struct JobInfo {
    pub source: Vec<u8>,
    pub dest: Vec<u8>,
    pub options: String,
    pub last: Option<RunRecord>,
    pub runs: u32,
    pub directories: u64,
    pub bytes: u64,
}

/// One file of a state directory: what it says, or why it cannot be read.
pub type Listed = (String, Result<JobInfo, String>);

/// The jobs of a state directory, in the order of their names. None when there is no such directory.
///
/// # Errors
/// Why the directory cannot be read, in words.
pub fn list(dir: &Path) -> Result<Vec<Listed>, String> {
    let cannot = |error: std::io::Error| {
        let shown = dir.display();
        format!("cannot read the state directory '{shown}': {error}")
    };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(cannot)?,
    };
    let mut jobs = Vec::new();
    for entry in entries {
        let path = entry.map_err(cannot)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "redb")
        {
            let id = path.file_stem().unwrap_or_default();
            jobs.push((escape(id.as_bytes()), read(&path)));
        }
    }
    jobs.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(jobs)
}

fn read(path: &Path) -> Result<JobInfo, String> {
    let bytes = fs::metadata(path).map_err(|error| error.to_string())?.len();
    let _lock = Lock::take(&path.with_extension("lock"))?;
    let db = super::open_to_read(path).map_err(|error| format!("cannot be used: {error}"))?;
    facts(&db, bytes).map_err(|error| format!("cannot be used: {error}"))
}

fn facts(db: &ReadOnlyDatabase, bytes: u64) -> Result<JobInfo, StoreError> {
    let txn = db.begin_read()?;
    let facts = txn.open_table(FACTS)?;
    let fact = |name| -> Result<Vec<u8>, StoreError> {
        Ok(facts
            .get(name)?
            .map(|value| value.value().to_vec())
            .unwrap_or_default())
    };
    let last = runs::last(&txn)?;
    Ok(JobInfo {
        source: fact("source")?,
        dest: fact("destination")?,
        options: String::from_utf8_lossy(&fact("options")?).into_owned(),
        runs: last.as_ref().map_or(0, |(run, _)| *run),
        last: last.map(|(_, record)| record),
        directories: txn.open_table(ROWS)?.len()?,
        bytes,
    })
}

/// Removes the state of a job. Its next run compares everything.
///
/// # Errors
/// In words: there is no such job, a run of it is under way, or the file cannot be removed.
pub fn forget(dir: &Path, id: &str) -> Result<(), String> {
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    let path = dir.join(id).with_extension("redb");
    if !is_id || !path.exists() {
        let shown = dir.display();
        return Err(format!(
            "there is no job '{id}' in '{shown}': see 'ringsync jobs'"
        ));
    }
    let lock_path = path.with_extension("lock");
    let _lock = Lock::take(&lock_path)?;
    for file in [&path, &lock_path] {
        let shown = file.display();
        fs::remove_file(file).map_err(|error| format!("cannot remove '{shown}': {error}"))?;
    }
    Ok(())
}
