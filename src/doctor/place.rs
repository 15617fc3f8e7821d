//! Facts about a source or destination that can be had by looking.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::unistd::{PathconfVar, fpathconf};
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, StatxFlags, fgetxattr, fstatvfs, open, openat, statx,
};
use rustix::io::Errno;
use serde::Serialize;

use super::trial::Trial;
use super::{Can, describe};
use crate::detect::mounts::{self, Mount};
use crate::error::Side;
use crate::model::path::escape;
use crate::run::limits;

/// Entries of the source's root that are looked at for a file to try reflinks with.
const CANDIDATES_MAX: usize = 1000;

/// What the C library says of filesystems whose limit it does not know.
const LINKS_UNKNOWN: u64 = 127;

/// What was found. What the filesystem does not tell is absent.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Place {
    #[serde(rename = "path")]
    pub(super) shown: String,
    #[serde(skip)]
    pub(super) side: Side,
    /// Whether there is something by that name.
    pub(super) exists: bool,
    /// Whether it is a directory that can be listed; of a destination that is missing, whether it could be made.
    pub(super) usable: Can,
    pub(super) mount: Option<Mount>,
    /// Where /etc/fstab has a mount that is not there.
    pub(super) not_mounted: Option<String>,
    pub(super) bytes_total: Option<u64>,
    pub(super) bytes_free: Option<u64>,
    /// Absent where inodes are made as needed.
    pub(super) inodes_total: Option<u64>,
    pub(super) inodes_free: Option<u64>,
    pub(super) name_bytes_max: Option<u64>,
    /// Names that one inode may have.
    pub(super) links_max: Option<u64>,
    pub(super) birth_times: Can,
    pub(super) xattrs_user: Can,
    pub(super) xattrs_trusted: Can,
    pub(super) xattrs_security: Can,
    pub(super) acls: Can,
    pub(super) nfs4_acls: Can,
    /// Of a destination: what was tried in it.
    pub(super) trial: Option<Trial>,
    /// Of a destination: whether something can be made in it.
    pub(super) writable: Can,
}

impl Place {
    pub(super) fn gather(side: Side, path: &Path, source: Option<&Path>) -> Self {
        let mut place = Self::unknown(side, path);
        match open_dir(path) {
            Ok(dir) => {
                place.exists = true;
                place.usable = Can::of(list_some(&dir));
                place.look(&dir, path);
                if side == Side::Destination {
                    place.try_out(&dir, source);
                }
            }
            Err(Errno::NOENT) if side == Side::Destination => place.look_at_parent(path),
            Err(errno) => {
                place.exists = errno != Errno::NOENT;
                place.usable = Can::No(describe(errno));
            }
        }
        place
    }

    fn unknown(side: Side, path: &Path) -> Self {
        let unknown = || Can::Unknown(String::from("it cannot be opened"));
        Self {
            shown: escape(path.as_os_str().as_encoded_bytes()),
            side,
            exists: false,
            usable: unknown(),
            mount: None,
            not_mounted: None,
            bytes_total: None,
            bytes_free: None,
            inodes_total: None,
            inodes_free: None,
            name_bytes_max: None,
            links_max: None,
            birth_times: unknown(),
            xattrs_user: unknown(),
            xattrs_trusted: unknown(),
            xattrs_security: unknown(),
            acls: unknown(),
            nfs4_acls: unknown(),
            trial: None,
            writable: match side {
                Side::Source => Can::Unknown(String::from("nothing is written to a source")),
                Side::Destination => unknown(),
            },
        }
    }

    /// A destination that is not there yet: its parent tells where it would be.
    fn look_at_parent(&mut self, path: &Path) {
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => return,
        };
        match open_dir(parent) {
            Ok(dir) => {
                let writable = rustix::fs::access(parent, rustix::fs::Access::WRITE_OK);
                self.usable = Can::of(writable);
                self.look(&dir, parent);
                self.writable = Can::Unknown(String::from(
                    "it does not exist; make it to have it tried out",
                ));
            }
            Err(errno) => {
                self.usable = Can::No(format!("its parent directory: {}", describe(errno)));
            }
        }
    }

    fn look(&mut self, dir: &OwnedFd, path: &Path) {
        let stat = statx(
            dir,
            c"",
            AtFlags::EMPTY_PATH,
            StatxFlags::BTIME | StatxFlags::MNT_ID,
        );
        let has = |flag: StatxFlags| {
            let stat = stat.as_ref().ok();
            stat.filter(|stat| stat.stx_mask & flag.bits() != 0)
        };
        self.birth_times = Can::from_bool(
            has(StatxFlags::BTIME).is_some(),
            "the file system does not tell them",
        );
        self.look_at_mount(path, has(StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id));
        if let Ok(space) = fstatvfs(dir) {
            self.bytes_total = Some(space.f_blocks * space.f_frsize);
            self.bytes_free = Some(space.f_bavail * space.f_frsize);
            self.inodes_total = Some(space.f_files).filter(|count| *count > 0);
            self.inodes_free = self.inodes_total.map(|_| space.f_favail);
            self.name_bytes_max = Some(space.f_namemax);
        }
        let links = fpathconf(dir.as_fd(), PathconfVar::LINK_MAX);
        let links = links.ok().flatten().and_then(|max| u64::try_from(max).ok());
        self.links_max = links.filter(|max| *max != LINKS_UNKNOWN);
        self.xattrs_user = xattr_known(dir, "user.ringsync");
        self.xattrs_trusted = if limits::is_privileged() {
            xattr_known(dir, "trusted.ringsync")
        } else {
            Can::Unknown(String::from("only root sees them"))
        };
        self.xattrs_security = xattr_known(dir, "security.ringsync");
        self.acls = xattr_known(dir, "system.posix_acl_access");
        self.nfs4_acls = xattr_known(dir, "system.nfs4_acl");
    }

    fn look_at_mount(&mut self, path: &Path, id: Option<u64>) {
        let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
        let mounts = mounts::parse_mountinfo(&String::from_utf8_lossy(&text));
        let canonical = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        self.mount = mounts::find(&mounts, id, &canonical);
        let fstab = fs::read_to_string("/etc/fstab").unwrap_or_default();
        self.not_mounted = mounts::unmounted(&fstab, &mounts, &canonical)
            .map(|point| escape(point.as_os_str().as_encoded_bytes()));
    }

    fn try_out(&mut self, dir: &OwnedFd, source: Option<&Path>) {
        let sample = source.map(|source| open_dir(source).and_then(|dir| some_file(&dir)));
        match Trial::run(dir, sample.as_ref()) {
            Ok(trial) => {
                self.writable = Can::Yes;
                self.xattrs_user.clone_from(&trial.xattrs_user);
                self.xattrs_trusted.clone_from(&trial.xattrs_trusted);
                self.xattrs_security.clone_from(&trial.xattrs_security);
                self.acls.clone_from(&trial.acls);
                self.trial = Some(trial);
            }
            Err(errno) => self.writable = Can::No(describe(errno)),
        }
    }
}

/// As the user named it: symlinks in that name are followed.
fn open_dir(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open(path, flags, Mode::empty())
}

fn list_some(dir: &OwnedFd) -> Result<(), Errno> {
    match Dir::read_from(dir)?.next() {
        Some(Err(errno)) => Err(errno),
        _ => Ok(()),
    }
}

/// A regular file with contents in a directory itself.
fn some_file(dir: &OwnedFd) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    for entry in Dir::read_from(dir)?.take(CANDIDATES_MAX) {
        let entry = entry?;
        if !matches!(entry.file_type(), FileType::RegularFile | FileType::Unknown) {
            continue;
        }
        // One that cannot be opened is simply not it.
        let Ok(file) = openat(dir, entry.file_name(), flags, Mode::empty()) else {
            continue;
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_size > 0 {
            return Ok(file);
        }
    }
    Err(Errno::NOENT)
}

/// Asks for an attribute that is not there: the answer tells whether the filesystem has such attributes.
fn xattr_known(dir: &OwnedFd, name: &str) -> Can {
    // Big enough for what might be there: a value that does not fit is there, too.
    let mut value = [0_u8; 1024];
    match fgetxattr(dir, name, &mut value[..]) {
        Ok(_) | Err(Errno::NODATA | Errno::RANGE) => Can::Yes,
        Err(Errno::OPNOTSUPP) => Can::No(String::from("the file system has none")),
        Err(errno) => Can::Unknown(describe(errno)),
    }
}
