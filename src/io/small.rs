//! A small file in one go. Where calls return at once, what lies between them costs as much as they do: a future, two looks at
//! the clock and a way through half a dozen pages for each. And one look at the source is enough: what the listing told of it
//! is believed until its contents have been read.

use std::ffi::CStr;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::uio::{pread, pwrite};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::again::retry;
use super::attrs;
use super::inline::{OPEN_FILE, create_flags, flags_of, offset_of, open_fd, stat_fd, stat_made};
use super::op::{Change, Handle, Links};
use crate::model::{Kind, Meta};

/// A regular file to be copied to a name that nothing has.
pub struct SmallCopy<'a> {
    /// The directories.
    pub source: &'a Handle,
    pub dest: &'a Handle,
    pub name: &'a CStr,
    /// What the listing told of it: it must be a regular file that fits into the buffer.
    pub wanted: &'a Meta,
    /// The name and mode with which the new file is made.
    pub made: &'a CStr,
    pub mode: u32,
    /// The name is a temporary one, which nobody else has.
    pub is_temp: bool,
    /// What is set, when its contents are there, on a new file that looked so without them; no extended attributes.
    pub change: &'a dyn Fn(&Meta) -> Change,
}

/// What became of it. Unless it was copied nothing is there, and the ordinary operations are to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InOneGo {
    Copied,
    /// It was not tried: many calls at a time pay off now.
    NotNow,
    Refused,
}

/// Whether the file is there under the name it is made with, complete, with its attributes. If not, nothing of it is: whatever
/// was not as expected, the ordinary way finds it again, and tells it.
pub(super) fn copy(copy: &SmallCopy<'_>, buffer: &mut [u8]) -> bool {
    let Ok(contents) = read_source(copy, buffer) else {
        return false;
    };
    let made = open_fd(copy.dest, copy.made, create_flags(false), copy.mode);
    // It may have been made although that failed; a name that is not ours alone is then left to whoever has it.
    let is_ours = made.is_ok() || copy.is_temp;
    let filled = made.and_then(|file| fill(file, contents, copy));
    if filled.is_err()
        && is_ours
        && let Err(errno) = unlinkat(copy.dest, copy.made, UnlinkatFlags::NoRemoveDir)
    {
        tracing::debug!(?errno, "what was left of a small file stays");
    }
    filled.is_ok()
}

/// The contents of the source, which is as it was listed.
fn read_source<'a>(copy: &SmallCopy<'_>, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let flags = flags_of(OPEN_FILE, Links::Refuse);
    let file = open_fd(copy.source, copy.name, flags, 0)?;
    let contents = read(&file, copy.wanted.size, buffer)?;
    if is_same(&stat_fd(&file)?, copy.wanted) {
        Ok(contents)
    } else {
        Err(Errno::ESTALE)
    }
}

/// The whole contents of a file that has `size` bytes. Of one that says 0 (in /proc) only reading tells.
fn read<'a>(file: &OwnedFd, size: u64, buffer: &'a mut [u8]) -> Result<&'a [u8], Errno> {
    let size = usize::try_from(size).map_err(|_| Errno::EFBIG)?;
    let wanted = buffer.get_mut(..size.max(1)).ok_or(Errno::EFBIG)?;
    let mut filled = 0;
    while filled < wanted.len() {
        let offset = offset_of(filled as u64)?;
        match retry(|| pread(file, &mut wanted[filled..], offset))? {
            0 => break,
            count => filled += count,
        }
    }
    if filled != size {
        return Err(Errno::ESTALE);
    }
    Ok(&wanted[..size])
}

fn fill(file: OwnedFd, contents: &[u8], copy: &SmallCopy<'_>) -> Result<(), Errno> {
    // On NFS, to ask after the first write would be a request more, and a wait for what was written.
    let change = (copy.change)(&stat_made(&file)?);
    let mut written = 0;
    while written < contents.len() {
        let offset = offset_of(written as u64)?;
        match retry(|| pwrite(&file, &contents[written..], offset))? {
            0 => return Err(Errno::EIO),
            count => written += count,
        }
    }
    let file = Handle::new(file, copy.dest.dev());
    attrs::set_attrs(&file, &change).map_err(|error| error.errno)?;
    // Late write errors show here.
    file.into_fd().map_or(Ok(()), nix::unistd::close)
}

/// Whether a source is what it was when it was listed, in all that is copied of it. A listing does not tell devices.
fn is_same(now: &Meta, listed: &Meta) -> bool {
    let looks = |meta: &Meta| {
        (
            meta.kind, meta.mode, meta.uid, meta.gid, meta.size, meta.mtime,
        )
    };
    now.kind == Kind::File && now.ino == listed.ino && looks(now) == looks(listed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::inline;
    use crate::io::op::{Op, Reply, Target};
    use std::fs;
    use std::path::Path;

    /// A source and a destination directory, and what the listing told of `name` in the one.
    struct Scene {
        temp: tempfile::TempDir,
        source: Handle,
        dest: Handle,
        wanted: Meta,
    }

    impl Scene {
        fn new(contents: &[u8]) -> Self {
            let temp = tempfile::tempdir().unwrap();
            for dir in ["src", "dst"] {
                fs::create_dir(temp.path().join(dir)).unwrap();
            }
            fs::write(temp.path().join("src/name"), contents).unwrap();
            let open = |dir: &str| {
                let file = fs::File::open(temp.path().join(dir)).unwrap();
                Handle::new(file.into(), 0)
            };
            let (source, dest) = (open("src"), open("dst"));
            let target = Target::Name(source.clone(), c"name".to_owned());
            let Ok(Reply::Meta(wanted)) = inline::run(Op::Stat { target }) else {
                panic!("the source is there");
            };
            Self {
                temp,
                source,
                dest,
                wanted,
            }
        }

        fn path(&self, path: &str) -> std::path::PathBuf {
            self.temp.path().join(path)
        }

        fn copy(&self) -> bool {
            let change = |made: &Meta| {
                assert_eq!((made.kind, made.mode), (Kind::File, 0o600));
                Change {
                    mode: Some(0o640),
                    mtime: Some(self.wanted.mtime),
                    ..Change::default()
                }
            };
            let small = SmallCopy {
                source: &self.source,
                dest: &self.dest,
                name: c"name",
                wanted: &self.wanted,
                made: c"made",
                mode: 0o600,
                is_temp: false,
                change: &change,
            };
            copy(&small, &mut [0; 100])
        }

        fn assert_refused(&self) {
            assert!(!self.copy());
            assert!(!self.path("dst/made").exists(), "nothing of it stays");
        }
    }

    fn modified(path: &Path) -> std::time::SystemTime {
        fs::metadata(path).unwrap().modified().unwrap()
    }

    #[test]
    fn files_are_copied_with_their_attributes() {
        for len in [0, 1, 99, 100] {
            let contents = vec![7; len];
            let scene = Scene::new(&contents);
            assert!(scene.copy(), "{len} bytes");
            let copy = scene.path("dst/made");
            assert_eq!(fs::read(&copy).unwrap(), contents);
            assert_eq!(modified(&copy), modified(&scene.path("src/name")));
            let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&copy).unwrap());
            assert_eq!(mode & 0o7777, 0o640);
        }
    }

    #[test]
    fn a_source_that_is_not_as_listed_is_refused() {
        let changes: [fn(&Path); 7] = [
            |path| fs::write(path, b"longer than it was").unwrap(),
            |path| fs::write(path, b"less").unwrap(),
            |path| {
                fs::File::open(path)
                    .unwrap()
                    .set_modified(std::time::UNIX_EPOCH)
                    .unwrap();
            },
            |path| {
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                fs::set_permissions(path, mode).unwrap();
            },
            |path| fs::remove_file(path).unwrap(),
            |path| {
                fs::remove_file(path).unwrap();
                std::os::unix::fs::symlink("/etc/hostname", path).unwrap();
            },
            |path| {
                fs::remove_file(path).unwrap();
                nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            },
        ];
        for change in changes {
            let scene = Scene::new(b"contents");
            change(&scene.path("src/name"));
            scene.assert_refused();
        }
    }

    #[test]
    fn another_inode_with_the_same_looks_is_refused() {
        let scene = Scene::new(b"contents");
        let (old, new) = (scene.path("src/name"), scene.path("src/new"));
        fs::copy(&old, &new).unwrap();
        fs::File::open(&new)
            .unwrap()
            .set_modified(modified(&old))
            .unwrap();
        fs::rename(&new, &old).unwrap();
        scene.assert_refused();
    }

    #[test]
    fn what_has_the_name_already_stays() {
        let scene = Scene::new(b"contents");
        fs::write(scene.path("dst/made"), b"mine").unwrap();
        assert!(!scene.copy());
        assert_eq!(fs::read(scene.path("dst/made")).unwrap(), b"mine");
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        Scene::new(&[7; 101]).assert_refused();
    }
}
