//! Debug console: a port whose bytes go to a backend. Bochs and hobby systems know it at 0xe9, firmware
//! (SeaBIOS, OVMF) at 0x402; it reads as 0xe9, by which they find it.

use std::sync::Arc;

use crate::{Action, CharBackend, Device, PortWindow, Registers, RestoreError, SaveRestore};

/// The port.
pub struct DebugConsole(Arc<dyn CharBackend>);

impl DebugConsole {
    /// Both ports.
    pub const PORTS: &'static [PortWindow] =
        &[PortWindow { port: 0xe9, len: 1, offset: 0 }, PortWindow { port: 0x402, len: 1, offset: 0 }];

    /// A console that writes to `backend`.
    pub fn new(backend: Arc<dyn CharBackend>) -> Self {
        Self(backend)
    }
}

impl Device for DebugConsole {
    fn name(&self) -> &'static str {
        "debug-console"
    }

    fn reset(&self) {}
}

impl Registers for DebugConsole {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0xe9);
    }

    fn write(&self, _offset: u64, data: &[u8]) -> Action {
        self.0.write(data);
        Action::None
    }
}

impl SaveRestore for DebugConsole {
    type State = ();
    const KIND: &'static str = "debug-console";
    const VERSION: u32 = 1;

    fn save(&self) {}

    fn restore(&self, (): &()) -> Result<(), RestoreError> {
        Ok(())
    }
}
