//! `guesthouse`: boots operating systems in virtual machines, without root. `guesthouse --help` teaches by
//! examples.

mod agent;
mod args;
mod complete;
mod console;
mod doctor;
mod exit;
mod footprint;
mod guests;
mod image;
mod keys;
mod life;
mod limit_args;
mod net;
mod net_args;
mod run;
mod share_args;
mod signals;
mod terminal;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Action, Arguments};
use signals::Signals;

fn main() -> ExitCode {
    cpu::Clock::prepare();
    footprint::keep_small();
    terminal::restore_on_panic();
    complete::answer();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => return usage(&e),
    };
    match start(&arguments) {
        Ok(code) => code.into(),
        Err(e) => {
            let kind = e.downcast_ref().map(io::Error::kind);
            let kind = kind.or_else(|| e.downcast_ref::<serde_json::Error>()?.io_error_kind());
            if kind == Some(io::ErrorKind::BrokenPipe) {
                return ExitCode::from(exit::signal(libc::SIGPIPE));
            }
            complain(&describe(&e));
            ExitCode::from(exit::USAGE)
        }
    }
}

fn start(arguments: &Arguments) -> anyhow::Result<u8> {
    let filter: EnvFilter = arguments.log.parse().map_err(|e| {
        anyhow::anyhow!("--log {}: {e}: give a level such as info, or target=level", arguments.log)
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr)
        .init();
    match &arguments.action {
        Action::Run(run) if run.life.detach && !arguments.background => {
            life::detach::start(&Signals::watch()?)
        }
        Action::Run(run) => {
            if arguments.background {
                // The terminal's signals are for others.
                rustix::process::setsid()?;
            }
            run::run(run, arguments.background, &Signals::watch()?)
        }
        Action::Restore(restore) if restore.life.detach && !arguments.background => {
            life::detach::start(&Signals::watch()?)
        }
        Action::Restore(restore) => {
            if arguments.background {
                rustix::process::setsid()?;
            }
            run::restore(restore, arguments.background, &Signals::watch()?)
        }
        Action::Life(action) => life::run(action),
        Action::Doctor { json } => doctor::run(*json).map(|()| 0),
        Action::Guests { build, json } => {
            let signals = Signals::watch()?;
            let result = guests::run(build.as_deref(), *json, &signals);
            exit::after_signal(&signals, result.map(|()| 0))
        }
        Action::Image(action) => {
            let signals = Signals::watch()?;
            let result = image::run(action, &signals);
            exit::after_signal(&signals, result)
        }
        Action::Net(action) => net::run(action),
        Action::Agent { file } => agent::run(file).map(|()| 0),
        Action::Completions { shell } => {
            io::stdout().write_all(&complete::script(*shell)?)?;
            Ok(0)
        }
    }
}

/// Help and version as clap prints them; errors on one line.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::from(exit::signal(libc::SIGPIPE)),
        };
    }
    let text = error.render().to_string();
    let fact = text.split("\n\n").next().unwrap_or_default();
    let words: Vec<_> = fact.trim_start_matches("error:").split_whitespace().collect();
    if words.is_empty() || error.kind() == clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        complain("no subcommand is given: see guesthouse --help");
    } else {
        complain(&format!("{} (see guesthouse --help)", words.join(" ")));
    }
    ExitCode::from(exit::USAGE)
}

/// The error and its causes, without those that it already tells.
fn describe(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .reduce(|text, cause| if text.contains(&cause) { text } else { format!("{text}: {cause}") })
        .unwrap_or_default()
}

fn complain(message: &str) {
    let line: Vec<_> = message.split_whitespace().collect();
    // Files and peers are quoted in it.
    let line = line.join(" ").replace(char::is_control, "?");
    let _ = writeln!(io::stderr(), "guesthouse: {line}");
}
