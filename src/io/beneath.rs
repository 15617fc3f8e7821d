//! Opens a directory by its path below another one, in as few steps as the kernel allows, through no symlink and never
//! out of the directory that it began in.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use rustix::fs::{OFlags, ResolveFlags, openat2};

use super::again::retry;
use super::inline::{OPEN_DIR, errno_of};

/// Longest path given to one call: less than the kernel's PATH_MAX (4,096 with the NUL).
const PATH_BYTES_MAX: usize = 4000;

/// Opens the directory `path` (names separated by single slashes; empty for `at` itself).
///
/// # Errors
/// `ELOOP`, `ENOTDIR` or `EXDEV` for a path that would leave `at` or lead through a symlink; else what the kernel says.
pub(super) fn open_dir(at: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    if path.is_empty() {
        return retry(|| openat(&at, c".", OPEN_DIR, Mode::empty()));
    }
    let (step, mut rest) = next_step(path)?;
    let mut dir = open_step(at.as_fd(), step)?;
    while !rest.is_empty() {
        let step;
        (step, rest) = next_step(rest)?;
        dir = open_step(dir.as_fd(), step)?;
    }
    Ok(dir)
}

/// As many whole names as fit into one call, and what is left.
fn next_step(path: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    if path.len() <= PATH_BYTES_MAX {
        return Ok((path, &[]));
    }
    let slash = path[..=PATH_BYTES_MAX]
        .iter()
        .rposition(|&byte| byte == b'/');
    let slash = slash.ok_or(Errno::ENAMETOOLONG)?;
    Ok((&path[..slash], &path[slash + 1..]))
}

fn open_step(dir: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let mode = rustix::fs::Mode::empty();
    match retry(|| openat2(dir, path, flags, mode, resolve).map_err(errno_of)) {
        // Before Linux 5.6, or hidden by a seccomp filter. EAGAIN: a rename raced with "..", which no path of ours has.
        Err(Errno::ENOSYS | Errno::EPERM | Errno::EAGAIN) => walk(dir, path),
        result => result,
    }
}

/// The same, name by name.
fn walk(dir: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut at: Option<OwnedFd> = None;
    for name in path.split(|&byte| byte == b'/') {
        if name == b".." {
            return Err(Errno::EXDEV);
        }
        let flags = OPEN_DIR | OFlag::O_NOFOLLOW;
        let from = at.as_ref().map_or(dir, AsFd::as_fd);
        let next = retry(|| openat(from, name, flags, Mode::empty()))?;
        at = Some(next);
    }
    at.ok_or(Errno::ENOENT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn identity(dir: &OwnedFd) -> (u64, u64) {
        let stat = nix::sys::stat::fstat(dir).unwrap();
        (stat.st_dev, stat.st_ino)
    }

    fn both(at: &OwnedFd, path: &[u8]) -> [Result<(u64, u64), Errno>; 2] {
        [
            open_dir(at, path).map(|dir| identity(&dir)),
            walk(at.as_fd(), path).map(|dir| identity(&dir)),
        ]
    }

    #[test]
    fn paths_never_lead_out_with_and_without_openat2() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("in/a/b")).unwrap();
        std::fs::create_dir(temp.path().join("out")).unwrap();
        symlink("../out", temp.path().join("in/link")).unwrap();
        symlink("../a", temp.path().join("in/a/inner")).unwrap();
        let at = OwnedFd::from(std::fs::File::open(temp.path().join("in")).unwrap());
        for opened in both(&at, b"a/b") {
            opened.unwrap();
        }
        for path in [
            &b"link"[..],
            b"link/x",
            b"a/inner/b",
            b"../out",
            b"a/../../out",
        ] {
            for opened in both(&at, path) {
                opened.unwrap_err();
            }
        }
    }

    #[test]
    fn paths_longer_than_the_kernel_takes_are_opened_in_steps() {
        let temp = tempfile::tempdir().unwrap();
        let name = "n".repeat(250);
        let root = OwnedFd::from(std::fs::File::open(temp.path()).unwrap());
        let mut at = root.try_clone().unwrap();
        let mut path = Vec::new();
        for _ in 0..40 {
            nix::sys::stat::mkdirat(&at, name.as_str(), Mode::S_IRWXU).unwrap();
            at = openat(&at, name.as_str(), OPEN_DIR, Mode::empty()).unwrap();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.as_bytes());
        }
        assert_eq!(identity(&open_dir(&root, &path).unwrap()), identity(&at));
        assert_eq!(identity(&open_dir(&root, b"").unwrap()), identity(&root));
    }
}
