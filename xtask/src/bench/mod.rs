//! `cargo xtask bench`: the figures of docs/where-we-stand.md. Guesthouse, QEMU's translator and the host take
//! turns with the same work, because a host is never quiet for long; what counts is CPU time, and medians.

mod agent;
mod balloon;
mod boot;
pub mod console;
mod engines;
mod figure;
mod integer;
mod io;
mod kvm;
mod life;
mod limits;
mod memory;
pub mod peer;
pub mod process;
mod program;
mod share;
mod smp;
mod start;
mod state;
mod switch;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Subcommand, ValueEnum};
use guest::cpio::{Archive, Node};
use guest::{Cache, Cancel, Catalogue};
use serde::Serialize;

use crate::process::{cargo, target_folder};
use figure::Figure;
use peer::{Machine, Peer};

/// Measure Guesthouse beside QEMU and the host.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    other: Option<Other>,
    /// What to measure; without any, everything.
    #[arg(value_enum)]
    benchmarks: Vec<Benchmark>,
    /// How often; medians are shown. The machine with four CPUs is booted four times as often.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The result as JSON, with every sample.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Other {
    Engines(engines::Arguments),
    Io(io::Arguments),
    Kvm(kvm::Arguments),
    Life(life::Arguments),
    Share(share::Arguments),
    Agent(agent::Arguments),
    Switch(switch::Arguments),
    Start(start::Arguments),
    State(state::Arguments),
    Limits(limits::Arguments),
    Balloon(balloon::Arguments),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Benchmark {
    /// The default guest to its shell.
    Boot,
    /// Integer loops in the guest.
    Loop,
    /// Four CPUs with four pipelines.
    Smp,
    /// Memory of the host's beyond the guest's RAM.
    Memory,
}

/// What every benchmark needs.
struct Bench {
    runs: u32,
    /// Guesthouse.
    program: PathBuf,
    /// Those that take turns: always Guesthouse, and QEMU if the host has it.
    peers: Vec<Peer>,
    /// The default guest as every run of ours boots it.
    guest: Machine,
    /// The same with /bench in its initramfs.
    guest_with_programs: Machine,
    /// Programs and scratch files on the host.
    folder: PathBuf,
}

/// Everything that was measured.
#[derive(Serialize)]
struct Summary {
    runs: u32,
    /// Host CPUs that were free for it.
    cpus: usize,
    kernel: String,
    qemu: Option<String>,
    figures: Vec<Figure>,
}

/// Measures, prints, and fails if a figure misses its target.
pub fn run(arguments: &Arguments) -> Result<()> {
    if let Some(Other::Kvm(arguments)) = &arguments.other {
        return kvm::run(arguments);
    }
    cargo(&["build", "--release", "--locked", "--package", "cli"], &[])?;
    match &arguments.other {
        Some(Other::Engines(arguments)) => return engines::run(arguments),
        Some(Other::Io(arguments)) => return io::run(arguments),
        Some(Other::Life(arguments)) => return life::run(arguments),
        Some(Other::Share(arguments)) => return share::run(arguments),
        Some(Other::Agent(arguments)) => return agent::run(arguments),
        Some(Other::Switch(arguments)) => return switch::run(arguments),
        Some(Other::Start(arguments)) => return start::run(arguments),
        Some(Other::State(arguments)) => return state::run(arguments),
        Some(Other::Limits(arguments)) => return limits::run(arguments),
        Some(Other::Balloon(arguments)) => return balloon::run(arguments),
        Some(Other::Kvm(_)) | None => {}
    }
    let bench = Bench::new(arguments.runs)?;
    let chosen = match arguments.benchmarks.as_slice() {
        [] => Benchmark::value_variants(),
        some => some,
    };
    let mut figures = Vec::new();
    for benchmark in chosen {
        figures.extend(match benchmark {
            Benchmark::Boot => boot::measure(&bench)?,
            Benchmark::Loop => integer::measure(&bench)?,
            Benchmark::Smp => smp::measure(&bench)?,
            Benchmark::Memory => memory::measure(&bench)?,
        });
    }
    let summary = Summary {
        runs: bench.runs,
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: bench.guest.origin.clone(),
        qemu: peer::qemu_version(),
        figures,
    };
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print!("{}", figure::table(&summary.figures));
    }
    figure::judge(&summary.figures)
}

impl Bench {
    fn new(runs: u32) -> Result<Self> {
        let target = target_folder()?;
        let folder = target.join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;

        let catalogue = Catalogue::builtin()?;
        let entry = catalogue.get(&catalogue.default)?;
        let mut progress = |step| eprintln!("xtask: guest {}: {step}", entry.name);
        let built = Cache::of_user()?.get_or_build(entry, &Cancel::default(), &mut progress)?;
        let [kernel_record, _] = &built.manifest.files;

        let program = target.join("release/guesthouse");
        // These figures are the interpreter's.
        let mut peers = vec![Peer::Guesthouse { program: program.clone(), engine: "interp".to_owned() }];
        if peer::qemu_version().is_some() {
            peers.push(Peer::Qemu);
        } else {
            eprintln!("xtask: {} is not installed and left out: {}", peer::QEMU, peer::QEMU_REMEDY);
        }

        let initramfs =
            fs::read(&built.initrd).with_context(|| format!("{} cannot be read", built.initrd.display()))?;
        program::extract_busybox(&initramfs, &folder.join("busybox"))?;
        program::compile("integer", "integer.rs", &folder.join("integer"))?;
        program::compile("micro", "micro/main.rs", &folder.join("micro"))?;
        let with_programs = folder.join("initrd");
        let programs = Archive::new()
            .add("bench/integer", 0o755, Node::File(fs::read(folder.join("integer"))?))
            .add("bench/micro", 0o755, Node::File(fs::read(folder.join("micro"))?))
            .add("bench/init", 0o755, Node::File(engines::INIT.into()))
            .add("bench/smp.sh", 0o755, Node::File(fs::read(program::source("smp.sh"))?))
            .write();
        fs::write(&with_programs, [initramfs, programs].concat())
            .with_context(|| format!("{} cannot be written", with_programs.display()))?;

        let guest = Machine {
            kernel: built.kernel.clone(),
            initrd: built.initrd.clone(),
            append: entry.append.clone(),
            origin: kernel_record.origin.clone(),
            cpus: 1,
            memory: 512,
        };
        let guest_with_programs = Machine { initrd: with_programs, ..guest.clone() };
        Ok(Self { runs, program, peers, guest, guest_with_programs, folder })
    }

    /// Calls `sample` with every peer in turn, as often as runs are wanted: the samples by peer.
    fn take_turns<T>(&self, what: &str, mut sample: impl FnMut(&Peer) -> Result<T>) -> Result<Vec<Vec<T>>> {
        let mut samples: Vec<Vec<T>> = self.peers.iter().map(|_| Vec::new()).collect();
        for run in 1..=self.runs {
            for (peer, samples) in self.peers.iter().zip(&mut samples) {
                eprintln!("xtask: {what}, run {run} of {}: {}", self.runs, peer.name());
                samples.push(sample(peer).with_context(|| format!("{what} on {}", peer.name()))?);
            }
        }
        Ok(samples)
    }
}
