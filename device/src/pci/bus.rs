//! The root bus: which function is in which slot, and which answers to which address.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use thiserror::Error;

use super::{BarRange, PciFunction};
use crate::Action;

/// A bus that cannot be built.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PciError {
    /// All slots are taken.
    #[error("there is no room for {name} on the PCI bus: {} devices are the most, use fewer", PciBus::SLOTS - 1)]
    Full {
        /// Who wants a slot.
        name: &'static str,
    },
}

/// Memory for base address registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PciWindows {
    /// Below 4 GiB.
    pub low: Range<u64>,
    /// Above; the guest may move 64-bit registers there.
    pub high: Range<u64>,
}

/// Hears of functions that may have moved.
pub type Watcher = Box<dyn Fn() + Send + Sync>;

struct Mapping {
    slot: u8,
    range: BarRange,
    function: Arc<dyn PciFunction>,
}

/// The root bus. Built by one owner, then shared.
pub struct PciBus {
    windows: PciWindows,
    slots: Vec<Arc<dyn PciFunction>>,
    map: RwLock<Vec<Mapping>>,
    /// Called when functions may have moved.
    watcher: OnceLock<Watcher>,
}

impl PciBus {
    /// Slots of a bus.
    pub const SLOTS: usize = 32;

    /// A bus with its host bridge in slot 0.
    pub fn new(windows: PciWindows, host_bridge: Arc<dyn PciFunction>) -> Self {
        Self { windows, slots: vec![host_bridge], map: RwLock::default(), watcher: OnceLock::new() }
    }

    /// The slot that [`add`](Self::add) takes next.
    pub fn next_slot(&self) -> u8 {
        self.slots.len() as u8
    }

    /// Puts a function into the next slot.
    pub fn add(&mut self, function: Arc<dyn PciFunction>) -> Result<(), PciError> {
        if self.slots.len() == Self::SLOTS {
            return Err(PciError::Full { name: function.name() });
        }
        self.slots.push(function);
        Ok(())
    }

    /// Where base address registers can be.
    pub fn windows(&self) -> &PciWindows {
        &self.windows
    }

    /// All functions back to power-on, then base address registers placed in the low window, as firmware does.
    /// What finds no room stays at zero for the guest to place.
    pub fn reset(&self) {
        let mut next = self.windows.low.start;
        for function in &self.slots {
            function.reset();
            for (bar, len) in function.wants() {
                let Some(start) = next.checked_next_multiple_of(len) else { continue };
                if let Some(end) = start.checked_add(len).filter(|&end| end <= self.windows.low.end) {
                    function.place(bar, start);
                    next = end;
                }
            }
        }
        self.remap();
    }

    /// Reads configuration space: `data` is 1 to 8 bytes that stay within one 4-byte word or two.
    pub fn read_config(&self, slot: u8, offset: u16, data: &mut [u8]) {
        match self.slots.get(usize::from(slot)) {
            Some(function) => function.read_config(offset, data),
            None => data.fill(0xff),
        }
    }

    /// Writes configuration space.
    pub fn write_config(&self, slot: u8, offset: u16, data: &[u8]) {
        if let Some(function) = self.slots.get(usize::from(slot))
            && function.write_config(offset, data)
        {
            self.remap();
        }
    }

    /// Asks every function anew where it is; for after a restore.
    pub fn remap(&self) {
        // Under the lock, so that of two who move functions the last sees both.
        let mut map = self.map.write();
        map.clear();
        for (function, slot) in self.slots.iter().zip(0..) {
            let mapping = |range| Mapping { slot, range, function: function.clone() };
            map.extend(function.ranges().into_iter().map(mapping));
        }
        drop(map);
        if let Some(watcher) = self.watcher.get() {
            watcher();
        }
    }

    /// From now on `watcher` is called whenever functions may have moved. Once.
    pub fn watch(&self, watcher: Watcher) {
        let _ = self.watcher.set(watcher);
    }

    /// The slot whose function answers to an address in memory, if one does and the address is in a window.
    pub fn slot_at(&self, addr: u64) -> Option<u8> {
        if ![&self.windows.low, &self.windows.high].into_iter().any(|window| window.contains(&addr)) {
            return None;
        }
        self.answering(addr, |m| m.slot)
    }

    /// What is to be known of who answers to an address: the first in slot order, where a guest has put several.
    fn answering<T>(&self, addr: u64, what: impl FnOnce(&Mapping) -> T) -> Option<T> {
        self.map.read().iter().find(|m| addr.wrapping_sub(m.range.start) < m.range.len).map(what)
    }

    /// Who answers to an address, and where in which of its ranges.
    fn find(&self, addr: u64) -> Option<(Arc<dyn PciFunction>, u8, u64, u64)> {
        self.answering(addr, |m| {
            let offset = addr - m.range.start;
            (m.function.clone(), m.range.bar, offset, m.range.len - offset)
        })
    }

    /// Load from memory. What nobody answers to reads as all ones.
    pub fn read(&self, addr: u64, data: &mut [u8]) {
        match self.find(addr) {
            Some((function, bar, offset, left)) if data.len() as u64 <= left => {
                function.read_bar(bar, offset, data);
            }
            _ => data.fill(0xff),
        }
    }

    /// Store to memory.
    pub fn write(&self, addr: u64, data: &[u8]) -> Action {
        match self.find(addr) {
            Some((function, bar, offset, left)) if data.len() as u64 <= left => {
                function.write_bar(bar, offset, data)
            }
            _ => Action::None,
        }
    }
}
