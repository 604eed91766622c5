//! From the start of the process to the prompt of the default guest's shell.

use anyhow::Result;

use super::Bench;
use super::console::Console;
use super::figure::{Figure, Target};

pub fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let samples =
        bench.take_turns("boot to the shell", |peer| Console::boot(peer, &bench.guest)?.cpu_seconds())?;
    let mut samples = samples.into_iter();
    Ok(vec![Figure {
        name: "boot to the shell, CPU time".to_owned(),
        unit: "s",
        guesthouse: samples.next().unwrap_or_default(),
        qemu: samples.next().unwrap_or_default(),
        target: Some(Target::TimesQemu(4.0)),
        ..Figure::default()
    }])
}
