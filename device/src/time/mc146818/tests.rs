use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

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
    rtc: Rtc,
    clock: Arc<Clock>,
    wire: Arc<Wire>,
}

impl Rig {
    fn new() -> Self {
        let (clock, wire) = (Arc::new(Clock::new()), Arc::new(Wire::default()));
        let rtc = Rtc::new(clock.clone(), IrqLine::new(wire.clone(), 8), Notifier::none());
        Self { rtc, clock, wire }
    }

    fn read(&self, register: u8) -> u8 {
        let _ = self.rtc.write(0, &[register]);
        let mut data = [0];
        self.rtc.read(1, &mut data);
        data[0]
    }

    fn write(&self, register: u8, value: u8) {
        let _ = self.rtc.write(0, &[register]);
        let _ = self.rtc.write(1, &[value]);
    }

    fn irq(&self) -> bool {
        self.wire.0.load(Ordering::SeqCst)
    }

    /// Sleeps until the part wants to be polled, and polls it.
    fn sleep(&self) -> u64 {
        let start = self.clock.tsc();
        let at = self.rtc.next_deadline().unwrap();
        let ns = self.clock.tsc_to_ns(at.saturating_sub(start));
        std::thread::sleep(std::time::Duration::from_nanos(ns));
        // Whoever polls looks at the deadline again first.
        while self.rtc.next_deadline().is_some_and(|at| at > self.clock.tsc()) {}
        self.rtc.poll(self.clock.tsc());
        ns
    }
}

/// Waits for the beginning of a second, so that a test does not straddle two.
fn early_in_a_second() {
    let ns = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    if ns > 500_000_000 {
        std::thread::sleep(std::time::Duration::from_nanos(1_005_000_000 - u64::from(ns)));
    }
}

#[test]
fn it_tells_the_time() {
    let rig = Rig::new();
    rig.write(0x0b, 0x06); // binary
    early_in_a_second();
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let time = u64::from(rig.read(4)) * 3600 + u64::from(rig.read(2)) * 60 + u64::from(rig.read(0));
    assert_eq!(time, wall % 86_400);
    assert_eq!(rig.read(0x0d), 0x80);
}

#[test]
fn the_guest_sets_the_time() {
    let rig = Rig::new();
    early_in_a_second();
    rig.write(0x0b, 0x82);
    for (register, value) in [(0, 0x30), (2, 0x59), (4, 0x23), (7, 0x31), (8, 0x12), (9, 0x99), (0x32, 0x19)]
    {
        rig.write(register, value);
    }
    assert_eq!(rig.read(2), 0x59, "held");
    rig.write(0x0b, 0x02);
    let read = [0u8, 2, 4, 6, 7, 8, 9, 0x32].map(|register| rig.read(register));
    assert_eq!(read, [0x30, 0x59, 0x23, 6, 0x31, 0x12, 0x99, 0x19], "a Friday");
    rig.write(7, 0x28); // without holding it
    assert_eq!([7, 8, 2].map(|r| rig.read(r)), [0x28, 0x12, 0x59]);
    rig.write(8, 0x77);
    assert_eq!(rig.read(8), 0x12, "nonsense is not taken");
}

#[test]
fn periodic_interrupts() {
    let rig = Rig::new();
    rig.write(0x0a, 0x26); // 1024 Hz
    rig.read(0x0c);
    assert_eq!(rig.rtc.next_deadline(), None);
    rig.write(0x0b, 0x42);
    for _ in 0..3 {
        assert!(rig.sleep() < 1_000_000);
        assert!(rig.irq());
        assert_eq!(rig.rtc.next_deadline(), None, "nothing to do until the guest looks");
        assert_eq!(rig.read(0x0c) & 0xc0, 0xc0);
        assert!(!rig.irq());
    }
}

#[test]
fn update_and_alarm_interrupts() {
    let rig = Rig::new();
    early_in_a_second();
    let next = (rig.read(0) & 0xf) + 1;
    let next = if next == 10 { rig.read(0) + 7 } else { rig.read(0) + 1 };
    let next = if next == 0x60 { 0 } else { next };
    for (register, value) in [(1, next), (3, 0xff), (5, 0xff)] {
        rig.write(register, value);
    }
    rig.write(0x0b, 0x32); // alarm and update
    rig.read(0x0c);
    assert!(!rig.irq());
    rig.sleep();
    assert!(rig.irq());
    assert_eq!(rig.read(0x0c) & 0xb0, 0xb0);
    assert_eq!(rig.read(0), next);
}

#[test]
fn memory_sizes_and_nmi_mask() {
    let rig = Rig::new();
    rig.rtc.set_memory_size(3 << 30, 5 << 30);
    let word = |at| u32::from(rig.read(at)) | u32::from(rig.read(at + 1)) << 8;
    assert_eq!((word(0x15), word(0x17), word(0x30)), (640, 0xffff, 0xffff));
    assert_eq!(word(0x34), ((3 << 30) - (16 << 20)) >> 16);
    assert_eq!(word(0x5b) | u32::from(rig.read(0x5d)) << 16, 5 << 14);
    assert!(!rig.rtc.nmi_masked());
    let _ = rig.rtc.write(0, &[0x8f]);
    assert!(rig.rtc.nmi_masked());
}

#[test]
fn state_survives() {
    let rig = Rig::new();
    rig.write(0x40, 0x99);
    rig.write(0x0b, 0x46);
    let state = rig.rtc.save();
    let json = serde_json::to_string(&state).unwrap();
    let other = Rig::new();
    other.rtc.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert_eq!(other.read(0x40), 0x99);
    assert!(other.rtc.next_deadline().is_some() || other.irq());
    assert!(other.rtc.restore(&RtcState { cmos: vec![0; 127], ..state }).is_err());
}

proptest! {
    /// The line is up exactly if a flag that is enabled is set, and the flag register says so.
    #[test]
    fn invariants(
        steps in prop::collection::vec((any::<bool>(), any::<u8>(), any::<u8>()), 1..100), offset: i64, seen: i64,
    ) {
        let rig = Rig::new();
        let state = RtcState { offset, seen_second: seen, ..rig.rtc.save() };
        prop_assert!(rig.rtc.restore(&state).is_ok());
        for (write, register, value) in steps {
            if write { rig.write(register & 0x7f, value) } else { rig.read(register & 0x7f); }
            rig.rtc.poll(rig.clock.tsc());
            let cmos = rig.rtc.save().cmos;
            prop_assert_eq!(rig.irq(), cmos[REG_B] & cmos[REG_C] & 0x70 != 0);
            prop_assert_eq!(rig.irq(), cmos[REG_C] & 0x80 != 0);
            rig.rtc.next_deadline();
        }
    }
}
