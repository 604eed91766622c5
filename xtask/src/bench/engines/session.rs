//! One machine that is booted once and runs row after row.

use anyhow::{Context, Result};

use super::row::{Quantity, Row, Work};
use super::suite::Suite;
use super::work::{Sample, natively, watch};
use crate::bench::console::Console;
use crate::bench::peer::{Machine, Peer};
use crate::bench::{Bench, process};

/// What a row's figure is the quotient of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quotient {
    pub of: f64,
    /// Nothing, if the figure is a quantity of its own.
    pub over: Option<f64>,
}

/// A machine at its shell.
pub struct Session<'a> {
    bench: &'a Bench,
    suite: Option<&'a Suite>,
    machine: Machine,
    /// Per cent of the usual amount of work, for programs that take a scale.
    percent: u32,
    /// It is slow: rows may have less for it to do.
    slow: bool,
    console: Console,
    /// CPU seconds until its first program.
    boot: f64,
    /// MiB beyond its RAM at the shell.
    memory: f64,
}

impl<'a> Session<'a> {
    pub fn boot(
        bench: &'a Bench,
        suite: Option<&'a Suite>,
        peer: &Peer,
        machine: &Machine,
        percent: u32,
    ) -> Result<Self> {
        let mut console = Console::start(peer.command(machine))?;
        console.wait_for(super::MARK)?;
        let boot = console.cpu_seconds()?;
        console.prompt()?;
        let memory = beyond_ram(&console, machine)?;
        let slow = matches!(peer.engine(), "qemu" | "interp");
        Ok(Self { bench, suite, machine: machine.clone(), percent, slow, console, boot, memory })
    }

    /// Runs a row here and on the host.
    pub fn run(&mut self, row: &Row) -> Result<Option<Quotient>> {
        let quantity = |of| Some(Quotient { of, over: None });
        Ok(match &row.work {
            Work::Micro(program) => Some(self.beside_the_host(row, program)?),
            Work::Shell(_) => Some(self.beside_the_host(row, "done")?),
            Work::Speedup([one, two]) => {
                let one = self.here(row, one)?;
                let two = self.here(row, two)?;
                Some(Quotient { of: 2.0 * one.wall, over: Some(two.wall) })
            }
            Work::Machine(Quantity::Boot) => quantity(self.boot),
            Work::Machine(Quantity::MemoryAfterBoot) => quantity(self.memory),
            Work::Machine(Quantity::MemoryAfterPrograms) => {
                quantity(beyond_ram(&self.console, &self.machine)?)
            }
            Work::Machine(Quantity::MeanOfPrograms) => None,
        })
    }

    fn beside_the_host(&mut self, row: &Row, program: &str) -> Result<Quotient> {
        let arguments = self.arguments(row, program);
        let command = match (&row.work, self.suite) {
            (Work::Shell(_), Some(suite)) => suite.native(&arguments),
            _ => {
                let mut command = std::process::Command::new(self.bench.folder.join("micro"));
                command.args(arguments.iter().skip(1));
                command
            }
        };
        let native = natively(command, row.cpus, program).context("on the host")?;
        let guest = self.here(row, program)?;
        guest.must_agree_with(&native)?;
        Ok(Quotient { of: guest.outside, over: Some(native.inside) })
    }

    fn here(&mut self, row: &Row, program: &str) -> Result<Sample> {
        self.console.enter(&self.arguments(row, program).join(" "))?;
        let sample = watch(&mut self.console, program);
        self.console.prompt()?;
        sample
    }

    /// The command line, for the guest and for the host.
    fn arguments(&self, row: &Row, program: &str) -> Vec<String> {
        let mut arguments = vec!["/bench/micro".to_owned()];
        if matches!(row.work, Work::Shell(_)) {
            arguments.push("--".to_owned());
            arguments.extend(Suite::script(row));
        } else {
            // Jobs at once are measured against each other, not against the host: they have to last.
            let less = self.slow && !matches!(row.work, Work::Speedup(_));
            let percent = if less { self.percent * row.slow_percent / 100 } else { self.percent };
            arguments.extend([program.to_owned(), percent.max(1).to_string()]);
        }
        arguments
    }
}

fn beyond_ram(console: &Console, machine: &Machine) -> Result<f64> {
    Ok(process::memory(console.pid(), machine.memory * 1024)?.resident as f64 / 1024.0)
}
