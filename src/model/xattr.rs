//! Extended attributes and the POSIX ACLs that Linux keeps among them: which are carried, and what turns one set into
//! another. Values are raw bytes as the kernel gives them.

use std::cmp::Ordering;
use std::ffi::{CStr, CString};

/// The ACL of an inode itself.
const ACL_ACCESS: &CStr = c"system.posix_acl_access";
/// The ACL that a directory gives to what is made in it.
const ACL_DEFAULT: &CStr = c"system.posix_acl_default";
/// What an NFSv4 server has instead of them: each file has one, most say no more than its mode.
const ACL_NFS4: &CStr = c"system.nfs4_acl";
/// Cleared by the kernel whenever an inode changes its owner or group.
const CAPABILITY: &CStr = c"security.capability";

/// Which extended attributes a run carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// `--acls`
    pub acls: bool,
    /// `--xattrs`: all that are not ACLs.
    pub xattrs: bool,
    /// Root carries every namespace; others can only set `user.*`.
    pub every_namespace: bool,
}

impl Carried {
    /// Nothing is carried, so nothing need be read.
    #[must_use]
    pub fn is_nothing(self) -> bool {
        !self.acls && !self.xattrs
    }

    #[must_use]
    pub fn wants(self, name: &CStr) -> bool {
        if is_acl(name) {
            return self.acls;
        }
        let name = name.to_bytes();
        // What else is in `system` is a filesystem's own way to show what it has by other names.
        let settable = self.every_namespace && !name.starts_with(b"system.");
        self.xattrs && (settable || name.starts_with(b"user."))
    }
}

fn is_acl(name: &CStr) -> bool {
    name == ACL_ACCESS || name == ACL_DEFAULT || name == ACL_NFS4
}

/// One attribute.
pub type Xattr = (CString, Vec<u8>);

/// The carried attributes of one inode, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Xattrs(Vec<Xattr>);

impl Xattrs {
    /// ACLs first, then by name: the order in which they are set.
    #[must_use]
    pub fn new(mut all: Vec<Xattr>) -> Self {
        all.sort_unstable_by(|(a, _), (b, _)| order(a, b));
        Self(all)
    }

    fn get(&self, name: &CStr) -> Option<&[u8]> {
        let at = self.0.binary_search_by(|(known, _)| order(known, name));
        at.ok().map(|at| self.0[at].1.as_slice())
    }
}

fn order(a: &CStr, b: &CStr) -> Ordering {
    (!is_acl(a), a).cmp(&(!is_acl(b), b))
}

/// What turns the attributes of one inode into those of another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XattrChange {
    /// In the order of setting.
    pub set: Vec<Xattr>,
    pub remove: Vec<CString>,
}

impl XattrChange {
    /// From `now` to `wanted`. With `chowned`, the owner or group changes first, which clears the capabilities of a file, but
    /// not of a directory: they are set again, and removed, in any case. The NFSv4 ACL of a file is never removed, and only one
    /// that says more than a mode is for inodes that have none of the kind: whoever cannot have it is to refuse it.
    #[must_use]
    pub fn between(now: &Xattrs, wanted: &Xattrs, chowned: bool) -> Self {
        let kept = |name: &CStr| !(chowned && name == CAPABILITY);
        // Servers tell one mode by different masks, each rewrites what it is given, and the mode is carried in any case.
        let says_more = |name: &CStr, value: &[u8]| {
            let is_plain_now = now.get(name).is_none_or(says_only_a_mode);
            name != ACL_NFS4 || !is_plain_now || !says_only_a_mode(value)
        };
        let set = wanted.0.iter().filter(|(name, value)| {
            (now.get(name) != Some(value) || !kept(name)) && says_more(name, value)
        });
        let remove = now
            .0
            .iter()
            .filter(|(name, _)| wanted.get(name).is_none() && name.as_c_str() != ACL_NFS4);
        Self {
            set: set.cloned().collect(),
            remove: remove.map(|(name, _)| name.clone()).collect(),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    fn names(&self) -> impl Iterator<Item = &CStr> {
        let set = self.set.iter().map(|(name, _)| name.as_c_str());
        set.chain(self.remove.iter().map(CString::as_c_str))
    }

    #[must_use]
    pub fn has_acls(&self) -> bool {
        self.names().any(is_acl)
    }

    #[must_use]
    pub fn has_xattrs(&self) -> bool {
        self.names().any(|name| !is_acl(name))
    }
}

/// Whether an NFSv4 ACL names nobody but the owner, the group and everyone, and is not inherited. As the kernel gives it: XDR, in which
/// each number has 4 bytes, big endian, and text is padded to as many. The number of entries, then of each its type, flags and
/// mask, and whom it is about (RFC 7530, section 6.2.1).
fn says_only_a_mode(acl: &[u8]) -> bool {
    /// `ACE4_IDENTIFIER_GROUP`: the name is a group's.
    const IS_GROUP: u32 = 0x40;
    let number = |at: usize| {
        let bytes = acl.get(at..at + 4)?;
        bytes.try_into().ok().map(u32::from_be_bytes)
    };
    let entry = |at: usize| {
        let (flags, len) = (number(at + 4)?, number(at + 12)? as usize);
        let who = acl.get(at + 16..at + 16 + len)?;
        let is_plain =
            matches!(who, b"OWNER@" | b"GROUP@" | b"EVERYONE@") && flags & !IS_GROUP == 0;
        Some((is_plain, at + 16 + len.next_multiple_of(4)))
    };
    let (mut at, Some(count)) = (4, number(0)) else {
        return false;
    };
    for _ in 0..count {
        let Some((true, next)) = entry(at) else {
            return false;
        };
        at = next;
    }
    true
}

/// The permission bits that `mode` may have where its ACL cannot be set. With an ACL the group bits of a mode are the
/// mask of everybody named in it; without one they are the group's own, so the group gets what its entry and the mask
/// both allow. Of an NFSv4 ACL
/// that says more than a mode nothing is known of the group. `None` when `value` is not an access ACL as the kernel writes it (version 2: a header of 4 bytes, then
/// 8 bytes for each entry: tag, permissions, id; little endian).
#[must_use]
pub fn mode_without_acl(name: &CStr, value: &[u8], mode: u32) -> Option<u32> {
    /// `ACL_GROUP_OBJ` of linux/posix_acl.h.
    const TAG_GROUP: u16 = 0x04;
    if name == ACL_NFS4 && !says_only_a_mode(value) {
        // The group bits that a server shows may be somebody else's.
        return Some(mode & !0o070);
    }
    if name != ACL_ACCESS || value.len() < 4 {
        return None;
    }
    let mut entries = value[4..].chunks_exact(8);
    let group = entries.find(|entry| u16::from_le_bytes([entry[0], entry[1]]) == TAG_GROUP)?;
    let allowed = u32::from(u16::from_le_bytes([group[2], group[3]]) & 0o7);
    Some(mode & !0o070 | (mode & (allowed << 3)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn xattrs(all: &[(&CStr, &str)]) -> Xattrs {
        let own = |(name, value): &(&CStr, &str)| ((*name).to_owned(), value.as_bytes().to_vec());
        Xattrs::new(all.iter().map(own).collect())
    }

    #[test]
    fn a_change_sets_what_differs_and_removes_what_is_extra() {
        let now = xattrs(&[
            (c"user.a", "1"),
            (c"user.b", "2"),
            (ACL_DEFAULT, "inherited"),
        ]);
        let wanted = xattrs(&[(c"user.b", "3"), (c"user.c", ""), (ACL_ACCESS, "acl")]);
        let change = XattrChange::between(&now, &wanted, false);
        let set: Vec<_> = change.set.iter().map(|(name, _)| name.as_c_str()).collect();
        assert_eq!(set, [ACL_ACCESS, c"user.b", c"user.c"], "ACLs first");
        assert_eq!(
            change.remove,
            [ACL_DEFAULT.to_owned(), c"user.a".to_owned()]
        );
        assert!(change.has_acls() && change.has_xattrs());
        assert!(XattrChange::between(&wanted, &wanted, false).is_empty());
    }

    /// Entries that allow something: whom, and flags.
    fn nfs4_acl(entries: &[(&str, u32)]) -> Vec<u8> {
        let mut acl = u32::try_from(entries.len()).unwrap().to_be_bytes().to_vec();
        for (who, flags) in entries {
            for number in [0, *flags, 0x12_0081, u32::try_from(who.len()).unwrap()] {
                acl.extend(number.to_be_bytes());
            }
            acl.extend(who.as_bytes());
            acl.resize(acl.len().next_multiple_of(4), 0);
        }
        acl
    }

    #[test]
    fn nfs4_acls_go_where_they_can_be_kept() {
        let plain = nfs4_acl(&[("OWNER@", 0), ("GROUP@", 0x40), ("EVERYONE@", 0)]);
        let named = nfs4_acl(&[("OWNER@", 0), ("alice@example.org", 0), ("EVERYONE@", 0)]);
        let inherited = nfs4_acl(&[("OWNER@", 0x03)]);
        assert!(says_only_a_mode(&plain) && !says_only_a_mode(&named));
        assert!(!says_only_a_mode(&inherited) && !says_only_a_mode(&plain[..20]));
        let with = |acl: &[u8]| Xattrs::new(vec![(ACL_NFS4.to_owned(), acl.to_vec())]);
        let none = Xattrs::default();
        let between = |now: &Xattrs, wanted: &Xattrs| XattrChange::between(now, wanted, false);
        assert!(between(&none, &with(&plain)).is_empty(), "the mode says it");
        assert_eq!(between(&none, &with(&named)).set.len(), 1, "to be refused");
        assert_eq!(between(&with(&plain), &with(&named)).set.len(), 1);
        assert_eq!(between(&with(&named), &with(&plain)).set.len(), 1);
        assert!(between(&with(&plain), &none).is_empty(), "never removed");
        let otherwise = nfs4_acl(&[("OWNER@", 0), ("EVERYONE@", 0)]);
        assert!(between(&with(&otherwise), &with(&plain)).is_empty());
    }

    #[test]
    fn capabilities_are_set_again_after_chown() {
        let with = xattrs(&[(CAPABILITY, "caps"), (c"user.a", "1")]);
        let change = XattrChange::between(&with, &with, true);
        assert_eq!(change.set, [(CAPABILITY.to_owned(), b"caps".to_vec())]);
        let without = xattrs(&[(c"user.a", "1")]);
        for chowned in [false, true] {
            assert_eq!(
                XattrChange::between(&with, &without, chowned).remove,
                [CAPABILITY.to_owned()],
                "a directory keeps them when it is chowned"
            );
        }
    }

    #[test]
    fn only_root_carries_what_only_root_can_set() {
        let root = Carried {
            acls: false,
            xattrs: true,
            every_namespace: true,
        };
        let user = Carried {
            every_namespace: false,
            ..root
        };
        assert!(root.wants(c"trusted.x") && root.wants(CAPABILITY) && root.wants(c"user.x"));
        assert!(user.wants(c"user.x") && !user.wants(c"trusted.x") && !user.wants(CAPABILITY));
        assert!(!root.wants(ACL_ACCESS), "ACLs are asked for by themselves");
    }

    #[test]
    fn a_mode_that_loses_its_acl_does_not_get_wider() {
        let entry = |tag: u16, perm: u16| {
            let mut bytes = tag.to_le_bytes().to_vec();
            bytes.extend(perm.to_le_bytes());
            bytes.extend(u32::MAX.to_le_bytes());
            bytes
        };
        let acl = [
            2_u32.to_le_bytes().to_vec(),
            entry(0x01, 6),
            entry(0x02, 7),
            entry(0x04, 4),
            entry(0x10, 7),
            entry(0x20, 0),
        ]
        .concat();
        assert_eq!(mode_without_acl(ACL_ACCESS, &acl, 0o4670), Some(0o4640));
        assert_eq!(mode_without_acl(ACL_ACCESS, &acl, 0o4610), Some(0o4600));
        assert_eq!(mode_without_acl(ACL_DEFAULT, &acl, 0o670), None);
        let named = nfs4_acl(&[("OWNER@", 0), ("alice@example.org", 0)]);
        assert_eq!(mode_without_acl(ACL_NFS4, &named, 0o664), Some(0o604));
        let plain = nfs4_acl(&[("OWNER@", 0)]);
        assert_eq!(mode_without_acl(ACL_NFS4, &plain, 0o664), None);
        assert_eq!(mode_without_acl(ACL_ACCESS, &acl[..3], 0o670), None);
    }
}
