//! Port and memory buses: which part answers at which address.
//!
//! A bus is built by one owner (`&mut self`) and then shared; an access takes no lock of the bus.

use std::sync::Arc;

use thiserror::Error;

use crate::{Action, Registers};

/// A range that cannot be mapped.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BusError {
    /// Two parts would answer.
    #[error("{bus} range {start:#x}+{len:#x} of {name} overlaps that of {other}: move one of them")]
    Overlap {
        /// "port" or "memory".
        bus: &'static str,
        /// First address.
        start: u64,
        /// Bytes.
        len: u64,
        /// Who wants the range.
        name: &'static str,
        /// Who has it.
        other: &'static str,
    },
    /// Empty, or beyond the end of the address space.
    #[error("{bus} range {start:#x}+{len:#x} of {name} is empty or leaves the address space: correct it")]
    Invalid {
        /// "port" or "memory".
        bus: &'static str,
        /// First address.
        start: u64,
        /// Bytes.
        len: u64,
        /// Who wants the range.
        name: &'static str,
    },
}

/// Where a part's registers are by convention: `len` ports from `port` reach the registers from `offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortWindow {
    /// First port.
    pub port: u16,
    /// Number of ports.
    pub len: u16,
    /// Offset in the part's register space of the first port.
    pub offset: u64,
}

struct Window {
    first: u64,
    last: u64,
    offset: u64,
    device: Arc<dyn Registers>,
}

/// Windows sorted by address, none overlapping another.
struct Windows {
    bus: &'static str,
    end: u64,
    windows: Vec<Window>,
}

impl Windows {
    fn map(&mut self, start: u64, len: u64, device: Arc<dyn Registers>, offset: u64) -> Result<(), BusError> {
        let (bus, name) = (self.bus, device.name());
        let last = len.checked_sub(1).and_then(|n| start.checked_add(n)).filter(|&last| last <= self.end);
        let Some(last) = last else {
            return Err(BusError::Invalid { bus, start, len, name });
        };
        let at = self.windows.partition_point(|w| w.last < start);
        if let Some(next) = self.windows.get(at)
            && next.first <= last
        {
            return Err(BusError::Overlap { bus, start, len, name, other: next.device.name() });
        }
        self.windows.insert(at, Window { first: start, last, offset, device });
        Ok(())
    }

    #[inline]
    fn find(&self, addr: u64) -> Option<&Window> {
        let window = self.windows.get(self.windows.partition_point(|w| w.last < addr))?;
        (window.first <= addr).then_some(window)
    }

    fn read(&self, addr: u64, data: &mut [u8]) {
        match self.find(addr) {
            Some(w) if holds(w, addr, data.len()) => w.device.read(w.offset + (addr - w.first), data),
            None if data.len() <= 1 => data.fill(0xff),
            // Not within one window: byte by byte, each to its own part.
            _ => {
                for (i, byte) in data.iter_mut().enumerate() {
                    *byte = 0xff;
                    let addr = addr.wrapping_add(i as u64);
                    if let Some(w) = self.find(addr) {
                        w.device.read(w.offset + (addr - w.first), std::slice::from_mut(byte));
                    }
                }
            }
        }
    }

    fn write(&self, addr: u64, data: &[u8]) -> Action {
        match self.find(addr) {
            Some(w) if holds(w, addr, data.len()) => w.device.write(w.offset + (addr - w.first), data),
            None if data.len() <= 1 => Action::None,
            _ => data.iter().enumerate().fold(Action::None, |action, (i, byte)| {
                let addr = addr.wrapping_add(i as u64);
                let Some(w) = self.find(addr) else { return action };
                action.or(w.device.write(w.offset + (addr - w.first), std::slice::from_ref(byte)))
            }),
        }
    }
}

fn holds(window: &Window, addr: u64, len: usize) -> bool {
    len as u64 <= (window.last - addr).saturating_add(1)
}

/// The 64 KiB port space.
pub struct PortBus(Windows);

impl Default for PortBus {
    fn default() -> Self {
        Self(Windows { bus: "port", end: 0xffff, windows: Vec::new() })
    }
}

impl PortBus {
    /// A bus without parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps `len` ports from `port` to the registers of `device` from `offset`.
    pub fn map(
        &mut self,
        port: u16,
        len: u16,
        device: Arc<dyn Registers>,
        offset: u64,
    ) -> Result<(), BusError> {
        self.0.map(port.into(), len.into(), device, offset)
    }

    /// Maps a part at its conventional ports.
    pub fn map_windows(
        &mut self,
        windows: &[PortWindow],
        device: Arc<dyn Registers>,
    ) -> Result<(), BusError> {
        windows.iter().try_for_each(|w| self.map(w.port, w.len, device.clone(), w.offset))
    }

    /// IN. Ports nobody claims read as all ones.
    pub fn read(&self, port: u16, data: &mut [u8]) {
        self.0.read(port.into(), data);
    }

    /// OUT. Ports nobody claims drop it.
    pub fn write(&self, port: u16, data: &[u8]) -> Action {
        self.0.write(port.into(), data)
    }
}

/// Memory-mapped registers.
pub struct MmioBus(Windows);

impl Default for MmioBus {
    fn default() -> Self {
        Self(Windows { bus: "memory", end: u64::MAX, windows: Vec::new() })
    }
}

impl MmioBus {
    /// A bus without parts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Maps `len` bytes from guest-physical `addr` to the registers of `device` from `offset`.
    pub fn map(
        &mut self,
        addr: u64,
        len: u64,
        device: Arc<dyn Registers>,
        offset: u64,
    ) -> Result<(), BusError> {
        self.0.map(addr, len, device, offset)
    }

    /// Load. Addresses nobody claims read as all ones.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        self.0.read(addr, data);
    }

    /// Store. Addresses nobody claims drop it.
    pub fn write(&self, addr: u64, data: &[u8]) -> Action {
        self.0.write(addr, data)
    }
}

#[cfg(test)]
mod tests;
