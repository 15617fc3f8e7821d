//! The rules that hold in one directory: those of the command line, and those of the per-directory merge files found on
//! the way to it.

use std::ffi::CStr;
use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::Filter;
use super::parse::{DirMerge, Entry, Parser, Prefixes, condense};
use super::rule::Anchor;

/// The per-directory rules of one directory. Directories without merge files of their own share their parent's.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    /// By number; a file that a `!` took away has nothing.
    merges: Vec<Option<Active>>,
    /// Of all merge files on the way to the directory.
    digest: u64,
}

/// A per-directory merge file that is looked for in a directory and those below it.
#[derive(Clone, Debug)]
struct Active {
    spec: Arc<DirMerge>,
    rules: Option<Arc<MergeList>>,
}

/// What one merge file says, and what those above it said.
#[derive(Debug)]
struct MergeList {
    entries: Vec<Entry>,
    inherited: Option<Arc<MergeList>>,
}

impl Drop for MergeList {
    /// Frees the chain in a loop: in a deep tree it is long, and must not exhaust the stack.
    fn drop(&mut self) {
        let mut next = self.inherited.take();
        while let Some(list) = next {
            next = Arc::into_inner(list).and_then(|mut list| list.inherited.take());
        }
    }
}

impl Scope {
    pub(super) fn new(merges: &[Option<Arc<DirMerge>>]) -> Self {
        let active = |spec: &Arc<DirMerge>| Active {
            spec: spec.clone(),
            rules: None,
        };
        Self {
            merges: merges
                .iter()
                .map(|spec| spec.as_ref().map(active))
                .collect(),
            digest: 0,
        }
    }

    /// The rules of merge file `number`, the nearest first.
    pub(super) fn lists(&self, number: usize) -> impl Iterator<Item = &[Entry]> {
        let mut next = self
            .merges
            .get(number)
            .and_then(Option::as_ref)
            .and_then(|active| active.rules.as_deref());
        std::iter::from_fn(move || {
            let list = next?;
            next = list.inherited.as_deref();
            Some(list.entries.as_slice())
        })
    }

    /// Changes with whatever merge files on the way to the directory say.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Whether directories have merge files to be looked for.
    #[must_use]
    pub fn looks_for_files(&self) -> bool {
        self.merges.iter().any(Option::is_some)
    }

    /// The rules of a directory below that has no merge files.
    #[must_use]
    pub fn below(self: &Arc<Self>) -> Arc<Self> {
        let stays = |merge: &Option<Active>| {
            merge
                .as_ref()
                .is_none_or(|active| active.rules.is_none() || !active.spec.template.no_inherit)
        };
        if self.merges.iter().all(stays) {
            return self.clone();
        }
        let mut scope = Self::clone(self);
        for active in scope.merges.iter_mut().flatten() {
            if active.spec.template.no_inherit {
                active.rules = None;
            }
        }
        Arc::new(scope)
    }
}

/// Goes into a directory, merge file by merge file: [`Entering::next_file`] names one, [`Entering::found`] is told what is in it.
#[derive(Debug)]
pub struct Entering<'a> {
    filter: &'a Filter,
    anchor: Anchor<'a>,
    scope: Arc<Scope>,
    next: usize,
}

impl<'a> Entering<'a> {
    /// Into the directory `dir` (relative to the root of the transfer) of one with the rules `parent`. The root itself
    /// has [`Filter::top`] for a parent.
    #[must_use]
    pub fn new(filter: &'a Filter, parent: &Arc<Scope>, dir: &'a [u8]) -> Self {
        Self::anchored(filter, parent, Anchor::Dir(dir))
    }

    /// Into a directory above the source: `dir` is its path below `/`.
    pub(super) fn above(filter: &'a Filter, dir: &'a [u8]) -> Self {
        Self::anchored(filter, &filter.top, Anchor::Above(dir))
    }

    fn anchored(filter: &'a Filter, parent: &Arc<Scope>, anchor: Anchor<'a>) -> Self {
        Self {
            filter,
            anchor,
            scope: parent.below(),
            next: 0,
        }
    }

    /// The next merge file to look for in the directory. A file may add to them.
    pub fn next_file(&mut self) -> Option<&CStr> {
        while self.scope.merges.get(self.next)?.is_none() {
            self.next += 1;
        }
        let active = self.scope.merges[self.next].as_ref()?;
        Some(&active.spec.name)
    }

    /// What the file named last holds; nothing when the directory has no such file.
    ///
    /// # Errors
    /// What is wrong with a rule in it. The rules of the directory then are not known.
    pub fn found(&mut self, contents: Option<&[u8]>) -> Result<(), String> {
        let number = self.next;
        self.next += 1;
        let (Some(contents), Some(Some(active))) = (contents, self.scope.merges.get(number)) else {
            return Ok(());
        };
        let spec = active.spec.clone();
        let known = self.scope.merges.iter();
        let known = known.map(|merge| merge.as_ref().map(|active| active.spec.clone()));
        let mut parser = Parser {
            anchor: self.anchor,
            dir_merges: known.collect(),
            own_merges: self.scope.merges.len(),
            ..Parser::new(self.filter.settings, None)
        };
        parser.file(contents, spec.template, Prefixes::All)?;
        let (entries, cleared) = (condense(&parser.entries), parser.cleared);
        let added = Scope::new(&parser.dir_merges[parser.own_merges..]).merges;
        let scope = Arc::make_mut(&mut self.scope);
        let place = [scope.digest.to_le_bytes(), (number as u64).to_le_bytes()].concat();
        scope.digest = xxh3_64_with_seed(contents, xxh3_64(&place));
        if let Some(Some(active)) = scope.merges.get_mut(number) {
            let inherited = active.rules.take().filter(|_| !cleared);
            active.rules = if entries.is_empty() {
                inherited
            } else {
                Some(Arc::new(MergeList { entries, inherited }))
            };
        }
        scope.merges.extend(added);
        Ok(())
    }

    /// The rules that hold in the directory.
    #[must_use]
    pub fn finish(self) -> Arc<Scope> {
        self.scope
    }
}
