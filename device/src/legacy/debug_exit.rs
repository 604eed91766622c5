//! Debug exit: a write ends the machine with its low byte (port 0xf4 by convention of test kernels). Unlike
//! other monitors' port of that number it hands on the value as it is.

use crate::{Action, Device, PortWindow, Registers, RestoreError, SaveRestore};

/// The port.
#[derive(Debug, Clone, Copy, Default)]
pub struct DebugExit;

impl DebugExit {
    /// Four ports, so that a 32-bit write is one.
    pub const PORTS: &'static [PortWindow] = &[PortWindow { port: 0xf4, len: 4, offset: 0 }];
}

impl Device for DebugExit {
    fn name(&self) -> &'static str {
        "debug-exit"
    }

    fn reset(&self) {}
}

impl Registers for DebugExit {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        match data.first() {
            Some(&value) if offset == 0 => Action::DebugExit(value),
            _ => Action::None,
        }
    }
}

impl SaveRestore for DebugExit {
    type State = ();
    const KIND: &'static str = "debug-exit";
    const VERSION: u32 = 1;

    fn save(&self) {}

    fn restore(&self, (): &()) -> Result<(), RestoreError> {
        Ok(())
    }
}
