//! `guesthouse snapshot`.

use std::fs;
use std::io::Write;
use std::path::Path;

use machine::snapshot::How;
use server::Registry;

use crate::exit;
use crate::signals::Signals;

pub fn run(
    registry: &Registry,
    name: &str,
    folder: &Path,
    stop: bool,
    how: How,
    json: bool,
) -> anyhow::Result<u8> {
    let signals = Signals::watch()?;
    // The guest's secrets are in what there is of it.
    let remove = |folder: &Path| {
        let folder = folder.to_owned();
        signals.on_signal(move || drop(fs::remove_dir_all(&folder)));
    };
    let taken = match server::snapshot::take(&registry.find(name)?, folder, stop, how, remove) {
        Ok(taken) => taken,
        Err(error) => return exit::after_signal(&signals, Err(error.into())),
    };
    if json {
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&taken)?)?;
    }
    Ok(0)
}
