//! PCI: one root bus with its host bridge, reached by ports and by memory (PCI Local Bus Specification 3.0;
//! PCI Express Base Specification 5.0, 7.2.2 for the memory-mapped access).
//!
//! NOT modelled: bridges and further buses, functions other than 0, I/O BARs, expansion ROMs, power
//! management, parity and system errors, extended configuration space (it reads as zero).

mod bus;
mod config;
mod function;
mod host;
mod msi;
mod msix;

pub use bus::{PciBus, PciError, PciWindows};
pub use config::{Bar, ConfigSpace, ConfigState, Identity, command};
pub use function::{BarRange, MsiSink, PciFunction};
pub use host::{ConfigPorts, Ecam, HostBridge, PciMemory};
pub use msi::Msi;
pub use msix::{Msix, MsixState};
