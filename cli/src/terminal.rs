//! The user's terminal in raw mode, and the promise that it does not stay so.

use std::io::{self, IsTerminal};

use machine::ConsoleSize;
use parking_lot::Mutex;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The modes to go back to, while the terminal is raw.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal is raw for as long as this lives. Who leaves without dropping it (a panic's message, a signal)
/// calls [`restore`].
#[derive(Debug)]
pub struct RawMode;

impl RawMode {
    /// Makes the terminal on stdin raw: every key is the guest's.
    pub fn enter() -> io::Result<Self> {
        let modes = tcgetattr(io::stdin())?;
        *SAVED.lock() = Some(modes.clone());
        set_raw(modes)?;
        Ok(Self)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
        *SAVED.lock() = None;
    }
}

fn set_raw(mut modes: Termios) -> io::Result<()> {
    modes.make_raw();
    Ok(tcsetattr(io::stdin(), OptionalActions::Now, &modes)?)
}

/// Gives the terminal back as it was found; harmless if it is not raw.
pub fn restore() {
    // A thread that panics inside this module must not wait for itself.
    if let Some(saved) = SAVED.try_lock()
        && let Some(modes) = saved.as_ref()
    {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, modes);
    }
}

/// Raw again, after the process was stopped and continued.
pub fn resume() {
    if let Some(modes) = SAVED.lock().clone() {
        let _ = set_raw(modes);
    }
}

/// Makes a panic give the terminal back before it says anything.
pub fn restore_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        restore();
        report(info);
    }));
}

/// True if keys come from and pictures go to a person.
pub fn is_interactive() -> (bool, bool) {
    (io::stdin().is_terminal(), io::stdout().is_terminal())
}

/// Size of the terminal on stdin, if it is one that has a size.
pub fn size() -> Option<ConsoleSize> {
    let size = tcgetwinsize(io::stdin()).ok().filter(|s| s.ws_row > 0 && s.ws_col > 0)?;
    Some(ConsoleSize { columns: size.ws_col, rows: size.ws_row })
}

/// Size of the terminal on stdin, and its name.
pub fn describe() -> (guest::WindowSize, String) {
    let (rows, columns) = size().map_or((24, 80), |size| (size.rows, size.columns));
    (guest::WindowSize { rows, columns }, std::env::var("TERM").unwrap_or_default())
}
