//! Opens the two directories that a job is about, and asks the guards before anything is changed.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open as open_file};
use nix::sys::stat::Mode as FileMode;

use super::guards::{self, Looked};
use super::{Job, StartError, Task};
use crate::io::Handle;

/// An open root directory.
pub(super) struct Root {
    pub handle: Handle,
    /// Device and inode.
    pub identity: (u64, u64),
    /// As the user named it.
    pub path: PathBuf,
    pub canonical: PathBuf,
}

/// The source, and the destination where there is one to write to: it is made when it is missing.
pub(super) fn open(job: &Job) -> Result<(Root, Option<Root>), StartError> {
    let source = open_source(job)?;
    let Some(path) = &job.dest else {
        return Ok((source, None));
    };
    let dest = open_dest(job, Some(&source), path)?;
    if let Some(dest) = &dest {
        guards::refuse_overlap(job, &source, dest)?;
        let dest = Looked::local(&dest.handle);
        guards::refuse_emptied_source(job, Looked::local(&source.handle), dest)?;
    }
    Ok((source, dest))
}

pub(super) fn open_source(job: &Job) -> Result<Root, StartError> {
    root(open_directory(&job.source), &job.source, "source")
}

/// What was opened as a root, or why it could not be.
fn root(opened: Result<File, Errno>, path: &Path, side: &str) -> Result<Root, StartError> {
    let shown = path.display();
    let fail = |errno: Errno| {
        StartError::location(match errno {
            Errno::ENOENT => format!("{side} '{shown}' does not exist"),
            Errno::ENOTDIR => format!(
                "{side} '{shown}' is not a directory; ringsync works on the contents of directories"
            ),
            errno => format!("cannot open {side} '{shown}': {}", errno.desc()),
        })
    };
    let of_io = |error: std::io::Error| fail(Errno::from_raw(error.raw_os_error().unwrap_or(0)));
    let file = opened.map_err(fail)?;
    let meta = file.metadata().map_err(of_io)?;
    Ok(Root {
        handle: Handle::new(file.into(), meta.dev()),
        identity: (meta.dev(), meta.ino()),
        path: path.to_owned(),
        canonical: path.canonicalize().map_err(of_io)?,
    })
}

/// Opens a directory as the user named it; symlinks in that name are the user's own and are followed.
fn open_directory(path: &Path) -> Result<File, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    open_file(path, flags, FileMode::empty()).map(File::from)
}

/// Opens the destination, and makes its last component when it is missing and the job may write. `source` is there when it is
/// a directory too.
pub(super) fn open_dest(
    job: &Job,
    source: Option<&Root>,
    path: &Path,
) -> Result<Option<Root>, StartError> {
    // Not by its attributes: a client of NFS may remember those of what is gone. An open asks the server.
    let mut opened = open_directory(path);
    if matches!(opened, Err(Errno::ENOENT)) && job.task != Task::Check {
        if let Some(source) = source {
            guards::refuse_making_inside(job, source, path)?;
        }
        if job.dry_run {
            return Ok(None);
        }
        // Closed until it has the mode of the source, where that has one.
        let mode = if source.is_some() {
            0o700
        } else {
            0o777 & !job.umask
        };
        make_dest(path, mode)?;
        opened = open_directory(path);
    }
    root(opened, path, "destination").map(Some)
}

fn make_dest(path: &Path, mode: u32) -> Result<(), StartError> {
    let shown = path.display();
    let error = match std::fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => return Ok(()),
        // Made by somebody else: just now, or while a client of NFS remembers that it is missing.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(error) => error,
    };
    Err(match error.kind() {
        ErrorKind::NotFound => StartError::location(format!(
            "cannot make destination '{shown}': its parent directory does not exist"
        )),
        // What a run that meets these later ends with, too.
        ErrorKind::ReadOnlyFilesystem | ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            StartError::refused(format!("cannot make destination '{shown}': {error}"))
        }
        _ => StartError::location(format!("cannot make destination '{shown}': {error}")),
    })
}
