//! Reset control register, port 0xcf9 (Intel ICH datasheets, "Reset Control Register"); also the FADT's
//! RESET_REG, with value [`ResetControl::RESET`].
//!
//! NOT modelled: the difference between hard, soft and full resets.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::{Action, Device, PortWindow, Registers, RestoreError, SaveRestore, bytes};

/// Bit 2: a rising edge resets.
const RESET_CPU: u8 = 0x04;
/// Bits that read back: full reset, system reset.
const KEPT: u8 = 0x0a;

/// The register.
#[derive(Debug, Default)]
pub struct ResetControl(AtomicU8);

impl ResetControl {
    /// One register.
    pub const PORTS: &'static [PortWindow] = &[PortWindow { port: 0xcf9, len: 1, offset: 0 }];
    /// Written to the register, it resets the system (for the FADT).
    pub const RESET: u8 = 0x06;

    /// The register at power-on.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Device for ResetControl {
    fn name(&self) -> &'static str {
        "reset-control"
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Registers for ResetControl {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        bytes::put(data, self.0.load(Ordering::Relaxed).into());
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        bytes::write_each(offset, data, |offset, value| {
            if offset != 0 {
                return Action::None;
            }
            self.0.store(value & KEPT, Ordering::Relaxed);
            if value & RESET_CPU != 0 { Action::Reset } else { Action::None }
        })
    }
}

impl SaveRestore for ResetControl {
    type State = u8;
    const KIND: &'static str = "reset-control";
    const VERSION: u32 = 1;

    fn save(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn restore(&self, state: &u8) -> Result<(), RestoreError> {
        self.0.store(state & KEPT, Ordering::Relaxed);
        Ok(())
    }
}
