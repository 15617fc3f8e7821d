//! What machine and process have: memory, control groups, mounts. Asked at the start of a run, and by `doctor`.

pub mod cgroup;
pub mod memory;
pub mod mounts;
