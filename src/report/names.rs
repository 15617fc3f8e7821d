//! Users and groups by name, as people know them.

use std::cell::RefCell;
use std::collections::HashMap;

use nix::unistd::{Gid, Group, Uid, User};

/// What this machine calls its users and groups. Each is asked for once: the answer may come from a network.
#[derive(Debug, Default)]
pub(super) struct Names {
    users: RefCell<HashMap<u32, String>>,
    groups: RefCell<HashMap<u32, String>>,
}

impl Names {
    /// The name of a user; the number when there is none.
    pub(super) fn user(&self, uid: u32) -> String {
        let ask = || {
            User::from_uid(Uid::from_raw(uid))
                .ok()?
                .map(|user| user.name)
        };
        remembered(&self.users, uid, ask)
    }

    /// The name of a group; the number when there is none.
    pub(super) fn group(&self, gid: u32) -> String {
        let ask = || {
            Group::from_gid(Gid::from_raw(gid))
                .ok()?
                .map(|group| group.name)
        };
        remembered(&self.groups, gid, ask)
    }
}

fn remembered(
    known: &RefCell<HashMap<u32, String>>,
    id: u32,
    ask: impl FnOnce() -> Option<String>,
) -> String {
    let mut known = known.borrow_mut();
    let name = known
        .entry(id)
        .or_insert_with(|| ask().unwrap_or_else(|| id.to_string()));
    name.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let names = Names::default();
        assert_eq!(names.user(0), "root");
        assert_eq!(names.group(0), "root");
        assert_eq!(names.user(3_999_999_999), "3999999999");
        assert_eq!(names.user(3_999_999_999), "3999999999");
    }
}
