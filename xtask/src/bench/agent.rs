//! `cargo xtask bench agent`: how long `exec` takes, and how fast `cp` is, with the default guest.

use std::fs;

use anyhow::{Result, ensure};
use clap::Args;

use super::figure::{self, Figure, Target};
use crate::machines::Machines;
use crate::process::target_folder;

/// Measure programs and copies in a running guest.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How often to run a program; medians are shown.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How often to copy.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    copies: u32,
    /// The result as JSON, with every sample.
    #[arg(long)]
    json: bool,
}

/// Bytes of the tree, and files in it.
const TREE: usize = 200_000_000;
const FILES: usize = 200;

pub fn run(arguments: &Arguments) -> Result<()> {
    let machines = Machines::new(target_folder()?.join("release/guesthouse"))?;
    figure::conclude(&measure(arguments, &machines)?, arguments.json)
}

fn measure(arguments: &Arguments, machines: &Machines) -> Result<[Figure; 3]> {
    let tree = machines.path("tree");
    for index in 0..FILES {
        let path = tree.join((index % 10).to_string());
        fs::create_dir_all(&path)?;
        fs::write(path.join(index.to_string()), vec![index as u8; TREE / FILES])?;
    }
    machines.call(&["run", "-d", "--name", "agent", "--memory", "1G"])?;
    machines.call(&["exec", "--wait", "120", "agent", "true"])?;

    let timed = |words: &[&str]| machines.timed(words).map(|(_, took)| took.as_secs_f64());
    let mut programs = Vec::new();
    for _ in 0..arguments.runs {
        programs.push(timed(&["exec", "agent", "true"])? * 1e3);
    }
    let (mut into, mut out) = (Vec::new(), Vec::new());
    let tree = tree.display().to_string();
    let back = machines.path("back");
    for _ in 0..arguments.copies {
        into.push(timed(&["cp", &tree, "agent:/tmp/tree"])?);
        out.push(timed(&["cp", "agent:/tmp/tree", &back.display().to_string()])?);
        ensure!(fs::read_dir(&back)?.count() == 10, "not everything came back");
        fs::remove_dir_all(&back)?;
        machines.call(&["exec", "agent", "rm", "-r", "/tmp/tree"])?;
    }

    // 100 MB/s.
    let limit = TREE as f64 / 100e6;
    let row = |name: &str, unit, guesthouse, target| Figure {
        name: name.to_owned(),
        unit,
        guesthouse,
        target: Some(Target::AtMost(target)),
        ..Figure::default()
    };
    Ok([
        row("exec -- true", "ms", programs, 15.0),
        row("cp of 200 MB into the guest", "s", into, limit),
        row("cp of 200 MB out of the guest", "s", out, limit),
    ])
}
