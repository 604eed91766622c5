//! `cargo xtask bench balloon`: memory that a guest frees, and that the host then has.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Args;

use super::figure::{self, Figure, Target};
use super::process;
use crate::machines::Machines;
use crate::process::target_folder;

/// Measure how much of what a guest frees the host has again, and when.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How often; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The result as JSON, with every sample.
    #[arg(long)]
    json: bool,
}

/// RAM of the guest, what it takes and frees, and what of it has to come back, in MiB.
const MEMORY: u64 = 1024;
const TAKEN: u64 = 300;
const BACK: f64 = 250.0;
/// How long that may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Measures, prints, and fails if a figure misses its target.
pub fn run(arguments: &Arguments) -> Result<()> {
    let row = |name: &str, unit, target| Figure { name: name.to_owned(), unit, target, ..Figure::default() };
    let mut figures = [
        row("300 MiB freed: until 250 MiB are the host's", "s", Some(Target::AtMost(PATIENCE.as_secs_f64()))),
        row(
            "300 MiB freed: the host's after 10 s",
            "MiB",
            Some(Target::Near(TAKEN as f64, TAKEN as f64 - BACK)),
        ),
        row("--balloon: until 512 of 1024 MiB are given up", "s", None),
    ];
    for run in 1..=arguments.runs {
        eprintln!("xtask: balloon, run {run} of {}", arguments.runs);
        let mut machines = Machines::new(target_folder()?.join("release/guesthouse"))?;
        let samples = sample(&mut machines)?;
        machines.end()?;
        for (figure, sample) in figures.iter_mut().zip(samples) {
            figure.guesthouse.push(sample);
        }
    }
    figure::conclude(&figures, arguments.json)
}

fn sample(machines: &mut Machines) -> Result<[f64; 3]> {
    let id = machines.start_with(&["--memory", &format!("{MEMORY}M")])?;
    let pid = machines.pid(&id)?;
    let resident = || process::memory(pid, MEMORY * 1024).map(|m| (m.resident + m.guest) as f64 / 1024.0);
    machines.script(&id, &format!("dd if=/dev/urandom of=/tmp/file bs=1M count={TAKEN} 2>/dev/null"))?;
    let full = resident()?;
    machines.script(&id, "rm /tmp/file")?;
    let start = Instant::now();
    let mut back = None;
    while start.elapsed() < PATIENCE {
        if back.is_none() && full - resident()? >= BACK {
            back = Some(start.elapsed().as_secs_f64());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let returned = full - resident()?;

    machines.call(&["balloon", &id, "512M"])?;
    let start = Instant::now();
    loop {
        let report: serde_json::Value = serde_json::from_str(&machines.call(&["balloon", &id, "--json"])?)?;
        if report.get("size").and_then(serde_json::Value::as_u64) == Some(512 << 20) {
            break;
        }
        if start.elapsed() > 6 * PATIENCE {
            bail!("the guest does not give its memory up: {report}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let given = start.elapsed().as_secs_f64();
    machines.call(&["kill", &id])?;
    Ok([back.unwrap_or(f64::INFINITY), returned, given])
}
