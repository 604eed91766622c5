//! `guesthouse clone`: the machine's state is taken once, into files without names, which the copies' processes are handed.

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use server::Registry;

use crate::complete::machines;

const HELP: &str = "\
The original goes on after a moment. Memory that neither it nor a copy writes is there once; each
disk has what the original has written so far, and keeps what it writes itself until its end. A copy
has a name of its own, which its guest is told by the agent; sockets of ports have that name behind
theirs, and ports of the host's stay with the original.

Examples:
  guesthouse clone web --name test           a copy called test
  guesthouse clone web --count 10 --rm       ten, which are forgotten when they end";

/// What becomes a copy of what.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub struct CloneArguments {
    /// The machine.
    #[arg(value_name = "NAME", add = ArgValueCompleter::new(machines))]
    machine: String,
    /// How many copies.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    count: u32,
    /// Name of the copy; of several, `NAME-1`, `NAME-2` and so on.
    #[arg(long = "name", value_name = "NAME")]
    name: Option<String>,
    /// Forget each when it ends.
    #[arg(long)]
    rm: bool,
}

/// A copy's process, and the way to it.
struct Copy {
    process: Child,
    files: UnixStream,
}

/// Makes them and prints their ids.
pub fn run(registry: &Registry, arguments: &CloneArguments) -> anyhow::Result<()> {
    let entry = registry.find(&arguments.machine)?;
    // They start while the machine is written down.
    let copies: Vec<_> = (1..=arguments.count).map(|number| start(arguments, number)).collect();
    let copied = server::snapshot::copy(&entry);
    // Those that can begin do, whatever becomes of the others.
    for copy in copies.iter().flatten() {
        // One that has ended has said why.
        let _ = copied.as_ref().map(|copied| copied.hand_over(&copy.files));
    }
    let mut failed = 0;
    for copy in copies {
        let Copy { mut process, files } =
            copy.context("the host refuses a process: raise its limit of tasks")?;
        drop(files);
        let mut word = String::new();
        if let Some(pipe) = process.stdout.take() {
            BufReader::new(pipe).read_line(&mut word)?;
        }
        if word.ends_with('\n') {
            io::stdout().write_all(word.as_bytes())?;
        } else {
            process.wait()?;
            failed += 1;
        }
    }
    copied?;
    anyhow::ensure!(failed == 0, "{failed} of {} copies could not begin: see above", arguments.count);
    Ok(())
}

/// Starts a process that waits for the files of a copy on its stdin.
fn start(arguments: &CloneArguments, number: u32) -> io::Result<Copy> {
    let (files, theirs) = UnixStream::pair()?;
    let mut command = Command::new("/proc/self/exe");
    command.args(["--background", "restore", "--copy"]);
    if let Some(name) = &arguments.name {
        let name = if arguments.count == 1 { name.clone() } else { format!("{name}-{number}") };
        command.args(["--name", &name]);
    }
    if arguments.rm {
        command.arg("--rm");
    }
    let process = command.stdin(OwnedFd::from(theirs)).stdout(Stdio::piped()).spawn()?;
    Ok(Copy { process, files })
}
