//! `cargo xtask bench state`: how long a running Debian takes to be written down, to go on, and to be copied.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::figure::{self, Figure, Target};
use super::process;
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

/// Machines in a world of their own, which end with it.
struct World<'a> {
    program: &'a Path,
    folder: &'a Path,
}

impl World<'_> {
    /// What it prints, and how long it took in milliseconds.
    fn call(&self, words: &[&str]) -> Result<(String, f64)> {
        let start = Instant::now();
        let mut command = Command::new(self.program);
        command.args(words).env("XDG_RUNTIME_DIR", self.folder).stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = command.output();
        let took = start.elapsed().as_secs_f64() * 1e3;
        let Output { status, stdout, .. } =
            output.with_context(|| format!("{} does not start", self.program.display()))?;
        ensure!(status.success(), "{words:?}: {status}");
        Ok((String::from_utf8_lossy(&stdout).trim().to_owned(), took))
    }

    fn is_awake(&self, name: &str) -> Result<()> {
        self.call(&["exec", "--wait", "300", name, "true"]).map(drop)
    }

    fn process(&self, id: &str) -> Result<u32> {
        let known: serde_json::Value = serde_json::from_str(&self.call(&["inspect", id])?.0)?;
        known["pid"].as_u64().and_then(|pid| pid.try_into().ok()).context("a machine without a process")
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        for id in self.call(&["ps", "-aq"]).map(|(ids, _)| ids).unwrap_or_default().lines() {
            let _ = self.call(&["rm", "-f", id]);
        }
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let target = target_folder()?;
    let folder = Path::new(&arguments.folder).join(format!("guesthouse-state-bench-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let world = World { program: &target.join("release/guesthouse"), folder: &folder };
    let result = measure(arguments, &world);
    drop(world);
    fs::remove_dir_all(&folder)?;
    let figures = result?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&figures)?);
    } else {
        print!("{}", figure::table(&figures));
    }
    let missed = figures.iter().filter(|figure| figure.passed() == Some(false)).count();
    if missed > 0 {
        bail!("{missed} of {} figures miss their target", figures.len());
    }
    Ok(())
}

fn measure(arguments: &Arguments, world: &World<'_>) -> Result<[Figure; 7]> {
    world.call(&["run", "-d", "--name", "one", "--memory", "512M", &arguments.guest])?;
    world.is_awake("one")?;
    let snapshot = world.folder.join("snapshot");
    let path = snapshot.display().to_string();
    let [mut written, mut pauses, mut sizes, mut restored, mut copied, mut own, mut shared] =
        [const { Vec::new() }; 7];
    for _ in 0..arguments.runs {
        let (taken, took) = world.call(&["snapshot", "--json", "one", &path])?;
        let taken: serde_json::Value = serde_json::from_str(&taken)?;
        written.push(took);
        pauses.extend(taken["pause"].as_f64().map(|us| us / 1e3));
        sizes.extend(taken["memory"].as_f64().map(|bytes| bytes / f64::from(1 << 20)));
        let (id, took) = world.call(&["restore", "-d", "--rm", &path])?;
        restored.push(took);
        world.is_awake(&id)?;
        world.call(&["kill", &id])?;
        fs::remove_dir_all(&snapshot)?;
        let (id, took) = world.call(&["clone", "--rm", "one"])?;
        copied.push(took);
        world.is_awake(&id)?;
        let (private, others) = process::private_and_shared(world.process(&id)?)?;
        own.push(private as f64 / 1024.0);
        shared.push(others as f64 / 1024.0);
        world.call(&["kill", &id])?;
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
        row("RAM that is not zero", "MiB", sizes, None),
        row("restore to running", "ms", restored, Some(50.0)),
        row("clone to running", "ms", copied, Some(30.0)),
        row("memory of a clone's own after its first program", "MiB", own, None),
        row("memory that it shares", "MiB", shared, None),
    ])
}
