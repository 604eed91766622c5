//! A case that needs a board, and what must be seen of it.

use std::time::Duration;

use cpu::CpuState;
use iced_x86::IcedError;
use memory::GuestRam;

use super::layout::{FAULT, SEEN};
use super::program::Program;

/// A guest for a whole machine: data but for the code, which is written by a function.
#[derive(Clone, Copy)]
pub struct BoardCase {
    /// What it shows.
    pub name: &'static str,
    /// CPUs of the machine.
    pub cpus: u32,
    /// Writes the code of each CPU.
    pub build: fn(&mut Program) -> Result<(), IcedError>,
    /// How the run ends.
    pub outcome: Outcome,
    /// What must hold then.
    pub expect: &'static [Expect],
    /// Somebody presses the power button when the word at [`READY`](super::layout::READY) is no longer zero.
    pub power_button: bool,
    /// A guest that runs longer hangs. Far more than a host needs that is busy with other things.
    pub limit: Duration,
}

impl BoardCase {
    /// What most cases have in common: one CPU, no check fails.
    pub(super) const BASE: Self = Self {
        name: "",
        cpus: 1,
        build: |_| Ok(()),
        outcome: Outcome::Exit(0),
        expect: &[],
        power_button: false,
        limit: Duration::from_secs(60),
    };
}

/// How a machine ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// By a write to the debug-exit port. 0: CPU 0 came to the end of its code; others: number of the check that
    /// failed, [`UNEXPECTED`](Self::UNEXPECTED), or what the case says.
    Exit(u8),
    /// ACPI S5.
    PowerOff,
    /// Triple fault of this CPU.
    TripleFault(u32),
}

impl Outcome {
    /// Exit value after an exception that the case did not expect.
    pub const UNEXPECTED: u8 = 0xee;
}

/// Something that must hold at the end.
#[derive(Debug, Clone, Copy)]
pub enum Expect {
    /// A 64-bit word of memory.
    Mem(u64, u64),
    /// Least value of a 64-bit word of memory.
    AtLeast(u64, u64),
    /// A general register of a CPU: CPU, register, value.
    Reg(u32, usize, u64),
    /// Anything else about a CPU's state.
    State(u32, &'static str, fn(&CpuState) -> bool),
}

/// What is left of a machine.
pub struct End<'a> {
    /// How it ended; text if it was none of the ways a case may expect.
    pub outcome: Result<Outcome, String>,
    /// Guest RAM.
    pub ram: &'a GuestRam,
    /// State of every CPU.
    pub states: &'a [CpuState],
}

impl BoardCase {
    /// The guest: a kernel for multiboot 1 that any loader of that protocol starts.
    ///
    /// # Errors
    /// Code that cannot be encoded: the case is wrong.
    pub fn image(&self) -> Result<Vec<u8>, IcedError> {
        let mut program = Program::new(self.cpus)?;
        (self.build)(&mut program)?;
        program.finish()
    }

    /// Compares.
    ///
    /// # Errors
    /// What did not hold, and where the CPUs stand.
    pub fn check(&self, end: &End) -> Result<(), String> {
        let mut wrong: Vec<String> = Vec::new();
        if end.outcome != Ok(self.outcome) {
            wrong.push(describe(end));
        }
        wrong.extend(self.expect.iter().filter_map(|e| e.check(end)));
        if wrong.is_empty() {
            return Ok(());
        }
        let stand = |(i, s): (usize, &CpuState)| {
            format!(
                "\n  cpu {i}: cs {:x} rip {:#x} rflags {:#x} {:?}",
                s.segments[1].selector, s.rip, s.rflags, s.events
            )
        };
        let stand: String = end.states.iter().enumerate().map(stand).collect();
        Err(format!("{}{stand}", wrong.join("; ")))
    }
}

fn describe(end: &End) -> String {
    let word = |at: u64| end.ram.load_u64(at).unwrap_or(0);
    match &end.outcome {
        Ok(Outcome::Exit(Outcome::UNEXPECTED)) => {
            let [vector, code, rip, cr2, cpu] = [0, 8, 16, 24, 32].map(|i| word(FAULT + i));
            format!("exception {vector} ({code:#x}) at {rip:#x}, cr2 {cr2:#x}, cpu {cpu}")
        }
        Ok(Outcome::Exit(0)) => "came to its end".to_owned(),
        Ok(Outcome::Exit(n)) => format!("check {n} saw {:#x}", word(SEEN)),
        Ok(other) => format!("ended with {other:?}"),
        Err(other) => other.clone(),
    }
}

impl Expect {
    /// What is wrong, if something is.
    fn check(&self, end: &End) -> Option<String> {
        let word = |at| {
            let mut bytes = [0xff; 8];
            let _ = end.ram.read(at, &mut bytes); // no RAM: all ones
            u64::from_le_bytes(bytes)
        };
        match *self {
            Self::Mem(at, value) => {
                let seen = word(at);
                (seen != value).then(|| format!("[{at:#x}] is {seen:#x}, not {value:#x}"))
            }
            Self::AtLeast(at, least) => {
                let seen = word(at);
                (seen < least).then(|| format!("[{at:#x}] is {seen:#x}, less than {least:#x}"))
            }
            Self::Reg(cpu, register, value) => {
                let seen = end.states.get(cpu as usize)?.gpr[register];
                (seen != value).then(|| format!("cpu {cpu} register {register} is {seen:#x}, not {value:#x}"))
            }
            Self::State(cpu, what, holds) => {
                let state = end.states.get(cpu as usize)?;
                (!holds(state)).then(|| format!("cpu {cpu}: {what}"))
            }
        }
    }
}
