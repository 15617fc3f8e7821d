//! Puts the page where it was asked for.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::{PageInput, render};

/// Names that are tried for the file that becomes the page. One is enough unless somebody takes them all.
const TRIES_MAX: usize = 16;

/// Writes the page to `path`, mode 0666 less `umask`. It appears complete or not at all, and takes the place of what was
/// there; something that is no file (a pipe, `/dev/stdout`) is written into.
///
/// # Errors
/// What the file system says.
pub fn write(path: &Path, umask: u32, input: &PageInput<'_>) -> io::Result<()> {
    let page = render(input);
    let Some(place) = file_of(path)? else {
        let mut other = OpenOptions::new().write(true).open(path)?;
        return other.write_all(page.as_bytes());
    };
    let (mut file, temporary) = create_beside(&place, 0o666 & !umask)?;
    let written = file
        .write_all(page.as_bytes())
        .and_then(|()| fs::rename(&temporary, &place));
    if written.is_err() {
        // It may be gone already; what went wrong first is what is told.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Whether a page can be put there, before the run rather than after it.
///
/// # Errors
/// What the file system says of opening it, or of making a file beside it.
pub fn check_writable(path: &Path) -> io::Result<()> {
    let Some(place) = file_of(path)? else {
        return if path.is_dir() {
            Err(io::ErrorKind::IsADirectory.into())
        } else {
            // A pipe would wait for its reader: it is opened when there is something to write.
            Ok(())
        };
    };
    let (_, temporary) = create_beside(&place, 0o600)?;
    fs::remove_file(temporary)
}

/// The file that is to be replaced or made, behind symlinks; `None` for what is no file.
fn file_of(path: &Path) -> io::Result<Option<PathBuf>> {
    match fs::metadata(path) {
        Ok(known) if known.is_file() => fs::canonicalize(path).map(Some),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(path.to_owned())),
        Err(error) => Err(error),
    }
}

/// A file with a name that nothing has, as ringsync's own unfinished files have it.
fn create_beside(place: &Path, mode: u32) -> io::Result<(File, PathBuf)> {
    let Some(name) = place.file_name() else {
        return Err(io::ErrorKind::IsADirectory.into());
    };
    let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
    for number in 0..TRIES_MAX {
        let digits = RandomState::new().hash_one(number) & 0xffff_ffff;
        let mut temporary = OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".rs-{digits:08x}"));
        let temporary = place.with_file_name(temporary);
        let created = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary);
        match created {
            Ok(file) => return Ok((file, temporary)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => taken = error,
            Err(error) => return Err(error),
        }
    }
    Err(taken)
}
