//! `floor-scan PATH [THREADS]`: lists and statxes every entry below PATH, and nothing else.
//!
//! One giant directory is read by one thread: the floor is a floor for trees of many directories.

use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use floor::listing::{DirBuffer, file_type, for_each, open_dir, open_root};
use floor::{fail, parse_threads, queue, rate};
use rustix::fs::FileType;

/// A directory to list. It is opened by name below its parent, whose descriptor lives as long as it has
/// children waiting.
struct Task {
    parent: Arc<OwnedFd>,
    name: CString,
}

#[derive(Default)]
struct Crawler {
    buffer: DirBuffer,
    entries: u64,
    dirs: u64,
    bytes: u64,
}

fn crawl(crawler: &mut Crawler, task: Task, more: &mut Vec<Task>) {
    let dir = open_dir(&task.parent, &task.name)
        .unwrap_or_else(|error| fail(task.name.to_string_lossy(), error));
    drop(task);
    let dir = Arc::new(dir);
    for_each(&dir, &mut crawler.buffer, |name, stat| {
        crawler.entries += 1;
        match file_type(stat) {
            FileType::Directory => {
                crawler.dirs += 1;
                more.push(Task {
                    parent: Arc::clone(&dir),
                    name: name.to_owned(),
                });
            }
            FileType::RegularFile => crawler.bytes += stat.stx_size,
            _ => {}
        }
    });
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(path), true) = (args.first(), args.len() <= 2) else {
        fail("usage", "floor-scan PATH [THREADS]");
    };
    let threads = parse_threads(args.get(1).map(String::as_str))
        .unwrap_or_else(|error| fail("floor-scan", error));
    let start = Instant::now();
    let first = Task {
        parent: Arc::new(open_root(Path::new(path))),
        name: c".".to_owned(),
    };
    let crawlers = queue::run(threads, first, |_| Crawler::default(), crawl);
    let seconds = start.elapsed().as_secs_f64();

    let entries: u64 = crawlers.iter().map(|crawler| crawler.entries).sum();
    let dirs: u64 = crawlers.iter().map(|crawler| crawler.dirs).sum();
    let bytes: u64 = crawlers.iter().map(|crawler| crawler.bytes).sum();
    println!(
        "{entries} entries, {dirs} dirs, {bytes} bytes, {seconds:.3} s, {:.0} entries/s",
        rate(entries, seconds)
    );
}
