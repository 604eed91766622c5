use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::*;

use super::*;
use crate::IrqSink;

#[derive(Default)]
struct Wire {
    level: AtomicBool,
    edges: AtomicUsize,
}

impl IrqSink for Wire {
    fn set_level(&self, _pin: u32, asserted: bool) {
        if !self.level.swap(asserted, Ordering::SeqCst) && asserted {
            self.edges.fetch_add(1, Ordering::SeqCst);
        }
    }
}

struct Rig {
    part: I8042,
    wire: Arc<Wire>,
}

impl Rig {
    fn new() -> Self {
        let wire = Arc::new(Wire::default());
        Self { part: I8042::new(IrqLine::new(wire.clone(), 1)), wire }
    }

    fn status(&self) -> u8 {
        let mut data = [0];
        self.part.read(1, &mut data);
        data[0]
    }

    fn data(&self) -> u8 {
        let mut data = [0];
        self.part.read(0, &mut data);
        data[0]
    }

    /// All that is there to read.
    fn drain(&self) -> Vec<u8> {
        let mut all = Vec::new();
        while self.status() & 1 != 0 {
            all.push(self.data());
        }
        all
    }

    fn command(&self, command: u8, argument: Option<u8>) -> Vec<u8> {
        assert!(self.part.write(1, &[command]).is_none());
        if let Some(argument) = argument {
            assert!(self.part.write(0, &[argument]).is_none());
        }
        self.drain()
    }

    fn keyboard(&self, bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|byte| {
                assert!(self.part.write(0, &[*byte]).is_none());
                self.drain()
            })
            .collect()
    }
}

#[test]
fn the_controller_answers_as_a_driver_probes_it() {
    let rig = Rig::new();
    assert_eq!(rig.status() & 0x03, 0);
    assert_eq!(rig.command(0xaa, None), [0x55]);
    assert_eq!(rig.status() & 0x04, 0x04, "self-test passed");
    assert_eq!(rig.command(0xab, None), [0x00]);
    assert_eq!(rig.command(0x60, Some(0x47)), [0u8; 0]);
    assert_eq!(rig.command(0x20, None), [0x47]);
    assert_eq!(rig.command(0xad, None), [0u8; 0]);
    assert_eq!(rig.command(0x20, None), [0x57]);
    assert_eq!(rig.command(0xd2, Some(0x5a)), [0x5a]);
}

#[test]
fn no_auxiliary_device() {
    let rig = Rig::new();
    let _ = rig.part.write(1, &[0xd3]);
    let _ = rig.part.write(0, &[0x5a]);
    assert_eq!(rig.status() & 0x21, 0x01, "the loopback answers on the keyboard port");
    rig.drain();
    assert_eq!(rig.command(0xa9, None), [0x01]);
}

#[test]
fn the_keyboard_identifies_itself() {
    let rig = Rig::new();
    rig.command(0x60, Some(0x07)); // no translation
    assert_eq!(rig.keyboard(&[0xff]), [0xfa, 0xaa]);
    assert_eq!(rig.keyboard(&[0xf2]), [0xfa, 0xab, 0x83]);
    assert_eq!(rig.keyboard(&[0xed, 0x07, 0xf4, 0xf5]), [0xfa; 4]);
    assert_eq!(rig.keyboard(&[0xf0, 0x00]), [0xfa, 0xfa, 2]);
    assert_eq!(rig.keyboard(&[0xee]), [0xee]);
    assert_eq!(rig.keyboard(&[0x12]), [0xfe]);
    rig.command(0x60, Some(0x47));
    assert_eq!(rig.keyboard(&[0xf2]), [0xfa, 0xab, 0x41], "translated");
}

#[test]
fn keys_come_in_set_1_with_an_edge_each() {
    let rig = Rig::new();
    assert_eq!(rig.part.push_scancodes(&[0x1c, 0xf0, 0x1c]), 3); // A down, A up
    assert_eq!(rig.drain(), [0x1e, 0x9e]);
    assert_eq!(rig.wire.edges.load(Ordering::SeqCst), 2);
    rig.part.push_scancodes(&[0xe0, 0x75, 0xe0, 0xf0, 0x75]); // cursor up
    assert_eq!(rig.drain(), [0xe0, 0x48, 0xe0, 0xc8]);
    assert_eq!(rig.part.push_scancodes(&[0x1c; 17]), 0, "all or nothing");
    rig.keyboard(&[0xf5]);
    assert_eq!(rig.part.push_scancodes(&[0x1c]), 0, "scanning is off");
    assert!(!rig.wire.level.load(Ordering::SeqCst));
}

#[test]
fn a_disabled_port_keeps_its_keys() {
    let rig = Rig::new();
    rig.command(0xad, None);
    rig.part.push_scancodes(&[0x1c]);
    assert_eq!(rig.drain(), [0u8; 0]);
    assert_eq!(rig.command(0xae, None), [0x1e]);
}

#[test]
fn every_way_to_reset() {
    let rig = Rig::new();
    assert_eq!(rig.part.write(1, &[0xfe]), Action::Reset);
    assert_eq!(rig.part.write(1, &[0xff]), Action::None);
    let _ = rig.part.write(1, &[0xd1]);
    assert_eq!(rig.part.write(0, &[0xdf]), Action::None);
    assert_eq!(rig.command(0xd0, None), [0xcf]);
    let _ = rig.part.write(1, &[0xd1]);
    assert_eq!(rig.part.write(0, &[0xde]), Action::Reset);
}

#[test]
fn state_survives() {
    let rig = Rig::new();
    rig.part.push_scancodes(&[0x1c, 0xf0, 0x1c]);
    let _ = rig.part.write(1, &[0x60]);
    let state = rig.part.save();
    let json = serde_json::to_string(&state).unwrap();
    let other = Rig::new();
    other.part.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert_eq!(other.part.save(), state);
    assert!(other.wire.level.load(Ordering::SeqCst));
    assert_eq!(other.drain(), [0x1e, 0x9e]);
    let mut bad = state;
    bad.keyboard.keys = vec![0; 100];
    assert!(other.part.restore(&bad).is_err());
}

proptest! {
    /// The line is up exactly while the output buffer is full and the interrupt enabled; draining ends.
    #[test]
    fn invariants(steps in prop::collection::vec((0..4u8, any::<u8>()), 1..200)) {
        let rig = Rig::new();
        for (what, value) in steps {
            match what {
                0 | 1 => { let _ = rig.part.write(what.into(), &[value]); }
                2 => { rig.data(); }
                _ => { rig.part.push_scancodes(&[value, value]); }
            }
            let full = rig.status() & 1 != 0;
            let enabled = rig.part.save().command_byte & 1 != 0;
            prop_assert_eq!(rig.wire.level.load(Ordering::SeqCst), full && enabled);
            let state = rig.part.save();
            prop_assert!(rig.part.restore(&state).is_ok());
            prop_assert_eq!(rig.part.save(), state);
        }
        prop_assert!(rig.drain().len() <= 24);
    }
}
