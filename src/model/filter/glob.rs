//! Wildcard patterns over bytes, compiled once. A pattern without `*`, `?` and `[` is a plain string in which a backslash
//! is a backslash; with one of them, a backslash makes the next byte plain. A pattern matches whole texts.
//!
//! Matching takes no recursion and no allocation. Of the stars passed so far only the last `*` and the last `**` can
//! need more text than they took at first: what an earlier one could add, the later one can take as well. So a hostile
//! pattern costs the square of a path component at most.

/// A compiled pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Glob {
    Literal(Box<[u8]>),
    /// One `*` and plain bytes around it, as in `*.o`: what most rules are.
    Affixes {
        prefix: Box<[u8]>,
        suffix: Box<[u8]>,
    },
    Wild(Box<[Token]>),
    /// Malformed, as `[a` is: rsync lets such a pattern match nothing.
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Byte(u8),
    /// `?`: any byte but a slash.
    One,
    /// `[...]`; never contains the slash.
    Class(Box<ByteSet>),
    /// `*`: any bytes but slashes.
    Star,
    /// `**`: any bytes.
    Stars,
}

impl Token {
    fn accepts(&self, byte: u8) -> bool {
        match self {
            Self::Byte(wanted) => *wanted == byte,
            Self::One => byte != b'/',
            Self::Class(set) => set.has(byte),
            Self::Star | Self::Stars => false,
        }
    }
}

/// Whether a pattern is more than a plain string.
pub(super) fn is_wild(pattern: &[u8]) -> bool {
    pattern.iter().any(|byte| b"*?[".contains(byte))
}

impl Glob {
    pub(super) fn new(pattern: &[u8]) -> Self {
        if !is_wild(pattern) {
            return Self::Literal(pattern.into());
        }
        let Some(tokens) = tokens(pattern) else {
            return Self::Never;
        };
        affixes(&tokens).unwrap_or_else(|| Self::Wild(tokens.into()))
    }

    pub(super) fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Literal(wanted) => **wanted == *text,
            Self::Affixes { prefix, suffix } => {
                text.len() >= prefix.len() + suffix.len()
                    && text.ends_with(suffix)
                    && text.starts_with(prefix)
                    && !text[prefix.len()..text.len() - suffix.len()].contains(&b'/')
            }
            Self::Wild(tokens) => wild_matches(tokens, text),
            Self::Never => false,
        }
    }
}

/// The form for exactly one `*` among plain bytes.
fn affixes(tokens: &[Token]) -> Option<Glob> {
    let at = tokens.iter().position(|token| *token == Token::Star)?;
    let plain = |tokens: &[Token]| -> Option<Box<[u8]>> {
        let bytes = tokens.iter().map(|token| match token {
            Token::Byte(byte) => Some(*byte),
            _ => None,
        });
        bytes.collect()
    };
    Some(Glob::Affixes {
        prefix: plain(&tokens[..at])?,
        suffix: plain(&tokens[at + 1..])?,
    })
}

fn tokens(pattern: &[u8]) -> Option<Vec<Token>> {
    let mut tokens = Vec::with_capacity(pattern.len());
    let mut at = 0;
    while let Some(&byte) = pattern.get(at) {
        at += 1;
        tokens.push(match byte {
            b'\\' => {
                at += 1;
                Token::Byte(*pattern.get(at - 1)?)
            }
            b'?' => Token::One,
            b'[' => {
                let (set, next) = class(pattern, at)?;
                at = next;
                Token::Class(Box::new(set))
            }
            b'*' => {
                let more = pattern[at..].iter().take_while(|byte| **byte == b'*');
                let more = more.count();
                at += more;
                if more > 0 { Token::Stars } else { Token::Star }
            }
            byte => Token::Byte(byte),
        });
    }
    Some(tokens)
}

/// Reads a class from behind its `[` on. Returns it and the position behind its `]`; nothing when it is malformed.
fn class(pattern: &[u8], start: usize) -> Option<(ByteSet, usize)> {
    let mut set = ByteSet::default();
    let mut at = start;
    let negated = matches!(pattern.get(at)?, b'!' | b'^');
    at += usize::from(negated);
    // Where a range may begin: the byte before, unless that closed a range or was a named class.
    let mut previous = None;
    let first = at;
    loop {
        let byte = *pattern.get(at)?;
        if byte == b']' && at > first {
            break;
        }
        let range_end = pattern.get(at + 1).filter(|byte| **byte != b']');
        if byte == b'\\' {
            at += 1;
            let escaped = *pattern.get(at)?;
            set.add(escaped);
            previous = Some(escaped);
        } else if let (b'-', Some(from), Some(&end)) = (byte, previous, range_end) {
            at += 1;
            let mut to = end;
            if end == b'\\' {
                at += 1;
                to = *pattern.get(at)?;
            }
            (from..=to).for_each(|byte| set.add(byte));
            previous = None;
        } else if let Some(name) = class_name(pattern, at)? {
            set.add_named(name)?;
            at += name.len() + 3;
            previous = None;
        } else {
            set.add(byte);
            previous = Some(byte);
        }
        at += 1;
    }
    if negated {
        set.invert();
    }
    set.remove(b'/');
    Some((set, at + 1))
}

/// The name in `[:name:]` at `at`: `Some(None)` when that is something else, `None` when it never ends.
#[allow(clippy::option_option)] // "No class" and "malformed" are different answers.
fn class_name(pattern: &[u8], at: usize) -> Option<Option<&[u8]>> {
    let Some(rest) = pattern[at..].strip_prefix(b"[:") else {
        return Some(None);
    };
    let end = rest.iter().position(|byte| *byte == b']')?;
    Some(rest[..end].strip_suffix(b":"))
}

/// Bytes of a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ByteSet([u64; 4]);

impl ByteSet {
    fn has(&self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] & (1 << (byte & 63)) != 0
    }

    fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    fn remove(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] &= !(1 << (byte & 63));
    }

    fn invert(&mut self) {
        self.0 = self.0.map(|word| !word);
    }

    /// Adds a POSIX class of the C locale; nothing for a name that there is not.
    fn add_named(&mut self, name: &[u8]) -> Option<()> {
        let belongs: fn(u8) -> bool = match name {
            b"alnum" => |byte| byte.is_ascii_alphanumeric(),
            b"alpha" => |byte| byte.is_ascii_alphabetic(),
            b"blank" => |byte| byte == b' ' || byte == b'\t',
            b"cntrl" => |byte| byte.is_ascii_control(),
            b"digit" => |byte| byte.is_ascii_digit(),
            b"graph" => |byte| byte.is_ascii_graphic(),
            b"lower" => |byte| byte.is_ascii_lowercase(),
            b"print" => |byte| byte.is_ascii_graphic() || byte == b' ',
            b"punct" => |byte| byte.is_ascii_punctuation(),
            // `isspace` has the vertical tab, which `is_ascii_whitespace` has not.
            b"space" => |byte| byte.is_ascii_whitespace() || byte == 0x0b,
            b"upper" => |byte| byte.is_ascii_uppercase(),
            b"xdigit" => |byte| byte.is_ascii_hexdigit(),
            _ => return None,
        };
        (0..=u8::MAX)
            .filter(|byte| belongs(*byte))
            .for_each(|byte| self.add(byte));
        Some(())
    }
}

/// A star that was passed: what follows it in the pattern, and where the text after it begins for now.
type Retry = (usize, usize);

fn wild_matches(tokens: &[Token], text: &[u8]) -> bool {
    let (mut token, mut at) = (0, 0);
    let (mut star, mut stars): (Option<Retry>, Option<Retry>) = (None, None);
    loop {
        match tokens.get(token) {
            Some(Token::Star) => {
                token += 1;
                star = Some((token, at));
                continue;
            }
            Some(Token::Stars) => {
                token += 1;
                stars = Some((token, at));
                star = None;
                continue;
            }
            Some(one) if text.get(at).is_some_and(|byte| one.accepts(*byte)) => {
                token += 1;
                at += 1;
                continue;
            }
            None if at == text.len() => return true,
            _ => {}
        }
        if let Some((next, from)) = star {
            match text.get(from) {
                // What follows the star is nowhere in the rest of the text, wherever that begins.
                None => return false,
                Some(b'/') => star = None,
                Some(_) => {
                    (token, at) = (next, from + 1);
                    star = Some((token, at));
                    continue;
                }
            }
        }
        match stars {
            Some((next, from)) if from < text.len() => {
                (token, at) = (next, from + 1);
                stars = Some((token, at));
            }
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The meaning of tokens, by trying everything.
    fn means(tokens: &[Token], text: &[u8]) -> bool {
        match tokens.split_first() {
            None => text.is_empty(),
            Some((Token::Star, rest)) => (0..=text.len())
                .take_while(|at| !text[..*at].contains(&b'/'))
                .any(|at| means(rest, &text[at..])),
            Some((Token::Stars, rest)) => (0..=text.len()).any(|at| means(rest, &text[at..])),
            Some((one, rest)) => text
                .split_first()
                .is_some_and(|(byte, text)| one.accepts(*byte) && means(rest, text)),
        }
    }

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern.as_bytes()).matches(text.as_bytes())
    }

    #[test]
    fn patterns_by_table() {
        let rows = [
            ("a", "a", true),
            ("a", "ab", false),
            ("a\\b", "a\\b", true),
            ("a\\b*", "ab", true),
            ("a\\\\b*", "a\\bc", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("*", "", true),
            ("*", "a/b", false),
            ("**", "a/b", true),
            ("*.o", "x.o", true),
            ("*.o", "d/x.o", false),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXb/Zc", false),
            ("a**b*c", "a/b/bc", true),
            ("?", "/", false),
            ("a?c", "abc", true),
            ("[abc]x", "bx", true),
            ("[!abc]", "d", true),
            ("[^abc]", "a", false),
            ("[!a]", "/", false),
            ("[/]", "/", false),
            ("[]a]", "]", true),
            ("[!]a]", "b", true),
            ("[a-c-e]", "-", true),
            ("[a-c-e]", "d", false),
            ("[a-]", "-", true),
            ("[\\]]", "]", true),
            ("[a-\\c]", "b", true),
            ("[[:digit:]x]", "7", true),
            ("[[:digit:]x]", "x", true),
            ("[[:digit:]-z]", "-", true),
            ("[[:space:]]", "\u{b}", true),
            ("[[:nonsense:]]", "n", false),
            ("[[:x]", ":", true),
            ("[[:]]", "[]", true),
            ("[abc", "[abc", false),
            ("*[", "[", false),
            ("*\\", "\\", false),
        ];
        for (pattern, text, expected) in rows {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn hostile_patterns_end() {
        let text = format!("{}/{}", "a".repeat(250), "a".repeat(250));
        assert!(!matches(&format!("**{}b", "*a".repeat(60)), &text));
        assert!(!matches(&format!("{}b", "a**".repeat(60)), &text));
    }

    mod properties {
        use super::*;
        use proptest::prelude::*;

        proptest! {
            #[test]
            fn matching_means_what_trying_everything_says(
                pattern in "[ab/*?\\[\\]!\\\\-]{0,9}",
                text in "[ab/]{0,9}",
            ) {
                let expected = match tokens(pattern.as_bytes()) {
                    _ if !is_wild(pattern.as_bytes()) => pattern == text,
                    Some(tokens) => means(&tokens, text.as_bytes()),
                    None => false,
                };
                prop_assert_eq!(matches(&pattern, &text), expected);
            }
        }
    }
}
