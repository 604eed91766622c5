//! The exit status of a machine's end, and what there is to say about it.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use machine::Outcome;

use crate::exit;

/// Why the machine was stopped from here.
#[derive(Default)]
pub struct Reasons {
    /// The user pressed the keys for it.
    pub quit: AtomicBool,
    /// Nobody reads the console.
    pub broken: AtomicBool,
}

/// The status. `killed`: by a client of the control API; `command`: the guest ran one.
pub fn of(outcome: &Outcome, reasons: &Reasons, killed: bool, command: bool) -> u8 {
    let say = |text: &str| {
        let _ = writeln!(std::io::stderr(), "guesthouse: {text}");
    };
    match outcome {
        Outcome::PowerOff | Outcome::Saved => 0,
        Outcome::Reset if command => {
            say(
                "the guest reset itself before the command had ended: its kernel may have panicked; give it more --memory, or see its messages with --append loglevel=7",
            );
            exit::HOST
        }
        Outcome::Reset => 0,
        Outcome::DebugExit(value) => *value,
        Outcome::TripleFault(report) | Outcome::EngineFault(report) => {
            say(&report.to_string());
            exit::CPU
        }
        Outcome::Failed(why) => {
            say(why);
            exit::HOST
        }
        Outcome::Stopped if reasons.broken.load(Ordering::SeqCst) => exit::signal(libc::SIGPIPE),
        Outcome::Stopped if killed => exit::signal(libc::SIGKILL),
        Outcome::Stopped if reasons.quit.load(Ordering::SeqCst) && !command => 0,
        Outcome::Stopped => exit::signal(libc::SIGINT),
    }
}
