//! Exit statuses; `guesthouse --help` documents them.

use crate::signals::Signals;

/// The host failed the machine.
pub const HOST: u8 = 1;
/// Wrong usage or input.
pub const USAGE: u8 = 2;
/// The guest's CPU could not go on.
pub const CPU: u8 = 3;

/// As a shell reports the end by a signal.
pub fn signal(number: i32) -> u8 {
    128u8.wrapping_add(number as u8)
}

/// The status of an interrupted piece of work is the signal's, whatever the work said about it.
pub fn after_signal(signals: &Signals, result: anyhow::Result<u8>) -> anyhow::Result<u8> {
    match signals.caught() {
        Some(number) => {
            if let Err(e) = result {
                tracing::info!("{e:#}");
            }
            Ok(signal(number))
        }
        None => result,
    }
}
