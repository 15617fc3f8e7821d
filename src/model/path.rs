//! Names as bytes, and how they are printed.

/// `path` as printable text: UTF-8 stays, control characters, backslashes and bytes that are not UTF-8 are
/// written as `\n`, `\t`, `\\` or `\xNN`, so that a hostile name cannot forge a line of output.
#[must_use]
pub fn escape(path: &[u8]) -> String {
    let mut text = String::with_capacity(path.len());
    for chunk in path.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\\' => text.push_str("\\\\"),
                c if c.is_control() => push_hex(&mut text, c.to_string().as_bytes()),
                c => text.push(c),
            }
        }
        push_hex(&mut text, chunk.invalid());
    }
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    use std::fmt::Write;
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

/// `dir/name`, or `name` alone in the root (whose path is empty).
#[must_use]
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() && !name.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// `path` as seen from the absolute path `base`, by the letter: without `.`, `..` and doubled slashes. Like the shell's `cd`,
/// and unlike the kernel, `..` takes back the name before it even when that is a symlink; above `/` is `/`.
#[must_use]
pub fn resolve(base: &[u8], path: &[u8]) -> Vec<u8> {
    let base = if path.starts_with(b"/") { b"" } else { base };
    let mut names: Vec<&[u8]> = Vec::new();
    for name in names_of(base).chain(names_of(path)) {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    [b"/", names.join(&b'/').as_slice()].concat()
}

/// What stands between the slashes; between two in a row, nothing.
fn names_of(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
}

/// Whether `path` lies below the directory `dir` and is not `dir` itself. Both as [`resolve`] returns them.
#[must_use]
pub fn is_below(path: &[u8], dir: &[u8]) -> bool {
    let dir = dir.strip_suffix(b"/").unwrap_or(dir);
    path.strip_prefix(dir)
        .is_some_and(|rest| rest.len() > 1 && rest.starts_with(b"/"))
}

/// The path one name below `dir` on the way to `path`, which may be `path` itself; nothing when `path` is not below `dir`.
#[must_use]
pub fn step_towards<'p>(dir: &[u8], path: &'p [u8]) -> Option<&'p [u8]> {
    if !is_below(path, dir) {
        return None;
    }
    let start = dir.strip_suffix(b"/").unwrap_or(dir).len() + 1;
    let name = names_of(&path[start..]).next()?;
    Some(&path[..start + name.len()])
}

/// What holds for any paths. The fuzz targets call this with bytes of their choice, and the tests with bytes by chance.
pub mod check {
    use super::{escape, is_below, join, names_of, resolve, step_towards};

    /// # Panics
    /// When a function of this module breaks its promise for these two.
    pub fn paths(a: &[u8], b: &[u8]) {
        let resolved = resolve(a, b);
        assert!(resolved.starts_with(b"/"));
        let unclean = |name: &[u8]| matches!(name, b"" | b"." | b"..");
        assert!(resolved == b"/" || !names_of(&resolved[1..]).any(unclean));
        assert_eq!(resolve(b"", &resolved), resolved, "clean is clean");

        let mut at: &[u8] = b"/";
        while let Some(next) = step_towards(at, &resolved) {
            assert!(is_below(next, at) && next.len() <= resolved.len());
            at = next;
        }
        assert_eq!(at, resolved, "steps lead to the path");

        let text = escape(a);
        assert!(!text.chars().any(char::is_control), "one printable line");
        assert_eq!(a == b, text == escape(b), "different paths look different");

        let joined = join(a, b);
        assert!(joined.starts_with(a) && joined.ends_with(b));
        assert!(joined.len() <= a.len() + 1 + b.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lexical_paths() {
        let seen = |base: &str, path: &str| {
            String::from_utf8(resolve(base.as_bytes(), path.as_bytes())).unwrap()
        };
        assert_eq!(seen("/a/b", "c//./d/"), "/a/b/c/d");
        assert_eq!(seen("/a/b", "../../../c"), "/c");
        assert_eq!(seen("/a/b", "/"), "/");
        assert_eq!(seen("/a/b", ""), "/a/b");
        assert!(is_below(b"/a/b", b"/") && is_below(b"/a/b", b"/a"));
        assert!(!is_below(b"/a/b", b"/a/b") && !is_below(b"/ab", b"/a"));
        assert!(!is_below(b"/", b"/"));
        assert_eq!(step_towards(b"/", b"/a/b"), Some(&b"/a"[..]));
        assert_eq!(step_towards(b"/a", b"/a/b"), Some(&b"/a/b"[..]));
        assert_eq!(step_towards(b"/a/b", b"/a/b"), None);
    }

    mod properties {
        use super::super::check;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn dotted_paths(a in "[./a]{0,12}", b in "[./a]{0,20}") {
                check::paths(a.as_bytes(), b.as_bytes());
            }

            #[test]
            fn any_paths(a: Vec<u8>, b: Vec<u8>) {
                check::paths(&a, &b);
            }
        }
    }
}
