//! Real filesystems for the tests: images mounted over loop devices, and tmpfs. Root only.

use super::{Scratch, command_exists, is_root, skip};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

/// XFS refuses less than 300 MiB. The image is sparse, so only what is written costs memory.
const IMAGE_MIB: u64 = 512;

/// A mounted filesystem, unmounted and gone when dropped. Its loop device frees itself with the last mount, and the file
/// behind it is unlinked as soon as it is mounted, so nothing of it can be left behind.
#[derive(Debug)]
pub(crate) struct Image {
    mountpoint: PathBuf,
    _scratch: Scratch,
}

impl Image {
    /// A fresh filesystem: `ext4`, `xfs`, `btrfs`, `tmpfs` or `ramfs`. `None`, with the skip recorded, where that cannot be had.
    pub(crate) fn new(kind: &str) -> Option<Self> {
        Self::sized(kind, IMAGE_MIB)
    }

    /// The same, of `mib` MiB.
    pub(crate) fn sized(kind: &str, mib: u64) -> Option<Self> {
        match Self::make(kind, mib) {
            Ok(image) => Some(image),
            Err(reason) => {
                skip(&reason);
                None
            }
        }
    }

    fn make(kind: &str, mib: u64) -> Result<Self, String> {
        if !is_root() {
            return Err(format!("not root: cannot mount {kind}"));
        }
        let scratch = Scratch::new();
        let mountpoint = scratch.dir("mount");
        if matches!(kind, "tmpfs" | "ramfs") {
            // ramfs takes no size, and ignores one.
            let options = format!("size={mib}m,mode=755");
            mount(
                &[
                    OsStr::new("-t"),
                    kind.as_ref(),
                    "-o".as_ref(),
                    options.as_ref(),
                    "tmpfs".as_ref(),
                ],
                &mountpoint,
            )?;
            return Ok(Self {
                mountpoint,
                _scratch: scratch,
            });
        }
        let file = scratch.path().join("image");
        File::create(&file)
            .and_then(|image| image.set_len(mib << 20))
            .map_err(|e| format!("image: {e}"))?;
        make_filesystem(kind, &file)?;
        mount(
            &[
                OsStr::new("-t"),
                kind.split(' ').next().unwrap().as_ref(),
                "-o".as_ref(),
                "loop".as_ref(),
                file.as_ref(),
            ],
            &mountpoint,
        )?;
        fs::remove_file(&file).unwrap();
        Ok(Self {
            mountpoint,
            _scratch: scratch,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.mountpoint
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.mountpoint.join(name);
        fs::create_dir(&path).unwrap();
        path
    }

    pub(crate) fn make_read_only(&self) {
        mount(&[OsStr::new("-o"), "remount,ro".as_ref()], &self.mountpoint).unwrap();
    }

    /// Bytes free, after everything written has reached the disk.
    pub(crate) fn free(&self) -> u64 {
        let root = File::open(&self.mountpoint).unwrap();
        rustix::fs::syncfs(&root).unwrap();
        let stat = rustix::fs::fstatvfs(&root).unwrap();
        stat.f_bfree * stat.f_frsize
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let unmounted = Command::new("umount")
            .arg(&self.mountpoint)
            .status()
            .is_ok_and(|status| status.success());
        if !unmounted {
            // Lazily then, so that it goes with the last process that uses it; but a user that is left is a failure.
            let _ = Command::new("umount")
                .arg("-l")
                .arg(&self.mountpoint)
                .status();
            assert!(
                thread::panicking(),
                "{} was still in use",
                self.mountpoint.display()
            );
        }
    }
}

fn mount(args: &[&OsStr], mountpoint: &Path) -> Result<(), String> {
    let output = Command::new("mount")
        .args(args)
        .arg(mountpoint)
        .output()
        .map_err(|e| format!("mount: {e}"))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else {
        Err(format!("mount {args:?}: {}", messages.trim()))
    }
}

fn make_filesystem(kind: &str, file: &Path) -> Result<(), String> {
    let options: &[&str] = match kind {
        // Small inodes have neither nanoseconds nor times after 2038.
        "ext4" => &["-q", "-F", "-I", "256", "-m", "0"],
        "ext4 ^filetype" => &["-q", "-F", "-I", "256", "-m", "0", "-O", "^filetype"],
        "xfs" => &["-q", "-f", "-m", "reflink=1,bigtime=1"],
        "btrfs" => &["-q", "-f"],
        "btrfs --mixed" => &["-q", "-f", "--mixed"],
        other => panic!("no filesystem {other}"),
    };
    let program = format!("mkfs.{}", kind.split(' ').next().unwrap());
    if !command_exists(&program) {
        return Err(format!("{program} is not installed"));
    }
    let output = Command::new(&program)
        .args(options)
        .arg(file)
        .stdin(Stdio::null())
        .output();
    let output = output.map_err(|e| format!("{program}: {e}"))?;
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// A bind mount, undone when dropped.
#[derive(Debug)]
pub(crate) struct Bind {
    mountpoint: PathBuf,
}

impl Bind {
    pub(crate) fn new(from: &Path, mountpoint: &Path) -> Self {
        mount(&[OsStr::new("--bind"), from.as_os_str()], mountpoint).unwrap();
        Self {
            mountpoint: mountpoint.to_owned(),
        }
    }
}

impl Drop for Bind {
    fn drop(&mut self) {
        let unmounted = Command::new("umount")
            .arg(&self.mountpoint)
            .status()
            .is_ok_and(|status| status.success());
        assert!(
            unmounted || thread::panicking(),
            "{} was still in use",
            self.mountpoint.display()
        );
    }
}
