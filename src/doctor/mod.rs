//! `ringsync doctor`: what this machine and these filesystems can do, and what to change.
//!
//! Facts are gathered first (`machine`, `place`, `trial`), judged by pure functions then (`judge`), and printed last.
//! A source is only looked at. A destination is tried out, inside a directory of its own that is removed again.

mod bucket;
mod judge;
mod machine;
mod place;
mod trial;

use std::fmt::Write;
use std::path::Path;

use rustix::io::Errno;
use serde::Serialize;

use crate::error::Side;
use crate::report::summary::exit;
use crate::s3::{Options, Url};
use bucket::Bucket;
use machine::Machine;
use place::Place;

/// Whether something is possible here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", content = "reason", rename_all = "lowercase")]
enum Can {
    Yes,
    No(String),
    /// It could not be tried.
    Unknown(String),
}

impl Can {
    #[allow(clippy::needless_pass_by_value)] // What worked is a descriptor that is closed here, or nothing.
    fn of<T>(result: Result<T, Errno>) -> Self {
        match result {
            Ok(_) => Self::Yes,
            Err(errno) => Self::No(describe(errno)),
        }
    }

    fn from_bool(can: bool, otherwise: &str) -> Self {
        if can {
            Self::Yes
        } else {
            Self::No(otherwise.to_owned())
        }
    }

    fn is_no(&self) -> bool {
        matches!(self, Self::No(_))
    }

    fn words(&self) -> String {
        match self {
            Self::Yes => String::from("yes"),
            Self::No(reason) => format!("no: {reason}"),
            Self::Unknown(reason) => format!("not checked: {reason}"),
        }
    }
}

/// In the words that ringsync's other messages use.
fn describe(errno: Errno) -> String {
    let errno = nix::errno::Errno::from_raw(errno.raw_os_error());
    format!("{} ({errno:?})", errno.desc())
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// A fact.
    Fine,
    /// Worth knowing; nothing to do.
    Note,
    /// Something will not be carried, or be slower than it could be.
    Warning,
    /// ringsync cannot run here.
    Problem,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    what: &'static str,
    value: String,
    level: Level,
    /// What it means and what to change, in plain words.
    advice: Option<String>,
}

#[derive(Debug, Serialize)]
struct Section<T> {
    findings: Vec<Finding>,
    #[serde(flatten)]
    facts: T,
}

/// About one side.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Facts {
    Place(Box<Place>),
    Bucket(Box<Bucket>),
}

impl Facts {
    fn shown(&self) -> &str {
        match self {
            Self::Place(place) => &place.shown,
            Self::Bucket(bucket) => &bucket.shown,
        }
    }
}

/// Everything that was found out.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Section<Machine>,
    source: Option<Section<Facts>>,
    destination: Option<Section<Facts>>,
    exit_code: u8,
}

/// Examines the machine, and the paths that are given; those that are buckets are reached as `buckets` says.
#[must_use]
pub fn examine(source: Option<&Path>, dest: Option<&Path>, buckets: &Options) -> Report {
    let machine = Machine::gather();
    let machine = Section {
        findings: judge::machine(&machine),
        facts: machine,
    };
    let section = |side, path: &Path| {
        let url = Url::parse(path.as_os_str().as_encoded_bytes());
        if let Some(url) = url {
            let bucket = match url {
                Ok(url) => Bucket::gather(side, &url, buckets),
                Err(why) => Bucket::unusable(path.display().to_string(), why),
            };
            return Section {
                findings: bucket.judge(),
                facts: Facts::Bucket(Box::new(bucket)),
            };
        }
        let place = Place::gather(side, path, source);
        Section {
            findings: judge::place(&place),
            facts: Facts::Place(Box::new(place)),
        }
    };
    let source_section = source.map(|path| section(Side::Source, path));
    let dest_section = dest.map(|path| section(Side::Destination, path));
    let is_bad = |findings: &[Finding]| findings.iter().any(|it| it.level == Level::Problem);
    let places = [&source_section, &dest_section];
    let exit_code = if places.into_iter().flatten().any(|it| is_bad(&it.findings)) {
        exit::LOCATION
    } else if is_bad(&machine.findings) {
        exit::PARTIAL
    } else {
        exit::DONE
    };
    Report {
        machine,
        source: source_section,
        destination: dest_section,
        exit_code,
    }
}

impl Report {
    /// 0 when ringsync can run here, 3 when a path cannot be used, 23 when the machine lacks something essential.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.exit_code
    }

    /// One JSON object on one line.
    #[must_use]
    pub fn json(&self) -> String {
        match serde_json::to_string(self) {
            Ok(text) => text,
            Err(error) => unreachable!("facts are strings and numbers: {error}"),
        }
    }

    /// For people: each fact on a line, and advice below those that need it.
    #[must_use]
    pub fn words(&self) -> String {
        let mut text = String::new();
        print(&mut text, "this machine", &self.machine.findings);
        let places = [("source", &self.source), ("destination", &self.destination)];
        for (name, section) in places {
            if let Some(section) = section {
                let title = format!("{name} {}", section.facts.shown());
                print(&mut text, &title, &section.findings);
            }
        }
        text += match self.exit_code {
            exit::DONE => "ringsync can run here\n",
            exit::LOCATION => "ringsync cannot work with these paths: see PROBLEM above\n",
            _ => "ringsync cannot run on this machine: see PROBLEM above\n",
        };
        text
    }
}

fn print(text: &mut String, title: &str, findings: &[Finding]) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{title}");
    for finding in findings {
        let _ = writeln!(text, "  {:<18} {}", finding.what, finding.value);
        let mark = match finding.level {
            Level::Fine | Level::Note => "note",
            Level::Warning => "WARNING",
            Level::Problem => "PROBLEM",
        };
        if let Some(advice) = &finding.advice {
            let _ = writeln!(text, "  {:<18} {mark}: {advice}", "");
        }
    }
    text.push('\n');
}
