//! How much memory a run may use.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::cgroup::Cgroup;

/// Where nothing is told, and to be on the safe side: less than any machine that runs this has.
const BYTES_UNKNOWN: u64 = 1 << 30;

/// The memory of the machine and the limit on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// RAM, in bytes. Absent where the kernel does not tell.
    pub total: Option<u64>,
    /// The lowest limit of the control groups that the process is in, and their version.
    pub cgroup: Option<(u64, u32)>,
}

impl Memory {
    #[must_use]
    pub fn detect() -> Self {
        let memory = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
        let total = System::new_with_specifics(memory).total_memory();
        let cgroup = Cgroup::own();
        Self {
            total: (total > 0).then_some(total),
            cgroup: cgroup.memory_limit.zip(cgroup.version),
        }
    }

    /// Bytes: the smaller of RAM and the control groups' limit, never 0.
    #[must_use]
    pub fn limit(&self) -> u64 {
        let both = [self.total, self.cgroup.map(|(limit, _)| limit)];
        let limit = both.into_iter().flatten().min();
        limit.filter(|limit| *limit > 0).unwrap_or(BYTES_UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_both_is_the_limit_and_it_is_never_0() {
        let limit = |total, cgroup| Memory { total, cgroup }.limit();
        assert_eq!(limit(Some(100), None), 100);
        assert_eq!(limit(Some(100), Some((50, 2))), 50);
        assert_eq!(limit(Some(100), Some((200, 1))), 100);
        assert_eq!(limit(None, Some((50, 1))), 50);
        assert_eq!(limit(None, None), BYTES_UNKNOWN);
        assert_eq!(limit(Some(0), Some((0, 1))), BYTES_UNKNOWN);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(Memory::detect().limit() > 1 << 20);
    }
}
