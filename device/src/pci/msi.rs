//! Message-signalled interrupts (PCI 3.0, 6.8.1): one vector, 64-bit address.
//!
//! NOT modelled: several vectors, per-vector masking.

use super::{ConfigSpace, MsiSink, command};

const ID: u8 = 0x05;
/// Message control: 64-bit address; enable.
const WIDE: u16 = 1 << 7;
const ENABLE: u16 = 1 << 0;

/// A function's MSI capability, which lies in its configuration space.
#[derive(Debug, Clone, Copy)]
pub struct Msi(u8);

impl Msi {
    /// Adds the capability to `config`.
    pub fn new(config: &mut ConfigSpace) -> Self {
        let mut body = [0; 12];
        body[..2].copy_from_slice(&WIDE.to_le_bytes());
        let writable = [ENABLE as u8, 0, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        Self(config.add_capability(ID, &body, &writable))
    }

    /// The guest wants messages in place of the interrupt line.
    pub fn is_enabled(&self, config: &ConfigSpace) -> bool {
        config.word(self.0 + 2) & ENABLE != 0
    }

    /// Sends the message, if the function may.
    pub fn trigger(&self, config: &ConfigSpace, sink: &dyn MsiSink) {
        if config.command() & command::BUS_MASTER != 0 {
            let [low, high] = [4, 8].map(|at| u64::from(config.double_word(self.0 + at)));
            sink.send(low | high << 32, config.word(self.0 + 12).into());
        }
    }
}
