//! The command lines of machines that live on.

use clap::{Args, Subcommand};
use clap_complete::engine::ArgValueCompleter;

use machine::{EngineKind, Size};

use super::RestartPolicy;
use crate::complete::machines;
use crate::limit_args::DeviceLimit;

const CONSOLE_HELP: &str = "\
Keys:
  Ctrl-A d       leave the console; the machine goes on
  Ctrl-A x       end the machine
  Ctrl-A h       show these keys
  Ctrl-A Ctrl-A  send Ctrl-A to the guest";

const PS_HELP: &str = "\
Examples:
  guesthouse ps
  guesthouse ps -a                       also those that have ended, and how
  guesthouse rm $(guesthouse ps -aq)     forget all that have ended; running ones are refused";

const ENGINE_HELP: &str = "\
Examples:
  guesthouse engine web interp           the interpreter, for a closer look
  guesthouse engine web auto             back to the best engine";

const LIMIT_HELP: &str = "\
Examples:
  guesthouse limit web --cpu-cap 0.5         half a CPU
  guesthouse limit web disk0,iops=200,bps=20M net0.tx,bps=1M
  guesthouse limit web --cpu-cap none disk0,none
  guesthouse limit web                       what it may use now";

const SNAPSHOT_HELP: &str = "\
The folder has the guest's memory and the state of all devices, and is the machine's whole secret:
only you may read it. Disks are not copied, but for changes that are gone with the machine. A guest
that writes to an image of yours has to stop there (--stop), or what is in its memory will not fit
the disk.

Examples:
  guesthouse snapshot web web.snap           the machine goes on
  guesthouse snapshot --live web web.snap    and hardly stands still meanwhile
  guesthouse snapshot --stop web web.snap    and ends when all is written
  guesthouse restore -d --name web web.snap";

fn balloon_size(text: &str) -> Result<Size, String> {
    if text == "0" { Ok(Size::bytes(0)) } else { text.parse() }
}

/// What `run` may say about the machine's life.
#[derive(Debug, Default, Args)]
pub struct LifeArguments {
    /// Run in the background: print the machine's id and leave it alone. Its console is kept for `guesthouse logs`, and
    /// `guesthouse console` goes there.
    #[arg(long, short)]
    pub detach: bool,
    /// Name of the machine for other commands, instead of its id alone.
    #[arg(long = "name", value_name = "NAME")]
    pub machine_name: Option<String>,
    /// Forget a machine in the background when it ends, instead of keeping how it ended and its logs until `guesthouse rm`.
    /// One in the foreground is always forgotten.
    #[arg(long)]
    pub rm: bool,
    /// Start the machine again after a failure (any exit status but 0): `on-failure`, with `:N` at most N times.
    #[arg(long, value_name = "WHEN", default_value = "no")]
    pub restart: RestartPolicy,
    /// Keep all rights: the machine's process is not limited to the files, system calls and capabilities that the machine
    /// needs. For who looks for a fault of the jail's.
    #[arg(long)]
    pub no_jail: bool,
}

/// Subcommands for machines, each of which is called by its name, its id or the beginning of its id.
#[derive(Debug, Subcommand)]
pub enum LifeAction {
    /// List machines.
    #[command(after_help = PS_HELP)]
    Ps {
        /// Also those that have ended.
        #[arg(long, short)]
        all: bool,
        /// As JSON.
        #[arg(long)]
        json: bool,
        /// Ids only.
        #[arg(long, short, conflicts_with = "json")]
        quiet: bool,
    },
    /// Say all that is known of a machine, as JSON.
    Inspect {
        /// The machine.
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(machines))]
        machine: String,
        /// Its definition, as `guesthouse run FILE.toml` takes it.
        #[arg(long)]
        toml: bool,
    },
    /// Have guests and their time stand still.
    Pause {
        /// The machines.
        #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(machines))]
        machines: Vec<String>,
    },
    /// Have paused guests go on.
    Resume {
        /// The machines.
        #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(machines))]
        machines: Vec<String>,
    },
    /// Have another engine run a machine's guest, which goes on where it is.
    #[command(after_help = ENGINE_HELP)]
    Engine {
        /// The machine.
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(machines))]
        machine: String,
        /// The engine, or `auto` for the best one of this host.
        #[arg(value_parser = crate::args::one_of::<EngineKind>(EngineKind::NAMES))]
        engine: EngineKind,
    },
    /// Write a machine down as it is now, into a new folder, for `guesthouse restore`.
    #[command(after_help = SNAPSHOT_HELP)]
    Snapshot {
        /// The machine.
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(machines))]
        machine: String,
        /// The folder, which must not be there yet.
        #[arg(value_name = "DIR")]
        folder: std::path::PathBuf,
        /// The machine ends when all is written.
        #[arg(long)]
        stop: bool,
        /// Compress memory (Zstandard) while the guest goes on: smaller, and read as a whole when it is restored.
        #[arg(long)]
        compress: bool,
        /// Let the guest go on while most of memory is written: it stands still for what it writes last.
        #[arg(long, conflicts_with = "compress")]
        live: bool,
        /// Say what it took, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make copies of a machine that runs.
    Clone(super::clone::CloneArguments),
    /// Ask guests to shut down, and end machines that do not.
    Stop {
        /// The machines.
        #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(machines))]
        machines: Vec<String>,
        /// Seconds that a guest has for it.
        #[arg(long, short, value_name = "SECONDS", default_value_t = 10)]
        timeout: u32,
    },
    /// End machines at once.
    Kill {
        /// The machines.
        #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(machines))]
        machines: Vec<String>,
    },
    /// Forget machines that have ended.
    Rm {
        /// The machines.
        #[arg(value_name = "NAME", required = true, add = ArgValueCompleter::new(machines))]
        machines: Vec<String>,
        /// End running ones first.
        #[arg(long, short)]
        force: bool,
    },
    /// Run a program in a guest.
    Exec(super::exec::ExecArguments),
    /// Copy files and folders into a guest or out of it.
    Cp(super::cp::CopyArguments),
    /// Change what a machine may use of the host while it runs; say what it may, as JSON, if nothing is to change.
    #[command(after_help = LIMIT_HELP)]
    Limit {
        /// The machine.
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(machines))]
        machine: String,
        /// CPUs' worth of time, such as 0.2, or `none`.
        #[arg(long, value_name = "CPUS")]
        cpu_cap: Option<String>,
        /// Share of CPU time beside others: 1 to 10000; others have 100.
        #[arg(long, value_name = "WEIGHT")]
        cpu_weight: Option<u32>,
        /// Disks and cards with their new rates, as `guesthouse run --limit` takes them, or `DEVICE,none`.
        #[arg(value_name = "DEVICE,RATE...", value_parser = crate::limit_args::limit)]
        devices: Vec<DeviceLimit>,
    },
    /// Ask the guest of a machine to give so much memory back, or say how its memory is used.
    Balloon {
        /// The machine.
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(machines))]
        machine: String,
        /// What it is asked to do without, in all; 0 for nothing.
        #[arg(value_name = "SIZE", value_parser = balloon_size)]
        size: Option<Size>,
        /// As JSON.
        #[arg(long, conflicts_with = "size")]
        json: bool,
    },
    /// Go to the console of a machine, which others may use at the same time.
    #[command(after_help = CONSOLE_HELP)]
    Console {
        /// The machine.
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(machines))]
        machine: String,
    },
    /// Print what the console of a machine said, the newest mebibyte or two.
    Logs {
        /// The machine.
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(machines))]
        machine: String,
        /// Also what it says from now on, until the machine ends.
        #[arg(long, short)]
        follow: bool,
        /// As JSON: a string for each line.
        #[arg(long)]
        json: bool,
    },
    /// Show what machines use: all that run, or these.
    Stats {
        /// The machines.
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(machines))]
        machines: Vec<String>,
        /// Once, instead of every second.
        #[arg(long)]
        no_stream: bool,
        /// As JSON, an object in a line each.
        #[arg(long)]
        json: bool,
    },
    /// Show what happens to machines, from now on: to all, or to these.
    Events {
        /// The machines.
        #[arg(value_name = "NAME", add = ArgValueCompleter::new(machines))]
        machines: Vec<String>,
        /// As JSON, an object in a line each.
        #[arg(long)]
        json: bool,
    },
}
