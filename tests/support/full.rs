//! All that `rsync -aHAXS` speaks of: besides what [`super::snap`] sees, extended attributes and ACLs as raw bytes, which
//! names belong to one inode, and how much space that takes.

use super::snap::{NodeState, snapshot};
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Values by name; the names are bytes, without their NUL.
pub(crate) type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Enough for every attribute that tests set.
const XATTR_BYTES_MAX: usize = 64 * 1024;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FullState {
    pub(crate) node: NodeState,
    pub(crate) xattrs: Xattrs,
    /// The first name of the same inode, when it has several in this tree.
    pub(crate) link: Option<Vec<u8>>,
    /// Bytes allocated for a file's contents.
    pub(crate) allocated: u64,
}

pub(crate) type FullSnapshot = BTreeMap<Vec<u8>, FullState>;

/// A tree whose paths are shorter than `PATH_MAX`.
pub(crate) fn full_snapshot(root: &Path) -> FullSnapshot {
    let mut names: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    let mut full = FullSnapshot::new();
    let mut inodes = BTreeMap::new();
    for (path, node) in snapshot(root) {
        let at = root.join(OsStr::from_bytes(&path));
        let meta = fs::symlink_metadata(&at).unwrap();
        if !meta.is_dir() {
            names.entry(meta.ino()).or_default().push(path.clone());
            inodes.insert(path.clone(), meta.ino());
        }
        let allocated = if meta.is_file() {
            meta.blocks() * 512
        } else {
            0
        };
        let state = FullState {
            node,
            xattrs: xattrs(&at),
            link: None,
            allocated,
        };
        full.insert(path, state);
    }
    for (path, inode) in inodes {
        // Paths come in order, so the first of the group is the smallest.
        let group = &names[&inode];
        if group.len() > 1 {
            full.get_mut(&path).unwrap().link = Some(group[0].clone());
        }
    }
    full
}

/// The extended attributes of a name itself, ACLs among them.
pub(crate) fn xattrs(path: &Path) -> Xattrs {
    let mut buffer = vec![0; XATTR_BYTES_MAX];
    let len = rustix::fs::llistxattr(path, &mut buffer[..])
        .unwrap_or_else(|e| panic!("listxattr {}: {e}", path.display()));
    let names = buffer[..len].to_vec();
    let names = names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty());
    names
        .map(|name| {
            let c_name = CString::new(name).unwrap();
            let len = rustix::fs::lgetxattr(path, &*c_name, &mut buffer[..])
                .unwrap_or_else(|e| panic!("getxattr {c_name:?} {}: {e}", path.display()));
            (name.to_vec(), buffer[..len].to_vec())
        })
        .collect()
}

pub(crate) fn set_xattr(path: &Path, name: &[u8], value: &[u8]) {
    let name = CString::new(name).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::lsetxattr(path, &*name, value, flags)
        .unwrap_or_else(|e| panic!("setxattr {name:?} {}: {e}", path.display()));
}
