//! The engine contract: how a machine runs vCPUs without knowing the technique.

use std::path::PathBuf;
use std::sync::Arc;

use memory::GuestRam;
use thiserror::Error;

use crate::x86::{CpuModel, Feature};
use crate::{ApicState, Apics, Clock, CpuIo, CpuState, Doorbell, Irqchip, Observe, Signals};

/// What an engine can do on this host; data, so that a machine is refused early and with the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// Why the engine cannot be used at all, if so.
    pub unusable: Option<String>,
    /// Most vCPUs of one machine.
    pub max_vcpus: u32,
    /// Runs unmodified ring-0 and ring-3 code of every mode.
    pub full_virtualization: bool,
    /// Can stop after an exact number of instructions ([`Vcpu::run_limited`]).
    pub exact_limit: bool,
}

/// A technique of running guest code.
pub trait Engine: Send + Sync {
    /// The name on the command line.
    fn name(&self) -> &'static str;
    /// What it can do here.
    fn capabilities(&self) -> Capabilities;
    /// What speaks against it here although it works, for a choice among engines; found out now, in a few milliseconds.
    fn drawback(&self) -> Option<String> {
        None
    }
    /// Features of a model that it does not promise to guests here: it may refuse the state of one that has them.
    fn lacking(&self, _: &CpuModel) -> Feature {
        Feature::empty()
    }
    /// It runs guests faster if their RAM is a file that other processes can map.
    fn shares_ram(&self) -> bool {
        false
    }
    /// Makes a machine's execution context.
    fn create_vm(&self, config: VmConfig) -> Result<Box<dyn Vm>, EngineError>;
    /// The same engine, telling of its translations from now on.
    ///
    /// # Errors
    /// It does not translate, or a file cannot be written.
    fn observed(&self, _: &Observe) -> Result<Arc<dyn Engine>, EngineError> {
        Err(EngineError::NoTranslations { engine: self.name() })
    }
}

/// What all vCPUs of a machine share.
#[derive(Clone)]
pub struct VmConfig {
    /// Guest RAM.
    pub ram: Arc<GuestRam>,
    /// Guest time.
    pub clock: Arc<Clock>,
    /// What CPUID says, and with it which instructions exist.
    pub model: Arc<CpuModel>,
    /// Number of vCPUs (CPUID topology).
    pub vcpus: u32,
    /// Whose the interrupt controllers are to be: others than [`Irqchip::Userspace`] are for those who look at [`Vm::apics`].
    pub irqchip: Irqchip,
}

/// A machine as an engine sees it.
pub trait Vm: Send + Sync {
    /// Makes vCPU `index` (also its APIC id) in the power-on state.
    fn create_vcpu(&self, index: u32, signals: Arc<Signals>) -> Result<Box<dyn Vcpu>, EngineError>;
    /// The calling thread will run vCPUs, and may not be allowed later what it is now.
    fn enter_thread(&self) {}
    /// The way to its local APICs, if they are the engine's. They are given their state by [`Vcpu::set_apic`] before a
    /// vCPU runs; [`Signals::INTR`] then is the 8259's output, whose vector is asked for by
    /// [`CpuIo::take_interrupt`] when the CPU accepts it, unless the 8259s are the engine's, too.
    fn apics(&self) -> Option<Arc<dyn Apics>> {
        None
    }
    /// It may take doorbells.
    fn has_doorbells(&self) -> bool {
        false
    }
    /// From now on, or no longer, the guest's writes there ring, and [`CpuIo::mmio_write`] hears nothing of them. False if the
    /// engine cannot.
    fn doorbell(&self, bell: &Doorbell<'_>, on: bool) -> bool {
        let _ = (bell, on);
        false
    }
}

/// A virtual CPU. It belongs to one thread at a time.
pub trait Vcpu: Send {
    /// Runs until something needs the machine.
    fn run(&mut self, io: &dyn CpuIo) -> Result<VcpuExit, CpuFault>;
    /// Runs exactly `instructions` instructions unless another exit comes first, then reports
    /// [`VcpuExit::Limit`]. Engines without `exact_limit` run to the next exit.
    fn run_limited(&mut self, io: &dyn CpuIo, instructions: u64) -> Result<VcpuExit, CpuFault>;
    /// The architectural state, at an instruction boundary.
    fn state(&self) -> CpuState;
    /// Replaces the architectural state.
    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError>;
    /// The state of its local APIC, where that is the engine's, while nobody runs.
    ///
    /// # Errors
    /// It has none, or it is not to be had.
    fn apic(&mut self) -> Result<ApicState, EngineError> {
        Err(EngineError::BadState("the engine has no local APIC".to_owned()))
    }
    /// Replaces it. After [`set_state`](Self::set_state).
    ///
    /// # Errors
    /// As [`apic`](Self::apic).
    fn set_apic(&mut self, _: &ApicState) -> Result<(), EngineError> {
        Err(EngineError::BadState("the engine has no local APIC".to_owned()))
    }
    /// It stands still for a while, on the thread that runs it: until it runs again RAM is mapped in no process but this one.
    fn rest(&mut self) {}
    /// It is halted, where the engine itself has it sleep in [`run`](Self::run).
    fn sleeps(&self) -> bool {
        false
    }
    /// Instructions retired so far, where the engine counts them.
    fn instructions(&self) -> u64 {
        0
    }
    /// What else the engine counts, by its own names, for those who watch it.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
    /// The machine has come to its end: the engine concludes what it was asked to tell.
    fn finish(&mut self) {}
}

/// Why [`Vcpu::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VcpuExit {
    /// HLT: run again when an interrupt is pending.
    Halt,
    /// Triple fault.
    Shutdown,
    /// [`Signals::EXIT`] was set.
    Kicked,
    /// The instruction limit is used up.
    Limit,
}

/// An engine cannot go on: the instruction at this place is not implemented, or the engine is at fault.
#[derive(Debug, Clone, Error)]
#[error("{reason} at rip {rip:#x} ({mode} mode, bytes {})", hex(.bytes))]
pub struct CpuFault {
    /// What happened.
    pub reason: String,
    /// Guest instruction pointer.
    pub rip: u64,
    /// Bytes at that place, as far as readable.
    pub bytes: Vec<u8>,
    /// "real", "protected", "long" and so on.
    pub mode: &'static str,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}

/// An engine refuses what it was asked.
#[derive(Debug, Error)]
pub enum EngineError {
    /// The host lacks something.
    #[error("engine {engine} cannot run here: {reason}")]
    Unusable {
        /// Engine name.
        engine: &'static str,
        /// What is missing, with the remedy.
        reason: String,
    },
    /// A saved state that no CPU can be in.
    #[error("cpu state is not valid: {0}")]
    BadState(String),
    /// Asked to tell of translations.
    #[error("engine {engine} does not translate: --perf-map and --dbt-trace are for --engine dbt")]
    NoTranslations {
        /// Engine name.
        engine: &'static str,
    },
    /// A file for what the engine tells.
    #[error("{} cannot be written ({source}): name a file in a folder that you may write", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
}
