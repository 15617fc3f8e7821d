//! Filesystem operations: one description of each ([`Op`]), one result ([`Reply`]), three ways to run it.
//! The engine sees a filesystem only through [`Fs`]. The only `unsafe` code of ringsync is in this module.

mod again;
mod attrs;
mod beneath;
mod buffer;
mod depth;
mod direct;
pub mod inline;
pub mod local;
pub mod op;
pub mod probe;
pub mod ring;
mod small;
mod sqe;

pub use buffer::{Buffer, DIRECT_BYTES};
pub use depth::{DEPTH_MAX, Depth};
pub use local::{EngineChoice, LocalFs, LocalFsOptions};
pub use op::{Change, Fs, Handle, Links, Op, OpError, Outcome, Pending, Reply, Target};
pub use small::{InOneGo, SmallCopy};
