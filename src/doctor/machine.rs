//! Facts about the machine and about this process on it.

use std::fs;
use std::path::Path;

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use serde::Serialize;

use super::Can;
use crate::detect::cgroup::Cgroup;
use crate::io::probe;
use crate::run::limits;

/// What was found. Numbers that the kernel does not tell are absent.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Machine {
    pub(super) kernel: String,
    pub(super) io_uring: Can,
    /// `kernel.io_uring_disabled`: 0 allowed, 1 for some, 2 for nobody.
    pub(super) io_uring_disabled: Option<u32>,
    /// Operations that this kernel's io_uring lacks; they run on threads.
    pub(super) io_uring_lacks: Vec<&'static str>,
    /// Whether the number of the kernel's worker threads can be chosen.
    pub(super) io_uring_workers: Can,
    /// Mode of the seccomp filter on this process: 0 none, 2 a filter.
    pub(super) seccomp: Option<u32>,
    /// Soft limit in bytes; absent when unlimited.
    pub(super) memlock: Option<u64>,
    pub(super) descriptors_soft: u64,
    pub(super) descriptors_hard: u64,
    pub(super) cpus_online: usize,
    pub(super) cpus_allowed: usize,
    /// CPUs' worth of time that the cgroup may use.
    pub(super) cpu_quota: Option<f64>,
    pub(super) memory_total: Option<u64>,
    pub(super) memory_available: Option<u64>,
    /// The lowest limit of the cgroups that this process is in.
    pub(super) memory_limit: Option<u64>,
    /// 1 or 2.
    pub(super) cgroup_version: Option<u32>,
    pub(super) openat2: Can,
    pub(super) root: bool,
    /// Capabilities that root usually has, that ringsync uses, and that this process lacks.
    pub(super) capabilities_missing: Vec<&'static str>,
}

impl Machine {
    pub(super) fn gather() -> Self {
        let status = read("/proc/self/status");
        let (descriptors_soft, descriptors_hard) =
            getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
        let meminfo = read("/proc/meminfo");
        let cgroup = Cgroup::own();
        let allowed = limits::allowed_cpus().len();
        let root = limits::is_privileged();
        Self {
            kernel: kernel(),
            io_uring: match probe::check_io_uring() {
                Ok(()) => Can::Yes,
                Err(reason) => Can::No(reason),
            },
            io_uring_disabled: read("/proc/sys/kernel/io_uring_disabled")
                .trim()
                .parse()
                .ok(),
            io_uring_lacks: probe::unsupported_operations()
                .unwrap_or_default()
                .into_iter()
                .map(crate::error::OpKind::verb)
                .collect(),
            io_uring_workers: match probe::check_worker_limit() {
                Ok(()) => Can::Yes,
                Err(error) => Can::No(error.to_string()),
            },
            seccomp: field(&status, "Seccomp:").and_then(|value| value.parse().ok()),
            memlock: getrlimit(Resource::RLIMIT_MEMLOCK)
                .ok()
                .map(|(soft, _)| soft)
                .filter(|soft| *soft != RLIM_INFINITY),
            descriptors_soft,
            descriptors_hard,
            cpus_online: count_cpus(&read("/sys/devices/system/cpu/online")).unwrap_or(allowed),
            cpus_allowed: allowed,
            cpu_quota: cgroup.cpu_quota,
            memory_total: kibibytes(&meminfo, "MemTotal:"),
            memory_available: kibibytes(&meminfo, "MemAvailable:"),
            memory_limit: cgroup.memory_limit,
            cgroup_version: cgroup.version,
            openat2: check_openat2(),
            root,
            capabilities_missing: if root {
                field(&status, "CapEff:").map_or_else(Vec::new, capabilities_missing)
            } else {
                Vec::new()
            },
        }
    }
}

/// Files of /proc and /sys; one that is not there says nothing.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn kernel() -> String {
    let name = nix::sys::utsname::uname();
    name.map_or_else(
        |_| String::from("unknown"),
        |name| name.release().to_string_lossy().into_owned(),
    )
}

fn check_openat2() -> Can {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Can::of(openat2(CWD, ".", flags, Mode::empty(), resolve))
}

/// The value after a name at the start of a line.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

fn kibibytes(meminfo: &str, name: &str) -> Option<u64> {
    let value = field(meminfo, name)?.strip_suffix("kB")?;
    value.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// How many CPUs are in a list such as `0-3,8`.
fn count_cpus(list: &str) -> Option<usize> {
    let mut count = 0;
    for part in list.trim().split(',') {
        let (first, end) = part.split_once('-').unwrap_or((part, part));
        let (first, end): (usize, usize) = (first.parse().ok()?, end.parse().ok()?);
        count += end.checked_sub(first)? + 1;
    }
    Some(count)
}

/// The bits of <linux/capability.h> that a complete copy needs.
const CAPABILITIES: [(u32, &str); 6] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (3, "CAP_FOWNER"),
    (4, "CAP_FSETID"),
    (21, "CAP_SYS_ADMIN"),
    (27, "CAP_MKNOD"),
];

fn capabilities_missing(effective: &str) -> Vec<&'static str> {
    let Ok(bits) = u64::from_str_radix(effective, 16) else {
        return Vec::new();
    };
    let missing = CAPABILITIES.iter().filter(|(bit, _)| bits >> bit & 1 == 0);
    missing.map(|(_, name)| *name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_counted() {
        assert_eq!(count_cpus("0-3,8\n"), Some(5));
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus(""), None);
        assert_eq!(count_cpus("3-1"), None);
    }

    #[test]
    fn capabilities_are_read_from_their_bits() {
        assert!(capabilities_missing("000001ffffffffff").is_empty());
        // Docker's usual set.
        assert_eq!(capabilities_missing("00000000a80425fb"), ["CAP_SYS_ADMIN"]);
        assert_eq!(capabilities_missing("0").len(), CAPABILITIES.len());
    }

    #[test]
    fn this_machine_tells_something() {
        let machine = Machine::gather();
        assert!(machine.cpus_allowed >= 1 && machine.cpus_online >= machine.cpus_allowed);
        assert!(machine.memory_total.unwrap() > machine.memory_available.unwrap());
        assert!(machine.descriptors_soft <= machine.descriptors_hard);
    }
}
