//! A bucket as a tree: a key is a path, and what ends at its last slash is its directory. Requests run on threads of their own,
//! where the SDK needs its executor; shards wait for them as for every other call that takes its time.

mod about;
mod attributes;
mod copy;
mod delete;
mod dir;
mod failure;
mod listing;
mod object;
mod probe;
mod store;
mod tree;
mod turns;
mod unfinished;
mod upload;
mod url;

pub use attributes::Form;
pub use probe::Probe;
pub use store::{Options, PART_BYTES, Shared, Store};
pub use tree::{ObjectFs, Ways, root};
pub use turns::Turns;
pub use unfinished::Unfinished;
pub use url::Url;
