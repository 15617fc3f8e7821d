//! The backends of io/ do the same things: every operation inline and on the ring with its pool, and what happens to
//! operations that nobody waits for.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use futures_util::future::{join_all, poll_immediate};
use glommio::{LocalExecutorBuilder, Placement, PoolPlacement};
use nix::errno::Errno;
use ringsync::error::OpKind;
use ringsync::io::Depth;
use ringsync::io::ring::RingOptions;
use ringsync::io::{
    Buffer, Change, EngineChoice, Fs, Handle, Links, LocalFs, LocalFsOptions, Op, OpError, Reply,
    Target,
};
use ringsync::model::{Instruments, Kind, Listing, Meta, State, Time};

const ENGINES: [EngineChoice; 3] = [EngineChoice::Inline, EngineChoice::Ring, EngineChoice::Auto];

/// Runs `test` on an executor of its own.
fn on_executor<F: Future<Output = ()> + 'static>(
    engine: EngineChoice,
    depth_max: u32,
    test: impl FnOnce(LocalFs) -> F + Send + 'static,
) {
    LocalExecutorBuilder::new(Placement::Unbound)
        .blocking_thread_pool_placement(PoolPlacement::Unbound(3))
        .spawn(move || async move {
            let ring = RingOptions {
                depth: Depth::new(depth_max),
            };
            let options = LocalFsOptions { engine, ring };
            test(LocalFs::start(options, &Instruments::default()).unwrap()).await;
        })
        .unwrap()
        .join()
        .unwrap();
}

fn root(path: &Path) -> Handle {
    let dir = File::open(path).unwrap();
    let dev = dir.metadata().unwrap().dev();
    Handle::new(dir.into(), dev)
}

async fn opened(fs: &LocalFs, op: Op) -> (Handle, Meta) {
    match fs.start(op).await.unwrap() {
        Reply::Opened(handle, meta) => (handle, meta),
        other => panic!("{other:?}"),
    }
}

async fn done(fs: &LocalFs, op: Op) {
    let reply = fs.start(op).await.unwrap();
    assert!(matches!(reply, Reply::Done), "{reply:?}");
}

fn name(name: &CStr) -> CString {
    name.to_owned()
}

async fn write_and_read(fs: &LocalFs, at: &Handle) {
    let create = || Op::Create {
        at: at.clone(),
        name: name(c"file"),
        mode: 0o600,
        readable: true,
    };
    let (file, meta) = opened(fs, create()).await;
    assert_eq!((meta.kind, meta.mode, meta.size), (Kind::File, 0o600, 0));
    let again = fs.start(create()).await.unwrap_err();
    let expected = OpError {
        kind: OpKind::Create,
        errno: Errno::EEXIST,
    };
    assert_eq!(again, expected);
    let mut buffer = Buffer::new(10);
    buffer.copy_from_slice(b"0123456789");
    let write = Op::Write {
        file: file.clone(),
        buffer,
        range: 2..8,
        offset: 4,
    };
    let Ok(Reply::Moved(_, 6)) = fs.start(write).await else {
        panic!("a short write of six bytes");
    };
    let read = Op::Read {
        file: file.clone(),
        buffer: Buffer::new(16),
        offset: 3,
    };
    let Ok(Reply::Moved(buffer, count)) = fs.start(read).await else {
        panic!("a read fails");
    };
    assert_eq!(&buffer[..count], b"\x00234567");
    done(
        fs,
        Op::Truncate {
            file: file.clone(),
            len: 6,
        },
    )
    .await;
    let stat = Op::Stat {
        target: Target::Open(file.clone()),
    };
    let Ok(Reply::Meta(meta)) = fs.start(stat).await else {
        panic!("a stat fails");
    };
    assert_eq!(meta.size, 6);
    done(fs, Op::Close { file }).await;
}

#[allow(clippy::too_many_lines)] // One stanza for each operation.
async fn change_names(fs: &LocalFs, at: &Handle) {
    let to = |name: &CStr| (at.clone(), name.to_owned());
    let (at_dir, dir) = to(c"dir");
    done(
        fs,
        Op::MakeDir {
            at: at_dir,
            name: dir,
            mode: 0o700,
        },
    )
    .await;
    let (at_link, link) = to(c"link");
    let target = name(c"some where");
    done(
        fs,
        Op::MakeSymlink {
            at: at_link.clone(),
            name: link.clone(),
            target,
        },
    )
    .await;
    let read_link = Op::ReadLink {
        at: at_link,
        name: link,
    };
    let Ok(Reply::Link(target)) = fs.start(read_link).await else {
        panic!("a readlink fails");
    };
    assert_eq!(target.as_c_str(), c"some where");
    let (at_fifo, fifo) = to(c"fifo");
    let (kind, mode, rdev) = (Kind::Fifo, 0o640, 0);
    done(
        fs,
        Op::MakeNode {
            at: at_fifo,
            name: fifo,
            kind,
            mode,
            rdev,
        },
    )
    .await;
    let (from, from_name) = to(c"file");
    let (to_dir, to_name) = to(c"second");
    done(
        fs,
        Op::Link {
            from,
            from_name,
            to: to_dir,
            to_name,
        },
    )
    .await;
    let (at_second, second) = to(c"second");
    done(
        fs,
        Op::Rename {
            at: at_second,
            from: second,
            to: name(c"third"),
        },
    )
    .await;
    let (at_third, third) = to(c"third");
    done(
        fs,
        Op::Unlink {
            at: at_third.clone(),
            name: third.clone(),
        },
    )
    .await;
    let gone = fs
        .start(Op::Unlink {
            at: at_third,
            name: third,
        })
        .await
        .unwrap_err();
    assert_eq!((gone.kind, gone.errno), (OpKind::Unlink, Errno::ENOENT));
    let (at_dir, dir) = to(c"dir");
    let place = Op::OpenPlace {
        at: at_dir.clone(),
        name: dir.clone(),
    };
    let (inode, _) = opened(fs, place).await;
    let change = Change {
        mode: Some(0o1755),
        mtime: Some(Time { sec: -5, nsec: 6 }),
        atime: Some(Time { sec: 7, nsec: 8 }),
        ..Change::default()
    };
    done(fs, Op::SetAttrs { inode, change }).await;
    let (_, meta) = opened(
        fs,
        Op::OpenDir {
            at: at_dir.clone(),
            name: dir.clone(),
            links: Links::Refuse,
        },
    )
    .await;
    assert_eq!((meta.mode, meta.mtime), (0o1755, Time { sec: -5, nsec: 6 }));
    assert_eq!(meta.atime, Some(Time { sec: 7, nsec: 8 }));
    done(
        fs,
        Op::RemoveDir {
            at: at_dir,
            name: dir,
        },
    )
    .await;
    let through_link = Op::OpenDir {
        at: at.clone(),
        name: name(c"link"),
        links: Links::Refuse,
    };
    let refused = fs.start(through_link).await.unwrap_err();
    assert!(
        matches!(refused.errno, Errno::ELOOP | Errno::ENOTDIR),
        "{refused:?}"
    );
}

/// The names, with what statx says of them; the last one is gone before it is asked.
async fn list_and_stat(fs: &LocalFs, path: &Path, at: &Handle) {
    fs::write(path.join("vanishes"), "").unwrap();
    let (dir, _) = opened(
        fs,
        Op::OpenDir {
            at: at.clone(),
            name: name(c"."),
            links: Links::Refuse,
        },
    )
    .await;
    let mut listing = Listing::default();
    loop {
        let op = Op::ReadDir {
            dir: dir.clone(),
            listing,
        };
        let Ok(Reply::Listed {
            listing: read,
            more,
        }) = fs.start(op).await
        else {
            panic!("a listing fails");
        };
        listing = read;
        if !more {
            break;
        }
    }
    fs::remove_file(path.join("vanishes")).unwrap();
    for entry in &mut listing.entries {
        entry.state = State::Wanted;
    }
    let range = 0..listing.len();
    let Ok(Reply::Listed { listing, .. }) = fs
        .start(Op::StatMany {
            dir,
            listing,
            range,
        })
        .await
    else {
        panic!("a batch of statx fails");
    };
    let mut seen: Vec<_> = listing
        .entries
        .iter()
        .map(|entry| {
            (
                listing.name(entry).to_str().unwrap(),
                entry.state,
                entry.kind(),
            )
        })
        .collect();
    seen.sort_unstable_by_key(|(name, ..)| *name);
    let enoent = u16::try_from(Errno::ENOENT as i32).unwrap();
    let expected = [
        ("fifo", State::Known, Some(Kind::Fifo)),
        ("file", State::Known, Some(Kind::File)),
        ("link", State::Known, Some(Kind::Symlink)),
        ("vanishes", State::Failed(enoent), Some(Kind::File)),
    ];
    assert_eq!(seen, expected);
}

#[test]
fn every_operation_does_the_same_on_every_backend() {
    for engine in ENGINES {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        on_executor(engine, 4, move |fs| async move {
            let at = root(&path);
            write_and_read(&fs, &at).await;
            change_names(&fs, &at).await;
            list_and_stat(&fs, &path, &at).await;
        });
        let mode = fs::metadata(dir.path().join("file"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{engine:?}");
    }
}

#[test]
fn more_operations_than_the_depth_wait_for_their_turn() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..500 {
        fs::write(dir.path().join(format!("file{i}")), format!("{i}")).unwrap();
    }
    let path = dir.path().to_owned();
    on_executor(EngineChoice::Ring, 3, move |fs| async move {
        let at = root(&path);
        let sizes = (0..500).map(|i| {
            let name = CString::new(format!("file{i}")).unwrap();
            opened(
                &fs,
                Op::Open {
                    links: Links::Refuse,
                    at: at.clone(),
                    name,
                },
            )
        });
        for (i, (_, meta)) in join_all(sizes).await.into_iter().enumerate() {
            assert_eq!(meta.size, i.to_string().len() as u64);
        }
    });
}

/// How many descriptors of this process point to files below `dir`.
fn descriptors_below(dir: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd").unwrap();
    let targets = all.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    targets
        .filter(|target| target.starts_with(dir) && target != dir)
        .count()
}

/// Futures are dropped when their operations are with the kernel, or wait for room: the kernel's writes go to memory that
/// is still there, other operations are not held up, and descriptors that come back to nobody are closed.
#[test]
fn abandoned_operations_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    for i in 0..200 {
        fs::write(dir.path().join(format!("file{i}")), vec![b'a'; 4096]).unwrap();
    }
    let path = dir.path().to_owned();
    on_executor(EngineChoice::Ring, 8, move |fs| async move {
        let at = root(&path);
        let (file, _) = opened(
            &fs,
            Op::Open {
                at: at.clone(),
                name: name(c"file0"),
                links: Links::Refuse,
            },
        )
        .await;
        let before = descriptors_below(&path);
        for round in 0..50 {
            let mut abandoned = Vec::new();
            for i in 0..20 {
                let name = CString::new(format!("file{}", (round * 20 + i) % 200)).unwrap();
                abandoned.push(fs.start(Op::Open {
                    links: Links::Refuse,
                    at: at.clone(),
                    name,
                }));
                let buffer = Buffer::new(4096);
                let (file, offset) = (file.clone(), 0);
                abandoned.push(fs.start(Op::Read {
                    file,
                    buffer,
                    offset,
                }));
            }
            for pending in &mut abandoned {
                assert!(
                    poll_immediate(pending)
                        .await
                        .is_none_or(|outcome| outcome.is_ok())
                );
            }
            drop(abandoned);
            // What comes after them is served.
            let (_, meta) = opened(
                &fs,
                Op::Open {
                    at: at.clone(),
                    name: name(c"file1"),
                    links: Links::Refuse,
                },
            )
            .await;
            assert_eq!(meta.size, 4096);
        }
        // The last completions are on their way; each turn of the executor takes some in.
        for _ in 0..1000 {
            if descriptors_below(&path) <= before {
                return;
            }
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        panic!(
            "{before} descriptors before, {} after",
            descriptors_below(&path)
        );
    });
}
