//! Progress while a run lasts: a bar on a terminal, or a line now and then.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle as BarStyle};

use crate::model::tally::Totals;

/// Between two lines of the plain style.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// `--progress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressStyle {
    /// One line that is drawn again and again.
    Bar,
    /// A new line every few seconds: for logs.
    Plain,
    None,
}

impl ProgressStyle {
    /// What `auto` means: a bar where standard error is a terminal, else nothing.
    #[must_use]
    pub fn auto() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Bar
        } else {
            Self::None
        }
    }
}

pub(super) struct Progress {
    style: ProgressStyle,
    bar: Option<ProgressBar>,
    started: Instant,
    line_at: Instant,
}

impl Progress {
    pub(super) fn new(style: ProgressStyle) -> Self {
        let bar = (style == ProgressStyle::Bar).then(|| {
            let template = BarStyle::with_template("{spinner} {wide_msg} {elapsed_precise}");
            let style = template.unwrap_or_else(|_| BarStyle::default_spinner());
            ProgressBar::new_spinner().with_style(style)
        });
        Self {
            style,
            bar,
            started: Instant::now(),
            line_at: Instant::now() + LINE_INTERVAL,
        }
    }

    pub(super) fn show(&mut self, totals: &Totals, errors: u64) {
        match (&self.bar, self.style) {
            (Some(bar), _) => {
                bar.set_message(self.text(totals, errors));
                bar.tick();
            }
            (None, ProgressStyle::Plain) if Instant::now() >= self.line_at => {
                self.line_at += LINE_INTERVAL;
                let elapsed = self.started.elapsed().as_secs();
                let text = self.text(totals, errors);
                super::say(&format!("ringsync: {elapsed} s: {text}"));
            }
            _ => {}
        }
    }

    fn text(&self, totals: &Totals, errors: u64) -> String {
        let compared = totals.entries_equal + totals.entries_repaired;
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        // A rate for the eye.
        let rate =
            (totals.bytes_copied as f64 / self.started.elapsed().as_secs_f64().max(0.001)) as u64;
        format!(
            "{} found, {} equal, {} copied, {} ({}/s), {} errors",
            HumanCount(totals.entries_found),
            HumanCount(compared),
            HumanCount(totals.files_copied),
            HumanBytes(totals.bytes_copied),
            HumanBytes(rate),
            HumanCount(errors),
        )
    }

    /// Prints something without tearing the bar.
    pub(super) fn above(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    pub(super) fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
