//! The way from a device to its driver: interrupts, and the news that it has to be reset.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::QueueError;

/// What a transport does to be heard. Called from any thread.
pub trait Interrupt: Send + Sync {
    /// Queue `index` has used buffers.
    fn queue(&self, index: u16);
    /// The configuration or the status changed.
    fn config(&self);
}

/// One driver's view of a device, from DRIVER_OK to reset.
pub struct DriverLink {
    name: &'static str,
    interrupt: Arc<dyn Interrupt>,
    broken: AtomicBool,
}

impl DriverLink {
    /// A link that works.
    pub fn new(name: &'static str, interrupt: Arc<dyn Interrupt>) -> Self {
        Self { name, interrupt, broken: AtomicBool::new(false) }
    }

    /// Queue `index` has used buffers.
    pub fn used(&self, index: u16) {
        self.interrupt.queue(index);
    }

    /// The device's configuration changed.
    pub fn configured(&self) {
        self.interrupt.config();
    }

    /// The driver did what cannot be answered: it is told to reset the device, which does nothing until then.
    pub fn fail(&self, queue: u16, why: &QueueError) {
        if !self.broken.swap(true, Ordering::SeqCst) {
            // No warning: a guest could fill the host's log with them.
            tracing::info!("{}: the driver of queue {queue} made a mistake: {why}", self.name);
            self.interrupt.config();
        }
    }

    /// The device waits for a reset.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::SeqCst)
    }
}
