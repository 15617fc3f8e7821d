//! Pure types and rules: what an entry is, how two entries compare, what to do about it. No I/O, no clock, no async.

pub mod action;
pub mod checksum;
pub mod chunks;
pub mod compare;
pub mod copies;
pub mod entry;
pub mod event;
pub mod filter;
pub mod listing;
pub mod meter;
pub mod path;
pub mod size;
pub mod symlink;
pub mod tally;
pub mod unchanged;
pub mod xattr;

pub use action::{Action, Attrs, SkipReason};
pub use compare::{Policy, decide, decide_contents};
pub use entry::{Kind, Meta, Time};
pub use event::{Ids, Item, Sink, What};
pub use listing::{Entry, Listing, State};
pub use meter::{Instruments, Meter, OpClass, RequestKind, RequestMeter, Timed, Wait};
pub use symlink::Symlinks;
pub use tally::Tally;
pub use xattr::{Carried, XattrChange, Xattrs};
