//! Real filesystems that fail. Whatever a filesystem answers: nothing is lost, nothing is half-written, what failed is
//! named, and when the fault is gone the next run makes both sides equal.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "support/faultfs/mod.rs"]
mod faultfs;
mod support;

use faultfs::{Call, Effect, FaultFs, Rule};
use nix::errno::Errno;
use std::path::{Path, PathBuf};
use support::snap::{Snapshot, assert_equal_trees, differences, snapshot, temporaries};
use support::tree::{Kind, LONG_AGO, Time, Tree, write_noise};
use support::{Outcome, Scratch, is_temporary, remove_tree, sync, under_each_engine};

under_each_engine!(
    the_source_fails,
    the_destination_fails,
    calls_that_say_again_are_repeated,
    stale_files_are_looked_up_again,
    what_may_pass_is_tried_again,
    what_does_not_pass_ends_in_errors,
    what_was_done_in_secret_costs_no_backup,
    small_files_that_fail_cost_only_themselves,
    short_counts_give_exact_copies,
    names_listed_twice_are_handled_once,
    names_left_out_keep_their_copies,
    names_that_vanish_after_listing_are_vanished,
    wrong_sizes_harm_nobody,
    delays_only_delay,
    a_server_that_dies_loses_nothing,
    random_faults_lose_nothing,
);

/// What a source can answer to anything; the kernel hands each of these on.
const SOURCE_ERRNOS: [Errno; 5] = [
    Errno::EIO,
    Errno::EACCES,
    Errno::ESTALE,
    Errno::ENOENT,
    Errno::ETIMEDOUT,
];
const DEST_ERRNOS: [Errno; 7] = [
    Errno::EIO,
    Errno::EACCES,
    Errno::EPERM,
    Errno::ESTALE,
    Errno::ENOSPC,
    Errno::EDQUOT,
    Errno::EROFS,
];

/// Newer than what every node gets unless told otherwise.
const LATER: Time = Time {
    sec: LONG_AGO.sec + 1000,
    nsec: 987_654_321,
};
/// Several reads and writes, and enough for the kernel to copy by itself where it can.
const BIG_BYTES: u64 = 300_000;

/// Which side is the one that fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Faulty {
    Source,
    Dest,
}

/// A source and a destination that differ in every way that a sync has to deal with; one of them on a filesystem with
/// faults.
struct Scene<'a> {
    fs: &'a FaultFs,
    /// The folder of the faulty side below its filesystem's root.
    name: String,
    /// As ringsync is told, and where nothing fails.
    src: [PathBuf; 2],
    dst: [PathBuf; 2],
    before: Snapshot,
    _scratch: Scratch,
}

impl<'a> Scene<'a> {
    fn new(fs: &'a FaultFs, faulty: Faulty) -> Self {
        let scratch = Scratch::new();
        let name = scratch.path().file_name().unwrap().to_str().unwrap();
        let on_faulty = [fs.path().join(name), fs.backing().join(name)];
        std::fs::create_dir(&on_faulty[1]).unwrap();
        let plain = scratch.dir("plain");
        let plain = [plain.clone(), plain];
        let name = name.to_owned();
        let (src, dst) = match faulty {
            Faulty::Source => (on_faulty, plain),
            Faulty::Dest => (plain, on_faulty),
        };
        source_tree().write_to(&src[1]);
        dest_tree().write_to(&dst[1]);
        write_noise(&src[1].join("bad/victim"), BIG_BYTES, 1);
        write_noise(&dst[1].join("bad/victim"), BIG_BYTES / 2, 2);
        for path in [src[1].join("bad"), dst[1].join("bad")] {
            support::tree::set_mtime(&path, LONG_AGO);
        }
        let before = snapshot(&dst[1]);
        Self {
            fs,
            name,
            src,
            dst,
            before,
            _scratch: scratch,
        }
    }

    /// A rule for a path below the faulty side's root.
    fn rule(&self, calls: &[Call], at: &str, effect: Effect) -> Rule {
        let at = format!("{}/{at}", self.name);
        Rule::new(calls, effect).at(at.trim_end_matches('/'))
    }

    fn run(&self, engine: &str, options: &[&str]) -> Outcome {
        sync(engine, options, &self.src[0], &self.dst[0])
    }

    /// After the faults are gone.
    fn repairs(&self, engine: &str, options: &[&str]) {
        self.fs.faults().clear();
        self.run(engine, options).exits(0);
        assert_equal_trees(&self.src[1], &self.dst[1]);
    }

    /// Whatever stands in the destination is as before or as in the source.
    fn assert_nothing_half_done(&self) {
        let (source, after) = (snapshot(&self.src[1]), snapshot(&self.dst[1]));
        let finished = |path: &[u8]| !is_temporary(path.rsplit(|b| *b == b'/').next().unwrap());
        for (path, state) in after.iter().filter(|(path, _)| finished(path)) {
            let whole = [source.get(path), self.before.get(path)];
            let is_whole = whole
                .iter()
                .flatten()
                .any(|other| (other.kind, other.content) == (state.kind, state.content));
            assert!(is_whole, "{} is half-written", path.escape_ascii());
        }
        for (path, state) in &self.before {
            // What is replaced by another kind of inode goes first.
            let stays = source
                .get(path)
                .is_some_and(|other| other.kind == state.kind);
            assert!(
                !stays || after.contains_key(path),
                "{} was lost",
                path.escape_ascii()
            );
        }
    }

    fn assert_no_temporaries(&self) {
        assert_eq!(temporaries(&self.dst[1]), Vec::<String>::new());
    }

    /// All is equal but what is at or below `affected`.
    fn assert_equal_but(&self, affected: &str) {
        let spared = |path: &Vec<u8>| {
            let rest = path.strip_prefix(affected.as_bytes());
            affected.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let [mut source, mut dest] = [&self.src[1], &self.dst[1]].map(|root| snapshot(root));
        source.retain(|path, _| !spared(path));
        dest.retain(|path, _| !spared(path));
        let lines = differences(&source, &dest, "source", "destination");
        assert!(lines.is_empty(), "not only {affected:?} differs\n{lines}");
    }
}

impl Drop for Scene<'_> {
    fn drop(&mut self) {
        self.fs.faults().clear();
        remove_tree(&self.fs.backing().join(&self.name));
    }
}

fn source_tree() -> Tree {
    let mut tree = Tree::new();
    tree.file("same", "same");
    tree.file("changed", "new contents").at(LATER);
    tree.file("mode", "m").mode(0o600);
    tree.symlink("link", "elsewhere").at(LATER);
    tree.add("fifo", Kind::Fifo).mode(0o640);
    tree.file("dir/inner", "inner");
    tree.file("dir/fresh", "fresh");
    tree.file("newdir/file", "file");
    tree.dir("newdir/deep");
    tree.file("kind", "now a file");
    // A mode that a file gets only when it has its group.
    tree.file("bad/victim", "written later").mode(0o640);
    tree.file("bad/other", "other");
    tree.symlink("bad/link", "to somewhere");
    tree.file("bad/sub/file", "new").at(LATER);
    tree
}

fn dest_tree() -> Tree {
    let mut tree = Tree::new();
    tree.file("same", "same");
    tree.file("changed", "old");
    tree.file("mode", "m");
    tree.file("extra", "extra");
    tree.symlink("link", "otherwise");
    tree.file("dir/inner", "inner");
    tree.file("dir/extra", "extra");
    tree.file("gone/file", "gone");
    tree.dir("gone/deep");
    tree.file("kind/file", "was a directory");
    tree.file("bad/victim", "written later");
    tree.file("bad/extra", "extra");
    tree.file("bad/sub/file", "old");
    tree.file("bad/sub/extra", "extra");
    tree
}

/// An operation that fails from some point of time on.
struct Case {
    call: Call,
    at: &'static str,
    /// Such requests before it go well.
    after: u64,
    /// The entry that is named.
    named: &'static str,
    /// What may differ afterwards: this and all below it.
    affected: &'static str,
}

const fn case(call: Call, at: &'static str, after: u64, named: &'static str) -> Case {
    Case {
        call,
        at,
        after,
        named,
        affected: named,
    }
}

/// A failure shows in the exit code, is told, harms nothing else, and is repaired by the next run.
fn fails_and_recovers(engine: &str, fs: &FaultFs, faulty: Faulty, case: &Case, errno: Errno) {
    let options = ["--delete"];
    let scene = Scene::new(fs, faulty);
    let Case { call, at, .. } = case;
    let context = format!("{faulty:?} {call:?} {at:?} after {}: {errno:?}", case.after);
    eprintln!("{context}");
    let rule = scene.rule(&[*call], at, Effect::Fail(errno));
    fs.faults().inject(rule.after(case.after));
    if matches!(call, Call::ReadDirMore) {
        // So that there is more than one part.
        let short = Effect::Short(1);
        fs.faults()
            .inject(scene.rule(&[Call::ReadDir, Call::ReadDirMore], at, short));
    }
    let ended = scene.run(engine, &options);
    assert!(
        fs.faults().recent() > 0,
        "{context}: was not met\n{}",
        ended.describe()
    );
    let fatal =
        faulty == Faulty::Dest && matches!(errno, Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS);
    let vanished = faulty == Faulty::Source && matches!(errno, Errno::ESTALE | Errno::ENOENT);
    ended.exits(match (fatal, vanished) {
        (true, _) => 11,
        (_, true) => 24,
        _ => 23,
    });
    ended.complains_of(&[&format!("'{}'", case.named)]);
    ended.complains_of(&[&format!("({errno:?})")]);
    scene.assert_nothing_half_done();
    scene.assert_no_temporaries();
    if !fatal {
        scene.assert_equal_but(case.affected);
    }
    let lists = matches!(call, Call::OpenDir | Call::ReadDir | Call::ReadDirMore);
    if faulty == Faulty::Source && lists {
        let extra = Path::new(at).join("extra");
        assert!(
            scene.dst[1].join(extra).exists(),
            "{context}: deleted unseen"
        );
    }
    scene.repairs(engine, &options);
}

fn the_source_fails(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    let cases = [
        case(Call::Lookup, "bad/victim", 0, "bad/victim"),
        case(Call::GetAttr, "bad/victim", 0, "bad/victim"),
        // Of the open file, and after it was read.
        case(Call::GetAttr, "bad/victim", 1, "bad/victim"),
        case(Call::GetAttr, "bad/victim", 2, "bad/victim"),
        case(Call::Open, "bad/victim", 0, "bad/victim"),
        case(Call::Read, "bad/victim", 0, "bad/victim"),
        case(Call::Read, "bad/victim", 1, "bad/victim"),
        case(Call::Lookup, "bad/link", 0, "bad/link"),
        case(Call::ReadLink, "bad/link", 0, "bad/link"),
        case(Call::Lookup, "bad", 0, "bad"),
        case(Call::GetAttr, "bad", 0, "bad"),
        case(Call::OpenDir, "bad", 0, "bad"),
        case(Call::ReadDir, "bad", 0, "bad"),
        case(Call::ReadDirMore, "bad", 0, "bad"),
        case(Call::ReadDirMore, "bad", 3, "bad"),
        Case {
            affected: "",
            ..case(Call::ReadDir, "", 0, ".")
        },
        Case {
            affected: "",
            ..case(Call::ReadDirMore, "", 5, ".")
        },
    ];
    for case in &cases {
        for errno in SOURCE_ERRNOS {
            fails_and_recovers(engine, &fs, Faulty::Source, case, errno);
        }
    }
}

fn the_destination_fails(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    let temp = "bad/.victim.rs-*";
    let below = |named, affected, case| Case {
        named,
        affected,
        ..case
    };
    let cases = [
        case(Call::Lookup, "bad/victim", 0, "bad/victim"),
        case(Call::GetAttr, "bad/victim", 0, "bad/victim"),
        case(Call::OpenDir, "bad", 0, "bad"),
        case(Call::ReadDir, "bad", 0, "bad"),
        case(Call::ReadDirMore, "bad", 0, "bad"),
        case(Call::ReadDirMore, "bad", 3, "bad"),
        case(Call::Create, temp, 0, "bad/victim"),
        // Of the file that was just made.
        case(Call::GetAttr, temp, 0, "bad/victim"),
        case(Call::Write, temp, 0, "bad/victim"),
        case(Call::Write, temp, 1, "bad/victim"),
        case(Call::Chmod, temp, 0, "bad/victim"),
        case(Call::SetTimes, temp, 0, "bad/victim"),
        case(Call::Flush, temp, 0, "bad/victim"),
        case(Call::Rename, "bad/victim", 0, "bad/victim"),
        case(Call::Unlink, "bad/extra", 0, "bad/extra"),
        case(Call::MakeDir, "newdir", 0, "newdir"),
        case(Call::Chmod, "newdir", 0, "newdir"),
        case(Call::SetTimes, "newdir", 0, "newdir"),
        case(Call::MakeDir, "newdir/deep", 0, "newdir/deep"),
        case(Call::MakeSymlink, "bad/link", 0, "bad/link"),
        case(Call::SetTimes, "bad/link", 0, "bad/link"),
        case(Call::MakeSymlink, ".link.rs-*", 0, "link"),
        case(Call::Rename, "link", 0, "link"),
        case(Call::MakeNode, "fifo", 0, "fifo"),
        case(Call::Chmod, "fifo", 0, "fifo"),
        case(Call::Chmod, "mode", 0, "mode"),
        below("gone", "gone", case(Call::OpenDir, "gone", 0, "gone")),
        below("gone", "gone", case(Call::ReadDir, "gone", 0, "gone")),
        below("gone/file", "gone", case(Call::Unlink, "gone/file", 0, "")),
        below(
            "gone/deep",
            "gone",
            case(Call::RemoveDir, "gone/deep", 0, ""),
        ),
        case(Call::RemoveDir, "gone", 0, "gone"),
        case(Call::Unlink, "kind/file", 0, "kind"),
        case(Call::RemoveDir, "kind", 1, "kind"),
    ];
    for case in &cases {
        for errno in DEST_ERRNOS {
            // "Stale" makes the kernel create it once more, and find what it made the first time.
            if !(case.call == Call::GetAttr && case.at == temp && errno == Errno::ESTALE) {
                fails_and_recovers(engine, &fs, Faulty::Dest, case, errno);
            }
        }
    }
}

/// Signals may interrupt calls, on network filesystems any of them; a busy server says "again".
fn calls_that_say_again_are_repeated(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    let reads = [
        Call::Lookup,
        Call::GetAttr,
        Call::OpenDir,
        Call::ReadDir,
        Call::Open,
        Call::Read,
        Call::ReadLink,
    ];
    let writes = [
        Call::Create,
        Call::Write,
        Call::Rename,
        Call::Chmod,
        Call::SetTimes,
        Call::Unlink,
        Call::RemoveDir,
        Call::MakeDir,
        Call::MakeNode,
        Call::MakeSymlink,
    ];
    for faulty in [Faulty::Source, Faulty::Dest] {
        let calls = reads.iter().chain(&writes[..]);
        let calls = calls.filter(|call| faulty == Faulty::Dest || reads.contains(call));
        for call in calls {
            for errno in [Errno::EINTR, Errno::EAGAIN] {
                let scene = Scene::new(&fs, faulty);
                // Not the root, which is opened before the run begins.
                let rule = scene.rule(&[*call], "*", Effect::Fail(errno)).times(2);
                fs.faults().inject(rule);
                let ended = scene.run(engine, &["--delete"]);
                let read_only_ours = faulty == Faulty::Dest
                    && matches!(call, Call::Open | Call::Read | Call::ReadLink);
                let met = fs.faults().recent();
                assert!(met > 0 || read_only_ours, "{faulty:?} {call:?} was not met");
                eprintln!("{faulty:?} {call:?} {errno:?}: {met}");
                ended.exits(0);
                assert_equal_trees(&scene.src[1], &scene.dst[1]);
            }
        }
    }
}

/// Failures that end after some attempts cost nothing but the pauses, which are counted.
fn what_may_pass_is_tried_again(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    for (faulty, calls, at) in [
        (Faulty::Source, &[Call::Open][..], "bad/victim"),
        (Faulty::Source, &[Call::OpenDir], "bad"),
        // Not those of small new files, which are not waited for: what fails there is done in the ordinary way.
        (Faulty::Dest, &[Call::Create], "bad/.victim.rs-*"),
        (Faulty::Dest, &[Call::Rename], "bad/victim"),
    ] {
        for errno in [Errno::ETIMEDOUT, Errno::ENOMEM, Errno::ENFILE] {
            let scene = Scene::new(&fs, faulty);
            let rule = scene.rule(calls, at, Effect::Fail(errno));
            fs.faults().inject(rule.times(2));
            let outcome = scene.run(engine, &["--delete", "--json"]);
            let what = format!("{faulty:?} {calls:?} {errno:?}\n{}", outcome.describe());
            assert_eq!(outcome.code(), Some(0), "{what}");
            assert!(outcome.count("retries") >= 1, "{what}");
            assert_equal_trees(&scene.src[1], &scene.dst[1]);
            scene.fs.faults().clear();
        }
    }
}

/// A server may carry out a rename and not say so in time. What was replaced is in the backup from then on, and only there.
fn what_was_done_in_secret_costs_no_backup(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    for errno in [Errno::ETIMEDOUT, Errno::EIO] {
        for mode in ["atomic", "direct"] {
            let options = &["--backup-dir", "kept", "--delete", "--write-mode", mode];
            let scene = Scene::new(&fs, Faulty::Dest);
            let old = std::fs::read(scene.dst[1].join("bad/victim")).unwrap();
            let rule = scene.rule(&[Call::Rename], "bad/victim", Effect::FailDone(errno));
            fs.faults().inject(rule.times(1));
            scene.run(engine, options).exits(23);
            assert_eq!(fs.faults().clear(), 1, "{options:?}");
            let kept = std::fs::read(scene.dst[1].join("kept/bad/victim")).unwrap();
            assert!(kept == old, "{errno:?} {options:?}: the old file is lost");
            scene.run(engine, options).exits(0);
            let kept = std::fs::read(scene.dst[1].join("kept/bad/victim")).unwrap();
            assert!(kept == old, "{errno:?} {options:?}: lost by the next run");
        }
    }
}

/// Small new files are copied in one go where calls return at once. What fails there is told as elsewhere, and leaves nothing.
fn small_files_that_fail_cost_only_themselves(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    let faults = [
        (Call::Create, Effect::Fail(Errno::EIO)),
        (Call::Write, Effect::Fail(Errno::EIO)),
        (Call::Write, Effect::Short(3)),
        (Call::Chmod, Effect::Fail(Errno::EPERM)),
        (Call::SetTimes, Effect::Fail(Errno::EIO)),
        (Call::Flush, Effect::Fail(Errno::EIO)),
    ];
    for (call, effect) in faults {
        for mode in ["atomic", "direct"] {
            let scene = Scene::new(&fs, Faulty::Dest);
            for number in 0..30 {
                let path = scene.src[1].join(format!("small{number:02}"));
                std::fs::write(&path, format!("contents of {number}")).unwrap();
                let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1644);
                std::fs::set_permissions(&path, mode).unwrap();
            }
            fs.faults().inject(scene.rule(&[call], "*small1*", effect));
            let options = &["--delete", "--reflink", "never", "--write-mode", mode];
            let outcome = scene.run(engine, options);
            let what = format!("{call:?} {effect:?} {mode}");
            let harmless = matches!(effect, Effect::Short(_));
            assert_eq!(
                outcome.code(),
                Some(if harmless { 0 } else { 23 }),
                "{what}"
            );
            assert!(fs.faults().clear() >= 10, "{what} was met");
            scene.assert_nothing_half_done();
            for number in (0..30).filter(|number| harmless || !(10..20).contains(number)) {
                let copy = std::fs::read(scene.dst[1].join(format!("small{number:02}"))).unwrap();
                assert_eq!(copy, format!("contents of {number}").as_bytes(), "{what}");
            }
            scene.repairs(engine, options);
            assert!(temporaries(&scene.dst[1]).is_empty(), "{what}");
        }
    }
}

/// A failure that stays is told once, after its attempts, and with none left in the budget at once.
fn what_does_not_pass_ends_in_errors(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    for (budget, repeated) in [("10000", 5), ("3", 3), ("0", 0)] {
        let scene = Scene::new(&fs, Faulty::Source);
        let rule = scene.rule(&[Call::Open], "bad/victim", Effect::Fail(Errno::ENOMEM));
        fs.faults().inject(rule);
        let outcome = scene.run(engine, &["--delete", "--json", "--retries", budget]);
        outcome.exits(23);
        assert_eq!(outcome.count("retries"), repeated, "{}", outcome.describe());
        assert_eq!(outcome.count("errors"), 1, "{}", outcome.describe());
        scene.repairs(engine, &["--delete"]);
    }
}

/// A server that replaced a file says "stale" about the old one, which is open; its name leads to the new one.
fn stale_files_are_looked_up_again(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    for times in [1, 2] {
        let scene = Scene::new(&fs, Faulty::Source);
        let stale = Effect::Fail(Errno::ESTALE);
        let rule = scene.rule(&[Call::Read], "bad/victim", stale);
        fs.faults().inject(rule.times(times));
        scene.run(engine, &["--delete"]).exits(0);
        assert_eq!(fs.faults().recent(), times);
        assert_equal_trees(&scene.src[1], &scene.dst[1]);
    }
}

/// Contents of all sizes that matter: nothing, around a page, around a buffer, and more than one chunk.
fn sized_files(root: &Path) {
    let sizes = [0, 1, 4095, 4096, 4097, 100_000, 262_143, 262_145, 1_000_003];
    for size in sizes {
        write_noise(&root.join(format!("{size}")), size, size);
    }
    write_noise(&root.join("in chunks"), (65 << 20) + 17, 3);
    support::tree::set_mtime(root, LONG_AGO);
}

fn short_counts_give_exact_copies(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    let scratch = Scratch::new();
    let plain = scratch.dir("plain");
    sized_files(&plain);
    let inside = |name: &str| [fs.path().join(name), fs.backing().join(name)];
    let (copy, second) = (inside("copy"), inside("second"));
    let third = [scratch.path().join("third"), scratch.path().join("third")];
    let calls = [Call::Read, Call::Write, Call::CopyRange];
    for (seed, rules) in [(77_777, 100), (200_000, 50), (1, 1)]
        .into_iter()
        .enumerate()
    {
        let (short, percent) = rules;
        fs.faults().seed(seed as u64);
        let rule = Rule::new(&calls, Effect::Short(short));
        fs.faults().inject(rule.percent(percent));
    }
    let atomic: &[&str] = &[];
    let direct = ["--write-mode", "direct"];
    for options in [atomic, &direct] {
        // Only written, copied within, only read.
        sync(engine, options, &plain, &copy[0]).exits(0);
        assert_equal_trees(&plain, &copy[1]);
        sync(engine, options, &copy[0], &second[0]).exits(0);
        assert_equal_trees(&plain, &second[1]);
        sync(engine, options, &second[0], &third[0]).exits(0);
        assert_equal_trees(&plain, &third[1]);
        let again = sync(engine, &["-c", "--json"], &copy[0], &second[0]);
        assert_eq!(again.exits(0).count("files_copied"), 0);
        for made in [&copy, &second, &third] {
            remove_tree(&made[1]);
        }
    }
    assert!(fs.faults().clear() > 1000);
}

fn names_listed_twice_are_handled_once(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    for faulty in [Faulty::Source, Faulty::Dest] {
        for options in [["--delete", "-i"], ["--delete-after", "-i"]] {
            let expected = Scene::new(&fs, faulty)
                .run(engine, &options)
                .exits(0)
                .itemized();
            let scene = Scene::new(&fs, faulty);
            fs.faults()
                .inject(scene.rule(&[Call::Entry], "*", Effect::Twice));
            let ended = scene.run(engine, &options);
            assert!(fs.faults().recent() > 10);
            assert_eq!(ended.exits(0).itemized(), expected, "{faulty:?}");
            assert_equal_trees(&scene.src[1], &scene.dst[1]);
        }
    }
}

/// A name that is left out looks like one that was deleted; but before its copy goes, the source is asked for it by name.
fn names_left_out_keep_their_copies(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    let left_out = ["bad/victim", "bad/sub", "same"];
    for options in ["--force", "--delete", "--delete-after"] {
        let scene = Scene::new(&fs, Faulty::Source);
        scene.run(engine, &["--force"]).exits(0);
        for at in left_out {
            fs.faults()
                .inject(scene.rule(&[Call::Entry], at, Effect::Omit));
        }
        let ended = scene.run(engine, &[options]);
        assert!(fs.faults().recent() >= 3);
        if options == "--force" {
            ended.exits(0);
        } else {
            ended.exits(24).complains_of(&["'bad'"]);
        }
        for path in left_out.iter().chain(&["bad/other", "changed"]) {
            assert!(scene.dst[1].join(path).exists(), "{path} was deleted");
        }
        scene.repairs(engine, &["--delete"]);

        // The destination shows less than it has: what is not seen is made again, and nothing fails.
        let scene = Scene::new(&fs, Faulty::Dest);
        for at in ["bad/victim", "changed", "link"] {
            fs.faults()
                .inject(scene.rule(&[Call::Entry], at, Effect::Omit));
        }
        scene.run(engine, &[options]).exits(0);
        scene.assert_nothing_half_done();
        scene.repairs(engine, &["--delete"]);
    }
}

/// Listed, and gone when looked at: as between two calls of a busy server.
fn names_that_vanish_after_listing_are_vanished(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    for options in [["--delete"], ["--delete-after"]] {
        let scene = Scene::new(&fs, Faulty::Source);
        for at in ["bad/victim", "bad/sub", "link", "dir/fresh"] {
            let rule = scene.rule(&[Call::Lookup], at, Effect::Fail(Errno::ENOENT));
            fs.faults().inject(rule);
        }
        let ended = scene.run(engine, &options);
        ended.exits(24);
        assert!(ended.out().contains("source entries vanished"));
        for kept in ["bad/victim", "bad/sub/file", "link"] {
            let there = scene.dst[1].join(kept).symlink_metadata().is_ok();
            assert!(
                there,
                "{kept} was deleted, and nobody knows that it is gone"
            );
        }
        scene.assert_nothing_half_done();
        scene.repairs(engine, &options);

        // In the destination it means that there is nothing.
        let scene = Scene::new(&fs, Faulty::Dest);
        for at in ["dir/extra", "gone/file"] {
            let rule = scene.rule(&[Call::Lookup], at, Effect::Fail(Errno::ENOENT));
            fs.faults().inject(rule);
        }
        scene.run(engine, &options);
        scene.assert_nothing_half_done();
        scene.repairs(engine, &options);
    }
}

fn wrong_sizes_harm_nobody(engine: &str) {
    let Some(fs) = FaultFs::new() else { return };
    let sizes = [0, 1, 100_000, BIG_BYTES - 1, BIG_BYTES + 1, 10 << 20];
    for size in sizes {
        for options in [&["--force"][..], &["--force", "--write-mode", "direct"]] {
            let scene = Scene::new(&fs, Faulty::Source);
            scene.run(engine, &["--delete"]).exits(0);
            std::fs::write(scene.dst[1].join("bad/victim"), "older").unwrap();
            let rule = scene.rule(&[Call::Attr], "bad/victim", Effect::Size(size));
            fs.faults().inject(rule);
            let ended = scene.run(engine, options);
            assert!(fs.faults().recent() > 0);
            let copy = std::fs::read(scene.dst[1].join("bad/victim")).unwrap();
            let original = std::fs::read(scene.src[1].join("bad/victim")).unwrap();
            let len = copy.len().min(original.len());
            assert_eq!(copy[..len], original[..len]);
            if size > BIG_BYTES && copy.len() == original.len() {
                // There is less than was promised, each time.
                ended.exits(23).complains_of(&["'bad/victim'"]);
            } else {
                // Where the filesystem says that the rest is a hole, it is one.
                assert!(copy[len..].iter().all(|byte| *byte == 0));
                ended.exits(0);
            }
            scene.assert_equal_but("bad/victim");
            scene.repairs(engine, &["-c", "--delete"]);
        }
    }
}

fn delays_only_delay(engine: &str) {
    use std::time::Duration;
    let Some(fs) = FaultFs::new() else { return };
    for faulty in [Faulty::Source, Faulty::Dest] {
        let scene = Scene::new(&fs, faulty);
        for (micros, percent) in [(300, 100), (5000, 5), (50_000, 1)] {
            let calls = [
                Call::Lookup,
                Call::GetAttr,
                Call::OpenDir,
                Call::ReadDir,
                Call::ReadDirMore,
                Call::Open,
                Call::Create,
                Call::Read,
                Call::Write,
                Call::Flush,
                Call::Rename,
                Call::Unlink,
                Call::Chmod,
                Call::SetTimes,
            ];
            let delay = Effect::Delay(Duration::from_micros(micros));
            fs.faults()
                .inject(Rule::new(&calls, delay).percent(percent));
        }
        scene.run(engine, &["--delete"]).exits(0);
        assert_equal_trees(&scene.src[1], &scene.dst[1]);
    }
}

/// Every call fails from some moment on, as with a server that is gone.
fn a_server_that_dies_loses_nothing(engine: &str) {
    if support::skip_unless_root("cannot abort a FUSE connection") {
        return;
    }
    for after in [1, 5, 15] {
        let Some(mut fs) = FaultFs::new() else { return };
        let scratch = Scratch::new();
        let (src, dst) = (fs.path().join("src"), scratch.dir("dst"));
        std::fs::create_dir(&src).unwrap();
        source_tree().write_to(&src);
        dest_tree().write_to(&dst);
        let before = snapshot(&dst);
        // Held up here, it cannot end before the server does.
        let stop = std::time::Duration::from_secs(60);
        let rule = Rule::new(&[Call::Lookup], Effect::Delay(stop)).at("src/*");
        fs.faults().inject(rule.after(after));
        let args = support::sync_args(engine, &["--delete"], &src, &dst);
        let mut running = support::Running::start(support::command(support::BINARY, &args));
        while fs.faults().recent() == 0 && !running.has_ended() {
            std::thread::yield_now();
        }
        fs.abort();
        let ended = running.wait();
        ended.exits(23).complains_of(&["ENOTCONN", "ECONNABORTED"]);
        let (after, source) = (snapshot(&dst), source_tree());
        for path in before
            .keys()
            .filter(|path| source.nodes.contains_key(*path))
        {
            let replaced = path == b"kind";
            let there = after.contains_key(path);
            assert!(replaced || there, "{} was lost", path.escape_ascii());
        }
        assert_eq!(temporaries(&dst), Vec::<String>::new());
    }
}

/// Anything may fail at any time, in any combination.
fn random_faults_lose_nothing(engine: &str) {
    const ROUNDS: u64 = 12;
    let Some(fs) = FaultFs::new() else { return };
    let mut seen = std::collections::BTreeMap::<i32, u64>::new();
    for seed in 0..ROUNDS {
        for faulty in [Faulty::Source, Faulty::Dest] {
            let scene = Scene::new(&fs, faulty);
            random_rules(&scene, faulty, seed);
            for options in [["--delete"], ["--delete-after"]] {
                let ended = scene.run(engine, &options);
                let code = ended.code().unwrap_or(-1);
                *seen.entry(code).or_default() += 1;
                let allowed = [0, 3, 11, 23, 24].contains(&code);
                assert!(allowed, "{faulty:?} seed {seed}\n{}", ended.describe());
                eprintln!("{faulty:?} seed {seed}: {code}");
                scene.assert_nothing_half_done();
            }
            scene.repairs(engine, &["--delete"]);
        }
    }
    eprintln!("exit codes: {seen:?}");
}

fn random_rules(scene: &Scene<'_>, faulty: Faulty, seed: u64) {
    let calls = [
        Call::Lookup,
        Call::GetAttr,
        Call::Chmod,
        Call::SetTimes,
        Call::ReadLink,
        Call::MakeNode,
        Call::MakeDir,
        Call::MakeSymlink,
        Call::RemoveDir,
        Call::Rename,
        Call::Open,
        Call::Create,
        Call::Read,
        Call::Write,
        Call::Flush,
        Call::OpenDir,
        Call::ReadDir,
        Call::ReadDirMore,
    ];
    let rules = scene.fs.faults();
    rules.seed(seed);
    let errnos: &[Errno] = match faulty {
        Faulty::Source => &SOURCE_ERRNOS,
        Faulty::Dest if seed.is_multiple_of(2) => &DEST_ERRNOS[..4],
        Faulty::Dest => &DEST_ERRNOS,
    };
    for errno in errnos {
        let rule = scene.rule(&calls, "*", Effect::Fail(*errno));
        rules.inject(rule.percent(1));
    }
    let moves = [Call::Read, Call::Write, Call::ReadDir, Call::ReadDirMore];
    rules.inject(scene.rule(&moves, "*", Effect::Short(2)).percent(5));
    rules.inject(scene.rule(&[Call::Entry], "*", Effect::Twice).percent(5));
}
