//! Buckets as sources.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::server::{Fault, Habit, MODIFIED, Request};
use crate::support::is_root;
use crate::support::rng::Rng;
use crate::{POSIX, RCLONE, Scene, heads, noise};

#[test]
fn a_bucket_becomes_a_tree() {
    let scene = Scene::new();
    let names = [
        "plain",
        "sp ace",
        "pl+us",
        "per%20cent",
        "new\nline",
        "ümläut/日本",
        "deep/er/and/deeper",
        "empty",
        "q?m=1&x",
    ];
    for name in names {
        let body = if name == "empty" { "" } else { name };
        scene
            .server
            .put(&format!("p/{name}"), body.as_bytes(), RCLONE);
    }
    scene.server.put("p/marked/", b"", &[]);
    scene.server.put("other", b"not below the prefix", &[]);
    scene.server.put("px", b"neither", &[]);
    scene.sync(&[]).exits(0);
    assert_eq!(scene.files(), names.map(str::to_owned).into());
    for name in names {
        let body = if name == "empty" { "" } else { name };
        assert_eq!(scene.read(name), body.as_bytes(), "{name}");
        let meta = fs::metadata(scene.dst.join(name)).unwrap();
        assert_eq!(
            (meta.mtime(), meta.mtime_nsec()),
            (1_600_000_000, 250_000_000),
            "{name}"
        );
    }
    assert!(scene.dst.join("marked").is_dir());

    // Nothing is left to do; what is added goes with --delete alone.
    let again = scene.sync(&["-i"]);
    assert!(
        again.exits(0).out().contains("0 files copied"),
        "{}",
        again.describe()
    );
    scene.run("check", "s3://bucket/p", &[]).exits(0);
    fs::write(scene.dst.join("mine"), b"mine").unwrap();
    scene.run("check", "s3://bucket/p", &[]).exits(23);
    scene.sync(&[]).exits(0);
    assert!(scene.dst.join("mine").exists());
    scene.server.remove("p/deep/er/and/deeper");
    scene.sync(&["--delete"]).exits(0);
    assert_eq!(scene.files().len(), names.len() - 1);
    assert!(!scene.dst.join("deep").exists());
}

#[test]
fn a_scan_counts_from_listings_alone() {
    let scene = Scene::new();
    for number in 0..25 {
        scene
            .server
            .put(&format!("p/{}/{number}", number % 3), &noise(100), POSIX);
    }
    scene.server.page(4);
    let scanned = scene.run("scan", "s3://bucket", &[]);
    assert!(
        scanned.exits(0).out().contains("25 files, 4 directories"),
        "{}",
        scanned.describe()
    );
    let seen = scene.server.seen();
    assert!(
        seen.iter().all(|asked| matches!(asked, Request::List(_))),
        "{seen:?}"
    );
}

#[test]
fn attributes_come_in_the_form_that_is_asked_for() {
    let scene = Scene::new();
    scene.server.put("p/posix", b"posix", POSIX);
    scene.server.put("p/rclone", b"rclone", RCLONE);
    scene.server.put("p/bare", b"bare", &[]);
    let looks = |name: &str| {
        let meta = fs::metadata(scene.dst.join(name)).unwrap();
        (
            meta.mtime(),
            meta.mtime_nsec(),
            meta.permissions().mode() & 0o7777,
        )
    };
    scene.sync(&[]).exits(0);
    let plain = 0o644;
    assert_eq!(looks("posix"), (1_600_000_000, 500_000_000, 0o640));
    assert_eq!(looks("rclone"), (1_600_000_000, 250_000_000, plain));
    assert_eq!(looks("bare"), (MODIFIED, 0, plain));
    // Modes that nobody knows stay what their owner made them.
    fs::set_permissions(scene.dst.join("bare"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(&scene.dst, fs::Permissions::from_mode(0o750)).unwrap();
    scene.server.seen();
    scene.sync(&[]).exits(0);
    assert_eq!(heads(&scene.server.seen()), 3);
    assert_eq!(looks("bare").2, 0o600);
    assert_eq!(
        fs::metadata(&scene.dst).unwrap().permissions().mode() & 0o777,
        0o750
    );

    scene.sync(&["--s3-metadata", "none"]).exits(0);
    assert_eq!(heads(&scene.server.seen()), 0, "the listing tells all");
    assert_eq!(looks("posix").0, MODIFIED);
    scene.sync(&["--s3-metadata", "rclone"]).exits(0);
    assert_eq!(looks("rclone").1, 250_000_000);
    assert_eq!(looks("posix").0, MODIFIED);

    let seen = [POSIX, &[("file-atime", "1500000000000000007ns")]].concat();
    scene.server.put("p/seen", b"seen", &seen);
    scene.sync(&[]).exits(0);
    let meta = fs::metadata(scene.dst.join("seen")).unwrap();
    assert_eq!((meta.atime(), meta.atime_nsec()), (1_500_000_000, 7));
    assert_eq!(looks("seen"), (1_600_000_000, 500_000_000, 0o640));
    fs::remove_file(scene.dst.join("seen")).unwrap();
    scene.sync(&["--verify"]).exits(0);
    let meta = fs::metadata(scene.dst.join("seen")).unwrap();
    assert_eq!(meta.atime(), 1_500_000_000, "it was read back before");
}

#[test]
fn keys_that_are_no_paths_are_told_and_never_written() {
    let scene = Scene::new();
    let long = format!("p/{}", "x".repeat(256));
    let odd = [
        "p/../evil",
        "p//evil",
        "p/./evil",
        "p/..",
        &long,
        "p/sub//evil",
    ];
    for key in odd {
        scene.server.put(key, b"evil", &[]);
    }
    scene.server.put("p/good", b"good", &[]);
    scene.server.put("p/sub/good", b"good", &[]);
    fs::create_dir_all(scene.dst.join("sub")).unwrap();
    fs::write(scene.dst.join("sub/extra"), b"extra").unwrap();
    let told = scene.sync(&["--delete"]);
    told.exits(23);
    assert_eq!(
        told.err().matches("no file can have the name").count(),
        odd.len(),
        "{}",
        told.describe()
    );
    let there = ["good", "sub/extra", "sub/good"];
    assert_eq!(
        scene.files(),
        there.map(str::to_owned).into(),
        "nothing goes where not all could be told"
    );
    assert!(!scene.scratch.path().join("evil").exists());
}

#[test]
fn an_object_and_a_directory_of_one_name_are_told() {
    let scene = Scene::new();
    scene.server.page(3);
    for key in [
        "p/a",
        "p/a!1",
        "p/a!2",
        "p/a!3",
        "p/a!4",
        "p/a/below",
        "p/b",
    ] {
        scene.server.put(key, key.as_bytes(), &[]);
    }
    let told = scene.sync(&[]);
    assert!(
        told.exits(23).err().contains("'p/a'") || told.err().contains("'a'"),
        "{}",
        told.describe()
    );
    assert_eq!(scene.read("a"), b"p/a");
    assert_eq!(scene.files().len(), 6);
}

#[test]
fn a_directory_that_an_object_hides_keeps_its_copy() {
    for keys in [3, 70_000] {
        let scene = Scene::new();
        scene.server.put("p/a/below", b"below", &[]);
        scene.sync(&["--s3-metadata", "none"]).exits(0);
        scene.server.put("p/a", b"", &[]);
        for number in 0..keys {
            scene.server.put(&format!("p/k{number:05}"), b"", &[]);
        }
        // Dry where a whole giant would be copied: what would go is told.
        let options = ["--delete", "-i", "--s3-metadata", "none"];
        let dry = ["-n"].repeat(usize::from(keys > 3));
        let told = scene.sync(&[&options[..], &dry].concat());
        told.exits(23);
        assert_eq!(told.out().matches("deleting").count(), 0, "{}", told.err());
        assert_eq!(scene.read("a/below"), b"below");
    }
}

#[test]
fn names_that_no_key_can_be_are_not_in_a_bucket() {
    let scene = Scene::new();
    scene.server.put("p/a", b"a", &[]);
    scene.sync(&[]).exits(0);
    let latin = scene.dst.join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    fs::write(&latin, b"coffee").unwrap();
    scene.run("check", "s3://bucket/p", &[]).exits(23);
    scene.sync(&["--delete", "--force-delete"]).exits(0);
    assert!(!latin.exists());
    // They count like others for the guard.
    for number in 0..20_u8 {
        let name = [b'x', 0xe9, b'a' + number];
        fs::write(scene.dst.join(std::ffi::OsStr::from_bytes(&name)), b"x").unwrap();
    }
    let told = scene.sync(&["--delete"]);
    assert!(
        told.exits(3).err().contains("refused to delete"),
        "{}",
        told.describe()
    );
}

#[test]
fn a_listing_that_breaks_off_is_not_whole() {
    let scene = Scene::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        scene.server.put(&format!("p/{name}"), name.as_bytes(), &[]);
    }
    scene.sync(&[]).exits(0);
    scene.server.remove("p/f");
    scene.server.page(2);
    scene.server.faults(|_| Some(Fault::NoToken));
    for listing in ["trees", "directories"] {
        let told = scene.sync(&["--delete", "--s3-listing", listing]);
        told.exits(23);
        assert_eq!(scene.files().len(), 6, "{}", told.describe());
    }
}

#[test]
fn runs_with_a_time_limit_are_like_others() {
    let scene = Scene::new();
    scene.server.put("p/a", b"a", &[]);
    scene.server.put("p/d/b", b"b", &[]);
    scene.sync(&["--timeout", "60"]).exits(0);
    assert_eq!(scene.files().len(), 2);
    let mode = fs::metadata(scene.dst.join("d")).unwrap().mode();
    assert_eq!(mode & 0o700, 0o700);
    assert_ne!(
        mode & 0o777,
        0o700,
        "directories are as open as the umask lets them be"
    );
}

#[test]
fn many_keys_come_page_by_page() {
    let scene = Scene::new();
    for number in 0..1300 {
        scene.server.put(
            &format!("p/{number:04}"),
            number.to_string().as_bytes(),
            &[],
        );
    }
    for number in 0..1100 {
        let dir = format!("p/dirs/{number:04}/");
        scene.server.put(&dir, b"", &[]);
    }
    scene.sync(&["--s3-metadata", "none"]).exits(0);
    assert_eq!(scene.files().len(), 1300);
    let dirs = fs::read_dir(scene.dst.join("dirs")).unwrap();
    assert_eq!(dirs.count(), 1100);
    assert_eq!(scene.read("1299"), b"1299");
    let again = scene.sync(&["--s3-metadata", "none", "--delete"]);
    assert!(
        again.exits(0).out().contains("0 files copied"),
        "{}",
        again.describe()
    );
}

/// Whatever directories are known from the listings of others.
#[test]
fn trees_are_listed_in_as_few_requests_as_can_be() {
    let scene = Scene::new();
    let mut count = 0;
    for dir in ["", "a/", "a/b/", "a/b/c/", "a-b/", "z/", "z/y/"] {
        for number in 0..5 {
            let key = format!("p/{dir}{number}");
            scene.server.put(&key, key.as_bytes(), POSIX);
            count += 1;
        }
    }
    scene.server.put("p/a/empty/", b"", &[]);
    let mut requests = Vec::new();
    for page in [1000, 30, 12, 7, 3, 2] {
        for listing in ["trees", "directories"] {
            scene.server.page(page);
            let options = ["--s3-listing", listing, "--s3-metadata", "none", "--delete"];
            let told = scene.sync(&options);
            told.exits(0);
            assert_eq!(scene.files().len(), count, "{}", told.describe());
            assert!(scene.dst.join("a/empty").is_dir());
            scene.server.seen();
            let scanned = scene.run("scan", "s3://bucket/p", &["--s3-listing", listing]);
            let found = format!("{count} files, 7 directories");
            assert!(scanned.out().contains(&found), "{}", scanned.describe());
            requests.push(scene.server.seen().len());
        }
    }
    // One look before.
    assert_eq!(requests[..2], [1 + 1, 1 + 8]);
    for pair in requests.chunks(2) {
        assert!(pair[0] <= pair[1] + 3, "{requests:?}");
    }
}

/// Short names of a few bytes that sort before and behind slashes, so that all kinds of neighbours occur.
fn odd_key(random: &mut Rng) -> String {
    const PARTS: [&str; 12] = [
        "0", "1", "9", "A", "z", "-", ".", " ", "~", "/", "\u{e9}", "img",
    ];
    let len = 1 + random.below(5);
    let key: String = (0..len).map(|_| PARTS[random.below(PARTS.len())]).collect();
    format!("p/{key}")
}

/// What is divided among several who list it is what one would have found, with all that is wrong with it.
#[test]
fn large_directories_are_listed_from_several_keys_on() {
    let mut behind = 0;
    for seed in 0..5 {
        let scene = Scene::new();
        let mut random = Rng::new(seed);
        for _ in 0..250 {
            scene.server.put(&odd_key(&mut random), b"1", POSIX);
        }
        for number in 0..200 {
            let name = format!("p/img-{:04}", number * (seed + 1));
            scene.server.put(&name, b"1", POSIX);
        }
        if seed % 2 == 0 {
            scene.server.put("p/img/1", b"1", POSIX);
        }
        let scan = |options: &[&str]| {
            let told = scene.run("scan", "s3://bucket/p", options);
            let mut errors: Vec<String> = told.err().lines().map(str::to_owned).collect();
            errors.sort();
            let counts = told.out().lines().nth(1).unwrap_or_default().to_owned();
            (counts, errors, scene.server.seen())
        };
        let (expected, errors, _) = scan(&[]);
        assert!(!errors.is_empty(), "slashes in the wrong places");
        for (page, habit) in [
            (3, Habit::None),
            (10, Habit::None),
            (3, Habit::BeginsAnew),
            // Few pages: what is asked of those that seem to be sorted is not asked here.
            (70, Habit::Walks),
        ] {
            scene.server.page(page);
            scene.server.habit(habit);
            for listing in ["trees", "directories"] {
                let context = format!("seed {seed}, {page} on a page, {listing}, {habit:?}");
                let (counts, met, seen) = scan(&["--s3-listing", listing]);
                assert_eq!(counts, expected, "{context}: {met:?}");
                assert_eq!(met, errors, "{context}");
                let most = 60 + 2 * 450 / page;
                assert!(seen.len() < most, "{context}: {} requests", seen.len());
                behind += scene.server.behind();
            }
        }
    }
    // Apart from the first listings, which go on behind what they told.
    assert!(behind > 5 * 4 * 2, "{behind}");
}

#[test]
fn many_small_directories_are_known_from_the_listing_of_theirs() {
    let scene = Scene::new();
    for number in 0..300 {
        for name in 0..number % 4 {
            let key = format!("p/d{number:03}/{name}");
            scene.server.put(&key, key.as_bytes(), POSIX);
        }
    }
    scene.server.page(100);
    scene.sync(&[]).exits(0);
    assert_eq!(scene.files().len(), 450);
    for file in scene.files() {
        assert_eq!(scene.read(&file), format!("p/{file}").into_bytes());
    }
    scene.server.seen();
    scene.run("scan", "s3://bucket/p", &[]).exits(0);
    // One look before, the pages, and each directory at the end or the beginning of one, which may be in two.
    let lists = scene.server.seen().len();
    assert!((6..=1 + 5 + 8).contains(&lists), "{lists}");
}

#[test]
fn a_server_that_does_not_begin_behind_a_key_is_asked_from_the_beginning() {
    let scene = Scene::new();
    for number in 0..100 {
        scene.server.put(&format!("p/{number:03}"), b"1", POSIX);
        scene.server.put(&format!("p/d{number:03}/1"), b"1", POSIX);
    }
    scene.server.habit(Habit::Refuses);
    scene.server.page(9);
    scene.sync(&[]).exits(0);
    assert_eq!(scene.files().len(), 200);
}

#[test]
fn a_large_directory_of_which_a_part_cannot_be_listed_loses_nothing() {
    let scene = Scene::new();
    for number in 0..200 {
        scene.server.put(&format!("p/{number:03}"), b"1", POSIX);
    }
    scene.sync(&[]).exits(0);
    for number in 100..110 {
        scene.server.remove(&format!("p/{number:03}"));
    }
    scene.server.page(5);
    for status in [403, 404] {
        let mut count = 0;
        scene.server.faults(move |request| {
            count += u32::from(matches!(request, Request::List(_)));
            // From then on none that is asked for again goes well either.
            (count > 25).then_some(Fault::Status(status))
        });
        let told = scene.sync(&["--delete"]);
        told.exits(23).complains_of(&["cannot list"]);
        assert!(!told.err().contains("changed while"), "{}", told.describe());
        assert_eq!(scene.files().len(), 200, "{}", told.describe());
    }
    scene.server.faults(|_| None);
    scene.sync(&["--delete"]).exits(0);
    assert_eq!(scene.files().len(), 190);
}

#[test]
fn a_giant_directory_is_split_over_shards() {
    const KEYS: usize = 100_000;
    let scene = Scene::new();
    for number in 0..KEYS {
        scene.server.put(&format!("p/{number:06}"), b"", &[]);
    }
    let told = scene.sync(&["-n", "--s3-metadata", "none", "--stats"]);
    assert!(
        told.exits(0).out().contains("100,000 files"),
        "{}",
        told.describe()
    );
    let lists = scene.server.seen().len();
    // Each page once, and some looks where keys are.
    assert!((KEYS / 1000..KEYS / 1000 * 2).contains(&lists), "{lists}");
}

#[test]
fn a_prefix_that_is_not_there_deletes_nothing() {
    let scene = Scene::new();
    scene.server.put("other", b"other", &[]);
    fs::create_dir(&scene.dst).unwrap();
    fs::write(scene.dst.join("mine"), b"mine").unwrap();
    let told = scene.sync(&["--delete"]);
    assert!(
        told.exits(3).err().contains("no key begins with 'p/'"),
        "{}",
        told.describe()
    );
    let told = scene.run("sync", "s3://elsewhere", &["--delete"]);
    assert!(
        told.exits(3).err().contains("NoSuchBucket"),
        "{}",
        told.describe()
    );
    // A bucket that is empty is there, and would empty the destination.
    scene.server.remove("other");
    let told = scene.run("sync", "s3://bucket", &["--delete"]);
    assert!(
        told.exits(3).err().contains("refused to delete"),
        "{}",
        told.describe()
    );
    assert!(scene.dst.join("mine").exists());
}

#[test]
fn what_passes_is_waited_for() {
    let scene = Scene::new();
    let large = noise(5 << 20);
    for number in 0..20 {
        scene
            .server
            .put(&format!("p/{number}"), number.to_string().as_bytes(), POSIX);
    }
    scene.server.put("p/large", &large, POSIX);
    // Each request fails once, in one way or another.
    let (mut known, mut count) = (BTreeSet::new(), 0);
    scene.server.faults(move |request| {
        if !known.insert(request.clone()) {
            return None;
        }
        count += 1;
        Some(match count % 3 {
            0 => Fault::Status(503),
            1 => Fault::Status(500),
            _ => Fault::CutAfter(1),
        })
    });
    scene.sync(&[]).exits(0);
    assert_eq!(scene.files().len(), 21);
    assert_eq!(scene.read("large"), large);
    assert_eq!(scene.read("7"), b"7");
}

#[test]
fn a_large_object_that_breaks_off_again_and_again_goes_on_where_it_was() {
    let scene = Scene::new();
    let large = noise(40 << 20);
    scene.server.put("p/large", &large, POSIX);
    scene.server.faults(|request| match request {
        Request::Get(_) => Some(Fault::CutAfter(3 << 20)),
        _ => None,
    });
    scene.sync(&[]).exits(0);
    assert_eq!(scene.read("large"), large);
    let gets = scene.server.seen();
    let gets = gets
        .iter()
        .filter(|asked| matches!(asked, Request::Get(_)))
        .count();
    assert!((14..40).contains(&gets), "{gets} requests");
}

#[test]
fn an_object_that_is_replaced_meanwhile_is_copied_as_one_or_the_other() {
    let scene = Scene::new();
    let large = noise(40 << 20);
    scene.server.put("p/large", &large, POSIX);
    let mut first = true;
    scene.server.faults(move |request| {
        let is_first = matches!(request, Request::Get(_)) && std::mem::replace(&mut first, false);
        is_first.then_some(Fault::Replaced)
    });
    scene.sync(&[]).exits(0);
    let copied = scene.read("large");
    let new: Vec<u8> = large.iter().map(|byte| byte ^ 1).collect();
    assert!(copied == large || copied == new);
}

#[test]
fn what_may_not_be_read_costs_only_itself() {
    let scene = Scene::new();
    for name in ["a", "b", "c"] {
        scene
            .server
            .put(&format!("p/{name}"), name.as_bytes(), POSIX);
    }
    scene.server.faults(|request| match request {
        Request::Get(key) if key == "p/b" => Some(Fault::Status(403)),
        _ => None,
    });
    let told = scene.sync(&[]);
    assert!(
        told.exits(23).err().contains("EACCES"),
        "{}",
        told.describe()
    );
    assert_eq!(scene.files(), ["a", "c"].map(str::to_owned).into());
    // A listing that is refused deletes nothing.
    scene.server.put("p/d/1", b"1", POSIX);
    scene.server.faults(|_| None);
    scene.sync(&[]).exits(0);
    scene.server.remove("p/d/1");
    scene.server.put("p/d/2", b"2", POSIX);
    scene.server.faults(|request| match request {
        Request::List(prefix) if prefix == "p/d/" => Some(Fault::Status(403)),
        _ => None,
    });
    let told = scene.sync(&["--delete", "--s3-listing", "directories"]);
    told.exits(23);
    assert_eq!(
        scene.files(),
        ["a", "b", "c", "d/1"].map(str::to_owned).into()
    );
    scene.server.faults(|_| Some(Fault::Status(403)));
    let told = scene.sync(&[]);
    assert!(
        told.exits(3).err().contains("AccessDenied"),
        "{}",
        told.describe()
    );
}

/// What else is asked with them would not go better.
#[test]
fn credentials_that_are_refused_end_the_run() {
    let scene = Scene::new();
    for number in 0..3000 {
        scene
            .server
            .put(&format!("p/{}/{number}", number / 300), b"1", POSIX);
    }
    for (status, code, words) in [
        (403, "InvalidAccessKeyId", "InvalidAccessKeyId"),
        (403, "SignatureDoesNotMatch", "SignatureDoesNotMatch"),
        (403, "RequestTimeTooSkewed", "the clock of this machine"),
    ] {
        scene
            .server
            .faults(move |_| Some(Fault::Code(status, code)));
        let told = scene.sync(&[]);
        assert!(told.exits(3).err().contains(words), "{}", told.describe());
    }
    let mut gets = 0;
    scene.server.faults(move |request| {
        gets += usize::from(matches!(request, Request::Get(_)));
        (gets > 100).then_some(Fault::Code(400, "ExpiredToken"))
    });
    scene.server.seen();
    // So that not all is asked for at once.
    let told = scene.sync(&["--cores", "1"]);
    let context = told.describe();
    assert!(
        told.exits(11).err().contains("Key has expired"),
        "{context}"
    );
    let all = told.out() + &told.err();
    assert!(all.contains("does not take the credentials"), "{context}");
    let seen = scene.server.seen();
    let is_get = |request: &&Request| matches!(request, Request::Get(_));
    assert!(seen.iter().filter(is_get).count() < 1000, "it went on");
    scene.server.faults(|_| None);
    scene.sync(&[]).exits(0);
    assert_eq!(scene.files().len(), 3000);
    // When a run only asks, and the answers have no words.
    for (status, code) in [(400, "ExpiredToken"), (403, "InvalidAccessKeyId")] {
        let mut heads = 0;
        scene.server.faults(move |request| {
            heads += usize::from(matches!(request, Request::Head(_)));
            (heads > 100).then_some(Fault::Code(status, code))
        });
        scene.server.seen();
        scene.sync(&["--cores", "1"]).exits(11);
        let seen = scene.server.seen();
        assert!(crate::heads(&seen) < 1000, "it went on");
    }
}

/// Some servers and proxies find the signatures of odd keys wrong.
#[test]
fn a_key_that_is_refused_costs_only_itself() {
    let scene = Scene::new();
    for name in ["a", "b+c", "d"] {
        scene.server.put(&format!("p/{name}"), b"1", POSIX);
    }
    scene.server.faults(|request| match request {
        Request::Get(key) if key == "p/b+c" => Some(Fault::Code(403, "SignatureDoesNotMatch")),
        _ => None,
    });
    let told = scene.sync(&[]);
    assert!(
        told.exits(23).err().contains("EACCES"),
        "{}",
        told.describe()
    );
    assert_eq!(scene.files(), ["a", "d"].map(str::to_owned).into());
    scene.server.faults(|request| match request {
        Request::Head(key) if key == "p/a" => Some(Fault::Status(403)),
        _ => None,
    });
    scene.sync(&[]).exits(23);
    assert_eq!(scene.files().len(), 3);
}

#[test]
fn what_buckets_cannot_do_is_refused() {
    let scene = Scene::new();
    scene.server.put("p/a", b"a", &[]);
    for (options, words) in [
        (&["-X"][..], "--xattrs does not go with a bucket"),
        (&["-A"], "--acls does not go with a bucket"),
        (&["-H"], "--hard-links does not go with a bucket"),
    ] {
        let told = scene.sync(options);
        assert!(told.exits(3).err().contains(words), "{}", told.describe());
    }
    let told = scene.sync(&["--since=1 day ago"]);
    let words = "buckets have none";
    assert!(told.exits(1).err().contains(words), "{}", told.describe());
    let told = scene.run("scan", scene.scratch.path().to_str().unwrap(), &[]);
    assert!(
        told.err().contains("--endpoint-url is about buckets"),
        "{}",
        told.describe()
    );
    let told = scene.sync(&["--safe-links"]);
    assert!(
        told.exits(3).err().contains("does not tell symlinks"),
        "{}",
        told.describe()
    );
    let told = scene.run("sync", "s3://", &[]);
    assert!(
        told.exits(3).err().contains("names no bucket"),
        "{}",
        told.describe()
    );
    assert!(!scene.dst.exists());
}

#[test]
fn rules_hold_for_objects() {
    let scene = Scene::new();
    for key in ["p/a.c", "p/a.o", "p/d/b.o", "p/d/b.c", "p/skip/x"] {
        scene.server.put(key, key.as_bytes(), POSIX);
    }
    scene
        .sync(&["--exclude", "*.o", "--exclude", "skip/"])
        .exits(0);
    assert_eq!(scene.files(), ["a.c", "d/b.c"].map(str::to_owned).into());
    let list = scene.scratch.path().join("list");
    fs::write(&list, "d/b.o\nnone\n").unwrap();
    let told = scene.sync(&["--files-from", list.to_str().unwrap()]);
    assert!(told.exits(23).err().contains("none"), "{}", told.describe());
    assert_eq!(scene.read("d/b.o"), b"p/d/b.o");
}

#[test]
fn backups_and_other_options_of_the_destination_hold() {
    let scene = Scene::new();
    scene.server.put("p/a", b"new contents", POSIX);
    fs::create_dir(&scene.dst).unwrap();
    fs::write(scene.dst.join("a"), b"old").unwrap();
    scene
        .sync(&["-b", "--backup-dir", "old", "--fsync", "file", "--verify"])
        .exits(0);
    assert_eq!(scene.read("a"), b"new contents");
    assert_eq!(scene.read("old/a"), b"old");
    if is_root() {
        assert_eq!(fs::metadata(scene.dst.join("a")).unwrap().uid(), 0);
    }
    let mut zeros = vec![0; 3 << 20];
    zeros[1 << 20] = 1;
    scene.server.put("p/holes", &zeros, POSIX);
    scene.sync(&["-S", "--write-mode", "direct"]).exits(0);
    assert_eq!(scene.read("holes"), zeros);
    let meta = fs::metadata(scene.dst.join("holes")).unwrap();
    assert!(meta.blocks() * 512 < 1 << 20, "{} blocks", meta.blocks());
}
