use cpu::{Clock, Signals};

use super::*;

fn ioapic() -> Ioapic {
    let clock = Arc::new(Clock::new());
    Ioapic::new(0, Arc::new(ApicBus::new(&clock, [Arc::new(Signals::new())])))
}

fn access(part: &Ioapic, register: u32, value: Option<u32>) -> u32 {
    let _ = part.write(0, &register.to_le_bytes());
    if let Some(value) = value {
        let _ = part.write(0x10, &value.to_le_bytes());
    }
    let mut data = [0; 4];
    part.read(0x10, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn identification() {
    let part = ioapic();
    assert_eq!(access(&part, 1, Some(!0)), 0x0017_0020);
    assert_eq!(access(&part, 0, Some(!0)), 0x0f00_0000);
    assert_eq!(access(&part, 0x10, None), 0x1_0000, "masked at power-on");
    assert_eq!(access(&part, 0x40, Some(!0)), 0, "no such register");
}

#[test]
fn read_only_bits_stay() {
    let part = ioapic();
    assert_eq!(access(&part, 0x3e, Some(!0)), 0x1_afff, "no delivery status, no remote IRR");
    assert_eq!(access(&part, 0x3f, Some(!0)), 0xff00_0000);
}

#[test]
fn state_survives_and_nonsense_is_refused() {
    let part = ioapic();
    access(&part, 0x12, Some(0x8033));
    part.set_level(1, true);
    let state = part.save();
    let json = serde_json::to_string(&state).unwrap();
    let other = ioapic();
    other.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert_eq!(other.save(), state);
    assert!(other.restore(&IoapicState { inputs: 1 << 24, ..state.clone() }).is_err());
    assert_eq!(other.save(), state, "a refused state changes nothing");
}
