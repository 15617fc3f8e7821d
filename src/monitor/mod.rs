//! What is known of a run while it runs: latencies of each core, samples once in a while, and what became of the limits.

pub mod listen;
mod log;
pub mod prometheus;
pub mod recorder;
pub mod sampler;
pub mod snapshot;
mod usage;

pub use recorder::{Latencies, Recorder};
pub use sampler::{Controllers, RequestFigures, Sampler, Sources};
pub use snapshot::{
    Board, Change, Core, Event, History, Latency, Load, Point, SizeBucket, SlowDirectory, Snapshot,
};
