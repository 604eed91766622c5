//! Interrupt lines.

use std::fmt;
use std::sync::Arc;

/// The receiving end of interrupt lines.
pub trait IrqSink: Send + Sync {
    /// Input `pin` is now asserted or not. Setting the level it already has is harmless.
    fn set_level(&self, pin: u32, asserted: bool);
}

/// One interrupt line, handed to a device at construction. The device knows neither its number nor what
/// it is wired to. Clones are the same wire; there is no wired-OR, so a line has one driver.
#[derive(Clone)]
pub struct IrqLine {
    sink: Option<Arc<dyn IrqSink>>,
    pin: u32,
}

impl IrqLine {
    /// A line to input `pin` of `sink`.
    pub fn new(sink: Arc<dyn IrqSink>, pin: u32) -> Self {
        Self { sink: Some(sink), pin }
    }

    /// A line that ends nowhere.
    pub fn unconnected() -> Self {
        Self { sink: None, pin: 0 }
    }

    /// Sets the level.
    pub fn set(&self, asserted: bool) {
        if let Some(sink) = &self.sink {
            sink.set_level(self.pin, asserted);
        }
    }

    /// Asserts the line.
    pub fn raise(&self) {
        self.set(true);
    }

    /// Deasserts the line.
    pub fn lower(&self) {
        self.set(false);
    }

    /// A rising edge that leaves the line low.
    pub fn pulse(&self) {
        self.set(true);
        self.set(false);
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IrqLine").field("pin", &self.pin).field("connected", &self.sink.is_some()).finish()
    }
}
