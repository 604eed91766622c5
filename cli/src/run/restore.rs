//! `guesthouse restore`.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use machine::engine::Choice;
use machine::snapshot::{Paths, make_distinct};
use machine::{EngineKind, Snapshot};
use rustix::stdio::{dup2_stdin, stdin};

use super::plan::Plan;
use crate::exit;
use crate::life::LifeArguments;
use crate::signals::Signals;

const HELP: &str = "\
The guest goes on where it was, on any engine. Its connections by the address translation, exec
sessions and clients of its ports are gone, as if their other ends had left. Its memory is read when
it is touched: leave the folder as it is as long as the machine lives. Several machines may come
from one folder, unless they write to one disk.

Examples:
  guesthouse restore -d --name web web.snap
  guesthouse restore --engine interp --check web.snap";

/// A machine that was written down.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct RestoreArguments {
    /// The folder that `guesthouse snapshot` has made.
    #[arg(value_name = "DIR", required_unless_present = "copy")]
    folder: Option<PathBuf>,
    /// This is a copy of a machine, whose files come by the socket that is stdin.
    #[arg(long, hide = true, conflicts_with = "folder")]
    copy: bool,
    /// How to run the guest's code [default: as before, if this host can].
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
    let paths = match &arguments.folder {
        Some(folder) => Paths::in_folder(folder),
        None => match handed()? {
            Some(paths) => paths,
            None => return Ok(exit::USAGE),
        },
    };
    let snapshot = Snapshot::open(paths)?;
    if arguments.check {
        snapshot.check_memory()?;
    }
    let mut spec = snapshot.spec();
    let (choice, kind) = engine(arguments.engine, &snapshot.header().engine)?;
    spec.engine = kind;
    let name = arguments.life.machine_name.clone().filter(|_| arguments.folder.is_none());
    if arguments.folder.is_none() {
        make_distinct(&mut spec, name.as_deref().unwrap_or(&std::process::id().to_string()));
    }
    tracing::info!("engine {}: {}; {spec:?}", choice.engine.name(), choice.reason);
    crate::net::check(&spec.nets)?;
    let plan = Plan::restored(spec.clone());
    if signals.caught().is_some() {
        return exit::after_signal(signals, Ok(0));
    }
    super::live(&arguments.life, background, signals, choice.engine.as_ref(), &plan, spec, Some(&snapshot))
}

/// The engine that is asked for, or the one that the machine was on, or the best one if that cannot be used here.
fn engine(wanted: Option<EngineKind>, before: &str) -> anyhow::Result<(Choice, EngineKind)> {
    let before = before.parse().ok().filter(|_| wanted.is_none());
    if let Some((Ok(choice), kind)) = before.map(|kind| (machine::engine::choose(kind), kind)) {
        return Ok((choice, kind));
    }
    let kind = wanted.unwrap_or_default();
    Ok((machine::engine::choose(kind)?, kind))
}

/// The files of a copy, which somebody hands over as soon as they are there.
fn handed() -> anyhow::Result<Option<Paths>> {
    let socket = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(stdin(), 3)?);
    dup2_stdin(File::open("/dev/null")?)?;
    server::snapshot::handed(&socket).context("the copy's files do not come")
}
