//! What is remembered of large files that were copied in part (`--partial`): digests of their chunks.

use super::Meta;
use super::unchanged::looks;

/// Stands for the contents of a source file: as long as it looks so, they are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u128);

impl Version {
    #[must_use]
    pub fn of(file: &Meta) -> Self {
        Self(looks([file.ino, file.size], [file.mtime, file.ctime]).digest128())
    }

    /// Few bits of it, for names.
    #[must_use]
    #[allow(clippy::cast_possible_truncation)] // So few are wanted.
    pub fn short(self) -> u32 {
        self.0 as u32
    }
}

/// The chunk with a number, counted from 0, and the digest of what it holds.
pub type ChunkDigest = (u64, u128);

/// Stands for an inode, so that another one that has its name is not taken for it.
#[must_use]
pub fn identity(file: &Meta) -> u128 {
    looks([file.ino], [file.btime]).digest128()
}

/// In the place of a chunk's number: the [`identity`] of the file that the chunks were written to.
pub const INODE: u64 = u64::MAX;

/// The digests that earlier runs left, and this one leaves.
pub trait Chunks: Send + Sync {
    /// What is known of a file, in no order.
    fn known(&self, file: Version) -> Vec<ChunkDigest>;

    /// A chunk was written. That may get lost: then the chunk is written again.
    fn note(&self, file: Version, chunk: ChunkDigest);

    /// All of the file is written.
    fn forget(&self, file: Version);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::unchanged::tests::file;

    #[test]
    fn a_version_is_another_one_when_the_contents_may_be() {
        let file = file();
        let changes: [fn(&mut Meta); 5] = [
            |meta| meta.ino += 1,
            |meta| meta.size += 1,
            |meta| meta.mtime.nsec += 1,
            |meta| meta.ctime.nsec += 1,
            |meta| std::mem::swap(&mut meta.mtime, &mut meta.ctime),
        ];
        for change in changes {
            let mut other = file;
            change(&mut other);
            assert_ne!(Version::of(&other), Version::of(&file), "{other:?}");
        }
        // How it was asked about makes no difference.
        let listed = Meta {
            dev: 2,
            nlink: 2,
            ..file
        };
        assert_eq!(Version::of(&listed), Version::of(&file));
    }
}
