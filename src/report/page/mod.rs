//! `--report`: one page about a run that is over. It needs nothing besides itself: no script, no font, no network.

mod file;
mod plots;
mod tables;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{HumanBytes, HumanCount};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::dashboard::Title;
use super::errors::ErrorGroup;
use super::figures;
use crate::monitor::{History, Snapshot};

pub use file::{check_writable, write};

const STYLE: &str = include_str!("style.css");

/// What a page tells.
pub struct PageInput<'a> {
    pub title: &'a Title,
    pub started: SystemTime,
    /// The summary as it was printed.
    pub words: &'a str,
    pub exit_code: u8,
    /// The last one.
    pub snapshot: &'a Snapshot,
    pub history: &'a History,
    pub errors: &'a [ErrorGroup],
    /// Each setting: its name, its value, where that comes from.
    pub settings: &'a [[String; 3]],
}

/// The page itself.
#[must_use]
pub fn render(input: &PageInput<'_>) -> String {
    let Title {
        task,
        source,
        destination,
    } = input.title;
    let heading = format!("ringsync {task}");
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { (heading) " " (source) }
                // An empty icon, or browsers ask for one.
                link rel="icon" href="data:,";
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    h1 { (heading) }
                    p.path { code { (source) } @if let Some(to) = destination { " → " code { (to) } } }
                    p.when { "began " (utc(input.started)) " UTC, took " (duration(input.snapshot.elapsed)) }
                }
                main {
                    (cards(input))
                    section { h2 { "Summary" } pre { (input.words) } }
                    section { h2 { "Over time" } (plots::over_time(input.history)) }
                    (tables::events(input.history))
                    section #latencies {
                        h2 { "Latencies" }
                        @if input.snapshot.latencies.is_empty() { p { "They were not measured." } }
                        @else { (tables::latencies(input.snapshot)) (plots::latencies(input.snapshot)) }
                    }
                    section { h2 { "File sizes" } (plots::sizes(input.snapshot)) }
                    (tables::slowest(input.snapshot))
                    (tables::errors(input.errors))
                    (tables::cores(input.snapshot))
                    (tables::settings(input.settings))
                }
                footer { "ringsync " (env!("CARGO_PKG_VERSION")) }
            }
        }
    }
    .into_string()
}

fn cards(input: &PageInput<'_>) -> Markup {
    let snapshot = input.snapshot;
    let totals = &snapshot.totals;
    let seconds = snapshot.elapsed.as_secs_f64().max(1e-3);
    let rate = |count: u64| HumanCount(per_second(count, seconds));
    let moved = totals.bytes_copied + totals.bytes_cloned;
    let cards = [
        ("entries", HumanCount(totals.entries_found).to_string()),
        ("entries per second", rate(totals.entries_found).to_string()),
        ("directories", HumanCount(totals.dirs_listed).to_string()),
        ("files copied", HumanCount(totals.files_copied).to_string()),
        ("bytes copied", HumanBytes(moved).to_string()),
        (
            "bytes per second",
            HumanBytes(per_second(moved, seconds)).to_string(),
        ),
        ("deleted", HumanCount(totals.entries_deleted).to_string()),
        ("errors", HumanCount(snapshot.errors.total()).to_string()),
        (
            "memory at most",
            HumanBytes(snapshot.load.memory.used_max).to_string(),
        ),
        ("exit code", input.exit_code.to_string()),
    ];
    html! {
        section.cards {
            @for (name, value) in &cards {
                @let bad = (*name == "errors" || *name == "exit code") && value != "0";
                div.card.bad[bad] { b { (value) } span { (name) } }
            }
        }
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]
// For the eye.
fn per_second(count: u64, seconds: f64) -> u64 {
    (count as f64 / seconds) as u64
}

fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, _) => figures::time(time),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}

/// Date and time, from the civil calendar (H. Hinnant's `civil_from_days`).
fn utc(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let (days, clock) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Class, OpKind, Side};
    use crate::model::{OpClass, Timed};
    use crate::monitor::{Change, Core, Event, Latency, Point, SizeBucket, SlowDirectory};
    use crate::throttle::Resource;
    use hdrhistogram::Histogram;
    use std::fs;

    const NASTY: &str = "<script>alert('x')</script>\"&";

    fn full() -> (Snapshot, History) {
        let mut histogram = Histogram::new_with_bounds(16, 3_600_000_000_000, 2).unwrap();
        for nanos in [50, 2_000, 2_500, 40_000, 3_000_000, 90_000_000_000] {
            histogram.record(nanos).unwrap();
        }
        let mut history = History::default();
        for second in 1..50_u64 {
            history.push(Point {
                elapsed: Duration::from_secs(second),
                files_per_second: 1000.0,
                memory_used: second << 20,
                memory_limit: 64 << 20,
                files_limit: 1000,
                engaged: [second % 10 < 3, false, second > 40],
                ..Point::default()
            });
        }
        history.note(Event {
            at: Duration::from_secs(3),
            resource: Some(Resource::Files),
            change: Change::Engaged { percent: 100.0 },
        });
        history.note(Event {
            at: Duration::from_secs(4),
            resource: None,
            change: Change::Adjusted {
                limit: "crawl parallelism",
                zone: "UNDERUTILIZED",
                from: 8,
                to: 11,
            },
        });
        let snapshot = Snapshot {
            elapsed: Duration::from_secs(3723),
            latencies: vec![Latency {
                what: Timed::Op(OpClass::Stat, Side::Source),
                histogram,
            }],
            sizes: vec![
                SizeBucket {
                    exponent: 0,
                    files: 3,
                },
                SizeBucket {
                    exponent: 64,
                    files: u64::MAX / 2,
                },
            ],
            slowest: vec![SlowDirectory {
                path: b"a/\xff<b>".to_vec(),
                elapsed: Duration::from_millis(1500),
                entries: 7,
            }],
            ..Snapshot::default()
        };
        (snapshot, history)
    }

    fn page(snapshot: &Snapshot, history: &History) -> String {
        let title = Title {
            task: String::from("sync"),
            source: NASTY.to_owned(),
            destination: Some(NASTY.to_owned()),
        };
        render(&PageInput {
            title: &title,
            started: UNIX_EPOCH + Duration::from_secs(1_709_210_096),
            words: NASTY,
            exit_code: 23,
            snapshot,
            history,
            errors: &[ErrorGroup {
                class: Class::Entry,
                op: OpKind::Open,
                side: Side::Source,
                cause: NASTY.to_owned(),
                count: 1234,
                paths: vec![NASTY.to_owned()],
            }],
            settings: &[[NASTY.to_owned(), NASTY.to_owned(), NASTY.to_owned()]],
        })
    }

    #[test]
    fn a_page_tells_all_and_needs_nothing_else() {
        let (mut snapshot, history) = full();
        snapshot.load.cores = vec![Core::default(); 3];
        let page = page(&snapshot, &history);
        for part in [
            "2024-02-29 12:34:56",
            "1 h 2 min",
            "Over time",
            "statx source",
            "UNDERUTILIZED",
            "FILES",
            "1,234",
            "a/\\xff&lt;b&gt;",
            "exit code",
        ] {
            assert!(page.contains(part), "{part} is missing");
        }
        assert!(!page.contains("<script"), "names are escaped");
        let links: Vec<&str> = page
            .match_indices("http")
            .map(|(at, _)| &page[at..at + 26])
            .collect();
        assert!(
            links
                .iter()
                .all(|link| *link == "http://www.w3.org/2000/svg"),
            "{links:?}"
        );
    }

    #[test]
    fn empty_and_absurd_figures_make_a_page_too() {
        assert!(page(&Snapshot::default(), &History::default()).ends_with("</html>"));
        let mut history = History::default();
        history.push(Point {
            files_per_second: f64::MAX,
            memory_used: u64::MAX,
            ..Point::default()
        });
        assert!(page(&Snapshot::default(), &history).ends_with("</html>"));
    }

    #[test]
    fn a_page_replaces_another_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("page.html");
        check_writable(&path).unwrap();
        let (snapshot, history) = full();
        let title = Title::default();
        let input = PageInput {
            title: &title,
            started: UNIX_EPOCH,
            words: "",
            exit_code: 0,
            snapshot: &snapshot,
            history: &history,
            errors: &[],
            settings: &[],
        };
        fs::write(&path, "old").unwrap();
        write(&path, 0o022, &input).unwrap();
        assert!(
            fs::read_to_string(&path)
                .unwrap()
                .starts_with("<!DOCTYPE html>")
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        // What is no file stays what it is.
        let link = dir.path().join("link.html");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write(&link, 0o022, &input).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        let null = std::path::Path::new("/dev/null");
        check_writable(null).unwrap();
        write(null, 0o022, &input).unwrap();
        assert!(!fs::metadata(null).unwrap().is_file());
        assert!(check_writable(dir.path()).is_err());
        assert!(check_writable(&dir.path().join("none/page.html")).is_err());
    }
}
