//! The guest-physical address space: RAM and what is known about each of its pages.
//!
//! [`GuestRam`] owns the host mappings. Guest addresses are allegations: every accessor checks them and
//! answers with an error or `None`, never with a panic. Engines on their hot path ask once per page for a
//! [`PageRef`] and then use its host pointer.

mod content;
mod error;
mod huge;
mod layers;
mod overwrites;
mod page;
mod pagemap;
mod ram;
mod written;

pub use error::MemoryError;
pub use layers::{Layers, Run};
pub use overwrites::{Overwrites, code_epoch};
pub use page::{PageInfo, PageRef};
pub use ram::{GuestRam, RamRange};
pub use written::WriteLog;

/// Size of a guest page in bytes; the unit of every per-page table.
pub const PAGE_SIZE: u64 = 4096;

/// RAM below 4 GiB ends here at the latest; PCI windows, IOAPIC, local APICs and flash live above it.
pub const LOW_RAM_END: u64 = 0xc000_0000;

/// RAM that does not fit below [`LOW_RAM_END`] continues here.
pub const HIGH_RAM_START: u64 = 0x1_0000_0000;
