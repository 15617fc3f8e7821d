//! Which entries take part: rsync's filter rules, compiled once, and the list of `--files-from`.
//!
//! ```text
//! glob    wildcards over bytes               rule    one rule: pattern, anchor, side, and so on
//! parse   the language of rules              scope   the rules of one directory with its merge files
//! select  the list of --files-from           check   what holds for any rules, for fuzzing
//! ```
//! The first rule that matches decides; an entry that no rule matches takes part. An exclude rule *hides* on the source
//! and *protects* on the destination.

pub mod check;
mod glob;
mod parse;
mod rule;
mod scope;
mod select;

use std::sync::Arc;

use super::entry::Kind;
use crate::error::Side;
use parse::{DirMerge, Entry, Parser, Prefixes, Template, condense};
use rule::{Query, RootPaths, Rule};

pub use parse::{FindFile, ReadFile, Settings};
pub use scope::{Entering, Scope};
pub use select::{Extent, Reach, Selection};

/// rsync's list for `--cvs-exclude`, which is that of CVS with the folders of later systems.
const CVS_EXCLUDES: &[u8] = b"RCS SCCS CVS CVS.adm RCSLOG cvslog.* tags TAGS .make.state .nse_depinfo *~ #* .#* ,* _$* *$ \
    *.old *.bak *.BAK *.orig *.rej .del-* *.a *.olb *.o *.obj *.so *.exe *.Z *.elc *.ln core .svn/ .git/ .hg/ .bzr/";

/// A piece of the command line that adds rules, in the order in which they were typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Given {
    /// `--filter`.
    Rule(Vec<u8>),
    /// `--exclude` and `--include`.
    Pattern { include: bool, text: Vec<u8> },
    /// `--exclude-from` and `--include-from`.
    PatternFile { include: bool, file: Vec<u8> },
}

/// What a filter is made in.
pub struct Surroundings<'a, 'r> {
    pub settings: Settings,
    /// Absolute paths of the roots, without `.`, `..` and doubled slashes.
    pub source: &'a [u8],
    pub dest: &'a [u8],
    /// Gets a file that a rule names.
    pub read: &'a mut ReadFile<'r>,
    /// Gets a file that need not be there.
    pub find: &'a mut FindFile<'r>,
    /// `$HOME` and `$CVSIGNORE`, for the CVS rules.
    pub home: Option<Vec<u8>>,
    pub cvsignore: Option<Vec<u8>>,
}

/// All rules of a run. `Scope` adds what merge files in the tree say.
#[derive(Debug)]
pub struct Filter {
    settings: Settings,
    entries: Vec<Entry>,
    cvs: Vec<Rule>,
    roots: RootPaths,
    top: Arc<Scope>,
}

impl Filter {
    /// Compiles the rules of a command line; nothing when there are none.
    ///
    /// # Errors
    /// Which rule is wrong, and why; or which file cannot be read.
    pub fn compile(given: &[Given], around: Surroundings<'_, '_>) -> Result<Option<Self>, String> {
        let Surroundings {
            settings,
            source,
            dest,
            read,
            find,
            ..
        } = around;
        let mut parser = Parser::new(settings, Some(read));
        for given in given {
            parser.given(given)?;
        }
        if parser.entries.is_empty() {
            return Ok(None);
        }
        let (entries, merges, cvs) = (parser.entries, parser.dir_merges, parser.cvs);
        let unanchored = |path: &[u8]| path.strip_prefix(b"/").unwrap_or(path).to_vec();
        let mut filter = Self {
            settings,
            entries: condense(&entries),
            cvs: Vec::new(),
            roots: RootPaths {
                source: unanchored(source),
                dest: unanchored(dest),
            },
            top: Arc::new(Scope::new(&merges)),
        };
        if let Some(template) = cvs {
            let home_file = match &around.home {
                Some(home) => find(&super::path::join(home, b".cvsignore"))?,
                None => None,
            };
            let texts = [home_file, around.cvsignore];
            filter.cvs = cvs_rules(template, settings, texts.into_iter().flatten())?;
        }
        filter.search_above(&merges, source, find)?;
        Ok(Some(filter))
    }

    /// The rules above the root of the transfer: merge files found there included.
    #[must_use]
    pub fn top(&self) -> &Arc<Scope> {
        &self.top
    }

    /// Whether files in the tree add rules, so that a directory's rules may change while it does not.
    #[must_use]
    pub fn reads_rules_of_tree(&self) -> bool {
        let mut entries = self.entries.iter();
        entries.any(|entry| matches!(entry, Entry::DirMerge(_)))
    }

    /// A merge file that was named with a directory above the source is looked for from there down to the source's parent.
    fn search_above(
        &mut self,
        merges: &[Option<Arc<DirMerge>>],
        source: &[u8],
        find: &mut FindFile<'_>,
    ) -> Result<(), String> {
        let named = |merge: &Arc<DirMerge>| Some((merge.name.clone(), merge.from.clone()?));
        for (name, from) in merges.iter().flatten().filter_map(named) {
            let from = super::path::resolve(source, &from);
            let mut dir = from.as_slice();
            while super::path::is_below(source, dir) {
                let path = super::path::join(dir, name.as_bytes());
                if let Some(contents) = find(&path)? {
                    self.enter_above(dir, &name, &contents)
                        .map_err(|message| format!("{}: {message}", super::path::escape(&path)))?;
                }
                let Some(next) = super::path::step_towards(dir, source) else {
                    break;
                };
                dir = next;
            }
        }
        Ok(())
    }

    fn enter_above(
        &mut self,
        dir: &[u8],
        name: &std::ffi::CStr,
        contents: &[u8],
    ) -> Result<(), String> {
        let unanchored = dir.strip_prefix(b"/").unwrap_or(dir);
        let mut entering = Entering::above(self, unanchored);
        while let Some(next) = entering.next_file() {
            let is_it = next == name;
            entering.found(is_it.then_some(contents))?;
        }
        let scope = entering.finish();
        self.top = scope;
        Ok(())
    }

    /// What the rules say of an entry: `Some(true)` to include it.
    fn verdict(&self, scope: &Scope, entries: &[Entry], query: &Query<'_>) -> Option<bool> {
        entries.iter().find_map(|entry| match entry {
            Entry::Rule(rule) => rule.speaks_of(query).then(|| rule.includes()),
            Entry::DirMerge(number) => scope
                .lists(*number)
                .find_map(|entries| self.verdict(scope, entries, query)),
            Entry::Cvs => {
                let mut rules = self.cvs.iter();
                rules.find(|rule| rule.speaks_of(query)).map(Rule::includes)
            }
        })
    }
}

impl Parser<'_, '_> {
    fn given(&mut self, given: &Given) -> Result<(), String> {
        let template = |include: bool| Template {
            include,
            ..Template::default()
        };
        match given {
            Given::Rule(text) => self
                .rule(text, Template::default(), Prefixes::All)
                .map_err(|message| format!("--filter {message}")),
            Given::Pattern { include, text } => {
                let option = if *include { "include" } else { "exclude" };
                self.rule(text, template(*include), Prefixes::Old)
                    .map_err(|message| format!("--{option} {message}"))
            }
            Given::PatternFile { include, file } => {
                let option = if *include { "include" } else { "exclude" };
                let read = match &mut self.read {
                    Some(read) => read(file),
                    None => unreachable!("the command line may name files"),
                };
                read.and_then(|contents| self.file(&contents, template(*include), Prefixes::Old))
                    .map_err(|message| {
                        let file = super::path::escape(file);
                        format!("--{option}-from '{file}': {message}")
                    })
            }
        }
    }
}

/// The rules of `--cvs-exclude`: the built-in ones, which alone are perishable, and those of `texts`.
fn cvs_rules(
    template: Template,
    settings: Settings,
    texts: impl Iterator<Item = Vec<u8>>,
) -> Result<Vec<Rule>, String> {
    let mut parser = Parser::new(settings, None);
    let built_in = Template {
        perishable: true,
        ..template
    };
    parser.words(CVS_EXCLUDES, built_in, Prefixes::All)?;
    for text in texts {
        parser.words(&text, template, Prefixes::All)?;
    }
    let rules = condense(&parser.entries)
        .into_iter()
        .map(|entry| match entry {
            Entry::Rule(rule) => rule,
            other => unreachable!("a list of patterns has no {other:?}"),
        });
    Ok(rules.collect())
}

/// Answers for the entries of one directory.
#[derive(Debug)]
pub struct Judge {
    filter: Arc<Filter>,
    scope: Arc<Scope>,
    removing: bool,
    /// `/DIR/NAME/` of the entry that was asked about last.
    text: Vec<u8>,
    name_at: usize,
}

impl Judge {
    /// `dir` is relative to the root. `removing`: the directory is being removed, so perishable rules are silent.
    #[must_use]
    pub fn new(filter: &Arc<Filter>, scope: &Arc<Scope>, dir: &[u8], removing: bool) -> Self {
        let mut text = vec![b'/'];
        text.extend_from_slice(dir);
        if !dir.is_empty() {
            text.push(b'/');
        }
        Self {
            filter: filter.clone(),
            scope: scope.clone(),
            removing,
            name_at: text.len(),
            text,
        }
    }

    /// Whether an entry of the source does not take part; nothing when that depends on a kind that is not known yet.
    pub fn hides(&mut self, name: &[u8], kind: Option<Kind>) -> Option<bool> {
        self.excludes(Side::Source, name, kind)
    }

    /// Whether an entry of the destination must not be deleted.
    pub fn protects(&mut self, name: &[u8], kind: Option<Kind>) -> Option<bool> {
        self.excludes(Side::Destination, name, kind)
    }

    fn excludes(&mut self, side: Side, name: &[u8], kind: Option<Kind>) -> Option<bool> {
        self.text.truncate(self.name_at);
        self.text.extend_from_slice(name);
        self.text.push(b'/');
        let Some(kind) = kind else {
            let as_dir = self.says_exclude(side, true);
            return (as_dir == self.says_exclude(side, false)).then_some(as_dir);
        };
        Some(self.says_exclude(side, kind == Kind::Dir))
    }

    fn says_exclude(&self, side: Side, is_dir: bool) -> bool {
        let query = Query {
            side,
            removing: self.removing,
            is_dir,
            text: &self.text,
            name_at: self.name_at,
            roots: &self.filter.roots,
        };
        self.filter
            .verdict(&self.scope, &self.filter.entries, &query)
            == Some(false)
    }
}
