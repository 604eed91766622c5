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
    power: AcpiPower,
    clock: Arc<Clock>,
    wire: Arc<Wire>,
}

impl Rig {
    fn new() -> Self {
        let (clock, wire) = (Arc::new(Clock::new()), Arc::new(Wire::default()));
        let power = AcpiPower::new(clock.clone(), IrqLine::new(wire.clone(), 9), Notifier::none());
        Self { power, clock, wire }
    }

    fn word(&self, offset: u64) -> u16 {
        let mut data = [0; 2];
        self.power.read(offset, &mut data);
        u16::from_le_bytes(data)
    }

    fn set(&self, offset: u64, value: u16) -> Action {
        self.power.write(offset, &value.to_le_bytes())
    }

    fn sci(&self) -> bool {
        self.wire.0.load(Ordering::SeqCst)
    }

    fn advance(&self, seconds: u64) {
        self.clock.set_tsc(self.clock.tsc() + seconds * self.clock.tsc_hz());
    }
}

#[test]
fn the_timer_runs_at_its_frequency() {
    let rig = Rig::new();
    let read = || {
        let mut data = [0; 4];
        rig.power.read(8, &mut data);
        u32::from_le_bytes(data)
    };
    let before = read();
    rig.advance(2);
    let passed = read().wrapping_sub(before);
    assert!((7_159_090..7_300_000).contains(&passed), "{passed}");
    let mut byte = [0];
    rig.power.read(10, &mut byte);
    assert!(read().to_le_bytes()[2].wrapping_sub(byte[0]) <= 1, "by bytes too");
}

#[test]
fn sleeping_in_s5_is_power_off() {
    let rig = Rig::new();
    assert_eq!(rig.word(4), 1, "ACPI mode");
    assert_eq!(rig.set(4, 0x2000 | 1 << 10), Action::None, "S1 is not offered");
    assert_eq!(rig.set(4, 5 << 10), Action::None, "type without enable");
    assert_eq!(rig.word(4), 1 | 5 << 10);
    assert_eq!(rig.set(4, 0x2000 | 5 << 10), Action::PowerOff);
    assert_eq!(rig.word(4), 1 | 5 << 10, "the enable bit reads as zero");
    assert_eq!(rig.power.write(5, &[0x34]), Action::PowerOff, "in a byte write as well");
}

#[test]
fn the_power_button_raises_sci() {
    let rig = Rig::new();
    rig.power.press_power_button();
    assert!(!rig.sci(), "not enabled");
    rig.set(2, 0x100).is_none().then_some(()).unwrap();
    assert!(rig.sci());
    assert_eq!(rig.word(0), 0x100);
    let _ = rig.set(0, 0x001);
    assert!(rig.sci(), "another status bit was cleared");
    let _ = rig.set(0, 0x100);
    assert!(!rig.sci());
}

#[test]
fn the_timer_carry_interrupts() {
    let rig = Rig::new();
    assert_eq!(rig.power.next_deadline(), None);
    let _ = rig.set(2, 1);
    let at = rig.power.next_deadline().unwrap();
    assert_eq!(at / rig.clock.tsc_hz(), (1 << 31) / AcpiPower::TIMER_HZ);
    rig.advance(600);
    rig.power.poll(rig.clock.tsc());
    assert!(rig.sci());
    assert_eq!(rig.power.next_deadline(), None, "until the status is cleared");
    let _ = rig.set(0, 1);
    assert!(!rig.sci());
    assert!(rig.power.next_deadline().unwrap() > at);
}

#[test]
fn state_survives() {
    let rig = Rig::new();
    let _ = rig.set(2, 0x100);
    rig.power.press_power_button();
    let json = serde_json::to_string(&rig.power.save()).unwrap();
    let other = Rig::new();
    let state: AcpiPowerState = serde_json::from_str(&json).unwrap();
    other.power.restore(&state).unwrap();
    assert!(other.sci());
    assert!(other.power.restore(&AcpiPowerState { enable: 0x8000, ..state }).is_err());
}

proptest! {
    #[test]
    fn invariants(steps in prop::collection::vec((0..16u64, any::<u16>(), any::<bool>()), 1..100)) {
        let rig = Rig::new();
        for (offset, value, button) in steps {
            let off = rig.set(offset, value) == Action::PowerOff;
            prop_assert!(!off || (3..=5).contains(&offset));
            if button {
                rig.power.press_power_button();
            }
            prop_assert_eq!(rig.sci(), rig.word(0) & rig.word(2) != 0);
            prop_assert_eq!(rig.word(4) & 1, 1);
            let state = rig.power.save();
            prop_assert!(rig.power.restore(&state).is_ok());
        }
    }
}
