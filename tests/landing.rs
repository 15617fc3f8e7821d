//! How data lands on a destination that fails, that stores something else than it was given, or that loses what was not
//! flushed: `--fsync`, `--verify`, `--inplace` and `--backup` on a real filesystem with injected faults.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/faultfs.rs"]
mod faultfs;
mod support;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use faultfs::{Fault, Faults};
use nix::errno::Errno;
use ringsync::error::{Cause, Class, Error, OpKind};
use ringsync::io::Depth;
use ringsync::io::ring::RingOptions;
use ringsync::io::{
    EngineChoice, Fs, Handle, InOneGo, LocalFs, LocalFsOptions, Op, Pending, SmallCopy,
};
use ringsync::model::{Instruments, Item, Sink};
use ringsync::report::{ErrorCounts, summary};
use ringsync::run::backup::{BackupJob, BackupRoot};
use ringsync::run::{Delete, FsMaker, Job, Outcome, Roots, Run, Task, limits};
use ringsync::transfer::{Fsync, Reflink, WriteMode};
use support::image::Image;
use support::{Scratch, is_temporary};

const MODES: [WriteMode; 3] = [WriteMode::Atomic, WriteMode::Direct, WriteMode::InPlace];
/// Inside the destination, so that it must be left alone as well.
const BACKUP_DIR: &str = ".backups";

#[derive(Default)]
struct Collect(Mutex<Vec<Error>>);

impl Sink for Collect {
    fn error(&self, error: Error) {
        self.0.lock().unwrap().push(error);
    }

    fn item(&self, _item: Item) {}

    fn wants_items(&self) -> bool {
        false
    }
}

struct Ended {
    outcome: Outcome,
    errors: Vec<Error>,
    exit_code: u8,
}

fn job() -> Job {
    // One shard: the order of operations is the same in every run.
    let cpus = limits::allowed_cpus()[..1].to_vec();
    let (source, dest) = (PathBuf::from("source"), PathBuf::from("dest"));
    Job {
        delete: Delete::During,
        engine: EngineChoice::Inline,
        privileged: limits::is_privileged(),
        own_uid: limits::own_uid(),
        ..Job::archive(Task::Sync, source, Some(dest), cpus)
    }
}

fn open(path: &Path) -> Handle {
    let file = File::open(path).unwrap();
    let dev = file.metadata().unwrap().dev();
    Handle::new(file.into(), dev)
}

fn local() -> Result<Rc<dyn Fs>, String> {
    let options = LocalFsOptions {
        engine: EngineChoice::Inline,
        ring: RingOptions {
            depth: Depth::new(16),
        },
    };
    let fs = LocalFs::start(options, &Instruments::default()).map_err(|error| error.to_string())?;
    Ok(Rc::new(fs))
}

fn sync(trees: &Trees, job: Job, faults: &Faults) -> Ended {
    let of_shards = faults.clone();
    let fs: FsMaker = Arc::new(move |_| Ok((local()?, of_shards.on(local()?))));
    sync_by(trees, job, fs)
}

fn sync_by(trees: &Trees, job: Job, fs: FsMaker) -> Ended {
    let dest = fs::metadata(&trees.dst).unwrap();
    let roots = Roots {
        source: open(&trees.src),
        dest: Some(open(&trees.dst)),
        dest_identity: Some((dest.dev(), dest.ino())),
        fs,
    };
    let has_dir = job.backup.as_ref().is_some_and(|job| job.dir.is_some());
    let mut run = Run::with_roots(job, roots);
    if has_dir {
        let name = || vec![CString::new(BACKUP_DIR).unwrap()];
        run = run.with_backup_root(BackupRoot::new(open(&trees.dst), name(), name()));
    }
    let collect = Arc::new(Collect::default());
    let sink: Arc<dyn Sink> = collect.clone();
    let outcome = run.execute(&sink).unwrap();
    let errors = collect.0.lock().unwrap().clone();
    let count = |class| errors.iter().filter(|error| error.class() == class).count() as u64;
    let counts = ErrorCounts {
        warnings: count(Class::Warning),
        vanished: count(Class::Vanished),
        entry: count(Class::Entry),
        fatal: count(Class::Fatal),
        unprinted: 0,
    };
    Ended {
        exit_code: summary::exit_code(Task::Sync, &outcome, &counts),
        outcome,
        errors,
    }
}

/// A source and a destination.
struct Trees {
    src: PathBuf,
    dst: PathBuf,
    _scratch: Option<Scratch>,
}

impl Trees {
    fn empty() -> Self {
        let scratch = Scratch::new();
        let (src, dst) = (scratch.dir("src"), scratch.dir("dst"));
        Self {
            src,
            dst,
            _scratch: Some(scratch),
        }
    }

    /// Both sides differ in every way that a sync deals with.
    fn different() -> Self {
        let trees = Self::empty();
        let (src, dst) = (&trees.src, &trees.dst);
        for path in ["dir", "newdir/deep"] {
            fs::create_dir_all(src.join(path)).unwrap();
        }
        for path in ["dir", "gone/deep"] {
            fs::create_dir_all(dst.join(path)).unwrap();
        }
        for (path, data) in [
            ("changed", "new contents"),
            ("shorter", "new"),
            ("dir/inner", "new inner"),
            ("dir/fresh", "fresh"),
            ("newdir/deep/file", "new"),
            ("was a link", "a file now"),
            ("same", "same"),
        ] {
            fs::write(src.join(path), data).unwrap();
        }
        for (path, data) in [
            ("changed", "old"),
            ("shorter", "old and longer than the new one"),
            ("dir/inner", "the old inner"),
            ("dir/extra", "old extra"),
            ("gone/file", "old gone"),
            ("gone/deep/file", "old gone deep"),
            ("is a directory then", "old file"),
        ] {
            fs::write(dst.join(path), data).unwrap();
        }
        fs::create_dir(src.join("is a directory then")).unwrap();
        symlink("new target", src.join("link")).unwrap();
        symlink("old target", dst.join("link")).unwrap();
        symlink("old link", dst.join("was a link")).unwrap();
        trees
    }

    fn one_file(new: &[u8], old: Option<&[u8]>) -> Self {
        let trees = Self::empty();
        trees.put(new, old);
        trees
    }

    fn put(&self, new: &[u8], old: Option<&[u8]>) {
        fs::write(self.src.join("file"), new).unwrap();
        if let Some(old) = old {
            fs::write(self.dst.join("file"), old).unwrap();
        }
    }
}

/// Contents of files and targets of symlinks by path; directories have none.
fn contents(root: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut all = BTreeMap::new();
    let mut rest = vec![root.to_owned()];
    while let Some(path) = rest.pop() {
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        let content = if kind.is_dir() {
            rest.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            None
        } else if kind.is_symlink() {
            Some(
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes(),
            )
        } else {
            Some(fs::read(&path).unwrap())
        };
        let path = path.strip_prefix(root).unwrap().to_str().unwrap();
        all.insert(path.to_owned(), content);
    }
    all
}

fn assert_no_temporaries(root: &Path, context: &str) {
    for path in contents(root).keys() {
        let name = path.rsplit('/').next().unwrap();
        assert!(!is_temporary(name.as_bytes()), "{context}: {path} is left");
    }
}

fn with_fsync(fsync: Fsync, write_mode: WriteMode) -> Job {
    Job {
        fsync,
        write_mode,
        ..job()
    }
}

#[test]
fn fsync_file_flushes_each_file_before_its_name_and_each_directory() {
    for write_mode in MODES {
        let (trees, faults) = (Trees::different(), Faults::default());
        let ended = sync(&trees, with_fsync(Fsync::File, write_mode), &faults);
        assert_eq!(ended.exit_code, 0, "{:?}", ended.errors);
        let renamed = faults.renamed_dirty();
        let symlinks = [c"link".to_owned(), c"was a link".to_owned()];
        assert!(
            renamed.iter().all(|name| *name == symlinks[0]),
            "{write_mode:?}: {renamed:?} were not flushed before"
        );
        assert_eq!(
            faults.dirty_below(&trees.dst),
            Vec::<String>::new(),
            "{write_mode:?}"
        );
        assert_eq!(faults.syncs(), 0);
    }
}

#[test]
fn without_fsync_nothing_is_flushed() {
    let (trees, faults) = (Trees::different(), Faults::default());
    sync(&trees, job(), &faults);
    assert!(faults.renamed_dirty().contains(&c"changed".to_owned()));
    assert!(faults.dirty_below(&trees.dst).len() > 5);
}

#[test]
fn fsync_end_flushes_the_filesystem_once() {
    for delete in [Delete::Never, Delete::During] {
        let (trees, faults) = (Trees::different(), Faults::default());
        let job = Job {
            delete,
            ..with_fsync(Fsync::End, WriteMode::Atomic)
        };
        let ended = sync(&trees, job.clone(), &faults);
        assert_eq!(ended.exit_code, 0, "{:?}", ended.errors);
        assert_eq!(faults.dirty_below(&trees.dst), Vec::<String>::new());
        assert_eq!(faults.syncs(), 1);
        // Nothing was written: nothing need be flushed.
        let faults = Faults::default();
        assert_eq!(sync(&trees, job, &faults).exit_code, 0);
        assert_eq!(faults.syncs(), 0);
    }
}

#[test]
fn a_flush_that_fails_costs_its_file_and_leaves_the_old_one() {
    for write_mode in MODES {
        for (errno, exit_code) in [(Errno::EIO, 23), (Errno::ENOSPC, 11)] {
            let trees = Trees::one_file(b"new contents", Some(b"old"));
            let faults = Faults::new(Fault::Kind(OpKind::Fsync, errno));
            let ended = sync(&trees, with_fsync(Fsync::File, write_mode), &faults);
            let context = format!("{write_mode:?} {errno:?} {:?}", ended.errors);
            assert_eq!(ended.exit_code, exit_code, "{context}");
            assert_no_temporaries(&trees.dst, &context);
            let left = fs::read(trees.dst.join("file")).ok();
            match write_mode {
                WriteMode::Atomic => assert_eq!(left.unwrap(), b"old", "{context}"),
                WriteMode::Direct => assert_eq!(left, None, "{context}"),
                WriteMode::InPlace => assert!(left.is_some(), "{context}"),
                WriteMode::Whole => unreachable!("only buckets are written so"),
            }
            let again = sync(
                &trees,
                with_fsync(Fsync::File, write_mode),
                &Faults::default(),
            );
            assert_eq!(again.exit_code, 0, "{context}");
            assert_eq!(contents(&trees.src), contents(&trees.dst), "{context}");
        }
    }
}

#[test]
fn a_flush_at_the_end_that_fails_is_told() {
    for (errno, exit_code) in [(Errno::EIO, 23), (Errno::ENOSPC, 11), (Errno::EDQUOT, 11)] {
        let trees = Trees::different();
        let faults = Faults::new(Fault::Kind(OpKind::SyncFs, errno));
        let ended = sync(&trees, with_fsync(Fsync::End, WriteMode::Atomic), &faults);
        assert_eq!(ended.exit_code, exit_code, "{:?}", ended.errors);
    }
}

fn verifying(write_mode: WriteMode) -> Job {
    Job {
        verify: true,
        write_mode,
        ..job()
    }
}

#[test]
fn a_byte_that_went_wrong_once_is_copied_again() {
    for write_mode in MODES {
        let trees = Trees::one_file(b"new contents", Some(b"old"));
        let faults = Faults::corrupting(1);
        let ended = sync(&trees, verifying(write_mode), &faults);
        assert_eq!(
            (ended.exit_code, ended.errors.len()),
            (0, 0),
            "{write_mode:?}"
        );
        assert_eq!(ended.outcome.totals.files_copied, 1);
        assert_eq!(contents(&trees.src), contents(&trees.dst), "{write_mode:?}");
        assert_no_temporaries(&trees.dst, "verified");
    }
}

#[test]
fn without_verify_nobody_sees_it() {
    let trees = Trees::one_file(b"new contents", Some(b"old"));
    let ended = sync(&trees, job(), &Faults::corrupting(1));
    assert_eq!(ended.exit_code, 0);
    assert_ne!(contents(&trees.src), contents(&trees.dst));
}

#[test]
fn a_byte_that_goes_wrong_again_is_told_and_the_old_file_stays() {
    for write_mode in MODES {
        for old in [None, Some(&b"old"[..])] {
            let trees = Trees::one_file(b"new contents", old);
            let ended = sync(
                &trees,
                verifying(write_mode),
                &Faults::corrupting(usize::MAX),
            );
            let context = format!("{write_mode:?} {:?}", ended.errors);
            assert_eq!(ended.exit_code, 23, "{context}");
            assert_eq!(ended.errors.len(), 1, "{context}");
            assert_eq!(ended.errors[0].cause, Cause::Corrupted);
            assert!(ended.errors[0].to_string().contains("corruption"));
            assert_no_temporaries(&trees.dst, &context);
            let left = fs::read(trees.dst.join("file")).ok();
            match (write_mode, old) {
                (WriteMode::Atomic, old) => assert_eq!(left.as_deref(), old, "{context}"),
                (WriteMode::InPlace, Some(_)) => assert!(left.is_some(), "{context}"),
                _ => assert_eq!(left, None, "{context}"),
            }
            let again = sync(&trees, verifying(write_mode), &Faults::default());
            assert_eq!(again.exit_code, 0, "{context}");
            assert_eq!(contents(&trees.src), contents(&trees.dst), "{context}");
        }
    }
}

/// A kernel copy from 128 KiB on, chunks from 64 MiB on.
#[test]
fn each_way_of_copying_is_verified() {
    for (len, reflink) in [
        (300 << 10, Reflink::Auto),
        (300 << 10, Reflink::Never),
        ((64 << 20) + 5, Reflink::Auto),
    ] {
        let new = vec![7; len];
        let trees = Trees::one_file(&new, Some(b"old"));
        let job = Job {
            reflink,
            ..verifying(WriteMode::Atomic)
        };
        let ended = sync(&trees, job.clone(), &Faults::corrupting(usize::MAX));
        assert_eq!(ended.errors[0].cause, Cause::Corrupted, "{len} {reflink:?}");
        assert_eq!(fs::read(trees.dst.join("file")).unwrap(), b"old");
        assert_eq!(sync(&trees, job, &Faults::corrupting(1)).exit_code, 0);
        assert!(fs::read(trees.dst.join("file")).unwrap() == new);
    }
}

#[test]
fn reflinks_are_verified() {
    let Some(image) = Image::new("btrfs") else {
        return;
    };
    let trees = Trees {
        src: image.dir("src"),
        dst: image.dir("dst"),
        _scratch: None,
    };
    trees.put(&vec![7; 300 << 10], Some(b"old"));
    let job = Job {
        reflink: Reflink::Always,
        ..verifying(WriteMode::Atomic)
    };
    let ended = sync(&trees, job.clone(), &Faults::corrupting(usize::MAX));
    assert_eq!(ended.errors[0].cause, Cause::Corrupted);
    assert_eq!(fs::read(trees.dst.join("file")).unwrap(), b"old");
    let ended = sync(&trees, job, &Faults::default());
    assert_eq!(
        (ended.exit_code, ended.outcome.totals.bytes_cloned),
        (0, 300 << 10)
    );
}

/// Where a destination's old entry must be when it is not in its place.
fn backup_path(path: &str, has_dir: bool) -> String {
    if has_dir {
        format!("{BACKUP_DIR}/{path}")
    } else {
        format!("{path}~")
    }
}

fn backup_job(write_mode: WriteMode, has_dir: bool) -> Job {
    let suffix = if has_dir { Vec::new() } else { b"~".to_vec() };
    let dir = has_dir.then(|| PathBuf::from(BACKUP_DIR));
    Job {
        write_mode,
        backup: Some(BackupJob { dir, suffix }),
        ..job()
    }
}

/// Every old content is in its place or under its backup name.
fn assert_nothing_lost(
    before: &BTreeMap<String, Option<Vec<u8>>>,
    dst: &Path,
    has_dir: bool,
    context: &str,
) {
    let after = contents(dst);
    for (path, content) in before.iter().filter(|(_, content)| content.is_some()) {
        let places = [path.clone(), backup_path(path, has_dir)];
        let kept = places.iter().any(|place| after.get(place) == Some(content));
        assert!(kept, "{context}: {path} was lost\n{:#?}", after.keys());
    }
}

/// The destination without its backups, and without directories that stay only because backups are in them.
fn without_backups(dst: &Path, src: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let wanted = contents(src);
    let is_backup = |path: &str| path.starts_with(BACKUP_DIR) || path.ends_with('~');
    let mut all = contents(dst);
    all.retain(|path, content| {
        !is_backup(path) && (content.is_some() || wanted.contains_key(path))
    });
    all
}

/// Each operation fails, one after another until a run has no more of them.
fn every_operation_fails_once(write_mode: WriteMode, has_dir: bool, fsync: Fsync) {
    let job = || Job {
        fsync,
        ..backup_job(write_mode, has_dir)
    };
    // What a full disk does differently, it does wherever it happens.
    for (errno, step) in [(Errno::EIO, 1), (Errno::ENOSPC, 7)] {
        for at in (0..).step_by(step) {
            assert!(at < 1000, "a small sync does not need so many operations");
            let trees = Trees::different();
            let (before, wanted) = (contents(&trees.dst), contents(&trees.src));
            let faults = Faults::new(Fault::At(at, errno));
            let ended = sync(&trees, job(), &faults);
            let failed = faults.failed();
            let context = format!(
                "{write_mode:?}, backup dir {has_dir}: operation {at}, {failed:?}, fails with {errno:?} {:?}",
                ended.errors
            );
            assert_nothing_lost(&before, &trees.dst, has_dir, &context);
            let equal = without_backups(&trees.dst, &trees.src) == wanted;
            assert!(equal || ended.exit_code != 0, "{context}: not told");
            if failed != Some(OpKind::Unlink) {
                assert_no_temporaries(&trees.dst, &context);
            }
            if write_mode == WriteMode::Atomic {
                for (path, content) in without_backups(&trees.dst, &trees.src) {
                    let whole = [wanted.get(&path), before.get(&path)];
                    assert!(
                        whole.contains(&Some(&content)),
                        "{context}: {path} is half-written"
                    );
                }
            }
            let repaired = sync(&trees, job(), &Faults::default());
            assert_eq!(repaired.exit_code, 0, "{context}: {:?}", repaired.errors);
            assert_eq!(without_backups(&trees.dst, &trees.src), wanted, "{context}");
            // A file whose attributes could not be set is copied anew, and the first copy then has the backup name.
            let copied_twice = ended
                .errors
                .iter()
                .any(|error| error.op == OpKind::SetTimes);
            if !copied_twice {
                assert_nothing_lost(&before, &trees.dst, has_dir, &context);
            }
            if !faults.met(at) {
                break;
            }
        }
    }
}

#[test]
fn nothing_is_lost_with_backups_beside() {
    every_operation_fails_once(WriteMode::Atomic, false, Fsync::None);
}

#[test]
fn nothing_is_lost_with_a_backup_directory() {
    every_operation_fails_once(WriteMode::Atomic, true, Fsync::File);
}

#[test]
fn nothing_is_lost_with_backups_of_files_written_directly() {
    every_operation_fails_once(WriteMode::Direct, true, Fsync::None);
}

#[test]
fn nothing_is_lost_with_backups_of_files_written_in_place() {
    every_operation_fails_once(WriteMode::InPlace, false, Fsync::File);
}

/// What could not be replaced has its name again, also where it had to go first.
#[test]
fn a_replacement_that_fails_gives_the_name_back() {
    for write_mode in [WriteMode::Atomic, WriteMode::Direct] {
        for has_dir in [false, true] {
            for kind in [OpKind::Write, OpKind::Close] {
                let trees = Trees::one_file(b"new contents", Some(b"old"));
                let faults = Faults::new(Fault::Kind(kind, Errno::EIO));
                let ended = sync(&trees, backup_job(write_mode, has_dir), &faults);
                assert_eq!(ended.exit_code, 23, "{:?}", ended.errors);
                assert_eq!(fs::read(trees.dst.join("file")).unwrap(), b"old");
                let kept = trees.dst.join(backup_path("file", has_dir));
                assert!(!kept.exists(), "{write_mode:?}: two names for one file");
            }
        }
    }
}

/// Filesystems without hard links: the old entry is renamed.
#[test]
fn backups_without_links() {
    for errno in [Errno::EPERM, Errno::EMLINK, Errno::EOPNOTSUPP] {
        for has_dir in [false, true] {
            let trees = Trees::different();
            let before = contents(&trees.dst);
            let faults = Faults::new(Fault::Kind(OpKind::Link, errno));
            let ended = sync(&trees, backup_job(WriteMode::Atomic, has_dir), &faults);
            assert_eq!(ended.exit_code, 0, "{:?}", ended.errors);
            assert_eq!(
                without_backups(&trees.dst, &trees.src),
                contents(&trees.src)
            );
            assert_nothing_lost(&before, &trees.dst, has_dir, "renamed");
        }
    }
}

/// A destination that says of its first small files that many calls at a time pay off.
struct SlowAtFirst {
    fs: Rc<dyn Fs>,
    /// So many more.
    not_now: Cell<u32>,
    copied: Arc<AtomicU32>,
}

impl Fs for SlowAtFirst {
    fn start(&self, op: Op) -> Pending {
        self.fs.start(op)
    }

    fn is_slow(&self, dev: u64) -> bool {
        self.fs.is_slow(dev)
    }

    fn copy_small(&self, copy: &SmallCopy<'_>, buffer: &mut [u8]) -> InOneGo {
        if let Some(left) = self.not_now.get().checked_sub(1) {
            self.not_now.set(left);
            return InOneGo::NotNow;
        }
        let outcome = self.fs.copy_small(copy, buffer);
        if outcome == InOneGo::Copied {
            self.copied.fetch_add(1, Relaxed);
        }
        outcome
    }
}

#[test]
fn small_files_go_in_one_again_when_calls_return_at_once_again() {
    const FILES: u32 = 100;
    const NOT_NOW: u32 = 50;
    let trees = Trees::empty();
    for number in 0..FILES {
        fs::write(trees.src.join(number.to_string()), number.to_string()).unwrap();
    }
    let copied = Arc::new(AtomicU32::new(0));
    let count = copied.clone();
    let fs: FsMaker = Arc::new(move |_| {
        let dest = SlowAtFirst {
            fs: local()?,
            not_now: Cell::new(NOT_NOW),
            copied: count.clone(),
        };
        Ok((local()?, Rc::new(dest)))
    });
    let job = Job {
        reflink: Reflink::Never,
        ..job()
    };
    let ended = sync_by(&trees, job, fs);
    assert_eq!(ended.exit_code, 0, "{:?}", ended.errors);
    assert_eq!(copied.load(Relaxed), FILES - NOT_NOW);
    for number in 0..FILES {
        let copy = fs::read_to_string(trees.dst.join(number.to_string())).unwrap();
        assert_eq!(copy, number.to_string());
    }
}
