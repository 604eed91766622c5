//! The loops of benches/integer.rs on the host and in guests.
//!
//! A guest's work is measured by the CPU time that its machine monitor takes between the marks that the
//! program prints; what the guest believes is shown as well, but its clock runs on while the host is busy
//! elsewhere.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Bench;
use super::console::Console;
use super::figure::{Figure, Target};

/// About a quarter of a second natively in each loop.
const ROUNDS: u64 = 2_000_000;
/// The first is the one that has a target; the others show what an interpreter does best and worst.
const LOOPS: [&str; 4] = ["mixed", "registers", "branches", "memory"];
const COUNT: usize = LOOPS.len();

/// One loop of one run.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    /// CPU time in seconds as the program itself was told.
    inside: f64,
    /// CPU time of the whole process in seconds, as its host was told.
    outside: f64,
    checksum: u64,
}

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let mut native: Vec<[Sample; COUNT]> = Vec::new();
    let guests = bench.take_turns("integer loops", |peer| {
        if peer.name() == "guesthouse" {
            native.push(run_natively(bench, ROUNDS)?);
        }
        let mut console = Console::boot(peer, &bench.guest_with_programs)?;
        console.enter(&format!("/bench/integer {ROUNDS}"))?;
        watch(&mut console)
    })?;
    let mut figures = Vec::new();
    for (i, name) in LOOPS.into_iter().enumerate() {
        let expected = native.first().map(|loops| loops[i].checksum);
        let same = guests.iter().flatten().chain(&native).all(|loops| Some(loops[i].checksum) == expected);
        ensure!(same, "the loop of {name} has a wrong result in a guest: {guests:?}, not {native:?}");
        let times = |runs: Option<&Vec<[Sample; COUNT]>>, time: fn(&Sample) -> f64| {
            runs.map(|runs| runs.iter().map(|loops| time(&loops[i])).collect()).unwrap_or_default()
        };
        let figure = |what, time: fn(&Sample) -> f64, target| Figure {
            name: format!("integer loop, {name}, {what}"),
            unit: "s",
            guesthouse: times(guests.first(), time),
            qemu: times(guests.get(1), time),
            native: times(Some(&native), |sample| sample.inside),
            target,
        };
        let target = (i == 0).then_some(Target::TimesNative(12.0));
        figures.push(figure("CPU time", |sample| sample.outside, target));
        figures.push(figure("by the guest's clock", |sample| sample.inside, None));
    }
    Ok(figures)
}

fn run_natively(bench: &Bench, rounds: u64) -> Result<[Sample; COUNT]> {
    let mut command = Command::new(bench.folder.join("integer"));
    command.arg(rounds.to_string());
    watch(&mut Console::start(command)?)
}

/// Follows the program to its end.
fn watch(console: &mut Console) -> Result<[Sample; COUNT]> {
    console.line("@begin")?;
    let mut before = console.cpu_seconds()?;
    let mut samples = Vec::new();
    for name in LOOPS {
        let line = console.line(&format!("@{name} "))?;
        let after = console.cpu_seconds()?;
        let (nanoseconds, checksum) = parse(&line).with_context(|| format!("'{line}' is no result"))?;
        samples.push(Sample { inside: nanoseconds as f64 / 1e9, outside: after - before, checksum });
        before = after;
    }
    samples.try_into().ok().context("a result for each loop")
}

fn parse(line: &str) -> Option<(u64, u64)> {
    let (nanoseconds, checksum) = line.split_once(' ')?;
    Some((nanoseconds.parse().ok()?, checksum.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::program;

    #[test]
    fn the_program_gives_the_same_result_twice() {
        let path = std::env::temp_dir().join(format!("guesthouse-bench-integer-{}", std::process::id()));
        program::compile("integer", "integer.rs", &path).unwrap();
        let run = |rounds: &str| {
            let mut command = Command::new(&path);
            command.arg(rounds);
            watch(&mut Console::start(command).unwrap()).unwrap().map(|sample| sample.checksum)
        };
        let (first, second, other) = (run("1000"), run("1000"), run("1001"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(first, second);
        assert!(first[1] != other[1] && first[3] != other[3], "{first:?} {other:?}");
    }
}
