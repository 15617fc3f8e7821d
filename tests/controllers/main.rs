//! The controllers against simulated plants: servers that saturate, collapse, hang or come in bursts, machines whose memory
//! follows a limit late. Time is simulated; every random choice is proptest's, which prints it.
#![allow(clippy::unwrap_used, clippy::expect_used)]
// Plants are estimates; their numbers are small and positive.
#![allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod depth;
mod machine;
mod pacer;
mod server;
mod tuner;
