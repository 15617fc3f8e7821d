//! What NFS has that disks have not.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::support::full::{set_xattr, xattrs};
use super::support::snap::assert_equal_trees;
use super::support::tree::{Time, set_mtime, write_noise};
use super::support::{ringsync, sync};
use super::{DISK, EXPORT, MOUNT, Mounted, forget, on_disk, on_nfs, on_server, system, version};

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn names_of_removed_files_that_are_open_are_left_alone() {
    let (local, remote) = (on_disk(), on_nfs());
    let (dir, copy) = (remote.dir("dir"), local.dir("copy"));
    fs::write(dir.join("kept"), "kept").unwrap();
    fs::write(dir.join("open"), "open").unwrap();
    fs::write(dir.join(".nfs-notes"), "a user's").unwrap();
    let open = File::open(dir.join("open")).unwrap();
    fs::remove_file(dir.join("open")).unwrap();
    let names = |dir: &Path| {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(&dir).len(),
        3,
        "the client has renamed it: {:?}",
        names(&dir)
    );
    sync("auto", &[], &dir, &copy).exits(0);
    assert_eq!(names(&copy), [".nfs-notes", "kept"]);
    let back = sync("auto", &["--delete", "-i"], &copy, &dir);
    assert!(
        back.exits(0)
            .itemized()
            .iter()
            .all(|line| !line.contains("deleting"))
    );
    assert_eq!(names(&dir).len(), 3);
    drop(open);
    // The client removes it behind our back.
    let began = Instant::now();
    while names(&dir) != [".nfs-notes", "kept"] {
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}",
            names(&dir)
        );
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn extended_attributes_and_nfs4_acls_are_carried_where_both_have_them() {
    if version() == "3" {
        return;
    }
    let remote = on_nfs();
    let (src, dst) = (remote.dir("src"), remote.dir("dst"));
    fs::write(src.join("file"), "x").unwrap();
    fs::create_dir(src.join("dir")).unwrap();
    set_xattr(&src.join("file"), b"user.note", b"mine");
    // What a server makes of a POSIX ACL.
    let on_server = on_server(&src);
    system(&format!(
        "setfacl -m u:1000:r,g:1001:rw {}",
        on_server.join("file").display()
    ));
    system(&format!(
        "setfacl -d -m u:1000:rwx {}",
        on_server.join("dir").display()
    ));
    system("sleep 0.1");
    let acl = |path: &Path| xattrs(path).remove(b"system.nfs4_acl".as_slice()).unwrap();
    sync("auto", &["-A", "-X"], &src, &dst).exits(0);
    for name in ["file", "dir"] {
        assert_eq!(acl(&src.join(name)), acl(&dst.join(name)), "{name}");
    }
    assert_eq!(xattrs(&dst.join("file"))[b"user.note".as_slice()], b"mine");
    assert_equal_trees(&src, &dst);
    let again = sync("auto", &["-A", "-X", "-i"], &src, &dst);
    assert_eq!(again.exits(0).itemized(), Vec::<String>::new());
    // Where there is none of the kind, what says more than a mode is told, and what does not is the mode.
    let local = on_disk();
    let refused = sync("auto", &["-A", "--json"], &src, local.path());
    assert_eq!(refused.exits(23).count("errors"), 2);
    let mode = fs::metadata(local.path().join("file"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(
        mode & 0o070,
        0,
        "what somebody named may do is not the group's: {mode:o}"
    );
    fs::remove_file(src.join("file")).unwrap();
    fs::remove_dir(src.join("dir")).unwrap();
    fs::write(src.join("plain"), "x").unwrap();
    fs::set_permissions(src.join("plain"), fs::Permissions::from_mode(0o640)).unwrap();
    sync("auto", &["-A"], &src, local.path()).exits(0);
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn a_server_copies_what_it_has_itself() {
    if version() == "3" {
        return;
    }
    let remote = on_nfs();
    let (src, dst) = (remote.dir("src"), remote.dir("dst"));
    write_noise(&src.join("large"), 24 << 20, 3);
    system("sync");
    let before = super::requests::counts(Path::new(MOUNT));
    sync("auto", &[], &src, &dst).exits(0);
    let asked = super::requests::since(&before, Path::new(MOUNT));
    assert_equal_trees(&src, &dst);
    assert!(
        asked.contains_key("COPY") && !asked.contains_key("WRITE"),
        "{asked:?}"
    );
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn times_that_a_server_cuts_are_equal() {
    // Inodes of 128 bytes keep whole seconds.
    let image = Path::new("/run/local/coarse.img");
    File::create(image).unwrap().set_len(64 << 20).unwrap();
    system(&format!("mkfs.ext4 -q -I 128 {}", image.display()));
    let coarse = Path::new(EXPORT).join("coarse");
    fs::create_dir_all(&coarse).unwrap();
    system(&format!(
        "mount -o loop {} {}",
        image.display(),
        coarse.display()
    ));
    system(&format!(
        "exportfs -i -o rw,no_root_squash,no_subtree_check,insecure,fsid=9 *:{}",
        coarse.display()
    ));
    let point = if version() == "3" {
        coarse.clone()
    } else {
        Path::new("/coarse").to_owned()
    };
    let mounted = Path::new("/run/coarse");
    fs::create_dir_all(mounted).unwrap();
    let options = format!("vers={},nolock,proto=tcp", version());
    system(&format!(
        "mount -t nfs -o {options} 127.0.0.1:{} {}",
        point.display(),
        mounted.display()
    ));
    let local = on_disk();
    fs::create_dir(local.path().join("dir")).unwrap();
    for number in 0..5_u32 {
        let file = local.path().join(format!("dir/f{number}"));
        fs::write(&file, "x").unwrap();
        set_mtime(
            &file,
            Time {
                sec: 1_600_000_000,
                nsec: 123_456_789 + number,
            },
        );
    }
    let dst = mounted.join("dst");
    sync("auto", &[], local.path(), &dst).exits(0);
    let again = sync("auto", &["--json"], local.path(), &dst);
    assert_eq!(again.exits(0).count("files_copied"), 0);
    system(&format!("umount {}", mounted.display()));
    system(&format!("exportfs -u *:{}", coarse.display()));
    system(&format!("umount -l {}", coarse.display()));
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn holes_stay_where_the_client_is_told_of_them() {
    const SIZE: u64 = 40 << 20;
    let (remote, local) = (on_nfs(), on_disk());
    let (src, dst) = (remote.dir("src"), local.dir("dst"));
    let file = File::create(src.join("file")).unwrap();
    file.set_len(SIZE).unwrap();
    file.write_all_at(&[b'd'; 10_000], SIZE / 2).unwrap();
    drop(file);
    forget();
    for options in [&[][..], &["-S", "-I"]] {
        sync("auto", options, &src, &dst).exits(0);
        let [source, copy] = [&src, &dst].map(|root| fs::read(root.join("file")).unwrap());
        assert!(source == copy);
        // v3 has no words for holes: there only zeros that are looked for become some.
        if version() != "3" || !options.is_empty() {
            let blocks = fs::metadata(dst.join("file")).unwrap().blocks();
            assert!(blocks * 512 < SIZE / 8, "{options:?}: {blocks} blocks");
        }
    }
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn another_clients_change_is_seen_by_the_next_run() {
    // The change is made on the server: to it, two mounts of this machine are one client, that gives back no delegation to itself.
    let other = Mounted::new("other", "nosharecache,actimeo=1");
    let remote = on_nfs();
    let local = on_disk();
    let src = remote.dir("src");
    for number in 0..20 {
        fs::write(src.join(format!("f{number}")), "first").unwrap();
    }
    let seen_by_other = other.path().join(src.strip_prefix(MOUNT).unwrap());
    sync("auto", &[], &seen_by_other, local.path()).exits(0);
    let server = on_server(&src);
    let file = File::options().write(true).open(server.join("f7")).unwrap();
    file.write_all_at(b"other", 0).unwrap();
    drop(file);
    fs::write(server.join("new"), "new").unwrap();
    // As long as its client may believe what it knew.
    thread::sleep(Duration::from_millis(1500));
    sync("auto", &[], &seen_by_other, local.path()).exits(0);
    assert_equal_trees(&server, local.path());
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn a_second_change_is_not_hidden_by_what_a_client_remembers() {
    // A client that believes what it knows for ten minutes.
    let slow = Mounted::new("slow", "nosharecache,actimeo=600");
    let (remote, local) = (on_nfs(), on_disk());
    let state = local.path().join("state");
    let remembering = ["--incremental", "--state", state.to_str().unwrap()];
    for (name, options) in [("plain", &[][..]), ("remembered", &remembering)] {
        let (src, dst) = (remote.dir(name), local.dir(name));
        fs::create_dir(src.join("sub")).unwrap();
        fs::write(src.join("sub/file"), "first").unwrap();
        // What is remembered has to be older than a tick of the server's clock, of which nothing is known but the times it gave.
        thread::sleep(Duration::from_millis(2500));
        fs::write(src.join("later"), "").unwrap();
        let seen = slow.path().join(src.strip_prefix(MOUNT).unwrap());
        // A directory that a run changed is not passed over by the next one.
        for _ in 0..2 {
            sync("auto", options, &seen, &dst).exits(0);
        }
        // Another client changes the file again, and keeps its size.
        let server = on_server(&src);
        let mtime = || {
            fs::metadata(seen.join("sub/file"))
                .unwrap()
                .modified()
                .unwrap()
        };
        let known = mtime();
        fs::write(server.join("sub/file"), "other").unwrap();
        assert_eq!(mtime(), known, "the client knows nothing of it");
        sync("auto", options, &seen, &dst).exits(0);
        assert_eq!(fs::read(dst.join("sub/file")).unwrap(), b"other", "{name}");
        assert_equal_trees(&server, &dst);
    }
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn a_destination_that_comes_or_goes_on_the_server_is_no_obstacle() {
    let slow = Mounted::new("slow", "nosharecache,actimeo=600");
    let (remote, local) = (on_nfs(), on_disk());
    let parent = remote.dir("parent");
    fs::write(local.path().join("file"), "here").unwrap();
    let (gone, came) = (parent.join("gone"), parent.join("came"));
    let seen = |path: &Path| slow.path().join(path.strip_prefix(MOUNT).unwrap());
    fs::create_dir(&gone).unwrap();
    seen(&gone).metadata().unwrap();
    seen(&came).metadata().unwrap_err();
    fs::remove_dir(on_server(&gone)).unwrap();
    fs::create_dir(on_server(&came)).unwrap();
    for dst in [&gone, &came] {
        sync("auto", &[], local.path(), &seen(dst)).exits(0);
        assert_equal_trees(local.path(), &on_server(dst));
    }
}

#[test]
#[ignore = "runs in a guest: tests/nfs/run"]
fn doctor_names_what_is_mounted() {
    let told = ringsync(&["doctor", DISK, MOUNT]);
    let told = told.exits(0).out();
    let version = format!("vers={}", version());
    assert!(told.contains(&version), "{told}");
    let acls = if version == "vers=3" {
        "POSIX ACLs         yes"
    } else {
        "NFSv4 ACLs         yes"
    };
    assert!(told.contains(acls), "{told}");
}
