//! Histories of a job with `--incremental` on real filesystems: both trees change between its runs, some of which are killed;
//! after a run that ends well the destination is the source, whatever was passed over.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use support::image::Image;
use support::rng::Rng;
use support::snap::{differences, snapshot};
use support::{Running, Scratch, command, count, sync_args};

/// Histories on each filesystem, and runs of each.
const SEEDS: u64 = 60;
const RUNS: usize = 5;

#[test]
fn on_tmpfs() {
    histories("tmpfs");
}

#[test]
fn on_ext4() {
    histories("ext4");
}

#[test]
fn on_xfs() {
    histories("xfs");
}

#[test]
fn on_btrfs() {
    histories("btrfs");
}

fn histories(kind: &str) {
    let Some(image) = Image::new(kind) else {
        return;
    };
    let states = Scratch::new();
    let mut passed_over = 0;
    for seed in 0..SEEDS {
        let mut history = History {
            rng: Rng::new(seed),
            root: image.dir(&seed.to_string()),
            state: states.dir(&seed.to_string()),
            made: 0,
        };
        passed_over += history
            .unfold()
            .unwrap_or_else(|error| panic!("seed {seed} on {kind}: {error}"));
        fs::remove_dir_all(&history.root).unwrap();
    }
    assert!(passed_over > 500, "only {passed_over} were passed over");
    count(&format!("directories passed over on {kind}"), passed_over);
}

struct History {
    rng: Rng,
    root: PathBuf,
    state: PathBuf,
    /// Entries so far. Each file has a size of its own, for a size is what tells one from another within a tick.
    made: usize,
}

impl History {
    /// Returns how many directories were passed over in all.
    fn unfold(&mut self) -> Result<u64, String> {
        let (src, dst, aside) = (
            self.root.join("src"),
            self.root.join("dst"),
            self.root.join("aside"),
        );
        for dir in [&src, &dst, &aside] {
            fs::create_dir(dir).unwrap();
        }
        for _ in 0..40 {
            self.add(&src);
            self.add(&aside);
        }
        let mut passed_over = 0;
        for run in 0..RUNS {
            let engine = *self.rng.pick(&["auto", "inline", "ring"]);
            let state = self.state.to_str().unwrap().to_owned();
            let options = ["--incremental", "--delete", "--json", "--state", &state];
            let mut options = options.to_vec();
            if self.rng.chance(30) {
                options.push("-c");
            }
            let args = sync_args(engine, &options, &src, &dst);
            if self.rng.chance(25) {
                let running = Running::start(command(support::BINARY, &args));
                thread::sleep(Duration::from_millis(self.rng.below(60) as u64));
                running.signal(Signal::SIGKILL);
                running.wait();
            } else {
                if self.rng.chance(50) {
                    // Long enough for rows to be written.
                    thread::sleep(Duration::from_millis(70));
                }
                let outcome = Running::start(command(support::BINARY, &args)).wait();
                if outcome.code() != Some(0) {
                    return Err(format!("run {run}: {}", outcome.describe()));
                }
                passed_over += outcome.count("dirs_unchanged");
                let lines = differences(&snapshot(&src), &snapshot(&dst), "source", "destination");
                if !lines.is_empty() {
                    return Err(format!("run {run} left\n{lines}\n{}", outcome.describe()));
                }
            }
            for _ in 0..self.rng.below(5) {
                self.change_source(&src, &aside);
            }
            for _ in 0..self.rng.below(3) {
                self.change_dest(&dst);
            }
        }
        Ok(passed_over)
    }

    /// A new name of any kind somewhere below.
    fn add(&mut self, root: &Path) {
        let path = self.free_name(root);
        match self.rng.below(8) {
            0..3 => fs::create_dir(&path).unwrap(),
            3 => symlink(format!("to {}", self.made), &path).unwrap(),
            _ => self.write(&path),
        }
    }

    fn free_name(&mut self, root: &Path) -> PathBuf {
        self.made += 1;
        let name = format!("n{}", self.made);
        self.dir_below(root).join(name)
    }

    fn write(&mut self, path: &Path) {
        self.made += 1;
        fs::write(path, vec![b'.'; self.made]).unwrap();
        if self.rng.chance(30) {
            // As restored from a backup.
            set_old(path);
        }
    }

    fn change_source(&mut self, src: &Path, aside: &Path) {
        match self.rng.below(9) {
            0 | 1 => self.add(src),
            2 | 3 => {
                if let Some(file) = self.pick(src, |path| path.is_file() && !path.is_symlink()) {
                    self.write(&file);
                }
            }
            4 => {
                if let Some(any) = self.pick(src, |_| true) {
                    set_mode(&any, *self.rng.pick(&[0o700, 0o755, 0o750]));
                }
            }
            // A tree with old times is moved here.
            5 => {
                if let Some(old) = self.pick(aside, Path::is_dir) {
                    let to = self.free_name(src);
                    fs::rename(old, to).unwrap();
                }
            }
            6 => self.swap_dirs(src),
            7 => self.rename(src),
            _ => self.remove(src),
        }
    }

    /// Everything but to change a file where it is, which is not seen by design.
    fn change_dest(&mut self, dst: &Path) {
        match self.rng.below(6) {
            0 => self.add(dst),
            1 => self.remove(dst),
            2 => self.rename(dst),
            3 => self.swap_dirs(dst),
            4 => {
                if let Some(dir) = self.pick(dst, |path| path.is_dir() && !path.is_symlink()) {
                    set_mode(&dir, 0o711);
                }
            }
            // A new name, and a directory that looks as old as it was.
            _ => {
                let path = self.free_name(dst);
                let dir = path.parent().unwrap().to_owned();
                let before = fs::metadata(&dir).unwrap().modified().unwrap();
                self.write(&path);
                File::open(dir).unwrap().set_modified(before).unwrap();
            }
        }
    }

    fn remove(&mut self, root: &Path) {
        if let Some(path) = self.pick(root, |_| true) {
            let is_dir = path.is_dir() && !path.is_symlink();
            let removed = if is_dir {
                fs::remove_dir_all(path)
            } else {
                fs::remove_file(path)
            };
            removed.unwrap();
        }
    }

    fn rename(&mut self, root: &Path) {
        let Some(path) = self.pick(root, |_| true) else {
            return;
        };
        let to = self.free_name(root);
        if !to.starts_with(&path) {
            fs::rename(path, to).unwrap();
        }
    }

    fn swap_dirs(&mut self, root: &Path) {
        let is_dir = |path: &Path| path.is_dir() && !path.is_symlink();
        let (Some(one), Some(other)) = (self.pick(root, is_dir), self.pick(root, is_dir)) else {
            return;
        };
        if !one.starts_with(&other) && !other.starts_with(&one) {
            let between = root.join("between");
            fs::rename(&one, &between).unwrap();
            fs::rename(&other, &one).unwrap();
            fs::rename(&between, &other).unwrap();
        }
    }

    fn dir_below(&mut self, root: &Path) -> PathBuf {
        let dir = self.pick(root, |path| path.is_dir() && !path.is_symlink());
        dir.filter(|_| self.rng.chance(80))
            .unwrap_or_else(|| root.to_owned())
    }

    fn pick(&mut self, root: &Path, wanted: impl Fn(&Path) -> bool) -> Option<PathBuf> {
        let mut all = Vec::new();
        let mut dirs = vec![root.to_owned()];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && !path.is_symlink() {
                    dirs.push(path.clone());
                }
                all.push(path);
            }
        }
        all.retain(|path| wanted(path));
        // The order of a listing is the filesystem's.
        all.sort();
        (!all.is_empty()).then(|| self.rng.pick(&all).clone())
    }
}

fn set_mode(path: &Path, mode: u32) {
    if !path.is_symlink() {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }
}

fn set_old(path: &Path) {
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(long_ago).unwrap();
}
