//! The jail of `guesthouse run`: what the machine needs, its folder, and who talks to its user.

use std::time::Instant;

use anyhow::Context;
use jail::{Access, Jail, Kind};
use machine::{MachineSpec, Snapshot};
use server::Folder;

use super::NO_THREAD;
use crate::signals::Signals;
use crate::terminal;

/// What everybody who goes without is told.
pub const NONE: &str =
    "guesthouse: --no-jail: a guest that breaks out of its machine has all rights that you have";

/// The process keeps what this machine needs. An error if it cannot go on: without the thread for signals, or as nobody.
pub fn enter(
    spec: &MachineSpec,
    snapshot: Option<&Snapshot>,
    folder: &Folder,
    signals: &Signals,
) -> anyhow::Result<()> {
    jail::before_refusal(terminal::restore);
    let mut jail: Jail = spec.jail();
    for kind in [Kind::Console, Kind::Api, Kind::Client, Kind::Signals] {
        jail.kind(kind);
    }
    folder.allow(&mut jail);
    for file in snapshot.map(Snapshot::memory_paths).unwrap_or_default() {
        jail.allow(file, Access::Read);
    }
    jail.allow("/dev/null", Access::Write);
    match folder.last_words() {
        Ok(file) => jail::report_to(file),
        Err(e) => tracing::warn!("the machine could not say why it died: {e}"),
    }
    let began = Instant::now();
    let enforced = signals.alone(|| jail.enter()).context(NO_THREAD)??;
    let took = began.elapsed();
    // Where something is missing, a line at each start would not make the host better; `guesthouse doctor` says it.
    tracing::info!(?took, whole = enforced.is_whole(), "the jail: {enforced}");
    Ok(())
}
