use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::IrqSink;

#[derive(Default)]
struct Wire(AtomicBool);

impl IrqSink for Wire {
    fn set_level(&self, _pin: u32, asserted: bool) {
        self.0.store(asserted, Ordering::SeqCst);
    }
}

struct Rig {
    pic: I8259,
    wire: std::sync::Arc<Wire>,
}

impl Rig {
    /// As a BIOS and Linux program it: vectors 0x20 and 0x28, all inputs open.
    fn new() -> Self {
        Self::with_icw4(0x01)
    }

    fn with_icw4(icw4: u8) -> Self {
        let wire = std::sync::Arc::new(Wire::default());
        let rig = Self { pic: I8259::new(IrqLine::new(wire.clone(), 0)), wire };
        for (base, vector, cascade) in [(0, 0x20, 4), (2, 0x28, 2)] {
            rig.write(base, 0x11);
            rig.write(base + 1, vector);
            rig.write(base + 1, cascade);
            rig.write(base + 1, icw4);
            rig.write(base + 1, 0);
        }
        rig
    }

    fn write(&self, offset: u64, value: u8) {
        assert!(self.pic.write(offset, &[value]).is_none());
    }

    fn read(&self, offset: u64) -> u8 {
        let mut data = [0];
        self.pic.read(offset, &mut data);
        data[0]
    }

    fn pulse(&self, irq: u8) {
        self.pic.set_input(irq, true);
        self.pic.set_input(irq, false);
    }

    fn int(&self) -> bool {
        assert_eq!(self.wire.0.load(Ordering::SeqCst), self.pic.output(), "wire and output agree");
        self.pic.output()
    }
}

#[test]
fn priority_and_end_of_interrupt() {
    let rig = Rig::new();
    assert!(!rig.int());
    rig.pulse(4);
    rig.pulse(1);
    assert!(rig.int());
    assert_eq!(rig.pic.acknowledge(), 0x21);
    assert!(!rig.int(), "4 waits while 1 is in service");
    rig.pulse(0);
    assert!(rig.int(), "0 goes before 1");
    assert_eq!(rig.pic.acknowledge(), 0x20);
    rig.write(0, 0x20);
    rig.write(0, 0x61); // specific, level 1
    assert!(rig.int());
    assert_eq!(rig.pic.acknowledge(), 0x24);
    rig.write(0, 0x0b);
    assert_eq!(rig.read(0), 0x10, "in service");
}

#[test]
fn the_slave_comes_through_the_cascade() {
    let rig = Rig::new();
    rig.pulse(12);
    rig.pulse(8);
    assert_eq!(rig.pic.acknowledge(), 0x28);
    rig.write(2, 0x20);
    assert!(!rig.int(), "the master still has its cascade in service");
    rig.write(0, 0x20);
    assert!(rig.int());
    assert_eq!(rig.pic.acknowledge(), 0x2c);
}

#[test]
fn a_masked_edge_waits() {
    let rig = Rig::new();
    rig.write(1, 0xff);
    rig.pulse(3);
    assert!(!rig.int());
    assert_eq!(rig.read(0), 0x08, "requested");
    rig.write(1, 0xf7);
    assert!(rig.int());
    assert_eq!(rig.pic.acknowledge(), 0x23);
}

#[test]
fn nothing_comes_before_it_is_programmed() {
    let pic = I8259::new(IrqLine::unconnected());
    pic.set_input(0, true);
    assert!(!pic.output());
    pic.reset();
    assert!(!pic.output());
}

#[test]
fn nothing_pending_is_spurious() {
    let rig = Rig::new();
    assert_eq!(rig.pic.acknowledge(), 0x27);
    rig.write(0, 0x0b);
    assert_eq!(rig.read(0), 0, "and not in service");
}

#[test]
fn a_level_input_asks_until_it_falls() {
    let rig = Rig::new();
    rig.write(5, 0xff);
    assert_eq!(rig.read(5), 0xde);
    rig.pic.set_input(11, true);
    for _ in 0..2 {
        assert!(rig.int());
        assert_eq!(rig.pic.acknowledge(), 0x2b);
        rig.write(2, 0x20);
        rig.write(0, 0x20);
    }
    rig.pic.set_input(11, false);
    assert!(!rig.int());
}

#[test]
fn automatic_end_of_interrupt_and_rotation() {
    let rig = Rig::with_icw4(0x03);
    rig.write(0, 0x80); // rotate on automatic end of interrupt
    rig.pulse(3);
    assert_eq!(rig.pic.acknowledge(), 0x23);
    rig.pulse(3);
    rig.pulse(5);
    assert_eq!(rig.pic.acknowledge(), 0x25, "3 has become the lowest");
    assert_eq!(rig.pic.acknowledge(), 0x23);
}

#[test]
fn special_mask_lets_lower_ones_through() {
    let rig = Rig::new();
    rig.pulse(1);
    assert_eq!(rig.pic.acknowledge(), 0x21);
    rig.pulse(6);
    assert!(!rig.int());
    rig.write(1, 0x02);
    rig.write(0, 0x68);
    assert!(rig.int());
    assert_eq!(rig.pic.acknowledge(), 0x26);
}

#[test]
fn polling_acknowledges() {
    let rig = Rig::new();
    rig.pulse(5);
    rig.write(0, 0x0c);
    assert_eq!(rig.read(0), 0x85);
    assert!(!rig.int());
    assert_eq!(rig.read(0), 0, "one poll, one answer; then the request register");
    rig.write(0, 0x0c);
    assert_eq!(rig.read(0), 0);
}

#[test]
fn state_survives() {
    let rig = Rig::new();
    rig.pulse(1);
    rig.pic.acknowledge();
    rig.pulse(0);
    let json = serde_json::to_string(&rig.pic.save()).unwrap();
    let other = Rig::new();
    other.pic.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert!(other.int());
    assert_eq!(other.pic.acknowledge(), 0x20);
    assert_eq!(other.pic.save().master.isr, 0x03);
}
