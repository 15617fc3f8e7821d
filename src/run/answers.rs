//! Ends a run whose server has gone: without an answer each entry of millions would fail by itself, after a wait of its own.

use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use nix::errno::Errno;

use super::{FsMaker, Roots};
use crate::control::outage::Outage;
use crate::error::OpKind;
use crate::io::{Fs, Handle, InOneGo, Op, Outcome, Pending, Reply, SmallCopy};
use crate::throttle::{Cancel, Reason};

/// What is known of the server of one side, by all shards.
struct Answers {
    /// Something failed since the last answer. Read for each answer, so it has to be cheap.
    failing: AtomicBool,
    outage: Mutex<Outage>,
    cancel: Arc<Cancel>,
}

/// A soft mount tells EIO or ETIMEDOUT, a FUSE filesystem whose process is gone ENOTCONN.
fn is_unanswered(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EIO | Errno::ETIMEDOUT | Errno::ENOTCONN | Errno::EHOSTDOWN | Errno::EHOSTUNREACH
    )
}

impl Answers {
    fn new(cancel: &Arc<Cancel>) -> Arc<Self> {
        Arc::new(Self {
            failing: AtomicBool::new(false),
            outage: Mutex::default(),
            cancel: cancel.clone(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Outage> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, kind: OpKind, outcome: &Outcome) {
        match outcome {
            Err(error) if is_unanswered(error.errno) => {
                self.failing.store(true, Relaxed);
                if self.lock().on_failure(Instant::now()) {
                    self.cancel.set(Reason::NoAnswer);
                }
            }
            // Entries of a listing fail each by itself, and a file that was not written to is closed without a word.
            Ok(Reply::Listed { .. }) => {}
            _ if kind == OpKind::Close => {}
            _ => self.answered(),
        }
    }

    fn answered(&self) {
        if self.failing.load(Relaxed) {
            self.failing.store(false, Relaxed);
            self.lock().on_answer();
        }
    }
}

/// Makes filesystems that watch for answers, on the sides that are a server's.
pub(super) fn watch(roots: &Roots, cancel: &Arc<Cancel>) -> FsMaker {
    let make = roots.fs.clone();
    let (source, dest) = (roots.source.clone(), roots.dest.clone());
    let answers = [Answers::new(cancel), Answers::new(cancel)];
    Arc::new(move |instruments| {
        let (source_fs, dest_fs) = make(instruments)?;
        let watched = |fs: Rc<dyn Fs>, root: Option<&Handle>, answers: &Arc<Answers>| {
            if root.is_some_and(|root| fs.is_served(root)) {
                Rc::new(Watched {
                    fs,
                    answers: answers.clone(),
                })
            } else {
                fs
            }
        };
        let source_fs = watched(source_fs, Some(&source), &answers[0]);
        Ok((source_fs, watched(dest_fs, dest.as_ref(), &answers[1])))
    })
}

/// A filesystem whose answers are watched.
struct Watched {
    fs: Rc<dyn Fs>,
    answers: Arc<Answers>,
}

impl Fs for Watched {
    fn start(&self, op: Op) -> Pending {
        let kind = op.kind();
        match self.fs.start(op) {
            Pending::Ready(outcome) => {
                if let Some(outcome) = &outcome {
                    self.answers.note(kind, outcome);
                }
                Pending::Ready(outcome)
            }
            pending => {
                let answers = self.answers.clone();
                Pending::Boxed(Box::pin(async move {
                    let outcome = pending.await;
                    answers.note(kind, &outcome);
                    outcome
                }))
            }
        }
    }

    fn copy_small(&self, copy: &SmallCopy<'_>, buffer: &mut [u8]) -> InOneGo {
        let copied = self.fs.copy_small(copy, buffer);
        if copied == InOneGo::Copied {
            self.answers.answered();
        }
        copied
    }

    fn inner(&self) -> Option<&dyn Fs> {
        Some(&*self.fs)
    }

    fn is_slow(&self, dev: u64) -> bool {
        self.fs.is_slow(dev)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::OpError;
    use std::thread::sleep;
    use std::time::Duration;

    #[test]
    fn only_what_a_server_must_have_said_counts_as_an_answer() {
        let cancel = Arc::<Cancel>::default();
        let answers = Answers::new(&cancel);
        let failed = |kind, errno| Err(OpError { kind, errno });
        answers.note(OpKind::Create, &failed(OpKind::Create, Errno::EIO));
        assert!(answers.failing.load(Relaxed));
        answers.note(OpKind::Close, &Ok(Reply::Done));
        assert!(answers.failing.load(Relaxed));
        answers.note(OpKind::Create, &failed(OpKind::Create, Errno::EACCES));
        assert!(!answers.failing.load(Relaxed));
        for _ in 0..1000 {
            answers.note(OpKind::Create, &failed(OpKind::Create, Errno::ENOTCONN));
        }
        sleep(Duration::from_millis(1));
        assert!(!cancel.is_set(), "all of a moment");
    }
}
