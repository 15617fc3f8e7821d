//! Checksums as servers keep them of their objects, and the same of bytes that are at hand.

use md5::{Digest, Md5};

use super::copies::Version;

type Sum = [u8; 16];

/// An MD5, by which an object is told from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checksum {
    sum: Sum,
    /// In bytes, of all but the last: then it is the MD5 of the MD5s of its parts, one after the other.
    part: Option<u64>,
}

/// Takes in bytes, one after the other, for a [`Checksum`] of the same kind as another.
pub struct Hasher {
    part: Option<u64>,
    current: Md5,
    /// What the current part still takes.
    left: u64,
    /// Of the parts before it.
    sums: Md5,
}

impl Checksum {
    /// Of contents as a whole.
    #[must_use]
    pub fn of_whole(sum: Sum) -> Self {
        Self { sum, part: None }
    }

    /// Of contents in parts of so many bytes, not 0.
    #[must_use]
    pub fn of_parts(sum: Sum, bytes: u64) -> Self {
        let part = Some(bytes);
        Self { sum, part }
    }

    /// Whether two of equal contents are equal.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.part == other.part
    }

    /// Of an object as a whole, whose ETag it is.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        let sum = u128::from_be_bytes(self.sum);
        let etag = self.part.is_none().then(|| format!("{sum:032x}"))?;
        Version::of_etag(&etag)
    }

    #[must_use]
    pub fn hasher(&self) -> Hasher {
        Hasher::new(self.part)
    }
}

impl Hasher {
    fn new(part: Option<u64>) -> Self {
        Self {
            part,
            current: Md5::new(),
            left: part.unwrap_or(u64::MAX),
            sums: Md5::new(),
        }
    }

    /// Of contents as a whole.
    #[must_use]
    pub fn of_whole() -> Self {
        Self::new(None)
    }

    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left == 0 {
                self.sums.update(self.current.finalize_reset());
                self.left = self.part.unwrap_or(u64::MAX);
            }
            let room = usize::try_from(self.left).unwrap_or(usize::MAX);
            let (here, rest) = bytes.split_at(bytes.len().min(room));
            self.current.update(here);
            self.left -= here.len() as u64;
            bytes = rest;
        }
    }

    #[must_use]
    pub fn finish(mut self) -> Checksum {
        let last = self.current.finalize();
        let sum = if self.part.is_some() {
            self.sums.update(last);
            self.sums.finalize()
        } else {
            last
        };
        Checksum {
            sum: sum.into(),
            part: self.part,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn md5(bytes: &[u8]) -> Sum {
        Md5::digest(bytes).into()
    }

    fn hashed(like: &Checksum, pieces: &[&[u8]]) -> Checksum {
        let mut hasher = like.hasher();
        for piece in pieces {
            hasher.update(piece);
        }
        hasher.finish()
    }

    #[test]
    fn wholes_and_parts() {
        // From the test suite of RFC 1321.
        let abc = "900150983cd24fb0d6963f7d28e17f72";
        let hex = format!("{:032x}", u128::from_be_bytes(md5(b"abc")));
        assert_eq!(hex, abc);
        let whole = Checksum::of_whole(md5(b"abcdefg"));
        assert_eq!(hashed(&whole, &[b"abcdefg"]), whole);
        assert_eq!(hashed(&whole, &[b"abc", b"", b"defg"]), whole);
        assert_ne!(hashed(&whole, &[b"abcdefh"]), whole);
        let etag = Version::of_etag("\"7ac66c0f148de9519b8bd264312c4d64\"");
        assert_eq!(whole.version(), etag);
        assert_eq!(hashed(&Checksum::of_whole(md5(b"")), &[]).sum, md5(b""));
        let of_parts = |parts: &[&[u8]], bytes| {
            let sums: Vec<_> = parts.iter().flat_map(|part| md5(part)).collect();
            Checksum::of_parts(md5(&sums), bytes)
        };
        for (parts, bytes) in [
            (&[&b"abc"[..], b"def", b"g"][..], 3),
            (&[b"abcdef", b"g"], 6),
            (&[b"abcdefg"], 7),
            (&[b"abcdefg"], 8),
        ] {
            let wanted = of_parts(parts, bytes);
            assert_eq!(hashed(&wanted, &[b"abcdefg"]), wanted);
            assert_eq!(hashed(&wanted, &[b"ab", b"cdef", b"g"]), wanted);
            assert!(!wanted.is_like(&whole) && wanted.is_like(&wanted));
        }
    }
}
