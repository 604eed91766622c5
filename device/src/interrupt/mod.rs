//! Interrupt controllers and what connects them.

mod apic_bus;
mod fabric;
pub mod i8259;
pub mod ioapic;
pub mod lapic;
mod message;

pub use apic_bus::ApicBus;
pub use fabric::InterruptFabric;
pub use i8259::I8259;
pub use ioapic::Ioapic;
pub use lapic::{APIC_TIMER_HZ, LocalApic};
pub use message::{Delivery, Destination, Message};
