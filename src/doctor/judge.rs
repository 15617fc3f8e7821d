//! What the facts mean for a sync. Pure: facts in, findings out.

use std::fmt::Write;

use indicatif::{HumanBytes, HumanCount};

use super::machine::Machine;
use super::place::Place;
use super::trial::Trial;
use super::{Can, Finding, Level};
use crate::detect::mounts::Mount;
use crate::error::Side;

/// Descriptors that are enough for every shard to keep its directories open.
const DESCRIPTORS_WANTED: u64 = 4096;
/// Under this, listings and buffers of a large run come near the limit.
const MEMORY_WANTED: u64 = 512 << 20;
/// With less than this share of a filesystem free, a sync may well end in the middle.
const FREE_PERCENT_WANTED: u64 = 5;
/// Every name on Linux fits in this.
const NAME_BYTES_WANTED: u64 = 255;

/// A finding that needs no comment.
pub(super) fn fact(what: &'static str, value: impl Into<String>) -> Finding {
    Finding {
        what,
        value: value.into(),
        level: Level::Fine,
        advice: None,
    }
}

impl Finding {
    pub(super) fn advise(mut self, level: Level, advice: impl Into<String>) -> Self {
        self.level = level;
        self.advice = Some(advice.into());
        self
    }

    /// Adds advice when `concerned`.
    pub(super) fn advise_if(self, concerned: bool, level: Level, advice: &str) -> Self {
        if concerned {
            self.advise(level, advice)
        } else {
            self
        }
    }
}

/// What can be done, with advice for the case that it cannot.
fn ability(what: &'static str, can: &Can, level: Level, advice: &str) -> Finding {
    fact(what, can.words()).advise_if(can.is_no(), level, advice)
}

fn bytes(count: Option<u64>) -> String {
    count.map_or_else(
        || String::from("unknown"),
        |count| HumanBytes(count).to_string(),
    )
}

/// `6.18.1-x` is (6, 18).
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

pub(super) fn machine(facts: &Machine) -> Vec<Finding> {
    let old = kernel_version(&facts.kernel).is_some_and(|version| version < (5, 8));
    let mut findings = vec![
        fact("kernel", &facts.kernel).advise_if(
            old,
            Level::Problem,
            "ringsync needs Linux 5.8 or later",
        ),
        io_uring(facts),
    ];
    if facts.io_uring == Can::Yes {
        findings.push(io_uring_operations(facts));
        findings.push(ability(
            "io_uring workers",
            &facts.io_uring_workers,
            Level::Warning,
            "slow file systems (NFS) will be slower than they could be: Linux 5.15 or later lets ringsync have more of them",
        ));
    }
    findings.push(fact(
        "seccomp",
        match facts.seccomp {
            Some(0) => "no filter",
            Some(_) => "a filter is active",
            None => "unknown",
        },
    ));
    findings.push(fact(
        "locked memory",
        match facts.memlock {
            Some(limit) => format!("up to {}", HumanBytes(limit)),
            None => String::from("unlimited"),
        },
    ));
    findings.push(
        fact("file descriptors", format!("{} of at most {}", facts.descriptors_soft, facts.descriptors_hard)).advise_if(
            facts.descriptors_hard < DESCRIPTORS_WANTED,
            Level::Warning,
            "directories will be opened again and again: raise the hard limit to 65536 (`ulimit -Hn`, LimitNOFILE= of the systemd unit)",
        ),
    );
    findings.push(ability(
        "openat2",
        &facts.openat2,
        Level::Note,
        "names are opened one by one instead, which is as safe and somewhat slower (Linux 5.6 has it; a seccomp filter may hide it)",
    ));
    findings.push(cpus(facts));
    findings.push(memory(facts));
    findings.push(privileges(facts));
    findings
}

fn io_uring(facts: &Machine) -> Finding {
    let sysctl = facts.io_uring_disabled.map_or_else(String::new, |value| {
        format!(" (kernel.io_uring_disabled is {value})")
    });
    match &facts.io_uring {
        Can::Yes => fact("io_uring", format!("allowed{sysctl}")),
        Can::No(reason) | Can::Unknown(reason) => {
            fact("io_uring", format!("refused{sysctl}")).advise(Level::Problem, reason)
        }
    }
}

fn io_uring_operations(facts: &Machine) -> Finding {
    if facts.io_uring_lacks.is_empty() {
        return fact("io_uring can", "all that ringsync asks of it");
    }
    let missing = facts.io_uring_lacks.join(", ");
    fact("io_uring cannot", missing).advise(
        Level::Note,
        "threads do that instead, which matters on slow file systems only; a later kernel has it",
    )
}

fn cpus(facts: &Machine) -> Finding {
    let Machine {
        cpus_allowed,
        cpus_online,
        cpu_quota,
        ..
    } = facts;
    let mut value = format!("{cpus_allowed} of {cpus_online} may be used");
    if let Some(quota) = cpu_quota {
        let _ = write!(value, ", for {quota:.1} CPUs' worth of time");
    }
    let finding = fact("CPUs", value);
    #[allow(clippy::cast_precision_loss)] // A count of CPUs.
    let is_throttled = |quota: &f64| *quota + 0.5 < *cpus_allowed as f64;
    match cpu_quota.filter(is_throttled) {
        Some(quota) => finding.advise(
            Level::Warning,
            format!(
                "the control group stops all of them when that time is used up: --cores {:.0} fits better",
                quota.round().max(1.0)
            ),
        ),
        None => finding.advise_if(
            cpus_allowed < cpus_online,
            Level::Note,
            "a cpuset or an affinity keeps this process from the others",
        ),
    }
}

fn memory(facts: &Machine) -> Finding {
    let mut value = format!(
        "{}, {} available",
        bytes(facts.memory_total),
        bytes(facts.memory_available)
    );
    if let Some(limit) = facts.memory_limit {
        let _ = write!(value, "; the control group may use {}", HumanBytes(limit));
    }
    let limits = [facts.memory_limit, facts.memory_total];
    let least = limits.into_iter().flatten().min();
    fact("memory", value).advise_if(
        least.is_some_and(|least| least < MEMORY_WANTED),
        Level::Warning,
        "little for directories with millions of entries; a run that grows beyond it is killed, and the same command continues",
    )
}

fn privileges(facts: &Machine) -> Finding {
    if !facts.root {
        return fact("user", "not root").advise(
            Level::Note,
            "owners, devices, and trusted attributes are not carried, and only what this user may read is copied",
        );
    }
    let missing = &facts.capabilities_missing;
    if missing.is_empty() {
        return fact("user", "root");
    }
    fact("user", format!("root without {}", missing.join(", "))).advise(
        Level::Warning,
        "what these allow fails entry by entry (owners, modes, devices, or trusted attributes); a container gets them with --cap-add",
    )
}

pub(super) fn place(facts: &Place) -> Vec<Finding> {
    let mut findings = vec![access(facts)];
    let reachable = facts.mount.is_some() || facts.bytes_total.is_some();
    if let Some(point) = &facts.not_mounted {
        findings.push(
            fact("mount point", format!("{point} of /etc/fstab")).advise(
                Level::Warning,
                "nothing is mounted there, so this is the directory below it",
            ),
        );
    }
    if let Some(mount) = &facts.mount {
        findings.push(fact(
            "file system",
            format!("{} ({})", mount.filesystem, mount.from),
        ));
        findings.push(options(mount, facts.side));
    }
    if reachable {
        findings.push(space(facts));
        findings.push(inodes(facts));
        findings.push(names(facts));
        findings.push(fact(
            "links of a file",
            facts.links_max.map_or_else(
                || String::from("limit unknown"),
                |max| format!("up to {}", HumanCount(max)),
            ),
        ));
        findings.push(fact("birth times", facts.birth_times.words()));
        findings.extend(attributes(facts));
    }
    if let Some(trial) = &facts.trial {
        findings.extend(tried(trial));
    }
    findings
}

/// Whether it can be used for its side at all.
fn access(facts: &Place) -> Finding {
    let problem = |value: &str, reason: &str| {
        let advice = format!("it cannot be used as a {}: {reason}", facts.side.name());
        fact("access", value).advise(Level::Problem, advice)
    };
    let read_only = facts.mount.as_ref().is_some_and(Mount::is_read_only);
    match (facts.side, &facts.usable, &facts.writable) {
        (_, Can::No(reason), _) if facts.exists => problem("not usable", reason),
        (_, Can::No(reason), _) => problem("it does not exist", reason),
        (Side::Source, ..) => fact("access", "can be listed"),
        (_, _, _) if read_only => problem("read-only", "its file system is mounted read-only"),
        (_, _, Can::No(reason)) => problem("not writable", reason),
        (_, _, Can::Unknown(_)) if !facts.exists => fact("access", "it does not exist and can be made").advise(
            Level::Note,
            "what its file system can do was only looked up, not tried out; make the directory to have that done",
        ),
        _ => fact("access", "can be listed and written to"),
    }
}

fn options(mount: &Mount, side: Side) -> Finding {
    let finding = fact("mount options", mount.options.join(","));
    if mount.is_nfs() && (mount.has("soft") || mount.has("softerr")) {
        return finding.advise(
            Level::Warning,
            "a soft mount turns a slow server into I/O errors in the middle of a sync: mount it hard, and let --timeout end a run that hangs",
        );
    }
    if mount.is_nfs() && (mount.has("sync") || mount.has("noac")) {
        return finding.advise(
            Level::Warning,
            "sync and noac make each call wait for the server: without them a sync is many times faster",
        );
    }
    if mount.is_nfs() && mount.value("nconnect").is_none() {
        return finding.advise(
            Level::Note,
            "one connection carries everything; nconnect=4 to 16 helps where the network is faster than one connection",
        );
    }
    if side == Side::Source && mount.has("strictatime") {
        return finding.advise(
            Level::Note,
            "each read writes an access time; relatime or noatime spares that",
        );
    }
    finding.advise_if(
        mount.is_remote(),
        Level::Note,
        "calls may wait for another machine or process; ringsync then makes many at a time (--io-depth)",
    )
}

fn is_scarce(free: Option<u64>, total: Option<u64>) -> bool {
    free.zip(total)
        .is_some_and(|(free, total)| free < total / 100 * FREE_PERCENT_WANTED)
}

fn space(facts: &Place) -> Finding {
    let (free, total) = (facts.bytes_free, facts.bytes_total);
    let scarce = facts.side == Side::Destination && is_scarce(free, total);
    fact("space", format!("{} free of {}", bytes(free), bytes(total))).advise_if(
        scarce,
        Level::Warning,
        "nearly full; a run that fills it ends with exit code 11, and the same command continues",
    )
}

fn inodes(facts: &Place) -> Finding {
    let (Some(free), Some(total)) = (facts.inodes_free, facts.inodes_total) else {
        return fact("inodes", "made as needed");
    };
    let scarce = facts.side == Side::Destination && is_scarce(Some(free), Some(total));
    fact(
        "inodes",
        format!("{} free of {}", HumanCount(free), HumanCount(total)),
    )
    .advise_if(
        scarce,
        Level::Warning,
        "nearly used up: no file can be made without one, however much space is left",
    )
}

fn names(facts: &Place) -> Finding {
    let Some(max) = facts.name_bytes_max else {
        return fact("names", "limit unknown");
    };
    let short = facts.side == Side::Destination && max < NAME_BYTES_WANTED;
    fact("names", format!("up to {max} bytes")).advise_if(
        short,
        Level::Warning,
        "longer names of the source fail, each by itself",
    )
}

fn attributes(facts: &Place) -> Vec<Finding> {
    let is_dest = facts.side == Side::Destination;
    let level = if is_dest { Level::Warning } else { Level::Fine };
    let attribute = |what, can: &Can, advice| {
        if is_dest {
            ability(what, can, level, advice)
        } else {
            fact(what, can.words())
        }
    };
    vec![
        attribute(
            "xattrs user",
            &facts.xattrs_user,
            "-X cannot be carried here",
        ),
        attribute(
            "xattrs trusted",
            &facts.xattrs_trusted,
            "root's own attributes are not carried by -X (overlayfs and some stores use them)",
        ),
        attribute(
            "xattrs security",
            &facts.xattrs_security,
            "file capabilities and labels are not carried by -X",
        ),
        if facts.nfs4_acls == Can::Yes {
            fact(
                "NFSv4 ACLs",
                "yes: -A carries them between places that have them",
            )
        } else {
            attribute("POSIX ACLs", &facts.acls, "-A cannot be carried here")
        },
    ]
}

fn tried(trial: &Trial) -> Vec<Finding> {
    let warn = |what, can: &Can, advice| ability(what, can, Level::Warning, advice);
    let mut findings = vec![
        fact("reflinks", trial.reflinks.words()),
        fact("... from source", trial.reflinks_from_source.words()),
        fact("copy_file_range", trial.copy_file_range.words()),
        fact("... from source", trial.copy_file_range_from_source.words()),
        fact("O_TMPFILE", trial.unnamed_files.words()),
        warn(
            "hole punching",
            &trial.punch_holes,
            "holes cannot be made in files that have data there already",
        ),
        ability(
            "SEEK_DATA",
            &trial.find_holes,
            Level::Note,
            "holes of files that are read from here are read as zeros",
        ),
        times(trial.time_step_ns),
        warn(
            "before 1970",
            &trial.times_before_1970,
            "files that old are copied again in each run",
        ),
        warn(
            "after 2038",
            &trial.times_after_2038,
            "files from then are copied again in each run (an ext4 with 128-byte inodes, or XFS without bigtime)",
        ),
        warn(
            "case",
            &trial.case_sensitive,
            "of two such names in a directory of the source, only one arrives",
        ),
        warn(
            "long names",
            &trial.names_of_255_bytes,
            "names of 255 bytes fail, each by itself",
        ),
        warn(
            "any bytes",
            &trial.names_of_any_bytes,
            "names that are not UTF-8, or hold characters such as : ? * | fail, each by itself",
        ),
        warn(
            "symlinks",
            &trial.symlinks,
            "those of the source fail, each by itself",
        ),
        warn(
            "hard links",
            &trial.hard_links,
            "-H cannot be carried here: each name becomes a file",
        ),
        warn(
            "fifos",
            &trial.fifos,
            "fifos, sockets and devices fail: --no-specials --no-devices leaves them out",
        ),
        warn(
            "modes",
            &trial.modes,
            "each run repairs them in vain: --no-perms leaves them out",
        ),
        warn(
            "owners",
            &trial.owners,
            "each run repairs them in vain: --no-owner --no-group leaves them out; an NFS server may squash root (no_root_squash lets it be)",
        ),
    ];
    if let Some(left) = &trial.left_behind {
        findings.push(fact("left behind", left.as_str()).advise(
            Level::Warning,
            "the directory in which this was tried out could not be removed: remove it",
        ));
    }
    findings
}

fn times(step_ns: Option<u64>) -> Finding {
    const SECOND: u64 = 1_000_000_000;
    match step_ns {
        None => fact("times", "cannot be set").advise(
            Level::Warning,
            "every file is copied again in each run: use --size-only or -c, with --no-times",
        ),
        Some(1) => fact("times", "kept to the nanosecond"),
        Some(step) if step < SECOND => fact("times", format!("kept to {step} ns")).advise(
            Level::Warning,
            "use --modify-window 1, or files with finer times are copied again in each run",
        ),
        Some(SECOND) => fact("times", "kept to the second"),
        Some(step) => fact("times", format!("kept to {} s", step / SECOND)).advise(
            Level::Warning,
            format!(
                "use --modify-window {}, or files are copied again in each run",
                step / SECOND
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is wrong in a case.
    type Change<T> = fn(&mut T);

    fn yes() -> Can {
        Can::Yes
    }

    fn no() -> Can {
        Can::No(String::from("because"))
    }

    fn good_machine() -> Machine {
        Machine {
            kernel: String::from("6.18.1-generic"),
            io_uring: yes(),
            io_uring_disabled: Some(0),
            io_uring_lacks: Vec::new(),
            io_uring_workers: yes(),
            seccomp: Some(0),
            memlock: None,
            descriptors_soft: 1024,
            descriptors_hard: 1 << 20,
            cpus_online: 8,
            cpus_allowed: 8,
            cpu_quota: None,
            memory_total: Some(16 << 30),
            memory_available: Some(8 << 30),
            memory_limit: None,
            cgroup_version: Some(2),
            openat2: yes(),
            root: true,
            capabilities_missing: Vec::new(),
        }
    }

    fn good_trial() -> Trial {
        Trial {
            reflinks: yes(),
            reflinks_from_source: yes(),
            copy_file_range: yes(),
            copy_file_range_from_source: yes(),
            unnamed_files: yes(),
            punch_holes: yes(),
            find_holes: yes(),
            xattrs_user: yes(),
            xattrs_trusted: yes(),
            xattrs_security: yes(),
            acls: yes(),
            time_step_ns: Some(1),
            times_before_1970: yes(),
            times_after_2038: yes(),
            case_sensitive: yes(),
            names_of_255_bytes: yes(),
            names_of_any_bytes: yes(),
            symlinks: yes(),
            hard_links: yes(),
            fifos: yes(),
            modes: yes(),
            owners: yes(),
            left_behind: None,
        }
    }

    fn good_place(side: Side) -> Place {
        Place {
            shown: String::from("/place"),
            side,
            exists: true,
            usable: yes(),
            mount: None,
            not_mounted: None,
            bytes_total: Some(1 << 40),
            bytes_free: Some(1 << 39),
            inodes_total: Some(1000),
            inodes_free: Some(500),
            name_bytes_max: Some(255),
            links_max: Some(65_000),
            birth_times: yes(),
            xattrs_user: yes(),
            xattrs_trusted: yes(),
            xattrs_security: yes(),
            acls: yes(),
            nfs4_acls: no(),
            trial: (side == Side::Destination).then(good_trial),
            writable: yes(),
        }
    }

    fn mount(filesystem: &str, options: &[&str]) -> Mount {
        Mount {
            id: 1,
            point: "/place".into(),
            filesystem: filesystem.to_owned(),
            from: String::from("somewhere"),
            options: options.iter().map(|it| (*it).to_owned()).collect(),
        }
    }

    fn worst(findings: &[Finding]) -> Level {
        findings.iter().map(|it| it.level).max().unwrap()
    }

    /// The advice of all findings that have some.
    fn advice(findings: &[Finding]) -> String {
        let advice = findings.iter().filter_map(|it| it.advice.as_deref());
        advice.collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn nothing_is_said_where_all_is_well() {
        assert_eq!(worst(&machine(&good_machine())), Level::Fine);
        for side in [Side::Source, Side::Destination] {
            let findings = place(&good_place(side));
            assert_eq!(worst(&findings), Level::Fine, "{findings:?}");
        }
    }

    #[test]
    fn each_trouble_of_a_machine_is_told_with_its_remedy() {
        let machine_of = |change: fn(&mut Machine)| {
            let mut facts = good_machine();
            change(&mut facts);
            machine(&facts)
        };
        let cases: [(Change<Machine>, Level, &str); 9] = [
            (
                |it| it.kernel = String::from("5.4.0"),
                Level::Problem,
                "5.8",
            ),
            (|it| it.io_uring = no(), Level::Problem, "because"),
            (|it| it.io_uring_workers = no(), Level::Warning, "5.15"),
            (
                |it| it.io_uring_lacks = vec!["rename"],
                Level::Note,
                "threads",
            ),
            (
                |it| it.descriptors_hard = 1024,
                Level::Warning,
                "LimitNOFILE",
            ),
            (|it| it.cpu_quota = Some(1.5), Level::Warning, "--cores 2"),
            (|it| it.cpus_allowed = 2, Level::Note, "cpuset"),
            (
                |it| it.memory_limit = Some(64 << 20),
                Level::Warning,
                "millions",
            ),
            (|it| it.root = false, Level::Note, "owners"),
        ];
        for (change, level, words) in cases {
            let findings = machine_of(change);
            assert_eq!(worst(&findings), level, "{words}");
            assert!(advice(&findings).contains(words), "{}", advice(&findings));
        }
    }

    #[test]
    fn each_trouble_of_a_destination_is_told_with_its_remedy() {
        let cases: [(Change<Place>, Level, &str); 12] = [
            (
                |it| it.usable = no(),
                Level::Problem,
                "cannot be used as a destination",
            ),
            (|it| it.writable = no(), Level::Problem, "because"),
            (
                |it| it.mount = Some(mount("ext4", &["ro"])),
                Level::Problem,
                "mounted read-only",
            ),
            (
                |it| it.mount = Some(mount("nfs4", &["soft"])),
                Level::Warning,
                "mount it hard",
            ),
            (
                |it| it.mount = Some(mount("nfs", &["hard", "noac"])),
                Level::Warning,
                "noac",
            ),
            (
                |it| it.mount = Some(mount("nfs4", &["hard"])),
                Level::Note,
                "nconnect",
            ),
            (
                |it| it.mount = Some(mount("fuse.sshfs", &["rw"])),
                Level::Note,
                "--io-depth",
            ),
            (
                |it| it.not_mounted = Some(String::from("/mnt")),
                Level::Warning,
                "nothing is mounted",
            ),
            (|it| it.bytes_free = Some(1), Level::Warning, "exit code 11"),
            (|it| it.inodes_free = Some(1), Level::Warning, "without one"),
            (
                |it| it.name_bytes_max = Some(143),
                Level::Warning,
                "longer names",
            ),
            (|it| it.acls = no(), Level::Warning, "-A"),
        ];
        for (change, level, words) in cases {
            let mut facts = good_place(Side::Destination);
            change(&mut facts);
            let findings = place(&facts);
            assert_eq!(worst(&findings), level, "{words}: {findings:?}");
            assert!(advice(&findings).contains(words), "{}", advice(&findings));
        }
    }

    #[test]
    fn what_did_not_work_is_told_with_its_remedy() {
        let cases: [(Change<Trial>, &str); 8] = [
            (
                |it| it.time_step_ns = Some(2_000_000_000),
                "--modify-window 2",
            ),
            (|it| it.time_step_ns = Some(100), "--modify-window 1"),
            (|it| it.time_step_ns = None, "--size-only"),
            (|it| it.case_sensitive = no(), "only one arrives"),
            (|it| it.names_of_any_bytes = no(), "UTF-8"),
            (|it| it.modes = no(), "--no-perms"),
            (|it| it.owners = no(), "no_root_squash"),
            (|it| it.left_behind = Some(String::from("it")), "remove it"),
        ];
        for (change, words) in cases {
            let mut facts = good_place(Side::Destination);
            change(facts.trial.as_mut().unwrap());
            let findings = place(&facts);
            assert_eq!(worst(&findings), Level::Warning, "{words}: {findings:?}");
            assert!(advice(&findings).contains(words), "{}", advice(&findings));
        }
    }

    #[test]
    fn a_read_only_source_is_fine_and_a_missing_one_is_not() {
        let mut facts = good_place(Side::Source);
        facts.mount = Some(mount("ext4", &["ro"]));
        assert_eq!(worst(&place(&facts)), Level::Fine);
        facts.exists = false;
        facts.usable = no();
        assert_eq!(worst(&place(&facts)), Level::Problem);
    }

    #[test]
    fn kernels_are_compared_as_numbers() {
        assert_eq!(kernel_version("6.18.1-x"), Some((6, 18)));
        assert!(kernel_version("5.15.0").unwrap() > (5, 8));
        assert_eq!(kernel_version("unknown"), None);
    }
}
