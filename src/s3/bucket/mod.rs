//! Buckets that can be reached: the connection to one, and what the operations of a tree are there.

mod about;
mod attributes;
mod checksum;
mod clock;
mod copy;
mod delete;
mod dir;
mod endpoint;
mod failure;
mod listing;
mod object;
mod probe;
mod ranges;
mod store;
mod subtree;
mod tree;
mod turns;
mod unfinished;
mod upload;

pub use store::{Shared, Store};
pub use tree::{ObjectFs, root};
pub use turns::Turns;

use super::{options, url};
