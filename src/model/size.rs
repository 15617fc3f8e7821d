//! Sizes as rsync's options take them.

/// Powers of the unit letters.
const UNITS: [u8; 6] = *b"bkmgtp";

/// Bytes in `text`: digits with an optional fraction, then an optional unit (`K`, `M`, `G`, `T`, `P`, of 1024 each; `KiB` means the
/// same, `KB` is of 1000; `B` is bytes), then optionally `+1` or `-1`. Capitals or not.
///
/// # Errors
/// What is allowed.
pub fn parse(text: &str) -> Result<u64, String> {
    bytes(text).ok_or_else(|| {
        format!(
            "'{text}' is not a size: write a number, with K, M, G, T or P for units of 1024 (KB and so on for 1000) and \
             perhaps +1 or -1 behind it, up to 8192P-1"
        )
    })
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let (unit, offset) = match (rest.strip_suffix("+1"), rest.strip_suffix("-1")) {
        (Some(unit), _) => (unit, 1),
        (_, Some(unit)) => (unit, -1),
        _ => (rest, 0),
    };
    let size = scaled(number, factor(unit)?)?;
    // What the kernel can say of a file: `off_t` is signed.
    i64::try_from(size)
        .ok()
        .and_then(|size| size.checked_add(offset))
        .and_then(|size| u64::try_from(size).ok())
}

fn factor(unit: &str) -> Option<u128> {
    let unit = unit.to_ascii_lowercase();
    let (letter, rest) = match unit.as_bytes() {
        [] => (b'b', &b""[..]),
        [letter, rest @ ..] => (*letter, rest),
    };
    let power = UNITS.iter().position(|known| *known == letter)?;
    let base: u128 = match rest {
        b"" | b"ib" => 1024,
        b"b" => 1000,
        _ => return None,
    };
    base.checked_pow(u32::try_from(power).ok()?)
}

/// `number * factor`, rounded down. Exact, where rsync goes through floating point.
fn scaled(number: &str, factor: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() { "0" } else { whole };
    let bytes = whole.parse::<u128>().ok()?.checked_mul(factor)?;
    // Eighteen digits tell all bytes of the largest size apart.
    let digits = &fraction[..fraction.len().min(18)];
    let scale = 10_u128.pow(u32::try_from(digits.len()).ok()?);
    let fraction = digits.parse::<u128>().unwrap_or(0);
    bytes.checked_add(factor.checked_mul(fraction)? / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_by_table() {
        let rows = [
            ("0", 0),
            ("100", 100),
            ("100b", 100),
            ("1K", 1024),
            ("1KiB", 1024),
            ("1kb", 1000),
            ("1.5mb-1", 1_499_999),
            ("2g+1", 2_147_483_649),
            (".5k", 512),
            ("1.5", 1),
            ("1t", 1 << 40),
            ("8191P", 8191 << 50),
        ];
        for (text, expected) in rows {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
        for refused in [
            "", ".", "x", "-1", "1x", "1kk", "1k+2", "1.2.3", "1ki", "8192P", "0-1", "+1", "1 k",
        ] {
            assert!(parse(refused).is_err(), "{refused}");
        }
    }
}
