//! A machine of which only the noise is there.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use cpu::{CpuIo, Signals};

/// Answers a vCPU's accesses with bytes that depend on the input, and interrupts it.
pub struct World {
    outside: [u8; 8],
    signals: RefCell<Arc<Signals>>,
    count: Cell<u32>,
    polls: Cell<u32>,
    signalled: Cell<bool>,
    steady: bool,
    priority: Cell<u8>,
}

/// Polls until the machine wants the vCPU back: each is due after some thousand instructions or repetitions.
const PATIENCE: u32 = 3;

impl World {
    pub fn new(outside: [u8; 8], signals: Arc<Signals>) -> Self {
        Self {
            outside,
            signals: RefCell::new(signals),
            count: Cell::new(0),
            polls: Cell::new(0),
            signalled: Cell::new(false),
            steady: false,
            priority: Cell::new(0),
        }
    }

    /// What is read depends on the address alone: engines need not fetch the same code as often.
    pub fn steady(self) -> Self {
        Self { steady: true, ..self }
    }

    /// The vCPU is another one now.
    pub fn rewire(&self, signals: Arc<Signals>) {
        self.signals.replace(signals);
    }

    /// An interrupt or a kick came from here.
    pub fn has_signalled(&self) -> bool {
        self.signalled.get()
    }

    fn set(&self, bits: u32) {
        self.signalled.set(true);
        self.signals.borrow().set(bits);
    }

    fn next(&self) -> u8 {
        let count = self.count.get();
        self.count.set(count.wrapping_add(1));
        self.outside[count as usize % 8] ^ (count as u8).wrapping_mul(29)
    }

    fn fill(&self, at: u64, data: &mut [u8]) {
        assert!(matches!(data.len(), 1 | 2 | 4 | 8), "an access of {} bytes", data.len());
        if self.steady {
            self.count.set(at as u32);
        }
        data.fill_with(|| self.next());
    }

    /// Devices interrupt when they are written to.
    fn stir(&self, data: &[u8]) {
        assert!(matches!(data.len(), 1 | 2 | 4 | 8), "an access of {} bytes", data.len());
        match data[0] & 0x1f {
            1 => self.set(Signals::INTR),
            2 => self.set(Signals::NMI),
            3 => drop(self.signals.borrow().clear(Signals::INTR)),
            4 if self.outside[0] & 3 == 0 => self.set(Signals::EXIT),
            _ => {}
        }
    }
}

impl CpuIo for World {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        assert!(data.len() <= 4, "a port access of {} bytes", data.len());
        self.fill(port.into(), data);
    }

    fn port_write(&self, _: u16, data: &[u8]) {
        assert!(data.len() <= 4, "a port access of {} bytes", data.len());
        self.stir(data);
    }

    fn mmio_read(&self, at: u64, data: &mut [u8]) {
        self.fill(at, data);
    }

    fn mmio_write(&self, _: u64, data: &[u8]) {
        self.stir(data);
    }

    fn take_interrupt(&self) -> Option<u8> {
        self.signals.borrow().clear(Signals::INTR);
        let vector = self.next();
        (vector & 7 != 7).then_some(vector)
    }

    fn task_priority(&self) -> u8 {
        self.priority.get()
    }

    fn set_task_priority(&self, priority: u8) {
        assert!(priority < 16, "CR8 has four bits, not {priority:#x}");
        self.priority.set(priority);
    }

    fn apic_msr_read(&self, msr: u32) -> Option<u64> {
        (msr & 1 != 0).then_some(u64::from(msr) << 8)
    }

    fn apic_msr_write(&self, _: u32, value: u64) -> bool {
        value & 1 != 0
    }

    fn poll(&self) {
        self.polls.set(self.polls.get() + 1);
        if self.polls.get() >= PATIENCE {
            self.set(Signals::EXIT);
        }
    }
}
