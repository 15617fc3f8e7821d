//! Figures as short words, and words cut to a width.

use std::time::Duration;

use ratatui::text::Span;

/// What stands for the part of a text that is cut off.
const CUT: &str = "...";

/// For the eye: beyond 2^53 it is rounded.
#[allow(clippy::cast_precision_loss)]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

/// How many of `cells` are filled by `share`, 0 to 1.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)] // Clamped, and a float that is no number becomes 0.
pub(super) fn cells_of(share: f64, cells: usize) -> usize {
    (share.clamp(0.0, 1.0) * cells as f64).round() as usize
}

/// Four or five characters: `845`, `15.2K`, `8.5M`.
pub(super) fn short(number: f64) -> String {
    const UNITS: [&str; 7] = ["", "K", "M", "G", "T", "P", "E"];
    scaled(number, 1000.0, &UNITS, "")
}

/// A count, short.
pub(super) fn count(number: u64) -> String {
    short(float(number))
}

/// Such as `15.2K/s`.
pub(super) fn rate(per_second: f64) -> String {
    if (0.05..9.95).contains(&per_second) {
        format!("{per_second:.1}/s")
    } else {
        short(per_second) + "/s"
    }
}

/// Such as `14.2 GiB`.
pub(super) fn bytes(number: f64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    scaled(number, 1024.0, &UNITS, " ")
}

fn scaled(number: f64, step: f64, units: &[&str], space: &str) -> String {
    let (mut number, mut at) = (number.max(0.0), 0);
    // What would be rounded up to the next unit is in it.
    while number >= step - 0.5 && at + 1 < units.len() {
        number /= step;
        at += 1;
    }
    let unit = units[at];
    if at == 0 || number >= 99.95 {
        format!("{number:.0}{space}{unit}")
    } else {
        format!("{number:.1}{space}{unit}")
    }
}

/// A latency, such as `850ns`, `1.2us`, `34.0ms`, `1.5s`.
pub(super) fn nanoseconds(number: u64) -> String {
    /// Longer ones are hours.
    const SECONDS_MAX: f64 = 9999.5;
    const UNITS: [&str; 4] = ["ns", "us", "ms", "s"];
    let seconds = float(number) / 1e9;
    if seconds >= SECONDS_MAX {
        return format!("{:.1}h", seconds / 3600.0);
    }
    scaled(float(number), 1000.0, &UNITS, "")
}

/// Hours, minutes and seconds: `00:01:23`.
pub(super) fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    format!("{hours:02}:{minutes:02}:{:02}", seconds % 60)
}

/// Such as `85%`; absent when there is no limit.
pub(super) fn percent(percent: Option<f64>) -> String {
    /// More is a figure that nobody needs.
    const PERCENT_MAX: f64 = 999.0;
    match percent {
        None => String::from("no limit"),
        Some(percent) if percent > PERCENT_MAX => format!(">{PERCENT_MAX}%"),
        Some(percent) => format!("{percent:.0}%"),
    }
}

/// Use in percent of a limit; 0 is no limit.
pub(super) fn percent_of(used: u64, limit: u64) -> Option<f64> {
    (limit > 0).then(|| 100.0 * float(used) / float(limit))
}

/// Cells that a text takes.
pub(super) fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The start of a text, in `width_max` cells.
pub(super) fn cut(text: &str, width_max: usize) -> String {
    if width(text) <= width_max {
        return text.to_owned();
    }
    let mark = &CUT[..CUT.len().min(width_max)];
    taken(text.chars(), width_max - mark.len()).collect::<String>() + mark
}

/// The end of a text, in `width_max` cells: what differs between paths is at their end.
pub(super) fn cut_start(text: &str, width_max: usize) -> String {
    if width(text) <= width_max {
        return text.to_owned();
    }
    let mark = &CUT[..CUT.len().min(width_max)];
    let end: Vec<char> = taken(text.chars().rev(), width_max - mark.len()).collect();
    mark.to_owned() + &end.into_iter().rev().collect::<String>()
}

/// Characters as long as they fit.
fn taken(characters: impl Iterator<Item = char>, mut room: usize) -> impl Iterator<Item = char> {
    characters.map_while(move |character| {
        room = room.checked_sub(width(character.encode_utf8(&mut [0; 4])))?;
        Some(character)
    })
}

/// The first that fits, else the last, cut.
pub(super) fn fitting(choices: &[String], width_max: usize) -> String {
    let fits = choices.iter().find(|choice| width(choice) <= width_max);
    let chosen = fits.or(choices.last());
    chosen.map_or_else(String::new, |chosen| cut(chosen, width_max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn figures_are_short() {
        let cases = [(0, "0"), (999, "999"), (1000, "1.0K"), (15_234, "15.2K")];
        for (number, text) in cases {
            assert_eq!(count(number), text);
        }
        assert_eq!(count(999_999), "1.0M");
        assert_eq!(count(245_400), "245K");
        assert_eq!(count(u64::MAX), "18.4E");
        assert_eq!(short(f64::INFINITY), "infE");
        assert_eq!((rate(0.0), rate(0.25)), ("0/s".into(), "0.2/s".into()));
        assert_eq!(rate(15_234.0), "15.2K/s");
        assert_eq!(bytes(15_247_000_000.0), "14.2 GiB");
        assert_eq!(bytes(float(u64::MAX)), "16.0 EiB");
    }

    #[test]
    fn times_have_units() {
        let cases = [
            (0, "0ns"),
            (850, "850ns"),
            (1_234, "1.2us"),
            (34_000_000, "34.0ms"),
            (1_500_000_000, "1.5s"),
            (7_200_000_000_000, "7200s"),
            (36_000_000_000_000, "10.0h"),
        ];
        for (number, text) in cases {
            assert_eq!(nanoseconds(number), text);
        }
        assert_eq!(clock(Duration::from_secs(83)), "00:01:23");
        assert_eq!(clock(Duration::from_secs(360_000)), "100:00:00");
    }

    #[test]
    fn percents_know_no_limit_and_no_end() {
        assert_eq!(percent(percent_of(85, 100)), "85%");
        assert_eq!(percent(percent_of(5, 0)), "no limit");
        assert_eq!(percent(percent_of(u64::MAX, 1)), ">999%");
    }

    #[test]
    fn cut_texts_show_that_they_are() {
        assert_eq!(cut("a long text", 8), "a lon...");
        assert_eq!(cut_start("/a/long/path", 8), "...$/path".replace('$', ""));
        assert_eq!((cut("abc", 3), cut("abcd", 2)), ("abc".into(), "..".into()));
        assert_eq!(cut("宽宽宽宽", 6), "宽...");
        assert_eq!(fitting(&["12,345".into(), "12K".into()], 4), "12K");
    }

    proptest! {
        #[test]
        fn cut_texts_fit(text in "\\PC{0,40}", room in 0..30_usize) {
            prop_assert!(width(&cut(&text, room)) <= room);
            prop_assert!(width(&cut_start(&text, room)) <= room);
        }
    }
}
