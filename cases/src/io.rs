//! The machine around a case: a few ports, and memory-mapped bytes that read as their address.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use cpu::{CpuIo, Signals};
use parking_lot::Mutex;

/// OUT of a byte: an external interrupt with that vector becomes pending.
pub(crate) const RAISE: u16 = 0xf0;
/// OUT: an NMI becomes pending.
pub(crate) const NMI: u16 = 0xf1;

pub(crate) struct Io {
    pub signals: Arc<Signals>,
    pending: Mutex<Option<u8>>,
    priority: AtomicU8,
    /// Everything written to other ports: port and value.
    pub written: Mutex<Vec<(u16, u32)>>,
}

impl Io {
    pub fn new(signals: Arc<Signals>) -> Self {
        Self { signals, pending: Mutex::default(), priority: AtomicU8::new(0), written: Mutex::default() }
    }
}

fn value(data: &[u8]) -> u32 {
    data.iter().rev().fold(0, |value, &byte| value << 8 | u32::from(byte))
}

impl CpuIo for Io {
    /// Ports read as their number, byte by byte.
    fn port_read(&self, port: u16, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = (port as u8).wrapping_add(i as u8);
        }
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        match port {
            RAISE => {
                *self.pending.lock() = data.first().copied();
                self.signals.set(Signals::INTR);
            }
            NMI => self.signals.set(Signals::NMI),
            _ => {
                let mut written = self.written.lock();
                // A guest gone wild may not fill the host's memory.
                if written.len() < 4096 {
                    written.push((port, value(data)));
                }
            }
        }
    }

    fn mmio_read(&self, addr: u64, data: &mut [u8]) {
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = (addr as u8).wrapping_add(i as u8);
        }
    }

    fn mmio_write(&self, addr: u64, data: &[u8]) {
        self.port_write(addr as u16, data);
    }

    fn take_interrupt(&self) -> Option<u8> {
        self.signals.clear(Signals::INTR);
        self.pending.lock().take()
    }

    fn task_priority(&self) -> u8 {
        self.priority.load(Ordering::Relaxed)
    }

    fn set_task_priority(&self, priority: u8) {
        self.priority.store(priority, Ordering::Relaxed);
    }
}
