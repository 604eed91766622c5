//! `cargo xtask soak`: what only time shows. A whole Debian checks what it has written to its disks and talks through its
//! network while another one is started again and again; and machines are killed while they write, after which
//! nothing that they called durable may be missing. Also machines that are started and ended in a row.

mod check;
mod cycles;
mod image;
mod kills;
mod load;
mod reboots;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::bench::peer::Peer;
use crate::process::{cargo, provide, target_folder};
use crate::system::System;

/// Run machines for long, and kill them while they write.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How long to check disks, use the network and reboot.
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// How often to kill a machine that writes.
    #[arg(long, default_value_t = 50)]
    kills: u32,
    /// How often to start a machine and end it soon after.
    #[arg(long, default_value_t = 1000)]
    cycles: u32,
    /// What random numbers begin with; without, the clock.
    #[arg(long)]
    seed: Option<u64>,
    /// An engine of this build.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    engine: String,
}

/// What all parts need.
struct Soak {
    /// Guesthouse.
    program: PathBuf,
    engine: String,
    /// For images; kept if something fails.
    folder: PathBuf,
}

/// Runs everything; the first failure ends it.
pub fn run(arguments: &Arguments) -> Result<()> {
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        now.as_secs() ^ u64::from(now.subsec_nanos())
    });
    eprintln!("xtask: the same again: --seed {seed}");
    cargo(&["build", "--release", "--locked", "--package", "cli"], &[])?;
    provide("iperf3", "iperf3")?;
    provide("qemu-img", "qemu-utils")?;
    let load = Duration::from_secs(arguments.minutes * 60);
    in_folder(&arguments.engine, |soak| {
        cycles::run(soak, arguments.cycles, seed)?;
        eprintln!("xtask: {} machines were started and ended, and nothing is left of them", arguments.cycles);
        soak.kill(arguments.kills, seed)?;
        if !load.is_zero() {
            soak.load(load, seed)?;
        }
        Ok(())
    })
}

/// Gives the work a folder, which is kept if it fails.
fn in_folder(engine: &str, work: impl FnOnce(&Soak) -> Result<()>) -> Result<()> {
    let target = target_folder()?;
    let folder = target.join("soak").join(std::process::id().to_string());
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let program = target.join("release/guesthouse");
    let soak = Soak { program, engine: engine.to_owned(), folder };
    work(&soak).with_context(|| format!("the images are kept in {}", soak.folder.display()))?;
    fs::remove_dir_all(&soak.folder).with_context(|| format!("{} stays", soak.folder.display()))
}

impl Soak {
    /// Kills machines that write: half of them on a raw image, half on a qcow2.
    fn kill(&self, kills: u32, seed: u64) -> Result<()> {
        for (format, kills) in [("raw", kills.div_ceil(2)), ("qcow2", kills / 2)] {
            let (records, answered) = kills::run(self, format, kills, seed)?;
            eprintln!(
                "xtask: {format}: {kills} kills, {answered} records were said to be durable, {records} were there"
            );
        }
        Ok(())
    }

    /// Two machines at once, for so long.
    fn load(&self, time: Duration, seed: u64) -> Result<()> {
        let system = System::prepare(&self.folder)?;
        let time = Time { end: Instant::now() + time, failed: AtomicBool::new(false) };
        let (load, reboots) = thread::scope(|scope| {
            let load = scope.spawn(|| time.watch(load::run(self, &system, &time, seed)));
            let reboots = time.watch(reboots::run(self, &system, &time));
            (load.join().unwrap_or_else(|_| bail!("it panicked")), reboots)
        });
        let (load, reboots) = (load.context("disks and network")?, reboots.context("reboots")?);
        eprintln!("xtask: {load}\nxtask: {reboots}");
        check::growth("the machine with disks and network", &load.memory)?;
        check::growth("the machine that reboots", &reboots.memory)
    }

    /// A path for an image.
    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn peer(&self) -> Peer {
        Peer::Guesthouse { program: self.program.clone(), engine: self.engine.clone() }
    }
}

/// When machines that run at the same time are to end: after some time, or as soon as one has failed.
struct Time {
    end: Instant,
    failed: AtomicBool,
}

impl Time {
    fn is_over(&self) -> bool {
        Instant::now() >= self.end || self.failed.load(Ordering::Relaxed)
    }

    /// Takes notice of a failure.
    fn watch<T>(&self, outcome: Result<T>) -> Result<T> {
        self.failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
        outcome
    }
}

/// A program of the host's, also from where only root looks, with its output in the error.
fn tool(program: &str, arguments: &[&str], path: &Path) -> Result<()> {
    let search = std::env::var("PATH").unwrap_or_default();
    let output = Command::new(program)
        .args(arguments)
        .arg(path)
        .env("PATH", format!("{search}:/usr/sbin:/sbin"))
        .output()
        .with_context(|| format!("{program} does not start"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        bail!("{program} {} {}: {}: {text}", arguments.join(" "), path.display(), output.status);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A slice of the long run: less than a minute, on what users run.
    #[test]
    fn a_short_soak() {
        cargo(&["build", "--release", "--locked", "--package", "cli"], &[]).unwrap();
        provide("iperf3", "iperf3").unwrap();
        in_folder("auto", |soak| {
            cycles::run(soak, 30, 1)?;
            thread::scope(|scope| {
                let kills = scope.spawn(|| soak.kill(2, 1));
                soak.load(Duration::from_secs(20), 1)?;
                kills.join().unwrap()
            })
        })
        .unwrap();
    }
}
