//! `cargo xtask bench state`: how long a running Debian takes to be written down, to go on, and to be copied.

use std::fs;
use std::path::Path;

use anyhow::Result;
use clap::Args;

use super::figure::{self, Figure, Target};
use super::process;
use crate::machines::Machines;
use crate::process::target_folder;

/// Measure snapshots, restores and copies.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How often; medians are shown.
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The guest, which has 512 MiB.
    #[arg(long, default_value = "debian")]
    guest: String,
    /// Where snapshots go.
    #[arg(long, default_value = "/dev/shm")]
    folder: String,
    /// The result as JSON, with every sample.
    #[arg(long)]
    json: bool,
}

/// Measures, prints, and fails if a figure misses its target.
pub fn run(arguments: &Arguments) -> Result<()> {
    let program = target_folder()?.join("release/guesthouse");
    let machines = Machines::within(program, Path::new(&arguments.folder))?;
    figure::conclude(&measure(arguments, &machines)?, arguments.json)
}

/// What a command prints, and how long it took in milliseconds.
fn timed(machines: &Machines, words: &[&str]) -> Result<(String, f64)> {
    let (said, took) = machines.timed(words)?;
    Ok((said.trim().to_owned(), took.as_secs_f64() * 1e3))
}

fn is_awake(machines: &Machines, name: &str) -> Result<()> {
    machines.call(&["exec", "--wait", "300", name, "true"]).map(drop)
}

fn measure(arguments: &Arguments, machines: &Machines) -> Result<[Figure; 8]> {
    machines.call(&["run", "-d", "--clonable", "--name", "one", "--memory", "512M", &arguments.guest])?;
    is_awake(machines, "one")?;
    let snapshot = machines.path("snapshot");
    let path = snapshot.display().to_string();
    let [mut written, mut pauses, mut live, mut sizes, mut restored, mut copied, mut own, mut shared] =
        [const { Vec::new() }; 8];
    let pause = |taken: &serde_json::Value| taken["pause"].as_f64().map(|us| us / 1e3);
    for _ in 0..arguments.runs {
        let taken = machines.call(&["snapshot", "--json", "--live", "one", &path])?;
        live.extend(pause(&serde_json::from_str(&taken)?));
        fs::remove_dir_all(&snapshot)?;
        let (taken, took) = timed(machines, &["snapshot", "--json", "one", &path])?;
        let taken: serde_json::Value = serde_json::from_str(&taken)?;
        written.push(took);
        pauses.extend(pause(&taken));
        sizes.extend(taken["memory"].as_f64().map(|bytes| bytes / f64::from(1 << 20)));
        let (id, took) = timed(machines, &["restore", "-d", "--rm", &path])?;
        restored.push(took);
        is_awake(machines, &id)?;
        machines.call(&["kill", &id])?;
        fs::remove_dir_all(&snapshot)?;
        let (id, took) = timed(machines, &["clone", "--rm", "one"])?;
        copied.push(took);
        is_awake(machines, &id)?;
        let (private, others) = process::private_and_shared(machines.pid(&id)?)?;
        own.push(private as f64 / 1024.0);
        shared.push(others as f64 / 1024.0);
        machines.call(&["kill", &id])?;
    }
    let row = |name: &str, unit, guesthouse, target: Option<f64>| Figure {
        name: name.to_owned(),
        unit,
        guesthouse,
        target: target.map(Target::AtMost),
        ..Figure::default()
    };
    Ok([
        row("snapshot of 512M", "ms", written, Some(400.0)),
        row("the guest stands still", "ms", pauses, None),
        row("the same with --live", "ms", live, None),
        row("RAM that is not zero", "MiB", sizes, None),
        row("restore to running", "ms", restored, Some(50.0)),
        row("clone to running", "ms", copied, Some(30.0)),
        row("memory of a clone's own after its first program", "MiB", own, None),
        row("memory that it shares", "MiB", shared, None),
    ])
}
