//! `-c` with servers whose ETags tell what objects have in them.

use std::fs;
use std::path::PathBuf;

use crate::server::Request;
use crate::support::{self, Outcome};
use crate::{POSIX, Scene, noise};

const BUCKET: &str = "s3://bucket/p";
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
        let seen = self.scene.server.seen();
        let is_get = |request: &&Request| matches!(request, Request::Get(_));
        seen.iter().filter(is_get).count()
    }
}

#[test]
fn equal_objects_are_not_read() {
    let copied = Copied::new();
    let told = copied.up(&["-c"]);
    assert_eq!(told.exits(0).count("entries_equal"), 3);
    assert_eq!(told.count("files_copied"), 0);
    assert_eq!(copied.gets(), 0);

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

    copied.up_to("s3://bucket/q", &[]).exits(0);
    let places = ["sync", BUCKET, "s3://bucket/q"];
    let across = support::run(copied.scene.command(&places, &["-c", "--json"]));
    assert_eq!(across.exits(0).count("files_copied"), 0);
    assert_eq!(copied.gets(), 0);
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

/// Its parts are of several sizes, or its server does not tell.
#[test]
fn parts_that_nobody_knows_are_read() {
    let copied = Copied::new();
    copied
        .scene
        .server
        .put("p/large", &noise(LARGE_BYTES), POSIX);
    let etag = format!("{}-2", "0123456789abcdef".repeat(2));
    copied.scene.server.retag("p/large", &etag);
    copied.up(&["-c"]).exits(0);
    assert!(copied.gets() > 0);
    let body = copied.scene.server.body("p/large").unwrap();
    assert!(body == noise(LARGE_BYTES));
}
