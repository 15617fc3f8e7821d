//! A bucket as a tree: a key is a path, and what ends at its last slash is its directory. Requests run on threads of their own,
//! where the SDK needs its executor; shards wait for them as for every other call that takes its time.

mod attributes;
mod failure;
mod listing;
mod object;
mod store;
mod tree;
mod url;

pub use attributes::Form;
pub use store::{Options, Store};
pub use tree::{ObjectFs, root};
pub use url::Url;
