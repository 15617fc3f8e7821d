//! `--backup`: finds the place for backups before anything is changed, and makes its directories as they are needed.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode as FileMode, fstat};

use super::StartError;
use super::hands::LaneHands;
use super::roots::Root;
use crate::error::{OpKind, Side};
use crate::io::Handle;
use crate::shard::{BackupRule, Node, Shard, node};
use crate::transfer::{Backup, Failure};

/// A path that has more parents than this does not end: nothing is opened through so many.
const PARENTS_MAX: usize = 4096;

/// `--backup`, as it was asked for.
#[derive(Clone, Debug)]
pub struct BackupJob {
    /// Absolute, or relative to the destination; `None` keeps backups beside their originals.
    pub dir: Option<PathBuf>,
    /// Added to the names of backups. Not empty without a directory.
    pub suffix: Vec<u8>,
}

/// The backup directory of a run. It is made when the first backup needs it, so that a run that keeps nothing leaves none.
#[derive(Clone, Debug)]
pub struct BackupRoot {
    /// What of its path is there already.
    at: Handle,
    /// What is missing below that.
    missing: Vec<CString>,
    /// Its path below the destination; empty when it is elsewhere.
    inside: Vec<CString>,
    made: Arc<OnceLock<Handle>>,
}

impl BackupRoot {
    /// The directory at `missing` below `at`. `inside` is its path below the destination, empty when it is elsewhere.
    #[must_use]
    pub fn new(at: Handle, missing: Vec<CString>, inside: Vec<CString>) -> Self {
        Self {
            at,
            missing,
            inside,
            made: Arc::default(),
        }
    }
}

/// What the hands need to know to keep something.
#[derive(Clone, Debug)]
pub(super) struct BackupOptions {
    pub suffix: Arc<[u8]>,
    pub root: Option<BackupRoot>,
}

impl BackupOptions {
    pub(super) fn new(job: &BackupJob, root: Option<BackupRoot>) -> Self {
        let suffix = job.suffix.as_slice().into();
        Self { suffix, root }
    }

    /// What the shards need to know to leave backups alone.
    pub(super) fn rule(&self) -> BackupRule {
        match &self.root {
            None => BackupRule {
                suffix: self.suffix.to_vec(),
                dir: Vec::new(),
            },
            Some(root) => BackupRule {
                suffix: Vec::new(),
                dir: root.inside.clone(),
            },
        }
    }
}

impl LaneHands {
    /// Where the entries of a directory are kept when they go; `None` when nothing is kept.
    pub(super) async fn backup_of(
        &self,
        shard: &Shard,
        node: &Arc<Node>,
        dest: &Handle,
    ) -> Result<Option<Backup>, Failure> {
        let Some(options) = &self.options.backup else {
            return Ok(None);
        };
        let beside = options.root.is_none();
        let backup = |dir| Backup {
            dir,
            suffix: options.suffix.clone(),
            beside,
        };
        let Some(root) = &options.root else {
            return Ok(Some(backup(dest.clone())));
        };
        let mut to_open = Vec::new();
        let mut at = Some(node);
        let mut found = loop {
            let Some(node) = at else {
                unreachable!("a loop that ends at the root has no further parent");
            };
            if let Some(dir) = node.backup_dir() {
                break backup(dir.clone());
            }
            if node.parent().is_none() {
                let dir = self.backup_root(shard, root, node).await?;
                node.set_backup_dir(&dir, None);
                break backup(dir);
            }
            to_open.push(node);
            at = node.parent();
        };
        for node in to_open.into_iter().rev() {
            let Some(original) = node.meta(Side::Destination) else {
                unreachable!("a directory with entries to keep was opened");
            };
            let dir = open_original(shard, node).await?;
            let below = self
                .lane
                .backup_below(&found, node.name(), (&dir, original));
            found = below.await?;
            node.set_backup_dir(&found.dir, shard.lease());
        }
        Ok(Some(found))
    }

    /// Whether the backup directory is, or will be, below a directory that `node` has.
    pub(super) fn is_way_to_backups(&self, node: &Node, name: &CStr) -> bool {
        let root = self.options.backup.as_ref().and_then(|o| o.root.as_ref());
        let inside: Vec<&[u8]> = root.map_or_else(Vec::new, |root| {
            root.inside.iter().map(|name| name.to_bytes()).collect()
        });
        let path = node.path_of(name);
        let inside = inside.join(&b'/');
        inside
            .strip_prefix(path.as_slice())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// Whether a path below the directory of `node` is in the backup directory.
    pub(super) fn leads_to_backups(&self, node: &Node, names: &[&CStr]) -> bool {
        let root = self.options.backup.as_ref().and_then(|o| o.root.as_ref());
        let Some(root) = root.filter(|root| !root.inside.is_empty()) else {
            return false;
        };
        let mut path = node.path();
        for name in names {
            path = crate::model::path::join(&path, name.to_bytes());
        }
        let inside: Vec<&[u8]> = root.inside.iter().map(|name| name.to_bytes()).collect();
        let inside = inside.join(&b'/');
        path.strip_prefix(inside.as_slice())
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
    }

    /// The top of the backup tree. What is missing on the way to it is made like the top of the destination. Two shards that
    /// make it at the same time find the same directory.
    async fn backup_root(
        &self,
        shard: &Shard,
        root: &BackupRoot,
        top: &Arc<Node>,
    ) -> Result<Handle, Failure> {
        if let Some(dir) = root.made.get() {
            return Ok(dir.clone());
        }
        let original = open_original(shard, top).await?;
        let Some(meta) = top.meta(Side::Destination) else {
            unreachable!("the destination was opened before anything in it is kept");
        };
        let mut above = Backup {
            dir: root.at.clone(),
            suffix: Arc::default(),
            beside: true,
        };
        for name in &root.missing {
            let made = self.lane.backup_below(&above, name, (&original, meta));
            above = made.await?;
        }
        Ok(root.made.get_or_init(|| above.dir).clone())
    }

    /// When a directory is finished, so is its part of the backup tree.
    pub(super) async fn finish_backup(&self, shard: &Shard, node: &Arc<Node>) {
        if !node.is_backed_up() {
            return;
        }
        let Some(original) = node.meta(Side::Destination) else {
            return;
        };
        let dir = match node.backup_dir() {
            Some(dir) => Ok(Some(dir.clone())),
            // It was closed, because descriptors are scarce. Any handle will do for a destination that is not looked at.
            None => match self.options.backup.as_ref().and_then(|o| o.root.as_ref()) {
                Some(root) => self
                    .backup_of(shard, node, &root.at)
                    .await
                    .map(|backup| backup.map(|backup| backup.dir)),
                None => Ok(None),
            },
        };
        let finished = match dir {
            Ok(Some(dir)) => self.lane.finish_backup_dir(&dir, original).await,
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        if let Err(failure) = finished {
            shard.report(node, super::hands::error(failure, node.path()));
        }
    }
}

/// The directory whose entries are to be kept: usually it is open already.
async fn open_original(shard: &Shard, node: &Arc<Node>) -> Result<Handle, Failure> {
    let opened = node::open(shard, node, Side::Destination).await;
    opened.map_err(|error| Failure {
        op: OpKind::Backup,
        side: error.side,
        cause: error.cause,
    })
}

/// Walks to the backup directory as far as it is there.
pub(super) fn open_backup_dir(
    path: &Path,
    source: Option<&Root>,
    dest: &Root,
) -> Result<BackupRoot, StartError> {
    let mut walk = Walk::start(path, dest)?;
    for component in path.components() {
        walk.step(component)?;
    }
    walk.end(source)
}

struct Walk<'a> {
    path: &'a Path,
    dest: &'a Root,
    at: OwnedFd,
    identity: (u64, u64),
    missing: Vec<CString>,
    /// The path below the destination, while the walk is in it.
    inside: Option<Vec<CString>>,
}

impl<'a> Walk<'a> {
    fn start(path: &'a Path, dest: &'a Root) -> Result<Self, StartError> {
        let start = if path.is_absolute() { "/" } else { "." };
        let at = open_dir(&dest.handle, start, true).map_err(|errno| cannot_open(path, errno))?;
        let identity = identity_of(&at).map_err(|errno| cannot_open(path, errno))?;
        let mut walk = Self {
            path,
            dest,
            at,
            identity,
            missing: Vec::new(),
            inside: None,
        };
        walk.notice_dest();
        Ok(walk)
    }

    fn notice_dest(&mut self) {
        if self.identity == self.dest.identity {
            self.inside = Some(Vec::new());
        }
    }

    fn step(&mut self, component: Component<'_>) -> Result<(), StartError> {
        match component {
            Component::Prefix(_) | Component::RootDir | Component::CurDir => Ok(()),
            Component::ParentDir if self.missing.is_empty() => self.up(),
            Component::ParentDir => Err(refuse(
                self.path,
                "goes up (..) from a directory that does not exist",
            )),
            Component::Normal(name) => match CString::new(name.as_bytes()) {
                Ok(name) => self.down(name),
                Err(_) => Err(refuse(self.path, "has a NUL character in it")),
            },
        }
    }

    fn up(&mut self) -> Result<(), StartError> {
        self.enter("..", true)?;
        // The parent of the destination is outside; below that, one name less.
        self.inside = self
            .inside
            .take()
            .and_then(|mut names| names.pop().map(|_| names));
        self.notice_dest();
        Ok(())
    }

    fn down(&mut self, name: CString) -> Result<(), StartError> {
        // Outside of the destination a symlink is the user's own, as in the names of the roots themselves. Inside, it may
        // be anybody's.
        let follow = self.inside.is_none();
        if self.missing.is_empty() && self.enter(name.as_c_str(), follow)? {
            if let Some(inside) = &mut self.inside {
                inside.push(name);
            }
            self.notice_dest();
            return Ok(());
        }
        if let Some(inside) = &mut self.inside {
            inside.push(name.clone());
        }
        self.missing.push(name);
        Ok(())
    }

    /// Goes into a directory; `false` when there is none.
    fn enter<P: nix::NixPath + ?Sized>(
        &mut self,
        name: &P,
        follow: bool,
    ) -> Result<bool, StartError> {
        let opened = open_dir(&self.at, name, follow).and_then(|fd| Ok((identity_of(&fd)?, fd)));
        match opened {
            Ok((identity, fd)) => {
                (self.identity, self.at) = (identity, fd);
                Ok(true)
            }
            Err(Errno::ENOENT) => Ok(false),
            Err(Errno::ENOTDIR | Errno::ELOOP) => Err(refuse(
                self.path,
                if follow {
                    "leads through something that is not a directory"
                } else {
                    "leads through something that is not a directory (inside the destination, symlinks are not followed)"
                },
            )),
            Err(errno) => Err(cannot_open(self.path, errno)),
        }
    }

    /// Refuses what would be copied into itself or mixed up with what it is a backup of.
    /// `source` is there when it is a directory.
    fn end(self, source: Option<&Root>) -> Result<BackupRoot, StartError> {
        let exists = self.missing.is_empty();
        let above = parents_of(&self.at).map_err(|errno| cannot_open(self.path, errno))?;
        if exists && self.identity == self.dest.identity {
            return Err(refuse(
                self.path,
                "is the destination itself; choose one inside or beside it",
            ));
        }
        if source.is_some_and(|source| above.contains(&source.identity)) {
            return Err(refuse(
                self.path,
                "lies inside the source; choose one outside",
            ));
        }
        if self.inside.is_none() && above.contains(&self.dest.identity) {
            return Err(refuse(
                self.path,
                "leads into the destination through a symlink; name it relative to the destination",
            ));
        }
        let above_source = source.map(|source| parents_of(&source.handle)).transpose();
        let above_source = above_source.map_err(|errno| cannot_open(self.path, errno))?;
        if exists && above_source.is_some_and(|above| above.contains(&self.identity)) {
            return Err(refuse(
                self.path,
                "contains the source, which backups could replace; choose one beside it",
            ));
        }
        let above_dest =
            parents_of(&self.dest.handle).map_err(|errno| cannot_open(self.path, errno))?;
        if exists && above_dest.contains(&self.identity) {
            return Err(refuse(
                self.path,
                "contains the destination; choose one inside or beside it",
            ));
        }
        let at = Handle::new(self.at, self.identity.0);
        Ok(BackupRoot::new(
            at,
            self.missing,
            self.inside.unwrap_or_default(),
        ))
    }
}

fn open_dir<P: nix::NixPath + ?Sized>(
    at: impl AsFd,
    name: &P,
    follow: bool,
) -> Result<OwnedFd, Errno> {
    let mut flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    if !follow {
        flags |= OFlag::O_NOFOLLOW;
    }
    openat(at, name, flags, FileMode::empty())
}

fn identity_of(fd: &OwnedFd) -> Result<(u64, u64), Errno> {
    let stat = fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// The identities of a directory and of all above it.
fn parents_of(dir: impl AsFd) -> Result<Vec<(u64, u64)>, Errno> {
    let mut at = open_dir(dir, ".", true)?;
    let mut identities = vec![identity_of(&at)?];
    while identities.len() < PARENTS_MAX {
        at = open_dir(&at, "..", true)?;
        let identity = identity_of(&at)?;
        if identities.last() == Some(&identity) {
            return Ok(identities);
        }
        identities.push(identity);
    }
    Err(Errno::ENAMETOOLONG)
}

fn refuse(path: &Path, why: &str) -> StartError {
    StartError::location(format!("--backup-dir '{}' {why}", path.display()))
}

fn cannot_open(path: &Path, errno: Errno) -> StartError {
    StartError::location(format!(
        "cannot open --backup-dir '{}': {}",
        path.display(),
        errno.desc()
    ))
}
