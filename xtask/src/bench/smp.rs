//! Four CPUs come up and run four pipelines at once, whose results must be those of the host; again and again.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Bench;
use super::console::Console;
use super::figure::{Figure, Target};
use super::peer::{Machine, Peer};

const CPUS: u32 = 4;
/// Boots for each of the runs asked for: 20 by default.
const BOOTS: u32 = 4;

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let expected = on_host(bench)?;
    let machine = Machine { cpus: CPUS, ..bench.guest_with_programs.clone() };
    let guesthouse = bench.peers.first().context("nothing to measure")?;
    let boots = bench.runs * BOOTS;
    let (mut wrong, mut seconds) = (0, Vec::new());
    for boot in 1..=boots {
        eprintln!("xtask: {CPUS} pipelines on {CPUS} cpus, boot {boot} of {boots}");
        match in_guest(guesthouse, &machine) {
            Ok((found, cpu)) if found == expected => seconds.push(cpu),
            Ok((found, _)) => {
                eprintln!("xtask: boot {boot} is wrong: {found:?}, not {expected:?}");
                wrong += 1;
            }
            Err(e) => {
                eprintln!("xtask: boot {boot} failed: {e:#}");
                wrong += 1;
            }
        }
    }
    Ok(vec![
        Figure {
            name: format!("4 CPUs, 4 pipelines: wrong of {boots} boots"),
            unit: "",
            guesthouse: vec![f64::from(wrong)],
            target: Some(Target::AtMost(0.0)),
            ..Figure::default()
        },
        Figure {
            name: "4 CPUs, 4 pipelines: CPU time".to_owned(),
            unit: "s",
            guesthouse: seconds,
            ..Figure::default()
        },
    ])
}

/// The sums, and the CPU time of the machine in seconds from its shell on.
fn in_guest(peer: &Peer, machine: &Machine) -> Result<(Vec<String>, f64)> {
    let mut console = Console::boot(peer, machine)?;
    // In two pieces, so that what was typed is not taken for the answer.
    console.enter("echo '@'cpus $(nproc)")?;
    let cpus = console.line("@cpus ")?;
    ensure!(cpus == CPUS.to_string(), "{cpus} of {CPUS} cpus came up");
    let before = console.cpu_seconds()?;
    console.enter("sh /bench/smp.sh /bin/busybox /tmp")?;
    let output = console.wait_for("@done")?;
    Ok((sums(&output), console.cpu_seconds()? - before))
}

fn on_host(bench: &Bench) -> Result<Vec<String>> {
    let busybox = bench.folder.join("busybox");
    let out = bench.folder.join("smp");
    fs::create_dir_all(&out)?;
    let script = super::program::source("smp.sh");
    let output = Command::new(&busybox).arg("sh").args([&script, &busybox, &out]).output();
    let output = output.with_context(|| format!("{} does not start", busybox.display()))?;
    let sums = sums(&String::from_utf8_lossy(&output.stdout));
    ensure!(sums.len() == 8, "{} fails on the host: {output:?}", script.display());
    Ok(sums)
}

fn sums(output: &str) -> Vec<String> {
    output.lines().filter_map(|line| Some(line.split_once("@sum ")?.1.trim().to_owned())).collect()
}
