//! `cargo xtask bench agent`: how long `exec` takes, and how fast `cp` is, with the default guest.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use super::figure::{self, Figure, Target};
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

/// A machine in a world of its own, which ends with it.
struct Guest<'a> {
    program: &'a Path,
    folder: &'a Path,
}

impl Guest<'_> {
    fn call(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new(self.program);
        command.args(words).env("XDG_RUNTIME_DIR", self.folder).stdin(Stdio::null()).stdout(Stdio::null());
        let status =
            command.status().with_context(|| format!("{} does not start", self.program.display()))?;
        ensure!(status.success(), "{words:?}: {status}");
        Ok(())
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        let _ = self.call(&["rm", "-f", "agent"]);
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let target = target_folder()?;
    let folder = std::env::temp_dir().join(format!("guesthouse-agent-bench-{}", std::process::id()));
    fs::create_dir(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    let result = measure(arguments, &target.join("release/guesthouse"), &folder);
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

fn measure(arguments: &Arguments, program: &Path, folder: &Path) -> Result<[Figure; 3]> {
    let tree = folder.join("tree");
    for index in 0..FILES {
        let path = tree.join((index % 10).to_string());
        fs::create_dir_all(&path)?;
        fs::write(path.join(index.to_string()), vec![index as u8; TREE / FILES])?;
    }
    let guest = Guest { program, folder };
    guest.call(&["run", "-d", "--name", "agent", "--memory", "1G"])?;
    guest.call(&["exec", "--wait", "120", "agent", "true"])?;

    let timed = |words: &[&str]| -> Result<f64> {
        let start = Instant::now();
        guest.call(words)?;
        Ok(start.elapsed().as_secs_f64())
    };
    let mut programs = Vec::new();
    for _ in 0..arguments.runs {
        programs.push(timed(&["exec", "agent", "true"])? * 1e3);
    }
    let (mut into, mut out) = (Vec::new(), Vec::new());
    let tree = tree.display().to_string();
    let back = folder.join("back");
    for _ in 0..arguments.copies {
        into.push(timed(&["cp", &tree, "agent:/tmp/tree"])?);
        out.push(timed(&["cp", "agent:/tmp/tree", &back.display().to_string()])?);
        ensure!(fs::read_dir(&back)?.count() == 10, "not everything came back");
        fs::remove_dir_all(&back)?;
        guest.call(&["exec", "agent", "rm", "-r", "/tmp/tree"])?;
    }
    drop(guest);

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
