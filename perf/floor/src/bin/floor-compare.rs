//! `floor-compare SRC DST [THREADS]`: lists and statxes both trees and compares type, size and mtime by name;
//! the floor of a sync that finds nothing to do. It reads no file.
//!
//! Exit status: 0 equal, 1 only times differ, 2 anything else differs, 3 failed.

use std::ffi::{CStr, CString};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use floor::listing::{DirBuffer, file_type, for_each, open_dir, open_root};
use floor::{fail, parse_threads, queue, rate};
use rustix::fs::{FileType, Statx};

/// A directory that exists on both sides.
struct Task {
    src_parent: Arc<OwnedFd>,
    dst_parent: Arc<OwnedFd>,
    name: CString,
}

struct Entry {
    /// Where the name lies in `Listing::names`, NUL included.
    name_start: usize,
    name_end: usize,
    file_type: FileType,
    size: u64,
    mtime: (i64, u32),
}

/// The entries of one directory, sorted by name; memory is kept from one directory to the next.
#[derive(Default)]
struct Listing {
    names: Vec<u8>,
    entries: Vec<Entry>,
}

impl Listing {
    fn fill(&mut self, dir: &OwnedFd, buffer: &mut DirBuffer) {
        self.names.clear();
        self.entries.clear();
        for_each(dir, buffer, |name, stat| self.push(name, stat));
        let names = &self.names;
        let name = |entry: &Entry| &names[entry.name_start..entry.name_end];
        self.entries.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    }

    fn push(&mut self, name: &CStr, stat: &Statx) {
        let name_start = self.names.len();
        self.names.extend_from_slice(name.to_bytes_with_nul());
        self.entries.push(Entry {
            name_start,
            name_end: self.names.len(),
            file_type: file_type(stat),
            size: stat.stx_size,
            mtime: (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec),
        });
    }

    fn name(&self, entry: &Entry) -> &[u8] {
        &self.names[entry.name_start..entry.name_end]
    }
}

#[derive(Default)]
struct Counts {
    compared: u64,
    missing: u64,
    extra: u64,
    types: u64,
    sizes: u64,
    times: u64,
    dir_times: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        self.compared += other.compared;
        self.missing += other.missing;
        self.extra += other.extra;
        self.types += other.types;
        self.sizes += other.sizes;
        self.times += other.times;
        self.dir_times += other.dir_times;
    }

    /// Counts how the two entries differ; true when both are directories, to be descended into.
    fn pair(&mut self, src: &Entry, dst: &Entry) -> bool {
        self.compared += 1;
        if src.file_type != dst.file_type {
            self.types += 1;
            return false;
        }
        if src.file_type == FileType::Directory {
            // The size of a directory is the filesystem's own affair.
            self.dir_times += u64::from(src.mtime != dst.mtime);
            return true;
        }
        self.sizes += u64::from(src.size != dst.size);
        self.times += u64::from(src.mtime != dst.mtime);
        false
    }

    fn exit_status(&self) -> u8 {
        if self.missing + self.extra + self.types + self.sizes > 0 {
            2
        } else {
            u8::from(self.times + self.dir_times > 0)
        }
    }
}

#[derive(Default)]
struct Worker {
    buffer: DirBuffer,
    src: Listing,
    dst: Listing,
    counts: Counts,
}

fn compare_dir(worker: &mut Worker, task: Task, more: &mut Vec<Task>) {
    let Task {
        src_parent,
        dst_parent,
        name,
    } = task;
    let open = |parent: &OwnedFd| {
        Arc::new(
            open_dir(parent, &name).unwrap_or_else(|error| fail(name.to_string_lossy(), error)),
        )
    };
    let (src_dir, dst_dir) = (open(&src_parent), open(&dst_parent));
    drop((src_parent, dst_parent));

    let Worker {
        buffer,
        src,
        dst,
        counts,
    } = worker;
    src.fill(&src_dir, buffer);
    dst.fill(&dst_dir, buffer);
    // Merge of two sorted lists: the smaller name is alone on its side.
    let mut dst_left = dst.entries.iter().peekable();
    for src_entry in &src.entries {
        let src_name = src.name(src_entry);
        while dst_left
            .next_if(|entry| dst.name(entry) < src_name)
            .is_some()
        {
            counts.extra += 1;
        }
        let Some(dst_entry) = dst_left.next_if(|entry| dst.name(entry) == src_name) else {
            counts.missing += 1;
            continue;
        };
        if counts.pair(src_entry, dst_entry) {
            more.push(Task {
                src_parent: Arc::clone(&src_dir),
                dst_parent: Arc::clone(&dst_dir),
                name: CStr::from_bytes_with_nul(src_name)
                    .expect("a name from the kernel")
                    .to_owned(),
            });
        }
    }
    counts.extra += dst_left.count() as u64;
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [src, dst, threads @ ..] = args.as_slice() else {
        fail("usage", "floor-compare SRC DST [THREADS]");
    };
    let threads = parse_threads(threads.first().map(String::as_str))
        .unwrap_or_else(|error| fail("floor-compare", error));
    let start = Instant::now();
    let first = Task {
        src_parent: Arc::new(open_root(Path::new(src))),
        dst_parent: Arc::new(open_root(Path::new(dst))),
        name: c".".to_owned(),
    };
    let mut counts = Counts::default();
    for worker in queue::run(threads, first, |_| Worker::default(), compare_dir) {
        counts.add(&worker.counts);
    }
    let seconds = start.elapsed().as_secs_f64();

    println!(
        "{} compared, {} missing, {} extra, {} types, {} sizes, {} times, {} directory times differ, \
         {seconds:.3} s, {:.0} entries/s",
        counts.compared,
        counts.missing,
        counts.extra,
        counts.types,
        counts.sizes,
        counts.times,
        counts.dir_times,
        rate(counts.compared, seconds)
    );
    ExitCode::from(counts.exit_status())
}
