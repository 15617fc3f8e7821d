//! `floor-copy SRC DST direct|atomic|nameless [THREADS]`: copies directories, regular files and symbolic links with
//! mode, mtime and (as root) owner, into a DST that is absent or empty.
//!
//! * direct: open the source, create under the final name, read and write, futimens.
//! * atomic: create under a temporary name with mode 0600, read and write, fchmod, futimens, rename.
//! * nameless: create without a name (`O_TMPFILE`), read and write, futimens, link to the final name; as root.
//!
//! Not copied: holes, hard links as links, extended attributes, ACLs, devices and other special files (these
//! are counted, and are an error at the end).

use std::ffi::{CStr, CString};
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use floor::listing::{DirBuffer, file_type, for_each, open_dir, open_root, stat};
use floor::{fail, parse_threads, queue, rate};
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Statx, Timespec, Timestamps, UTIME_OMIT, Uid, chownat,
    fchmod, fchown, futimens, linkat, mkdirat, openat, readlinkat, renameat, symlinkat, utimensat,
};
use rustix::io::{Result, read, write};
use rustix::process::{getegid, geteuid, umask};

/// Bytes for one read and one write.
const DATA_BUFFER_BYTES: usize = 256 * 1024;
/// A file of this size or more is a task of its own, for any thread to take.
const FILE_TASK_BYTES: u64 = 4 * 1024 * 1024;
const SET_ID_BITS: u32 = 0o6000;

/// A directory on both sides. Its times are set when the last entry of it has been dealt with, that is when the
/// last task that refers to it is gone: from then on nothing is created in it.
struct Dir {
    src: OwnedFd,
    dst: OwnedFd,
    /// What to set at the end; None for the handle from which the two roots are opened.
    meta: Option<DirMeta>,
}

struct DirMeta {
    mode: u32,
    /// Whom to hand it to, when that is not ourselves.
    owner: Option<(Uid, Gid)>,
    times: Timestamps,
}

impl Dir {
    fn finish(&self, meta: &DirMeta) -> Result<()> {
        if let Some((uid, gid)) = meta.owner {
            fchown(&self.dst, Some(uid), Some(gid))?;
        }
        let chowned = meta.owner.is_some();
        if mkdir_mode(meta.mode) != meta.mode || chowned && meta.mode & SET_ID_BITS != 0 {
            fchmod(&self.dst, Mode::from_raw_mode(meta.mode))?;
        }
        futimens(&self.dst, &meta.times)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        if let Some(meta) = &self.meta {
            self.finish(meta)
                .unwrap_or_else(|error| fail("finishing a directory", error));
        }
    }
}

/// A directory to copy, whose copy was made by whoever listed the parent; or a large file.
struct Task {
    parent: Arc<Dir>,
    name: CString,
    stat: Statx,
}

/// How a new file comes to its name.
#[derive(Clone, Copy, PartialEq)]
enum WriteMode {
    Direct,
    Atomic,
    Nameless,
}

/// The state of one thread.
struct Copier {
    thread: usize,
    write_mode: WriteMode,
    /// Our own ids when we are root, and so must hand files to their owners.
    root: Option<(Uid, Gid)>,
    data: Vec<u8>,
    temps: u64,
    files: u64,
    dirs: u64,
    links: u64,
    specials: u64,
    bytes: u64,
}

fn mode_of(stat: &Statx) -> u32 {
    u32::from(stat.stx_mode) & 0o7777
}

/// The mode for mkdir: without the bits that it ignores, and such that we can create entries.
fn mkdir_mode(mode: u32) -> u32 {
    mode & 0o1777 | 0o700
}

fn times_of(stat: &Statx) -> Timestamps {
    let mtime = stat.stx_mtime;
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.tv_sec,
            tv_nsec: mtime.tv_nsec.into(),
        },
    }
}

impl Copier {
    fn new(thread: usize, write_mode: WriteMode) -> Self {
        Self {
            thread,
            write_mode,
            root: geteuid().is_root().then(|| (geteuid(), getegid())),
            data: vec![0; DATA_BUFFER_BYTES],
            temps: 0,
            files: 0,
            dirs: 0,
            links: 0,
            specials: 0,
            bytes: 0,
        }
    }

    /// The owner to set, when we can and must.
    fn owner_to_set(&self, stat: &Statx) -> Option<(Uid, Gid)> {
        let owner = (Uid::from_raw(stat.stx_uid), Gid::from_raw(stat.stx_gid));
        self.root.filter(|own| *own != owner).map(|_| owner)
    }

    /// Copies one entry, but for directories and large files: true says that these remain to be done. A
    /// directory is made already.
    fn entry(&mut self, dir: &Dir, name: &CStr, stat: &Statx) -> Result<bool> {
        match file_type(stat) {
            FileType::RegularFile if stat.stx_size >= FILE_TASK_BYTES => return Ok(true),
            FileType::RegularFile => self.file(dir, name, stat)?,
            FileType::Symlink => self.link(dir, name, stat)?,
            FileType::Directory => {
                let mode = Mode::from_raw_mode(mkdir_mode(mode_of(stat)));
                mkdirat(&dir.dst, name, mode)?;
                self.dirs += 1;
                return Ok(true);
            }
            _ => self.specials += 1,
        }
        Ok(false)
    }

    fn file(&mut self, dir: &Dir, name: &CStr, stat: &Statx) -> Result<()> {
        let mode = mode_of(stat);
        let temp = (self.write_mode == WriteMode::Atomic).then(|| {
            self.temps += 1;
            CString::new(format!(".floor-{}-{}", self.thread, self.temps)).expect("no NUL inside")
        });
        let named = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let nameless = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let (new_name, new_mode, create) = match (&temp, self.write_mode) {
            (Some(temp), _) => (temp.as_c_str(), 0o600, named),
            (None, WriteMode::Nameless) => (c".", mode, nameless),
            (None, _) => (name, mode, named),
        };
        let output = openat(&dir.dst, new_name, create, Mode::from_raw_mode(new_mode))?;
        if stat.stx_size > 0 {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let input = openat(&dir.src, name, flags, Mode::empty())?;
            self.bytes += copy_data(&input, &output, stat.stx_size, &mut self.data)?;
        }
        let owner = self.owner_to_set(stat);
        if let Some((uid, gid)) = owner {
            fchown(&output, Some(uid), Some(gid))?;
        }
        // Both a chown and a write clear the set-id bits.
        let cleared = owner.is_some() || stat.stx_size > 0;
        if new_mode != mode || cleared && mode & SET_ID_BITS != 0 {
            fchmod(&output, Mode::from_raw_mode(mode))?;
        }
        futimens(&output, &times_of(stat))?;
        if let Some(temp) = &temp {
            renameat(&dir.dst, temp.as_c_str(), &dir.dst, name)?;
        }
        if self.write_mode == WriteMode::Nameless {
            linkat(&output, c"", &dir.dst, name, AtFlags::EMPTY_PATH)?;
        }
        self.files += 1;
        Ok(())
    }

    fn link(&mut self, dir: &Dir, name: &CStr, stat: &Statx) -> Result<()> {
        symlinkat(readlinkat(&dir.src, name, Vec::new())?, &dir.dst, name)?;
        let no_follow = AtFlags::SYMLINK_NOFOLLOW;
        if let Some((uid, gid)) = self.owner_to_set(stat) {
            chownat(&dir.dst, name, Some(uid), Some(gid), no_follow)?;
        }
        utimensat(&dir.dst, name, &times_of(stat), no_follow)?;
        self.links += 1;
        Ok(())
    }
}

/// Copies `size` bytes, or fewer when the file ends early, and returns how many. The size is known, so the
/// empty read at the end of the file is saved.
fn copy_data(input: &OwnedFd, output: &OwnedFd, size: u64, buffer: &mut [u8]) -> Result<u64> {
    let mut copied = 0;
    while copied < size {
        let left = usize::try_from(size - copied).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        let got = read(input, &mut buffer[..want])?;
        if got == 0 {
            break;
        }
        let mut written = 0;
        while written < got {
            written += write(output, &buffer[written..got])?;
        }
        copied += got as u64;
    }
    Ok(copied)
}

/// One thread's copier and listing memory: apart, for the listing is borrowed while an entry is copied.
struct Worker {
    copier: Copier,
    buffer: DirBuffer,
}

fn work(worker: &mut Worker, task: &Task, more: &mut Vec<Task>) {
    let done = if file_type(&task.stat) == FileType::Directory {
        copy_dir(worker, task, more)
    } else {
        worker.copier.file(&task.parent, &task.name, &task.stat)
    };
    done.unwrap_or_else(|error| fail(task.name.to_string_lossy(), error));
}

fn copy_dir(worker: &mut Worker, task: &Task, more: &mut Vec<Task>) -> Result<()> {
    let Worker { copier, buffer } = worker;
    let dir = Arc::new(Dir {
        src: open_dir(&task.parent.src, &task.name)?,
        dst: open_dir(&task.parent.dst, &task.name)?,
        meta: Some(DirMeta {
            mode: mode_of(&task.stat),
            owner: copier.owner_to_set(&task.stat),
            times: times_of(&task.stat),
        }),
    });
    for_each(&dir.src, buffer, |name, stat| {
        let remains = copier
            .entry(&dir, name, stat)
            .unwrap_or_else(|error| fail(name.to_string_lossy(), error));
        if remains {
            more.push(Task {
                parent: Arc::clone(&dir),
                name: name.to_owned(),
                stat: *stat,
            });
        }
    });
    Ok(())
}

fn first_task(src: &Path, dst: &Path) -> Task {
    match std::fs::create_dir(dst) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => fail(dst.display(), error),
        _ => {}
    }
    if std::fs::read_dir(dst).map_or(true, |mut entries| entries.next().is_some()) {
        fail(dst.display(), "must be absent or an empty directory");
    }
    let src_root = open_root(src);
    let stat = stat(&src_root, c".").unwrap_or_else(|error| fail(src.display(), error));
    let roots = Dir {
        src: src_root,
        dst: open_root(dst),
        meta: None,
    };
    Task {
        parent: Arc::new(roots),
        name: c".".to_owned(),
        stat,
    }
}

/// SRC, DST, how files are written, THREADS.
fn parse_args(args: &[String]) -> std::result::Result<(&Path, &Path, WriteMode, usize), String> {
    let [src, dst, mode, threads @ ..] = args else {
        return Err("floor-copy SRC DST direct|atomic|nameless [THREADS]".into());
    };
    let write_mode = match mode.as_str() {
        "direct" => WriteMode::Direct,
        "atomic" => WriteMode::Atomic,
        "nameless" => WriteMode::Nameless,
        _ => return Err("the mode is direct, atomic or nameless".into()),
    };
    let threads = parse_threads(threads.first().map(String::as_str))?;
    Ok((Path::new(src), Path::new(dst), write_mode, threads))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (src, dst, write_mode, threads) =
        parse_args(&args).unwrap_or_else(|error| fail("usage", error));
    umask(Mode::empty()); // so that open and mkdir give the very mode that is asked for
    let start = Instant::now();
    let first = first_task(src, dst);
    let new_worker = |thread| Worker {
        copier: Copier::new(thread, write_mode),
        buffer: DirBuffer::default(),
    };
    let workers = queue::run(threads, first, new_worker, |worker, task, more| {
        work(worker, &task, more);
    });
    let seconds = start.elapsed().as_secs_f64();

    let sum = |count: fn(&Copier) -> u64| -> u64 {
        workers.iter().map(|worker| count(&worker.copier)).sum()
    };
    let files = sum(|copier| copier.files);
    println!(
        "{files} files, {} dirs, {} links, {} bytes, {seconds:.3} s, {:.0} files/s",
        sum(|copier| copier.dirs),
        sum(|copier| copier.links),
        sum(|copier| copier.bytes),
        rate(files, seconds)
    );
    let specials = sum(|copier| copier.specials);
    if specials > 0 {
        fail("special files not copied", specials);
    }
}
