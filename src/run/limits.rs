//! What this process may use: CPUs, descriptors, identity.

use nix::sched::sched_getaffinity;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::{Pid, getegid, geteuid, getgroups};

/// The CPUs that this process may run on, in order. The kernel has applied the cgroup's cpuset to the mask already.
#[must_use]
pub fn allowed_cpus() -> Vec<usize> {
    let Ok(mask) = sched_getaffinity(Pid::from_raw(0)) else {
        return vec![0];
    };
    let cpus = (0..nix::sched::CpuSet::count()).filter(|&cpu| mask.is_set(cpu).unwrap_or(false));
    let cpus: Vec<usize> = cpus.collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Raises the limit of open descriptors to its hard limit. Returns what holds now.
#[must_use]
pub fn raise_descriptor_limit() -> u64 {
    /// What POSIX promises to every process.
    const DESCRIPTORS_MIN: u64 = 20;
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return DESCRIPTORS_MIN;
    };
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    }
}

#[must_use]
pub fn is_privileged() -> bool {
    geteuid().is_root()
}

/// Effective user.
#[must_use]
pub fn own_uid() -> u32 {
    geteuid().as_raw()
}

/// The groups that this process may give its files to, sorted.
#[must_use]
pub fn own_groups() -> Vec<u32> {
    let mut groups: Vec<u32> = getgroups()
        .unwrap_or_default()
        .into_iter()
        .map(nix::unistd::Gid::as_raw)
        .collect();
    groups.push(getegid().as_raw());
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Clears the umask, so that files get exactly the modes that they are made with. Returns what it was.
#[must_use]
pub fn clear_umask() -> u32 {
    nix::sys::stat::umask(nix::sys::stat::Mode::empty()).bits()
}

/// The signals that whoever started this process had it ignore: bit `number - 1` of each.
#[must_use]
pub fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.unwrap_or(0)
}
