//! Values of settings, from text. Errors continue the sentence that begins with the setting and its value.

use jiff::civil::DateTime;
use jiff::{Span, Timestamp, ZonedDateTime};

use crate::model::{Time, size};

pub(super) fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        _ => Err(format!("is out of range: {least} to {most}")),
    }
}

pub(super) fn seconds(text: &str, least: f64, most: f64) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (least..=most).contains(&seconds) => Ok(seconds),
        _ => Err(format!("is out of range: {least} to {most} seconds")),
    }
}

pub(super) fn size(text: &str) -> Result<u64, String> {
    size::parse(text).map_err(|_| {
        String::from("is not a size: write a number with K, M, G or T behind it, such as 8G")
    })
}

/// As rsync has it: KiB unless there is a unit.
pub(super) fn rate(text: &str) -> Result<u64, String> {
    let plain = !text.contains(|c: char| c.is_ascii_alphabetic());
    let parsed = if plain {
        size::parse(&format!("{text}K"))
    } else {
        size::parse(text)
    };
    parsed.map_err(|_| {
        String::from("is not a rate: write KiB per second, or a size such as 100M; 0 is no limit")
    })
}

/// A time that has been: with an offset, or by the local clock; seconds since 1970; or so long ago.
pub(super) fn past(text: &str) -> Result<Time, String> {
    let now = ZonedDateTime::now();
    let seconds = || Timestamp::from_second(text.strip_prefix('@')?.parse().ok()?).ok();
    let local = || {
        let time = text.parse::<DateTime>().ok()?;
        let time = time.to_zoned_datetime(now.time_zone().clone()).ok()?;
        Some(time.timestamp())
    };
    let ago = || {
        Some(
            now.checked_add(text.parse::<Span>().ok()?)
                .ok()?
                .timestamp(),
        )
    };
    let told = text.parse::<Timestamp>().ok();
    match told.or_else(seconds).or_else(local).or_else(ago) {
        Some(time) if time > now.timestamp() => Err(String::from("is yet to come")),
        Some(time) => Ok(Time {
            sec: time.as_second(),
            nsec: time.subsec_nanosecond().unsigned_abs(),
        }),
        None => Err(String::from(
            "is not a time: write 2026-11-27T03:00:00Z, '2026-11-27 03:00' (local time), '2 days ago' or @SECONDS since 1970",
        )),
    }
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    word(text, &[("on", true), ("off", false)])
}

pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let known = words.iter().find(|(word, _)| *word == text);
    known.map(|(_, value)| *value).ok_or_else(|| {
        let all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("is none of: {}", all.join(", "))
    })
}

/// A count of the allowed CPUs, or a list of some of them.
pub(super) fn cpus(text: &str, allowed: &[usize]) -> Result<Vec<usize>, String> {
    if !text.contains([',', '-']) {
        return match text.parse::<usize>() {
            Ok(count) if (1..=allowed.len()).contains(&count) => Ok(allowed[..count].to_vec()),
            _ => Err(format!(
                "is out of range: 1 to {}, or a list of CPUs such as 0,2-5",
                allowed.len()
            )),
        };
    }
    let mut chosen = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last => first..=last,
            _ => {
                return Err(format!(
                    "is out of range: '{part}' is neither a CPU nor a range of CPUs"
                ));
            }
        };
        if let Some(cpu) = range.clone().find(|cpu| !allowed.contains(cpu)) {
            return Err(format!(
                "is out of range: this process may not use CPU {cpu}; it may use {allowed:?}"
            ));
        }
        chosen.extend(range);
    }
    chosen.sort_unstable();
    chosen.dedup();
    if chosen.is_empty() {
        return Err(String::from("names no CPU"));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date_or_so_long_ago_and_has_been() {
        let second = |text: &str| past(text).map(|time| time.sec);
        assert_eq!(second("2001-09-09T01:46:40Z"), Ok(1_000_000_000));
        assert_eq!(second("2001-09-09 03:46:40+02:00"), Ok(1_000_000_000));
        assert_eq!(second("@1000000000"), Ok(1_000_000_000));
        let (day, now) = (24 * 3600, Timestamp::now().as_second());
        let local = second("2001-09-09 01:46:40").unwrap();
        assert!((local - 1_000_000_000).abs() <= day);
        assert!(second("2001-09-09").is_ok());
        for (text, wanted) in [("2 days ago", 2 * day), ("1h 30m ago", 5400)] {
            // A day may be an hour shorter.
            assert!(
                (now - second(text).unwrap() - wanted).abs() <= 3700,
                "{text}"
            );
        }
        for text in ["2 days", "2999-01-01", "@99999999999"] {
            assert_eq!(past(text), Err(String::from("is yet to come")), "{text}");
        }
        for text in ["", "yesterday", "@", "@x", "2001-13-01", "12:00"] {
            let error = past(text).unwrap_err();
            assert!(error.starts_with("is not a time"), "{text}");
        }
    }

    #[test]
    fn numbers_out_of_range_are_refused_with_the_range() {
        assert_eq!(number("7", 1, 9), Ok(7));
        for text in ["0", "10", "-1", "1.5", "x", "", "99999999999999999999"] {
            assert_eq!(
                number(text, 1, 9),
                Err(String::from("is out of range: 1 to 9"))
            );
        }
        assert_eq!(seconds("0.5", 0.1, 60.0), Ok(0.5));
        for text in ["0", "61", "nan", "inf", "-1", ""] {
            assert!(seconds(text, 0.1, 60.0).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_in_kib_unless_they_have_a_unit() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100 << 10),
            ("1.5", 1536),
            ("1.5M", 3 << 19),
            ("1000B", 1000),
            ("1M+1", (1 << 20) + 1),
        ] {
            assert_eq!(rate(text), Ok(bytes), "{text}");
        }
        for text in ["", "-1", "x", "1X", "1e9"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cores_by_count_and_by_list() {
        let allowed = [0, 2, 4, 5, 6];
        let choose = |text| cpus(text, &allowed);
        assert_eq!(choose("2").unwrap(), [0, 2]);
        assert_eq!(choose("6,4-5,5").unwrap(), [4, 5, 6]);
        for refused in [
            "0",
            "6",
            "x",
            "1,2",
            "5-4",
            "0-2",
            ",",
            "-1",
            "1000000000000",
        ] {
            assert!(choose(refused).is_err(), "{refused}");
        }
    }
}
