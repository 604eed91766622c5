//! `cargo xtask bench life`: many machines at once, how long it takes to ask them something, and what they cost when they have
//! nothing to do.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;

use super::figure::{self, Figure, Target};
use super::process::{self, Memory};
use crate::machines::Machines;
use crate::process::target_folder;

/// Measure many machines at once.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How many machines.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    machines: u32,
    /// How often to ask; medians are shown.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How long to look at machines that have nothing to do, in seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The result as JSON, with every sample.
    #[arg(long)]
    json: bool,
}

/// RAM of each in MiB.
const MEMORY: u64 = 128;
/// How long machines have to come to rest.
const REST: Duration = Duration::from_secs(10);

pub fn run(arguments: &Arguments) -> Result<()> {
    let target = target_folder()?;
    let mut machines = Machines::new(target.join("release/guesthouse"))?;
    let mut starts = Vec::new();
    for _ in 0..arguments.machines {
        let start = Instant::now();
        machines.start(MEMORY)?;
        starts.push(milliseconds(start));
    }
    machines.await_shells()?;
    let (mut lists, mut calls) = (Vec::new(), Vec::new());
    for _ in 0..arguments.runs {
        let start = Instant::now();
        let list = machines.call(&["ps"])?;
        lists.push(milliseconds(start));
        ensure!(list.lines().count() == arguments.machines as usize + 1, "ps does not list all: {list}");
    }
    let mut stream = UnixStream::connect(machines.socket(0)?)?;
    for _ in 0..arguments.runs {
        let start = Instant::now();
        ask(&mut stream)?;
        calls.push(milliseconds(start));
    }
    drop(stream);
    std::thread::sleep(REST);
    let idle = idle(&machines, Duration::from_secs(arguments.seconds))?;
    let memory = machines
        .pids()?
        .into_iter()
        .map(|pid| process::memory(pid, MEMORY * 1024))
        .collect::<Result<Vec<_>>>()?;
    machines.end()?;

    let mib = |kib: fn(&Memory) -> u64| memory.iter().map(|m| kib(m) as f64 / 1024.0).collect();
    let all = arguments.machines;
    let row = |name: &str, unit, guesthouse, target| Figure {
        name: name.to_owned(),
        unit,
        guesthouse,
        target,
        ..Figure::default()
    };
    let figures = [
        row("run -d until it answers", "ms", starts, None),
        row(&format!("ps with {all} machines"), "ms", lists, Some(Target::AtMost(20.0))),
        row("a call of the API", "ms", calls, Some(Target::AtMost(1.0))),
        row(&format!("{all} idle machines, of two CPUs"), "%", vec![idle], Some(Target::AtMost(2.0))),
        row("memory beyond guest RAM, resident, each", "MiB", mib(|m| m.resident), None),
        row("memory beyond guest RAM, proportional, each", "MiB", mib(|m| m.proportional), None),
        row("memory beyond guest RAM, private, each", "MiB", mib(|m| m.private), None),
        row("resident guest RAM, each", "MiB", mib(|m| m.guest), None),
    ];
    figure::conclude(&figures, arguments.json)
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// One call on a connection that stays.
fn ask(stream: &mut UnixStream) -> Result<()> {
    stream.write_all(b"GET /v1/machine HTTP/1.1\r\nhost: machine\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = stream.read(&mut piece)?;
        ensure!(count > 0, "the machine hung up");
        answer.extend_from_slice(piece.get(..count).unwrap_or_default());
        let text = String::from_utf8_lossy(&answer);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if len.is_some_and(|len| body.len() >= len) {
            return Ok(());
        }
    }
}

/// CPU time of all machines together, in percent of two CPUs.
fn idle(machines: &Machines, time: Duration) -> Result<f64> {
    let spent = || -> Result<f64> {
        let pids = machines.pids()?;
        pids.into_iter().map(process::cpu_seconds).sum()
    };
    let before = spent()?;
    let start = Instant::now();
    std::thread::sleep(time);
    Ok((spent()? - before) / start.elapsed().as_secs_f64() / 2.0 * 100.0)
}
