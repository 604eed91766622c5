//! Configuration space of a type 0 function (PCI 3.0, 6.1 and 6.2; capabilities 6.7).
//!
//! A byte is what it reads as and which of its bits the guest may write. All writable bits are zero at
//! power-on. NOT modelled: bits that are cleared by writing ones (no error is ever signalled).

use serde::{Deserialize, Serialize};

use super::BarRange;
use crate::RestoreError;

/// Bits of the command register.
pub mod command {
    /// The function answers to its memory.
    pub const MEMORY: u16 = 1 << 1;
    /// The function may send messages and reach memory.
    pub const BUS_MASTER: u16 = 1 << 2;
    /// The function leaves its interrupt line alone.
    pub const INTX_DISABLE: u16 = 1 << 10;
}

/// Size of the space in bytes.
const LEN: usize = 256;
const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const BAR0: usize = 0x10;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
/// First byte behind the header.
const HEADER_END: usize = 0x40;
const STATUS_INTERRUPT: u8 = 1 << 3;
const STATUS_CAPABILITIES: u8 = 1 << 4;
const BARS: usize = 6;
/// Type bits of a 64-bit memory BAR.
const BAR_64: u8 = 0b100;

/// Who a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Class, subclass and programming interface, the class in bits 16-23.
    pub class: u32,
    /// Subsystem vendor and subsystem.
    pub subsystem: (u16, u16),
}

/// A memory BAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bar {
    /// Bytes: a power of two, at least 4096 so that no page belongs to two functions.
    pub len: u64,
    /// It takes two registers and may be anywhere.
    pub wide: bool,
}

/// Configuration space. The function owns it and decides what writes mean beyond their bits.
#[derive(Debug, Clone)]
pub struct ConfigSpace {
    bytes: [u8; LEN],
    writable: [u8; LEN],
    bars: [Option<Bar>; BARS],
    /// Where the pointer to the next capability goes, and where that can be.
    link: usize,
    free: usize,
}

/// Saved state of [`ConfigSpace`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConfigState(Vec<u8>);

impl ConfigSpace {
    /// The space of a function without BARs, capabilities and interrupt.
    pub fn new(identity: &Identity) -> Self {
        let mut space = Self {
            bytes: [0; LEN],
            writable: [0; LEN],
            bars: [None; BARS],
            link: CAPABILITIES,
            free: HEADER_END,
        };
        space.put(0x00, &identity.vendor.to_le_bytes());
        space.put(0x02, &identity.device.to_le_bytes());
        let class = identity.class.to_le_bytes();
        space.put(0x08, &[identity.revision, class[0], class[1], class[2]]);
        space.put(0x2c, &identity.subsystem.0.to_le_bytes());
        space.put(0x2e, &identity.subsystem.1.to_le_bytes());
        space.allow(COMMAND, &(command::MEMORY | command::BUS_MASTER | command::INTX_DISABLE).to_le_bytes());
        space
    }

    /// Gives the function a BAR. One that cannot be (its index, its length) is left out.
    pub fn add_bar(&mut self, index: u8, bar: Bar) {
        let last = usize::from(index) + usize::from(bar.wide);
        let fits = bar.len.is_power_of_two() && bar.len >= 4096 && (bar.wide || bar.len <= 1 << 31);
        if last >= BARS || !fits {
            return;
        }
        let at = BAR0 + 4 * usize::from(index);
        let mask = !(bar.len - 1);
        self.bars[usize::from(index)] = Some(bar);
        self.allow(at, &(mask as u32).to_le_bytes());
        if bar.wide {
            self.put(at, &[BAR_64]);
            self.allow(at + 4, &((mask >> 32) as u32).to_le_bytes());
        }
    }

    /// Adds a capability: its body behind identifier and link, and the body's writable bits. Where it is; 0 if
    /// there is no room.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> u8 {
        let at = self.free;
        let Ok(offset @ 1..) = u8::try_from(at) else { return 0 };
        if at + 2 + body.len() > LEN {
            return 0;
        }
        self.bytes[STATUS] |= STATUS_CAPABILITIES;
        self.bytes[self.link] = offset;
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.allow(at + 2, &writable[..writable.len().min(body.len())]);
        self.link = at + 1;
        self.free = (at + 2 + body.len()).next_multiple_of(4);
        offset
    }

    /// The function has interrupt pin INTA; `line` is what firmware would write for those who ask it.
    pub fn set_interrupt(&mut self, line: u8) {
        self.bytes[INTERRUPT_PIN] = 1;
        self.bytes[INTERRUPT_LINE] = line;
        self.writable[INTERRUPT_LINE] = 0xff;
    }

    /// The interrupt pin's state, as the status register shows it.
    pub fn set_interrupt_status(&mut self, asserted: bool) {
        let bit = if asserted { STATUS_INTERRUPT } else { 0 };
        self.bytes[STATUS] = self.bytes[STATUS] & !STATUS_INTERRUPT | bit;
    }

    /// Reads; what is beyond the end is zero.
    pub fn read(&self, offset: u16, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = self.bytes.get(usize::from(offset) + i).copied().unwrap_or(0);
        }
    }

    /// Writes the bits that are writable; true if the decoded memory may have changed.
    pub fn write(&mut self, offset: u16, data: &[u8]) -> bool {
        let start = usize::from(offset);
        for (i, &value) in data.iter().enumerate() {
            if let (Some(byte), Some(&mask)) = (self.bytes.get_mut(start + i), self.writable.get(start + i)) {
                *byte = *byte & !mask | value & mask;
            }
        }
        let touches = |from: usize, to: usize| start < to && start + data.len() > from;
        touches(COMMAND, COMMAND + 2) || touches(BAR0, BAR0 + 4 * BARS)
    }

    /// The command register.
    pub fn command(&self) -> u16 {
        u16::from_le_bytes([self.bytes[COMMAND], self.bytes[COMMAND + 1]])
    }

    /// A 16-bit field.
    pub fn word(&self, offset: u8) -> u16 {
        let mut word = [0; 2];
        self.read(offset.into(), &mut word);
        u16::from_le_bytes(word)
    }

    /// A 32-bit field.
    pub fn double_word(&self, offset: u8) -> u32 {
        let mut word = [0; 4];
        self.read(offset.into(), &mut word);
        u32::from_le_bytes(word)
    }

    /// Every BAR and its length.
    pub fn bars(&self) -> impl Iterator<Item = (u8, Bar)> + '_ {
        (0u8..).zip(self.bars).filter_map(|(index, bar)| Some((index, bar?)))
    }

    /// Writes a BAR's address.
    pub fn place(&mut self, index: u8, address: u64) {
        let Some(Some(bar)) = self.bars.get(usize::from(index)) else { return };
        let len = if bar.wide { 8 } else { 4 };
        self.write((BAR0 + 4 * usize::from(index)) as u16, &address.to_le_bytes()[..len]);
    }

    /// The memory that the function answers to now.
    pub fn ranges(&self) -> Vec<BarRange> {
        if self.command() & command::MEMORY == 0 {
            return Vec::new();
        }
        let range = |(index, bar): (u8, Bar)| {
            let at = (BAR0 + 4 * usize::from(index)) as u8;
            let low = u64::from(self.double_word(at) & !0xf);
            let high = if bar.wide { u64::from(self.double_word(at + 4)) << 32 } else { 0 };
            BarRange { bar: index, start: low | high, len: bar.len }
        };
        self.bars().map(range).collect()
    }

    /// Back to power-on.
    pub fn reset(&mut self) {
        let line = self.bytes[INTERRUPT_LINE];
        for (byte, mask) in self.bytes.iter_mut().zip(self.writable) {
            *byte &= !mask;
        }
        self.bytes[INTERRUPT_LINE] = line;
        self.set_interrupt_status(false);
    }

    /// The state now.
    pub fn save(&self) -> ConfigState {
        ConfigState(self.bytes.to_vec())
    }

    /// Replaces the state; refuses that of another function.
    pub fn restore(&mut self, state: &ConfigState, kind: &'static str) -> Result<(), RestoreError> {
        let refuse = |reason| Err(RestoreError { kind, reason });
        let Ok(bytes) = <[u8; LEN]>::try_from(state.0.as_slice()) else {
            return refuse("configuration space has another length");
        };
        let differs = (0..LEN).any(|i| {
            let status = if i == STATUS { STATUS_INTERRUPT } else { 0 };
            (bytes[i] ^ self.bytes[i]) & !self.writable[i] & !status != 0
        });
        if differs {
            return refuse("configuration space is that of another function");
        }
        self.bytes = bytes;
        Ok(())
    }

    fn put(&mut self, at: usize, data: &[u8]) {
        for (byte, &value) in self.bytes.iter_mut().skip(at).zip(data) {
            *byte = value;
        }
    }

    fn allow(&mut self, at: usize, mask: &[u8]) {
        for (byte, &value) in self.writable.iter_mut().skip(at).zip(mask) {
            *byte = value;
        }
    }
}

#[cfg(test)]
mod tests;
