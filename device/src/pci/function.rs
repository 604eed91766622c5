//! What a PCI function is to the bus, and the bus to a function.

use crate::{Action, Device};

/// A range of memory that a base address register claims now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BarRange {
    /// Index of the register, 0 to 5.
    pub bar: u8,
    /// First address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// Facet: a function of a PCI device. Offsets, sizes and values come from the guest: any must be harmless.
pub trait PciFunction: Device {
    /// Reads 1 to 8 bytes of configuration space. All of `data` is overwritten.
    fn read_config(&self, offset: u16, data: &mut [u8]);
    /// Writes configuration space; true if [`ranges`](Self::ranges) may have changed.
    fn write_config(&self, offset: u16, data: &[u8]) -> bool;
    /// Gives a base address register its address, as firmware does.
    fn place(&self, bar: u8, address: u64);
    /// Base address registers and how much memory each wants, wherever it is and whether it answers or not.
    fn wants(&self) -> Vec<(u8, u64)>;
    /// The memory that the function answers to now.
    fn ranges(&self) -> Vec<BarRange>;
    /// Load from the memory behind a base address register. All of `data` is overwritten.
    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]);
    /// Store to it.
    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> Action;
}

/// Where message-signalled interrupts go. Called with locks of the device held.
pub trait MsiSink: Send + Sync {
    /// A device writes `data` to `address`, which may be anything.
    fn send(&self, address: u64, data: u32);
}
