//! `guesthouse pause`, `resume`, `stop`, `kill` and `rm`.

use std::time::Duration;

use server::{Registry, ServerError};

use crate::exit;

/// How long a process may take to go once its machine has ended.
const FAREWELL: Duration = Duration::from_secs(20);

/// Does it to every machine, whatever becomes of the others; errors are said as they come.
pub fn each(names: &[String], what: impl Fn(&str) -> Result<(), ServerError>) -> anyhow::Result<u8> {
    let (last, others) = names.split_last().map_or((None, names), |(last, others)| (Some(last), others));
    let mut status = 0;
    for name in others {
        if let Err(e) = what(name) {
            crate::complain(&e.to_string());
            status = exit::USAGE;
        }
    }
    last.map_or(Ok(()), |name| what(name))?;
    Ok(status)
}

pub fn post(registry: &Registry, name: &str, verb: &str) -> Result<(), ServerError> {
    registry.find(name)?.connect()?.post(&format!("/v1/{verb}"))
}

/// Waits until it is gone.
pub fn stop(registry: &Registry, name: &str, timeout: u32) -> Result<(), ServerError> {
    let entry = registry.find(name)?;
    entry.connect()?.post(&format!("/v1/stop?timeout={timeout}"))?;
    gone(&entry, Duration::from_secs(timeout.into()) + FAREWELL)
}

/// The same.
pub fn kill(registry: &Registry, name: &str) -> Result<(), ServerError> {
    let entry = registry.find(name)?;
    match entry.connect().and_then(|mut client| client.post("/v1/kill")) {
        // One that does not answer can be ended all the same.
        Err(ServerError::NoAnswer { .. }) => entry.kill_process()?,
        other => other?,
    }
    gone(&entry, FAREWELL)
}

pub fn remove(registry: &Registry, name: &str, force: bool) -> Result<(), ServerError> {
    let entry = registry.find(name)?;
    if force && entry.alive {
        match kill(registry, &entry.status.id) {
            Ok(()) | Err(ServerError::Ended(_)) => {}
            other => return other,
        }
    }
    entry.remove()
}

fn gone(entry: &server::Entry, patience: Duration) -> Result<(), ServerError> {
    if entry.wait_for_end(patience) {
        return Ok(());
    }
    let what = "its process does not end".to_owned();
    Err(ServerError::NoAnswer { id: entry.label().to_owned(), what })
}
