//! What is on disk, as a value that can be compared, and the difference of two of them in words.

use super::is_temporary;
use super::tree::Time;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

/// Everything of a node that a sync must carry over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodeState {
    pub(crate) kind: FileType,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Zero for all but files.
    pub(crate) size: u64,
    pub(crate) mtime: Time,
    /// Hash of the content of a file.
    pub(crate) content: u64,
    pub(crate) target: Vec<u8>,
    /// Zero for all but devices.
    pub(crate) rdev: u64,
}

/// Node states by path below the root; the root itself is `.`.
pub(crate) type Snapshot = BTreeMap<Vec<u8>, NodeState>;

/// What shows that a node was touched at all, even if it was put back as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) inode: u64,
    pub(crate) ctime: Time,
}

struct Pending {
    parent: Rc<OwnedFd>,
    name: Vec<u8>,
    path: Vec<u8>,
}

/// Calls `visit(path, parent, name, stat)` for the root and all below it. Every step is relative to an open directory, so
/// paths may be longer than `PATH_MAX`; a directory stays open only while it has subdirectories still to be opened.
fn walk(root: &Path, mut visit: impl FnMut(&[u8], &OwnedFd, &[u8], &Stat)) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let top = rustix::fs::open(root, flags, Mode::empty())
        .unwrap_or_else(|e| panic!("open {}: {e}", root.display()));
    visit(b".", &top, b".", &rustix::fs::fstat(&top).unwrap());
    let mut pending = vec![Pending {
        parent: Rc::new(top),
        name: b".".to_vec(),
        path: Vec::new(),
    }];
    while let Some(Pending { parent, name, path }) = pending.pop() {
        // A user who may not list a directory sees it as empty.
        let Ok(fd) =
            rustix::fs::openat(&*parent, &name[..], flags | OFlags::NOFOLLOW, Mode::empty())
        else {
            continue;
        };
        let fd = Rc::new(fd);
        for entry in Dir::read_from(&*fd).unwrap() {
            let name = entry.unwrap().file_name().to_bytes().to_vec();
            if name == b"." || name == b".." {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(&*fd, &name[..], AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            let path = if path.is_empty() {
                name.clone()
            } else {
                [&path[..], b"/", &name].concat()
            };
            visit(&path, &fd, &name, &stat);
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                pending.push(Pending {
                    parent: Rc::clone(&fd),
                    name,
                    path,
                });
            }
        }
    }
}

pub(crate) fn snapshot(root: &Path) -> Snapshot {
    let mut nodes = Snapshot::new();
    walk(root, |path, parent, name, stat| {
        nodes.insert(path.to_vec(), state(parent, name, stat));
    });
    nodes
}

fn state(parent: &OwnedFd, name: &[u8], stat: &Stat) -> NodeState {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let is_file = kind == FileType::RegularFile;
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    let target = if kind == FileType::Symlink {
        rustix::fs::readlinkat(parent, name, Vec::new())
            .unwrap()
            .into_bytes()
    } else {
        Vec::new()
    };
    NodeState {
        kind,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        size: if is_file {
            u64::try_from(stat.st_size).unwrap()
        } else {
            0
        },
        mtime: Time {
            sec: stat.st_mtime,
            nsec: u32::try_from(stat.st_mtime_nsec).unwrap(),
        },
        content: if is_file { hash(parent, name) } else { 0 },
        target,
        rdev: if is_device { stat.st_rdev } else { 0 },
    }
}

/// Hash of a file's content; zero when this user may not read it.
fn hash(parent: &OwnedFd, name: &[u8]) -> u64 {
    let Ok(fd) = rustix::fs::openat(
        parent,
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
    ) else {
        return 0;
    };
    let mut content = Vec::new();
    File::from(fd).read_to_end(&mut content).unwrap();
    mix(&content)
}

/// A hash that is quick even in unoptimised builds: rotate, xor, multiply, as in Firefox. Each step is reversible, so
/// contents that differ in one word only never collide.
fn mix(content: &[u8]) -> u64 {
    let step =
        |hash: u64, word: u64| (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    let (words, rest) = content.as_chunks::<8>();
    let mut hash = step(0, content.len() as u64);
    for word in words {
        hash = step(hash, u64::from_le_bytes(*word));
    }
    rest.iter()
        .fold(hash, |hash, byte| step(hash, u64::from(*byte)))
}

pub(crate) fn stamps(root: &Path) -> BTreeMap<Vec<u8>, Stamp> {
    let mut stamps = BTreeMap::new();
    walk(root, |path, _, _, stat| {
        let ctime = Time {
            sec: stat.st_ctime,
            nsec: u32::try_from(stat.st_ctime_nsec).unwrap(),
        };
        stamps.insert(
            path.to_vec(),
            Stamp {
                inode: stat.st_ino,
                ctime,
            },
        );
    });
    stamps
}

/// The stamp of one node.
pub(crate) fn stamp(path: &Path) -> Stamp {
    let stat = rustix::fs::lstat(path).unwrap_or_else(|e| panic!("stat {}: {e}", path.display()));
    let ctime = Time {
        sec: stat.st_ctime,
        nsec: u32::try_from(stat.st_ctime_nsec).unwrap(),
    };
    Stamp {
        inode: stat.st_ino,
        ctime,
    }
}

/// Asserts that the destination equals the source in everything, and that nothing half-written lies about.
#[track_caller]
pub(crate) fn assert_equal_trees(src: &Path, dst: &Path) {
    assert_same(&snapshot(src), &snapshot(dst), "source", "destination");
}

#[track_caller]
pub(crate) fn assert_same(left: &Snapshot, right: &Snapshot, left_name: &str, right_name: &str) {
    let lines = differences(left, right, left_name, right_name);
    assert!(
        lines.is_empty(),
        "{left_name} and {right_name} differ\n{lines}"
    );
}

/// Asserts that nothing was touched since `before` was taken: same entries, inodes and ctimes.
#[track_caller]
pub(crate) fn assert_untouched(before: &BTreeMap<Vec<u8>, Stamp>, root: &Path) {
    let after = stamps(root);
    let mut touched: Vec<String> = Vec::new();
    for path in before
        .keys()
        .chain(after.keys().filter(|path| !before.contains_key(*path)))
    {
        if before.get(path) != after.get(path) {
            touched.push(format!(
                "{}: {:?} -> {:?}",
                path.escape_ascii(),
                before.get(path),
                after.get(path)
            ));
        }
    }
    assert!(
        touched.is_empty(),
        "{} entries were touched:\n{}",
        touched.len(),
        touched[..touched.len().min(20)].join("\n")
    );
}

/// One line for each difference, at most 30.
pub(crate) fn differences(
    left: &Snapshot,
    right: &Snapshot,
    left_name: &str,
    right_name: &str,
) -> String {
    const LINES_MAX: usize = 30;
    let mut lines = Vec::new();
    for (path, state) in left {
        let shown = path.escape_ascii();
        match right.get(path) {
            None => lines.push(format!(
                "only in {left_name}: {shown} ({})",
                describe(state)
            )),
            Some(other) if other != state => {
                lines.push(format!("{shown}: {}", changes(state, other)));
            }
            Some(_) => {}
        }
    }
    for (path, state) in right.iter().filter(|(path, _)| !left.contains_key(*path)) {
        lines.push(format!(
            "only in {right_name}: {} ({})",
            path.escape_ascii(),
            describe(state)
        ));
    }
    let mut text = lines[..lines.len().min(LINES_MAX)].join("\n");
    if lines.len() > LINES_MAX {
        let _ = write!(text, "\n... {} more", lines.len() - LINES_MAX);
    }
    text
}

fn describe(state: &NodeState) -> String {
    format!("{:?} {:04o}, {} bytes", state.kind, state.mode, state.size)
}

fn changes(left: &NodeState, right: &NodeState) -> String {
    let mut text = String::new();
    let mut field = |name: &str, a: String, b: String| {
        if a != b {
            let _ = write!(text, "{name} {a} / {b}; ");
        }
    };
    let time = |t: Time| format!("{}.{:09}", t.sec, t.nsec);
    field(
        "kind",
        format!("{:?}", left.kind),
        format!("{:?}", right.kind),
    );
    field(
        "mode",
        format!("{:04o}", left.mode),
        format!("{:04o}", right.mode),
    );
    field(
        "owner",
        format!("{}:{}", left.uid, left.gid),
        format!("{}:{}", right.uid, right.gid),
    );
    field("size", left.size.to_string(), right.size.to_string());
    field("mtime", time(left.mtime), time(right.mtime));
    field(
        "content",
        format!("{:016x}", left.content),
        format!("{:016x}", right.content),
    );
    field(
        "target",
        left.target.escape_ascii().to_string(),
        right.target.escape_ascii().to_string(),
    );
    field(
        "device",
        format!("{:x}", left.rdev),
        format!("{:x}", right.rdev),
    );
    text
}

/// The paths of all temporary files below a directory.
pub(crate) fn temporaries(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    walk(root, |path, _, name, _| {
        if is_temporary(name) {
            found.push(path.escape_ascii().to_string());
        }
    });
    found
}
