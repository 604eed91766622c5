//! The jail of `guesthouse run`: what the machine needs, its folder, and who talks to its user.

use jail::{Access, Jail, Kind};
use machine::{MachineSpec, Snapshot};
use server::Folder;

use crate::signals::Signals;
use crate::terminal;

/// What everybody who goes without is told.
pub const NONE: &str =
    "guesthouse: --no-jail: a guest that breaks out of its machine has all rights that you have";

/// The process keeps what this machine needs.
pub fn enter(spec: &MachineSpec, snapshot: Option<&Snapshot>, folder: &Folder, signals: &Signals) {
    jail::before_refusal(terminal::restore);
    let mut jail: Jail = spec.jail();
    for kind in [Kind::Console, Kind::Api, Kind::Client, Kind::Signals] {
        jail.kind(kind);
    }
    folder.allow(&mut jail);
    if let Some(folder) = snapshot.and_then(Snapshot::folder) {
        jail.allow(folder, Access::Read);
    }
    jail.allow("/dev/null", Access::Write);
    let enforced = jail.enter();
    signals.narrow();
    if enforced.is_whole() {
        tracing::info!("jail: {enforced}");
    } else {
        // `guesthouse doctor` says so, too; a line at each start would not make the host better.
        tracing::info!("the jail is not whole: {enforced}");
    }
}
