//! `fuzz-smoke`: runs the fuzz targets on mutated seeds. `cargo xtask fuzz-smoke` builds and calls it.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use fuzz_targets::{Options, TARGETS, Target};

/// Runs fuzz targets on mutated seeds for a while.
#[derive(Debug, Parser)]
#[command(name = "fuzz-smoke")]
struct Arguments {
    /// Time for each target.
    #[arg(long, value_name = "N", default_value_t = 5)]
    seconds: u64,
    /// Chooses the inputs: the same number makes the same ones.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Only this target; may be given several times.
    #[arg(long, value_name = "NAME")]
    target: Vec<String>,
    /// Run the target on this file only.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Where inputs that break something are written.
    #[arg(long, value_name = "DIR", default_value = "target/fuzz")]
    artifacts: PathBuf,
    /// Start from this file too.
    #[arg(long, value_name = "FILE")]
    extra: Option<PathBuf>,
    /// List the targets and end.
    #[arg(long)]
    list: bool,
    /// Write the seeds of all targets to folders under this one and end.
    #[arg(long, value_name = "DIR")]
    write_seeds: Option<PathBuf>,
    /// Fuzz in this process.
    #[arg(long, hide = true)]
    worker: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let Arguments { seconds, seed, artifacts, extra, .. } = arguments;
    let options = Options { seconds, seed, artifacts, extra };
    if arguments.list {
        for target in TARGETS {
            println!("{:16} {}", target.name, target.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(folder) = arguments.write_seeds {
        let folders = fuzz_targets::write_seeds(&folder)?;
        println!("wrote the seeds of {} targets to {}", folders.len(), folder.display());
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = choose(&arguments.target)?;
    if arguments.worker || arguments.input.is_some() {
        let [target] = chosen[..] else { bail!("name one target: --target NAME") };
        match arguments.input {
            Some(file) => fuzz_targets::one_input(target, &file)?,
            None => fuzz_targets::worker(target, &options)?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let mut broken = 0;
    for target in chosen {
        match fuzz_targets::run(target, &options) {
            Ok(summary) => println!("{:16} ok, {summary}", target.name),
            Err(error) => {
                println!("{error:#}");
                broken += 1;
            }
        }
    }
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn choose(names: &[String]) -> Result<Vec<&'static Target>> {
    if names.is_empty() {
        return Ok(TARGETS.iter().collect());
    }
    names
        .iter()
        .map(|n| fuzz_targets::find(n).with_context(|| format!("no target {n:?}: --list lists them")))
        .collect()
}
