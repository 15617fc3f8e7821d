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
    for name in base.split(is_slash).chain(path.split(is_slash)) {
        match name {
            b"" | b"." => {}
            b".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    [b"/", names.join(&b'/').as_slice()].concat()
}

fn is_slash(byte: &u8) -> bool {
    *byte == b'/'
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
    let len = path[start..].iter().position(is_slash);
    Some(&path[..len.map_or(path.len(), |len| start + len)])
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
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn a_resolved_path_is_clean_and_stays_as_it_is(base in "[./a]{0,12}", path in "[./a]{0,12}") {
                let path = resolve(base.as_bytes(), path.as_bytes());
                prop_assert!(path.starts_with(b"/"));
                let unclean = |name: &[u8]| matches!(name, b"" | b"." | b"..");
                prop_assert!(path == b"/" || !path[1..].split(is_slash).any(unclean));
                prop_assert_eq!(&resolve(b"", &path), &path);
            }

            #[test]
            fn steps_lead_to_every_path(path in "[./a]{0,20}") {
                let path = resolve(b"", path.as_bytes());
                let mut at: &[u8] = b"/";
                while let Some(next) = step_towards(at, &path) {
                    prop_assert!(is_below(next, at) && next.len() <= path.len());
                    at = next;
                }
                prop_assert_eq!(at, path.as_slice());
            }

            #[test]
            fn escaped_text_is_one_printable_line_and_tells_paths_apart(a: Vec<u8>, b: Vec<u8>) {
                let text = escape(&a);
                prop_assert!(!text.chars().any(char::is_control));
                prop_assert_eq!(a == b, text == escape(&b));
            }
        }
    }

    #[test]
    fn hostile_names_print_on_one_line() {
        assert_eq!(escape("grün".as_bytes()), "grün");
        assert_eq!(escape(b"a\nb\\\x1b[2J\xff"), "a\\nb\\\\\\x1b[2J\\xff");
    }

    #[test]
    fn joining() {
        assert_eq!(join(b"", b"a"), b"a");
        assert_eq!(join(b"a/b", b"c"), b"a/b/c");
        assert_eq!(join(b"a", b""), b"a");
    }
}
