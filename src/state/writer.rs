//! The thread that writes rows, off the data path.

use std::time::{Duration, Instant};

use async_channel::{Receiver, TryRecvError};
use redb::{Database, ReadableTable, Table};

use super::{CHUNKS, ROWS, RowBytes, StoreError, Told, encode};
use crate::model::unchanged::{Key, Note};

/// How much of a run may be lost when it is killed, and be compared again by the next one.
const COMMIT_EVERY: Duration = Duration::from_secs(2);
/// While nothing comes and something waits to be committed.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Writes notes until nobody will send any more.
pub(super) fn write_all(db: &Database, inbox: &Receiver<Told>) -> Result<(), StoreError> {
    let outcome = write_batches(db, inbox);
    if outcome.is_err() {
        // Who has something to tell must not wait for ever.
        inbox.close();
    }
    outcome
}

fn write_batches(db: &Database, inbox: &Receiver<Told>) -> Result<(), StoreError> {
    while let Ok(first) = inbox.recv_blocking() {
        let began = Instant::now();
        let txn = db.begin_write()?;
        {
            let mut tables = Tables {
                rows: txn.open_table(ROWS)?,
                chunks: txn.open_table(CHUNKS)?,
            };
            tables.write(&first)?;
            while began.elapsed() < COMMIT_EVERY {
                match inbox.try_recv() {
                    Ok(told) => tables.write(&told)?,
                    Err(TryRecvError::Empty) => std::thread::sleep(LOOK_EVERY),
                    Err(TryRecvError::Closed) => break,
                }
            }
        }
        txn.commit()?;
    }
    Ok(())
}

struct Tables<'a> {
    rows: Table<'a, u128, RowBytes>,
    chunks: Table<'a, (u128, u64), u128>,
}

impl Tables<'_> {
    fn write(&mut self, told: &Told) -> Result<(), StoreError> {
        match told {
            Told::Directory(note) => write(&mut self.rows, note)?,
            Told::Chunk(file, (chunk, digest)) => {
                self.chunks.insert((file.0, *chunk), digest)?;
            }
            Told::Complete(file) => {
                let chunks = (file.0, 0)..=(file.0, u64::MAX);
                self.chunks.retain_in(chunks, |_, _| false)?;
            }
        }
        Ok(())
    }
}

fn write(rows: &mut Table<'_, u128, RowBytes>, note: &Note) -> Result<(), StoreError> {
    let key = note.key.0;
    match &note.row {
        Some(row) => {
            rows.insert(key, encode(row))?;
        }
        None => {
            rows.remove(key)?;
        }
    }
    match &note.subdirs {
        Some(present) => sweep(rows, note.key, present),
        None => Ok(()),
    }
}

/// Removes the rows of subdirectories that are not present any more, with all below them. `present` is sorted.
fn sweep(
    rows: &mut Table<'_, u128, RowBytes>,
    dir: Key,
    present: &[u64],
) -> Result<(), StoreError> {
    let mut vanished = children(rows, dir)?;
    vanished.retain(|key| present.binary_search(&key.own()).is_err());
    while let Some(key) = vanished.pop() {
        rows.remove(key.0)?;
        vanished.append(&mut children(rows, key)?);
    }
    Ok(())
}

fn children(rows: &Table<'_, u128, RowBytes>, dir: Key) -> Result<Vec<Key>, StoreError> {
    let first = u128::from(dir.own()) << 64;
    let range = rows.range(first..=first | u128::from(u64::MAX))?;
    range.map(|entry| Ok(Key(entry?.0.value()))).collect()
}
