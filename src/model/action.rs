//! What is to be done about one name.

use std::ops::{BitOr, Sub};

/// A set of metadata attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attrs(u8);

impl Attrs {
    pub const NONE: Self = Self(0);
    pub const MODE: Self = Self(1);
    pub const OWNER: Self = Self(2);
    pub const GROUP: Self = Self(4);
    pub const TIMES: Self = Self(8);
    pub const ACLS: Self = Self(16);
    pub const XATTRS: Self = Self(32);
    /// Whatever a listing does not tell of an object, and asking for it would.
    pub const UNASKED: Self = Self(64);

    #[must_use]
    pub const fn all() -> Self {
        Self(127)
    }

    #[must_use]
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// `self` when `wanted` is true, else the empty set.
    #[must_use]
    pub fn when(self, wanted: bool) -> Self {
        if wanted { self } else { Self::NONE }
    }
}

impl BitOr for Attrs {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Sub for Attrs {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Why a name that could have been acted on is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Nothing differs.
    Equal,
    /// `--update`, and the destination is newer.
    DestinationNewer,
    /// `--existing`, and the destination lacks the name.
    NotExisting,
    /// `--ignore-existing`, and the destination has the name.
    Existing,
    /// Devices or specials that this run does not carry (no privilege, or switched off).
    KindExcluded,
    /// `--max-size` or `--min-size`.
    SizeExcluded,
}

/// The verdict on one name of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Skip(SkipReason),
    /// The destination has nothing under this name.
    Create,
    /// Same kind, other contents: file data, symlink target or device number.
    Replace,
    /// Same contents; only these attributes differ. Never empty.
    Repair(Attrs),
    /// Another kind is in the way; it is removed first, then as `Create`.
    Supplant,
    /// Size and kind agree and the policy wants the contents read: [`super::decide_contents`] decides.
    CompareContents,
}

impl Action {
    /// Whether contents may be copied.
    #[must_use]
    pub fn copies(self) -> bool {
        !matches!(self, Self::Skip(_) | Self::Repair(_))
    }
}
