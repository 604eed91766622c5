//! `guesthouse restore`.

use std::path::PathBuf;

use clap::Args;
use machine::{EngineKind, Snapshot};

use super::plan::Plan;
use crate::exit;
use crate::life::LifeArguments;
use crate::signals::Signals;

const HELP: &str = "\
The guest goes on where it was, on any engine. Its connections by the address translation, exec sessions
and clients of its ports are gone, as if their other ends had left. Its memory is read when it is
touched: leave the folder as it is as long as the machine lives. Several machines may come from one
folder, unless they write to one disk.

Examples:
  guesthouse restore -d --name web web.snap
  guesthouse restore --engine interp --check web.snap";

/// A machine that was written down.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct RestoreArguments {
    /// The folder that `guesthouse snapshot` has made.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// How to run the guest's code [default: auto].
    #[arg(long, value_name = "NAME", value_parser = crate::args::one_of::<EngineKind>(EngineKind::NAMES))]
    engine: Option<EngineKind>,
    /// Compare all memory with its checksums first, instead of while the guest runs.
    #[arg(long)]
    check: bool,
    /// Its name, and what becomes of it.
    #[command(flatten)]
    pub life: LifeArguments,
}

/// Goes on with a machine and stays with it to its end; the exit status.
pub fn restore(arguments: &RestoreArguments, background: bool, signals: &Signals) -> anyhow::Result<u8> {
    let snapshot = Snapshot::open(&arguments.folder)?;
    if arguments.check {
        snapshot.check_memory()?;
    }
    let mut spec = snapshot.spec();
    spec.engine = arguments.engine.unwrap_or_default();
    let choice = machine::engine::choose(spec.engine)?;
    tracing::info!("engine {}: {}; {spec:?}", choice.engine.name(), choice.reason);
    crate::net::check(&spec.nets)?;
    let plan = Plan::restored(spec.clone());
    if signals.caught().is_some() {
        return exit::after_signal(signals, Ok(0));
    }
    super::live(&arguments.life, background, signals, choice.engine.as_ref(), &plan, spec, Some(&snapshot))
}
