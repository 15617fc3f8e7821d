//! The rules and lists of the command line, with the files that they name, made into a filter and a selection.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use xxhash_rust::xxh3::Xxh3;

use crate::cli::{RuleArg, RuleArgs, SelectArgs};
use crate::model::filter::{Filter, Given, Selection, Settings, Surroundings};
use crate::model::{path, size};

/// Which entries take part, and which sizes.
pub(super) struct Chosen {
    pub filter: Option<Arc<Filter>>,
    pub selection: Option<Arc<Selection>>,
    pub size_min: u64,
    pub size_max: u64,
    /// Of the rules, and of all files that they were read from.
    pub digest: u64,
}

/// Reads all files that the options name. `-` is standard input, for one of them.
///
/// # Errors
/// A sentence that says which option is wrong, and why.
pub(super) fn choose(
    rules: &RuleArgs,
    select: &SelectArgs,
    source: &Path,
    dest: &Path,
) -> Result<Chosen, String> {
    let inputs = Inputs::default();
    let bound = |option: &str, text: &Option<String>, default: u64| match text {
        Some(text) => size::parse(text).map_err(|message| format!("--{option}: {message}")),
        None => Ok(default),
    };
    let filter = filter(rules, select.delete_excluded, source, dest, &inputs)?;
    let selection = match &select.files_from {
        Some(file) => {
            inputs.note(format!("files-from {}", rules.from0).as_bytes());
            let parse =
                |contents: Vec<u8>| Selection::parse(&contents, rules.from0, select.recursive);
            let parsed = inputs.read(file.as_bytes()).and_then(parse);
            let shown = path::escape(file.as_bytes());
            let parsed = parsed.map_err(|message| format!("--files-from '{shown}': {message}"))?;
            Some(Arc::new(parsed))
        }
        None => None,
    };
    Ok(Chosen {
        filter,
        selection,
        size_min: bound("min-size", &select.min_size, 0)?,
        size_max: bound("max-size", &select.max_size, u64::MAX)?,
        digest: inputs.digest(),
    })
}

/// The rules alone, as a scan has them.
pub(super) fn rules_only(rules: &RuleArgs, source: &Path) -> Result<Option<Arc<Filter>>, String> {
    filter(rules, false, source, source, &Inputs::default())
}

fn filter(
    rules: &RuleArgs,
    delete_excluded: bool,
    source: &Path,
    dest: &Path,
    inputs: &Inputs,
) -> Result<Option<Arc<Filter>>, String> {
    let given = given(rules);
    if given.is_empty() {
        return Ok(None);
    }
    let cvsignore = std::env::var_os("CVSIGNORE").map(OsStringExt::into_vec);
    let here = std::env::current_dir()
        .map_err(|error| format!("cannot tell the current directory: {error}"))?;
    let absolute = |root: &Path| path::resolve(bytes(here.as_os_str()), bytes(root.as_os_str()));
    let settings = Settings {
        nul_separated: rules.from0,
        delete_excluded,
    };
    let (source, dest) = (absolute(source), absolute(dest));
    let decided = format!("{given:?} {cvsignore:?} {settings:?} {source:?} {dest:?}");
    inputs.note(decided.as_bytes());
    let around = Surroundings {
        settings,
        source: &source,
        dest: &dest,
        read: &mut |file| inputs.read(file),
        find: &mut |file| inputs.find(file),
        home: std::env::var_os("HOME").map(OsStringExt::into_vec),
        cvsignore,
    };
    Ok(Filter::compile(&given, around)?.map(Arc::new))
}

fn bytes(text: &OsStr) -> &[u8] {
    text.as_bytes()
}

/// What was typed as the rules that it stands for.
fn given(args: &RuleArgs) -> Vec<Given> {
    let mut times_f = 0;
    let mut given: Vec<Given> = Vec::new();
    for arg in &args.rules {
        let vec = |text: &OsStr| text.as_bytes().to_vec();
        given.push(match arg {
            RuleArg::Filter(rule) => Given::Rule(vec(rule)),
            RuleArg::Exclude(text) | RuleArg::Include(text) => Given::Pattern {
                include: matches!(arg, RuleArg::Include(_)),
                text: vec(text),
            },
            RuleArg::ExcludeFrom(file) | RuleArg::IncludeFrom(file) => Given::PatternFile {
                include: matches!(arg, RuleArg::IncludeFrom(_)),
                file: vec(file),
            },
            RuleArg::PerDirectory => {
                times_f += 1;
                match times_f {
                    1 => Given::Rule(b": /.rsync-filter".to_vec()),
                    2 => Given::Rule(b"- .rsync-filter".to_vec()),
                    _ => continue,
                }
            }
        });
    }
    if args.cvs_exclude {
        // Behind all other rules, wherever it was typed.
        given.push(Given::Rule(b":C".to_vec()));
        given.push(Given::Rule(b"-C".to_vec()));
    }
    given
}

/// Everything that rules and lists are read from, with a digest of it. Standard input can be read once.
#[derive(Default)]
struct Inputs {
    stdin_was_read: Cell<bool>,
    digest: RefCell<Xxh3>,
}

impl Inputs {
    fn note_file(&self, file: &[u8], contents: &[u8]) {
        self.note(file);
        self.note(contents);
    }

    fn note(&self, contents: &[u8]) {
        let mut digest = self.digest.borrow_mut();
        digest.update(&(contents.len() as u64).to_le_bytes());
        digest.update(contents);
    }

    fn digest(&self) -> u64 {
        self.digest.borrow().digest()
    }

    /// The contents of a file, or of standard input for `-`.
    fn read(&self, file: &[u8]) -> Result<Vec<u8>, String> {
        let shown = path::escape(file);
        let contents = if file != b"-" {
            fs::read(OsStr::from_bytes(file))
                .map_err(|error| format!("cannot read '{shown}': {error}"))?
        } else if self.stdin_was_read.replace(true) {
            return Err(String::from(
                "standard input was read already; only one '-' can be",
            ));
        } else {
            let mut contents = Vec::new();
            std::io::stdin()
                .read_to_end(&mut contents)
                .map_err(|error| format!("cannot read standard input: {error}"))?;
            contents
        };
        self.note_file(file, &contents);
        Ok(contents)
    }

    /// A file that need not be there. One that is there and cannot be read is an error: its rules may be what protects
    /// something.
    fn find(&self, file: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match fs::read(OsStr::from_bytes(file)) {
            Ok(contents) => {
                self.note_file(file, &contents);
                Ok(Some(contents))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!(
                "cannot read the rules in '{}': {error}",
                path::escape(file)
            )),
        }
    }
}
