//! The parts of the view.

pub(super) mod compact;
pub(super) mod cores;
pub(super) mod counters;
pub(super) mod errors;
pub(super) mod events;
pub(super) mod graphs;
pub(super) mod latencies;
pub(super) mod slowest;
pub(super) mod throttles;
