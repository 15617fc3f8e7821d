//! Objects that go, many in one request: what comes while others are under way goes with the next.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_sdk_s3::types::{Delete, ObjectIdentifier};
use futures_util::future::join_all;
use nix::errno::Errno;
use tokio::sync::oneshot;

use super::failure::{errno_of, is_refusal};
use super::store::Store;

/// No request deletes more.
const BATCH_MAX: usize = 1000;
/// Requests under way.
const BATCHES_MAX: usize = 8;

/// Keys that wait to be deleted, and who wants to know how it went.
#[derive(Default)]
pub(super) struct Deleter {
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    keys: VecDeque<Doomed>,
    under_way: usize,
    /// The server has no request for many.
    one_by_one: bool,
}

struct Doomed {
    key: String,
    told: oneshot::Sender<Result<(), Errno>>,
}

impl Deleter {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether somebody has to begin.
    fn take(&self, doomed: Doomed) -> bool {
        let mut waiting = self.waiting();
        waiting.keys.push_back(doomed);
        let begins = waiting.under_way < BATCHES_MAX;
        waiting.under_way += usize::from(begins);
        begins
    }
}

/// Deletes an object; that there is none is as good.
///
/// # Errors
/// Those of [`errno_of`]; ECANCELED when the run ends before.
pub(super) async fn delete(store: &Arc<Store>, key: String) -> Result<(), Errno> {
    let (told, outcome) = oneshot::channel();
    if store.deleter.take(Doomed { key, told }) {
        let deleting = store.clone();
        store.spawn(async move { delete_all(&deleting).await });
    }
    store
        .unless_it_ends(async { outcome.await.unwrap_or(Err(Errno::EIO)) })
        .await
}

/// Deletes what waits until nothing does.
async fn delete_all(store: &Store) {
    loop {
        let (batch, one_by_one) = {
            let mut waiting = store.deleter.waiting();
            if store.is_ending() {
                // Nobody waits for them any more.
                waiting.keys.clear();
            }
            let count = waiting.keys.len().min(BATCH_MAX);
            if count == 0 {
                waiting.under_way -= 1;
                return;
            }
            let batch: Vec<Doomed> = waiting.keys.drain(..count).collect();
            (batch, waiting.one_by_one)
        };
        // XML has no way to write control characters.
        let is_odd = |doomed: &Doomed| doomed.key.chars().any(char::is_control);
        let (odd, batch): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_odd);
        let alone = join_all(odd.into_iter().map(|doomed| delete_one(store, doomed)));
        if one_by_one || batch.len() == 1 {
            join_all(batch.into_iter().map(|doomed| delete_one(store, doomed))).await;
        } else if !batch.is_empty() {
            delete_many(store, batch).await;
        }
        alone.await;
    }
}

async fn delete_one(store: &Store, doomed: Doomed) {
    if store.is_ending() {
        return;
    }
    let request = store.client.delete_object();
    let request = request.bucket(&store.bucket).key(&doomed.key);
    let answer = store.in_turn(request.send()).await;
    let outcome = match answer.map_err(|error| errno_of(&error)) {
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    };
    // Nobody may wait for it any more.
    let _ = doomed.told.send(outcome);
}

async fn delete_many(store: &Store, batch: Vec<Doomed>) {
    let identifier = |doomed: &Doomed| ObjectIdentifier::builder().key(&doomed.key).build();
    let keys = batch.iter().map(identifier).collect::<Result<Vec<_>, _>>();
    let objects = keys.map(|keys| {
        Delete::builder()
            .set_objects(Some(keys))
            .quiet(true)
            .build()
    });
    let Ok(Ok(objects)) = objects else {
        unreachable!("each has its key");
    };
    let request = store.client.delete_objects();
    let request = request.bucket(&store.bucket).delete(objects);
    let failed = match store.in_turn(request.send()).await {
        Ok(answer) => answer.errors.unwrap_or_default(),
        Err(error) => {
            let errno = errno_of(&error);
            let status = error.raw_response().map(|raw| raw.status().as_u16());
            if is_unknown(status) && !is_refusal(errno) {
                store.deleter.waiting().one_by_one = true;
                join_all(batch.into_iter().map(|doomed| delete_one(store, doomed))).await;
                return;
            }
            for doomed in batch {
                let _ = doomed.told.send(Err(errno));
            }
            return;
        }
    };
    // Alone they are repeated, and say why they cannot be. One that is not named may be any.
    let is_told = failed
        .iter()
        .all(|error| error.key().is_some_and(|key| !key.is_empty()));
    let failed: HashSet<&str> = failed.iter().filter_map(|error| error.key()).collect();
    let is_left = |doomed: &Doomed| !is_told || failed.contains(doomed.key.as_str());
    let (left, gone): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_left);
    for doomed in gone {
        let _ = doomed.told.send(Ok(()));
    }
    join_all(left.into_iter().map(|doomed| delete_one(store, doomed))).await;
}

/// Whether a server does not know the request.
fn is_unknown(status: Option<u16>) -> bool {
    matches!(status, Some(400 | 405 | 501))
}
