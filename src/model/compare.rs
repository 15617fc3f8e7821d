//! The comparison: `decide` is pure and total, so the table below is all there is to know about it.

use super::action::{Action, Attrs, SkipReason};
use super::entry::{Kind, Meta, Time};
use super::xattr::Carried;

/// What counts as different, and which attributes are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // Each is one switch of the command line, and they combine freely.
pub struct Policy {
    /// Read both files and compare bytes when sizes agree (`--checksum`).
    pub compare_contents: bool,
    /// Files of equal size are equal (`--size-only`).
    pub compare_size_only: bool,
    /// Copy every file, however equal it looks (`--ignore-times`).
    pub copy_always: bool,
    /// Leave files that are newer on the destination (`--update`).
    pub keep_newer: bool,
    /// Only names that the destination has already (`--existing`).
    pub only_existing: bool,
    /// Only names that the destination lacks; directories are still walked (`--ignore-existing`).
    pub only_missing: bool,
    /// Timestamps that differ by at most so many seconds are equal; 0 compares nanoseconds.
    pub modify_window_s: u32,
    pub carry_mode: bool,
    pub carry_owner: bool,
    pub carry_group: bool,
    /// The groups that this process may give files to; `None` when privileged. A group beyond them is not a
    /// difference, because nothing could be done about it. Sorted.
    pub groups_settable: Option<&'static [u32]>,
    pub carry_times: bool,
    pub carry_devices: bool,
    pub carry_specials: bool,
    pub carry_symlinks: bool,
    /// Files of the destination have the time of when they were written, and no other.
    pub dest_keeps_no_times: bool,
    /// Extended attributes and ACLs.
    pub extended: Carried,
    /// Names of one inode stay names of one inode (`--hard-links`).
    pub carry_links: bool,
    /// Bytes that a regular file must have at least, and may have at most (`--min-size`, `--max-size`).
    pub size_min: u64,
    pub size_max: u64,
}

impl Policy {
    /// rsync's `-a` for a privileged user.
    #[must_use]
    pub fn archive() -> Self {
        Self {
            compare_contents: false,
            compare_size_only: false,
            copy_always: false,
            keep_newer: false,
            only_existing: false,
            only_missing: false,
            modify_window_s: 0,
            carry_mode: true,
            carry_owner: true,
            carry_group: true,
            groups_settable: None,
            carry_times: true,
            carry_devices: true,
            carry_specials: true,
            carry_symlinks: true,
            dest_keeps_no_times: false,
            extended: Carried::default(),
            carry_links: false,
            size_min: 0,
            size_max: u64::MAX,
        }
    }

    fn carries(&self, kind: Kind) -> bool {
        (self.carry_devices || !kind.is_device())
            && (self.carry_specials || !kind.is_special())
            && (self.carry_symlinks || kind != Kind::Symlink)
    }

    /// Whether the destination's time says that nothing has changed: it is that of the source, or where no other is kept than
    /// that of its own writing, a later one.
    fn mtimes_agree(&self, src: &Meta, dst: &Meta) -> bool {
        if self.dest_keeps_no_times {
            return dst.mtime > src.mtime;
        }
        self.times_equal(src.mtime, dst.mtime)
    }

    /// Whether two timestamps count as equal. With a window of 0 they agree to the nanosecond, except
    /// that a side whose nanoseconds are zero is taken to keep whole seconds only.
    #[must_use]
    pub fn times_equal(&self, a: Time, b: Time) -> bool {
        if self.modify_window_s == 0 {
            return a.sec == b.sec && (a.nsec == b.nsec || a.nsec == 0 || b.nsec == 0);
        }
        a.sec.abs_diff(b.sec) <= u64::from(self.modify_window_s)
    }

    /// Whether files get this group of the source.
    #[must_use]
    pub fn sets_group(&self, gid: u32) -> bool {
        let settable = |groups: &[u32]| groups.binary_search(&gid).is_ok();
        self.carry_group && self.groups_settable.is_none_or(settable)
    }

    /// Those of mode, owner, group and times that the destination gets from `src`.
    #[must_use]
    pub fn carried_of(&self, src: &Meta) -> Attrs {
        let carried = Attrs::MODE.when(self.carry_mode)
            | Attrs::OWNER.when(self.carry_owner)
            | Attrs::GROUP.when(self.sets_group(src.gid))
            | Attrs::TIMES.when(self.carry_times);
        carried - src.unknown
    }

    /// The carried attributes in which `dst` is known to differ from `src`. Symlinks have no mode of their own on Linux.
    #[must_use]
    pub fn attrs_differing(&self, src: &Meta, dst: &Meta) -> Attrs {
        let equal = Attrs::MODE.when(src.kind == Kind::Symlink || src.mode == dst.mode)
            | Attrs::OWNER.when(src.uid == dst.uid)
            | Attrs::GROUP.when(src.gid == dst.gid)
            | Attrs::TIMES.when(self.dest_keeps_no_times || self.times_equal(src.mtime, dst.mtime));
        self.carried_of(src) - equal - dst.unknown
    }
}

/// What to do about a name of the source, given what the destination has under it.
#[must_use]
pub fn decide(src: &Meta, dst: Option<&Meta>, policy: &Policy) -> Action {
    if !policy.carries(src.kind) {
        return Action::Skip(SkipReason::KindExcluded);
    }
    if src.kind == Kind::File && !(policy.size_min..=policy.size_max).contains(&src.size) {
        return Action::Skip(SkipReason::SizeExcluded);
    }
    let Some(dst) = dst else {
        return if policy.only_existing {
            Action::Skip(SkipReason::NotExisting)
        } else {
            Action::Create
        };
    };
    if policy.only_missing && !(src.kind == Kind::Dir && dst.kind == Kind::Dir) {
        return Action::Skip(SkipReason::Existing);
    }
    if src.kind != dst.kind {
        return Action::Supplant;
    }
    match src.kind {
        Kind::BlockDevice | Kind::CharDevice if src.rdev != dst.rdev => Action::Replace,
        Kind::Symlink if src.size != dst.size => Action::Replace,
        Kind::Symlink => Action::CompareContents,
        Kind::File => decide_file(src, dst, policy),
        _ => repair_or_skip(src, dst, policy),
    }
}

/// Whether [`decide`] could tell only if one more question were asked about what a listing of objects has told of: that
/// costs a request for each.
#[must_use]
pub fn needs_more(src: &Meta, dst: &Meta, policy: &Policy) -> bool {
    let is_unasked = |meta: &Meta| meta.unknown.has(Attrs::UNASKED);
    let has_other_size = !(policy.size_min..=policy.size_max).contains(&src.size);
    let is_left_out = policy.only_missing || src.kind == Kind::File && has_other_size;
    if !(is_unasked(src) || is_unasked(dst)) || is_left_out {
        return false;
    }
    match (src.kind, dst.kind) {
        // An object may be newer than another one of its size, and older than when it was written.
        (Kind::File, Kind::File) if policy.keep_newer => true,
        (Kind::File, Kind::File) => src.size == dst.size && !policy.copy_always,
        // A listing calls symlinks files.
        (Kind::File, Kind::Symlink) | (Kind::Symlink, Kind::File) => src.size == dst.size,
        _ => false,
    }
}

/// The verdict after [`Action::CompareContents`], now that the contents are known.
#[must_use]
pub fn decide_contents(src: &Meta, dst: &Meta, contents_equal: bool, policy: &Policy) -> Action {
    if contents_equal {
        repair_or_skip(src, dst, policy)
    } else {
        Action::Replace
    }
}

/// The mtime of a file that was left half-written in place: a time that nothing else has.
pub const INCOMPLETE: Time = Time {
    sec: 86_399,
    nsec: 987_654_321,
};

/// Whether a file is half-written. Some filesystems keep times to two seconds only.
#[must_use]
pub fn is_incomplete(mtime: Time) -> bool {
    mtime.sec.abs_diff(INCOMPLETE.sec) <= 2
}

fn decide_file(src: &Meta, dst: &Meta, policy: &Policy) -> Action {
    let times_equal = policy.mtimes_agree(src, dst);
    if is_incomplete(dst.mtime) && !times_equal {
        return Action::Replace;
    }
    if policy.keep_newer && !times_equal && dst.mtime > src.mtime {
        return Action::Skip(SkipReason::DestinationNewer);
    }
    if src.size != dst.size || policy.copy_always {
        return Action::Replace;
    }
    if policy.compare_contents {
        return Action::CompareContents;
    }
    if policy.compare_size_only || times_equal {
        return repair_or_skip(src, dst, policy);
    }
    Action::Replace
}

fn repair_or_skip(src: &Meta, dst: &Meta, policy: &Policy) -> Action {
    let attrs = policy.attrs_differing(src, dst);
    if attrs.is_empty() {
        Action::Skip(SkipReason::Equal)
    } else {
        Action::Repair(attrs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(kind: Kind) -> Meta {
        Meta {
            kind,
            mode: 0o644,
            uid: 1,
            gid: 1,
            nlink: 1,
            size: 10,
            mtime: Time { sec: 100, nsec: 5 },
            ctime: Time::default(),
            btime: Time::default(),
            atime: None,
            ino: 1,
            dev: 1,
            rdev: 0,
            has_holes: false,
            unknown: Attrs::NONE,
        }
    }

    fn with(change: impl FnOnce(&mut Meta)) -> Meta {
        let mut file = meta(Kind::File);
        change(&mut file);
        file
    }

    fn policy(change: impl FnOnce(&mut Policy)) -> Policy {
        let mut policy = Policy::archive();
        change(&mut policy);
        policy
    }

    /// One row: the rule in words, the policy, the destination, the verdict. The source is always `meta(File)`.
    type Row = (&'static str, Policy, Option<Meta>, Action);

    #[test]
    #[allow(clippy::too_many_lines)] // A table is as long as its rules.
    fn files_by_table() {
        let archive = Policy::archive();
        let skip = |reason| Action::Skip(reason);
        let newer = with(|m| m.mtime.sec = 200);
        let older = with(|m| m.mtime.sec = 50);
        let larger = with(|m| m.size = 11);
        let rows: Vec<Row> = vec![
            ("missing", archive, None, Action::Create),
            (
                "equal",
                archive,
                Some(meta(Kind::File)),
                skip(SkipReason::Equal),
            ),
            ("other size", archive, Some(larger), Action::Replace),
            ("older", archive, Some(older), Action::Replace),
            (
                "half-written in place, and as large as it should be",
                policy(|p| p.compare_size_only = true),
                Some(with(|m| m.mtime = INCOMPLETE)),
                Action::Replace,
            ),
            (
                "newer is different too",
                archive,
                Some(newer),
                Action::Replace,
            ),
            (
                "nanoseconds count",
                archive,
                Some(with(|m| m.mtime.nsec = 6)),
                Action::Replace,
            ),
            (
                "a side without nanoseconds compares by seconds",
                archive,
                Some(with(|m| m.mtime.nsec = 0)),
                skip(SkipReason::Equal),
            ),
            (
                "mode only",
                archive,
                Some(with(|m| m.mode = 0o600)),
                Action::Repair(Attrs::MODE),
            ),
            (
                "owner and group",
                archive,
                Some(with(|m| (m.uid, m.gid) = (2, 2))),
                Action::Repair(Attrs::OWNER | Attrs::GROUP),
            ),
            (
                "owner not carried",
                policy(|p| p.carry_owner = false),
                Some(with(|m| m.uid = 2)),
                skip(SkipReason::Equal),
            ),
            (
                "inside the window, nothing to repair",
                policy(|p| p.modify_window_s = 100),
                Some(newer),
                skip(SkipReason::Equal),
            ),
            (
                "outside the window",
                policy(|p| p.modify_window_s = 99),
                Some(newer),
                Action::Replace,
            ),
            (
                "-u keeps newer",
                policy(|p| p.keep_newer = true),
                Some(newer),
                skip(SkipReason::DestinationNewer),
            ),
            (
                "-u replaces older",
                policy(|p| p.keep_newer = true),
                Some(older),
                Action::Replace,
            ),
            (
                "-u with equal times still looks at the size",
                policy(|p| p.keep_newer = true),
                Some(larger),
                Action::Replace,
            ),
            (
                "--size-only repairs the time",
                policy(|p| p.compare_size_only = true),
                Some(older),
                Action::Repair(Attrs::TIMES),
            ),
            (
                "-I copies what is equal",
                policy(|p| p.copy_always = true),
                Some(meta(Kind::File)),
                Action::Replace,
            ),
            (
                "-c reads",
                policy(|p| p.compare_contents = true),
                Some(older),
                Action::CompareContents,
            ),
            (
                "-c need not read other sizes",
                policy(|p| p.compare_contents = true),
                Some(larger),
                Action::Replace,
            ),
            (
                "--existing",
                policy(|p| p.only_existing = true),
                None,
                skip(SkipReason::NotExisting),
            ),
            (
                "--ignore-existing",
                policy(|p| p.only_missing = true),
                Some(larger),
                skip(SkipReason::Existing),
            ),
            (
                "--ignore-existing does not supplant",
                policy(|p| p.only_missing = true),
                Some(meta(Kind::Dir)),
                skip(SkipReason::Existing),
            ),
            (
                "--max-size",
                policy(|p| p.size_max = 9),
                Some(larger),
                skip(SkipReason::SizeExcluded),
            ),
            (
                "--min-size",
                policy(|p| p.size_min = 11),
                None,
                skip(SkipReason::SizeExcluded),
            ),
            (
                "both sizes are inclusive",
                policy(|p| (p.size_min, p.size_max) = (10, 10)),
                None,
                Action::Create,
            ),
            (
                "other kind",
                archive,
                Some(meta(Kind::Dir)),
                Action::Supplant,
            ),
        ];
        for (rule, policy, dst, expected) in rows {
            let verdict = decide(&meta(Kind::File), dst.as_ref(), &policy);
            assert_eq!(verdict, expected, "{rule}");
        }
    }

    #[test]
    fn contents_decide_between_replace_and_repair() {
        let policy = policy(|p| p.compare_contents = true);
        let older = with(|m| m.mtime.sec = 50);
        let file = meta(Kind::File);
        assert_eq!(
            decide_contents(&file, &older, false, &policy),
            Action::Replace
        );
        assert_eq!(
            decide_contents(&file, &older, true, &policy),
            Action::Repair(Attrs::TIMES)
        );
        assert_eq!(
            decide_contents(&file, &file, true, &policy),
            Action::Skip(SkipReason::Equal)
        );
    }

    #[test]
    fn other_kinds() {
        let archive = Policy::archive();
        let equal = Action::Skip(SkipReason::Equal);
        let same = |kind| decide(&meta(kind), Some(&meta(kind)), &archive);
        assert_eq!(same(Kind::Dir), equal);
        assert_eq!(same(Kind::Fifo), equal);
        assert_eq!(same(Kind::CharDevice), equal);
        assert_eq!(same(Kind::Symlink), Action::CompareContents);

        let mut longer = meta(Kind::Symlink);
        longer.size += 1;
        assert_eq!(
            decide(&meta(Kind::Symlink), Some(&longer), &archive),
            Action::Replace
        );
        let mut other_mode = meta(Kind::Symlink);
        other_mode.mode = 0o777;
        assert_eq!(
            decide_contents(&meta(Kind::Symlink), &other_mode, true, &archive),
            equal
        );
        let mut other_device = meta(Kind::BlockDevice);
        other_device.rdev = 9;
        assert_eq!(
            decide(&meta(Kind::BlockDevice), Some(&other_device), &archive),
            Action::Replace
        );
        let no_devices = policy(|p| p.carry_devices = false);
        assert_eq!(
            decide(&meta(Kind::BlockDevice), None, &no_devices),
            Action::Skip(SkipReason::KindExcluded)
        );
    }
}
