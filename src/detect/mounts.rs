//! What is mounted where: `/proc/self/mountinfo` and `/etc/fstab`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use serde::Serialize;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mount {
    #[serde(skip)]
    pub id: u64,
    #[serde(skip)]
    pub point: PathBuf,
    /// `ext4`, `nfs4`, `fuse.sshfs` ...
    pub filesystem: String,
    /// What is mounted: a device, `server:/path`.
    pub from: String,
    /// Those of the mount and then those of the filesystem, each once.
    pub options: Vec<String>,
}

impl Mount {
    #[must_use]
    pub fn has(&self, option: &str) -> bool {
        self.options.iter().any(|it| it == option)
    }

    /// The value of an option such as `vers=4.2`.
    #[must_use]
    pub fn value(&self, option: &str) -> Option<&str> {
        let mut pairs = self.options.iter().filter_map(|it| it.split_once('='));
        pairs.find(|(name, _)| *name == option).map(|it| it.1)
    }

    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.has("ro")
    }

    #[must_use]
    pub fn is_nfs(&self) -> bool {
        matches!(self.filesystem.as_str(), "nfs" | "nfs4")
    }

    /// A filesystem whose calls may wait for another machine or process.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        let remote = [
            "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "ceph", "lustre", "afs", "beegfs",
            "gpfs",
        ];
        remote.contains(&self.filesystem.as_str()) || self.filesystem.starts_with("fuse")
    }
}

/// All mounts, in the order in which they were made. See proc_pid_mountinfo(5); lines that are not as described there are
/// left out.
#[must_use]
pub fn parse_mountinfo(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ');
    let id = left.next()?.parse().ok()?;
    let point = unescape(left.nth(3)?);
    let own_options = left.next()?;
    let mut right = right.split(' ');
    let (filesystem, from) = (right.next()?.to_owned(), right.next()?);
    let mut options: Vec<String> = Vec::new();
    for option in own_options
        .split(',')
        .chain(right.next().unwrap_or("").split(','))
    {
        // A mount may be read-only where its filesystem is not; the filesystem's `rw` says nothing then.
        let contradicts = option == "rw" && options.iter().any(|it| it == "ro");
        let known = options.iter().any(|it| it == option);
        if !(option.is_empty() || known || contradicts) {
            options.push(option.to_owned());
        }
    }
    if options.iter().any(|it| it == "ro") {
        options.retain(|it| it != "rw");
    }
    Some(Mount {
        id,
        point,
        filesystem,
        from: unescape(from).to_string_lossy().into_owned(),
        options,
    })
}

/// The mount that a path is on; of one that does not exist, the mount of the nearest directory above it that does.
#[must_use]
pub fn of_path(path: &Path) -> Option<Mount> {
    let text = std::fs::read("/proc/self/mountinfo").ok()?;
    let mounts = parse_mountinfo(&String::from_utf8_lossy(&text));
    let absolute = std::path::absolute(path).ok()?;
    let existing = absolute
        .ancestors()
        .find_map(|path| path.canonicalize().ok())?;
    find(&mounts, None, &existing)
}

/// A directory, and what is mounted below it: each filesystem that a tree is on, and some more than once.
#[must_use]
pub fn below(dir: &Path) -> Vec<PathBuf> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let mounts = parse_mountinfo(&String::from_utf8_lossy(&text));
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    let points = mounts.into_iter().map(|mount| mount.point);
    let mut all = vec![real.clone()];
    all.extend(points.filter(|point| *point != real && point.starts_with(&real)));
    all
}

/// The mount that a path is on: by its id where the kernel tells it, else the last one above the path.
#[must_use]
pub fn find(mounts: &[Mount], id: Option<u64>, path: &Path) -> Option<Mount> {
    let by_id = id.and_then(|id| mounts.iter().find(|mount| mount.id == id));
    let longest = || {
        let above = mounts.iter().filter(|mount| path.starts_with(&mount.point));
        // `max_by_key` takes the last of equals, which hides the ones before it.
        above.max_by_key(|mount| mount.point.as_os_str().len())
    };
    by_id.or_else(longest).cloned()
}

/// The mount point of `/etc/fstab` at or above the path where nothing is mounted.
#[must_use]
pub fn unmounted(fstab: &str, mounts: &[Mount], path: &Path) -> Option<PathBuf> {
    let points = fstab
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|point| point.starts_with('/'))
        .map(unescape);
    let is_mounted = |point: &Path| mounts.iter().any(|mount| mount.point == point);
    points
        .filter(|point| path.starts_with(point) && !is_mounted(point))
        .max_by_key(|point| point.as_os_str().len())
}

/// Blanks and the like are written as `\040`.
fn unescape(field: &str) -> PathBuf {
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 4).filter(|_| bytes[at] == b'\\');
        let code = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    OsString::from_vec(plain).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
31 27 0:40 / /mnt/a\\040b ro,nosuid,relatime shared:7 master:1 - nfs4 server:/export rw,vers=4.2,hard,timeo=600
32 27 0:41 / /mnt/a\\040b rw - tmpfs tmpfs rw
not a mount
33 27 0:42 / /mnt/alike rw - xfs /dev/vdb rw
";

    #[test]
    fn mountinfo_is_understood() {
        let mounts = parse_mountinfo(MOUNTINFO);
        assert_eq!(mounts.len(), 4);
        let nfs = find(&mounts, Some(31), Path::new("/")).unwrap();
        assert_eq!(nfs.point, Path::new("/mnt/a b"));
        assert_eq!(
            (nfs.filesystem.as_str(), nfs.from.as_str()),
            ("nfs4", "server:/export")
        );
        assert_eq!((nfs.value("vers"), nfs.value("sec")), (Some("4.2"), None));
        assert!(nfs.is_nfs() && nfs.is_remote() && nfs.is_read_only() && nfs.has("hard"));
        assert!(!nfs.has("rw"), "{:?}", nfs.options);
    }

    #[test]
    fn without_an_id_the_last_mount_above_the_path_is_it() {
        let mounts = parse_mountinfo(MOUNTINFO);
        let filesystem = |path| find(&mounts, None, Path::new(path)).unwrap().filesystem;
        assert_eq!(filesystem("/mnt/a b/c"), "tmpfs");
        assert_eq!(filesystem("/mnt/a"), "ext4");
        assert_eq!(filesystem("/mnt/alike"), "xfs");
    }

    #[test]
    fn what_fstab_has_and_nobody_mounted_is_found() {
        let mounts = parse_mountinfo(MOUNTINFO);
        let fstab = "# /dev/x /mnt ext4\nUUID=1 / ext4 defaults 0 1\nserver:/home /mnt/home nfs hard\nserver:/deep /mnt/home/deep nfs\nserver:/b /mnt/a\\040b nfs\nswap none swap\n";
        let missing = |path| unmounted(fstab, &mounts, Path::new(path));
        assert_eq!(missing("/mnt/home/x"), Some("/mnt/home".into()));
        assert_eq!(missing("/mnt/home/deep/x"), Some("/mnt/home/deep".into()));
        assert_eq!(missing("/mnt/a b"), None);
        assert_eq!(missing("/mnt"), None);
    }
}
