//! Names of temporary files: `.NAME.rs-XXXXXXXX`, beside the file that they become.

use std::cell::Cell;
use std::ffi::{CStr, CString};

use super::large::LARGE_BYTES_MIN;
use crate::model::chunks::Version;
use crate::model::listing::NAME_LEN_MAX;
use crate::model::{Kind, Meta};

const PREFIX: &[u8] = b".";
const MIDDLE: &[u8] = b".rs-";
const DIGITS: usize = 8;

/// Makes names that do not repeat within a run and are unlikely to in another.
#[derive(Debug)]
pub struct TempNames {
    state: Cell<u64>,
}

impl TempNames {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            state: Cell::new(seed),
        }
    }

    /// The next name for `name`, which is cut when the whole would be too long.
    #[must_use]
    pub fn next(&self, name: &CStr) -> CString {
        // Weyl sequence with the golden ratio: visits every value once, neighbours far apart.
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        name_with(name, u32::try_from(state >> 32).unwrap_or_default())
    }
}

/// The name of a large file that may be left in part.
#[must_use]
pub fn partial_name(name: &CStr, version: Version) -> CString {
    name_with(name, version.short())
}

/// Whether a temporary name is that of a source file in part.
#[must_use]
pub fn is_partial_of(temp_name: &CStr, name: &CStr, source: &Meta) -> bool {
    let may_be = source.kind == Kind::File && source.size >= LARGE_BYTES_MIN;
    may_be && partial_name(name, Version::of(source)).as_c_str() == temp_name
}

fn name_with(name: &CStr, number: u32) -> CString {
    let name = name.to_bytes();
    let kept = name
        .len()
        .min(NAME_LEN_MAX - PREFIX.len() - MIDDLE.len() - DIGITS);
    let digits = format!("{number:08x}");
    let bytes = [PREFIX, &name[..kept], MIDDLE, digits.as_bytes()].concat();
    match CString::new(bytes) {
        Ok(name) => name,
        Err(_) => unreachable!("a part of a C string and hexadecimal digits have no NUL"),
    }
}

/// Whether a name could have been made by [`TempNames`].
#[must_use]
pub fn is_temp_name(name: &[u8]) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let Some(at) = rest.len().checked_sub(MIDDLE.len() + DIGITS) else {
        return false;
    };
    let (kept, tail) = rest.split_at(at);
    let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
    !kept.is_empty() && tail.starts_with(MIDDLE) && tail[MIDDLE.len()..].iter().all(is_digit)
}

/// The name of the file that a temporary one would have become; its beginning when it is very long.
#[must_use]
pub fn target_of(temp_name: &[u8]) -> &[u8] {
    let end = temp_name.len().saturating_sub(MIDDLE.len() + DIGITS);
    temp_name.get(PREFIX.len()..end).unwrap_or(temp_name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_recognised_and_differ() {
        let names = TempNames::new(7);
        let (one, two) = (names.next(c"file"), names.next(c"file"));
        assert_ne!(one, two);
        assert!(is_temp_name(one.to_bytes()), "{one:?}");
        assert!(one.to_bytes().starts_with(b".file.rs-"));
    }

    #[test]
    fn long_names_are_cut_to_what_a_filesystem_takes() {
        let long = CString::new(vec![b'x'; NAME_LEN_MAX]).unwrap();
        let name = TempNames::new(7).next(&long);
        assert_eq!(name.to_bytes().len(), NAME_LEN_MAX);
        assert!(is_temp_name(name.to_bytes()));
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in [
            "file",
            ".rs-12345678",
            "..rs-",
            ".a.rs-1234567",
            ".a.rs-1234567G",
            ".a.rs-1234567A",
            "a.rs-12345678",
        ] {
            assert!(!is_temp_name(name.as_bytes()), "{name}");
        }
        assert!(is_temp_name(b".a.rs-0a1b2c3d"));
    }
}
