//! Global limits across cores: each is a pool of permits, taken and given back by RAII; and the switch that ends a run.

pub mod cancel;
pub mod permit;

pub use cancel::{Cancel, Reason};
pub use permit::{Budget, Lease, Permit, Semaphore};
