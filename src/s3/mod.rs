//! A bucket as a tree: a key is a path, and what ends at its last slash is its directory. Requests run on threads of their own,
//! where the SDK needs its executor; shards wait for them as for every other call that takes its time.

#[cfg(feature = "s3")]
mod about;
#[cfg(not(feature = "s3"))]
mod absent;
#[cfg(feature = "s3")]
mod attributes;
#[cfg(feature = "s3")]
mod checksum;
#[cfg(feature = "s3")]
mod clock;
#[cfg(feature = "s3")]
mod copy;
#[cfg(feature = "s3")]
mod delete;
#[cfg(feature = "s3")]
mod dir;
#[cfg(feature = "s3")]
mod endpoint;
#[cfg(feature = "s3")]
mod failure;
#[cfg(feature = "s3")]
mod listing;
#[cfg(feature = "s3")]
mod object;
mod options;
#[cfg(feature = "s3")]
mod probe;
#[cfg(feature = "s3")]
mod ranges;
#[cfg(feature = "s3")]
mod store;
#[cfg(feature = "s3")]
mod subtree;
#[cfg(feature = "s3")]
mod tree;
#[cfg(feature = "s3")]
mod turns;
#[cfg(feature = "s3")]
mod unfinished;
#[cfg(feature = "s3")]
mod upload;
mod url;

#[cfg(not(feature = "s3"))]
pub use absent::{ObjectFs, Shared, Store, Turns, root};
pub use options::{Form, Listing, Options, PART_BYTES, Probe, Trial, Unfinished, Ways};
#[cfg(feature = "s3")]
pub use store::{Shared, Store};
#[cfg(feature = "s3")]
pub use tree::{ObjectFs, root};
#[cfg(feature = "s3")]
pub use turns::Turns;
pub use url::Url;
