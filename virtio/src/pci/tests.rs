use std::sync::atomic::{AtomicBool, Ordering};

use device::IrqSink;

use super::*;
use crate::Rng;
use crate::testing::{BUFFERS, DriverQueue, eventually, ram};

#[derive(Default)]
struct Wires {
    level: AtomicBool,
    messages: Mutex<Vec<(u64, u32)>>,
}

impl IrqSink for Wires {
    fn set_level(&self, _pin: u32, asserted: bool) {
        self.level.store(asserted, Ordering::SeqCst);
    }
}

impl MsiSink for Wires {
    fn send(&self, address: u64, data: u32) {
        self.messages.lock().push((address, data));
    }
}

struct Setup {
    pci: VirtioPci,
    wires: Arc<Wires>,
    queue: DriverQueue,
}

impl Setup {
    fn new() -> Self {
        let (ram, wires) = (ram(), Arc::new(Wires::default()));
        let line = IrqLine::new(wires.clone(), 0);
        let pci = VirtioPci::new(Arc::new(Rng::new().unwrap()), ram.clone(), line, 17, wires.clone());
        let s = Self { pci, wires, queue: DriverQueue::new(&ram, 0x1_0000, 16) };
        s.set_command(command::MEMORY | command::BUS_MASTER);
        s
    }

    fn set_command(&self, value: u16) {
        self.pci.write_config(4, &value.to_le_bytes());
    }

    fn config(&self, offset: u16, len: usize) -> u32 {
        let mut data = [0; 4];
        self.pci.read_config(offset, &mut data[..len]);
        u32::from_le_bytes(data)
    }

    fn get(&self, offset: u64, len: usize) -> u32 {
        let mut data = [0; 4];
        self.pci.read_bar(REGISTERS, offset, &mut data[..len]);
        u32::from_le_bytes(data)
    }

    fn set(&self, offset: u64, len: usize, value: u64) {
        let _ = self.pci.write_bar(REGISTERS, offset, &value.to_le_bytes()[..len]);
    }

    /// The capability of this kind: for virtio's own their type is in bits 8 and up.
    fn capability(&self, id: u32) -> u16 {
        let mut at = self.config(0x34, 1) as u16;
        while at != 0 {
            let kind =
                self.config(at, 1) | if self.config(at, 1) == 9 { self.config(at + 3, 1) << 8 } else { 0 };
            if kind == id {
                return at;
            }
            at = self.config(at + 1, 1) as u16;
        }
        panic!("no capability {id:#x}");
    }

    fn negotiate(&self, vector: u16) {
        for value in [0, 1, 3] {
            self.set(0x14, 1, value);
        }
        for word in [0, 1] {
            self.set(0, 4, word);
            self.set(8, 4, word);
            self.set(0xc, 4, self.get(4, 4).into());
        }
        self.set(0x14, 1, 11);
        assert_eq!(self.get(0x14, 1), 11);
        self.set(0x10, 2, 0);
        self.set(0x16, 2, 0);
        assert_eq!(self.get(0x18, 2), 64);
        self.set(0x18, 2, 16);
        self.set(0x1a, 2, vector.into());
        self.set(0x20, 8, self.queue.layout.descriptors);
        self.set(0x28, 4, self.queue.layout.available);
        self.set(0x2c, 4, 0);
        self.set(0x30, 8, self.queue.layout.used);
        self.set(0x1c, 2, 1);
        self.set(0x14, 1, 15);
    }

    /// One request, to its answer.
    fn request(&self, head: u16) {
        self.queue.offer_chain(head, &[(BUFFERS, 16, true)]);
        self.queue.set_used_event(head);
        self.set(NOTIFY, 2, 0);
        assert_eq!(self.queue.wait_used(), (head.into(), 16));
    }

    fn messages(&self) -> Vec<(u64, u32)> {
        std::mem::take(&mut self.wires.messages.lock())
    }
}

#[test]
fn a_driver_finds_its_registers_by_the_capabilities() {
    let s = Setup::new();
    assert_eq!((s.config(0, 4), s.config(8, 4), s.config(0x2e, 2)), (0x1044_1af4, 0xff00_0001, 4));
    for (kind, at) in [(1, COMMON), (2, NOTIFY), (3, ISR), (4, CONFIG)] {
        let cap = s.capability(kind << 8 | 9);
        assert_eq!((s.config(cap + 4, 1), u64::from(s.config(cap + 8, 4))), (0, at), "{kind}");
        assert!(s.config(cap + 12, 4) >= 4);
    }
    assert_eq!(s.config(s.capability(0x209) + 16, 4), NOTIFY_STEP);
    assert_eq!(s.config(s.capability(0x11) + 2, 2), 1, "two vectors");
    s.capability(5);
}

#[test]
fn messages_have_the_vector_of_the_queue() {
    let s = Setup::new();
    let _ = s.pci.write_bar(MSIX, 16, &0xfee0_1000u64.to_le_bytes());
    let _ = s.pci.write_bar(MSIX, 24, &[0x51, 0, 0, 0, 0, 0, 0, 0]);
    s.pci.write_config(s.capability(0x11) + 2, &[0, 0x80]);
    s.negotiate(1);
    s.request(0);
    assert_eq!(eventually(|| Some(s.messages()).filter(|m| !m.is_empty())), [(0xfee0_1000, 0x51)]);
    assert_eq!((s.get(ISR, 1), s.wires.level.load(Ordering::SeqCst)), (0, false));
    s.set(0x1a, 2, 2);
    assert_eq!(s.get(0x1a, 2), u32::from(NO_VECTOR), "there is no vector 2");
}

#[test]
fn the_interrupt_pin_serves_those_without_messages() {
    let s = Setup::new();
    s.negotiate(NO_VECTOR);
    s.request(0);
    eventually(|| s.wires.level.load(Ordering::SeqCst).then_some(()));
    assert_eq!(s.config(6, 2) & 8, 8);
    s.set_command(command::MEMORY | command::INTX_DISABLE);
    assert!(!s.wires.level.load(Ordering::SeqCst));
    s.set_command(command::MEMORY);
    assert!(s.wires.level.load(Ordering::SeqCst));
    assert_eq!((s.get(ISR, 1), s.get(ISR, 1)), (1, 0), "reading clears");
    assert!(!s.wires.level.load(Ordering::SeqCst));
    assert_eq!(s.messages(), []);
    // A plain message in its place.
    s.set_command(command::MEMORY | command::BUS_MASTER);
    s.pci.write_config(s.capability(5) + 2, &[1, 0, 0, 0, 0xe0, 0xfe, 0, 0, 0, 0, 0x44, 0]);
    s.request(1);
    assert_eq!(eventually(|| Some(s.messages()).filter(|m| !m.is_empty())), [(0xfee0_0000, 0x44)]);
    assert!(!s.wires.level.load(Ordering::SeqCst));
}

#[test]
fn a_function_that_is_no_bus_master_leaves_memory_alone() {
    let s = Setup::new();
    s.negotiate(NO_VECTOR);
    s.request(0);
    s.set_command(command::MEMORY);
    s.queue.offer_chain(1, &[(BUFFERS, 16, true)]);
    s.set(NOTIFY, 2, 0);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(s.queue.used(), None);
    // It goes on where it was, and takes its own saved state meanwhile.
    let state = s.pci.save();
    s.pci.restore(&state).unwrap();
    assert_eq!(s.queue.used(), None);
    s.set_command(command::MEMORY | command::BUS_MASTER);
    assert_eq!(s.queue.wait_used(), (1, 16));
    // After power-on it is none.
    s.pci.reset();
    assert_eq!(s.config(4, 2), 0);
    s.negotiate(NO_VECTOR);
    s.queue.offer_chain(2, &[(BUFFERS, 16, true)]);
    s.set(NOTIFY, 2, 0);
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert_eq!(s.queue.used(), None);
}

#[test]
fn a_reset_of_the_device_keeps_the_function_and_one_of_the_function_does_not() {
    let s = Setup::new();
    s.pci.place(0, 0xc000_0000);
    s.negotiate(1);
    s.set(0x14, 1, 0);
    assert_eq!((s.get(0x14, 1), s.get(0x1a, 2)), (0, NO_VECTOR.into()));
    assert_eq!(s.pci.ranges()[0].start, 0xc000_0000);
    s.negotiate(1);
    s.pci.reset();
    assert!(s.pci.ranges().is_empty());
    assert_eq!((s.get(0x14, 1), s.config(0x10, 4)), (0, 4));
}

#[test]
fn configuration_space_has_a_window_to_the_registers() {
    let s = Setup::new();
    let cap = s.capability(0x509);
    s.pci.write_config(cap + 4, &[0]);
    s.pci.write_config(cap + 8, &0x14u32.to_le_bytes());
    s.pci.write_config(cap + 12, &1u32.to_le_bytes());
    s.pci.write_config(cap + 16, &[1]);
    assert_eq!((s.get(0x14, 1), s.config(cap + 16, 1)), (1, 1));
    for (bar, at, len) in [(0, 0x15, 4), (0, 0, 8), (7, 0, 4), (0, !3u32, 4), (2, 0x7fe, 2)] {
        s.pci.write_config(cap + 4, &[bar]);
        s.pci.write_config(cap + 8, &at.to_le_bytes());
        s.pci.write_config(cap + 12, &u32::to_le_bytes(len));
        s.config(cap + 16, 4);
        s.pci.write_config(cap + 16, &[0xff; 4]);
    }
    assert_eq!(s.get(0x14, 1), 1);
}

#[test]
fn odd_accesses_are_harmless() {
    let s = Setup::new();
    s.negotiate(1);
    for bar in 0..7 {
        for offset in (0..0x48).chain([ISR + 1, CONFIG + 9, NOTIFY + 1, NOTIFY + 0xffe, 0x4000, u64::MAX - 9])
        {
            for len in [1, 2, 4, 8] {
                s.pci.read_bar(bar, offset, &mut [0; 8][..len]);
                let _ = s.pci.write_bar(bar, offset, &[0xff; 8][..len]);
            }
        }
    }
    for offset in 0..0x120 {
        for len in [1, 2, 4, 8] {
            s.pci.read_config(offset, &mut [0; 8][..len]);
            s.pci.write_config(offset, &[0xff; 8][..len]);
        }
    }
}

#[test]
fn a_saved_device_goes_on() {
    let s = Setup::new();
    s.pci.place(0, 0xc000_0000);
    s.negotiate(1);
    s.request(0);
    eventually(|| s.wires.level.load(Ordering::SeqCst).then_some(()));
    let state = s.pci.save();
    let state: VirtioPciState = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
    s.pci.reset();
    assert!(!s.wires.level.load(Ordering::SeqCst));
    s.pci.restore(&state).unwrap();
    assert_eq!(s.pci.save(), state);
    assert!(s.wires.level.load(Ordering::SeqCst) && s.pci.ranges()[0].start == 0xc000_0000);
    s.request(1);
    for wrong in [
        VirtioPciState { isr: 4, ..state.clone() },
        VirtioPciState { config_vector: 2, ..state.clone() },
        VirtioPciState { vectors: Vec::new(), ..state.clone() },
    ] {
        assert!(s.pci.restore(&wrong).is_err());
    }
}

#[test]
fn notifications_are_where_the_registers_are() {
    let s = Setup::new();
    s.pci.place(REGISTERS, 0xd000_0000);
    assert_eq!(s.pci.notifications(), [(0xd000_3000, None)]);
    s.set_command(command::BUS_MASTER);
    assert_eq!(s.pci.notifications(), [], "nobody answers there");
}
