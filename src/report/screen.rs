//! The terminal while a run lasts: the dashboard until it is left, progress otherwise, and messages in either case.

use super::dashboard::{Dashboard, Stay};
use super::errors::ErrorGroup;
use super::progress::{Progress, ProgressStyle};
use super::say;
use crate::model::tally::Totals;

/// Messages that wait for the end of the dashboard. It shows the kinds of all errors itself.
const HELD_MAX: usize = 200;

pub(super) struct Screen {
    dashboard: Option<Dashboard>,
    progress: Progress,
    held: Vec<String>,
}

impl Screen {
    pub(super) fn new(dashboard: Option<Dashboard>, style: ProgressStyle) -> Self {
        Self {
            dashboard,
            progress: Progress::new(style),
            held: Vec::new(),
        }
    }

    /// Shows how things stand.
    pub(super) fn show(
        &mut self,
        totals: &Totals,
        errors: u64,
        groups: impl FnOnce() -> Vec<ErrorGroup>,
        is_ending: bool,
    ) {
        let Some(dashboard) = &mut self.dashboard else {
            return self.progress.show(totals, errors);
        };
        if dashboard.show(&groups(), is_ending) == Stay::Left {
            self.leave();
        }
    }

    /// Prints a line on standard error, now or when the dashboard is left.
    pub(super) fn say(&mut self, line: String) {
        if self.dashboard.is_none() {
            self.progress.above(|| say(&line));
        } else if self.held.len() < HELD_MAX {
            self.held.push(line);
        }
    }

    /// Prints a line that is of no use later: a dashboard has the like itself.
    pub(super) fn remark(&self, line: &str) {
        if self.dashboard.is_none() {
            self.above(|| say(line));
        }
    }

    /// Prints something without tearing the progress bar. With a dashboard, standard output is no terminal.
    pub(super) fn above(&self, print: impl FnOnce()) {
        self.progress.above(print);
    }

    pub(super) fn clear(&mut self) {
        self.leave();
        self.progress.clear();
    }

    fn leave(&mut self) {
        // Its drop gives the terminal back.
        self.dashboard = None;
        for line in std::mem::take(&mut self.held) {
            say(&line);
        }
    }
}
