//! Interrupt lines.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// The receiving end of interrupt lines.
pub trait IrqSink: Send + Sync {
    /// Input `pin` is now asserted or not. Setting the level it already has is harmless.
    fn set_level(&self, pin: u32, asserted: bool);
}

/// One interrupt line, handed to a device at construction. The device knows neither its number nor what
/// it is wired to. Clones are the same wire; a line has one driver, and what several drive is a [`SharedLine`].
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

/// A level-triggered line that several devices drive: asserted while any of its inputs is.
pub struct SharedLine {
    output: IrqLine,
    asserted: Mutex<u64>,
}

impl SharedLine {
    /// Most devices on a line.
    pub const INPUTS: u32 = u64::BITS;

    /// A line to `output` that nobody asserts.
    pub fn new(output: IrqLine) -> Arc<Self> {
        Arc::new(Self { output, asserted: Mutex::new(0) })
    }

    /// The line of one device; `input` is its own, below [`INPUTS`](Self::INPUTS).
    pub fn input(self: &Arc<Self>, input: u32) -> IrqLine {
        IrqLine::new(self.clone(), input)
    }
}

impl IrqSink for SharedLine {
    fn set_level(&self, pin: u32, asserted: bool) {
        let Some(bit) = 1u64.checked_shl(pin) else { return };
        let mut inputs = self.asserted.lock();
        let before = *inputs;
        *inputs = if asserted { before | bit } else { before & !bit };
        if (*inputs != 0) != (before != 0) {
            // Under the lock, so that the last change is the last that the output sees.
            self.output.set(*inputs != 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[derive(Default)]
    struct Pin(AtomicU32);

    impl IrqSink for Pin {
        fn set_level(&self, _pin: u32, asserted: bool) {
            self.0.store(asserted.into(), Ordering::SeqCst);
        }
    }

    #[test]
    fn a_shared_line_falls_with_its_last_driver() {
        let pin = Arc::new(Pin::default());
        let shared = SharedLine::new(IrqLine::new(pin.clone(), 0));
        let (a, b) = (shared.input(0), shared.input(63));
        let level = || pin.0.load(Ordering::SeqCst);
        a.raise();
        b.raise();
        a.lower();
        assert_eq!(level(), 1);
        b.lower();
        assert_eq!(level(), 0);
        shared.input(SharedLine::INPUTS).raise();
        assert_eq!(level(), 0, "there is no such input");
    }
}
