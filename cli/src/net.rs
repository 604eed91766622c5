//! `guesthouse net`: switches between machines.

mod list;
mod serve;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use machine::NetSpec;
use net::switch::{Answer, Folder, Home, Range, Request, SwitchSpec, Vlan, VlanSpec, ask, attach};
use rustix::net::{RecvFlags, recv};

/// Most bytes of what a capture sees at a time.
const MOST: usize = 1 << 17;
/// How long a switch may take to go.
const PATIENCE: Duration = Duration::from_secs(10);

/// What everybody who goes without is told.
const NO_JAIL: &str =
    "guesthouse: --no-jail: a machine that breaks into its switch has all rights that you have";

const HELP: &str = "\
Examples:
  guesthouse net create lan                           addresses of 10.5.0.0/24, and a way out
  guesthouse run --net lan,name=web                   a machine on it, which others find as `web`
  guesthouse run --net lan -- ping -c 3 web
  guesthouse net create lab --no-uplink --vlan 10 --vlan 20=10.20.0.0/24
  guesthouse run --net lab,vlan=20                    a machine in VLAN 20
  guesthouse run --net lab,trunk=10+20                a machine in both, by tags
  guesthouse net capture lan - | tcpdump -n -r -      what goes through
  guesthouse net rm lan";

/// `guesthouse net ...`.
#[derive(Debug, Subcommand)]
#[command(after_help = HELP)]
pub enum NetAction {
    /// Make a switch, which stays in the background until it is removed.
    Create(CreateArguments),
    /// List the switches.
    Ls {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say who is on a switch, and what went through.
    Inspect {
        /// The switch.
        name: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Write what goes through a switch to a file, for tcpdump and the like, until it is interrupted.
    Capture {
        /// The switch.
        name: String,
        /// The file; `-` is stdout.
        file: PathBuf,
    },
    /// Remove switches.
    Rm {
        /// The switches.
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Even if machines use them, which lose their network.
        #[arg(long, short)]
        force: bool,
    },
    /// The process of a switch.
    #[command(hide = true)]
    Serve {
        /// The switch.
        name: String,
        /// Keep all rights.
        #[arg(long)]
        no_jail: bool,
    },
}

/// `guesthouse net create`.
#[derive(Debug, Args)]
pub struct CreateArguments {
    /// What it is called.
    pub name: String,
    /// Addresses of VLAN 1, in which machines are unless they say otherwise: the first is the switch's, which hands out the
    /// others and answers for names. `none`: machines agree on addresses themselves. Without, the first of 10.5.0.0/24,
    /// 10.5.1.0/24 ... that no other switch has.
    #[arg(long, value_name = "SUBNET")]
    pub subnet: Option<String>,
    /// A further VLAN, 2 to 4094; without a subnet its machines agree on addresses themselves. May be repeated.
    #[arg(long, value_name = "ID[=SUBNET]")]
    pub vlan: Vec<VlanSpec>,
    /// Machines reach nothing but each other.
    #[arg(long)]
    pub no_uplink: bool,
    /// Machines reach the host's 127.0.0.1 at the switch's address.
    #[arg(long)]
    pub loopback: bool,
    /// Write all frames to a file, for tcpdump and the like.
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// Keep all rights: the switch's process is not limited to the system calls, files and capabilities that it needs. For
    /// who looks for a fault of the jail's.
    #[arg(long)]
    pub no_jail: bool,
}

/// Carries it out; the exit status.
pub fn run(action: &NetAction) -> anyhow::Result<u8> {
    match action {
        NetAction::Create(arguments) => create(arguments)?,
        NetAction::Ls { json } => list::all(*json)?,
        NetAction::Inspect { name, json } => list::one(&there(name)?, *json)?,
        NetAction::Capture { name, file } => capture(&there(name)?, file)?,
        NetAction::Rm { names, force } => names.iter().try_for_each(|name| remove(&there(name)?, *force))?,
        NetAction::Serve { name, no_jail } => return serve::serve(&folder(name)?, *no_jail),
    }
    Ok(0)
}

/// Says whether the switches of a machine's cards are there, before anything else is done for it.
pub fn check(nets: &[NetSpec]) -> anyhow::Result<()> {
    nets.iter().try_for_each(|net| match net {
        NetSpec::Switch(config) => there(&config.switch).map(drop),
        _ => Ok(()),
    })
}

fn folder(name: &str) -> anyhow::Result<Folder> {
    Home::of_user().folder(name).map_err(anyhow::Error::msg)
}

/// The folder of a switch that is there.
fn there(name: &str) -> anyhow::Result<Folder> {
    let folder = folder(name)?;
    if !folder.is_held() {
        folder.sweep();
        bail!("there is no switch {name}: make it with guesthouse net create {name}");
    }
    Ok(folder)
}

fn asked(folder: &Folder, request: &Request) -> anyhow::Result<Answer> {
    let answer = ask(folder, request).with_context(|| format!("switch {} does not answer", folder.name()))?;
    match answer {
        Answer::Refused(why) => bail!("switch {}: {why}", folder.name()),
        answer => Ok(answer),
    }
}

fn create(arguments: &CreateArguments) -> anyhow::Result<()> {
    let name = &arguments.name;
    let folder = folder(name)?;
    if folder.is_held() {
        bail!(
            "switch {name} is there already: remove it with guesthouse net rm {name}, or choose another name"
        );
    }
    let subnet = match arguments.subnet.as_deref() {
        Some("none") => None,
        Some(text) => Some(text.parse().map_err(|why| anyhow::anyhow!("--subnet {why}"))?),
        None => Some(unused()?),
    };
    let mut vlans = vec![VlanSpec { id: Vlan::DEFAULT, subnet }];
    vlans.extend(arguments.vlan.iter().cloned());
    let capture = arguments.capture.as_ref().map(std::path::absolute).transpose()?;
    let spec = SwitchSpec { vlans, no_uplink: arguments.no_uplink, loopback: arguments.loopback, capture };
    spec.validate().map_err(anyhow::Error::msg)?;

    let mut child = Command::new(std::env::current_exe()?)
        .args(["net", "serve", name])
        .args(arguments.no_jail.then_some("--no-jail"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("the switch's process does not start")?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it fails the answer says why.
        let _ = stdin.write_all(&serde_json::to_vec(&spec)?);
    }
    let mut said = String::new();
    child.stdout.take().context("the switch's process has no output")?.read_to_string(&mut said)?;
    match said.trim() {
        serve::READY => {
            if arguments.no_jail {
                eprintln!("{NO_JAIL}");
            }
            Ok(())
        }
        "" => bail!("the switch's process has ended ({}): see guesthouse net ls", child.wait()?),
        why => bail!("{why}"),
    }
}

/// A subnet that no other switch has.
fn unused() -> anyhow::Result<Range> {
    let folders = Home::of_user().folders();
    let specs = folders.iter().filter(|folder| folder.is_held()).filter_map(|folder| folder.spec().ok());
    let taken: Vec<Range> = specs.flat_map(|spec| spec.vlans).filter_map(|vlan| vlan.subnet).collect();
    let mut all = (0..=255).filter_map(|i| format!("10.5.{i}.0/24").parse::<Range>().ok());
    all.find(|range| taken.iter().all(|other| !range.overlaps(*other)))
        .context("all of 10.5.0.0/24 to 10.5.255.0/24 are in use: give --subnet")
}

fn remove(folder: &Folder, force: bool) -> anyhow::Result<()> {
    asked(folder, &Request::Stop { force })?;
    let start = Instant::now();
    while folder.is_held() {
        if start.elapsed() > PATIENCE {
            bail!("switch {} does not end: see its log, {}", folder.name(), folder.log().display());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn capture(folder: &Folder, file: &PathBuf) -> anyhow::Result<()> {
    let (answer, socket) = attach(folder, &Request::Capture)
        .with_context(|| format!("switch {} does not answer", folder.name()))?;
    if let Answer::Refused(why) = answer {
        bail!("switch {}: {why}", folder.name());
    }
    let to_stdout = file.as_os_str() == "-";
    let mut out: Box<dyn Write> = if to_stdout {
        Box::new(io::stdout())
    } else {
        let error = || format!("{} cannot be written: check the path and its permissions", file.display());
        Box::new(File::create(file).with_context(error)?)
    };
    let mut message = Vec::with_capacity(MOST);
    loop {
        message.clear();
        match recv(&socket, rustix::buffer::spare_capacity(&mut message), RecvFlags::empty()) {
            Ok((0, _)) => return Ok(()),
            Ok(_) => out.write_all(&message).and_then(|()| out.flush())?,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
}
