//! Errors that are alike, told together: how many of each kind there are, and the first places where they occurred.

use std::cmp::Ordering;
use std::collections::HashMap;

use indicatif::HumanCount;

use crate::error::{Cause, Class, Error, OpKind, Side};
use crate::model::path::escape;

/// Paths kept of each group: enough to see what they have in common.
const PATHS_KEPT_MAX: usize = 5;
/// Groups kept. There are fewer than this many kinds of errors that occur together; the bound is for what nobody foresaw.
const GROUPS_MAX: usize = 256;
/// Errors of one group that are printed one by one; those that follow are counted.
const PRINTED_MAX: u64 = 100;

/// Errors of one class, operation, side and cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorGroup {
    pub class: Class,
    pub op: OpKind,
    pub side: Side,
    /// In words, with the errno's name where there is one: `Permission denied (EACCES)`.
    pub cause: String,
    pub count: u64,
    /// The first ones, escaped.
    pub paths: Vec<String>,
}

impl ErrorGroup {
    /// One line: `1,234 x cannot open source: Permission denied (EACCES), such as 'a', 'b'`.
    #[must_use]
    pub fn words(&self) -> String {
        let (count, verb, side) = (HumanCount(self.count), self.op.verb(), self.side.name());
        let paths: Vec<String> = self.paths.iter().map(|path| format!("'{path}'")).collect();
        let such_as = if paths.is_empty() { "" } else { ", such as " };
        let (cause, paths) = (&self.cause, paths.join(", "));
        format!("{count} x cannot {verb} {side}: {cause}{such_as}{paths}")
    }
}

/// What errors are grouped by. Causes other than an errno are alike when their words are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    class: Class,
    op: OpKind,
    side: Side,
    cause: KeyCause,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum KeyCause {
    Errno(i32),
    Words(String),
}

/// What the terminal is to say of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    Whole,
    /// And that no more of its kind will be told.
    WholeAndLast,
    Counted,
}

/// All errors of a run, by group. Its size does not depend on their number.
#[derive(Debug, Default)]
pub struct ErrorBook {
    groups: HashMap<Key, ErrorGroup>,
    /// Errors of groups that found no room.
    others: u64,
}

impl ErrorBook {
    /// Notes an error.
    pub fn note(&mut self, error: &Error) -> Telling {
        let key = Key {
            class: error.class(),
            op: error.op,
            side: error.side,
            cause: match &error.cause {
                Cause::Errno(errno) => KeyCause::Errno(*errno as i32),
                other => KeyCause::Words(other.to_string()),
            },
        };
        if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&key) {
            self.others += 1;
            return Telling::Counted;
        }
        let group = self.groups.entry(key).or_insert_with(|| ErrorGroup {
            class: error.class(),
            op: error.op,
            side: error.side,
            cause: error.cause.to_string(),
            count: 0,
            paths: Vec::new(),
        });
        group.count += 1;
        if group.paths.len() < PATHS_KEPT_MAX {
            group.paths.push(escape(&error.path));
        }
        let most = if error.is_refused_owner() {
            1
        } else {
            PRINTED_MAX
        };
        match group.count.cmp(&most) {
            Ordering::Less => Telling::Whole,
            Ordering::Equal => Telling::WholeAndLast,
            Ordering::Greater => Telling::Counted,
        }
    }

    /// The worst class first, and in it the largest group.
    #[must_use]
    pub fn groups(&self) -> Vec<ErrorGroup> {
        let severity = |class: Class| match class {
            Class::Fatal => 0,
            Class::Entry => 1,
            Class::Vanished => 2,
            Class::Warning => 3,
        };
        let mut groups: Vec<ErrorGroup> = self.groups.values().cloned().collect();
        groups.sort_by(|a, b| {
            let key = |group: &ErrorGroup| (severity(group.class), std::cmp::Reverse(group.count));
            key(a).cmp(&key(b)).then_with(|| a.paths.cmp(&b.paths))
        });
        groups
    }

    /// Errors that are in no group.
    #[must_use]
    pub fn others(&self) -> u64 {
        self.others
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    fn error(path: &str, errno: Errno) -> Error {
        let (op, side) = (OpKind::Open, Side::Source);
        Error::errno(op, side, path.as_bytes().to_vec(), errno)
    }

    #[test]
    fn the_first_of_a_kind_are_told_and_all_are_counted() {
        let mut book = ErrorBook::default();
        let mut told = 0;
        for number in 0..1000 {
            match book.note(&error(&number.to_string(), Errno::EACCES)) {
                Telling::Whole => told += 1,
                Telling::WholeAndLast => assert_eq!(told + 1, PRINTED_MAX),
                Telling::Counted => assert!(number >= PRINTED_MAX),
            }
        }
        assert_eq!(book.note(&error("x", Errno::EIO)), Telling::Whole);
        let groups = book.groups();
        assert_eq!(groups.len(), 2);
        assert_eq!(
            (groups[0].count, groups[0].paths.len()),
            (1000, PATHS_KEPT_MAX)
        );
        assert_eq!(
            groups[1].words(),
            "1 x cannot open source: I/O error (EIO), such as 'x'"
        );
    }

    #[test]
    fn owners_that_a_server_refuses_are_told_once() {
        let mut book = ErrorBook::default();
        let refused = |path: &str| {
            let (op, side) = (OpKind::SetOwner, Side::Destination);
            Error::errno(op, side, path.as_bytes().to_vec(), Errno::EPERM)
        };
        assert_eq!(book.note(&refused("a")), Telling::WholeAndLast);
        assert_eq!(book.note(&refused("b")), Telling::Counted);
        assert_eq!(book.groups()[0].count, 2);
    }

    #[test]
    fn the_worst_come_first() {
        let mut book = ErrorBook::default();
        for _ in 0..3 {
            book.note(&error("gone", Errno::ENOENT));
        }
        book.note(&error("secret", Errno::EACCES));
        let full = Error::errno(OpKind::Write, Side::Destination, Vec::new(), Errno::ENOSPC);
        book.note(&full);
        let classes: Vec<Class> = book.groups().iter().map(|group| group.class).collect();
        assert_eq!(classes, [Class::Fatal, Class::Entry, Class::Vanished]);
    }

    #[test]
    fn kinds_without_end_take_no_memory_without_end() {
        let mut book = ErrorBook::default();
        for number in 0..10 * GROUPS_MAX {
            let cause = Cause::WrongRule(number.to_string());
            book.note(&Error::new(
                OpKind::ReadRules,
                Side::Source,
                Vec::new(),
                cause,
            ));
        }
        assert_eq!(book.groups().len(), GROUPS_MAX);
        assert_eq!(book.others(), 9 * GROUPS_MAX as u64);
    }
}
