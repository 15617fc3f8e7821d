//! What goes wrong on a [`Mount`](crate::Mount): rules that tests add while it is in use, and the count of what they did.

use crate::rng::Rng;
use nix::errno::Errno;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A request of the kernel. One system call can be several: statx of a name is a `Lookup` and a `GetAttr`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    Lookup,
    GetAttr,
    Chmod,
    Chown,
    SetTimes,
    Truncate,
    ReadLink,
    MakeNode,
    MakeDir,
    MakeSymlink,
    Unlink,
    RemoveDir,
    Rename,
    Link,
    Open,
    Create,
    Read,
    Write,
    /// close(2); its answer is the caller's.
    Flush,
    Fsync,
    OpenDir,
    /// The first part of a listing, and the later ones: the last of them is the one that says "no more".
    ReadDir,
    ReadDirMore,
    /// Not a request: an entry of a listing that is being read.
    Entry,
    /// Not a request: the attributes in an answer.
    Attr,
    GetXattr,
    SetXattr,
    ListXattr,
    RemoveXattr,
    Allocate,
    Seek,
    CopyRange,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Effect {
    Fail(Errno),
    /// `Rename` is carried out, and then said to have failed.
    FailDone(Errno),
    /// The answer comes later; others are served meanwhile.
    Delay(Duration),
    /// `Read`, `Write` and `CopyRange` move at most so many bytes; `ReadDir` gives at most so many entries at once.
    Short(usize),
    /// `Entry`: listed twice, or not at all.
    Twice,
    Omit,
    /// `Entry`: listed as a kind of inode that it is not.
    Kind(fuser::FileType),
    /// `Attr`: the size is wrong.
    Size(u64),
}

impl Effect {
    /// What it is counted as.
    fn name(self) -> String {
        match self {
            Self::Fail(errno) => format!("{errno:?}"),
            Self::FailDone(errno) => format!("{errno:?}, but done"),
            Self::Delay(_) => "delay".into(),
            Self::Short(_) => "short count".into(),
            Self::Twice => "duplicate entry".into(),
            Self::Omit => "omitted entry".into(),
            Self::Kind(_) => "wrong d_type".into(),
            Self::Size(_) => "wrong st_size".into(),
        }
    }
}

/// When something goes wrong: always, unless narrowed down.
#[derive(Clone, Debug)]
pub struct Rule {
    calls: Vec<Call>,
    effect: Effect,
    /// Below the filesystem's root; `*` stands for any bytes, slashes too.
    pattern: Vec<u8>,
    skip: u64,
    left: u64,
    percent: usize,
}

impl Rule {
    pub fn new(calls: &[Call], effect: Effect) -> Self {
        Self {
            calls: calls.to_vec(),
            effect,
            pattern: b"*".to_vec(),
            skip: 0,
            left: u64::MAX,
            percent: 100,
        }
    }

    pub fn at(mut self, pattern: impl AsRef<[u8]>) -> Self {
        self.pattern = pattern.as_ref().to_vec();
        self
    }

    /// The first `count` matching requests go well.
    pub fn after(mut self, count: u64) -> Self {
        self.skip = count;
        self
    }

    /// No more than `count` go wrong.
    pub fn times(mut self, count: u64) -> Self {
        self.left = count;
        self
    }

    /// Each matching request goes wrong with this probability.
    pub fn percent(mut self, percent: usize) -> Self {
        self.percent = percent;
        self
    }

    fn strikes(&mut self, calls: &[Call], paths: &[Vec<u8>], rng: &mut Rng) -> bool {
        let concerned = self.left > 0
            && calls.iter().any(|call| self.calls.contains(call))
            && paths.iter().any(|path| matches(&self.pattern, path))
            && (self.percent == 100 || rng.chance(self.percent));
        if concerned && self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        self.left -= u64::from(concerned && self.left != u64::MAX);
        concerned
    }
}

/// Whether `text` is what `pattern` describes, `*` being any bytes.
fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let mut parts = pattern.split(|byte| *byte == b'*');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else {
        return false;
    };
    let mut ends_here = !pattern.contains(&b'*');
    while let Some(part) = parts.next() {
        ends_here = false;
        if parts.clone().next().is_none() {
            return rest.ends_with(part);
        }
        let Some(at) = find(rest, part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    !ends_here || rest.is_empty()
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    (0..=text.len().checked_sub(part.len())?).find(|at| text[*at..].starts_with(part))
}

/// What the rules together do to one request.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Verdict {
    pub(crate) delay: Option<Duration>,
    pub(crate) errno: Option<Errno>,
    pub(crate) errno_when_done: Option<Errno>,
    pub(crate) short: Option<usize>,
    pub(crate) twice: bool,
    pub(crate) omit: bool,
    pub(crate) kind: Option<fuser::FileType>,
    pub(crate) size: Option<u64>,
}

impl Verdict {
    fn add(&mut self, effect: Effect) {
        match effect {
            Effect::Fail(errno) => self.errno = self.errno.or(Some(errno)),
            Effect::FailDone(errno) => self.errno_when_done = Some(errno),
            Effect::Delay(time) => self.delay = Some(self.delay.unwrap_or_default() + time),
            Effect::Short(count) => self.short = Some(count),
            Effect::Twice => self.twice = true,
            Effect::Omit => self.omit = true,
            Effect::Kind(kind) => self.kind = Some(kind),
            Effect::Size(size) => self.size = Some(size),
        }
    }

    /// The bytes or entries that this request may move of `wanted`.
    pub(crate) fn limit(&self, wanted: usize) -> usize {
        self.short.map_or(wanted, |short| short.min(wanted))
    }
}

/// The rules of one filesystem; shared with its threads.
#[derive(Debug)]
pub struct Faults {
    /// Whether there are rules: without any, no path is put together.
    armed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: Vec<Rule>,
    rng: Rng,
    /// Since the rules were last cleared.
    recent: u64,
    injected: BTreeMap<String, u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self::new()
    }
}

impl Faults {
    #[must_use]
    pub fn new() -> Self {
        Self {
            armed: AtomicBool::new(false),
            state: Mutex::new(State {
                rules: Vec::new(),
                rng: Rng::new(0),
                recent: 0,
                injected: BTreeMap::new(),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn inject(&self, rule: Rule) {
        self.state().rules.push(rule);
        self.armed.store(true, SeqCst);
    }

    /// What chances are drawn from.
    pub fn seed(&self, seed: u64) {
        self.state().rng = Rng::new(seed);
    }

    /// Everything goes well from now on. Returns how often something went wrong since the last time.
    pub fn clear(&self) -> u64 {
        self.armed.store(false, SeqCst);
        let mut state = self.state();
        state.rules.clear();
        std::mem::take(&mut state.recent)
    }

    /// How often something went wrong since the rules were last cleared.
    pub fn recent(&self) -> u64 {
        self.state().recent
    }

    /// All that went wrong so far, by errno or effect.
    pub fn injected(&self) -> BTreeMap<String, u64> {
        self.state().injected.clone()
    }

    pub(crate) fn judge(&self, calls: &[Call], paths: impl FnOnce() -> Vec<Vec<u8>>) -> Verdict {
        let mut verdict = Verdict::default();
        if !self.armed.load(SeqCst) {
            return verdict;
        }
        let paths = paths();
        let mut state = self.state();
        let State {
            rules,
            rng,
            recent,
            injected,
        } = &mut *state;
        for rule in rules {
            if rule.strikes(calls, &paths, rng) {
                verdict.add(rule.effect);
                *recent += 1;
                *injected.entry(rule.effect.name()).or_default() += 1;
            }
        }
        verdict
    }
}
