//! The device contract, the buses, and the parts of a PC.
//!
//! Nothing here knows a machine, an engine or another crate's devices: parts get interrupt lines, a clock and
//! backends at construction, and effects on the machine come back as an [`Action`].

pub mod acpi;
mod action;
mod bus;
pub mod bytes;
mod contract;
pub mod drive;
pub mod input;
pub mod interrupt;
mod irq;
pub mod legacy;
pub mod pci;
pub mod serial;
pub mod time;
mod timers;

pub use action::Action;
pub use bus::{BusError, MmioBus, PortBus, PortWindow};
pub use contract::{CharBackend, Device, NullBackend, Pollable, Registers, RestoreError, SaveRestore};
// Device threads wait as vCPUs do.
pub use cpu::Spin;
pub use irq::{IrqLine, IrqSink, SharedLine};
pub use timers::{Notifier, Timers};
