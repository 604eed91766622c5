//! Local APICs that are the engine's: their state, and the way of messages to them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Chips;

/// Whose the interrupt controllers of a machine are while it runs on an engine that could have some itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Irqchip {
    /// The engine decides.
    #[default]
    Auto,
    /// All are the machine's.
    Userspace,
    /// Local APICs are the engine's; I/O APIC, 8259 and timers of the board are the machine's.
    Split,
    /// I/O APIC and 8259 are the engine's, too; timers of the board are the machine's.
    Kernel,
}

impl Irqchip {
    /// All of them, for help texts.
    pub const NAMES: [&'static str; 4] = ["auto", "userspace", "split", "kernel"];
}

impl fmt::Display for Irqchip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Auto => "auto",
            Self::Userspace => "userspace",
            Self::Split => "split",
            Self::Kernel => "kernel",
        })
    }
}

impl FromStr for Irqchip {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        [Self::Auto, Self::Userspace, Self::Split, Self::Kernel]
            .into_iter()
            .find(|kind| kind.to_string() == name)
            .ok_or_else(|| format!("no irqchip {name:?}: take one of {}", Self::NAMES.join(", ")))
    }
}

/// The local APICs of a machine, in an engine that has them ([`Vm::apics`](crate::Vm::apics)). Called from any thread.
pub trait Apics: Send + Sync {
    /// Delivers a message as a device writes it (Intel SDM volume 3, 12.11); true if a local APIC accepted it.
    fn send(&self, address: u64, data: u32) -> bool;
    /// Input `pin` of the I/O APIC sends this message from now on, whether it is masked or not: the engine tells of the
    /// end of those that are level-triggered ([`CpuIo::end_of_interrupt`](crate::CpuIo::end_of_interrupt)).
    fn route(&self, pin: u32, address: u64, data: u32);
    /// The board's interrupt controllers, if the engine has them, too. It needs no routes then.
    fn chips(&self) -> Option<&dyn Chips> {
        None
    }
}

/// State of a local APIC. Times are ticks of the machine clock.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs)] // registers, under the manual's names
pub struct ApicState {
    pub id: u32,
    pub apic_base: u64,
    pub tpr: u8,
    pub ldr: u32,
    pub dfr: u32,
    pub svr: u32,
    pub errors: u32,
    pub esr: u32,
    pub icr: u64,
    /// Timer, thermal, performance, LINT0, LINT1, error.
    pub lvt: [u32; 6],
    pub irr: [u32; 8],
    pub isr: [u32; 8],
    pub tmr: [u32; 8],
    pub initial_count: u32,
    pub divide: u32,
    pub timer_start: u64,
    pub timer_expiry: Option<u64>,
    pub tsc_deadline: u64,
    pub tsc_expiry: Option<u64>,
    pub tsc_adjust: u64,
    pub lint0: bool,
    pub external: bool,
    pub nmi: bool,
    pub init: bool,
    pub sipi: Option<u8>,
    pub waits_for_sipi: bool,
}
