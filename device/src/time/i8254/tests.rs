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
    pit: I8254,
    clock: Arc<Clock>,
    wire: Arc<Wire>,
}

impl Rig {
    fn new() -> Self {
        let (clock, wire) = (Arc::new(Clock::new()), Arc::new(Wire::default()));
        let pit = I8254::new(clock.clone(), IrqLine::new(wire.clone(), 0), Notifier::none());
        Self { pit, clock, wire }
    }

    fn write(&self, offset: u64, value: u8) {
        assert!(self.pit.write(offset, &[value]).is_none());
    }

    fn read(&self, offset: u64) -> u8 {
        let mut data = [0];
        self.pit.read(offset, &mut data);
        data[0]
    }

    fn read_count(&self, channel: u64) -> u16 {
        let low = self.read(channel);
        u16::from_le_bytes([low, self.read(channel)])
    }

    fn program(&self, channel: u64, mode: u8, count: u16) {
        self.write(3, (channel as u8) << 6 | 0x30 | mode << 1);
        for byte in count.to_le_bytes() {
            self.write(channel, byte);
        }
    }

    /// Moves time on by periods of the input clock, and polls.
    fn advance(&self, counts: u64) {
        self.clock.set_tsc(self.clock.tsc() + rescale_up(counts, I8254::HZ, self.clock.tsc_hz()));
        self.pit.poll(self.clock.tsc());
    }

    fn edges(&self) -> usize {
        self.wire.edges.load(Ordering::SeqCst)
    }
}

use crate::time::rescale_up;

/// A few counts pass while a test runs.
fn close(value: u16, expected: u16) -> bool {
    expected.wrapping_sub(value) < 20_000
}

#[test]
fn mode_0_interrupts_once_and_counts_on() {
    let rig = Rig::new();
    rig.program(0, 0, 50_000);
    assert!(!rig.wire.level.load(Ordering::SeqCst));
    rig.advance(10_000);
    rig.write(3, 0x00); // latch
    let count = rig.read_count(0);
    assert!(close(count, 40_000), "{count}");
    assert_eq!(rig.edges(), 0);
    rig.advance(40_000);
    assert_eq!(rig.edges(), 1);
    assert_eq!(rig.pit.next_deadline(), None);
    rig.advance(200_000);
    assert_eq!(rig.edges(), 1);
    rig.program(0, 0, 100);
    assert!(!rig.wire.level.load(Ordering::SeqCst), "a new count takes the line down");
}

#[test]
fn mode_2_interrupts_periodically_in_phase() {
    let rig = Rig::new();
    rig.program(0, 2, 59_659); // 20 Hz
    let first = rig.pit.next_deadline().unwrap();
    for n in 1..=5 {
        rig.advance(59_659);
        assert_eq!(rig.edges(), n);
    }
    let drift = rig.pit.next_deadline().unwrap() - first;
    let expected = rescale_up(5 * 59_659, I8254::HZ, rig.clock.tsc_hz());
    assert!(drift.abs_diff(expected) <= 1, "{drift} {expected}");
    let count = rig.read_count(0);
    assert!((1..=59_659).contains(&count));
    rig.program(0, 0, 0); // as Linux shuts it down
    rig.advance(65_536);
    rig.advance(1_000_000);
    assert_eq!(rig.edges(), 6);
}

#[test]
fn a_new_count_waits_for_the_end_of_the_period() {
    let rig = Rig::new();
    rig.program(0, 2, 60_000);
    let first = rig.pit.next_deadline();
    for byte in 30_000u16.to_le_bytes() {
        rig.write(0, byte);
    }
    assert_eq!(rig.pit.next_deadline(), first);
    rig.advance(60_000);
    let period = rig.pit.next_deadline().unwrap() - first.unwrap();
    let expected = rescale_up(30_000, I8254::HZ, rig.clock.tsc_hz());
    assert!(period.abs_diff(expected) <= 2, "{period} {expected}");
}

#[test]
fn channel_2_times_through_port_b() {
    let rig = Rig::new();
    rig.write(4, 0x00);
    rig.program(2, 0, 60_000);
    assert_eq!(rig.read(4) & 0x20, 0);
    rig.advance(60_000);
    assert_eq!(rig.read(4) & 0x21, 0, "gated");
    rig.write(4, 0x01);
    rig.advance(30_000);
    assert_eq!(rig.read(4) & 0x21, 0x01);
    rig.write(4, 0x00);
    rig.advance(100_000);
    rig.write(4, 0x03);
    assert_eq!(rig.read(4) & 0x23, 0x03, "the gate held the count");
    rig.advance(30_000);
    assert_eq!(rig.read(4) & 0x23, 0x23);
}

#[test]
fn the_refresh_bit_toggles() {
    let rig = Rig::new();
    let seen: std::collections::HashSet<u8> = (0..64)
        .map(|_| {
            rig.advance(11);
            rig.read(4) & 0x10
        })
        .collect();
    assert_eq!(seen.len(), 2);
}

#[test]
fn read_back_and_access_modes() {
    let rig = Rig::new();
    rig.program(1, 2, 0x1234);
    rig.write(3, 0xe4); // status of channel 1
    assert_eq!(rig.read(1) & 0x3f, 0x34);
    rig.write(3, 0xc4); // status and count
    let status = rig.read(1);
    let count = rig.read_count(1);
    assert_eq!(status & 0x7f, 0x34);
    assert!((1..=0x1234).contains(&count));
    rig.write(3, 0x60 | 0x04); // high byte only
    rig.write(1, 0x80);
    let high = rig.read(1);
    assert!((0x7e..=0x80).contains(&high), "{high:#x}");
    rig.write(3, 0xe4);
    assert_eq!(rig.read(1) & 0x3f, 0x24);
    rig.write(3, 0x50 | 0x04); // low byte only
    rig.write(1, 0);
    rig.write(3, 0xe4);
    assert_eq!(rig.read(1) & 0x7f, 0x14);
}

#[test]
fn bcd() {
    let rig = Rig::new();
    rig.write(3, 0x31);
    rig.write(0, 0x00);
    rig.write(0, 0x90);
    rig.advance(1_000);
    rig.write(3, 0x00);
    let count = rig.read_count(0);
    assert!((0x7000..=0x8000).contains(&count), "{count:x}");
    assert!((0..4).all(|digit| count >> (4 * digit) & 0xf < 10));
}

#[test]
fn state_survives() {
    let rig = Rig::new();
    rig.program(0, 3, 11_932);
    rig.write(3, 0x00);
    rig.read(0);
    let state = rig.pit.save();
    let json = serde_json::to_string(&state).unwrap();
    let other = Rig::new();
    other.pit.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert_eq!(other.pit.save(), state);
    let mut bad = state;
    bad.channels[2].count = 0;
    assert!(other.pit.restore(&bad).is_err());
}

proptest! {
    #[test]
    fn invariants(steps in prop::collection::vec((0..8u64, any::<u8>(), 0..200_000u64), 1..120)) {
        let rig = Rig::new();
        for (what, value, time) in steps {
            if what < 5 { rig.write(what, value) } else { rig.read(u64::from(value % 5)); }
            rig.advance(time);
            let now = rig.clock.tsc();
            prop_assert!(rig.pit.next_deadline().is_none_or(|d| d > now.saturating_sub(rig.clock.tsc_hz())));
            let state = rig.pit.save();
            prop_assert!(rig.pit.restore(&state).is_ok());
            prop_assert_eq!(rig.pit.save(), state);
        }
    }
}
