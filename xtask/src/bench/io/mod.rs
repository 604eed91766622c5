//! `cargo xtask bench io`: disks and networks of a whole Debian with two CPUs, beside QEMU's. Both run the same kernel from
//! the same image, in turns; a machine is booted once a run and does row after row.

mod load;
mod row;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;

use super::figure::{self, Figure};
use super::peer::{self, Peer};
use crate::process::{provide, target_folder};
use crate::system::{Disk, Machine, Shell, System};
use load::Servers;
use row::Row;

/// Measure disks and networks of a whole Debian beside QEMU's.
#[derive(Debug, Args)]
pub struct Arguments {
    /// An engine of this build.
    #[arg(long, value_name = "NAME", default_value = "auto")]
    engine: String,
    /// Leave QEMU out.
    #[arg(long)]
    no_qemu: bool,
    /// Only rows that have this in their name; may be given several times.
    #[arg(long, value_name = "PATTERN")]
    rows: Vec<String>,
    /// How often; medians are shown.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The result as JSON, with every sample.
    #[arg(long)]
    json: bool,
}

/// Bytes of the disk that is measured: in the host's memory, as long as nothing else wants it.
const DISK: u64 = 1 << 30;

pub fn run(arguments: &Arguments) -> Result<()> {
    let rows = row::chosen(&arguments.rows)?;
    provide("iperf3", "iperf3")?;
    provide("fio", "fio")?;
    let target = target_folder()?;
    let folder = target.join("bench");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let system = System::prepare(&folder)?;
    let scratch = Scratch::new(&folder.join("io.raw"))?;
    let mut machine = system.machine(2, 1024);
    machine.disks.push(Disk { path: scratch.0.clone(), format: "raw", snapshot: false });

    let engine = arguments.engine.clone();
    let mut peers = vec![Peer::Guesthouse { program: target.join("release/guesthouse"), engine }];
    match peer::qemu_version() {
        Some(_) if !arguments.no_qemu => peers.push(Peer::Qemu),
        Some(_) => {}
        None => eprintln!("xtask: {} is not installed and left out: {}", peer::QEMU, peer::QEMU_REMEDY),
    }
    let servers = Servers::start()?;
    let mut figures: Vec<Figure> = rows.iter().map(Row::figure).collect();
    let mut failed = 0;
    for run in 1..=arguments.runs {
        for (row, figure) in rows.iter().zip(&mut figures) {
            figure.native.extend(row.on_host(&servers, &scratch.0)?);
        }
        for peer in &peers {
            let mut turn = Turn { machine: &machine, peer, servers: &servers, booted: None };
            for (row, figure) in rows.iter().zip(&mut figures) {
                // What earlier rows wrote is not to be on its way to the host's disk now.
                scratch.settle()?;
                let what = format!("run {run} of {}, {}: {}", arguments.runs, peer.name(), row.name);
                let samples =
                    if matches!(peer, Peer::Qemu) { &mut figure.qemu } else { &mut figure.guesthouse };
                match turn.sample(row) {
                    Ok(sample) => {
                        eprintln!("xtask: {what}: {sample:.2} {}", row.unit);
                        samples.push(sample);
                    }
                    Err(e) => {
                        eprintln!("xtask: {what}: {e:#}");
                        failed += 1;
                    }
                }
            }
        }
    }
    show(&figures, arguments)?;
    if failed > 0 {
        bail!("{failed} samples could not be taken");
    }
    Ok(())
}

fn show(figures: &[Figure], arguments: &Arguments) -> Result<()> {
    if arguments.json {
        let summary = json!({
            "runs": arguments.runs,
            "cpus": std::thread::available_parallelism().map_or(1, usize::from),
            "qemu": peer::qemu_version(),
            "figures": figures,
        });
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print!("{}", figure::table(figures));
    }
    figure::judge(figures)
}

/// The machine of one turn, which is booted for its first row, and again after one that failed: nobody knows what that
/// one left.
struct Turn<'a> {
    machine: &'a Machine,
    peer: &'a Peer,
    servers: &'a Servers,
    booted: Option<(Shell, f64)>,
}

impl Turn<'_> {
    fn sample(&mut self, row: &Row) -> Result<f64> {
        let (mut shell, boot) = match self.booted.take() {
            Some(booted) => booted,
            None => {
                let (mut shell, seconds) = Shell::boot(self.machine, self.peer)?;
                shell.log_in()?;
                (shell, seconds)
            }
        };
        let sample = row.in_guest(&mut shell, boot, self.servers)?;
        self.booted = Some((shell, boot));
        Ok(sample)
    }
}

/// The image of the disk that is measured; removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    /// With data everywhere: holes are read without being read.
    fn new(path: &Path) -> Result<Self> {
        let scratch = Self(path.to_owned());
        let write = || {
            let mut file = File::create(path)?;
            let block = vec![0x5a; 1 << 20];
            (0..DISK >> 20).try_for_each(|_| file.write_all(&block))?;
            file.sync_all()
        };
        write().with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(scratch)
    }

    /// Waits until the host's disk has all of it.
    fn settle(&self) -> Result<()> {
        let synced = File::open(&self.0).and_then(|file| file.sync_all());
        synced.with_context(|| format!("{} cannot be written", self.0.display()))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left does no harm.
        let _ = fs::remove_file(&self.0);
    }
}
