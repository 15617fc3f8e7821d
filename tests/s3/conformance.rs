//! The same runs on each pair of locations, with the same outcome: directories, buckets of the tests' own server, and of one that
//! others wrote.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::server::Server;
use crate::support::tree::{Time, set_mtime};
use crate::support::{self, Outcome, Scratch, skip};
use crate::{bucket_command, noise};

/// Whole seconds: all can tell those.
const MTIME: i64 = 1_600_000_000;

/// Nobody checks it, and one server wants it.
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=key/20200101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0\r\n";

/// Where a tree is.
enum Location {
    Dir(PathBuf),
    /// What the keys of a tree begin with.
    Prefix(&'static str),
}

/// A server that took its own time to start, and goes with this.
struct Moto {
    child: Child,
    address: String,
}

impl Moto {
    /// Nothing, said to be skipped, when it is not installed.
    fn start() -> Option<Self> {
        let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/moto/bin/moto_server");
        let program = if own.exists() {
            own.into_os_string()
        } else if support::command_exists("moto_server") {
            "moto_server".into()
        } else {
            skip("moto_server is not installed");
            return None;
        };
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let child = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let moto = Self {
            child,
            address: address.to_string(),
        };
        let patience = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(&moto.address).is_err() {
            assert!(Instant::now() < patience, "moto_server does not listen");
            thread::sleep(Duration::from_millis(50));
        }
        Some(moto)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request by hand: status and body.
fn http(address: &str, method: &str, target: &str, headers: &str, body: &[u8]) -> (u16, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n{SIGNED}{headers}\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body).unwrap();
    let mut reader = BufReader::new(stream);
    let (mut status, mut length) = (0, None);
    for line in reader.by_ref().lines() {
        let line = line.unwrap().to_lowercase();
        if line.is_empty() {
            break;
        }
        if status == 0 {
            status = line[9..12].parse().unwrap();
        }
        assert_ne!(line, "transfer-encoding: chunked", "nobody reads that here");
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = Some(value.parse().unwrap());
        }
    }
    let mut answer = Vec::new();
    let answered = reader
        .take(length.unwrap_or(u64::MAX))
        .read_to_end(&mut answer);
    answered.unwrap();
    (status, answer)
}

/// A pair of locations.
struct Pair {
    address: String,
    scratch: Scratch,
    source: Location,
    dest: Location,
}

impl Pair {
    fn new(address: &str, from_bucket: bool, to_bucket: bool) -> Self {
        let scratch = Scratch::new();
        let location = |is_bucket, name: &'static str| {
            if is_bucket {
                Location::Prefix(name)
            } else {
                Location::Dir(scratch.dir(name))
            }
        };
        let (source, dest) = (location(from_bucket, "from"), location(to_bucket, "to"));
        let pair = Self {
            address: address.to_owned(),
            scratch,
            source,
            dest,
        };
        for location in [&pair.source, &pair.dest] {
            for path in pair.read(location).into_keys() {
                pair.remove(location, &path);
            }
        }
        pair
    }

    fn key(prefix: &str, path: &str) -> String {
        format!("/bucket/{prefix}/{}", path.replace(' ', "%20"))
    }

    fn write(&self, location: &Location, path: &str, contents: &[u8], mtime: i64) {
        match location {
            Location::Dir(root) => {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(&path, contents).unwrap();
                set_mtime(
                    &path,
                    Time {
                        sec: mtime,
                        nsec: 0,
                    },
                );
            }
            Location::Prefix(prefix) => {
                let headers = format!("x-amz-meta-mtime: {mtime}\r\n");
                let key = Self::key(prefix, path);
                let (status, _) = http(&self.address, "PUT", &key, &headers, contents);
                assert_eq!(status, 200, "{path}");
            }
        }
    }

    fn remove(&self, location: &Location, path: &str) {
        match location {
            Location::Dir(root) => fs::remove_file(root.join(path)).unwrap(),
            Location::Prefix(prefix) => {
                http(&self.address, "DELETE", &Self::key(prefix, path), "", b"");
            }
        }
    }

    /// All files with their contents.
    fn read(&self, location: &Location) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        match location {
            Location::Dir(root) => {
                let mut paths = std::collections::BTreeSet::new();
                crate::collect(root, root, &mut paths);
                for path in paths {
                    let contents = fs::read(root.join(&path)).unwrap();
                    files.insert(path, contents);
                }
            }
            Location::Prefix(prefix) => {
                let target = format!("/bucket?list-type=2&prefix={prefix}/");
                let (_, body) = http(&self.address, "GET", &target, "", b"");
                let body = String::from_utf8(body).unwrap();
                for key in body.split("<Key>").skip(1) {
                    let key = key.split("</Key>").next().unwrap().replace('+', " ");
                    let path = key.replace("%20", " ").replace("%2F", "/");
                    let path = path.strip_prefix(&format!("{prefix}/")).unwrap().to_owned();
                    let (status, contents) =
                        http(&self.address, "GET", &Self::key(prefix, &path), "", b"");
                    assert_eq!(status, 200, "{path}");
                    files.insert(path, contents);
                }
            }
        }
        files
    }

    fn run(&self, command: &str, options: &[&str]) -> Outcome {
        let place = |location: &Location| match location {
            Location::Dir(path) => path.to_str().unwrap().to_owned(),
            Location::Prefix(prefix) => format!("s3://bucket/{prefix}"),
        };
        let (source, dest) = (place(&self.source), place(&self.dest));
        let home = self.scratch.path();
        let mut ringsync = bucket_command(home, &[command, &source, &dest], options);
        let places = [&self.source, &self.dest];
        if places
            .iter()
            .any(|place| matches!(place, Location::Prefix(_)))
        {
            ringsync.args(["--endpoint-url", &format!("http://{}", self.address)]);
        }
        support::run(ringsync)
    }

    fn sync(&self, options: &[&str]) -> Outcome {
        self.run("sync", &[&["--json"], options].concat())
    }

    fn assert_equal(&self, context: &Outcome) {
        let (source, dest) = (self.read(&self.source), self.read(&self.dest));
        let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&source), names(&dest), "{}", context.describe());
        for (path, contents) in source {
            assert!(contents == dest[&path], "{path}: {}", context.describe());
        }
    }
}

/// What holds of all pairs.
fn conforms(pair: &Pair) {
    let (source, dest) = (&pair.source, &pair.dest);
    for (at, path) in (0..).zip(["a", "dir/b", "dir/deep/c", "empty", "sp ace"]) {
        let contents = if path == "empty" { "" } else { path };
        pair.write(source, path, contents.as_bytes(), MTIME + at);
    }
    pair.write(source, "large", &noise(9 << 20), MTIME);
    let first = pair.sync(&[]);
    assert_eq!(first.exits(0).count("files_copied"), 6);
    assert_eq!(first.count("entries_found"), 8);
    pair.assert_equal(&first);

    let again = pair.sync(&["--delete"]);
    assert_eq!(
        again.exits(0).count("files_copied"),
        0,
        "{}",
        again.describe()
    );
    assert_eq!(again.count("entries_equal"), 8, "{}", again.describe());
    assert_eq!(again.count("entries_deleted"), 0);
    pair.run("check", &[]).exits(0);

    // Of the same size, and of another; one less, and one more on each side.
    pair.write(source, "a", b"b", MTIME + 100);
    pair.write(source, "dir/b", b"longer than before", MTIME + 101);
    pair.remove(source, "dir/deep/c");
    pair.write(source, "dir/deep/d", b"new", MTIME);
    pair.write(dest, "dir/extra", b"extra", MTIME);
    pair.run("check", &[]).exits(23);
    let before = pair.read(dest);
    let dry = pair.sync(&["-n", "--delete"]);
    assert_eq!(pair.read(dest), before, "{}", dry.describe());
    let changed = pair.sync(&["--delete"]);
    for told in [&dry, &changed] {
        assert_eq!(
            told.exits(0).count("files_copied"),
            3,
            "{}",
            told.describe()
        );
        assert_eq!(told.count("entries_deleted"), 2, "{}", told.describe());
    }
    pair.assert_equal(&changed);
    pair.run("check", &["-c"]).exits(0);

    // What only its contents tell.
    pair.write(dest, "a", b"c", MTIME + 100);
    assert_eq!(pair.sync(&[]).exits(0).count("files_copied"), 0);
    pair.run("check", &["-c"]).exits(23);
    assert_eq!(pair.sync(&["-c"]).exits(0).count("files_copied"), 1);
    pair.assert_equal(&changed);

    pair.write(source, "skip.tmp", b"temporary", MTIME);
    let filtered = pair.sync(&["--exclude", "*.tmp", "--delete"]);
    assert_eq!(filtered.exits(0).count("files_copied"), 0);
    assert_eq!(filtered.count("entries_excluded"), 1);
    assert!(!pair.read(dest).contains_key("skip.tmp"));
    let listed = pair.scratch.path().join("list");
    fs::write(&listed, "dir/deep\nskip.tmp\n").unwrap();
    pair.remove(dest, "dir/deep/d");
    let some = pair.sync(&["-r", "--files-from", listed.to_str().unwrap()]);
    assert_eq!(
        some.exits(0).count("files_copied"),
        2,
        "{}",
        some.describe()
    );
    pair.assert_equal(&some);
}

#[test]
fn directories_conform() {
    conforms(&Pair::new("", false, false));
}

#[test]
fn buckets_of_our_server_conform() {
    for (from, to) in [(false, true), (true, false), (true, true)] {
        let server = Server::start();
        let address = server.url().trim_start_matches("http://").to_owned();
        conforms(&Pair::new(&address, from, to));
    }
}

#[test]
fn buckets_of_another_server_conform() {
    let Some(moto) = Moto::start() else { return };
    let (status, _) = http(&moto.address, "PUT", "/bucket", "", b"");
    assert_eq!(status, 200);
    for (from, to) in [(false, true), (true, false), (true, true)] {
        conforms(&Pair::new(&moto.address, from, to));
    }
}
