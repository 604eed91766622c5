//! `cargo xtask bench limits`: what machines use of what they may use.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::figure::{self, Figure, Target};
use super::process::cpu_seconds;
use crate::machines::Machines;
use crate::process::target_folder;

/// Measure how well limits of CPU time, disks and cards hold.
#[derive(Debug, Args)]
pub struct Arguments {
    /// How often; medians are shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// How long to look at CPU time, in seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The result as JSON, with every sample.
    #[arg(long)]
    json: bool,
}

/// A guest that does nothing but compute.
const BUSY: [&str; 4] = ["--", "sh", "-c", "echo begun; while :; do :; done"];
/// Machines that are weighed against each other: a third, and what others have.
const WEIGHTS: [&str; 2] = ["33", "100"];
/// MiB a second, requests a second, MiB a second in either direction; each for this long, so that what may go
/// at once at the beginning is two parts in a hundred.
const DISK: u64 = 20;
const REQUESTS: u64 = 200;
const CARD: u64 = 10;
const SECONDS: u64 = 5;

/// Measures, prints, and fails if a figure misses its target.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut figures = [
        row("CPU time of a machine with --cpu-cap 0.2 and 2 CPUs", "CPUs", Target::Near(0.2, 0.02)),
        row("weights 100 and 33 on one CPU: CPU time, 1 to", "", Target::Near(3.03, 0.3)),
        row("disk0,bps=20M, read", "MiB/s", Target::Near(DISK as f64, 1.0)),
        row("disk0,iops=200, 4 KiB each", "/s", Target::Near(REQUESTS as f64, 10.0)),
        row("net0.rx,bps=10M, TCP", "MiB/s", Target::AtMost(CARD as f64 * 1.05)),
        row("net0.tx,bps=10M, TCP", "MiB/s", Target::AtMost(CARD as f64 * 1.05)),
    ];
    let time = Duration::from_secs(arguments.seconds);
    for run in 1..=arguments.runs {
        eprintln!("xtask: limits, run {run} of {}", arguments.runs);
        let mut machines = Machines::new(target_folder()?.join("release/guesthouse"))?;
        let samples =
            [&[cap(&mut machines, time)?, weights(&mut machines, time)?][..], &devices(&mut machines)?]
                .concat();
        machines.end()?;
        for (figure, sample) in figures.iter_mut().zip(samples) {
            figure.guesthouse.push(sample);
        }
    }
    figure::conclude(&figures, arguments.json)
}

fn row(name: &str, unit: &'static str, target: Target) -> Figure {
    Figure { name: name.to_owned(), unit, target: Some(target), ..Figure::default() }
}

/// A machine that computes, with these options; its process.
fn busy(machines: &mut Machines, options: &[&str]) -> Result<(String, u32)> {
    let id = machines.start_with(&[options, &BUSY].concat())?;
    let start = Instant::now();
    while !machines.call(&["logs", &id])?.contains("begun") {
        if start.elapsed() > Duration::from_secs(120) {
            bail!("{id} does not begin");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = machines.pid(&id)?;
    Ok((id, pid))
}

fn cap(machines: &mut Machines, time: Duration) -> Result<f64> {
    let (id, pid) = busy(machines, &["--cpu-cap", "0.2", "--cpus", "2"])?;
    std::thread::sleep(Duration::from_secs(1));
    let (start, before) = (Instant::now(), cpu_seconds(pid)?);
    std::thread::sleep(time);
    let used = (cpu_seconds(pid)? - before) / start.elapsed().as_secs_f64();
    machines.call(&["kill", &id])?;
    Ok(used)
}

fn weights(machines: &mut Machines, time: Duration) -> Result<f64> {
    // What is started inherits the one CPU.
    let all = sched_getaffinity(None)?;
    let first = (0..CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)).context("there is no CPU")?;
    let mut one = CpuSet::new();
    one.set(first);
    sched_setaffinity(None, &one)?;
    let started = WEIGHTS.map(|weight| busy(machines, &["--cpu-weight", weight]));
    sched_setaffinity(None, &all)?;
    let [(light, light_pid), (heavy, heavy_pid)] = match started {
        [Ok(light), Ok(heavy)] => [light, heavy],
        [Err(e), _] | [_, Err(e)] => return Err(e),
    };
    let before = [cpu_seconds(light_pid)?, cpu_seconds(heavy_pid)?];
    std::thread::sleep(time);
    let used = [cpu_seconds(light_pid)? - before[0], cpu_seconds(heavy_pid)? - before[1]];
    machines.call(&["kill", &light, &heavy])?;
    Ok(used[1] / used[0])
}

/// MiB or requests in a second, of disk and card.
fn devices(machines: &mut Machines) -> Result<[f64; 4]> {
    let disk = target_folder()?.join("bench/limited.raw");
    fs::create_dir_all(disk.parent().context("a file is in a folder")?)?;
    fs::write(&disk, vec![1; ((DISK * SECONDS) << 20) as usize])?;
    let path = disk.display().to_string();
    let id = machines.start_with(&["--disk", &path, "--net", "user,loopback=yes"])?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    let mut rates = [0.0; 4];
    let works = [
        (format!("disk0,bps={DISK}M"), format!("bs=1M count={}", DISK * SECONDS), DISK * SECONDS),
        (format!("disk0,iops={REQUESTS}"), format!("bs=4k count={}", REQUESTS * SECONDS), REQUESTS * SECONDS),
    ];
    machines.script(&id, "true")?;
    for ((limit, options, work), rate) in works.into_iter().zip(&mut rates) {
        machines.call(&["limit", &id, "disk0,none"])?;
        machines.call(&["limit", &id, &limit])?;
        let start = Instant::now();
        machines.script(&id, &format!("dd if=/dev/vda of=/dev/null iflag=direct {options} 2>/dev/null"))?;
        *rate = work as f64 / start.elapsed().as_secs_f64();
    }
    let bytes = (CARD * SECONDS) << 20;
    for (limit, rate) in ["rx", "tx"].into_iter().zip(rates.iter_mut().skip(2)) {
        machines.call(&["limit", &id, &format!("net0.{limit},bps={CARD}M")])?;
        let listener = listener.try_clone()?;
        let host = std::thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            match limit {
                "rx" => stream.write_all(&vec![7; bytes as usize]),
                _ => stream.read_to_end(&mut Vec::new()).map(drop),
            }
        });
        let script = match limit {
            "rx" => format!("nc 10.0.2.2 {port} </dev/null | wc -c"),
            _ => format!("head -c {bytes} /dev/zero | nc 10.0.2.2 {port}"),
        };
        let start = Instant::now();
        machines.script(&id, &script)?;
        *rate = (CARD * SECONDS) as f64 / start.elapsed().as_secs_f64();
        let _ = host.join().map_err(|_| anyhow::anyhow!("the host's end panicked"))?;
    }
    machines.call(&["kill", &id])?;
    fs::remove_file(&disk)?;
    Ok(rates)
}
