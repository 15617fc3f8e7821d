//! Control groups, version 1 and 2: what they allow this process.

use std::fs;
use std::path::{Path, PathBuf};

/// Files of /proc and /sys; one that is not there says nothing.
fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What the control groups of a process allow.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cgroup {
    /// 1 or 2.
    pub version: Option<u32>,
    /// CPUs' worth of time.
    pub cpu_quota: Option<f64>,
    /// Bytes: the lowest limit of all groups that the process is in.
    pub memory_limit: Option<u64>,
}

impl Cgroup {
    /// Those of this process.
    #[must_use]
    pub fn own() -> Self {
        Self::of(&read("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"))
    }

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
}
