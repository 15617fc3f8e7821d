//! `--dashboard`: what happens in a run, on the whole screen of a terminal.

mod keys;
mod look;
mod panels;
mod series;
mod terminal;
#[cfg(test)]
mod tests;
mod view;
mod words;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::monitor::snapshot::Board;
use crate::report::errors::ErrorGroup;
use keys::{Key, Keys};
use terminal::Screen;

pub use look::Look;
pub use series::Span;
pub use terminal::restore_terminal;
pub use view::{Title, View, draw};

/// Between two frames, unless a key or another size asks for one.
const FRAME_INTERVAL: Duration = Duration::from_millis(250);

/// Whether the view is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Stay {
    Shown,
    /// The user has left it, or the terminal is gone. The run goes on; the terminal is as it was before.
    Left,
}

/// The view on the terminal.
///
/// While it is shown nothing else may be printed there: keep what is to be said until it is left. It is left at the end of
/// the run, when dropped, on a panic of any thread, and by [`restore_terminal`].
pub struct Dashboard {
    board: Arc<Board>,
    view: View,
    keys: Keys,
    /// Absent when left.
    screen: Option<Screen>,
    /// The view has changed since the last frame.
    is_changed: bool,
    drawn_at: Instant,
}

impl Dashboard {
    /// Takes the terminal and draws the first frame.
    ///
    /// # Errors
    /// Standard input or standard error is no terminal, or does not work as one; the message says which.
    pub fn start(board: Arc<Board>, title: Title) -> io::Result<Self> {
        let view = View {
            title,
            snapshot: board.latest(),
            history: board.history(),
            errors: Vec::new(),
            look: Look::of_environment(),
            ending: false,
            help: false,
            paused: false,
            span: Span::default(),
        };
        let mut screen = Screen::take()?;
        screen.draw(|frame| draw(frame, &view))?;
        Ok(Self {
            board,
            view,
            keys: Keys::default(),
            screen: Some(screen),
            is_changed: false,
            drawn_at: Instant::now(),
        })
    }

    /// Does what keys ask for and draws what is new. Call it about every 100 ms; it does not wait for keys.
    ///
    /// `ending`: the run has been asked to end.
    pub fn show(&mut self, errors: &[ErrorGroup], ending: bool) -> Stay {
        match self.step(errors, ending) {
            Ok(Stay::Shown) => Stay::Shown,
            Ok(Stay::Left) => {
                self.leave();
                Stay::Left
            }
            Err(error) => {
                tracing::debug!("the terminal of the dashboard is gone: {error}");
                self.leave();
                Stay::Left
            }
        }
    }

    /// Gives the terminal back as it was. Again, it does nothing.
    pub fn leave(&mut self) {
        self.screen = None;
    }

    fn step(&mut self, errors: &[ErrorGroup], ending: bool) -> io::Result<Stay> {
        let Some(screen) = &mut self.screen else {
            return Ok(Stay::Left);
        };
        if !screen.is_here()? {
            return Ok(Stay::Shown);
        }
        let mut is_asked = false;
        for key in self.keys.read(screen.keys()?) {
            is_asked = true;
            match key {
                Key::Leave => return Ok(Stay::Left),
                Key::Help => self.view.help = !self.view.help,
                Key::Pause => self.view.paused = !self.view.paused,
                Key::Span => {
                    self.view.span = match self.view.span {
                        Span::Recent => Span::WholeRun,
                        Span::WholeRun => Span::Recent,
                    }
                }
                Key::Redraw => screen.enter()?,
            }
        }
        self.is_changed |= refresh(&mut self.view, &self.board, errors, ending);
        let is_due = self.is_changed && self.drawn_at.elapsed() >= FRAME_INTERVAL;
        if is_asked || is_due || screen.is_blank() {
            screen.draw(|frame| draw(frame, &self.view))?;
            self.is_changed = false;
            self.drawn_at = Instant::now();
        }
        Ok(Stay::Shown)
    }
}

/// Takes over what is new; the figures stand still in a paused view. True when anything is.
fn refresh(view: &mut View, board: &Board, errors: &[ErrorGroup], ending: bool) -> bool {
    let mut is_new = view.ending != ending;
    view.ending = ending;
    if view.paused {
        return is_new;
    }
    let latest = board.latest();
    if !Arc::ptr_eq(&latest, &view.snapshot) {
        view.snapshot = latest;
        view.history = board.history();
        is_new = true;
    }
    if view.errors != errors {
        view.errors = errors.to_vec();
        is_new = true;
    }
    is_new
}
