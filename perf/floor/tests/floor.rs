//! The floor programs together: a tree made twice is the same tree, and a copy equals its source.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const MKTREE: &str = env!("CARGO_BIN_EXE_mktree");
const CHTREE: &str = env!("CARGO_BIN_EXE_chtree");
const SCAN: &str = env!("CARGO_BIN_EXE_floor-scan");
const COPY: &str = env!("CARGO_BIN_EXE_floor-copy");
const COMPARE: &str = env!("CARGO_BIN_EXE_floor-compare");

/// A directory of this test's own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("scratch directory");
        Self(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .output()
        .expect("the program starts")
}

fn run_ok(program: &str, args: &[&str]) -> String {
    let output = run(program, args);
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).expect("plain text")
}

fn mktree(dir: &str, shape: &str, threads: &str) {
    let sizes = ["--files", "3000", "--dirs", "100", "--size", "300"];
    run_ok(
        MKTREE,
        &[
            &[dir, "--shape", shape, "--seed", "9", "--threads", threads],
            &sizes[..],
        ]
        .concat(),
    );
}

fn same_contents(a: &str, b: &str) -> bool {
    Command::new("diff")
        .args(["-r", "--no-dereference", a, b])
        .status()
        .expect("diff")
        .success()
}

#[test]
fn same_seed_same_tree() {
    let scratch = Scratch::new("same_seed");
    for shape in ["flat", "deep", "giant", "small", "mixed", "links", "sparse"] {
        let (one, two) = (
            scratch.path(&format!("{shape}1")),
            scratch.path(&format!("{shape}2")),
        );
        mktree(&one, shape, "1");
        mktree(&two, shape, "3");
        run_ok(COMPARE, &[&one, &two]);
        assert!(same_contents(&one, &two), "{shape}");
    }
}

#[test]
fn copies_equal_their_source() {
    let scratch = Scratch::new("copies");
    let src = scratch.path("src");
    mktree(&src, "mixed", "2");
    for mode in ["direct", "atomic"] {
        let dst = scratch.path(mode);
        run_ok(COPY, &[&src, &dst, mode, "3"]);
        assert!(run_ok(COMPARE, &[&src, &dst]).starts_with("3100 compared, 0 missing, 0 extra"));
        assert!(same_contents(&src, &dst), "{mode}");
        assert_eq!(modes(Path::new(&src)), modes(Path::new(&dst)), "{mode}");
    }
    assert!(run_ok(SCAN, &[&src, "2"]).starts_with("3100 entries, 100 dirs, "));
    assert_eq!(
        run(COPY, &[&src, &src, "direct"]).status.code(),
        Some(3),
        "DST is not empty"
    );
}

fn modes(dir: &Path) -> Vec<(PathBuf, u32)> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut found = Vec::new();
    let mut pending = vec![dir.to_owned()];
    while let Some(next) = pending.pop() {
        for entry in fs::read_dir(next).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = path.symlink_metadata().expect("metadata");
            found.push((
                path.strip_prefix(dir).expect("below").to_owned(),
                meta.permissions().mode(),
            ));
            if meta.is_dir() {
                pending.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn compare_tells_what_differs() {
    let scratch = Scratch::new("differs");
    let (src, dst) = (scratch.path("src"), scratch.path("dst"));
    mktree(&src, "small", "2");
    run_ok(COPY, &[&src, &dst, "direct"]);
    let file = Path::new(&dst).join("d00000/d00030/f00000900");
    assert!(file.exists());
    let status = || run(COMPARE, &[&src, &dst]).status.code();
    assert_eq!(status(), Some(0));
    let contents = fs::read(&file).expect("a file");
    fs::write(&file, &contents).expect("same contents, new mtime");
    assert_eq!(status(), Some(1));
    fs::write(&file, "shorter").expect("other contents");
    assert_eq!(status(), Some(2));
    fs::remove_file(&file).expect("a file");
    assert_eq!(status(), Some(2));
}

#[test]
fn links_are_links_and_holes_are_holes() {
    let scratch = Scratch::new("links_and_holes");
    let (links, holes) = (scratch.path("links"), scratch.path("holes"));
    run_ok(
        MKTREE,
        &[&links, "--shape", "links", "--files", "8", "--dirs", "4"],
    );
    let file = Path::new(&links).join("d00000").join("f00000000");
    assert_eq!(fs::metadata(file).expect("the first file").nlink(), 4);
    let size = ["--size", "4M", "--exact", "--dirs", "0", "--files", "1"];
    run_ok(
        MKTREE,
        &[&[&holes, "--shape", "sparse"], &size[..]].concat(),
    );
    let meta = fs::metadata(Path::new(&holes).join("f00000000")).expect("the file");
    assert_eq!(meta.size(), 4 << 20);
    assert!(meta.blocks() * 512 < meta.size() / 4, "{meta:?}");
}

#[test]
fn changes_change_what_they_say() {
    let scratch = Scratch::new("changes");
    let (old, new) = (scratch.path("old"), scratch.path("new"));
    mktree(&old, "small", "2");
    mktree(&new, "small", "2");
    assert!(run_ok(CHTREE, &[&new, "modes", "100"]).starts_with("3000 "));
    run_ok(COMPARE, &[&old, &new]);
    let changed = run_ok(CHTREE, &[&new, "contents", "10", "3"]);
    let changed: u64 = changed
        .split(' ')
        .next()
        .and_then(|n| n.parse().ok())
        .expect("a count");
    assert!((200..400).contains(&changed), "{changed}");
    assert_eq!(
        run(COMPARE, &[&old, &new]).status.code(),
        Some(1),
        "times differ"
    );
    assert!(!same_contents(&old, &new));
    run_ok(CHTREE, &[&new, "extras", "100"]);
    assert!(run_ok(SCAN, &[&new]).starts_with("6100 "));
}
