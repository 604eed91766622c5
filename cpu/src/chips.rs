//! A board's interrupt controllers that are the engine's: their state, and the way of interrupt lines to them.

use serde::{Deserialize, Serialize};

use crate::EngineError;

/// The I/O APIC and the pair of 8259s of a machine, in an engine that has them ([`Apics::chips`](crate::Apics::chips)).
pub trait Chips: Send + Sync {
    /// ISA interrupt 0-15 or global system interrupt 16-23 is asserted from now on, or no longer. Called from any thread.
    fn set_line(&self, line: u32, asserted: bool);
    /// Replaces their state, after that of the local APICs. No vCPU runs.
    ///
    /// # Errors
    /// The engine refuses it.
    fn give(&self, state: &ChipsState) -> Result<(), EngineError>;
    /// The state they are in, before that of the local APICs is asked for. No vCPU runs. Of inputs it says nothing that
    /// whoever drives them does not know better.
    ///
    /// # Errors
    /// It is not to be had.
    fn take(&self) -> Result<ChipsState, EngineError>;
}

/// State of both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChipsState {
    /// The I/O APIC.
    pub ioapic: IoapicState,
    /// The 8259s.
    pub pic: I8259State,
}

/// State of an I/O APIC with 24 inputs (Intel 82093AA).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // registers, under the manual's names
pub struct IoapicState {
    pub id: u8,
    pub select: u8,
    pub table: [u64; 24],
    /// Inputs that are asserted, a bit for each.
    pub inputs: u32,
}

/// State of a pair of 8259As, the slave at the master's input 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct I8259State {
    pub master: I8259Chip,
    pub slave: I8259Chip,
}

/// State of one 8259A; bit `n` of a byte is input `n`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct I8259Chip {
    pub irr: u8,
    pub imr: u8,
    pub isr: u8,
    pub inputs: u8,
    pub elcr: u8,
    pub base: u8,
    /// The input with the lowest priority; the next one has the highest.
    pub lowest: u8,
    pub init: I8259Init,
    pub wants_icw4: bool,
    pub single: bool,
    pub auto_eoi: bool,
    pub rotate_on_auto_eoi: bool,
    pub special_mask: bool,
    pub special_nested: bool,
    pub poll: bool,
    pub read_isr: bool,
}

/// Which initialisation command word comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum I8259Init {
    #[default]
    Done,
    Icw2,
    Icw3,
    Icw4,
}
