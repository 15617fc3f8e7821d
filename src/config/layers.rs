//! Where settings come from: options, environment, file; and what a value looks like that is none.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::cli::TuningArgs;

/// The largest configuration file that is read: what is larger is something else.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where a value comes from, the strongest last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    BuiltIn,
    /// What machine or process have.
    Detected(String),
    /// How it was computed from that.
    Derived(String),
    File {
        path: PathBuf,
        key: String,
    },
    Environment(String),
    Option(String),
}

impl Origin {
    /// One word, for JSON.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::BuiltIn => "built-in",
            Self::Detected(_) => "detected",
            Self::Derived(_) => "derived",
            Self::File { .. } => "file",
            Self::Environment(_) => "environment",
            Self::Option(_) => "option",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::Detected(what) => write!(f, "detected: {what}"),
            Self::Derived(how) => write!(f, "derived: {how}"),
            Self::File { path, key } => write!(f, "'{key}' in {}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Option(name) => write!(f, "--{name}"),
        }
    }
}

/// Everything that users have said.
pub(super) struct Layers<'a> {
    options: &'a TuningArgs,
    environment: &'a dyn Fn(&str) -> Option<OsString>,
    file: Option<(PathBuf, Table)>,
}

impl<'a> Layers<'a> {
    /// Reads the configuration file, if there is one.
    ///
    /// # Errors
    /// When a file that was asked for cannot be read, and when any has keys or values that mean nothing.
    pub(super) fn gather(
        options: &'a TuningArgs,
        environment: &'a dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Self, String> {
        let asked = options
            .config
            .clone()
            .or_else(|| named(environment, "RINGSYNC_CONFIG").map(PathBuf::from));
        let file = match asked {
            Some(path) => match read(&path)? {
                Some(table) => Some((path, table)),
                None => {
                    return Err(format!(
                        "there is no configuration file '{}'",
                        path.display()
                    ));
                }
            },
            None => match usual_file(environment).filter(|path| may_look(path)) {
                Some(path) => read(&path)?.map(|table| (path, table)),
                None => None,
            },
        };
        Ok(Self {
            options,
            environment,
            file,
        })
    }

    /// The strongest value that was given for a setting.
    ///
    /// # Errors
    /// When it is not text.
    pub(super) fn given(&self, name: &str) -> Result<Option<(String, Origin)>, String> {
        if let Some(text) = self.options.given(name) {
            return Ok(Some((text.to_owned(), Origin::Option(name.to_owned()))));
        }
        let variable = variable(name);
        if let Some(text) = (self.environment)(&variable) {
            let text = text
                .into_string()
                .map_err(|text| format!("{variable} is not text: {}", text.display()))?;
            return Ok(Some((text, Origin::Environment(variable))));
        }
        let Some((path, table)) = &self.file else {
            return Ok(None);
        };
        let origin = Origin::File {
            path: path.clone(),
            key: name.to_owned(),
        };
        let Some(value) = table.get(name) else {
            return Ok(None);
        };
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Integer(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::Boolean(true) => String::from("on"),
            Value::Boolean(false) => String::from("off"),
            other => {
                let kind = other.type_str();
                return Err(format!("{origin} is a {kind}: write a string or a number"));
            }
        };
        Ok(Some((text, origin)))
    }
}

/// The environment variable of a setting.
pub(super) fn variable(name: &str) -> String {
    format!("RINGSYNC_{}", name.replace('-', "_").to_uppercase())
}

/// A variable that is set, and not to nothing.
fn named(environment: &dyn Fn(&str) -> Option<OsString>, name: &str) -> Option<OsString> {
    environment(name).filter(|text| !text.is_empty())
}

/// The file that is read when none is named.
fn usual_file(environment: &dyn Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name| named(environment, name);
    let base = match set("XDG_CONFIG_HOME").map(PathBuf::from) {
        // As the specification has it: a relative path counts as none.
        Some(base) if base.is_absolute() => base,
        _ => Path::new(&set("HOME")?).join(".config"),
    };
    Some(base.join("ringsync/config.toml"))
}

/// Whether the file's directory may be looked into. The home of somebody else (`sudo -u`) has no configuration for us.
fn may_look(path: &Path) -> bool {
    let denied = |error: std::io::Error| error.kind() == ErrorKind::PermissionDenied;
    !fs::metadata(path).is_err_and(denied)
}

/// The settings of a file; `None` when it does not exist.
fn read(path: &Path) -> Result<Option<Table>, String> {
    let shown = path.display();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("cannot read configuration file '{shown}': {error}")),
    };
    let mut text = String::new();
    // Its size says nothing of a device or a pipe.
    file.take(FILE_BYTES_MAX + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot read configuration file '{shown}': {error}"))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!(
            "configuration file '{shown}' has more than {FILE_BYTES_MAX} bytes"
        ));
    }
    let table: Table = text
        .parse()
        .map_err(|error| format!("configuration file '{shown}': {error}"))?;
    let known = TuningArgs::NAMES;
    if let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(format!(
            "configuration file '{shown}' has a key '{key}', which is none of: {}",
            known.join(", ")
        ));
    }
    Ok(Some(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + use<> {
        let pairs: Vec<(String, OsString)> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).into()))
            .collect();
        move |name| {
            let pair = pairs.iter().find(|(known, _)| known == name);
            pair.map(|(_, value)| value.clone())
        }
    }

    #[test]
    fn options_win_over_variables_and_those_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("ringsync/config.toml");
        fs::create_dir(file.parent().unwrap()).unwrap();
        fs::write(
            &file,
            "max-tasks = 1\nbwlimit = \"1M\"\nhistograms = false\n",
        )
        .unwrap();
        let home = dir.path().to_str().unwrap();
        let environment = environment(&[
            ("XDG_CONFIG_HOME", home),
            ("RINGSYNC_MAX_TASKS", "2"),
            ("RINGSYNC_OPS_LIMIT", "7"),
        ]);
        let options = TuningArgs {
            ops_limit: Some(String::from("3")),
            ..TuningArgs::default()
        };
        let layers = Layers::gather(&options, &environment).unwrap();
        let given = |name| {
            let given = layers.given(name).unwrap();
            given.map(|(text, origin)| (text, origin.kind()))
        };
        let some = |text: &str, kind| Some((text.to_owned(), kind));
        assert_eq!(given("ops-limit"), some("3", "option"));
        assert_eq!(given("max-tasks"), some("2", "environment"));
        assert_eq!(given("bwlimit"), some("1M", "file"));
        assert_eq!(given("histograms"), some("off", "file"));
        assert_eq!(given("cores"), None);
    }

    #[test]
    fn files_with_mistakes_are_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file.toml");
        let options = TuningArgs {
            config: Some(path.clone()),
            ..TuningArgs::default()
        };
        let nothing = environment(&[]);
        let refusal = || {
            let layers = Layers::gather(&options, &nothing);
            layers.and_then(|all| all.given("max-tasks")).unwrap_err()
        };
        assert!(refusal().contains("no configuration file"));
        for (text, word) in [
            ("max-task = 1", "max-tasks"),
            ("max-tasks = ", "line 1"),
            ("max-tasks = [1]", "array"),
        ] {
            fs::write(&path, text).unwrap();
            assert!(refusal().contains(word), "{text}: {}", refusal());
        }
    }

    #[test]
    fn without_a_home_there_is_no_usual_file() {
        let usual = |pairs: &[(&str, &str)]| usual_file(&environment(pairs));
        assert_eq!(usual(&[]), None);
        let in_home = Some(PathBuf::from("/h/.config/ringsync/config.toml"));
        assert_eq!(usual(&[("HOME", "/h")]), in_home);
        assert_eq!(
            usual(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "relative")]),
            in_home
        );
    }
}
