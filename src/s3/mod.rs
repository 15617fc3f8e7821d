//! A bucket as a tree: a key is a path, and what ends at its last slash is its directory. Requests run on threads of their own,
//! where the SDK needs its executor; shards wait for them as for every other call that takes its time.

#[cfg(not(feature = "s3"))]
mod absent;
#[cfg(feature = "s3")]
mod bucket;
mod options;
mod url;

#[cfg(not(feature = "s3"))]
pub use absent::{ObjectFs, Shared, Store, Turns, root};
#[cfg(feature = "s3")]
pub use bucket::{ObjectFs, Shared, Store, Turns, root};
pub use options::{Form, Listing, Options, PART_BYTES, Probe, Trial, Unfinished, Ways};
pub use url::Url;
