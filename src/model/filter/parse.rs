//! From the text of rules to lists of them, as rsync reads it.
//!
//! ```text
//! RULE[,MODIFIERS] PATTERN      - + H S P R, or exclude include hide show protect risk
//! RULE[,MODIFIERS] FILE         . :          or merge dir-merge
//! !                                          or clear
//! ```
//! A blank or an underscore stands before the pattern; the comma may be left out after a rule of one letter.

use std::ffi::CString;
use std::sync::Arc;

use super::rule::{Anchor, Rule, Sides, Traits};

/// Files that name files that name files: rsync's limit.
const MERGE_DEPTH_MAX: usize = 32;
/// Per-directory merge files that may be looked for in each directory. Each costs an open there.
const DIR_MERGES_MAX: usize = 64;
/// Fewer plain names in a row are compared one by one: hashing costs as much.
const NAMES_MIN: usize = 8;
/// What `C` reads in each directory when no file is named.
const CVS_FILE: &[u8] = b".cvsignore";

/// How rule files are read, and what plain rules mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Rules in files end with a NUL, not with a line (`--from0`).
    pub nul_separated: bool,
    /// Rules that name no side hide on the source and protect nothing (`--delete-excluded`).
    pub delete_excluded: bool,
}

/// One place in a list of rules.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Rule(Rule),
    /// The rules of a per-directory merge file, by its number.
    DirMerge(usize),
    /// The global CVS rules.
    Cvs,
}

/// What the rules of a file are like unless they say otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Modifiers of a rule, which combine freely.
pub(super) struct Template {
    pub include: bool,
    /// Patterns only: `-`, `+` or `C` was given.
    pub no_prefixes: bool,
    pub word_split: bool,
    pub no_inherit: bool,
    pub exclude_self: bool,
    pub cvs: bool,
    pub absolute: bool,
    pub perishable: bool,
    pub sides: Sides,
}

/// Which prefixes a rule may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prefixes {
    All,
    /// `--exclude` and its kin: `+ `, `- ` and a lone `!`.
    Old,
}

/// A per-directory merge file.
#[derive(Clone, Debug)]
pub(super) struct DirMerge {
    pub name: CString,
    /// From which directory on parents of the transfer are searched, as it was written; nothing when no directory was named.
    pub from: Option<Vec<u8>>,
    pub template: Template,
}

/// Gets the contents of a file that a rule names.
pub type ReadFile<'a> = dyn FnMut(&[u8]) -> Result<Vec<u8>, String> + 'a;

/// Gets the contents of a file that need not be there.
pub type FindFile<'a> = dyn FnMut(&[u8]) -> Result<Option<Vec<u8>>, String> + 'a;

/// A list of rules in the making.
pub(super) struct Parser<'a, 'r> {
    pub settings: Settings,
    pub anchor: Anchor<'a>,
    /// How a `merge` rule gets its file; nothing inside a per-directory file, which may not merge.
    pub read: Option<&'a mut ReadFile<'r>>,
    /// All per-directory files that are active here, by number. Those from `own_merges` on belong to this list.
    pub dir_merges: Vec<Option<Arc<DirMerge>>>,
    pub own_merges: usize,
    pub entries: Vec<Entry>,
    /// A `!` was met: what the list would inherit is gone.
    pub cleared: bool,
    /// A rule for the global CVS rules was met, with these sides and so on.
    pub cvs: Option<Template>,
    pub depth: usize,
}

/// A rule as it was read, before it is put anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Pattern,
    Merge,
    DirMerge,
    Clear,
}

struct Parsed<'t> {
    kind: Kind,
    negated: bool,
    template: Template,
    text: &'t [u8],
}

impl<'a, 'r> Parser<'a, 'r> {
    /// For a list that inherits nothing and is anchored at the root of the transfer.
    pub(super) fn new(settings: Settings, read: Option<&'a mut ReadFile<'r>>) -> Self {
        Self {
            settings,
            anchor: Anchor::Transfer,
            read,
            dir_merges: Vec::new(),
            own_merges: 0,
            entries: Vec::new(),
            cleared: false,
            cvs: None,
            depth: 0,
        }
    }

    /// Adds all rules of a file.
    pub(super) fn file(
        &mut self,
        contents: &[u8],
        template: Template,
        prefixes: Prefixes,
    ) -> Result<(), String> {
        if template.word_split {
            return self.words(contents, template, prefixes);
        }
        for (number, line) in lines(contents, self.settings.nul_separated).enumerate() {
            if line.is_empty() || line.starts_with(b"#") || line.starts_with(b";") {
                continue;
            }
            if line.contains(&0) {
                return Err(format!(
                    "rule {}: a NUL byte, which no name has; is the file a list for --from0?",
                    number + 1
                ));
            }
            self.rule(line, template, prefixes)
                .map_err(|message| format!("rule {}: {message}", number + 1))?;
        }
        Ok(())
    }

    /// Adds the rules of a text that is split at whitespace. The blank between a prefix and its pattern splits nothing.
    pub(super) fn words(
        &mut self,
        text: &[u8],
        template: Template,
        prefixes: Prefixes,
    ) -> Result<(), String> {
        let is_space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b || *byte == 0;
        let mut words = text.split(is_space).filter(|word| !word.is_empty());
        while let Some(word) = words.next() {
            if split_rule(word, template, prefixes).is_ok() {
                self.rule(word, template, prefixes)?;
                continue;
            }
            let pattern = words.next().unwrap_or_default();
            self.rule(&[word, b" ", pattern].concat(), template, prefixes)?;
        }
        Ok(())
    }

    /// Adds one rule.
    pub(super) fn rule(
        &mut self,
        text: &[u8],
        template: Template,
        prefixes: Prefixes,
    ) -> Result<(), String> {
        if text.is_empty() {
            return Ok(());
        }
        let mut parsed = split_rule(text, template, prefixes)
            .map_err(|message| format!("'{}': {message}", text.escape_ascii()))?;
        let is_merge = matches!(parsed.kind, Kind::Merge | Kind::DirMerge);
        if self.settings.delete_excluded && parsed.template.sides.is_empty() && !is_merge {
            parsed.template.sides.source = true;
        }
        let added = match parsed.kind {
            Kind::Clear => {
                self.clear();
                Ok(())
            }
            Kind::Pattern if parsed.template.cvs => self.add_cvs(&parsed),
            Kind::Pattern => {
                self.add_pattern(&parsed);
                Ok(())
            }
            Kind::Merge => self.merge(&parsed),
            Kind::DirMerge => self.add_dir_merge(&parsed),
        };
        added.map_err(|message| format!("'{}': {message}", text.escape_ascii()))
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.cleared = true;
        for merge in &mut self.dir_merges[self.own_merges..] {
            *merge = None;
        }
    }

    fn add_pattern(&mut self, parsed: &Parsed<'_>) {
        let sides = parsed.template.sides;
        let traits = Traits {
            include: parsed.template.include,
            sides: if sides.is_empty() { Sides::BOTH } else { sides },
            negated: parsed.negated,
            absolute: parsed.template.absolute,
            perishable: parsed.template.perishable,
            dirs_only: false,
        };
        let rule = Rule::new(parsed.text, traits, self.anchor);
        self.entries.push(Entry::Rule(rule));
    }

    fn add_cvs(&mut self, parsed: &Parsed<'_>) -> Result<(), String> {
        if parsed.template.include || !parsed.text.is_empty() {
            return Err(String::from(
                "C stands for the CVS excludes: it goes with - and without a pattern",
            ));
        }
        if self.read.is_none() {
            return Err(String::from(
                "the global CVS excludes cannot be added by a per-directory file",
            ));
        }
        // As in rsync, the first such rule says what they are like.
        self.cvs.get_or_insert(parsed.template);
        self.entries.push(Entry::Cvs);
        Ok(())
    }

    fn merge(&mut self, parsed: &Parsed<'_>) -> Result<(), String> {
        let name = if parsed.text.is_empty() {
            CVS_FILE
        } else {
            parsed.text
        };
        if self.depth >= MERGE_DEPTH_MAX {
            return Err(format!(
                "merge files are nested deeper than {MERGE_DEPTH_MAX}"
            ));
        }
        let Some(read) = &mut self.read else {
            return Err(String::from(
                "a per-directory file cannot merge another file; name it with a dir-merge rule",
            ));
        };
        let contents = read(name)?;
        self.exclude_self(parsed, name);
        self.depth += 1;
        let added = self.file(&contents, parsed.template, Prefixes::All);
        self.depth -= 1;
        added.map_err(|message| format!("in '{}': {message}", name.escape_ascii()))
    }

    /// `e`: a rule against the merge file itself.
    fn exclude_self(&mut self, parsed: &Parsed<'_>, name: &[u8]) {
        if !parsed.template.exclude_self {
            return;
        }
        let sides = Sides {
            source: true,
            dest: !self.settings.delete_excluded,
        };
        let (_, name) = split_path(name);
        self.add_pattern(&Parsed {
            kind: Kind::Pattern,
            negated: false,
            template: Template {
                sides,
                ..Template::default()
            },
            text: name,
        });
    }

    fn add_dir_merge(&mut self, parsed: &Parsed<'_>) -> Result<(), String> {
        let path = if parsed.text.is_empty() {
            CVS_FILE
        } else {
            parsed.text
        };
        let (dir, name) = split_path(path);
        if matches!(name, b"" | b"." | b"..") {
            return Err(String::from(
                "a dir-merge rule names a file, as in ': .rules'",
            ));
        }
        if dir.is_some() && self.read.is_none() {
            return Err(String::from(
                "a dir-merge rule inside a per-directory file names a file without a directory",
            ));
        }
        self.exclude_self(parsed, path);
        let known = self.dir_merges.iter().flatten();
        if known.clone().any(|known| known.name.as_bytes() == name) {
            return Ok(());
        }
        if known.count() >= DIR_MERGES_MAX {
            return Err(format!("more than {DIR_MERGES_MAX} per-directory files"));
        }
        let name = CString::new(name).map_err(|_| String::from("the name has a NUL byte"))?;
        self.entries.push(Entry::DirMerge(self.dir_merges.len()));
        self.dir_merges.push(Some(Arc::new(DirMerge {
            name,
            from: dir.map(Vec::from),
            template: parsed.template,
        })));
        Ok(())
    }
}

/// The directory and the last component of a path; `/` has its slash as directory.
fn split_path(path: &[u8]) -> (Option<&[u8]>, &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (Some(&path[..=at]), &path[at + 1..]),
        None => (None, path),
    }
}

/// Lines end with a line feed, a carriage return or both; with `nul_separated` at a NUL and nowhere else.
pub(super) fn lines(contents: &[u8], nul_separated: bool) -> impl Iterator<Item = &[u8]> {
    contents.split(move |byte| {
        if nul_separated {
            *byte == 0
        } else {
            matches!(byte, b'\n' | b'\r')
        }
    })
}

/// Tells what a rule is from its prefix.
fn split_rule(text: &[u8], container: Template, prefixes: Prefixes) -> Result<Parsed<'_>, String> {
    let mut parsed = Parsed {
        kind: Kind::Pattern,
        negated: false,
        template: Template {
            include: container.include,
            absolute: container.absolute,
            perishable: container.perishable,
            ..Template::default()
        },
        text,
    };
    if container.no_prefixes {
        if text == b"!" && container.cvs {
            parsed.kind = Kind::Clear;
        }
    } else if prefixes == Prefixes::Old {
        match text {
            b"!" => parsed.kind = Kind::Clear,
            [sign @ (b'-' | b'+'), b' ', rest @ ..] => {
                parsed.template.include = *sign == b'+';
                parsed.text = rest;
            }
            _ => {}
        }
    } else {
        take_prefix(&mut parsed)?;
    }
    if !container.sides.is_empty() {
        if !parsed.template.sides.is_empty() {
            return Err(String::from(
                "the rule names a side, and so does the merge rule that it is read for; one of them must not",
            ));
        }
        parsed.template.sides = container.sides;
    }
    match parsed.kind {
        Kind::Clear if !parsed.text.is_empty() && parsed.text != b"!" => {
            Err(String::from("nothing may follow a clear rule"))
        }
        Kind::Clear => Ok(parsed),
        _ if parsed.text.is_empty() && !parsed.template.cvs => {
            Err(String::from("the rule ends without a pattern or file name"))
        }
        _ => Ok(parsed),
    }
}

const LONG_NAMES: [(&[u8], u8); 9] = [
    (b"exclude", b'-'),
    (b"include", b'+'),
    (b"hide", b'H'),
    (b"show", b'S'),
    (b"protect", b'P'),
    (b"risk", b'R'),
    (b"dir-merge", b':'),
    (b"merge", b'.'),
    (b"clear", b'!'),
];

/// The letter of a rule's prefix, and what follows the prefix: modifiers, or the separator.
fn rule_letter(text: &[u8]) -> Result<(u8, &[u8]), String> {
    let ends_name = |rest: &[u8]| {
        rest.first()
            .is_none_or(|byte| byte.is_ascii_whitespace() || matches!(byte, b'_' | b','))
    };
    let long = LONG_NAMES.iter().find_map(|(name, letter)| {
        let rest = text.strip_prefix(*name)?;
        ends_name(rest).then_some((*letter, rest))
    });
    let (letter, rest) = match (long, text) {
        (Some(found), _) => found,
        (
            None,
            [
                letter @ (b'-' | b'+' | b'H' | b'S' | b'P' | b'R' | b'.' | b':' | b'!'),
                rest @ ..,
            ],
        ) => (*letter, rest),
        _ => {
            return Err(String::from(
                "unknown filter rule; one begins with exclude, include, hide, show, protect, risk, merge, dir-merge or \
                 clear, or with one of - + H S P R . : !, and then a blank and a pattern",
            ));
        }
    };
    Ok((letter, rest.strip_prefix(b",").unwrap_or(rest)))
}

/// Reads the prefix with its modifiers off a rule.
fn take_prefix(parsed: &mut Parsed<'_>) -> Result<(), String> {
    let (letter, mut rest) = rule_letter(parsed.text)?;
    let template = &mut parsed.template;
    match letter {
        b'+' | b'S' | b'R' => template.include = true,
        b'.' => parsed.kind = Kind::Merge,
        b':' => parsed.kind = Kind::DirMerge,
        b'!' => parsed.kind = Kind::Clear,
        _ => {}
    }
    match letter {
        b'H' | b'S' => template.sides.source = true,
        b'P' | b'R' => template.sides.dest = true,
        _ => {}
    }
    let names_side = !template.sides.is_empty();
    while let [byte, after @ ..] = rest {
        if parsed.kind == Kind::Clear {
            break;
        }
        rest = after;
        if matches!(byte, b' ' | b'_') {
            break;
        }
        take_modifier(parsed, *byte, names_side)?;
    }
    parsed.text = rest;
    Ok(())
}

fn take_modifier(parsed: &mut Parsed<'_>, modifier: u8, names_side: bool) -> Result<(), String> {
    let is_merge = parsed.kind != Kind::Pattern;
    let template = &mut parsed.template;
    match modifier {
        b'/' => template.absolute = true,
        b'!' if !is_merge => parsed.negated = true,
        b'p' => template.perishable = true,
        b's' if !names_side => template.sides.source = true,
        b'r' if !names_side => template.sides.dest = true,
        b'-' if is_merge && !template.no_prefixes => template.no_prefixes = true,
        b'+' if is_merge && !template.no_prefixes => {
            template.no_prefixes = true;
            template.include = true;
        }
        b'e' if is_merge => template.exclude_self = true,
        b'n' if is_merge => template.no_inherit = true,
        b'w' if is_merge => template.word_split = true,
        b'C' if !template.no_prefixes && !names_side => {
            template.no_prefixes = true;
            template.word_split = true;
            template.no_inherit = true;
            template.cvs = true;
        }
        b'x' => {
            return Err(String::from(
                "the modifier x, for names of extended attributes, is not offered",
            ));
        }
        other => {
            let other = [other].escape_ascii().to_string();
            let allowed = match (is_merge, names_side) {
                (true, _) => "/ C e n p r s w, and - or +",
                (false, true) => "/ ! p",
                (false, false) => "/ ! C p r s",
            };
            return Err(format!(
                "the modifier '{other}' does not go there; allowed are {allowed}"
            ));
        }
    }
    Ok(())
}

/// Makes one rule of many in a row that differ in their plain names only.
pub(super) fn condense(entries: &[Entry]) -> Vec<Entry> {
    let plain = |entry: &Entry| match entry {
        Entry::Rule(rule) => rule.plain_name().map(|(traits, _)| *traits),
        _ => None,
    };
    let mut condensed = Vec::new();
    for run in entries.chunk_by(|a, b| plain(a).is_some() && plain(a) == plain(b)) {
        let traits = run.first().and_then(plain);
        let names = run.iter().filter_map(|entry| match entry {
            Entry::Rule(rule) => rule.plain_name().map(|(_, name)| name),
            _ => None,
        });
        match traits {
            Some(traits) if run.len() >= NAMES_MIN => {
                condensed.push(Entry::Rule(Rule::for_names(traits, names)));
            }
            _ => condensed.extend_from_slice(run),
        }
    }
    condensed
}
