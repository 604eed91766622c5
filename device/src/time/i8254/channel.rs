//! One counter of an 8254.

use serde::{Deserialize, Serialize};

use super::I8254;
use crate::time::{rescale, rescale_up};

/// What the counter is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Run {
    /// No count yet, or waiting for its gate.
    #[default]
    Idle,
    /// Counting since this tick of the machine clock.
    Since(u64),
    /// Held by its gate after so many counts.
    Held(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Access {
    Low,
    High,
    #[default]
    Both,
}

#[derive(Debug, Default)]
pub(super) struct Channel {
    mode: u8,
    access: Access,
    bcd: bool,
    /// 1 to 65536 (10000 in BCD).
    count: u32,
    /// Periodic modes: a count that takes over when the present period ends.
    next: Option<u32>,
    run: Run,
    pub(super) gate: bool,
    /// First byte of a two-byte write.
    low: Option<u8>,
    /// The next read of a two-byte read is the high byte.
    high_next: bool,
    latched: Option<u16>,
    status: Option<u8>,
}

/// Saved state of one counter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct ChannelState {
    pub mode: u8,
    access: Access,
    pub bcd: bool,
    pub count: u32,
    pub next: Option<u32>,
    pub run: Run,
    pub gate: bool,
    pub low: Option<u8>,
    pub high_next: bool,
    pub latched: Option<u16>,
    pub status: Option<u8>,
}

impl ChannelState {
    pub(super) fn is_valid(&self) -> bool {
        let range = 1..=0x1_0000;
        self.mode <= 5 && range.contains(&self.count) && self.next.is_none_or(|n| range.contains(&n))
    }
}

fn from_bcd(value: u16) -> u32 {
    (0..4).rev().fold(0, |n, digit| n * 10 + u32::from(value >> (4 * digit) & 0xf))
}

fn to_bcd(value: u32) -> u16 {
    (0..4).fold(0, |bcd, digit| bcd | ((value / 10u32.pow(digit) % 10) as u16) << (4 * digit))
}

impl Channel {
    pub(super) fn new() -> Self {
        Self { count: 0x1_0000, gate: true, ..Self::default() }
    }

    fn modulus(&self) -> u32 {
        if self.bcd { 10_000 } else { 0x1_0000 }
    }

    pub(super) fn is_periodic(&self) -> bool {
        matches!(self.mode, 2 | 3)
    }

    /// Modes whose OUT stays high after the count.
    pub(super) fn holds_output(&self) -> bool {
        self.mode <= 1
    }

    fn is_triggered_by_gate(&self) -> bool {
        matches!(self.mode, 1 | 5)
    }

    /// Counts since the start.
    fn elapsed(&self, now: u64, hz: u64) -> u64 {
        match self.run {
            Run::Idle => 0,
            Run::Held(counts) => counts,
            Run::Since(start) => rescale(now.saturating_sub(start), hz, I8254::HZ),
        }
    }

    /// Takes over a count that waited for the end of the period.
    fn settle(&mut self, now: u64, hz: u64) {
        let (Some(next), Run::Since(start)) = (self.next, self.run) else { return };
        if self.elapsed(now, hz) >= u64::from(self.count) {
            self.run = Run::Since(start.saturating_add(rescale_up(self.count.into(), I8254::HZ, hz)));
            self.count = next;
            self.next = None;
        }
    }

    /// The counting element as it reads.
    fn value(&self, now: u64, hz: u64) -> u16 {
        let (elapsed, count) = (self.elapsed(now, hz), u64::from(self.count));
        let value = match self.mode {
            _ if self.run == Run::Idle => count,
            2 => count - elapsed % count,
            3 => {
                let at = elapsed % count;
                let high = count.div_ceil(2);
                count.saturating_sub(2 * if at < high { at } else { at - high }) & !1
            }
            _ => {
                let modulus = u64::from(self.modulus());
                (count + modulus - elapsed % modulus) % modulus
            }
        } as u32;
        let value = value % self.modulus();
        if self.bcd { to_bcd(value) } else { value as u16 }
    }

    /// Level of OUT.
    pub(super) fn out(&self, now: u64, hz: u64) -> bool {
        let (elapsed, count) = (self.elapsed(now, hz), u64::from(self.count));
        match (self.mode, self.run) {
            (0, Run::Idle) => false,
            (_, Run::Idle) => true,
            (0 | 1, _) => elapsed >= count,
            (2, _) => !self.gate || elapsed % count != count - 1,
            (3, _) => !self.gate || elapsed % count < count.div_ceil(2),
            _ => elapsed != count,
        }
    }

    /// The first rising edge of OUT after `now`, in ticks of the machine clock.
    pub(super) fn next_edge(&mut self, now: u64, hz: u64) -> Option<u64> {
        self.settle(now, hz);
        let Run::Since(start) = self.run else { return None };
        let (elapsed, count) = (self.elapsed(now, hz), u64::from(self.count));
        let edge = match self.mode {
            2 | 3 => (elapsed / count + 1).saturating_mul(count),
            4 | 5 => count + 1,
            _ => count,
        };
        Some(start.saturating_add(rescale_up(edge, I8254::HZ, hz)))
    }

    /// Control word or counter-latch command; true if the counter was programmed.
    pub(super) fn control(&mut self, value: u8, now: u64, hz: u64) -> bool {
        self.access = match value >> 4 & 3 {
            0 => {
                self.latch(now, hz);
                return false;
            }
            1 => Access::Low,
            2 => Access::High,
            _ => Access::Both,
        };
        // Modes 6 and 7 are 2 and 3.
        self.mode = match value >> 1 & 7 {
            mode @ 0..=5 => mode,
            mode => mode - 4,
        };
        self.bcd = value & 1 != 0;
        self.count = self.modulus();
        (self.next, self.run) = (None, Run::Idle);
        (self.low, self.high_next, self.latched, self.status) = (None, false, None, None);
        true
    }

    /// A byte of the count; true if that loads the counter.
    pub(super) fn write(&mut self, value: u8, now: u64, hz: u64) -> bool {
        let count = match (self.access, self.low.take()) {
            (Access::Low, _) => u16::from(value),
            (Access::High, _) => u16::from(value) << 8,
            (Access::Both, Some(low)) => u16::from(value) << 8 | u16::from(low),
            (Access::Both, None) => {
                self.low = Some(value);
                if self.mode == 0 {
                    self.run = Run::Idle; // the first byte stops the counter
                }
                return self.mode == 0;
            }
        };
        let count = match if self.bcd { from_bcd(count) } else { count.into() } {
            0 => self.modulus(),
            n => n,
        };
        self.settle(now, hz);
        match (self.mode, self.run) {
            (2 | 3, Run::Since(_)) => self.next = Some(count),
            (1 | 5, _) => self.count = count, // starts with the gate
            _ => {
                self.count = count;
                self.run = if self.gate { Run::Since(now) } else { Run::Held(0) };
            }
        }
        // A periodic counter goes on; its next edge stays where it was.
        self.next.is_none()
    }

    pub(super) fn set_gate(&mut self, gate: bool, now: u64, hz: u64) {
        if gate == self.gate {
            return;
        }
        self.settle(now, hz);
        self.gate = gate;
        self.run = match (self.run, gate) {
            (_, true) if self.is_triggered_by_gate() => Run::Since(now),
            (run, _) if self.is_triggered_by_gate() => run,
            (Run::Held(_), true) if self.is_periodic() => {
                self.count = self.next.take().unwrap_or(self.count);
                Run::Since(now)
            }
            (Run::Held(counts), true) => Run::Since(now.saturating_sub(rescale_up(counts, I8254::HZ, hz))),
            (Run::Since(_), false) => Run::Held(self.elapsed(now, hz)),
            (run, _) => run,
        };
    }

    fn latch(&mut self, now: u64, hz: u64) {
        self.settle(now, hz);
        if self.latched.is_none() {
            self.latched = Some(self.value(now, hz));
        }
    }

    pub(super) fn read_back(&mut self, count: bool, status: bool, now: u64, hz: u64) {
        self.settle(now, hz);
        if status && self.status.is_none() {
            let access = match self.access {
                Access::Low => 1,
                Access::High => 2,
                Access::Both => 3,
            };
            let null = self.run == Run::Idle || self.next.is_some();
            let out = self.out(now, hz);
            let status = u8::from(out) << 7 | u8::from(null) << 6 | access << 4 | self.mode << 1;
            self.status = Some(status | u8::from(self.bcd));
        }
        if count {
            self.latch(now, hz);
        }
    }

    pub(super) fn read(&mut self, now: u64, hz: u64) -> u8 {
        if let Some(status) = self.status.take() {
            return status;
        }
        self.settle(now, hz);
        let value = self.latched.unwrap_or_else(|| self.value(now, hz));
        let (byte, done) = match (self.access, self.high_next) {
            (Access::Low, _) => (value as u8, true),
            (Access::High, _) => ((value >> 8) as u8, true),
            (Access::Both, false) => (value as u8, false),
            (Access::Both, true) => ((value >> 8) as u8, true),
        };
        self.high_next = !done;
        if done {
            self.latched = None;
        }
        byte
    }

    pub(super) fn save(&self) -> ChannelState {
        ChannelState {
            mode: self.mode,
            access: self.access,
            bcd: self.bcd,
            count: self.count,
            next: self.next,
            run: self.run,
            gate: self.gate,
            low: self.low,
            high_next: self.high_next,
            latched: self.latched,
            status: self.status,
        }
    }

    pub(super) fn restore(state: &ChannelState) -> Self {
        Self {
            mode: state.mode,
            access: state.access,
            bcd: state.bcd,
            count: state.count,
            next: state.next,
            run: state.run,
            gate: state.gate,
            low: state.low,
            high_next: state.high_next,
            latched: state.latched,
            status: state.status,
        }
    }
}
