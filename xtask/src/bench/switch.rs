//! `cargo xtask bench switch`: TCP between two whole Debians on a switch, beside two of QEMU's whose cards are at both ends
//! of a socket (`-netdev socket`).

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::json;

use super::figure::{self, Figure, Target};
use super::peer::{self, Peer};
use crate::process::target_folder;
use crate::system::{Iperf, Net, Shell, System};

/// Measure TCP between two machines on a switch beside QEMU's.
#[derive(Debug, Args)]
pub struct Arguments {
    /// An engine of this build.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    engine: String,
    /// Leave QEMU out.
    #[arg(long)]
    no_qemu: bool,
    /// How often; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The result as JSON, with every sample.
    #[arg(long)]
    json: bool,
}

/// The switch's name, which nobody else's has.
const SWITCH: &str = "xtask-bench";
/// How long iperf3 measures, and how often in a run.
const SECONDS: u64 = 4;
const TIMES: usize = 2;

pub fn run(arguments: &Arguments) -> Result<()> {
    let target = target_folder()?;
    let folder = target.join("bench");
    std::fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let system = System::prepare(&folder)?;
    let program = target.join("release/guesthouse");
    let mut peers = vec![Peer::Guesthouse { program: program.clone(), engine: arguments.engine.clone() }];
    match peer::qemu_version() {
        Some(_) if !arguments.no_qemu => peers.push(Peer::Qemu),
        Some(_) => {}
        None => eprintln!("xtask: {} is not installed and left out: {}", peer::QEMU, peer::QEMU_REMEDY),
    }
    let _switch = Switch::create(&program)?;
    let mut figure = Figure {
        name: "TCP between two machines".to_owned(),
        unit: "Gbit/s",
        target: Some(Target::FasterThanQemu(2.0)),
        ..Figure::default()
    };
    for run in 1..=arguments.runs {
        for peer in &peers {
            let samples = samples(&system, peer)?;
            eprintln!(
                "xtask: run {run} of {}, {}: {samples:.2?} {}",
                arguments.runs,
                peer.name(),
                figure.unit
            );
            let of_peer = if matches!(peer, Peer::Qemu) { &mut figure.qemu } else { &mut figure.guesthouse };
            of_peer.extend(samples);
        }
    }
    let figures = [figure];
    if arguments.json {
        let summary = json!({ "runs": arguments.runs, "qemu": peer::qemu_version(), "figures": figures });
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print!("{}", figure::table(&figures));
    }
    figure::judge(&figures)
}

/// Gigabits in a second from one machine to another.
fn samples(system: &System, peer: &Peer) -> Result<Vec<f64>> {
    // Nobody listens there yet.
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let mut shells = Vec::new();
    for end in [1, 2] {
        let mut machine = system.machine(1, 512);
        machine.net = Net::Shared { switch: SWITCH, port, end };
        let (mut shell, _) = Shell::boot(&machine, peer)?;
        shell.log_in()?;
        // Who hands out addresses differs; these are the same for both.
        let script = format!(
            "systemctl stop systemd-networkd.socket systemd-networkd; \
             dev=$(ls /sys/class/net | grep -v lo); ip addr flush dev $dev; \
             ip addr add 10.77.0.{end}/24 dev $dev && ip link set $dev up"
        );
        shell.run(&script, 10)?;
        shells.push(shell);
    }
    let [server, client] = &mut shells[..] else { bail!("two machines were started") };
    server.run("iperf3 -s -D", 1)?;
    let command = format!("iperf3 -c 10.77.0.1 -t {SECONDS} -O 1 -i 0 -J");
    (0..TIMES).map(|_| Ok(Iperf::bits(&client.run(&command, SECONDS)?)? / 1e9)).collect()
}

/// A switch whose members agree on addresses themselves; removed when dropped.
struct Switch(PathBuf);

impl Switch {
    fn create(program: &Path) -> Result<Self> {
        let arguments = ["net", "create", SWITCH, "--subnet", "none", "--no-uplink"];
        let status = Command::new(program).args(arguments).status();
        let status = status.with_context(|| format!("{} does not start", program.display()))?;
        ensure!(status.success(), "there is no switch for the measurement");
        Ok(Self(program.to_owned()))
    }
}

impl Drop for Switch {
    fn drop(&mut self) {
        // What is left is named by `guesthouse net ls`.
        let _ = Command::new(&self.0).args(["net", "rm", "--force", SWITCH]).status();
    }
}
