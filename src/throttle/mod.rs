//! Global limits across cores: what may begin, taken and given back by RAII; and the switch that ends a run.

pub mod admission;
pub mod cancel;
pub mod coordinator;
pub mod gauge;
pub mod permit;
mod waiters;

pub use admission::{Admission, Admit, DirPermit, IndexLease};
pub use cancel::{Cancel, Reason};
pub use coordinator::{Coordinator, CoordinatorLimits};
pub use gauge::{Gauge, Resource};
pub use permit::{Budget, Lease, Permit, Semaphore};
