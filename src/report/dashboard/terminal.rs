//! The terminal as a screen of ours: taken, drawn on, and given back whatever happens.
//!
//! A terminal belongs to the whole process, and whoever ends the process early must be able to give it back from any
//! thread: hence the two statics.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, TryLockError};
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::{Hide, MoveTo, Show};
use ratatui::crossterm::queue;
use ratatui::crossterm::style::{Attribute, SetAttribute};
use ratatui::crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen};
use ratatui::layout::Rect;
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp,
    tcgetwinsize, tcsetattr,
};
use signal_hook::SigId;

/// How the terminal was set before; absent while it is not taken.
static MODE_BEFORE: Mutex<Option<Termios>> = Mutex::new(None);
/// Held while a frame is written, so that nothing of it comes after the terminal was given back. Taken before the other.
static WRITING: Mutex<()> = Mutex::new(());
static PANIC_HOOK: Once = Once::new();

/// How often, and after how long each time, the end of a frame is waited for. A terminal that takes nothing for that long
/// may be stopped or hang, and must not keep the process from ending.
const WRITING_LOOKS_MAX: u32 = 50;
const WRITING_LOOK: Duration = Duration::from_millis(10);
/// Bytes of keys that are read at a time: more than anybody types between two looks.
const KEYS_MAX: usize = 1024;
/// The size of a terminal that does not know its own, as one on a serial line.
const SIZE_UNKNOWN: (u16, u16) = (80, 24);
/// Of a special character of the terminal: none (`_POSIX_VDISABLE`).
const NO_CHARACTER: u8 = 0;

/// Gives the terminal back as it was, if it is taken. Call it from any thread, as often as you like: before the process
/// ends early, say. The view notices, and ends.
///
/// It waits half a second at most for a frame that is being written.
pub fn restore_terminal() {
    // First, so that whoever comes second returns when it is done.
    let writing = wait_for_frame();
    let Some(mode) = locked(&MODE_BEFORE).take() else {
        return;
    };
    if writing.is_some() {
        let mut bytes = Vec::new();
        // The clearing is for terminals that know no second screen. Writing to memory cannot fail.
        let _ = queue!(
            bytes,
            SetAttribute(Attribute::Reset),
            MoveTo(0, 0),
            Clear(ClearType::All),
            LeaveAlternateScreen,
            Show
        );
        // Fails when the terminal is gone; then there is nothing to give back.
        let _ = io::stderr().write_all(&bytes);
    }
    // In the background, setting it would stop the process; the shell has done so already.
    if is_foreground().unwrap_or(false) {
        let _ = tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &mode);
    }
}

/// Whether the terminal is for us now, and not for the shell that has us in the background.
fn is_foreground() -> io::Result<bool> {
    let foreground = tcgetpgrp(io::stdin().as_fd())?;
    Ok(foreground.as_raw_nonzero().get() == nix::unistd::getpgrp().as_raw())
}

fn locked<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    // Both are consistent at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_for_frame() -> Option<MutexGuard<'static, ()>> {
    for _ in 0..WRITING_LOOKS_MAX {
        match WRITING.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(WRITING_LOOK),
        }
    }
    None
}

/// Writes a whole frame, unless the terminal has been given back.
fn write(bytes: &[u8]) -> io::Result<()> {
    let _writing = locked(&WRITING);
    if locked(&MODE_BEFORE).is_none() {
        return Err(ErrorKind::NotConnected.into());
    }
    io::stderr().write_all(bytes)
}

/// What a panic says must not be lost with the screen, and the user's terminal must be usable after it.
fn restore_on_panic() {
    PANIC_HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            restore_terminal();
            before(info);
        }));
    });
}

/// Keys come one by one and are not echoed. The keys that make signals still do (^C), also while whoever reads keys is
/// stuck; except those that would leave the screen behind (^Z, ^\).
fn key_mode(mut mode: Termios) -> Termios {
    let unwanted = LocalModes::ICANON | LocalModes::ECHO | LocalModes::IEXTEN;
    mode.local_modes.remove(unwanted);
    mode.local_modes.insert(LocalModes::ISIG);
    // Else ^S stops all output, and with it the run.
    mode.input_modes.remove(InputModes::IXON);
    mode.special_codes[SpecialCodeIndex::VSUSP] = NO_CHARACTER;
    mode.special_codes[SpecialCodeIndex::VQUIT] = NO_CHARACTER;
    mode.special_codes[SpecialCodeIndex::VMIN] = 1;
    mode.special_codes[SpecialCodeIndex::VTIME] = 0;
    mode
}

/// Columns and rows.
fn size() -> io::Result<(u16, u16)> {
    let size = tcgetwinsize(io::stderr().as_fd())?;
    Ok(match (size.ws_col, size.ws_row) {
        (0, _) | (_, 0) => SIZE_UNKNOWN,
        known => known,
    })
}

/// A frame in the making: it is written whole, when it is complete.
#[derive(Clone, Debug, Default)]
struct Bytes(Arc<Mutex<Vec<u8>>>);

impl Bytes {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for Bytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The terminal while it is ours. Given back when dropped.
pub(super) struct Screen {
    bytes: Bytes,
    size: (u16, u16),
    terminal: Terminal<CrosstermBackend<Bytes>>,
    /// Set when the process was stopped and goes on: the shell has used the terminal since.
    continued: Arc<AtomicBool>,
    continued_id: SigId,
    is_blank: bool,
    /// We are in the background, or were so at the last look.
    is_away: bool,
    /// Room for keys that are read.
    keys: [u8; KEYS_MAX],
}

impl Screen {
    /// Takes the terminal: the second screen of standard error, and the keys of standard input.
    ///
    /// # Errors
    /// Either is no terminal, or does not do what terminals do; the message says which. Or it is taken already.
    pub(super) fn take() -> io::Result<Self> {
        let is_terminal = [
            ("standard input", io::stdin().is_terminal()),
            ("standard error", io::stderr().is_terminal()),
        ];
        if let Some((name, _)) = is_terminal.iter().find(|(_, is)| !is) {
            let message = format!("{name} is not a terminal");
            return Err(io::Error::new(ErrorKind::Unsupported, message));
        }
        let size = size()?;
        restore_on_panic();
        let bytes = Bytes::default();
        let terminal = terminal(&bytes, size)?;
        let continued = Arc::new(AtomicBool::new(false));
        {
            let mut before = locked(&MODE_BEFORE);
            if before.is_some() {
                let message = "the terminal has a view already";
                return Err(io::Error::new(ErrorKind::ResourceBusy, message));
            }
            *before = Some(tcgetattr(io::stdin().as_fd())?);
        }
        let signal = signal_hook::consts::SIGCONT;
        let continued_id = match signal_hook::flag::register(signal, continued.clone()) {
            Ok(id) => id,
            Err(error) => {
                restore_terminal();
                return Err(error);
            }
        };
        // From here on, dropping it gives the terminal back.
        let mut screen = Self {
            terminal,
            bytes,
            size,
            continued,
            continued_id,
            is_blank: true,
            is_away: false,
            keys: [0; KEYS_MAX],
        };
        screen.enter()?;
        Ok(screen)
    }

    /// Sets the terminal, and forgets what it shows.
    pub(super) fn enter(&mut self) -> io::Result<()> {
        {
            let _writing = locked(&WRITING);
            let Some(before) = locked(&MODE_BEFORE).clone() else {
                return Err(ErrorKind::NotConnected.into());
            };
            let mode = key_mode(before);
            tcsetattr(io::stdin().as_fd(), OptionalActions::Now, &mode)?;
        }
        queue!(self.bytes, EnterAlternateScreen)?;
        self.forget()
    }

    /// Whether the terminal is for us: not while the shell has us in the background. When we are back, or when it has
    /// another size than before, the screen is blank.
    pub(super) fn is_here(&mut self) -> io::Result<bool> {
        if !is_foreground()? {
            self.is_away = true;
            return Ok(false);
        }
        let was_continued = self.continued.swap(false, SeqCst);
        if self.is_away || was_continued {
            self.is_away = false;
            self.enter()?;
        }
        let size = size()?;
        if size != self.size {
            self.size = size;
            self.forget()?;
        }
        Ok(true)
    }

    /// Clears the screen: the next frame is drawn in full.
    fn forget(&mut self) -> io::Result<()> {
        self.is_blank = true;
        self.terminal = terminal(&self.bytes, self.size)?;
        queue!(self.bytes, Hide, Clear(ClearType::All))
    }

    /// Nothing is drawn since the screen was cleared.
    pub(super) fn is_blank(&self) -> bool {
        self.is_blank
    }

    /// The keys that were pressed since the last call, as bytes. Never waits.
    pub(super) fn keys(&mut self) -> io::Result<&[u8]> {
        let _writing = locked(&WRITING);
        if locked(&MODE_BEFORE).is_none() {
            return Err(ErrorKind::NotConnected.into());
        }
        let stdin = io::stdin();
        // A read could wait: the mode may be changed by others, such as a shell that continues us.
        if rustix::io::ioctl_fionread(&stdin)? == 0 {
            return Ok(&[]);
        }
        let count = rustix::io::read(&stdin, &mut self.keys)?;
        Ok(&self.keys[..count])
    }

    pub(super) fn draw(&mut self, render: impl FnOnce(&mut Frame)) -> io::Result<()> {
        self.is_blank = false;
        self.terminal.draw(render)?;
        let bytes = std::mem::take(&mut *self.bytes.lock());
        write(&bytes)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        signal_hook::low_level::unregister(self.continued_id);
        restore_terminal();
    }
}

/// Of a fixed size, for otherwise its size would be asked of another descriptor than ours.
fn terminal(
    bytes: &Bytes,
    (width, height): (u16, u16),
) -> io::Result<Terminal<CrosstermBackend<Bytes>>> {
    let viewport = Viewport::Fixed(Rect::new(0, 0, width, height));
    Terminal::with_options(
        CrosstermBackend::new(bytes.clone()),
        TerminalOptions { viewport },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn giving_back_what_was_not_taken_does_nothing() {
        restore_terminal();
        restore_terminal();
        assert_eq!(
            write(b"never seen").unwrap_err().kind(),
            ErrorKind::NotConnected
        );
    }
}
