//! Trees as values: described in memory, changed there, and written to disk as often as needed.

use super::is_root;
use super::rng::Rng;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps};
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, lchown, symlink};
use std::path::Path;

/// Seconds (may be negative) and nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time {
    pub(crate) sec: i64,
    pub(crate) nsec: u32,
}

/// What every node gets unless told otherwise: long ago, so that a time that was not kept is seen.
pub(crate) const LONG_AGO: Time = Time {
    sec: 1_600_000_000,
    nsec: 123_456_789,
};

impl Time {
    pub(crate) fn plus(self, seconds: i64) -> Self {
        Self {
            sec: self.sec + seconds,
            ..self
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File(Vec<u8>),
    Dir,
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    /// User and group; whoever runs the test when `None`.
    pub(crate) owner: Option<(u32, u32)>,
    pub(crate) mtime: Time,
}

impl Node {
    pub(crate) fn new(kind: Kind) -> Self {
        let mode = if kind == Kind::Dir { 0o755 } else { 0o644 };
        Self {
            kind,
            mode,
            owner: None,
            mtime: LONG_AGO,
        }
    }

    pub(crate) fn mode(&mut self, mode: u32) -> &mut Self {
        self.mode = mode;
        self
    }

    pub(crate) fn owner(&mut self, uid: u32, gid: u32) -> &mut Self {
        self.owner = Some((uid, gid));
        self
    }

    pub(crate) fn mtime(&mut self, sec: i64, nsec: u32) -> &mut Self {
        self.mtime = Time { sec, nsec };
        self
    }

    pub(crate) fn at(&mut self, mtime: Time) -> &mut Self {
        self.mtime = mtime;
        self
    }
}

/// Nodes by their path below a root; a parent's path is a prefix of its children's, so it sorts before them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tree {
    pub(crate) nodes: BTreeMap<Vec<u8>, Node>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces a node, and the directories above it when they are missing.
    pub(crate) fn add(&mut self, path: impl AsRef<[u8]>, kind: Kind) -> &mut Node {
        let path = path.as_ref();
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            self.nodes
                .entry(path[..at].to_vec())
                .or_insert_with(|| Node::new(Kind::Dir));
        }
        let node = Node::new(kind);
        self.nodes
            .entry(path.to_vec())
            .and_modify(|old| *old = node.clone())
            .or_insert(node)
    }

    pub(crate) fn file(
        &mut self,
        path: impl AsRef<[u8]>,
        content: impl Into<Vec<u8>>,
    ) -> &mut Node {
        self.add(path, Kind::File(content.into()))
    }

    pub(crate) fn dir(&mut self, path: impl AsRef<[u8]>) -> &mut Node {
        self.add(path, Kind::Dir)
    }

    pub(crate) fn symlink(
        &mut self,
        path: impl AsRef<[u8]>,
        target: impl Into<Vec<u8>>,
    ) -> &mut Node {
        self.add(path, Kind::Symlink(target.into()))
    }

    pub(crate) fn node(&mut self, path: impl AsRef<[u8]>) -> &mut Node {
        self.nodes.get_mut(path.as_ref()).expect("no such node")
    }

    /// Takes out a node and everything below it.
    pub(crate) fn remove(&mut self, path: &[u8]) -> BTreeMap<Vec<u8>, Node> {
        let below = [path, b"/"].concat();
        let inside = self
            .nodes
            .range(below.clone()..)
            .map(|(key, _)| key.clone());
        let mut keys: Vec<Vec<u8>> = inside.take_while(|key| key.starts_with(&below)).collect();
        keys.push(path.to_vec());
        keys.into_iter()
            .filter_map(|key| self.nodes.remove_entry(&key))
            .collect()
    }

    /// Writes the tree below `root`, an existing directory, and sets the root's own time.
    pub(crate) fn write_to(&self, root: &Path) {
        for (path, node) in &self.nodes {
            create(&root.join(OsStr::from_bytes(path)), &node.kind);
        }
        // Children first: creating them changed the times of their directory.
        for (path, node) in self.nodes.iter().rev() {
            finish(&root.join(OsStr::from_bytes(path)), node);
        }
        finish(root, &Node::new(Kind::Dir));
    }
}

fn create(path: &Path, kind: &Kind) {
    let special = |file_type, device| {
        rustix::fs::mknodat(CWD, path, file_type, Mode::from_raw_mode(0o600), device)
            .unwrap_or_else(|e| panic!("mknod {}: {e}", path.display()));
    };
    match kind {
        Kind::File(content) => fs::write(path, content).unwrap(),
        Kind::Dir => fs::create_dir(path).unwrap(),
        Kind::Symlink(target) => symlink(OsStr::from_bytes(target), path).unwrap(),
        Kind::Fifo => special(FileType::Fifo, 0),
        Kind::Socket => special(FileType::Socket, 0),
        Kind::CharDevice(major, minor) => special(
            FileType::CharacterDevice,
            rustix::fs::makedev(*major, *minor),
        ),
        Kind::BlockDevice(major, minor) => {
            special(FileType::BlockDevice, rustix::fs::makedev(*major, *minor));
        }
    }
}

fn finish(path: &Path, node: &Node) {
    if let Some((uid, gid)) = node.owner {
        lchown(path, Some(uid), Some(gid)).unwrap();
    }
    if !matches!(node.kind, Kind::Symlink(_)) {
        fs::set_permissions(path, Permissions::from_mode(node.mode)).unwrap();
    }
    set_mtime(path, node.mtime);
}

/// Sets the modification time of a node, of a symlink itself rather than what it points to.
pub(crate) fn set_mtime(path: &Path, mtime: Time) {
    let time = Timespec {
        tv_sec: mtime.sec,
        tv_nsec: mtime.nsec.into(),
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A file of any size: one block of pseudo-random bytes over and over, each with its number.
pub(crate) fn write_noise(path: &Path, len: u64, seed: u64) {
    const BLOCK_MAX: u64 = 1 << 20;
    let size_of = |left: u64| usize::try_from(left.min(BLOCK_MAX)).unwrap();
    let mut file = fs::File::create(path).unwrap();
    let (mut block, mut left, mut number) = (Rng::new(seed).bytes(size_of(len).max(8)), len, 0_u64);
    while left > 0 {
        // The number makes a block that landed in the wrong place visible.
        block[..8].copy_from_slice(&number.to_le_bytes());
        let size = size_of(left);
        file.write_all(&block[..size]).unwrap();
        (left, number) = (left - size as u64, number + 1);
    }
    drop(file);
    set_mtime(path, LONG_AGO);
}

/// Every kind of inode (devices when root), with unusual modes, owners and times.
pub(crate) fn all_kinds() -> Tree {
    let mut tree = Tree::new();
    tree.file("file", "some content\n");
    tree.file("empty file", "");
    tree.file("dir/child", vec![b'x'; 5000]);
    tree.file("dir/below/grandchild", vec![0; 70_000]);
    tree.dir("empty dir");
    tree.dir("empty dir with an old time").mtime(86_400, 0);
    tree.symlink("link to file", "file")
        .mtime(1_500_000_000, 42);
    tree.symlink("link to dir", "dir");
    tree.symlink("dangling link", "no/such/thing");
    tree.symlink("absolute link", "/etc/passwd");
    tree.symlink("link to itself", "link to itself");
    tree.symlink("odd link", b"\xff\n -> x".to_vec());
    // XFS takes 1,023 bytes at most.
    tree.symlink("long link", vec![b'l'; 1000]);
    tree.add("fifo", Kind::Fifo).mode(0o620);
    tree.add("socket", Kind::Socket).mode(0o755);
    add_modes(&mut tree);
    add_times(&mut tree);
    if is_root() {
        tree.add("char device", Kind::CharDevice(1, 3)).mode(0o666);
        tree.add(
            "char device with big numbers",
            Kind::CharDevice(300, 70_000),
        );
        tree.add("block device", Kind::BlockDevice(7, 200))
            .mode(0o660);
        add_owners(&mut tree);
    }
    tree
}

fn add_modes(tree: &mut Tree) {
    let private = if is_root() { 0o000 } else { 0o400 };
    let closed = if is_root() { 0o000 } else { 0o500 };
    for mode in [private, 0o400, 0o644, 0o777, 0o4755, 0o2755, 0o6711, 0o1644] {
        tree.file(format!("modes/file {mode:04o}"), format!("{mode:o}"))
            .mode(mode);
    }
    for mode in [closed, 0o500, 0o700, 0o1777, 0o2775, 0o777] {
        tree.file(format!("modes/dir {mode:04o}/child"), "in a dir");
        tree.node(format!("modes/dir {mode:04o}")).mode(mode);
    }
}

fn add_times(tree: &mut Tree) {
    // Before 1970, around it, past 32 bits; all within what ext4 and XFS can store.
    let times = [
        (-1_000_000_000, 123_456_789),
        (-1, 999_999_999),
        (0, 0),
        (0, 1),
        (2_147_483_648, 5),
        (7_258_118_400, 1),
    ];
    for (sec, nsec) in times {
        tree.file(format!("times/file {sec} {nsec}"), "t")
            .mtime(sec, nsec);
        tree.symlink(format!("times/link {sec} {nsec}"), "t")
            .mtime(sec, nsec);
        tree.file(format!("times/dir {sec} {nsec}/child"), "t");
        tree.node(format!("times/dir {sec} {nsec}"))
            .mtime(sec, nsec);
        tree.add(format!("times/fifo {sec} {nsec}"), Kind::Fifo)
            .mtime(sec, nsec);
    }
}

fn add_owners(tree: &mut Tree) {
    for (uid, gid) in [(1, 2), (65534, 65534), (4_000_000, 5_000_000)] {
        tree.file(format!("owners/file {uid} {gid}"), "o")
            .owner(uid, gid);
        tree.file(format!("owners/setuid {uid} {gid}"), "o")
            .owner(uid, gid)
            .mode(0o6755);
        tree.symlink(format!("owners/link {uid} {gid}"), "o")
            .owner(uid, gid);
        tree.file(format!("owners/dir {uid} {gid}/child"), "o");
        tree.node(format!("owners/dir {uid} {gid}"))
            .owner(uid, gid)
            .mode(0o2750);
        tree.add(format!("owners/fifo {uid} {gid}"), Kind::Fifo)
            .owner(uid, gid);
    }
}

/// Names that break careless programs, each as a file, a directory with a child, and a symlink.
pub(crate) fn odd_names() -> Tree {
    let names: [&[u8]; 22] = [
        b"-rf",
        b"--delete",
        b" leading",
        b"trailing ",
        b"two  spaces",
        b"new\nline",
        b"\n",
        b"tab\t",
        b"cr\r",
        b"quote'",
        b"double\"",
        b"back\\slash",
        b"\\",
        b"\\#012",
        b"glob*?[a-z]",
        b"$(id)`id`",
        b"\xff\xfe",
        b"caf\xe9",
        "caf\u{e9} \u{1f980}".as_bytes(),
        b"\x1b[31m",
        b"...",
        b"~",
    ];
    let longest = [b'n'; 255];
    let mut longest_binary = [0x80; 255];
    longest_binary[0] = b'.';
    let all = names
        .iter()
        .copied()
        .chain([&longest[..], &longest_binary[..]]);
    let mut tree = Tree::new();
    for name in all {
        tree.file([b"files/", name].concat(), name);
        tree.file([b"dirs/", name, b"/", name].concat(), "child");
        tree.symlink([b"links/", name].concat(), name);
    }
    tree
}
