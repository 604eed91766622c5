//! System control port A, 0x92 (IBM PS/2 Hardware Interface Technical Reference, "System Control Ports"): fast A20 and reset.
//!
//! NOT modelled: A20 itself (the bit is kept, addresses are never masked), the security lock, the disk lights.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::{Action, Device, PortWindow, Registers, RestoreError, SaveRestore, bytes};

const RESET: u8 = 0x01;
const A20: u8 = 0x02;

/// The port.
#[derive(Debug)]
pub struct Port92(AtomicU8);

impl Default for Port92 {
    fn default() -> Self {
        Self(AtomicU8::new(A20))
    }
}

impl Port92 {
    /// One register.
    pub const PORTS: &'static [PortWindow] = &[PortWindow { port: 0x92, len: 1, offset: 0 }];

    /// The port as firmware leaves it: A20 open.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for Port92 {
    fn name(&self) -> &'static str {
        "port92"
    }

    fn reset(&self) {
        self.0.store(A20, Ordering::Relaxed);
    }
}

impl Registers for Port92 {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        bytes::put(data, self.0.load(Ordering::Relaxed).into());
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        bytes::write_each(offset, data, |offset, value| {
            if offset != 0 {
                return Action::None;
            }
            // The reset bit fires on its rising edge.
            let old = self.0.swap(value, Ordering::Relaxed);
            if value & !old & RESET != 0 { Action::Reset } else { Action::None }
        })
    }
}

impl SaveRestore for Port92 {
    type State = u8;
    const KIND: &'static str = "port92";
    const VERSION: u32 = 1;

    fn save(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn restore(&self, state: &u8) -> Result<(), RestoreError> {
        self.0.store(*state, Ordering::Relaxed);
        Ok(())
    }
}
