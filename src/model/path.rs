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

#[cfg(test)]
mod tests {
    use super::*;

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
