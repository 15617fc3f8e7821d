//! Facts about the machine and about this process on it.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use serde::Serialize;

use super::Can;
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
        let cgroup = Cgroup::of(&read("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
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

/// What the control groups of a process allow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Cgroup {
    version: Option<u32>,
    cpu_quota: Option<f64>,
    memory_limit: Option<u64>,
}

impl Cgroup {
    /// `own` is `/proc/self/cgroup`, `mount` where the hierarchies are mounted. Limits hold for everything below them, so all
    /// groups up to the root are asked.
    fn of(own: &str, mount: &Path) -> Self {
        let mut found = Self::default();
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            let has = |name: &str| controllers.split(',').any(|it| it == name);
            if controllers.is_empty() {
                found.version.get_or_insert(2);
                let base = [mount.to_owned(), mount.join("unified")]
                    .into_iter()
                    .find(|base| base.join("cgroup.controllers").exists());
                for dir in base.iter().flat_map(|base| upwards(base, path)) {
                    found.lower_memory(read(dir.join("memory.max")).trim().parse().ok());
                    found.lower_quota(quota_v2(&read(dir.join("cpu.max"))));
                }
            }
            if has("memory") {
                found.version = Some(1);
                for dir in upwards(&mount.join("memory"), path) {
                    let limit = read(dir.join("memory.limit_in_bytes")).trim().parse();
                    // Without a limit it is the largest number of pages that the kernel can count.
                    found.lower_memory(limit.ok().filter(|limit| *limit < i64::MAX as u64 / 2));
                }
            }
            if has("cpu") {
                found.version = Some(1);
                let base = [mount.join("cpu"), mount.join("cpu,cpuacct")];
                let base = base.into_iter().find(|base| base.exists());
                for dir in base.iter().flat_map(|base| upwards(base, path)) {
                    let quota = read(dir.join("cpu.cfs_quota_us"));
                    let period = read(dir.join("cpu.cfs_period_us"));
                    found.lower_quota(quota_v2(&format!("{} {}", quota.trim(), period.trim())));
                }
            }
        }
        found
    }

    fn lower_memory(&mut self, limit: Option<u64>) {
        self.memory_limit = [self.memory_limit, limit].into_iter().flatten().min();
    }

    fn lower_quota(&mut self, quota: Option<f64>) {
        let both = [self.cpu_quota, quota].into_iter().flatten();
        self.cpu_quota = both.min_by(f64::total_cmp);
    }
}

/// The directory of a group and of all groups above it. In a container the path may be that of the host, which is not there;
/// the mount's root is the own group then.
fn upwards(base: &Path, path: &str) -> Vec<PathBuf> {
    let own = base.join(path.trim_start_matches('/'));
    let dirs = own.ancestors().take_while(|dir| dir.starts_with(base));
    dirs.map(Path::to_owned).collect()
}

/// `QUOTA PERIOD` in microseconds; `max` (and -1 in version 1) is no limit.
fn quota_v2(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then(|| quota / period)
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

    fn write(path: PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_lowest_limit_of_all_groups_holds() {
        let mount = tempfile::tempdir().unwrap();
        let at = |path: &str| mount.path().join(path);
        write(at("cgroup.controllers"), "cpu memory");
        write(at("a/memory.max"), "1000000\n");
        write(at("a/cpu.max"), "max 100000\n");
        write(at("a/b/memory.max"), "2000000\n");
        write(at("a/b/cpu.max"), "150000 100000\n");
        let found = Cgroup::of("0::/a/b\n", mount.path());
        let expected = Cgroup {
            version: Some(2),
            cpu_quota: Some(1.5),
            memory_limit: Some(1_000_000),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn version_1_has_a_hierarchy_for_each_controller() {
        let mount = tempfile::tempdir().unwrap();
        let at = |path: &str| mount.path().join(path);
        write(at("memory/memory.limit_in_bytes"), "9223372036854771712\n");
        write(at("memory/job/memory.limit_in_bytes"), "536870912\n");
        write(at("cpu,cpuacct/job/cpu.cfs_quota_us"), "50000\n");
        write(at("cpu,cpuacct/job/cpu.cfs_period_us"), "100000\n");
        write(at("cpu,cpuacct/cpu.cfs_quota_us"), "-1\n");
        write(at("cpu,cpuacct/cpu.cfs_period_us"), "100000\n");
        let own = "4:memory:/job\n2:cpu,cpuacct:/job\n0::/\n";
        let found = Cgroup::of(own, mount.path());
        let expected = Cgroup {
            version: Some(1),
            cpu_quota: Some(0.5),
            memory_limit: Some(512 << 20),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn this_machine_tells_something() {
        let machine = Machine::gather();
        assert!(machine.cpus_allowed >= 1 && machine.cpus_online >= machine.cpus_allowed);
        assert!(machine.memory_total.unwrap() > machine.memory_available.unwrap());
        assert!(machine.descriptors_soft <= machine.descriptors_hard);
    }
}
