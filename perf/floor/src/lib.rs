//! What the floor programs share: a work queue, directory listing, and plain argument handling.
//!
//! Map: `queue` hands directories to pinned threads; `listing` is openat + getdents64 + statx;
//! `bin/floor-scan`, `bin/floor-copy`, `bin/floor-compare` are the floors; `bin/mktree` makes trees.
//!
//! A floor is run on a healthy tree that nobody changes, so any error at all stops the program.

pub mod listing;
pub mod queue;

use std::fmt::Display;

/// Exit status of a floor program that could not do its job. 1 and 2 are left for `floor-compare`.
pub const EXIT_FAILED: i32 = 3;

/// Threads when none are asked for.
pub const THREADS_DEFAULT: usize = 2;

/// Prints `what: error` and ends the program. Used for every error: see the note at the top.
pub fn fail(what: impl Display, error: impl Display) -> ! {
    eprintln!("{what}: {error}");
    std::process::exit(EXIT_FAILED)
}

/// The optional thread count at the end of a command line.
///
/// # Errors
/// When it is not a number from 1 to 1024.
pub fn parse_threads(arg: Option<&str>) -> Result<usize, String> {
    match arg.map(str::parse::<usize>) {
        None => Ok(THREADS_DEFAULT),
        Some(Ok(threads @ 1..=1024)) => Ok(threads),
        Some(_) => Err("THREADS must be a number from 1 to 1024".into()),
    }
}

/// A byte count: digits with an optional K, M or G (powers of 1024).
///
/// # Errors
/// When it is not such a count, or does not fit 64 bits.
pub fn parse_size(arg: &str) -> Result<u64, String> {
    let (digits, shift) = match arg.as_bytes().last() {
        Some(b'K' | b'k') => (&arg[..arg.len() - 1], 10),
        Some(b'M' | b'm') => (&arg[..arg.len() - 1], 20),
        Some(b'G' | b'g') => (&arg[..arg.len() - 1], 30),
        _ => (arg, 0),
    };
    digits
        .parse::<u64>()
        .ok()
        .and_then(|count| count.checked_mul(1 << shift))
        .ok_or_else(|| format!("{arg:?} is not a size"))
}

/// `count` per second, for printing only.
#[must_use]
#[allow(clippy::cast_precision_loss)] // a rate printed without decimals
pub fn rate(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds.max(1e-9)
}

/// A number that looks random for each number given: the step of splitmix64 (Steele, Lea and Flood, 2014).
#[must_use]
pub fn scramble(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("0"), Ok(0));
        assert_eq!(parse_size("8k"), Ok(8192));
        assert_eq!(parse_size("1G"), Ok(1 << 30));
        for bad in ["", "K", "-1", "1T", "99999999999G"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn threads() {
        assert_eq!(parse_threads(None), Ok(THREADS_DEFAULT));
        assert_eq!(parse_threads(Some("7")), Ok(7));
        assert!(parse_threads(Some("0")).is_err());
        assert!(parse_threads(Some("x")).is_err());
    }
}
