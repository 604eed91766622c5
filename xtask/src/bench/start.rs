//! `cargo xtask bench start`: from the start of the program to the guest's first instruction, which writes to its serial port,
//! and what a machine with such a guest keeps of the host's memory. For the default guest, to the entry into its kernel.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::figure::{self, Figure, Target};
use super::process::{self, Memory};
use crate::process::{Ended, target_folder};

/// Measure how long machines take to start.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How often; medians are shown.
    #[arg(long, default_value_t = 21, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// The engines.
    #[arg(long, value_delimiter = ',', default_values = ["kvm", "dbt", "interp", "auto"])]
    engines: Vec<String>,
    /// The result as JSON, with every sample.
    #[arg(long)]
    json: bool,
}

/// RAM of each in MiB.
const MEMORY: u64 = 128;
/// Where the guest is loaded, and how long what is in front of its code is.
const LOAD: u64 = 0x10_0000;
const HEAD: u64 = 120;
/// mov dx, 0x3f8; mov al, '!'; out dx, al; again: cli; hlt; jmp again
const CODE: [u8; 11] = [0x66, 0xba, 0xf8, 0x03, 0xb0, b'!', 0xee, 0xfa, 0xf4, 0xeb, 0xfc];
/// What a machine says when its first CPU is about to run.
const BEGINS: &str = "the vcpu begins";
/// How long a machine may settle before its memory is looked at.
const REST: Duration = Duration::from_millis(1500);

/// A machine's definition, and where it lives.
struct Bench {
    program: PathBuf,
    folder: PathBuf,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let folder = std::env::temp_dir().join(format!("guesthouse-start-bench-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let bench = Bench { program: target_folder()?.join("release/guesthouse"), folder };
    let result = bench.measure(arguments);
    fs::remove_dir_all(&bench.folder)?;
    figure::conclude(&result?, arguments.json)
}

impl Bench {
    fn measure(&self, arguments: &Arguments) -> Result<Vec<Figure>> {
        fs::write(self.kernel(), image())?;
        let times = arguments.engines.len();
        let (mut first, mut entered) = (vec![Vec::new(); times], Vec::new());
        // What is done once per host is not the start's.
        self.until_entry()?;
        for _ in 0..arguments.runs {
            for (engine, samples) in arguments.engines.iter().zip(&mut first) {
                samples.push(self.until_first_byte(engine).with_context(|| format!("engine {engine}"))?);
            }
            entered.push(self.until_entry()?);
        }
        let row = |name: String, unit, guesthouse, target: Option<f64>| Figure {
            name,
            unit,
            guesthouse,
            target: target.map(Target::AtMost),
            ..Figure::default()
        };
        let mut figures = Vec::new();
        for (engine, samples) in arguments.engines.iter().zip(first) {
            figures.push(row(format!("start to the first instruction, {engine}"), "ms", samples, Some(15.0)));
        }
        figures.push(row("start to the default guest's kernel, auto".to_owned(), "ms", entered, None));
        for engine in &arguments.engines {
            let memory = self.memory(engine)?;
            let mib = |kib: u64| vec![kib as f64 / 1024.0];
            let target = (engine == "kvm").then_some(8.0);
            let name = |which| format!("memory beyond guest RAM, {engine}, {which}");
            figures.push(row(name("resident"), "MiB", mib(memory.resident), target));
            figures.push(row(name("proportional"), "MiB", mib(memory.proportional), None));
            figures.push(row(name("private"), "MiB", mib(memory.private), None));
        }
        Ok(figures)
    }

    fn kernel(&self) -> PathBuf {
        self.folder.join("kernel")
    }

    /// The command that runs the smallest guest.
    fn smallest(&self, engine: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["run", "--engine", engine, "--board", "microvm", "--memory", &format!("{MEMORY}M")]);
        command.arg("--kernel").arg(self.kernel());
        within(command, &self.folder)
    }

    /// Milliseconds until the guest's first instructions have had an effect.
    fn until_first_byte(&self, engine: &str) -> Result<f64> {
        let start = Instant::now();
        let (_running, took) = first_byte(self.smallest(engine), start)?;
        Ok(took)
    }

    /// Milliseconds until the default guest's kernel is loaded and entered.
    fn until_entry(&self) -> Result<f64> {
        let mut command = Command::new(&self.program);
        command.args(["--log", "machine=debug", "run", "--board", "microvm", "--memory", "512M"]);
        let mut command = within(command, &self.folder);
        let start = Instant::now();
        let mut running = Ended(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?);
        let said = running.0.stderr.take().context("a child without a pipe")?;
        for line in BufReader::new(said).lines() {
            if line?.contains(BEGINS) {
                return Ok(milliseconds(start));
            }
        }
        bail!("the default guest does not begin")
    }

    /// What a machine keeps whose guest sleeps.
    fn memory(&self, engine: &str) -> Result<Memory> {
        let (running, _) = first_byte(self.smallest(engine), Instant::now())?;
        std::thread::sleep(REST);
        process::memory(running.0.id(), MEMORY * 1024)
    }
}

fn within(mut command: Command, folder: &Path) -> Command {
    command.env("XDG_RUNTIME_DIR", folder).stdin(Stdio::null());
    command
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// The program, and when its guest's first byte had come.
fn first_byte(mut command: Command, start: Instant) -> Result<(Ended, f64)> {
    let child: Child = command.stdout(Stdio::piped()).spawn().context("guesthouse does not start")?;
    let mut running = Ended(child);
    let mut byte = [0];
    running.0.stdout.as_mut().context("a child without a pipe")?.read_exact(&mut byte)?;
    let took = milliseconds(start);
    ensure!(byte == *b"!", "the guest says {byte:?}");
    Ok((running, took))
}

/// The guest as a 64-bit ELF file with one segment.
fn image() -> Vec<u8> {
    let len = HEAD + CODE.len() as u64;
    let mut image = b"\x7fELF\x02\x01\x01".to_vec();
    image.resize(16, 0);
    let mut put = |bytes: &[u8]| image.extend_from_slice(bytes);
    for half in [2u16, 62] {
        put(&half.to_le_bytes());
    }
    put(&1u32.to_le_bytes());
    for word in [LOAD + HEAD, 64, 0] {
        put(&word.to_le_bytes());
    }
    put(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        put(&half.to_le_bytes());
    }
    for word in [1u32, 5] {
        put(&word.to_le_bytes());
    }
    for word in [0, LOAD, LOAD, len, len, 0x1000] {
        put(&word.to_le_bytes());
    }
    put(&CODE);
    image
}
