//! Power-on self-test codes, port 0x80. Systems also write it to wait a microsecond, so it must be cheap.

use std::sync::atomic::{AtomicU8, Ordering};

use crate::{Action, Device, PortWindow, Registers, RestoreError, SaveRestore, bytes};

/// The latch of the last code.
#[derive(Debug, Default)]
pub struct PostCodes(AtomicU8);

impl PostCodes {
    /// One register.
    pub const PORTS: &'static [PortWindow] = &[PortWindow { port: 0x80, len: 1, offset: 0 }];

    /// No code yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The last code.
    pub fn last(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Device for PostCodes {
    fn name(&self) -> &'static str {
        "post"
    }

    fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

impl Registers for PostCodes {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        bytes::put(data, self.last().into());
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        if let (0, Some(&code)) = (offset, data.first()) {
            let old = self.0.swap(code, Ordering::Relaxed);
            if old != code {
                tracing::trace!(code, "post");
            }
        }
        Action::None
    }
}

impl SaveRestore for PostCodes {
    type State = u8;
    const KIND: &'static str = "post";
    const VERSION: u32 = 1;

    fn save(&self) -> u8 {
        self.last()
    }

    fn restore(&self, state: &u8) -> Result<(), RestoreError> {
        self.0.store(*state, Ordering::Relaxed);
        Ok(())
    }
}
