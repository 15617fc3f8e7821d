//! What goes wrong in a simulated world, and when.

use nix::errno::Errno;
use ringsync::error::{OpKind, Side};

use super::changes::Manner;
use super::rng::Rng;

/// Whether listings tell the types of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Types {
    #[default]
    Told,
    /// Of every second name, as where two filesystems are stacked.
    Sometimes,
    Unknown,
}

/// The operation with this number (counted from 0, over both sides) fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) errno: Errno,
}

/// Everything that a world does to those who work in it. Rates are per thousand operations.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools)] // Each is one property of a world, and they combine freely.
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) fault: Option<Fault>,
    /// Any operation may fail, once.
    pub(crate) faults: usize,
    /// Chosen combinations of an inode and an operation fail whenever they meet.
    pub(crate) sticky_faults: usize,
    /// Random faults hit this kind of operation only.
    pub(crate) only: Option<OpKind>,
    /// Faults may be of the kind that ends a run.
    pub(crate) fatal_faults: bool,
    /// Faults whose victim cannot tell them from another process at work.
    pub(crate) racing_faults: bool,
    pub(crate) source_changes: usize,
    pub(crate) dest_changes: usize,
    pub(crate) dest_manner: Manner,
    /// The world ends with this operation, as for a process that is killed.
    pub(crate) crash_at: Option<usize>,
    /// Completions come up to so many turns of the executor late.
    pub(crate) turns_late_max: usize,
    /// Calls are said to block, so that many are started at once.
    pub(crate) slow: bool,
    /// Names that one getdents64 returns.
    pub(crate) names_per_read: usize,
    /// Bytes that one read, write or copy moves: POSIX allows short counts anywhere.
    pub(crate) bytes_per_call: usize,
    pub(crate) types: Types,
    /// Names that a listing tells twice.
    pub(crate) repeats: usize,
    /// Names that a listing of a directory that changes meanwhile leaves out.
    pub(crate) omissions: usize,
    /// The filesystem shares blocks and copies by itself.
    pub(crate) clones: bool,
    pub(crate) copies: bool,
    /// A file has its final name only when it is complete.
    pub(crate) atomic: bool,
    /// Full directories that are in the way may go.
    pub(crate) may_supplant_trees: bool,
    /// Names that the source lacks may go.
    pub(crate) may_delete: bool,
}

impl Default for Plan {
    /// A world where nothing goes wrong, apart from short counts.
    fn default() -> Self {
        Self {
            seed: 0,
            fault: None,
            faults: 0,
            sticky_faults: 0,
            only: None,
            fatal_faults: false,
            racing_faults: false,
            source_changes: 0,
            dest_changes: 0,
            dest_manner: Manner::Any,
            crash_at: None,
            turns_late_max: 0,
            slow: false,
            names_per_read: 3,
            bytes_per_call: 5,
            types: Types::Told,
            repeats: 0,
            omissions: 0,
            clones: false,
            copies: false,
            atomic: true,
            may_supplant_trees: true,
            may_delete: true,
        }
    }
}

impl Plan {
    /// The errno with which an operation fails now, if it does. `subject` is the inode it works on, or its directory's.
    pub(super) fn errno(
        &self,
        rng: &mut Rng,
        at: usize,
        side: Side,
        kind: OpKind,
        subject: u64,
    ) -> Option<Errno> {
        if let Some(fault) = self.fault
            && fault.at == at
        {
            return Some(fault.errno);
        }
        if self.only.is_some_and(|only| only != kind) {
            return None;
        }
        if self.faults > 0 && rng.below(1000) < self.faults {
            return self.pick(rng, side, kind);
        }
        if self.sticky_faults > 0 {
            let mut own =
                Rng::new(self.seed ^ (subject << 8) ^ (kind as u64) ^ ((side as u64) << 7));
            if own.below(1000) < self.sticky_faults {
                return self.pick(&mut own, side, kind);
            }
        }
        None
    }

    fn pick(&self, rng: &mut Rng, side: Side, kind: OpKind) -> Option<Errno> {
        let allowed = |errno: &Errno| {
            let fatal = side == Side::Destination
                && matches!(errno, Errno::ENOSPC | Errno::EDQUOT | Errno::EROFS);
            (self.fatal_faults || !fatal) && (self.racing_faults || !needs_a_race(side, *errno))
        };
        let errnos: Vec<Errno> = errnos(side, kind).filter(allowed).collect();
        (!errnos.is_empty()).then(|| *rng.pick(&errnos))
    }
}

/// Errors that say that the name is not what it was a moment ago, where the engine has to believe it.
fn needs_a_race(side: Side, errno: Errno) -> bool {
    match errno {
        Errno::EEXIST | Errno::EISDIR | Errno::ENOTDIR | Errno::ENOTEMPTY => true,
        Errno::ENOENT => side == Side::Destination,
        _ => false,
    }
}

/// What each operation can really give, by its manual page and by what NFS, FUSE and broken disks add.
pub(crate) fn errnos(side: Side, kind: OpKind) -> impl Iterator<Item = Errno> {
    use Errno::{
        E2BIG, EACCES, EBADMSG, EBUSY, EDQUOT, EEXIST, EFBIG, EINVAL, EIO, EISDIR, ELOOP, EMFILE,
        EMLINK, ENFILE, ENOENT, ENOMEM, ENOSPC, ENOTDIR, ENOTEMPTY, ENXIO, EOPNOTSUPP, EOVERFLOW,
        EPERM, EROFS, ESTALE, ETIMEDOUT, ETXTBSY, EUCLEAN, EXDEV,
    };
    let always: &[Errno] = &[EIO, ESTALE, ETIMEDOUT, ENOMEM];
    let own: &[Errno] = match kind {
        OpKind::OpenDir => &[EACCES, ENOENT, ENOTDIR, ELOOP, EMFILE, ENFILE, EPERM],
        OpKind::ReadDir => &[EACCES, ENOENT, EBADMSG, EUCLEAN],
        OpKind::Stat => &[EACCES, ENOENT, EUCLEAN, EOVERFLOW],
        OpKind::Open => &[
            EACCES, EPERM, ENOENT, ELOOP, EMFILE, ENFILE, ENXIO, EBUSY, EOVERFLOW,
        ],
        OpKind::Create => &[
            EACCES, EPERM, ENOSPC, EDQUOT, EROFS, EEXIST, EMFILE, ENFILE, ENOENT,
        ],
        OpKind::Read => &[EACCES, EBADMSG, EUCLEAN],
        OpKind::Write => &[ENOSPC, EDQUOT, EFBIG, EPERM],
        OpKind::Close => &[ENOSPC, EDQUOT],
        OpKind::MakeDir | OpKind::MakeNode | OpKind::MakeSymlink => {
            &[EACCES, EPERM, ENOSPC, EDQUOT, EROFS, EMLINK, EEXIST, ENOENT]
        }
        OpKind::ReadLink => &[EACCES, EINVAL, ENOENT],
        OpKind::Link => &[EMLINK, EXDEV, EPERM, ENOSPC, EEXIST, EACCES, ENOENT],
        OpKind::Unlink => &[EACCES, EPERM, EBUSY, EROFS, ENOENT, ETXTBSY],
        OpKind::RemoveDir => &[EACCES, EPERM, EBUSY, EROFS, ENOTEMPTY],
        OpKind::Rename => &[EACCES, EPERM, EBUSY, ENOSPC, EDQUOT, EROFS, EISDIR, ENOENT],
        OpKind::SetOwner => &[EPERM, EACCES, EINVAL, EROFS, EDQUOT],
        OpKind::SetMode => &[EPERM, EACCES, EROFS],
        OpKind::SetTimes => &[EPERM, EACCES, EINVAL, EROFS],
        OpKind::CopyRange => &[EXDEV, EINVAL, EOPNOTSUPP, ENOSPC, EFBIG, ETXTBSY],
        OpKind::Clone => &[EXDEV, EINVAL, EOPNOTSUPP, ENOSPC, ETXTBSY, EPERM],
        OpKind::Truncate => &[ENOSPC, EFBIG, EPERM],
        OpKind::ReadXattrs => &[EACCES, EPERM, E2BIG],
        OpKind::SetXattrs => &[EACCES, EPERM, ENOSPC, EDQUOT, EOPNOTSUPP, EROFS, E2BIG],
        OpKind::SeekData => &[],
        // Operations to come get the common ones.
        #[allow(unreachable_patterns)]
        _ => &[EACCES, EPERM, ENOSPC],
    };
    // Only writers are told that there is no room, and nobody writes to a source.
    let writes_nothing = move |errno: &Errno| side == Side::Source && *errno == ENOSPC;
    always
        .iter()
        .chain(own)
        .copied()
        .filter(move |errno| !writes_nothing(errno))
}
