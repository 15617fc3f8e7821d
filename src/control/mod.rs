//! Pure controllers: samples and time go in, decisions come out. No clock, no I/O, no async.

pub mod bounds;
pub mod depth;
pub mod hysteresis;
pub mod outage;
pub mod pacer;
pub mod requests;
pub mod retry;
pub mod router;
mod start;
mod trial;
pub mod tuner;
pub mod watch;
pub mod zone;
