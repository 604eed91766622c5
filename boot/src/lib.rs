//! Getting a guest to its first instruction: kernels by every protocol a PC has, and the tables that
//! firmware would have left behind.
//!
//! [`load`] puts a kernel and its modules into guest RAM and returns the CPU state to start with. The
//! loaders take bytes, never paths, and treat every one of them as hostile: a bad file is a [`BootError`],
//! never a panic, and nothing is allocated or copied beyond what the file and the guest's RAM bound.
//! [`acpi::install`] writes the ACPI tables.

pub mod acpi;
mod bytes;
mod detect;
pub mod disk;
mod elf;
mod entry;
mod error;
mod initrd;
mod layout;
mod linux;
mod multiboot;
mod pvh;
mod spec;
mod unpack;

pub use detect::{Kind, detect};
pub use error::BootError;
pub use layout::{ACPI_LEN, ACPI_START, EBDA, MemoryMap, RamKind, Region};
pub use spec::{BootSpec, Entry, Image, Module, Protocol};

use cpu::CpuState;
use memory::GuestRam;

/// Loads what `spec` says into `ram` and returns how the boot processor starts.
///
/// # Errors
/// Every file that is not what it should be, every protocol that does not fit the file, and too little
/// memory; the message is one line with the file, the fact and the remedy.
pub fn load(ram: &GuestRam, spec: &BootSpec) -> Result<Entry, BootError> {
    let protocol = detect::choose(spec)?;
    let state: CpuState = match protocol {
        Protocol::Linux => linux::load(ram, spec)?,
        Protocol::Pvh => pvh::load(ram, spec)?,
        Protocol::Multiboot => multiboot::load(ram, spec)?,
        Protocol::Elf | Protocol::Auto => elf::load(ram, spec)?,
    };
    Ok(Entry { state, protocol })
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
