//! ringsync as a library: the engine that `ringsync sync SRC DST` runs. The map of the modules is at the top of
//! `main.rs`.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod cli;
pub mod config;
pub mod control;
pub mod detect;
pub mod doctor;
pub mod error;
pub mod io;
pub mod model;
pub mod monitor;
pub mod report;
pub mod run;
pub mod s3;
pub mod shard;
pub mod state;
pub mod throttle;
pub mod transfer;
