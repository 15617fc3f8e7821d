//! `-c` with servers whose ETags tell what objects have in them.

use std::fs;
use std::path::PathBuf;

use crate::server::Request;
use crate::support::{self, Outcome};
use crate::{POSIX, Scene, heads, noise};

const BUCKET: &str = "s3://bucket/p";
/// An MD5, and what stands for none.
const SUM_OF_NOTHING: &str = "d41d8cd98f00b204e9800998ecf8427e";
const NO_SUM: &str = "00000000000000000000000000000000-1";
const LARGE_BYTES: usize = 20 << 20;

/// A tree and its copy in a bucket, the large file in parts.
struct Copied {
    scene: Scene,
    src: PathBuf,
}

impl Copied {
    fn new() -> Self {
        let scene = Scene::new();
        scene.server.sum();
        let src = scene.scratch.dir("src");
        fs::write(src.join("empty"), "").unwrap();
        fs::write(src.join("small"), "small").unwrap();
        fs::write(src.join("large"), noise(LARGE_BYTES)).unwrap();
        let copied = Self { scene, src };
        copied.up(&[]).exits(0);
        copied.scene.server.seen();
        copied
    }

    fn up(&self, options: &[&str]) -> Outcome {
        self.up_to(BUCKET, options)
    }

    fn up_to(&self, url: &str, options: &[&str]) -> Outcome {
        let places = ["sync", self.src.to_str().unwrap(), url];
        let options = [options, &["--json", "--part-size", "8M"]].concat();
        support::run(self.scene.command(&places, &options))
    }

    /// Replaces a file's contents by others of the same length, and keeps its time.
    fn change(&self, name: &str) {
        let path = self.src.join(name);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let mut contents = fs::read(&path).unwrap();
        *contents.last_mut().unwrap() ^= 1;
        fs::write(&path, contents).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(modified).unwrap();
    }

    fn gets(&self) -> usize {
        self.asked().1
    }

    /// Requests since the last look: HEAD and GET.
    fn asked(&self) -> (usize, usize) {
        let seen = self.scene.server.seen();
        let is_get = |request: &&Request| matches!(request, Request::Get(_));
        (heads(&seen), seen.iter().filter(is_get).count())
    }
}

#[test]
fn equal_objects_are_not_read() {
    let copied = Copied::new();
    let told = copied.up(&["-c"]);
    assert_eq!(told.exits(0).count("entries_equal"), 3);
    assert_eq!(told.count("files_copied"), 0);
    // Each for its attributes, and the large one for its ETag and the size of its parts.
    assert_eq!(copied.asked(), (3 + 2, 0));

    let dst = copied.scene.dst.to_str().unwrap();
    let down = |options: &[&str]| {
        support::run(
            copied
                .scene
                .command(&["sync", BUCKET, dst], &[options, &["--json"]].concat()),
        )
    };
    down(&[]).exits(0);
    assert!(copied.gets() >= 3);
    assert_eq!(down(&["-c"]).exits(0).count("files_copied"), 0);
    assert_eq!(copied.gets(), 0);

    let across = |to| {
        copied.scene.server.seen();
        let told = support::run(
            copied
                .scene
                .command(&["sync", BUCKET, to], &["-c", "--json"]),
        );
        assert_eq!(told.exits(0).count("files_copied"), 0);
        copied.asked()
    };
    copied.up_to("s3://bucket/in parts too", &[]).exits(0);
    // Each for its attributes, those of the source for their ETags, the large one on both sides, and for its parts.
    let heads = 3 + 3 + 3 + 1 + 2;
    assert_eq!(across("s3://bucket/in parts too"), (heads, 0));
    let places = ["sync", BUCKET, "s3://bucket/as a whole"];
    support::run(copied.scene.command(&places, &[])).exits(0);
    let (_, gets) = across("s3://bucket/as a whole");
    assert_eq!(gets, 2, "the large one, in two parts");
}

#[test]
fn what_differs_is_found_and_copied() {
    let copied = Copied::new();
    copied.change("small");
    copied.change("large");
    assert_eq!(copied.up(&[]).exits(0).count("files_copied"), 0);
    let told = copied.up(&["-c", "-n"]);
    assert_eq!(told.exits(0).count("files_copied"), 2);
    assert_eq!(copied.up(&["-c"]).exits(0).count("files_copied"), 2);
    for name in ["small", "large"] {
        let body = copied.scene.server.body(&format!("p/{name}")).unwrap();
        assert!(body == fs::read(copied.src.join(name)).unwrap(), "{name}");
    }
}

/// Of an object that is encrypted with somebody's own key, nobody can tell that its ETag is no MD5 of what it has in it.
#[test]
fn an_etag_that_is_another_says_nothing() {
    let copied = Copied::new();
    copied
        .scene
        .server
        .retag("p/small", &"0123456789abcdef".repeat(2));
    let etag = format!("{}-3", "0123456789abcdef".repeat(2));
    copied.scene.server.retag("p/large", &etag);
    assert_eq!(copied.up(&["-c"]).exits(0).count("files_copied"), 0);
    assert!(copied.gets() >= 2);
}

/// Its ETag may look like an MD5, and is none.
#[test]
fn what_is_encrypted_is_read() {
    let copied = Copied::new();
    copied.scene.server.encrypt("p/large");
    assert_eq!(copied.up(&["-c"]).exits(0).count("files_copied"), 0);
    assert_eq!(copied.gets(), 2);
}

/// Put together from parts of several sizes.
#[test]
fn parts_of_other_sizes_are_read() {
    let copied = Copied::new();
    let contents = fs::read(copied.src.join("large")).unwrap();
    let parts = [&contents[..6 << 20], &contents[6 << 20..]];
    copied.scene.server.put_in_parts("p/large", &parts);
    assert_eq!(copied.up(&["-c"]).exits(0).count("files_copied"), 0);
    assert_eq!(copied.gets(), 2, "all of it");
}

/// Some servers have one ETag for all that they did not write themselves.
#[test]
fn placeholders_prove_nothing() {
    let copied = Copied::new();
    copied.up_to("s3://bucket/q", &[]).exits(0);
    let server = &copied.scene.server;
    for (name, etag) in [("small", SUM_OF_NOTHING), ("large", NO_SUM)] {
        copied.change(name);
        let key = format!("p/{name}");
        server.put(&key, &fs::read(copied.src.join(name)).unwrap(), POSIX);
        server.retag(&key, etag);
        server.retag(&format!("q/{name}"), etag);
    }
    let places = ["check", BUCKET, "s3://bucket/q"];
    let options = [
        "-c",
        "--no-times",
        "--no-perms",
        "--no-owner",
        "--no-group",
        "--json",
    ];
    let told = support::run(copied.scene.command(&places, &options));
    assert_eq!(told.exits(23).count("entries_differing"), 2);
}

/// They look at what a run does, and change nothing of it.
#[test]
fn runs_with_limits_do_not_read_either() {
    let copied = Copied::new();
    for limits in [&["--bwlimit", "1G"][..], &["--timeout", "60"]] {
        copied.up(&[&["-c"], limits].concat()).exits(0);
        assert_eq!(copied.gets(), 0, "{limits:?}");
    }
}
