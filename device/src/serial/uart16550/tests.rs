use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::IrqSink;

#[derive(Default)]
struct World {
    out: Mutex<Vec<u8>>,
    rooms: AtomicUsize,
    level: AtomicU32,
    edges: AtomicU32,
}

impl CharBackend for World {
    fn write(&self, bytes: &[u8]) {
        self.out.lock().extend(bytes);
    }
    fn room(&self) {
        self.rooms.fetch_add(1, Ordering::SeqCst);
    }
}

impl IrqSink for World {
    fn set_level(&self, _pin: u32, asserted: bool) {
        if self.level.swap(asserted.into(), Ordering::SeqCst) == 0 && asserted {
            self.edges.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Rig {
    uart: Uart16550,
    world: Arc<World>,
}

impl Rig {
    fn new() -> Self {
        let world = Arc::new(World::default());
        Self { uart: Uart16550::new(IrqLine::new(world.clone(), 4), world.clone()), world }
    }

    /// FIFOs on, trigger level 8, OUT2 set.
    fn with_fifo() -> Self {
        let rig = Self::new();
        rig.write(2, 0x87);
        rig.write(4, 0x0b);
        rig
    }

    fn write(&self, offset: u64, value: u8) {
        assert!(self.uart.write(offset, &[value]).is_none());
    }

    fn read(&self, offset: u64) -> u8 {
        let mut data = [0];
        self.uart.read(offset, &mut data);
        data[0]
    }

    fn irq(&self) -> bool {
        self.world.level.load(Ordering::SeqCst) != 0
    }
}

#[test]
fn what_is_written_is_out_at_once() {
    let rig = Rig::new();
    for byte in b"hello" {
        assert_eq!(rig.read(5) & 0x60, 0x60);
        rig.write(0, *byte);
    }
    assert_eq!(*rig.world.out.lock(), b"hello");
}

#[test]
fn a_16550a_is_recognised() {
    let rig = Rig::new();
    rig.write(7, 0x5a);
    assert_eq!(rig.read(7), 0x5a);
    rig.write(2, 0x01);
    assert_eq!(rig.read(2), 0xc1);
    rig.write(2, 0x00);
    assert_eq!(rig.read(2), 0x01);
    rig.write(3, 0x83);
    rig.write(0, 0x01);
    rig.write(1, 0x02);
    assert_eq!((rig.read(0), rig.read(1)), (0x01, 0x02), "divisor");
    rig.write(3, 0x03);
    assert_eq!((rig.read(0), rig.read(1)), (0, 0));
    rig.write(1, 0xff);
    assert_eq!(rig.read(1), 0x0f);
}

#[test]
fn loopback() {
    let rig = Rig::new();
    rig.write(4, 0x1a); // RTS, OUT2
    assert_eq!(rig.read(6) & 0xf0, 0x90);
    rig.write(0, 0x42);
    assert_eq!(rig.uart.push_input(b"x"), 0, "the pin is disconnected");
    assert_eq!((rig.read(5) & 1, rig.read(0)), (1, 0x42));
    assert!(rig.world.out.lock().is_empty());
    rig.write(0, 1);
    rig.write(0, 2);
    assert_eq!(rig.read(5) & 0x02, 0x02, "overrun");
    assert_eq!(rig.read(5) & 0x02, 0, "reading clears it");
}

#[test]
fn input_interrupts_by_level_and_by_timeout() {
    let rig = Rig::with_fifo();
    rig.write(1, 0x01);
    assert_eq!(rig.uart.push_input(b"abc"), 3);
    assert!(rig.irq());
    assert_eq!(rig.read(2), 0xcc, "timeout");
    assert_eq!(rig.uart.push_input(b"defghijklmnopqrstuvwxyz"), 13);
    assert_eq!(rig.uart.room(), 0);
    assert_eq!(rig.read(2), 0xc4);
    let all: Vec<u8> = (0..16).map(|_| rig.read(0)).collect();
    assert_eq!(all, b"abcdefghijklmnop");
    assert!(!rig.irq());
    assert_eq!(rig.read(2), 0xc1);
    assert_eq!(rig.world.rooms.load(Ordering::SeqCst), 2, "FIFO switched on, FIFO emptied");
    assert_eq!(rig.uart.room(), 16);
}

#[test]
fn the_transmitter_interrupts_when_it_is_enabled_and_after_each_burst() {
    let rig = Rig::with_fifo();
    rig.write(1, 0x02);
    assert!(rig.irq());
    assert_eq!(rig.read(2), 0xc2);
    assert!(!rig.irq(), "identification acknowledges it");
    assert_eq!(rig.read(2), 0xc1);
    let before = rig.world.edges.load(Ordering::SeqCst);
    for byte in b"sixteen bytes..." {
        rig.write(0, *byte);
    }
    assert_eq!(rig.world.edges.load(Ordering::SeqCst) - before, 1);
    assert_eq!(rig.read(2), 0xc2);
    rig.write(1, 0);
    rig.write(1, 2);
    assert!(rig.irq(), "enabled again: again");
    rig.write(4, 0);
    assert!(!rig.irq(), "OUT2 gates the line");
}

#[test]
fn without_fifos_each_byte_is_an_edge() {
    let rig = Rig::new();
    rig.write(4, 0x08);
    rig.write(1, 0x02);
    let before = rig.world.edges.load(Ordering::SeqCst);
    rig.write(0, b'a');
    rig.write(0, b'b');
    assert_eq!(rig.world.edges.load(Ordering::SeqCst) - before, 2);
}

#[test]
fn a_break_is_a_line_error() {
    let rig = Rig::with_fifo();
    rig.write(1, 0x05);
    rig.uart.push_input(b"a");
    assert!(rig.uart.push_break());
    assert_eq!(rig.read(5) & 0x91, 0x81, "in the FIFO, not at its head");
    assert_eq!(rig.read(0), b'a');
    assert_eq!(rig.read(2), 0xc6);
    assert_eq!(rig.read(5) & 0x11, 0x11);
    assert_eq!(rig.read(5) & 0x10, 0, "told once");
    assert_eq!(rig.read(0), 0);
}

#[test]
fn modem_changes_are_noted_once() {
    let rig = Rig::new();
    rig.write(4, 0x10);
    assert_eq!(rig.read(6), 0x0b, "CTS, DSR and DCD fell");
    assert_eq!(rig.read(6), 0x00);
    rig.write(4, 0x14);
    rig.write(4, 0x10);
    assert_eq!(rig.read(6), 0x04, "the end of a ring");
}

#[test]
fn state_survives() {
    let rig = Rig::with_fifo();
    rig.write(1, 0x03);
    rig.uart.push_input(b"input");
    let json = serde_json::to_string(&rig.uart.save()).unwrap();
    let other = Rig::new();
    let state = serde_json::from_str(&json).unwrap();
    other.uart.restore(&state).unwrap();
    assert_eq!(other.uart.save(), state);
    assert!(other.irq());
    assert_eq!(other.read(0), b'i');
    let long = UartState { input: vec![0; 17], ..state };
    assert!(other.uart.restore(&long).is_err());
}

proptest! {
    /// Whatever is written: the line is up exactly if an enabled interrupt is identified and the gate is
    /// open, the FIFO holds no more than it can, and all taken input comes out again in order.
    #[test]
    fn invariants(steps in prop::collection::vec((0..10u64, any::<u8>()), 1..200)) {
        let rig = Rig::new();
        for (what, value) in steps {
            match what {
                0..8 => rig.write(what, value),
                8 => { rig.uart.push_input(&[value, value]); }
                _ => { rig.read(u64::from(value & 7)); }
            }
            let state = rig.uart.save();
            let capacity = if state.fcr & 1 != 0 { 16 } else { 1 };
            prop_assert!(state.input.len() <= capacity);
            let gate = state.mcr & 0x18 == 0x08;
            let pending = rig.uart.inner.lock().interrupt() != 1;
            prop_assert_eq!(rig.irq(), gate && pending);
            prop_assert!(rig.uart.restore(&state).is_ok());
        }
    }
}
