//! What objects carry of a file's attributes, in their own metadata.

use std::collections::HashMap;

use aws_sdk_s3::primitives::DateTime;
use xxhash_rust::xxh3::xxh3_64;

use super::options::Form;
use crate::io::Change;
use crate::model::copies::Version;
use crate::model::{Attrs, Kind, Meta, Time};

/// What is known of an object without its metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) size: u64,
    pub(super) modified: Time,
    /// As the server writes it, quotes included; empty when it tells none.
    pub(super) etag: String,
}

impl Listed {
    /// That an object is still this one, for a request; nothing where the server tells no ETag.
    pub(super) fn condition(&self) -> Option<String> {
        Some(self.etag.clone()).filter(|etag| !etag.is_empty())
    }

    /// `None` when the server does not tell the size.
    pub(super) fn new(
        size: Option<i64>,
        modified: Option<&DateTime>,
        etag: Option<&str>,
    ) -> Option<Self> {
        let modified = modified.map(|time| Time {
            sec: time.secs(),
            nsec: time.subsec_nanos(),
        });
        Some(Self {
            size: u64::try_from(size?).ok()?,
            modified: modified.unwrap_or_default(),
            etag: etag.unwrap_or_default().to_owned(),
        })
    }
}

const MODE_PERMISSIONS: u32 = 0o7777;
const MODE_TYPE: u32 = 0o170_000;
/// Of what nobody was asked about.
const NOTHING_KNOWN: Attrs = Attrs::all();
/// Of files and directories that nobody gave a mode.
const FILE_MODE: u32 = 0o644;
const DIR_MODE: u32 = 0o755;

impl Form {
    /// What a listing tells of a file. `asks`: whether its object would tell more.
    pub(super) fn listed(self, listed: &Listed, dev: u64, asks: bool) -> Meta {
        let mut meta = self.file(listed, &HashMap::new(), dev);
        if asks && self != Self::None {
            meta.unknown = NOTHING_KNOWN;
        }
        meta
    }

    /// The metadata of an object that stands for what `kind` and `change` tell.
    pub(super) fn metadata(self, kind: Kind, change: &Change) -> HashMap<String, String> {
        let mut metadata = HashMap::new();
        let mut put = |key: &str, value: String| metadata.insert(key.to_owned(), value);
        if self == Self::None {
            return metadata;
        }
        if let Some(mtime) = change.mtime {
            put("mtime", in_seconds(mtime));
            if self == Self::Posix {
                put("file-mtime", format!("{}ns", mtime.as_nanos()));
            }
        }
        if self == Self::Posix {
            if let Some(atime) = change.atime {
                put("file-atime", format!("{}ns", atime.as_nanos()));
            }
            // On Linux a symlink has no mode of its own.
            let link_mode = (kind == Kind::Symlink).then_some(0o777);
            if let Some(mode) = link_mode.or(change.mode) {
                let mode = kind.mode_bits() | mode & MODE_PERMISSIONS;
                put("file-permissions", format!("{mode:07o}"));
            }
            if let Some(uid) = change.uid {
                put("file-owner", uid.to_string());
            }
            if let Some(gid) = change.gid {
                put("file-group", gid.to_string());
            }
        }
        metadata
    }

    /// The file that an object stands for. Without a time of its own it has that of the object, as in other tools.
    pub(super) fn file(
        self,
        listed: &Listed,
        metadata: &HashMap<String, String>,
        dev: u64,
    ) -> Meta {
        let mut meta = bare(Kind::File, dev);
        meta.ino = Version::of_etag(&listed.etag).map_or(0, |version| version.0);
        meta.size = listed.size;
        meta.mtime = listed.modified;
        meta.ctime = listed.modified;
        meta.unknown = meta.unknown - Attrs::TIMES;
        let value = |key: &str| metadata.get(key).map(String::as_str);
        let number = |key: &str| value(key).and_then(|text| text.trim().parse::<u32>().ok());
        match self {
            Self::None => {}
            Self::Rclone => {
                meta.mtime = value("mtime").and_then(seconds).unwrap_or(meta.mtime);
            }
            Self::Posix => {
                let mtime = value("file-mtime").and_then(with_unit);
                let mtime = mtime.or_else(|| value("mtime").and_then(seconds));
                meta.mtime = mtime.unwrap_or(meta.mtime);
                meta.atime = value("file-atime").and_then(with_unit);
                let octal = |text: &str| u32::from_str_radix(text.trim(), 8).ok();
                if let Some(mode) = value("file-permissions").and_then(octal) {
                    if mode & MODE_TYPE == Kind::Symlink.mode_bits() {
                        meta.kind = Kind::Symlink;
                    }
                    meta.mode = mode & MODE_PERMISSIONS;
                    meta.unknown = meta.unknown - Attrs::MODE;
                }
                if let Some(uid) = number("file-owner") {
                    meta.uid = uid;
                    meta.unknown = meta.unknown - Attrs::OWNER;
                }
                if let Some(gid) = number("file-group") {
                    meta.gid = gid;
                    meta.unknown = meta.unknown - Attrs::GROUP;
                }
            }
        }
        meta
    }
}

/// A file that nobody has given anything yet.
pub(super) fn unwritten(dev: u64) -> Meta {
    let mut meta = bare(Kind::File, dev);
    meta.unknown = NOTHING_KNOWN;
    meta
}

/// A directory: it is there because keys are, and nobody knows more of it.
pub(super) fn dir(prefix: &str, dev: u64) -> Meta {
    Meta {
        ino: xxh3_64(prefix.as_bytes()),
        ..bare(Kind::Dir, dev)
    }
}

fn bare(kind: Kind, dev: u64) -> Meta {
    Meta {
        kind,
        mode: if kind == Kind::Dir {
            DIR_MODE
        } else {
            FILE_MODE
        },
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 0,
        mtime: Time::default(),
        ctime: Time::default(),
        btime: Time::default(),
        atime: None,
        ino: 0,
        dev,
        rdev: 0,
        has_holes: false,
        unknown: Attrs::MODE | Attrs::OWNER | Attrs::GROUP | Attrs::TIMES,
    }
}

/// Seconds since 1970 with a fraction: `1600350600.123456789`.
fn seconds(text: &str) -> Option<Time> {
    let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
    let sec: i64 = whole.parse().ok()?;
    if fraction.bytes().any(|byte| !byte.is_ascii_digit()) {
        return None;
    }
    let nsec: u32 = format!("{fraction:0<9.9}").parse().ok()?;
    if nsec > 0 && whole.starts_with('-') {
        return Some(Time {
            sec: sec - 1,
            nsec: 1_000_000_000 - nsec,
        });
    }
    Some(Time { sec, nsec })
}

fn in_seconds(time: Time) -> String {
    let Time { sec, nsec } = time;
    if sec < 0 && nsec > 0 {
        let whole = sec + 1;
        let sign = if whole == 0 { "-" } else { "" };
        return format!("{sign}{whole}.{:09}", 1_000_000_000 - nsec);
    }
    format!("{sec}.{nsec:09}")
}

/// A number with its unit, `ns` or `ms`; without one, seconds.
fn with_unit(text: &str) -> Option<Time> {
    let text = text.trim();
    let nanos = |digits: &str, each: i64| {
        let count: i64 = digits.parse().ok()?;
        count.checked_mul(each).map(Time::from_nanos)
    };
    if let Some(digits) = text.strip_suffix("ns") {
        nanos(digits, 1)
    } else if let Some(digits) = text.strip_suffix("ms") {
        nanos(digits, 1_000_000)
    } else {
        seconds(text.strip_suffix('s').unwrap_or(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: Time = Time {
        sec: 1_700_000_000,
        nsec: 0,
    };

    fn file(form: Form, metadata: &[(&str, &str)]) -> Meta {
        let listed = Listed {
            size: 7,
            modified: LISTED,
            etag: String::from("\"e\""),
        };
        let pairs = metadata.iter();
        let metadata = pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        form.file(&listed, &metadata.collect(), 5)
    }

    #[test]
    fn times_in_every_writing() {
        let at = |sec, nsec| Some(Time { sec, nsec });
        for (text, time) in [
            ("1600350600.123456789", at(1_600_350_600, 123_456_789)),
            ("1600350600.5", at(1_600_350_600, 500_000_000)),
            ("1600350600.1234567891", at(1_600_350_600, 123_456_789)),
            ("1600350600", at(1_600_350_600, 0)),
            ("-1.25", at(-2, 750_000_000)),
            ("-0.500000000", at(-1, 500_000_000)),
            ("yesterday", None),
            ("1.x", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), time, "{text}");
        }
        for (sec, nsec) in [(0, 0), (5, 7), (-1, 500_000_000), (-2, 1), (-3, 0)] {
            let time = Time { sec, nsec };
            assert_eq!(seconds(&in_seconds(time)), Some(time));
        }
        for (text, time) in [
            ("1595002920000000001ns", at(1_595_002_920, 1)),
            ("1600350600042ms", at(1_600_350_600, 42_000_000)),
            ("1600350600s", at(1_600_350_600, 0)),
            ("99999999999999999999ns", None),
            ("ms", None),
        ] {
            assert_eq!(with_unit(text), time, "{text}");
        }
    }

    #[test]
    fn what_is_not_told_is_not_known() {
        let all = [
            ("file-mtime", "1600350600042ms"),
            ("file-atime", "1600350601s"),
            ("file-permissions", "0100640"),
            ("file-owner", "1000"),
            ("file-group", "1001"),
            ("mtime", "1500000000.5"),
        ];
        let meta = file(Form::Posix, &all);
        assert_eq!((meta.mode, meta.uid, meta.gid), (0o640, 1000, 1001));
        assert_eq!(
            (meta.mtime.sec, meta.mtime.nsec),
            (1_600_350_600, 42_000_000)
        );
        assert_eq!(meta.unknown, Attrs::NONE);
        assert_eq!(meta.atime.map(|atime| atime.sec), Some(1_600_350_601));

        let owner = Attrs::OWNER | Attrs::GROUP;
        let meta = file(Form::Rclone, &all);
        assert_eq!(meta.mtime.sec, 1_500_000_000);
        assert_eq!(meta.unknown, owner | Attrs::MODE);
        let meta = file(Form::Posix, &all[1..]);
        assert_eq!(
            meta.mtime.sec, 1_500_000_000,
            "what rclone wrote is read too"
        );
        let meta = file(
            Form::Posix,
            &[("file-permissions", "rw-"), ("mtime", "now")],
        );
        assert_eq!((meta.mtime, meta.unknown), (LISTED, owner | Attrs::MODE));
        assert_eq!(file(Form::None, &all).mtime, LISTED);
        assert!(dir("a/", 5).unknown.has(Attrs::TIMES | Attrs::MODE));
    }
}
