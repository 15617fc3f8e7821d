//! `mktree DIR --shape flat|deep|giant|small|mixed|links|sparse [--files N] [--dirs N] [--size BYTES] [--exact] [--seed S]
//! [--threads T]`: makes a tree in DIR, which must be absent or empty. The same arguments give the same tree:
//! names, contents, modes and mtimes depend on the seed and never on the threads.
//!
//! * flat:  all directories side by side, files spread evenly over them
//! * deep:  chains of directories, `CHAIN_LEVELS` levels each, files spread evenly
//! * giant: every file in one directory
//! * small: directories nested with a fan-out of `FAN_OUT` (20,000 make 3 levels), files spread evenly
//! * links: as small, but each inode has `LINK_NAMES` names, in directories far from each other
//! * sparse: as small, but of each file only every `HOLE_STEP`th block of `HOLE_BLOCK` bytes has data
//! * mixed: as small, but uneven: some directories are empty and some are full, sizes are skewed, some
//!   entries are symbolic links, modes vary
//!
//! Sizes are uniform from 0.5 to 1.5 times BYTES, or exactly BYTES with --exact. Each entry has an mtime of its
//! own in the past.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use floor::listing::open_root;
use floor::{fail, parse_size, parse_threads, rate, scramble};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, linkat, mkdirat, mknodat,
    openat, symlinkat, utimensat,
};
use rustix::process::umask;

/// Levels of one chain of `deep`: with these names a path stays far below `PATH_MAX`, which not every tool
/// can exceed.
const CHAIN_LEVELS: usize = 64;
/// Subdirectories of a directory in `small` and `mixed`.
const FAN_OUT: usize = 30;
/// Names of an inode in `links`.
const LINK_NAMES: u64 = 4;
/// A block of `sparse`, and how far one with data is from the next.
const HOLE_BLOCK: u64 = 64 << 10;
const HOLE_STEP: u64 = 16;
/// Entries a thread takes at once.
const BATCH_FILES: u64 = 2048;
/// Random bytes, from which each file takes its contents at an offset of its own.
const POOL_BYTES: usize = 4 << 20;
/// The first mtime, in July 2017; every further entry is a second later. `MTIME_SECONDS` reach to 2023.
const MTIME_FIRST: i64 = 1_500_000_000;
const MTIME_SECONDS: u64 = 200_000_000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shape {
    Flat,
    Deep,
    Giant,
    Small,
    Mixed,
    Links,
    Sparse,
}

struct Args {
    root: String,
    shape: Shape,
    files: u64,
    dirs: usize,
    size: u64,
    exact: bool,
    seed: u64,
    threads: usize,
}

const USAGE: &str = "mktree DIR --shape flat|deep|giant|small|mixed|links|sparse [--files N] [--dirs N] [--size BYTES] \
                     [--exact] [--seed S] [--threads T]";

fn parse_args(args: &[String]) -> Result<Args, String> {
    let mut parsed = Args {
        root: String::new(),
        shape: Shape::Small,
        files: 1000,
        dirs: 20,
        size: 0,
        exact: false,
        seed: 1,
        threads: parse_threads(None)?,
    };
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if word == "--exact" {
            parsed.exact = true;
            continue;
        }
        if !word.starts_with("--") {
            parsed.root.clone_from(word);
            continue;
        }
        let value = words
            .next()
            .ok_or_else(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--shape" => parsed.shape = parse_shape(value)?,
            "--files" => parsed.files = parse_number(value)?,
            "--dirs" => parsed.dirs = parse_number(value)?,
            "--size" => parsed.size = parse_size(value)?,
            "--seed" => parsed.seed = parse_number(value)?,
            "--threads" => parsed.threads = parse_threads(Some(value))?,
            _ => return Err(format!("{word} is not an option")),
        }
    }
    if parsed.root.is_empty() {
        return Err("DIR is missing".into());
    }
    Ok(parsed)
}

fn parse_number<T: std::str::FromStr>(value: &str) -> Result<T, String> {
    value
        .parse()
        .map_err(|_| format!("{value:?} is not a number"))
}

fn parse_shape(value: &str) -> Result<Shape, String> {
    Ok(match value {
        "flat" => Shape::Flat,
        "deep" => Shape::Deep,
        "giant" => Shape::Giant,
        "small" => Shape::Small,
        "mixed" => Shape::Mixed,
        "links" => Shape::Links,
        "sparse" => Shape::Sparse,
        _ => return Err(format!("{value:?} is not a shape")),
    })
}

/// A random number that is a function of the seed, what it is for, and an index: no state, so threads can share it and the order of work does not matter.
fn random(seed: u64, purpose: Purpose, index: u64) -> u64 {
    let start = seed ^ (purpose as u64) << 56;
    scramble(scramble(start).wrapping_add(index))
}

#[derive(Clone, Copy)]
enum Purpose {
    Pool = 1,
    Offset,
    Size,
    Skew,
    Kind,
    Mode,
    Nanoseconds,
    Weight,
}

/// All that a tree will be, before anything is made.
struct Plan {
    /// Path of each directory below the root, parents first. Directory 0 is the root itself.
    dirs: Vec<String>,
    /// The entries of directory `i` are numbers `starts[i]..starts[i + 1]`.
    starts: Vec<u64>,
}

impl Plan {
    fn new(shape: Shape, files: u64, dirs: usize, seed: u64) -> Self {
        let dirs = dir_paths(shape, dirs);
        let weights: Vec<u64> = (0..dirs.len())
            .map(|dir| weight(shape, dirs.len(), dir, seed))
            .collect();
        let total: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
        let mut starts = vec![0];
        let mut sum = 0;
        for weight in weights {
            sum += u128::from(weight);
            starts.push(
                u64::try_from(u128::from(files) * sum / total.max(1)).expect("at most `files`"),
            );
        }
        assert_eq!(starts.last(), Some(&files), "every file has a directory");
        Self { dirs, starts }
    }

    fn files_of(&self, dir: usize) -> Range<u64> {
        self.starts[dir]..self.starts[dir + 1]
    }

    /// The whole tree in units of work: a directory and some of its entries.
    fn batches(&self) -> Vec<(usize, Range<u64>)> {
        let mut batches = Vec::new();
        for dir in 0..self.dirs.len() {
            let Range { mut start, end } = self.files_of(dir);
            while start < end {
                let stop = end.min(start + BATCH_FILES);
                batches.push((dir, start..stop));
                start = stop;
            }
        }
        batches
    }
}

fn dir_paths(shape: Shape, count: usize) -> Vec<String> {
    let mut paths = vec![".".to_string()];
    if shape == Shape::Giant {
        return paths;
    }
    for dir in 0..count {
        let parent = match shape {
            Shape::Flat | Shape::Giant => 0,
            Shape::Deep if dir % CHAIN_LEVELS == 0 => 0,
            Shape::Deep => dir,
            // A complete tree laid out by levels, as in a heap.
            Shape::Small | Shape::Mixed | Shape::Links | Shape::Sparse => dir / FAN_OUT,
        };
        let mut path = paths[parent].clone();
        write!(path, "/d{dir:05}").expect("writing to memory");
        paths.push(path);
    }
    paths
}

/// The share of the files that lies in one directory. The root has none unless it is alone.
fn weight(shape: Shape, dirs: usize, dir: usize, seed: u64) -> u64 {
    if dirs == 1 {
        return 1;
    }
    match (dir, shape) {
        (0, _) => 0,
        (1, Shape::Mixed) => 16, // never empty, so that the weights have a sum
        (_, Shape::Mixed) => match random(seed, Purpose::Weight, dir as u64) % 16 {
            0..3 => 0,
            3..15 => 4,
            _ => 64,
        },
        _ => 1,
    }
}

/// What an entry will be.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    name: String,
    symlink: bool,
    mode: u32,
    size: u64,
}

fn entry(args: &Args, index: u64) -> Entry {
    let name = format!("f{index:08}");
    let jitter = random(args.seed, Purpose::Size, index);
    let even = if args.exact {
        args.size
    } else {
        args.size / 2
            + if args.size == 0 {
                0
            } else {
                jitter % (args.size + 1)
            }
    };
    if args.shape != Shape::Mixed {
        return Entry {
            name,
            symlink: false,
            mode: 0o644,
            size: even,
        };
    }
    let mode = [0o644, 0o644, 0o644, 0o600, 0o755, 0o444, 0o640, 0o664];
    Entry {
        name,
        symlink: random(args.seed, Purpose::Kind, index).is_multiple_of(50),
        mode: mode[usize::try_from(random(args.seed, Purpose::Mode, index) % 8).expect("below 8")],
        size: match random(args.seed, Purpose::Skew, index) % 100 {
            0..10 => 0,
            10..40 => even / 8,
            40..85 => even,
            85..98 => even * 4,
            _ => even * 32,
        },
    }
}

/// Times of entry number `index`, with directories counted after the files. Distinct as long as there are no
/// more than `MTIME_SECONDS` entries. The access time is left at now: were it as old as the mtime, the first
/// reader would pay for updating it.
fn times(seed: u64, index: u64) -> Timestamps {
    let seconds = i64::try_from(index % MTIME_SECONDS).expect("below MTIME_SECONDS");
    let nanoseconds = random(seed, Purpose::Nanoseconds, index) % 1_000_000_000;
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: MTIME_FIRST + seconds,
            tv_nsec: nanoseconds.try_into().expect("below a second"),
        },
    }
}

struct Maker<'a> {
    args: &'a Args,
    plan: &'a Plan,
    root: &'a OwnedFd,
    pool: Vec<u8>,
    bytes: AtomicU64,
}

/// How many of the entries of a tree are inodes of their own; those after them are further names of these.
fn inodes(args: &Args) -> u64 {
    match args.shape {
        Shape::Links => args.files.div_ceil(LINK_NAMES),
        _ => args.files,
    }
}

impl Maker<'_> {
    fn open(&self, dir: usize) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = self.plan.dirs[dir].as_str();
        openat(self.root, path, flags, Mode::empty()).unwrap_or_else(|error| fail(path, error))
    }

    fn make_batch(&self, dir: usize, files: Range<u64>) {
        let dir = self.open(dir);
        for index in files.start..files.end.min(inodes(self.args)) {
            let entry = entry(self.args, index);
            self.make_entry(&dir, index, &entry)
                .unwrap_or_else(|error| fail(&entry.name, error));
        }
    }

    /// The further names of a batch, once all inodes are there.
    fn link_batch(&self, dir: usize, files: Range<u64>) {
        let inodes = inodes(self.args);
        let to = self.plan.dirs[dir].as_str();
        for index in files.start.max(inodes)..files.end {
            let first = index % inodes;
            let home = self.plan.starts.partition_point(|start| *start <= first) - 1;
            let old = format!("{}/{}", self.plan.dirs[home], entry(self.args, first).name);
            let new = format!("{to}/{}", entry(self.args, index).name);
            linkat(self.root, &old, self.root, &new, AtFlags::empty())
                .unwrap_or_else(|error| fail(&new, error));
        }
    }

    fn make_entry(&self, dir: &OwnedFd, index: u64, entry: &Entry) -> std::io::Result<()> {
        let name = entry.name.as_str();
        if entry.symlink {
            symlinkat(format!("target-{index}"), dir, name)?;
        } else if entry.size == 0 {
            mknodat(
                dir,
                name,
                FileType::RegularFile,
                Mode::from_raw_mode(entry.mode),
                0,
            )?;
        } else {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = File::from(openat(dir, name, flags, Mode::from_raw_mode(entry.mode))?);
            if self.args.shape == Shape::Sparse {
                self.write_sparse(&file, index, entry.size)?;
            } else {
                self.write_contents(&file, index, entry.size)?;
            }
        }
        utimensat(
            dir.as_fd(),
            name,
            &times(self.args.seed, index),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        Ok(())
    }

    fn write_contents(&self, mut file: &File, index: u64, size: u64) -> std::io::Result<()> {
        let mut left = size;
        let mut chunk = 0;
        while left > 0 {
            // The offset changes from chunk to chunk, so that a large file does not repeat with the pool.
            let spot = random(self.args.seed, Purpose::Offset, index ^ chunk << 40);
            let offset = usize::try_from(spot % (POOL_BYTES as u64 / 2)).expect("within the pool");
            let take = left.min(POOL_BYTES as u64 / 2);
            file.write_all(
                &self.pool[offset..][..usize::try_from(take).expect("within the pool")],
            )?;
            left -= take;
            chunk += 1;
        }
        self.bytes.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    fn write_sparse(&self, file: &File, index: u64, size: u64) -> std::io::Result<()> {
        file.set_len(size)?;
        let mut at = 0;
        while at < size {
            let len = HOLE_BLOCK.min(size - at);
            let spot = random(self.args.seed, Purpose::Offset, index ^ at << 40);
            let offset = usize::try_from(spot % (POOL_BYTES as u64 / 2)).expect("within the pool");
            let len = usize::try_from(len).expect("a block");
            file.write_all_at(&self.pool[offset..][..len], at)?;
            at += HOLE_BLOCK * HOLE_STEP;
        }
        self.bytes.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    fn set_dir_time(&self, dir: usize) {
        let path = self.plan.dirs[dir].as_str();
        let times = times(self.args.seed, self.args.files + dir as u64);
        utimensat(self.root, path, &times, AtFlags::empty())
            .unwrap_or_else(|error| fail(path, error));
    }
}

/// Calls `work` once with each number below `count`, on `threads` threads.
fn in_parallel(threads: usize, count: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        break;
                    }
                    work(index);
                }
            });
        }
    });
}

fn open_empty(path: &Path) -> OwnedFd {
    match std::fs::create_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => fail(path.display(), error),
        _ => {}
    }
    if std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_some()) {
        fail(path.display(), "must be absent or an empty directory");
    }
    open_root(path)
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let args = parse_args(&words)
        .unwrap_or_else(|error| fail("mktree", format!("{error}\nusage: {USAGE}")));
    umask(Mode::empty());
    let start = Instant::now();
    let root = open_empty(Path::new(&args.root));
    let plan = Plan::new(args.shape, args.files, args.dirs, args.seed);
    let pool = (0..POOL_BYTES as u64 / 8)
        .flat_map(|word| random(args.seed, Purpose::Pool, word).to_le_bytes());
    let maker = Maker {
        args: &args,
        plan: &plan,
        root: &root,
        pool: pool.collect(),
        bytes: AtomicU64::new(0),
    };

    // Parents come before children, so this is one pass in order; then files; then times, last of all.
    for path in &plan.dirs[1..] {
        mkdirat(&root, path.as_str(), Mode::from_raw_mode(0o755))
            .unwrap_or_else(|error| fail(path, error));
    }
    let batches = plan.batches();
    in_parallel(args.threads, batches.len(), |batch| {
        let (dir, files) = batches[batch].clone();
        maker.make_batch(dir, files);
    });
    in_parallel(args.threads, batches.len(), |batch| {
        let (dir, files) = batches[batch].clone();
        maker.link_batch(dir, files);
    });
    in_parallel(args.threads, plan.dirs.len(), |dir| maker.set_dir_time(dir));

    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} files, {} dirs, {} bytes, {seconds:.3} s, {:.0} files/s",
        args.files,
        plan.dirs.len() - 1,
        maker.bytes.load(Ordering::Relaxed),
        rate(args.files, seconds)
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPES: [Shape; 7] = [
        Shape::Links,
        Shape::Sparse,
        Shape::Flat,
        Shape::Deep,
        Shape::Giant,
        Shape::Small,
        Shape::Mixed,
    ];

    fn depth_max(plan: &Plan) -> usize {
        plan.dirs
            .iter()
            .map(|path| path.matches('/').count())
            .max()
            .unwrap_or(0)
    }

    #[test]
    fn plans_hold_every_file_once() {
        for shape in SHAPES {
            for (files, dirs) in [(0, 0), (1, 0), (10_000, 1), (7, 100), (10_000, 100)] {
                let plan = Plan::new(shape, files, dirs, 3);
                let planned: u64 = plan
                    .batches()
                    .iter()
                    .map(|(_, files)| files.end - files.start)
                    .sum();
                assert_eq!(planned, files, "{shape:?} {files} {dirs}");
                assert_eq!(
                    plan.dirs.len(),
                    if shape == Shape::Giant { 1 } else { dirs + 1 }
                );
            }
        }
    }

    #[test]
    fn shapes_have_their_depth() {
        assert_eq!(depth_max(&Plan::new(Shape::Flat, 10, 1000, 1)), 1);
        assert_eq!(depth_max(&Plan::new(Shape::Small, 10, 1000, 1)), 3);
        assert_eq!(
            depth_max(&Plan::new(Shape::Deep, 10, 1000, 1)),
            CHAIN_LEVELS
        );
        assert_eq!(depth_max(&Plan::new(Shape::Giant, 10, 1000, 1)), 0);
    }

    #[test]
    fn sizes_keep_their_range() {
        let words = ["dir", "--size", "8000", "--seed", "5"].map(String::from);
        let mut args = parse_args(&words).expect("arguments");
        let sizes: Vec<u64> = (0..10_000).map(|index| entry(&args, index).size).collect();
        assert!(sizes.iter().all(|size| (4000..=12_000).contains(size)));
        let mean = sizes.iter().sum::<u64>() / sizes.len() as u64;
        assert!((7800..8200).contains(&mean), "{mean}");
        args.exact = true;
        assert_eq!(entry(&args, 1).size, 8000);
        args.exact = false;
        args.size = 0;
        assert_eq!(entry(&args, 1).size, 0);
    }
}
