//! `guesthouse clone`: the machine's state is taken once, into files without names, which the copies' processes inherit.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use server::Registry;
use server::snapshot::Copied;

use crate::complete::machines;

const HELP: &str = "\
The original goes on after a moment. Memory that neither it nor a copy writes is there once; each disk has
what the original has written so far, and keeps what it writes itself until its end. A copy has a name
of its own, which its guest is told by the agent; sockets of ports have that name behind theirs, and
ports of the host's stay with the original.

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

/// Makes them and prints their ids.
pub fn run(registry: &Registry, arguments: &CloneArguments) -> anyhow::Result<()> {
    let copied = server::snapshot::copy(&registry.find(&arguments.machine)?)?;
    let files = descriptors(&copied);
    let copies = (1..=arguments.count).map(|number| start(arguments, &files, number));
    // All start at once; those that do are left alone, whatever becomes of the others.
    let copies: Vec<_> = copies.collect();
    let mut failed = 0;
    for copy in copies {
        let mut copy = copy.context("the host refuses a process: raise its limit of tasks")?;
        let mut word = String::new();
        if let Some(pipe) = copy.stdout.take() {
            BufReader::new(pipe).read_line(&mut word)?;
        }
        if word.ends_with('\n') {
            io::stdout().write_all(word.as_bytes())?;
        } else {
            copy.wait()?;
            failed += 1;
        }
    }
    anyhow::ensure!(failed == 0, "{failed} of {} copies could not begin: see above", arguments.count);
    Ok(())
}

/// As `restore --copy` takes them.
fn descriptors(Copied { state, memory, initrd, disks }: &Copied) -> String {
    let number = |file: &File| file.as_raw_fd().to_string();
    let memory = memory.iter().map(|file| format!("ram={}", number(file)));
    let disks = disks.iter().map(|(index, file)| format!("{index}={}", number(file)));
    [state, initrd].into_iter().map(number).chain(memory).chain(disks).collect::<Vec<_>>().join(",")
}

fn start(arguments: &CloneArguments, files: &str, number: u32) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--background", "restore", "--copy", files]);
    if let Some(name) = &arguments.name {
        let name = if arguments.count == 1 { name.clone() } else { format!("{name}-{number}") };
        command.args(["--name", &name]);
    }
    if arguments.rm {
        command.arg("--rm");
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
}
