//! `cargo xtask conform`: an engine against the host CPU.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use conform::{Options, Summary};
use cpu::Engine;
use cpu::x86::CpuModel;
use dbt::{Dbt, Directness};
use interp::Interp;

/// The engines that can be compared.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// The interpreter.
    Interp,
    /// The translator, with everything translated at once.
    Dbt,
    /// The same, with programs that run on the host's CPU as they are.
    Direct,
}

impl Kind {
    fn engine(self) -> Box<dyn Engine> {
        match self {
            Self::Interp => Box::new(Interp::new()),
            Self::Dbt => Box::new(translator(0, Directness::Never)),
            Self::Direct => Box::new(translator(0, Directness::Always)),
        }
    }
}

fn translator(threshold: u8, direct: Directness) -> Dbt {
    Dbt::with_options(dbt::Options { threshold, direct, ..dbt::Options::default() })
}

/// Compare an engine with the host CPU, instruction by instruction.
#[derive(Debug, Args)]
pub struct Arguments {
    /// The engine to compare.
    #[arg(long, value_enum, default_value_t = Kind::Interp)]
    engine: Kind,
    /// Cases to run.
    #[arg(long, default_value_t = 3_000_000)]
    cases: u64,
    /// Every random value comes from it and a case's number.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this case only, as a mismatch names it.
    #[arg(long)]
    case: Option<u64>,
    /// Only this instruction form, as a mismatch names it; can be repeated.
    #[arg(long)]
    form: Vec<String>,
    /// Compare the translator with the interpreter instead, on random blocks of code.
    #[arg(long, conflicts_with_all = ["engine", "form"])]
    blocks: bool,
    /// With blocks of 32-bit code, in protected and compatibility mode.
    #[arg(long, requires = "blocks")]
    code32: bool,
    /// CPU model of the guest.
    #[arg(long, default_value = "host")]
    cpu: String,
    /// Threads; each has a child process beside it.
    #[arg(long)]
    jobs: Option<usize>,
    /// The result as JSON.
    #[arg(long)]
    json: bool,
}

/// How often the engine had the host's CPU execute code as it is, if it does that.
fn stays(counters: &BTreeMap<&'static str, u64>) -> String {
    let [stays, refused] =
        ["direct_stays", "direct_refused"].map(|name| counters.get(name).copied().unwrap_or(0));
    if stays == 0 { String::new() } else { format!(", {} stays in processes", stays - refused) }
}

/// Runs the comparison; an error if anything differs.
pub fn run(arguments: &Arguments) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = Options {
        seed: arguments.seed,
        first: arguments.case.unwrap_or(0),
        cases: if arguments.case.is_some() { 1 } else { arguments.cases },
        jobs: arguments.jobs.unwrap_or(cores),
        model: CpuModel::named(Some(&arguments.cpu))?,
        only: arguments.form.clone(),
        dead_flags: matches!(arguments.engine, Kind::Dbt | Kind::Direct),
        code32: arguments.code32,
    };
    let engine = arguments.engine.engine();
    let start = Instant::now();
    let quiet = arguments.json || !std::io::stderr().is_terminal();
    let progress = |done: u64| {
        if !quiet && done.is_multiple_of(64 * 256) {
            eprint!("\r{done} of {} cases", options.cases);
        }
    };
    if arguments.blocks {
        return blocks(&options, arguments.json, &progress);
    }
    let summary = conform::run(&*engine, &options, &progress)?;
    if !quiet {
        eprintln!();
    }
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        print(&summary, &options, start.elapsed());
    }
    if !summary.passed() {
        bail!("{} and host cpu disagree in {} forms", engine.name(), summary.failing.len());
    }
    Ok(())
}

fn blocks(options: &Options, json: bool, progress: &(dyn Fn(u64) + Sync)) -> Result<()> {
    let start = Instant::now();
    // Everything translated at once, what is warm beside what is cold, and programs as they are.
    let [all, warm] = [0, 2].map(|threshold| translator(threshold, Directness::Never));
    let direct = translator(0, Directness::Always);
    let summary = conform::run_blocks(&Interp::new(), &[&all, &warm, &direct], options, progress)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        summary.samples.iter().for_each(|sample| println!("{sample}"));
        println!(
            "{} blocks (cpu model {}, seed {}), {} of them faults ({} with other dead flags), {} do not end, {} overwrite themselves, {} are open{}, in {:.1} s: {} differ",
            summary.cases,
            options.model.name(),
            options.seed,
            summary.faulted,
            summary.dead_flags,
            summary.endless,
            summary.astray,
            summary.open,
            stays(&summary.counters),
            start.elapsed().as_secs_f64(),
            summary.differ
        );
    }
    if summary.differ > 0 {
        bail!("translator and interpreter disagree in {} blocks", summary.differ);
    }
    Ok(())
}

fn print(summary: &Summary, options: &Options, elapsed: Duration) {
    for sample in &summary.samples {
        println!("{sample}");
    }
    for (form, count) in &summary.failing {
        println!("{form}: {count} cases differ");
    }
    println!(
        "{} cases of {} forms (cpu model {}, seed {}), {} of them faults ({} with other dead flags){}, in {:.1} s: {} differ in {} forms",
        summary.cases,
        summary.forms,
        options.model.name(),
        options.seed,
        summary.faulted,
        summary.dead_flags,
        stays(&summary.counters),
        elapsed.as_secs_f64(),
        summary.failing.values().sum::<u64>(),
        summary.failing.len()
    );
}
