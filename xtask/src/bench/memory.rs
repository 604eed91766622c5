//! Memory of the host's that a guest at its shell takes beyond its own RAM.

use anyhow::Result;

use super::Bench;
use super::console::Console;
use super::figure::{Figure, Target};
use super::process::{self, Memory};

/// What is told of it: the name, from where, and the target.
type Kind = (&'static str, fn(&Memory) -> u64, Option<Target>);

const KINDS: [Kind; 4] = [
    ("memory beyond guest RAM, resident", |m| m.resident, Some(Target::AtMost(40.0))),
    ("memory beyond guest RAM, proportional", |m| m.proportional, None),
    ("memory beyond guest RAM, private", |m| m.private, None),
    ("resident guest RAM", |m| m.guest, None),
];

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let samples = bench.take_turns("memory at the shell", |peer| {
        let console = Console::boot(peer, &bench.guest)?;
        process::memory(console.pid(), bench.guest.memory * 1024)
    })?;
    Ok(KINDS
        .iter()
        .map(|&(name, kib, target)| {
            let mut mib = samples.iter().map(|runs| runs.iter().map(|m| kib(m) as f64 / 1024.0).collect());
            Figure {
                name: name.to_owned(),
                unit: "MiB",
                guesthouse: mib.next().unwrap_or_default(),
                qemu: mib.next().unwrap_or_default(),
                target,
                ..Figure::default()
            }
        })
        .collect())
}
