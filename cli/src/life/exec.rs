//! `guesthouse exec`: a program in a guest, with this terminal or these streams.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStringExt;

use agent::protocol::{Exit, Start, Window, stream};
use agent::{Client, Input};
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use server::{Registry, Upgraded};

use crate::exit;
use crate::signals::Signals;
use crate::terminal::{self, RawMode};

const HELP: &str = "\
The exit status is the program's: 128+n if signal n ended it, 127 if it is not in the guest, 126 if
it cannot be executed, 125 if Guesthouse or the agent failed. Signals go to the program. If this
command is killed, the program gets SIGHUP.

Examples:
  guesthouse exec web -- apt-get install -y nginx
  guesthouse exec -it web bash               a shell, with this terminal
  guesthouse exec -u www-data -w /srv -e A=1 web -- env
  guesthouse exec -i web -- tar x -C /srv <files.tar
  guesthouse exec web -- sh -c 'cat /proc/loadavg'";

/// What runs where.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct ExecArguments {
    /// Pass stdin on.
    #[arg(long, short)]
    interactive: bool,
    /// Give the program a terminal.
    #[arg(long, short)]
    tty: bool,
    /// Run as this user of the guest, a name or a number; without, as whom the agent runs, which is root.
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Set a variable of the environment. May be repeated.
    #[arg(long, short, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<OsString>,
    /// Run in this folder of the guest; without, in the user's home.
    #[arg(long, short, value_name = "DIR")]
    workdir: Option<OsString>,
    /// Seconds to wait for an agent in a guest that is still starting.
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    wait: u32,
    /// The machine.
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(crate::complete::machines))]
    machine: String,
    /// The program and its arguments.
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// `NAME=VALUE`, or a name whose value is this process's.
fn variable(text: &str) -> Result<OsString, String> {
    match text.split_once('=') {
        Some(("", _)) | None if text.is_empty() || text.starts_with('=') => {
            Err(format!("{text:?} has no name: give NAME=VALUE"))
        }
        Some(_) => Ok(text.into()),
        None => match std::env::var_os(text) {
            Some(value) => Ok([OsString::from(format!("{text}=")), value].into_iter().collect()),
            None => Err(format!("{text} is not set here: give NAME=VALUE")),
        },
    }
}

/// Starts something in the guest of a machine that runs.
pub fn start(
    registry: &Registry,
    machine: &str,
    wait: u32,
    start: &Start,
) -> anyhow::Result<(Client, String)> {
    let entry = registry.find(machine)?;
    let path = format!("/v1/exec?wait={wait}");
    let Upgraded { stream, early } = entry.connect()?.upgrade(&path, "guesthouse-exec")?;
    Ok((Client::start(stream, &early, start)?, entry.label().to_owned()))
}

/// The exit status, and what there is to say about it.
pub fn status(exit: &Exit, label: &str) -> u8 {
    if let Exit::Failed(_, why) = exit {
        crate::complain(&format!("{label}: {why}"));
    }
    exit.status()
}

/// Runs the program to its end; its exit status.
pub fn run(registry: &Registry, arguments: &ExecArguments) -> anyhow::Result<u8> {
    let bytes = |text: &OsString| text.clone().into_vec();
    let mut env: Vec<_> = arguments.env.iter().map(bytes).collect();
    if arguments.tty
        && let Some(term) = std::env::var_os("TERM")
    {
        env.insert(0, [b"TERM=", &term.into_vec()[..]].concat());
    }
    let begin = Start {
        argv: arguments.command.iter().map(bytes).collect(),
        env,
        cwd: arguments.workdir.as_ref().map(bytes).unwrap_or_default(),
        user: arguments.user.clone().unwrap_or_default().into_bytes(),
        tty: arguments.tty.then(window),
        input: arguments.interactive,
        builtin: false,
    };
    let signals = Signals::watch()?;
    let (client, label) = start(registry, &arguments.machine, arguments.wait, &begin)?;
    let input = client.input();
    let raw = arguments.tty && arguments.interactive && io::stdin().is_terminal();
    let raw = if raw { RawMode::enter().ok() } else { None };
    let (told, caught) = (input.clone(), signals.clone());
    signals.on_signal(move || drop(told.signal(caught.caught().unwrap_or(libc::SIGTERM))));
    if arguments.tty {
        let told = input.clone();
        signals.on_resize(move || drop(told.resize(window())));
    }
    if arguments.interactive {
        // Not waited for: it may read for ever.
        std::thread::Builder::new().name("exec-in".into()).spawn(move || pass(input))?;
    }
    let exit = client.run(|output| {
        let put = |to: &mut dyn Write| {
            to.write_all(output.data)?;
            to.flush()
        };
        if output.stream == stream::OUTPUT { put(&mut io::stdout()) } else { put(&mut io::stderr()) }
    });
    drop(raw);
    match exit {
        Ok(exit) => Ok(status(&exit, &label)),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            crate::complain(&format!("{label}: the machine has ended"));
            Ok(signals.caught().map_or(exit::HOST, exit::signal))
        }
        Err(e) => Err(e.into()),
    }
}

fn window() -> Window {
    terminal::size()
        .map_or(Window { rows: 24, columns: 80 }, |size| Window { rows: size.rows, columns: size.columns })
}

fn pass(mut input: Input) {
    let mut data = vec![0; 64 << 10];
    let mut stdin = io::stdin();
    loop {
        match stdin.read(&mut data) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Ok(count @ 1..) => {
                if input.write_all(data.get(..count).unwrap_or_default()).is_err() {
                    return;
                }
            }
            _ => return drop(input.end()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_has_a_name() {
        assert_eq!(variable("A=b=c"), Ok("A=b=c".into()));
        assert_eq!(variable("A="), Ok("A=".into()));
        for wrong in ["", "=a", "GUESTHOUSE_IS_NOT_SET"] {
            assert!(variable(wrong).unwrap_err().contains("NAME=VALUE"), "{wrong}");
        }
    }
}
