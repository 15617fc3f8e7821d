//! What a destination can do, tried out in a directory of its own that is removed again.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{
    AtFlags, Dir, FallocateFlags, FileType, Gid, Mode, OFlags, SeekFrom, Timespec, Timestamps,
    UTIME_OMIT, Uid, XattrFlags, copy_file_range, fallocate, fchmod, fchown, fgetxattr, fsetxattr,
    fstat, ftruncate, futimens, ioctl_ficlone, linkat, mkdirat, mknodat, openat, seek, statat,
    symlinkat, unlinkat,
};
use rustix::io::{Errno, pwrite};
use serde::Serialize;

use super::{Can, describe};
use crate::run::limits;

/// What is written and copied.
const COPIED_BYTES: usize = 64 << 10;
/// Nanoseconds in a second.
const SECOND: u64 = 1_000_000_000;

/// What worked.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Trial {
    pub(super) reflinks: Can,
    pub(super) reflinks_from_source: Can,
    pub(super) copy_file_range: Can,
    pub(super) copy_file_range_from_source: Can,
    pub(super) unnamed_files: Can,
    pub(super) punch_holes: Can,
    pub(super) find_holes: Can,
    #[serde(skip)]
    pub(super) xattrs_user: Can,
    #[serde(skip)]
    pub(super) xattrs_trusted: Can,
    #[serde(skip)]
    pub(super) xattrs_security: Can,
    #[serde(skip)]
    pub(super) acls: Can,
    /// The smallest step of a modification time; absent when times cannot be set.
    pub(super) time_step_ns: Option<u64>,
    pub(super) times_before_1970: Can,
    pub(super) times_after_2038: Can,
    /// Whether `a` and `A` are two names.
    pub(super) case_sensitive: Can,
    pub(super) names_of_255_bytes: Can,
    /// Names that are not UTF-8, or hold characters that Windows forbids.
    pub(super) names_of_any_bytes: Can,
    pub(super) symlinks: Can,
    pub(super) hard_links: Can,
    pub(super) fifos: Can,
    pub(super) modes: Can,
    pub(super) owners: Can,
    /// The directory that could not be removed again.
    pub(super) left_behind: Option<String>,
}

impl Trial {
    /// Tries everything below `root`. `sample` is a file of the source, or why there is none.
    pub(super) fn run(
        root: &OwnedFd,
        sample: Option<&Result<OwnedFd, Errno>>,
    ) -> Result<Self, Errno> {
        let mut bench = Bench::make(root)?;
        let trial = Self::on(&bench, sample)?;
        let left_behind = bench.remove().err();
        Ok(Self {
            left_behind: left_behind.map(|errno| format!("{}: {}", bench.shown(), describe(errno))),
            ..trial
        })
    }

    fn on(bench: &Bench, sample: Option<&Result<OwnedFd, Errno>>) -> Result<Self, Errno> {
        let file = bench.file("file")?;
        pwrite(&file, &vec![b'x'; COPIED_BYTES], 0)?;
        let from_source = |copy: fn(&OwnedFd, &OwnedFd) -> Result<(), Errno>, name| match sample {
            None => Can::Unknown(String::from("no source was given")),
            Some(Err(errno)) => Can::Unknown(format!(
                "no file in the source to try with ({})",
                describe(*errno)
            )),
            Some(Ok(source)) => Can::of(bench.file(name).and_then(|file| copy(source, &file))),
        };
        let copy = |copy: fn(&OwnedFd, &OwnedFd) -> Result<(), Errno>, name| {
            Can::of(bench.file(name).and_then(|to| copy(&file, &to)))
        };
        Ok(Self {
            reflinks: copy(clone, "clone"),
            reflinks_from_source: from_source(clone, "clone from source"),
            copy_file_range: copy(copy_some, "copy"),
            copy_file_range_from_source: from_source(copy_some, "copy from source"),
            unnamed_files: Can::of(bench.unnamed_file()),
            punch_holes: Can::of(punch_hole(&file)),
            find_holes: bench.find_hole(),
            xattrs_user: set_xattr(&file, "user.ringsync", b"x"),
            xattrs_trusted: set_xattr(&file, "trusted.ringsync", b"x"),
            xattrs_security: set_xattr(&file, "security.ringsync", b"x"),
            acls: set_xattr(&bench.file("acl")?, "system.posix_acl_access", &acl()),
            time_step_ns: time_step(&file),
            times_before_1970: keeps_time(&file, -1_000_000_000),
            times_after_2038: keeps_time(&file, 7_258_118_400),
            case_sensitive: bench.tells_case(),
            names_of_255_bytes: Can::of(bench.file("n".repeat(255))),
            names_of_any_bytes: Can::of(
                bench
                    .file(b"\xff\xfe".as_slice())
                    .and_then(|_| bench.file("a:b?c*d|e\"f<g>h\\ ")),
            ),
            symlinks: Can::of(symlinkat("target", &bench.dir, "symlink")),
            hard_links: Can::of(linkat(
                &bench.dir,
                "file",
                &bench.dir,
                "hard link",
                AtFlags::empty(),
            )),
            fifos: Can::of(mknodat(&bench.dir, "fifo", FileType::Fifo, Mode::RUSR, 0)),
            modes: keeps_modes(&bench.file("mode")?),
            owners: keeps_owners(&bench.file("owner")?),
            left_behind: None,
        })
    }
}

/// The directory in which things are tried.
struct Bench<'a> {
    root: &'a OwnedFd,
    /// When the root was last changed, before us.
    root_mtime: Option<Timespec>,
    name: CString,
    dir: OwnedFd,
    is_removed: bool,
}

const DIR_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

impl<'a> Bench<'a> {
    fn make(root: &'a OwnedFd) -> Result<Self, Errno> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let nanos = now.map_or(0, |now| now.subsec_nanos());
        let name = format!(".ringsync-doctor-{}-{nanos:08x}", std::process::id());
        let Ok(name) = CString::new(name) else {
            unreachable!("digits have no NUL");
        };
        let root_mtime = fstat(root).ok().map(|stat| mtime_of(&stat));
        mkdirat(root, &name, Mode::RWXU)?;
        let dir = openat(root, &name, DIR_FLAGS, Mode::empty());
        let dir = dir.inspect_err(|_| {
            // What cannot be opened is empty and may go; the failure to open it is the one to tell.
            let _ = unlinkat(root, &name, AtFlags::REMOVEDIR);
        })?;
        Ok(Self {
            root,
            root_mtime,
            name,
            dir,
            is_removed: false,
        })
    }

    fn shown(&self) -> String {
        self.name.to_string_lossy().into_owned()
    }

    fn file(&self, name: impl Into<Vec<u8>>) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let name: Vec<u8> = name.into();
        openat(&self.dir, name.as_slice(), flags, Mode::RUSR | Mode::WUSR)
    }

    fn unnamed_file(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
        openat(&self.dir, ".", flags, Mode::RUSR | Mode::WUSR)
    }

    /// Whether SEEK_DATA finds data behind a hole. Filesystems that do not know call the whole file data.
    fn find_hole(&self) -> Can {
        const HOLE: u64 = 8 << 20;
        let data = self.file("hole").and_then(|file| {
            ftruncate(&file, 2 * HOLE)?;
            pwrite(&file, b"data", HOLE)?;
            seek(&file, SeekFrom::Data(0))
        });
        match data {
            Ok(0) => Can::No(String::from("holes look like data")),
            result => Can::of(result),
        }
    }

    fn tells_case(&self) -> Can {
        if let Err(errno) = self.file("Case") {
            return Can::Unknown(describe(errno));
        }
        let other = statat(&self.dir, "cASE", AtFlags::SYMLINK_NOFOLLOW);
        Can::from_bool(
            other.is_err_and(|errno| errno == Errno::NOENT),
            "names that differ only in case are one name",
        )
    }

    /// Removes the directory with what was made in it, and gives its parent the time that it had.
    fn remove(&mut self) -> Result<(), Errno> {
        self.is_removed = true;
        let names: Vec<CString> = Dir::read_from(&self.dir)?
            .filter_map(Result::ok)
            .map(|entry| entry.file_name().to_owned())
            .filter(|name| name.as_c_str() != c"." && name.as_c_str() != c"..")
            .collect();
        for name in names {
            unlinkat(&self.dir, name, AtFlags::empty())?;
        }
        unlinkat(self.root, &self.name, AtFlags::REMOVEDIR)?;
        if let Some(last_modification) = self.root_mtime {
            // Only its owner may; for others the time has moved, which the next sync puts right.
            let _ = futimens(self.root, &only_mtime(last_modification));
        }
        Ok(())
    }
}

impl Drop for Bench<'_> {
    fn drop(&mut self) {
        if !self.is_removed {
            // A trial that broke off; its error is the one that is told.
            let _ = self.remove();
        }
    }
}

fn clone(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    ioctl_ficlone(to, from)
}

fn copy_some(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    copy_file_range(from, Some(&mut 0), to, Some(&mut 0), COPIED_BYTES).map(drop)
}

fn punch_hole(file: &OwnedFd) -> Result<(), Errno> {
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(file, flags, 16 << 10, 16 << 10)
}

/// Sets an attribute and reads it again.
fn set_xattr(file: &OwnedFd, name: &str, value: &[u8]) -> Can {
    let set = fsetxattr(file, name, value, XattrFlags::empty());
    let mut buffer = [0_u8; 256];
    match set.and_then(|()| fgetxattr(file, name, &mut buffer[..])) {
        Ok(len) => Can::from_bool(
            buffer[..len] == *value,
            "they are not kept as they were set",
        ),
        Err(Errno::OPNOTSUPP) => Can::No(String::from("the file system has none")),
        Err(errno @ (Errno::PERM | Errno::ACCESS)) if !limits::is_privileged() => {
            Can::Unknown(format!("only root may set them ({})", describe(errno)))
        }
        Err(errno) => Can::No(describe(errno)),
    }
}

/// An access ACL with an entry for one user, as in <linux/posix_acl_xattr.h>.
fn acl() -> Vec<u8> {
    const VERSION: u32 = 2;
    const NOBODY: u32 = 65534;
    const NO_ID: u32 = u32::MAX;
    const READ: u16 = 4;
    // user::, user:NOBODY:, group::, mask::, other::
    let entries: [(u16, u32); 5] = [
        (0x01, NO_ID),
        (0x02, NOBODY),
        (0x04, NO_ID),
        (0x10, NO_ID),
        (0x20, NO_ID),
    ];
    let mut value = VERSION.to_le_bytes().to_vec();
    for (tag, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(READ.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

fn only_mtime(last_modification: Timespec) -> Timestamps {
    let last_access = Timespec {
        tv_sec: 0,
        tv_nsec: UTIME_OMIT,
    };
    Timestamps {
        last_access,
        last_modification,
    }
}

fn mtime_of(stat: &rustix::fs::Stat) -> Timespec {
    Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or(0),
    }
}

/// Sets a modification time and returns what became of it.
fn set_time(file: &OwnedFd, sec: i64, nanos: i64) -> Result<Timespec, Errno> {
    let time = Timespec {
        tv_sec: sec,
        tv_nsec: nanos,
    };
    futimens(file, &only_mtime(time))?;
    Ok(mtime_of(&fstat(file)?))
}

/// The step of the filesystem's times, in nanoseconds: what is left of a time that has a digit everywhere.
fn time_step(file: &OwnedFd) -> Option<u64> {
    const ODD: i64 = 1_600_000_001;
    let kept = set_time(file, ODD, 987_654_321).ok()?;
    Some(step_of(kept.tv_sec == ODD, kept.tv_nsec))
}

/// `second_kept`: an odd number of seconds stayed as it was.
fn step_of(second_kept: bool, nsec: i64) -> u64 {
    let nsec = u64::try_from(nsec).unwrap_or(0);
    match (second_kept, nsec) {
        (false, _) => 2 * SECOND,
        (true, 0) => SECOND,
        (true, nsec) => {
            let mut step = 1;
            while nsec % (step * 10) == 0 {
                step *= 10;
            }
            step
        }
    }
}

fn keeps_time(file: &OwnedFd, sec: i64) -> Can {
    match set_time(file, sec, 0) {
        Ok(kept) => Can::from_bool(kept.tv_sec == sec, "they become another time"),
        Err(errno) => Can::No(describe(errno)),
    }
}

fn keeps_modes(file: &OwnedFd) -> Can {
    let is_kept = |mode: u32| {
        fchmod(file, Mode::from_raw_mode(mode))?;
        Ok::<_, Errno>(fstat(file)?.st_mode & 0o7777 == mode)
    };
    match [0o640, 0o711, 0o600]
        .into_iter()
        .try_fold(true, |all, mode| Ok::<_, Errno>(is_kept(mode)? && all))
    {
        Ok(all) => Can::from_bool(all, "they are made up by the mount options"),
        Err(errno) => Can::No(describe(errno)),
    }
}

fn keeps_owners(file: &OwnedFd) -> Can {
    /// Anybody but root; a server that squashes root refuses.
    const SOMEBODY: u32 = 1;
    if !limits::is_privileged() {
        return Can::Unknown(String::from("only root may give files away"));
    }
    let (owner, group) = (Uid::from_raw(SOMEBODY), Gid::from_raw(SOMEBODY));
    match fchown(file, Some(owner), Some(group)).and_then(|()| fstat(file)) {
        Ok(stat) => Can::from_bool(
            (stat.st_uid, stat.st_gid) == (SOMEBODY, SOMEBODY),
            "they are made up by the mount options",
        ),
        Err(errno) => Can::No(describe(errno)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    #[test]
    fn steps_of_time_are_recognised() {
        assert_eq!(step_of(true, 987_654_321), 1);
        assert_eq!(step_of(true, 987_654_300), 100);
        assert_eq!(step_of(true, 987_654_000), 1000);
        assert_eq!(step_of(true, 980_000_000), 10_000_000);
        assert_eq!(step_of(true, 0), SECOND);
        assert_eq!(step_of(false, 0), 2 * SECOND);
    }

    #[test]
    fn nothing_is_left_of_a_trial() {
        let root = tempfile::tempdir().unwrap();
        let dir = openat(CWD, root.path(), DIR_FLAGS, Mode::empty()).unwrap();
        let before = mtime_of(&fstat(&dir).unwrap());
        let trial = Trial::run(&dir, None).unwrap();
        assert_eq!(trial.left_behind, None);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
        let after = mtime_of(&fstat(&dir).unwrap());
        assert_eq!(
            (before.tv_sec, before.tv_nsec),
            (after.tv_sec, after.tv_nsec)
        );
        assert_eq!(trial.symlinks, Can::Yes);
        assert_eq!(trial.modes, Can::Yes);
    }

    #[test]
    fn an_abandoned_bench_is_removed_as_well() {
        let root = tempfile::tempdir().unwrap();
        let dir = openat(CWD, root.path(), DIR_FLAGS, Mode::empty()).unwrap();
        let bench = Bench::make(&dir).unwrap();
        bench.file("file").unwrap();
        drop(bench);
        assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
    }
}
