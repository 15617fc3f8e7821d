//! The directories that wait on one shard.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::CString;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Instant;

use super::node::{Job, Node, Presence};
use crate::io::Links;

/// With fewer directories waiting than this, the oldest come first: near the root they bring the most new ones.
/// Otherwise the newest come first, which keeps the queue as short as the tree is deep.
const STARVING_BELOW: usize = 64;

/// A directory to visit. Its node is made only when its turn comes.
#[derive(Debug)]
pub struct Child {
    pub name: CString,
    pub job: Job,
    pub presence: Presence,
    /// Whether the source has a symlink under the name, which is taken for the directory that it leads to.
    pub links: Links,
}

#[cfg(test)]
impl Child {
    pub(super) fn for_tests(name: &std::ffi::CStr) -> Self {
        Self {
            name: name.to_owned(),
            job: Job::Sync,
            presence: Presence::Absent,
            links: Links::Refuse,
        }
    }
}

/// Directories with one parent. The parent's count holds one for each.
#[derive(Debug)]
pub struct Run {
    pub parent: Arc<Node>,
    pub children: Vec<Child>,
    /// When they were found, in a run that is measured.
    pub found: Option<Instant>,
}

/// A directory whose turn has come.
pub(super) struct Turn {
    pub(super) parent: Arc<Node>,
    pub(super) child: Child,
    pub(super) found: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Queue {
    runs: RefCell<VecDeque<Run>>,
    /// Children in all runs.
    waiting: Cell<usize>,
    waker: Cell<Option<Waker>>,
}

impl Queue {
    fn check(&self) {
        debug_assert_eq!(
            self.waiting.get() == 0,
            self.runs.borrow().is_empty(),
            "no run is empty"
        );
    }

    pub(super) fn push(&self, run: Run) {
        if run.children.is_empty() {
            return;
        }
        self.waiting.set(self.waiting.get() + run.children.len());
        self.runs.borrow_mut().push_back(run);
        self.check();
        self.wake();
    }

    /// Directories that wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.get()
    }

    pub(super) fn pop(&self) -> Option<Turn> {
        self.check();
        let starving = self.waiting.get() < STARVING_BELOW;
        let mut runs = self.runs.borrow_mut();
        let run = if starving {
            runs.front_mut()
        } else {
            runs.back_mut()
        }?;
        let child = run.children.pop()?;
        let (parent, found) = (run.parent.clone(), run.found);
        if run.children.is_empty() {
            if starving {
                runs.pop_front();
            } else {
                runs.pop_back();
            }
        }
        drop(runs);
        self.waiting.set(self.waiting.get() - 1);
        self.check();
        Some(Turn {
            parent,
            child,
            found,
        })
    }

    /// Takes directories for another shard: of those that have waited longest, which are nearest to the root, and at most half
    /// of all, rounded up.
    pub(super) fn share(&self) -> Option<Run> {
        let share = self.waiting.get().div_ceil(2);
        let mut runs = self.runs.borrow_mut();
        let oldest = runs.front_mut()?;
        let given = if oldest.children.len() <= share {
            runs.pop_front()?
        } else {
            Run {
                parent: oldest.parent.clone(),
                children: oldest.children.split_off(oldest.children.len() - share),
                found: oldest.found,
            }
        };
        drop(runs);
        self.waiting.set(self.waiting.get() - given.children.len());
        self.check();
        Some(given)
    }

    /// Something may have changed for the one who waits in [`Queue::until`].
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Waits until there is something to pop and `ready()` holds. One task waits at a time.
    pub(super) async fn until(&self, ready: impl Fn() -> bool) {
        poll_fn(|cx| {
            if self.waiting.get() > 0 && ready() {
                return Poll::Ready(());
            }
            self.waker.set(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(name: &str) -> Child {
        Child::for_tests(&CString::new(name).unwrap())
    }

    fn run(prefix: &str, count: usize) -> Run {
        Run {
            parent: Node::for_tests(),
            children: (0..count).map(|i| child(&format!("{prefix}{i}"))).collect(),
            found: None,
        }
    }

    fn popped(queue: &Queue) -> String {
        queue.pop().unwrap().child.name.into_string().unwrap()
    }

    #[test]
    fn oldest_first_while_starving() {
        let queue = Queue::default();
        queue.push(run("old", 1));
        queue.push(run("new", 1));
        assert_eq!(popped(&queue), "old0");
        assert_eq!(popped(&queue), "new0");
        assert!(queue.pop().is_none());
    }

    #[test]
    fn newest_first_with_enough_work() {
        let queue = Queue::default();
        queue.push(run("old", STARVING_BELOW));
        queue.push(run("new", 1));
        assert_eq!(popped(&queue), "new0");
        assert!(popped(&queue).starts_with("old"));
    }

    #[test]
    fn half_of_what_waits_is_shared_and_the_oldest_of_it() {
        let queue = Queue::default();
        assert!(queue.share().is_none());
        queue.push(run("old", 2));
        queue.push(run("new", 3));
        let shared = |queue: &Queue| -> Vec<String> {
            let children = queue.share().unwrap().children.into_iter();
            children
                .map(|child| child.name.into_string().unwrap())
                .collect()
        };
        assert_eq!(shared(&queue), ["old0", "old1"]);
        assert_eq!(shared(&queue), ["new1", "new2"]);
        assert_eq!(shared(&queue), ["new0"]);
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn empty_runs_leave_no_trace() {
        let queue = Queue::default();
        queue.push(run("none", 0));
        assert!(queue.pop().is_none());
    }
}
