//! One program between its marks, on the host or at a guest's shell.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::bench::console::Console;

/// What a run of a program was.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// CPU seconds of the process that was watched.
    pub outside: f64,
    /// CPU seconds, user and system, that the program was told it and its children took.
    pub inside: f64,
    /// Wall-clock seconds.
    pub wall: f64,
    /// What it printed and what it ended with; the same everywhere.
    pub result: String,
}

impl Sample {
    /// A figure of work that was done wrong says nothing.
    pub fn must_agree_with(&self, native: &Self) -> Result<()> {
        // A program that fails may say so at length.
        let start = |sample: &Self| sample.result.chars().take(120).collect::<String>();
        let (ours, theirs) = (start(self), start(native));
        ensure!(self.result == native.result, "the result is wrong: {ours:?}, on the host {theirs:?}");
        Ok(())
    }
}

/// Follows benches/micro from its start to its end; an error if the CPU lacks what it needs.
pub fn watch(console: &mut Console, name: &str) -> Result<Sample> {
    console.wait_for("@begin")?;
    console.wait_for("\n")?;
    let (start, before) = (Instant::now(), console.cpu_seconds()?);
    // No program of the suite prints this character.
    let printed = console.wait_for("@")?;
    let mark = console.wait_for(" ")?;
    let (wall, after) = (start.elapsed().as_secs_f64(), console.cpu_seconds()?);
    let end = console.wait_for("\n")?;
    let end = end.trim_end();
    ensure!(mark == name, "{name} did not come to its end: {mark} {end}");
    let (nanoseconds, result) = end.split_once(' ').with_context(|| format!("'{end}' is no result"))?;
    ensure!(result != "-", "the CPU lacks what {name} needs");
    Ok(Sample {
        outside: after - before,
        inside: nanoseconds.parse::<f64>()? / 1e9,
        wall,
        // A guest's terminal ends lines as terminals do.
        result: format!("{}{result}", printed.replace('\r', "")),
    })
}

/// Runs a program on so many of the host's CPUs: what two processes cost each other depends on whether they share
/// one, as they do in the guest.
pub fn natively(command: Command, cpus: u32, name: &str) -> Result<Sample> {
    let allowed = sched_getaffinity(None)?;
    let mut few = CpuSet::new();
    for cpu in (0..CpuSet::MAX_CPU).filter(|&cpu| allowed.is_set(cpu)).take(cpus as usize) {
        few.set(cpu);
    }
    // A child has the CPUs of the thread that starts it.
    sched_setaffinity(None, &few)?;
    let console = Console::start(command);
    sched_setaffinity(None, &allowed)?;
    watch(&mut console?, name)
}
