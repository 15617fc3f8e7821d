//! Others at work in the same trees: attackers who swap directories and files for links to what is not theirs, readers who
//! look at final names all the time, and owners who go on working in the source.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use rustix::fs::{CWD, Mode, OFlags, RenameFlags, ResolveFlags, openat2, renameat_with};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};
use support::rng::Rng;
use support::snap::{assert_equal_trees, assert_same, assert_untouched, snapshot, stamps};
use support::tree::{Kind, LONG_AGO, Tree, set_mtime};
use support::{Outcome, Pair, count, engines, is_root, remove_tree, sync, under_each_engine};

under_each_engine!(
    readers_never_see_a_partial_file,
    files_that_change_while_they_are_copied,
    directories_that_move_while_they_are_crawled,
);

const OPEN_DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// What only the outside tree contains; none of it may come into the destination.
const SECRET: &[u8] = b"the canary's own words";

/// How long each attack lasts.
fn attack_time() -> Duration {
    let seconds = std::env::var("RINGSYNC_RACE_SECONDS");
    let seconds = seconds.ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(10))
}

/// The outside tree: what an attacker wants read, written, or removed.
fn canary(root: &Path) {
    let mut tree = Tree::new();
    for dir in ["", "a/", "a/b/", "a/b/c/"] {
        for file in ["file", "other", "secret"] {
            let content = [SECRET, dir.as_bytes(), file.as_bytes()].concat();
            let node = tree.file(format!("{dir}{file}"), content).mode(0o600);
            if is_root() {
                node.owner(4_000_000, 4_000_001);
            }
        }
        tree.symlink(format!("{dir}link"), SECRET);
        tree.dir(format!("{dir}empty")).mode(0o711);
    }
    tree.write_to(root);
}

/// Directories at several depths, with names that the outside tree has too.
fn playground(content: &str, seconds: i64) -> Tree {
    let mut tree = Tree::new();
    for top in 0..6 {
        for dir in ["", "a/", "a/b/", "a/b/c/"] {
            for file in ["file", "other", "third"] {
                let path = format!("top {top}/{dir}{file}");
                let text = format!("{content} {path}");
                tree.file(path, text).at(LONG_AGO.plus(seconds));
            }
            tree.symlink(format!("top {top}/{dir}link"), content);
        }
    }
    tree
}

/// A name below the tree's root and its lure, a name in the lure folder.
struct Swap {
    dir: PathBuf,
    name: OsString,
    lure: OsString,
}

/// Exchanges names of a tree with links to the outside. Each exchange works on open directories, reached through no link:
/// the attacker's own steps must not lead outside.
struct Attacker {
    root: OwnedFd,
    lures: OwnedFd,
    swaps: Vec<Swap>,
}

impl Attacker {
    /// For some directories at each depth, and for a file of each directory, a link in `lures` to its counterpart outside.
    fn new(root: &Path, lures: &Path, outside: &Path) -> Self {
        let mut swaps = Vec::new();
        let mut add = |path: String, target: PathBuf| {
            let (dir, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let lure = swaps.len().to_string();
            symlink(target, lures.join(&lure)).unwrap();
            swaps.push(Swap {
                dir: Path::new(".").join(dir),
                name: name.into(),
                lure: lure.into(),
            });
        };
        for top in 0..6 {
            for (depth, dir) in ["", "/a", "/a/b", "/a/b/c"].into_iter().enumerate() {
                let target = outside.join(dir.trim_start_matches('/'));
                let path = format!("top {top}{dir}");
                add(format!("{path}/file"), target.join("secret"));
                if depth == top % 4 || top > 3 {
                    add(path, target);
                }
            }
        }
        let open = |path: &Path| rustix::fs::open(path, OPEN_DIR, Mode::empty()).unwrap();
        Self {
            root: open(root),
            lures: open(lures),
            swaps,
        }
    }

    fn exchange(&self, swap: &Swap) -> bool {
        let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let dir = openat2(&self.root, &swap.dir, OPEN_DIR, Mode::empty(), resolve);
        let flags = RenameFlags::EXCHANGE;
        dir.is_ok_and(|dir| renameat_with(&dir, &swap.name, &self.lures, &swap.lure, flags).is_ok())
    }

    /// Exchanges names and puts them back, over and over, until told to stop. Names that are not there (any more) are
    /// skipped. Returns how many exchanges worked.
    fn attack(&self, seed: u64, stop: &AtomicBool) -> u64 {
        let (mut rng, mut done) = (Rng::new(seed), 0);
        while !stop.load(SeqCst) {
            let swap = rng.pick(&self.swaps);
            if self.exchange(swap) {
                // Sometimes at once, sometimes after a while that another step of a sync fits into.
                for _ in 0..rng.below(3000) {
                    std::hint::spin_loop();
                }
                done += 1 + u64::from(self.exchange(swap));
            }
        }
        done
    }
}

/// Runs with all engines, in turns, while attackers are at it; returns the numbers of swaps and runs.
fn besieged(
    attacker: &Attacker,
    mut run: impl FnMut(&'static str) -> Outcome,
) -> (u64, BTreeMap<i32, u64>) {
    let (stop, mut codes) = (AtomicBool::new(false), BTreeMap::new());
    let until = Instant::now() + attack_time();
    let done = thread::scope(|scope| {
        let stop_at_end = StopOnDrop(&stop);
        let attackers = [1, 2].map(|seed| {
            let stop = &stop;
            scope.spawn(move || attacker.attack(seed, stop))
        });
        while Instant::now() < until {
            for engine in engines() {
                let ended = run(engine);
                let code = ended.code().unwrap_or(-1);
                let allowed = [0, 23, 24].contains(&code);
                assert!(allowed, "{}", ended.describe());
                *codes.entry(code).or_default() += 1;
            }
        }
        drop(stop_at_end);
        attackers
            .map(|attacker| attacker.join().unwrap())
            .iter()
            .sum()
    });
    (done, codes)
}

/// A test that fails must not leave its attackers at work: the scope would wait for them.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

fn assert_nothing_leaked(dst: &Path) {
    for (path, state) in snapshot(dst) {
        assert_ne!(
            state.uid,
            4_000_000,
            "{} is the canary's",
            path.escape_ascii()
        );
        let file = dst.join(std::str::from_utf8(&path).unwrap());
        let content = match state.kind {
            rustix::fs::FileType::RegularFile => fs::read(&file).unwrap(),
            rustix::fs::FileType::Symlink => state.target,
            _ => continue,
        };
        let leaked = content.windows(SECRET.len()).any(|window| window == SECRET);
        assert!(!leaked, "{} has the secret", path.escape_ascii());
    }
}

#[test]
fn a_source_whose_directories_become_links_leaks_nothing() {
    let pair = Pair::new();
    let (outside, lure) = (pair.scratch.dir("outside"), pair.scratch.dir("lure"));
    canary(&outside);
    playground("mine", 0).write_to(&pair.src);
    let (before, stamped) = (snapshot(&outside), stamps(&outside));
    let attacker = Attacker::new(&pair.src, &lure, &outside);
    let mut runs = 0;
    let (swapped, codes) = besieged(&attacker, |engine| {
        runs += 1;
        if runs % 4 == 0 {
            // So that there is something to read again.
            remove_tree(&pair.dst);
            fs::create_dir(&pair.dst).unwrap();
        }
        let ended = pair.sync(engine, &["--delete"]);
        assert_nothing_leaked(&pair.dst);
        ended
    });
    tell("source", swapped, &codes);
    assert_same(&before, &snapshot(&outside), "outside before", "outside");
    assert_untouched(&stamped, &outside);
}

#[test]
fn a_destination_whose_directories_become_links_is_not_left() {
    let pair = Pair::new();
    let (outside, lure) = (pair.scratch.dir("outside"), pair.scratch.dir("lure"));
    canary(&outside);
    let [one, two] = ["one", "two"].map(|name| pair.scratch.dir(name));
    playground("one", 0).write_to(&one);
    // Other contents, modes and owners, and fewer names: all that a sync does to a destination.
    let mut tree = playground("two", 1000);
    for path in ["top 0/a/other", "top 4/a/b/other", "top 5/third"] {
        tree.remove(path.as_bytes());
    }
    for (path, node) in &mut tree.nodes {
        if path.ends_with(b"third") || path.ends_with(b"/b") {
            node.mode ^= 0o050;
            node.owner = is_root().then_some((7, 8));
        }
    }
    tree.write_to(&two);
    let (before, stamped) = (snapshot(&outside), stamps(&outside));
    sync("auto", &[], &one, &pair.dst).exits(0);
    let attacker = Attacker::new(&pair.dst, &lure, &outside);
    let mut runs = 0_usize;
    let (swapped, codes) = besieged(&attacker, |engine| {
        runs += 1;
        let src = if runs.is_multiple_of(2) { &one } else { &two };
        let modes = [
            "--write-mode",
            if runs.is_multiple_of(3) {
                "direct"
            } else {
                "atomic"
            },
        ];
        let options = [&["--delete"], &modes[..]].concat();
        sync(engine, &options, src, &pair.dst)
    });
    tell("destination", swapped, &codes);
    assert_same(&before, &snapshot(&outside), "outside before", "outside");
    assert_untouched(&stamped, &outside);
    // When the attack is over, the destination is what it should be.
    sync("auto", &["--delete"], &one, &pair.dst).exits(0);
    assert_equal_trees(&one, &pair.dst);
}

/// Names that are hard links to files outside: what is copied over such a name, or repaired under it, must not reach them.
/// (Metadata of the shared inode is the attacker's own to lose: rsync repairs it in place too.)
#[test]
fn contents_are_never_written_through_hard_links() {
    let pair = Pair::new();
    let outside = pair.scratch.dir("outside");
    canary(&outside);
    playground("mine", 0).write_to(&pair.src);
    let before = snapshot(&outside);
    let (stop, until) = (AtomicBool::new(false), Instant::now() + attack_time() / 4);
    let mut runs = BTreeMap::new();
    let linked = thread::scope(|scope| {
        let stop_at_end = StopOnDrop(&stop);
        let attacker = scope.spawn(|| {
            let mut linked = 0;
            while !stop.load(SeqCst) {
                for top in 0..6 {
                    let file = pair.dst.join(format!("top {top}/a/file"));
                    let _ = fs::remove_file(&file);
                    linked += u64::from(fs::hard_link(outside.join("secret"), &file).is_ok());
                }
            }
            linked
        });
        while Instant::now() < until {
            for engine in engines() {
                let options = [
                    "--delete",
                    "--no-perms",
                    "--no-owner",
                    "--no-group",
                    "--no-times",
                ];
                let code = pair.sync(engine, &[&options[..], &["-c"]].concat()).code();
                *runs.entry(code.unwrap()).or_default() += 1;
            }
        }
        drop(stop_at_end);
        attacker.join().unwrap()
    });
    tell("hard links", linked, &runs);
    let contents = |snapshot: &support::snap::Snapshot| -> Vec<u64> {
        snapshot.values().map(|state| state.content).collect()
    };
    assert_eq!(contents(&before), contents(&snapshot(&outside)));
}

fn tell(side: &str, swaps: u64, codes: &BTreeMap<i32, u64>) {
    let runs = codes.values().sum();
    eprintln!("{side}: {swaps} swaps during {runs} runs, exit codes {codes:?}");
    count(&format!("race attempts, {side}"), swaps);
    count(&format!("raced runs, {side}"), runs);
    assert!(swaps > 1000, "the attack did not take place");
}

/// Contents that tell whether they are whole: their length, then a number over and over.
fn sealed(number: u64, len: usize) -> Vec<u8> {
    let mut content = (len as u64).to_le_bytes().to_vec();
    content.extend(number.to_le_bytes().repeat(len / 8));
    content.truncate(len);
    content
}

fn is_whole(content: &[u8]) -> bool {
    let Some((len, rest)) = content.split_first_chunk::<8>() else {
        return false;
    };
    let Some(number) = rest.first_chunk::<8>() else {
        return false;
    };
    let block = number.repeat(8192);
    u64::from_le_bytes(*len) == content.len() as u64
        && rest
            .chunks(block.len())
            .all(|part| *part == block[..part.len()])
}

fn readers_never_see_a_partial_file(engine: &str) {
    const ROUNDS: u64 = 6;
    let pair = Pair::new();
    let sizes = [("small", 4000), ("medium", 3 << 20), ("large", 66 << 20)];
    let write = |number: u64| {
        for (at, (name, size)) in sizes.iter().enumerate() {
            let size = size + usize::try_from(number).unwrap() * 100 + at;
            let path = pair.src.join(name);
            fs::write(&path, sealed(number + 1, size)).unwrap();
            set_mtime(&path, LONG_AGO.plus(number.cast_signed()));
        }
    };
    write(0);
    pair.sync(engine, &[]).exits(0);
    let (stop, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let stop_at_end = StopOnDrop(&stop);
        let reader = scope.spawn(|| {
            let mut rng = Rng::new(1);
            while !stop.load(SeqCst) {
                // The large one costs a while; it is looked at now and then.
                let at = if rng.chance(3) { 2 } else { rng.below(2) };
                let (name, _) = sizes[at];
                let content = fs::read(pair.dst.join(name)).expect("a final name is always there");
                assert!(
                    is_whole(&content),
                    "{name} is partial: {} bytes",
                    content.len()
                );
                looks.fetch_add(1, SeqCst);
            }
        });
        for number in 1..=ROUNDS {
            write(number);
            pair.sync(engine, &[]).exits(0);
        }
        drop(stop_at_end);
        reader.join().unwrap();
    });
    assert_equal_trees(&pair.src, &pair.dst);
    count(
        "looks at final names while they were replaced",
        looks.load(SeqCst),
    );
}

/// Does `work` over and over while the source is synced, several times; then, in quiet, both sides become equal.
fn synced_while(engine: &str, pair: &Pair, work: impl Fn(&mut Rng) + Sync) {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop_at_end = StopOnDrop(&stop);
        let (work, stop) = (&work, &stop);
        scope.spawn(move || {
            let mut rng = Rng::new(7);
            while !stop.load(SeqCst) {
                work(&mut rng);
            }
        });
        for round in 0..6 {
            let options: &[&str] = match round % 3 {
                0 => &["--delete"],
                1 => &["--delete-after"],
                _ => &["--delete", "--write-mode", "direct"],
            };
            let ended = pair.sync(engine, options);
            let expected = matches!(ended.code(), Some(0 | 23 | 24));
            assert!(expected, "{}", ended.describe());
            assert!(!ended.err().contains("panicked"), "{}", ended.describe());
        }
        drop(stop_at_end);
    });
    pair.sync(engine, &["--delete", "-c"]).exits(0);
    assert_equal_trees(&pair.src, &pair.dst);
}

fn files_that_change_while_they_are_copied(engine: &str) {
    let pair = Pair::new();
    let mut tree = Tree::new();
    for number in 0..60 {
        tree.file(
            format!("dir {}/file {number}", number % 4),
            vec![b'x'; 150_000],
        );
    }
    tree.write_to(&pair.src);
    synced_while(engine, &pair, |rng| {
        let number = rng.below(60);
        let path = pair.src.join(format!("dir {}/file {number}", number % 4));
        let spare = pair.src.join(format!("dir {}/spare", number % 4));
        change_something(&path, &spare, rng);
    });
}

/// Grows, shrinks, replaces or removes what is under a name, or makes something else of it.
fn change_something(path: &Path, spare: &Path, rng: &mut Rng) {
    let content = rng.bytes(1000);
    // Any of these may find that something else is there: then nothing happens.
    let _ = match rng.below(9) {
        0 => open_to_write()
            .append(true)
            .open(path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, &content)),
        1 => open_to_write()
            .open(path)
            .and_then(|file| file.set_len(rng.next() % 200_000)),
        2 => fs::write(spare, content.repeat(150)).and_then(|()| fs::rename(spare, path)),
        3 => fs::remove_file(path),
        4 => {
            let _ = fs::remove_file(path);
            fs::create_dir(path).and_then(|()| fs::write(path.join("child"), &content))
        }
        5 => {
            let _ = fs::remove_file(path);
            symlink("/etc/hostname", path)
        }
        6 => {
            let _ = fs::remove_file(path);
            let made = nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRUSR);
            made.map_err(std::io::Error::from)
        }
        7 => fs::remove_dir_all(path),
        _ => {
            let _ = fs::remove_file(path);
            let _ = fs::remove_dir_all(path);
            fs::write(spare, content.repeat(150)).and_then(|()| fs::rename(spare, path))
        }
    };
}

/// Never waits for a reader of a fifo that is there by now.
fn open_to_write() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    options.write(true).custom_flags(flags);
    options
}

fn directories_that_move_while_they_are_crawled(engine: &str) {
    let pair = Pair::new();
    let mut tree = Tree::new();
    for top in 0..5 {
        for dir in 0..8 {
            for file in 0..10 {
                tree.file(
                    format!("{top}/{dir}/deep/{file}"),
                    format!("{top} {dir} {file}"),
                );
            }
            tree.add(format!("{top}/{dir}/fifo"), Kind::Fifo);
        }
    }
    tree.write_to(&pair.src);
    synced_while(engine, &pair, |rng| {
        let dir = |rng: &mut Rng| {
            let (top, dir) = (rng.below(5), rng.below(8));
            let deep = ["", "/deep"][rng.below(2)];
            pair.src.join(format!("{top}/{dir}{deep}"))
        };
        // Into another directory, another name, or exchanged with another one.
        let (from, to) = (dir(rng), dir(rng));
        let flags = *rng.pick(&[RenameFlags::EXCHANGE, RenameFlags::NOREPLACE]);
        let _ = renameat_with(CWD, &from, CWD, &to, flags);
        let aside = pair.src.join(format!("aside {}", rng.below(3)));
        let _ = renameat_with(CWD, &from, CWD, &aside, flags);
        let _ = renameat_with(CWD, &aside, CWD, &from, flags);
    });
}
