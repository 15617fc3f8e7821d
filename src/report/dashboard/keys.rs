//! Keys of the view, from the bytes that the terminal sends.

const ESCAPE: u8 = 0x1b;
const CONTROL_L: u8 = 0x0c;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// `q` or Escape.
    Leave,
    /// `h` or `?`.
    Help,
    /// `p` or the space bar.
    Pause,
    /// `t`: the newest samples, or the whole run.
    Span,
    /// ^L.
    Redraw,
}

/// Reads keys. An Escape may be the key of that name or the start of what an arrow key sends, and that may come in two
/// pieces: it is the key when nothing has followed until the next look.
#[derive(Debug, Default)]
pub(super) struct Keys {
    /// An Escape and what came after it, as long as it is unknown what they are.
    sequence: Vec<u8>,
}

impl Keys {
    /// What came since the last look; call it with nothing as well.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Vec<Key> {
        if bytes.is_empty() {
            let was_alone = self.sequence == [ESCAPE];
            self.sequence.clear();
            return if was_alone { vec![Key::Leave] } else { vec![] };
        }
        bytes.iter().filter_map(|byte| self.push(*byte)).collect()
    }

    fn push(&mut self, byte: u8) -> Option<Key> {
        match self.sequence.len() {
            0 if byte == ESCAPE => self.sequence.push(byte),
            0 => return key(byte),
            1 if byte == ESCAPE => {
                // The first one was alone, this one may be too.
                return Some(Key::Leave);
            }
            1 if matches!(byte, b'[' | b'O') => self.sequence.push(byte),
            // The end of a control sequence (ECMA-48), or any key that was pressed with Alt.
            _ if self.sequence.len() == 1 || matches!(byte, 0x40..=0x7e) => self.sequence.clear(),
            // Its parameters are of no interest; that there are some is known.
            _ => {}
        }
        None
    }
}

fn key(byte: u8) -> Option<Key> {
    match byte {
        b'q' | b'Q' => Some(Key::Leave),
        b'h' | b'H' | b'?' => Some(Key::Help),
        b'p' | b'P' | b' ' => Some(Key::Pause),
        b't' | b'T' => Some(Key::Span),
        CONTROL_L => Some(Key::Redraw),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_keys() {
        let mut keys = Keys::default();
        assert_eq!(
            keys.read(b"q?x p\x0ct"),
            [
                Key::Leave,
                Key::Help,
                Key::Pause,
                Key::Pause,
                Key::Redraw,
                Key::Span
            ]
        );
    }

    #[test]
    fn an_escape_alone_leaves_and_an_arrow_does_not() {
        let mut keys = Keys::default();
        assert_eq!(keys.read(b"\x1b"), []);
        assert_eq!(keys.read(b""), [Key::Leave]);
        assert_eq!(keys.read(b""), []);
        assert_eq!(keys.read(b"\x1b[A\x1bOB\x1b[1;5q\x1bqh"), [Key::Help]);
        assert_eq!(keys.read(b"\x1b"), []);
        assert_eq!(keys.read(b"[Ap"), [Key::Pause]);
        assert_eq!(keys.read(b"\x1b["), []);
        assert_eq!(keys.read(b""), []);
        assert_eq!(keys.read(b"h"), [Key::Help]);
        assert_eq!(keys.read(b"\x1b\x1b"), [Key::Leave]);
        assert_eq!(keys.read("ä".as_bytes()), []);
    }
}
