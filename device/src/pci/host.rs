//! The host bridge and the ways into the bus: ports 0xcf8-0xcff (PCI 3.0, 3.2.2.3.2), memory-mapped
//! configuration (PCI Express 5.0, 7.2.2), and the windows of base address registers.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{BarRange, ConfigSpace, ConfigState, Identity, PciBus, PciFunction};
use crate::acpi::ResetControl;
use crate::{Action, Device, PortWindow, Registers, RestoreError, SaveRestore, bytes};

/// The bridge itself, in slot 0: an identity, so that guests find a bus.
pub struct HostBridge(Mutex<ConfigSpace>);

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl HostBridge {
    /// A generic PCI Express host bridge (1b36:0008).
    pub fn new() -> Self {
        let identity = Identity {
            vendor: 0x1b36,
            device: 0x0008,
            revision: 0,
            class: 0x06_0000,
            subsystem: (0x1af4, 0x1100),
        };
        Self(Mutex::new(ConfigSpace::new(&identity)))
    }
}

impl Device for HostBridge {
    fn name(&self) -> &'static str {
        "pci-host"
    }

    fn reset(&self) {
        self.0.lock().reset();
    }
}

impl PciFunction for HostBridge {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        self.0.lock().read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) -> bool {
        self.0.lock().write(offset, data);
        false
    }

    fn place(&self, _bar: u8, _address: u64) {}

    fn wants(&self) -> Vec<(u8, u64)> {
        Vec::new()
    }

    fn ranges(&self) -> Vec<BarRange> {
        Vec::new()
    }

    fn read_bar(&self, _bar: u8, _offset: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write_bar(&self, _bar: u8, _offset: u64, _data: &[u8]) -> Action {
        Action::None
    }
}

impl SaveRestore for HostBridge {
    type State = ConfigState;
    const KIND: &'static str = "pci-host";
    const VERSION: u32 = 1;

    fn save(&self) -> ConfigState {
        self.0.lock().save()
    }

    fn restore(&self, state: &ConfigState) -> Result<(), RestoreError> {
        self.0.lock().restore(state, Self::KIND)
    }
}

/// Address and data port. The reset control register lies in the midst of the address, for accesses of a byte.
pub struct ConfigPorts {
    bus: Arc<PciBus>,
    reset_control: Arc<ResetControl>,
    address: Mutex<u32>,
}

const ENABLE: u32 = 1 << 31;
/// Enable, bus, device, function, register.
const ADDRESS: u32 = 0x80ff_fffc;

impl ConfigPorts {
    /// 0xcf8 to 0xcff.
    pub const PORTS: &'static [PortWindow] = &[PortWindow { port: 0xcf8, len: 8, offset: 0 }];

    /// Ports of `bus`; byte 1 is `reset_control`'s.
    pub fn new(bus: Arc<PciBus>, reset_control: Arc<ResetControl>) -> Self {
        Self { bus, reset_control, address: Mutex::new(0) }
    }

    /// Slot and offset that the data port's byte `lane` reaches now.
    fn target(&self, lane: u64) -> Option<(u8, u16)> {
        let address = *self.address.lock();
        target(u64::from(address >> 8 & 0xffff), (address & 0xfc) as u16 + lane as u16)
            .filter(|_| address & ENABLE != 0)
    }
}

/// The slot on bus 0, function 0, of a bus-device-function number.
fn target(function: u64, offset: u16) -> Option<(u8, u16)> {
    (function & 7 == 0 && function < 256).then_some(((function >> 3) as u8, offset))
}

impl Device for ConfigPorts {
    fn name(&self) -> &'static str {
        "pci-config"
    }

    fn reset(&self) {
        *self.address.lock() = 0;
        self.reset_control.reset();
    }
}

impl Registers for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match (offset, data.len()) {
            (0, 4) => bytes::put(data, (*self.address.lock()).into()),
            (1, 1) => self.reset_control.read(0, data),
            (4..8, len) if offset as usize + len <= 8 => match self.target(offset - 4) {
                Some((slot, offset)) => self.bus.read_config(slot, offset, data),
                None => data.fill(0xff),
            },
            _ => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        match (offset, data.len()) {
            (0, 4) => *self.address.lock() = bytes::get(data) as u32 & ADDRESS,
            (1, 1) => return self.reset_control.write(0, data),
            (4..8, len) if offset as usize + len <= 8 => {
                if let Some((slot, offset)) = self.target(offset - 4) {
                    self.bus.write_config(slot, offset, data);
                }
            }
            _ => {}
        }
        Action::None
    }
}

impl SaveRestore for ConfigPorts {
    type State = u32;
    const KIND: &'static str = "pci-config";
    const VERSION: u32 = 1;

    fn save(&self) -> u32 {
        *self.address.lock()
    }

    fn restore(&self, state: &u32) -> Result<(), RestoreError> {
        *self.address.lock() = state & ADDRESS;
        Ok(())
    }
}

/// Memory-mapped configuration space of one bus.
pub struct Ecam(Arc<PciBus>);

impl Ecam {
    /// Bytes: 4 KiB for each of 256 functions.
    pub const LEN: u64 = 1 << 20;

    /// The configuration space of `bus`.
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self(bus)
    }
}

impl Device for Ecam {
    fn name(&self) -> &'static str {
        "pci-ecam"
    }

    fn reset(&self) {}
}

impl Registers for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match target(offset >> 12, (offset & 0xfff) as u16) {
            Some((slot, offset)) => self.0.read_config(slot, offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        if let Some((slot, offset)) = target(offset >> 12, (offset & 0xfff) as u16) {
            self.0.write_config(slot, offset, data);
        }
        Action::None
    }
}

/// The windows of base address registers: offsets are guest-physical addresses.
pub struct PciMemory(Arc<PciBus>);

impl PciMemory {
    /// The memory of the functions on `bus`.
    pub fn new(bus: Arc<PciBus>) -> Self {
        Self(bus)
    }
}

impl Device for PciMemory {
    fn name(&self) -> &'static str {
        "pci-memory"
    }

    fn reset(&self) {
        self.0.reset();
    }
}

impl Registers for PciMemory {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        self.0.write(offset, data)
    }
}

#[cfg(test)]
mod tests;
