//! One rule: which entries it speaks of, and what it says of them.

use foldhash::fast::RandomState;
use hashbrown::HashSet;

use super::glob::{Glob, is_wild};
use crate::error::Side;

/// Which sides of a sync a rule speaks to: it hides or shows on the source, protects or puts at risk on the destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sides {
    pub source: bool,
    pub dest: bool,
}

impl Sides {
    pub(super) const BOTH: Self = Self {
        source: true,
        dest: true,
    };

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn has(self, side: Side) -> bool {
        match side {
            Side::Source => self.source,
            Side::Destination => self.dest,
        }
    }
}

/// What a rule says, apart from its pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Modifiers of a rule, which combine freely.
pub(super) struct Traits {
    /// Include (show, risk); else exclude (hide, protect).
    pub include: bool,
    pub sides: Sides,
    /// `!`: speaks of what the pattern does not match.
    pub negated: bool,
    /// `/`: the pattern is matched against absolute paths.
    pub absolute: bool,
    /// `p`: silent inside directories that are being removed.
    pub perishable: bool,
    /// A slash ended the pattern. An entry that is not a directory then does not match, which a `!` turns round as well.
    pub dirs_only: bool,
}

/// What a leading slash of a pattern stands for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Anchor<'a> {
    /// The root of the transfer.
    Transfer,
    /// The directory of a per-directory merge file, relative to the root of the transfer.
    Dir(&'a [u8]),
    /// A directory above the source, by its absolute path.
    Above(&'a [u8]),
}

#[derive(Clone, Debug)]
pub(super) struct Rule {
    traits: Traits,
    matcher: Matcher,
}

#[derive(Clone, Debug)]
enum Matcher {
    /// Looks at the last component only.
    Name(Glob),
    /// Many rules in a row that differ in their plain names only.
    Names(HashSet<Box<[u8]>, RandomState>),
    Path(PathMatcher),
}

#[derive(Clone, Debug)]
struct PathMatcher {
    glob: Glob,
    start: Start,
    base: Base,
    /// What the path must begin with before the pattern is tried, up to and without a slash.
    below: Box<[u8]>,
    /// `**/x` is to match `x` in the root too: the path is seen with a slash before it.
    leading_slash: bool,
    /// `dir/***` is to match `dir` too: directories are seen with a slash behind them.
    trailing_slash: bool,
}

/// Where in a path a pattern may begin.
#[derive(Clone, Copy, Debug)]
enum Start {
    Whole,
    /// So many components from the end.
    Tail(usize),
    AnyComponent,
}

/// What a path is seen relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Transfer,
    /// `/` of the filesystem, on the side that is asked about.
    FilesystemOfSide,
    /// `/` of the filesystem, through the source.
    FilesystemOfSource,
}

/// Absolute paths of the two roots, without the slash at their beginning.
#[derive(Clone, Debug, Default)]
pub(super) struct RootPaths {
    pub source: Vec<u8>,
    pub dest: Vec<u8>,
}

impl RootPaths {
    fn of(&self, side: Side) -> &[u8] {
        match side {
            Side::Source => &self.source,
            Side::Destination => &self.dest,
        }
    }
}

/// The entry that is asked about.
#[derive(Clone, Copy)]
pub(super) struct Query<'a> {
    pub side: Side,
    /// Inside a directory that is being removed.
    pub removing: bool,
    pub is_dir: bool,
    /// `/DIR/NAME/`, and where `NAME` begins in it.
    pub text: &'a [u8],
    pub name_at: usize,
    pub roots: &'a RootPaths,
}

impl Query<'_> {
    fn name(&self) -> &[u8] {
        &self.text[self.name_at..self.text.len() - 1]
    }
}

impl Rule {
    /// `pattern` as it was written, with the slash at its end.
    pub(super) fn new(pattern: &[u8], mut traits: Traits, anchor: Anchor<'_>) -> Self {
        let mut pattern = pattern;
        if pattern.len() > 1
            && let Some(stripped) = pattern.strip_suffix(b"/")
        {
            pattern = stripped;
            traits.dirs_only = true;
        }
        let crosses_slashes = is_wild(pattern) && pattern.windows(2).any(|pair| pair == b"**");
        let matcher = if pattern.contains(&b'/') || crosses_slashes {
            Matcher::Path(PathMatcher::new(
                pattern,
                crosses_slashes,
                traits.absolute,
                anchor,
            ))
        } else {
            Matcher::Name(Glob::new(pattern))
        };
        Self { traits, matcher }
    }

    pub(super) fn includes(&self) -> bool {
        self.traits.include
    }

    /// Whether the rule speaks of the entry.
    pub(super) fn speaks_of(&self, query: &Query<'_>) -> bool {
        let Traits {
            sides,
            negated,
            perishable,
            dirs_only,
            ..
        } = self.traits;
        if !sides.has(query.side) || (perishable && query.removing) {
            return false;
        }
        let matches = (query.is_dir || !dirs_only)
            && match &self.matcher {
                Matcher::Name(glob) => glob.matches(query.name()),
                Matcher::Names(names) => names.contains(query.name()),
                Matcher::Path(path) => path.matches(query),
            };
        matches != negated
    }

    /// The plain name of a rule that [`Rule::for_names`] can merge with others of the same traits.
    pub(super) fn plain_name(&self) -> Option<(&Traits, &[u8])> {
        match &self.matcher {
            Matcher::Name(Glob::Literal(name)) if !self.traits.negated => {
                Some((&self.traits, name))
            }
            _ => None,
        }
    }

    /// One rule that speaks of all these names.
    pub(super) fn for_names<'a>(traits: Traits, names: impl Iterator<Item = &'a [u8]>) -> Self {
        Self {
            traits,
            matcher: Matcher::Names(names.map(Box::from).collect()),
        }
    }
}

impl PathMatcher {
    fn new(pattern: &[u8], crosses_slashes: bool, absolute: bool, anchor: Anchor<'_>) -> Self {
        let slashes = slashes(pattern).count();
        let anchored = pattern.strip_prefix(b"/");
        let begins_anywhere = pattern.starts_with(b"**");
        let start = match anchored {
            None if slashes > 0 && !crosses_slashes => Start::Tail(slashes + 1),
            None if crosses_slashes && !begins_anywhere => Start::AnyComponent,
            _ => Start::Whole,
        };
        let (base, below): (Base, &[u8]) = match (absolute, anchored, anchor) {
            (true, ..) => (Base::FilesystemOfSide, b""),
            (false, Some(_), Anchor::Dir(dir)) => (Base::Transfer, dir),
            (false, Some(_), Anchor::Above(dir)) => (Base::FilesystemOfSource, dir),
            _ => (Base::Transfer, b""),
        };
        Self {
            glob: Glob::new(anchored.unwrap_or(pattern)),
            start,
            base,
            below: below.into(),
            leading_slash: begins_anywhere && !absolute,
            trailing_slash: crosses_slashes && pattern.ends_with(b"***"),
        }
    }

    fn matches(&self, query: &Query<'_>) -> bool {
        let begin = usize::from(!self.leading_slash);
        let end = query.text.len() - usize::from(!(self.trailing_slash && query.is_dir));
        let root = match self.base {
            Base::Transfer => return self.matches_text(&query.text[begin..end]),
            Base::FilesystemOfSide => query.roots.of(query.side),
            Base::FilesystemOfSource => query.roots.of(Side::Source),
        };
        if root.is_empty() {
            return self.matches_text(&query.text[1..end]);
        }
        // Rules on absolute paths are rare enough to pay for a copy.
        self.matches_text(&[root, &query.text[..end]].concat())
    }

    fn matches_text(&self, text: &[u8]) -> bool {
        let text = if self.below.is_empty() {
            text
        } else {
            let rest = text.strip_prefix(&*self.below);
            match rest.and_then(|rest| rest.strip_prefix(b"/")) {
                Some(rest) => rest,
                None => return false,
            }
        };
        match self.start {
            Start::Whole => self.glob.matches(text),
            Start::Tail(components) => {
                tail(text, components).is_some_and(|tail| self.glob.matches(tail))
            }
            Start::AnyComponent => std::iter::once(0)
                .chain(slashes(text).map(|at| at + 1))
                .any(|at| self.glob.matches(&text[at..])),
        }
    }
}

/// Where the slashes are.
fn slashes(text: &[u8]) -> impl DoubleEndedIterator<Item = usize> {
    (0..text.len()).filter(|at| text[*at] == b'/')
}

/// The last `components` of a path; nothing when it has fewer.
fn tail(text: &[u8], components: usize) -> Option<&[u8]> {
    match slashes(text).rev().nth(components - 1) {
        Some(at) => Some(&text[at + 1..]),
        None => (slashes(text).count() + 1 == components).then_some(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether `pattern` speaks of `path`; a slash at its end makes it a directory.
    fn speaks(pattern: &str, path: &str) -> bool {
        speaks_from(pattern, path, false, Anchor::Transfer)
    }

    fn speaks_from(pattern: &str, path: &str, absolute: bool, anchor: Anchor<'_>) -> bool {
        let traits = Traits {
            include: false,
            sides: Sides::BOTH,
            negated: false,
            absolute,
            perishable: false,
            dirs_only: false,
        };
        let is_dir = path.ends_with('/');
        let text = format!("/{}/", path.trim_end_matches('/'));
        let roots = RootPaths {
            source: b"home/me".to_vec(),
            dest: b"backup".to_vec(),
        };
        Rule::new(pattern.as_bytes(), traits, anchor).speaks_of(&Query {
            side: Side::Source,
            removing: false,
            is_dir,
            name_at: text[..text.len() - 1].rfind('/').unwrap() + 1,
            text: text.as_bytes(),
            roots: &roots,
        })
    }

    #[test]
    fn patterns_by_table() {
        let rows = [
            // The last component.
            ("foo", "a/foo", true),
            ("foo", "foo/a", false),
            ("*.o", "a/b.o", true),
            ("foo/", "a/foo/", true),
            ("foo/", "a/foo", false),
            // The last components.
            ("foo/bar", "a/foo/bar", true),
            ("foo/bar", "foo/bar", true),
            ("foo/bar", "afoo/bar", false),
            ("foo/bar", "bar", false),
            ("foo/*/bar", "x/foo/y/bar", true),
            ("foo/*/bar", "foo/y/z/bar", false),
            // The root.
            ("/foo", "foo", true),
            ("/foo", "a/foo", false),
            ("/foo/*", "foo/a", true),
            ("/foo/*", "foo/a/b", false),
            ("/", "foo", false),
            // Across slashes.
            ("/foo/**/bar", "foo/x/y/bar", true),
            ("/foo/**/bar", "foo/bar", false),
            ("**/bar", "bar", true),
            ("**/bar", "a/b/bar", true),
            ("**bar", "a/foobar", true),
            ("a/**", "x/a/b/c", true),
            ("a/**", "x/a/", false),
            ("b**", "a/b/c", true),
            ("foo**bar", "x/foo/y/bar", true),
            ("foo**bar", "xfoo/y/bar", false),
            // A directory and all that is in it.
            ("dir/***", "dir/", true),
            ("dir/***", "x/dir/", true),
            ("dir/***", "dir", false),
            ("dir/***", "dir/a/b", true),
            ("/dir/***", "x/dir/", false),
        ];
        for (pattern, path, expected) in rows {
            assert_eq!(speaks(pattern, path), expected, "{pattern:?} on {path:?}");
        }
    }

    #[test]
    fn anchors_and_absolute_paths() {
        let dir = Anchor::Dir(b"a/b");
        assert!(speaks_from("/foo", "a/b/foo", false, dir));
        assert!(!speaks_from("/foo", "a/foo", false, dir));
        assert!(!speaks_from("/foo", "a/bfoo", false, dir));
        assert!(speaks_from("x/foo", "a/b/x/foo", false, dir));
        let above = Anchor::Above(b"home");
        assert!(speaks_from("/me/foo", "foo", false, above));
        assert!(!speaks_from("/foo", "foo", false, above));
        assert!(speaks_from("/home/me/foo", "foo", true, Anchor::Transfer));
        assert!(speaks_from("me/foo", "foo", true, Anchor::Transfer));
        assert!(!speaks_from("/foo", "foo", true, Anchor::Transfer));
        assert!(speaks_from("foo", "foo", true, Anchor::Transfer));
    }
}
