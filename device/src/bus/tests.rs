use super::*;
use crate::{Device, bytes};

/// Answers every byte with its own offset.
struct Echo(&'static str);

impl Device for Echo {
    fn name(&self) -> &'static str {
        self.0
    }
    fn reset(&self) {}
}

impl Registers for Echo {
    fn read(&self, offset: u64, data: &mut [u8]) {
        bytes::read_each(offset, data, |offset| offset as u8);
    }
    fn write(&self, offset: u64, data: &[u8]) -> Action {
        if offset == 3 { Action::DebugExit(data[0]) } else { Action::None }
    }
}

#[test]
fn an_access_reaches_its_part_and_the_rest_floats() {
    let mut bus = PortBus::new();
    bus.map(0x3f8, 8, Arc::new(Echo("a")), 0).unwrap();
    bus.map(0x20, 2, Arc::new(Echo("b")), 0x10).unwrap();
    bus.map(0x400, 2, Arc::new(Echo("c")), 0x40).unwrap();
    let read = |port, len| {
        let mut data = vec![0u8; len];
        bus.read(port, &mut data);
        data
    };
    assert_eq!(read(0x3fa, 2), [2, 3]);
    assert_eq!(read(0x21, 1), [0x11]);
    assert_eq!(read(0x21, 2), [0x11, 0xff], "the second port is nobody's");
    assert_eq!(read(0x1f, 2), [0xff, 0x10]);
    assert_eq!(read(0x3fe, 4), [6, 7, 0x40, 0x41], "one access, two parts");
    assert_eq!(read(0xffff, 4), [0xff; 4]);
    assert_eq!(bus.write(0x3fb, &[7]), Action::DebugExit(7));
    assert_eq!(bus.write(0x3f8, &[1, 2, 3, 4]), Action::None, "it is one access at offset 0");
    assert_eq!(bus.write(0x50, &[7]), Action::None);
}

#[test]
fn an_overlap_is_refused_and_named() {
    let mut bus = PortBus::new();
    bus.map(0x60, 4, Arc::new(Echo("first")), 0).unwrap();
    bus.map(0x64, 1, Arc::new(Echo("adjacent")), 0).unwrap();
    for (start, len) in [(0x60, 1), (0x5f, 2), (0x63, 1), (0x50, 0x100)] {
        let error = bus.map(start, len, Arc::new(Echo("second")), 0).unwrap_err();
        assert!(matches!(error, BusError::Overlap { other: "first", .. }), "{error}");
    }
    assert!(matches!(bus.map(0xfff0, 0x20, Arc::new(Echo("x")), 0), Err(BusError::Invalid { .. })));
    assert!(matches!(bus.map(0x10, 0, Arc::new(Echo("x")), 0), Err(BusError::Invalid { .. })));
}

#[test]
fn memory_reaches_the_last_address() {
    let mut bus = MmioBus::new();
    bus.map(u64::MAX - 3, 4, Arc::new(Echo("top")), 0).unwrap();
    let mut data = [0; 8];
    bus.read(u64::MAX - 1, &mut data);
    assert_eq!(data[..2], [2, 3]);
    assert_eq!(bus.write(u64::MAX, &[9, 9]), Action::DebugExit(9));
}
