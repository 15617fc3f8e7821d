//! Whose turn it is to send a request: as many at once as the server bears.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use aws_sdk_s3::config::interceptors::{
    BeforeDeserializationInterceptorContextRef, BeforeSerializationInterceptorContextRef,
    BeforeTransmitInterceptorContextRef,
};
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::abort_multipart_upload::AbortMultipartUploadInput;
use aws_sdk_s3::operation::complete_multipart_upload::CompleteMultipartUploadInput;
use aws_sdk_s3::operation::copy_object::CopyObjectInput;
use aws_sdk_s3::operation::create_multipart_upload::CreateMultipartUploadInput;
use aws_sdk_s3::operation::delete_object::DeleteObjectInput;
use aws_sdk_s3::operation::delete_objects::DeleteObjectsInput;
use aws_sdk_s3::operation::get_object::GetObjectInput;
use aws_sdk_s3::operation::head_object::HeadObjectInput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Input;
use aws_sdk_s3::operation::put_object::PutObjectInput;
use aws_sdk_s3::operation::upload_part::UploadPartInput;
use aws_sdk_s3::operation::upload_part_copy::UploadPartCopyInput;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::clock::Clock;
use crate::control::requests::{Figures, Requests};
use crate::model::{RequestKind, RequestMeter};

/// Answers that say that there are too many requests.
const SLOW_DOWN: [u16; 2] = [429, 503];

tokio::task_local! {
    /// What is asked out of turn has none.
    pub(super) static ASKED: Asked;
}

/// What is being asked in a turn.
#[derive(Debug)]
pub(super) struct Asked {
    /// When the turn began.
    begun: Instant,
    kind: Cell<RequestKind>,
    /// When the request was sent last.
    sent: Cell<Instant>,
}

impl Asked {
    pub(super) fn now() -> Self {
        let begun = Instant::now();
        Self {
            begun,
            kind: Cell::new(RequestKind::Other),
            sent: Cell::new(begun),
        }
    }
}

/// The turns of all who ask the servers of a run.
#[derive(Debug)]
pub struct Turns {
    semaphore: Semaphore,
    requests: Mutex<Requests>,
    /// Turns that are to go as soon as they are given back.
    excess: AtomicUsize,
}

/// Given back when it is dropped.
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    permit: Option<SemaphorePermit<'a>>,
}

impl Turns {
    /// So many at most.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        let requests = Requests::new(most);
        Arc::new(Self {
            semaphore: Semaphore::new(requests.limit()),
            requests: Mutex::new(requests),
            excess: AtomicUsize::new(0),
        })
    }

    #[must_use]
    pub fn figures(&self) -> Figures {
        let requests = self.requests.lock();
        requests.unwrap_or_else(PoisonError::into_inner).figures()
    }

    pub(super) async fn wait(&self) -> Turn<'_> {
        // It is never closed.
        let permit = self.semaphore.acquire().await.ok();
        let turns = self;
        Turn { turns, permit }
    }

    fn on_answer(&self, begun: Instant, slowed: bool) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let before = requests.limit();
        let now = requests.on_answer(Instant::now(), begun, slowed);
        if now > before {
            self.add(now - before);
        } else if now < before {
            tracing::warn!("the server is asked too much: {now} requests at once, not {before}");
            let forgotten = self.semaphore.forget_permits(before - now);
            self.excess.fetch_add(before - now - forgotten, SeqCst);
        }
    }

    fn add(&self, count: usize) {
        let kept = |excess: usize| Some(excess.saturating_sub(count));
        let excess = match self.excess.fetch_update(SeqCst, SeqCst, kept) {
            Ok(excess) | Err(excess) => excess,
        };
        self.semaphore.add_permits(count.saturating_sub(excess));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let fewer = |excess: usize| excess.checked_sub(1);
        let goes = self
            .turns
            .excess
            .fetch_update(SeqCst, SeqCst, fewer)
            .is_ok();
        if let Some(permit) = self.permit.take()
            && goes
        {
            permit.forget();
        }
    }
}

/// Shows the answers to each attempt; the SDK repeats some by itself.
pub(super) struct Listener {
    pub(super) turns: Arc<Turns>,
    pub(super) clock: Clock,
    /// In a run that is measured.
    pub(super) meter: Option<Arc<dyn RequestMeter>>,
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("listener")
    }
}

/// The kind of a request, by its input.
macro_rules! kind_of {
    ($input:expr, $($kind:ident: $type:ident,)*) => {
        None$(.or($input.downcast_ref::<$type>().map(|_| RequestKind::$kind)))*
            .unwrap_or(RequestKind::Other)
    };
}

impl Intercept for Listener {
    fn name(&self) -> &'static str {
        "listener"
    }

    fn read_before_serialization(
        &self,
        context: &BeforeSerializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let kind = kind_of!(
            context.input(),
            List: ListObjectsV2Input,
            Head: HeadObjectInput,
            Get: GetObjectInput,
            Put: PutObjectInput,
            Copy: CopyObjectInput,
            CreateUpload: CreateMultipartUploadInput,
            UploadPart: UploadPartInput,
            UploadPartCopy: UploadPartCopyInput,
            CompleteUpload: CompleteMultipartUploadInput,
            AbortUpload: AbortMultipartUploadInput,
            Delete: DeleteObjectInput,
            DeleteMany: DeleteObjectsInput,
        );
        let _ = ASKED.try_with(|asked| asked.kind.set(kind));
        Ok(())
    }

    fn read_before_transmit(
        &self,
        _context: &BeforeTransmitInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let _ = ASKED.try_with(|asked| asked.sent.set(Instant::now()));
        Ok(())
    }

    fn read_after_transmit(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let status = context.response().status().as_u16();
        let begun = ASKED.try_with(|asked| asked.begun);
        let begun = begun.unwrap_or_else(|_| Instant::now());
        self.turns.on_answer(begun, SLOW_DOWN.contains(&status));
        if let Some(meter) = &self.meter {
            let _ =
                ASKED.try_with(|asked| meter.record(asked.kind.get(), asked.sent.get().elapsed()));
        }
        let date = context.response().headers().get("date");
        let date = date.and_then(|date| DateTime::from_str(date, DateTimeFormat::HttpDate).ok());
        if let Some(date) = date {
            self.clock.hear(date, SystemTime::now().into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn a_cut_holds_also_for_turns_that_are_out() {
        let turns = Turns::new(8);
        let take = || turns.wait().now_or_never();
        let mut out: Vec<Turn<'_>> = (0..8).map(|_| take().unwrap()).collect();
        assert!(take().is_none());
        turns.on_answer(Instant::now(), true);
        assert_eq!(
            turns.figures(),
            Figures {
                limit: 4,
                slowed: 1
            }
        );
        out.truncate(4);
        assert!(take().is_none(), "four are out, and no more may be");
        out.pop();
        out.push(take().unwrap());
        assert!(take().is_none());
        while turns.figures().limit < 5 {
            turns.on_answer(Instant::now(), false);
        }
        let _fifth = take().unwrap();
        assert!(take().is_none());
    }
}
