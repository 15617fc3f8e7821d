//! What a run tells the world, entry by entry. The engine sends; who listens is decided by the composition root.

use super::action::Attrs;
use super::entry::Kind;
use crate::error::Error;

/// What happened to one name of the destination (or would, in a dry run).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    Create,
    /// New contents under an existing name: seen by reading them, or by another size or time.
    Replace {
        contents: bool,
        size: bool,
        attrs: Attrs,
    },
    Repair(Attrs),
    /// A hard link to a name that was made before. `existed`: in place of another inode.
    Link {
        existed: bool,
    },
    Delete,
}

/// Whose an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
}

/// One change.
#[derive(Clone, Debug)]
pub struct Item {
    pub what: What,
    pub kind: Kind,
    /// Relative to the root; raw bytes. Empty for the root itself.
    pub path: Vec<u8>,
    /// Of a symlink, what it points to; of a hard link, the name that it is linked to.
    pub target: Option<Vec<u8>>,
    /// Of an entry that was there before: whose it was, and whose it is.
    pub owners: Option<(Ids, Ids)>,
}

/// Where items and errors go. Sending an error never blocks; sending an item may wait for a slow reader.
pub trait Sink: Send + Sync {
    fn error(&self, error: Error);

    fn item(&self, item: Item);

    /// Whether anybody looks at items; when not, callers need not build them.
    fn wants_items(&self) -> bool;
}
