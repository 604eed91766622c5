//! Message-signalled interrupts, extended (PCI 3.0, 6.8.2): the table, the pending bits, and the capability
//! that says where they are.

use serde::{Deserialize, Serialize};

use super::{ConfigSpace, MsiSink, command};
use crate::{RestoreError, bytes};

const ID: u8 = 0x11;
/// Message control: enable, and mask of the whole function.
const ENABLE: u16 = 1 << 15;
const MASK_ALL: u16 = 1 << 14;
/// Vector control: mask of an entry.
const MASK: u32 = 1;
/// Bytes of a table entry.
const ENTRY: u64 = 16;

/// Address, data and vector control.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    address: u64,
    data: u32,
    control: u32,
}

const MASKED: Entry = Entry { address: 0, data: 0, control: MASK };

/// A function's table, in the memory behind one of its BARs: entries from its start, pending bits from
/// [`PENDING`](Self::PENDING).
#[derive(Debug, Clone)]
pub struct Msix {
    capability: u8,
    table: Vec<Entry>,
    pending: u128,
}

/// Saved state of [`Msix`]; the message control register is the configuration space's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    table: Vec<Entry>,
    pending: [u64; 2],
}

impl Msix {
    /// Most vectors.
    pub const MAX: u16 = 128;
    /// Offset of the pending bits in the BAR.
    pub const PENDING: u64 = 0x800;
    /// Bytes of the BAR.
    pub const LEN: u64 = 0x1000;

    /// Adds the capability to `config`: `vectors` of them (at most [`MAX`](Self::MAX)) behind BAR `bar`.
    pub fn new(config: &mut ConfigSpace, vectors: u16, bar: u8) -> Self {
        let vectors = vectors.clamp(1, Self::MAX);
        let mut body = (vectors - 1).to_le_bytes().to_vec();
        body.extend(u32::from(bar).to_le_bytes());
        body.extend((Self::PENDING as u32 | u32::from(bar)).to_le_bytes());
        let writable = (ENABLE | MASK_ALL).to_le_bytes();
        let capability = config.add_capability(ID, &body, &writable);
        Self { capability, table: vec![MASKED; vectors.into()], pending: 0 }
    }

    /// Number of vectors.
    pub fn vectors(&self) -> u16 {
        self.table.len() as u16
    }

    /// The guest wants messages in place of the interrupt line.
    pub fn is_enabled(&self, config: &ConfigSpace) -> bool {
        config.word(self.capability + 2) & ENABLE != 0
    }

    /// Sends a vector's message now, or when its masks fall.
    pub fn trigger(&mut self, vector: u16, config: &ConfigSpace, sink: &dyn MsiSink) {
        let Some(entry) = self.table.get(usize::from(vector)) else { return };
        if entry.control & MASK == 0 && self.is_open(config) {
            sink.send(entry.address, entry.data);
        } else {
            self.pending |= 1 << vector;
        }
    }

    /// Sends what is pending and no longer masked: to be called after a write to table or configuration space.
    pub fn settle(&mut self, config: &ConfigSpace, sink: &dyn MsiSink) {
        if self.pending == 0 || !self.is_open(config) {
            return;
        }
        for (vector, entry) in self.table.iter().enumerate() {
            if self.pending >> vector & 1 != 0 && entry.control & MASK == 0 {
                self.pending &= !(1 << vector);
                sink.send(entry.address, entry.data);
            }
        }
    }

    fn is_open(&self, config: &ConfigSpace) -> bool {
        let control = config.word(self.capability + 2);
        control & (ENABLE | MASK_ALL) == ENABLE && config.command() & command::BUS_MASTER != 0
    }

    /// Load from the BAR.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let word = |at: u64| {
            if at >= Self::PENDING {
                let bits = self.pending.checked_shr(((at - Self::PENDING) * 8) as u32);
                return bits.filter(|_| at < Self::PENDING + 16).unwrap_or(0) as u32;
            }
            let Some(entry) = self.table.get((at / ENTRY) as usize) else { return 0 };
            match at % ENTRY {
                0 => entry.address as u32,
                4 => (entry.address >> 32) as u32,
                8 => entry.data,
                _ => entry.control,
            }
        };
        let at = offset.min(Self::LEN) & !3;
        let value = u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        bytes::put(data, value >> (8 * (offset & 3)));
    }

    /// Store to the BAR: aligned words of 4 or 8 bytes, as the specification demands; others are dropped.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        for (i, word) in data.chunks_exact(4).enumerate() {
            let at = offset + 4 * i as u64;
            let Some(entry) = self.table.get_mut((at / ENTRY) as usize) else { return };
            let value = bytes::get(word) as u32;
            match at % ENTRY {
                0 => entry.address = entry.address & !0xffff_ffff | u64::from(value & !3),
                4 => entry.address = entry.address & 0xffff_ffff | u64::from(value) << 32,
                8 => entry.data = value,
                _ => entry.control = value & MASK,
            }
        }
    }

    /// Back to power-on.
    pub fn reset(&mut self) {
        self.table.fill(MASKED);
        self.pending = 0;
    }

    /// The state now.
    pub fn save(&self) -> MsixState {
        MsixState { table: self.table.clone(), pending: [self.pending as u64, (self.pending >> 64) as u64] }
    }

    /// Replaces the state; refuses that of another function.
    pub fn restore(&mut self, state: &MsixState, kind: &'static str) -> Result<(), RestoreError> {
        let pending = u128::from(state.pending[0]) | u128::from(state.pending[1]) << 64;
        let beyond = pending.checked_shr(self.table.len() as u32).unwrap_or(0) != 0;
        if state.table.len() != self.table.len() || beyond {
            return Err(RestoreError { kind, reason: "the MSI-X table has another length" });
        }
        if state.table.iter().any(|e| e.address & 3 != 0 || e.control & !MASK != 0) {
            return Err(RestoreError { kind, reason: "reserved bits of the MSI-X table are set" });
        }
        self.table.clone_from(&state.table);
        self.pending = pending;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
