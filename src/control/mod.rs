//! Pure controllers: samples and time go in, decisions come out. No clock, no I/O, no async.

pub mod router;
pub mod watch;
