use std::sync::atomic::{AtomicBool, Ordering};

use device::IrqSink;

use super::*;
use crate::Rng;
use crate::testing::{BUFFERS, DriverQueue, eventually, ram};

#[derive(Default)]
struct Pin(AtomicBool);

impl IrqSink for Pin {
    fn set_level(&self, _pin: u32, asserted: bool) {
        self.0.store(asserted, Ordering::SeqCst);
    }
}

struct Setup {
    mmio: VirtioMmio,
    pin: Arc<Pin>,
    queue: DriverQueue,
}

impl Setup {
    fn new() -> Self {
        let (ram, pin) = (ram(), Arc::new(Pin::default()));
        let mmio = VirtioMmio::new(Arc::new(Rng::new().unwrap()), ram.clone(), IrqLine::new(pin.clone(), 0));
        Self { mmio, pin, queue: DriverQueue::new(&ram, 0x1_0000, 16) }
    }

    fn get(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.mmio.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&self, offset: u64, value: u32) {
        let _ = self.mmio.write(offset, &value.to_le_bytes());
    }

    fn negotiate(&self) {
        for value in [0, 1, 3] {
            self.set(0x70, value);
        }
        for word in [0, 1] {
            self.set(0x14, word);
            self.set(0x24, word);
            self.set(0x20, self.get(0x10));
        }
        self.set(0x70, 11);
        assert_eq!(self.get(0x70), 11);
        self.set(0x30, 0);
        assert_eq!(self.get(0x34), 64);
        self.set(0x38, 16);
        let layout = self.queue.layout;
        for (at, addr) in [(0x80, layout.descriptors), (0x90, layout.available), (0xa0, layout.used)] {
            self.set(at, addr as u32);
            self.set(at + 4, (addr >> 32) as u32);
        }
        self.set(0x44, 1);
        assert_eq!(self.get(0x44), 1);
        self.set(0x70, 15);
    }
}

#[test]
fn a_driver_finds_the_device_and_uses_it() {
    let s = Setup::new();
    assert_eq!([0, 4, 8].map(|at| s.get(at)), [0x7472_6976, 2, 4]);
    s.negotiate();
    s.queue.offer_chain(0, &[(BUFFERS, 16, true)]);
    s.set(0x50, 0);
    assert_eq!(s.queue.wait_used(), (0, 16));
    eventually(|| s.pin.0.load(Ordering::SeqCst).then_some(()));
    assert_eq!(s.get(0x60), 1);
    s.set(0x64, 1);
    assert_eq!((s.get(0x60), s.pin.0.load(Ordering::SeqCst)), (0, false));
    s.set(0x70, 0);
    assert_eq!((s.get(0x70), s.get(0x44)), (0, 0));
}

#[test]
fn odd_accesses_are_harmless() {
    let s = Setup::new();
    s.negotiate();
    for offset in (0..0x110).chain([0xfff, u64::MAX - 8]) {
        for len in [1, 2, 4, 8] {
            s.mmio.read(offset, &mut [0; 8][..len]);
            let _ = s.mmio.write(offset, &[0xff; 8][..len]);
        }
    }
    s.set(0x70, 0);
    s.negotiate();
    s.set(0x50, 0x1_0000);
}

#[test]
fn a_saved_device_goes_on() {
    let s = Setup::new();
    s.negotiate();
    s.queue.offer_chain(0, &[(BUFFERS, 16, true)]);
    s.set(0x50, 0);
    s.queue.wait_used();
    eventually(|| (s.get(0x60) == 1).then_some(()));
    let state = s.mmio.save();
    s.mmio.reset();
    assert!(!s.pin.0.load(Ordering::SeqCst));
    s.mmio.restore(&state).unwrap();
    assert_eq!((s.get(0x60), s.pin.0.load(Ordering::SeqCst)), (1, true));
    s.queue.offer_chain(1, &[(BUFFERS, 8, true)]);
    s.set(0x50, 0);
    assert_eq!(s.queue.wait_used(), (1, 8));
    assert!(s.mmio.restore(&VirtioMmioState { interrupts: 4, ..state }).is_err());
}
