//! One machine that is booted once and runs row after row.

use anyhow::{Context, Result, ensure};

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

/// How many have to have run before what they leave in memory is looked at.
const SCRIPTS: usize = 10;

/// What every session needs.
pub struct Setup<'a> {
    pub bench: &'a Bench,
    /// If some row needs it.
    pub suite: Option<Suite>,
    /// Per cent of the usual amount of work, for programs that take a scale.
    pub percent: u32,
}

/// A machine at its shell.
pub struct Session<'a> {
    setup: &'a Setup<'a>,
    machine: Machine,
    /// It is slow: rows may have less for it to do.
    slow: bool,
    console: Console,
    /// CPU seconds until its first program.
    boot: f64,
    /// MiB beyond its RAM at the shell.
    memory: f64,
    /// Scripts that ran in it to their end.
    scripts: usize,
}

impl<'a> Session<'a> {
    /// Boots the guest with many programs, or else the default one.
    pub fn boot(setup: &'a Setup<'a>, peer: &Peer, suite: bool, cpus: u32) -> Result<Self> {
        let guest = match &setup.suite {
            Some(many) if suite => &many.machine,
            _ => &setup.bench.guest_with_programs,
        };
        let append = format!("{} quiet rdinit=/bench/init", guest.append);
        let machine = Machine { append, cpus, ..guest.clone() };
        let mut console = Console::start(peer.command(&machine))?;
        console.wait_for(super::MARK)?;
        let boot = console.cpu_seconds()?;
        console.prompt()?;
        let memory = beyond_ram(&console, &machine)?;
        let slow = matches!(peer.engine(), "qemu" | "interp");
        Ok(Self { setup, machine, slow, console, boot, memory, scripts: 0 })
    }

    /// Runs a row here and on the host.
    pub fn run(&mut self, row: &Row) -> Result<Option<Quotient>> {
        let quantity = |of| Some(Quotient { of, over: None });
        Ok(match &row.work {
            Work::Micro(program) => Some(self.beside_the_host(row, program)?),
            Work::Shell(_) => {
                let sample = self.beside_the_host(row, "done")?;
                self.scripts += 1;
                Some(sample)
            }
            Work::Speedup([one, two]) => {
                let one = self.here(row, one)?;
                let two = self.here(row, two)?;
                Some(Quotient { of: 2.0 * one.wall, over: Some(two.wall) })
            }
            Work::Machine(Quantity::Boot) => quantity(self.boot),
            Work::Machine(Quantity::MemoryAfterBoot) => quantity(self.memory),
            Work::Machine(Quantity::MemoryAfterPrograms) => {
                ensure!(self.scripts >= SCRIPTS, "only {} scripts ran in this machine", self.scripts);
                quantity(beyond_ram(&self.console, &self.machine)?)
            }
            Work::Machine(Quantity::MeanOfPrograms) => None,
        })
    }

    fn beside_the_host(&mut self, row: &Row, program: &str) -> Result<Quotient> {
        let arguments = self.arguments(row, program);
        let command = match (&row.work, &self.setup.suite) {
            (Work::Shell(_), Some(suite)) => suite.native(&arguments),
            _ => {
                let mut command = std::process::Command::new(self.setup.bench.folder.join("micro"));
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
        // A program that crashes has no mark of its own.
        let command = format!("{} || echo '@failed' $?", self.arguments(row, program).join(" "));
        self.console.enter(&command)?;
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
            let percent = if less { self.setup.percent * row.slow_percent / 100 } else { self.setup.percent };
            arguments.extend([program.to_owned(), percent.max(1).to_string()]);
        }
        arguments
    }
}

fn beyond_ram(console: &Console, machine: &Machine) -> Result<f64> {
    Ok(process::memory(console.pid(), machine.memory * 1024)?.resident as f64 / 1024.0)
}
