//! Real-time clock and CMOS memory: Motorola MC146818A (datasheet), with the PC's memory layout: memory sizes
//! in bytes 0x15-0x18, 0x30-0x31, 0x34-0x35, 0x5b-0x5d and the century in 0x32.
//!
//! The time is the host's wall clock in UTC plus the whole seconds the guest moved it by. NOT modelled: the
//! square-wave output, daylight saving, stopping the divider (it keeps its phase), bank-switched memory.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use cpu::Clock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    Action, Device, IrqLine, Notifier, Pollable, PortWindow, Registers, RestoreError, SaveRestore, bytes,
};

mod calendar;

use calendar::{Alarm, Format};

const SECOND: u64 = 1_000_000_000;
/// How long before the second the update-in-progress bit is set.
const UPDATE_NS: u64 = 244_000;

const REG_A: usize = 0x0a;
const REG_B: usize = 0x0b;
const REG_C: usize = 0x0c;
const REG_D: usize = 0x0d;
const CENTURY: usize = 0x32;

/// Register B: time is held for setting.
const B_SET: u8 = 0x80;
/// Bits of registers B (enable) and C (flag) alike.
const PERIODIC: u8 = 0x40;
const ALARM: u8 = 0x20;
const UPDATE: u8 = 0x10;
const C_IRQ: u8 = 0x80;

/// MC146818 with 128 bytes of memory.
pub struct Rtc {
    clock: Arc<Clock>,
    irq: IrqLine,
    notifier: Notifier,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Registers and memory. The time registers count only while it is held (B_SET).
    cmos: [u8; 128],
    index: u8,
    nmi_masked: bool,
    /// Guest time minus host time, seconds.
    offset: i64,
    /// Guest second and periodic tick that the flags in register C account for.
    seen_second: i64,
    seen_tick: u64,
}

/// Saved state of [`Rtc`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct RtcState {
    pub cmos: Vec<u8>,
    pub index: u8,
    pub nmi_masked: bool,
    pub offset: i64,
    pub seen_second: i64,
    pub seen_tick: u64,
}

/// The instant of an access.
#[derive(Clone, Copy)]
struct Now {
    /// Host wall clock, nanoseconds since 1970.
    wall: u64,
    tsc: u64,
    /// Machine clock, nanoseconds.
    ns: u64,
}

impl Inner {
    fn new(now: Now) -> Self {
        let mut cmos = [0; 128];
        cmos[REG_A] = 0x26;
        cmos[REG_B] = 0x02; // 24 hours, BCD
        cmos[REG_D] = 0x80; // the battery is good
        let mut inner = Self { cmos, index: 0, nmi_masked: false, offset: 0, seen_second: 0, seen_tick: 0 };
        inner.forget_past(now);
        inner
    }

    fn format(&self) -> Format {
        Format { binary: self.cmos[REG_B] & 0x04 != 0, hours24: self.cmos[REG_B] & 0x02 != 0 }
    }

    fn is_held(&self) -> bool {
        self.cmos[REG_B] & B_SET != 0
    }

    fn seconds(&self, now: Now) -> i64 {
        ((now.wall / SECOND) as i64).saturating_add(self.offset)
    }

    /// Nanoseconds between periodic interrupts, if they are selected.
    fn period(&self) -> Option<u64> {
        let rate = match self.cmos[REG_A] & 0x0f {
            0 => return None,
            rate @ 1..=2 => rate + 7,
            rate => rate,
        };
        Some((SECOND << (rate - 1)) / 32_768)
    }

    fn tick(&self, now: Now) -> u64 {
        self.period().map_or(0, |period| now.ns / period)
    }

    fn forget_past(&mut self, now: Now) {
        self.seen_second = self.seconds(now);
        self.seen_tick = self.tick(now);
    }

    /// Brings the flags of register C up to now, and the line in step with them.
    fn update(&mut self, now: Now, line: &IrqLine) {
        let second = self.seconds(now);
        if second != self.seen_second && !self.is_held() {
            self.cmos[REG_C] |= UPDATE;
            let passed = u64::try_from(second.saturating_sub(self.seen_second)).unwrap_or(0);
            let next = self.alarm().and_then(|alarm| alarm.seconds_after(self.seen_second));
            if next.is_some_and(|next| next <= passed) {
                self.cmos[REG_C] |= ALARM;
            }
        }
        if self.period().is_some() && self.tick(now) != self.seen_tick {
            self.cmos[REG_C] |= PERIODIC;
        }
        self.forget_past(now);
        let raised = self.cmos[REG_B] & self.cmos[REG_C] & (PERIODIC | ALARM | UPDATE) != 0;
        if raised != (self.cmos[REG_C] & C_IRQ != 0) {
            self.cmos[REG_C] ^= C_IRQ;
            line.set(raised);
        }
    }

    fn alarm(&self) -> Option<Alarm> {
        self.format().alarm([self.cmos[5], self.cmos[3], self.cmos[1]])
    }

    /// Nanoseconds until an enabled flag that is not set yet will be; 0 if it is due.
    fn next_event(&self, now: Now) -> Option<u64> {
        let wanted = self.cmos[REG_B] & !self.cmos[REG_C];
        let to_second = SECOND - now.wall % SECOND;
        let passed = self.seconds(now).saturating_sub(self.seen_second);
        let mut next = None;
        let mut candidate = |ns: u64| next = Some(next.map_or(ns, |n: u64| n.min(ns)));
        if let (true, Some(period)) = (wanted & PERIODIC != 0, self.period()) {
            candidate(if self.tick(now) == self.seen_tick { period - now.ns % period } else { 0 });
        }
        if wanted & UPDATE != 0 && !self.is_held() {
            candidate(if passed == 0 { to_second } else { 0 });
        }
        if wanted & ALARM != 0
            && !self.is_held()
            && let Some(after) = self.alarm().and_then(|alarm| alarm.seconds_after(self.seen_second))
        {
            let left = i64::try_from(after).unwrap_or(i64::MAX).saturating_sub(passed);
            let whole = u64::try_from(left.saturating_sub(1)).map(|s| s.saturating_mul(SECOND));
            candidate(whole.map_or(0, |whole| whole.saturating_add(to_second)));
        }
        next
    }

    /// Fills the time registers.
    fn load_time(&mut self, now: Now) {
        let time = self.format().encode(self.seconds(now));
        for (register, value) in time {
            self.cmos[register] = value;
        }
    }

    /// Sets the time from the time registers; nonsense leaves it as it was.
    fn store_time(&mut self, now: Now) {
        if let Some(seconds) = self.format().decode(&self.cmos) {
            self.offset = seconds.saturating_sub((now.wall / SECOND) as i64);
        }
        self.forget_past(now);
    }

    fn read(&mut self, now: Now, line: &IrqLine) -> u8 {
        let index = usize::from(self.index);
        match index {
            0 | 2 | 4 | 6..=9 | CENTURY => {
                if !self.is_held() {
                    self.load_time(now);
                }
                self.cmos[index]
            }
            REG_A => {
                let updating = !self.is_held() && SECOND - now.wall % SECOND <= UPDATE_NS;
                self.cmos[REG_A] & 0x7f | u8::from(updating) << 7
            }
            REG_C => {
                self.update(now, line);
                let flags = std::mem::take(&mut self.cmos[REG_C]);
                if flags & C_IRQ != 0 {
                    line.lower();
                }
                flags
            }
            _ => self.cmos[index],
        }
    }

    fn write(&mut self, value: u8, now: Now, line: &IrqLine) {
        self.update(now, line);
        let index = usize::from(self.index);
        match index {
            0 | 2 | 4 | 6..=9 | CENTURY => {
                if self.is_held() {
                    self.cmos[index] = value;
                } else {
                    self.load_time(now);
                    self.cmos[index] = value;
                    self.store_time(now);
                }
            }
            REG_A => self.cmos[REG_A] = value & 0x7f,
            REG_B => {
                let held = self.is_held();
                if value & B_SET != 0 && !held {
                    self.load_time(now);
                }
                self.cmos[REG_B] = value;
                if value & B_SET != 0 {
                    self.cmos[REG_B] &= !UPDATE; // holding the time clears the update-ended enable
                } else if held {
                    self.store_time(now);
                }
            }
            REG_C | REG_D => {}
            _ => self.cmos[index] = value,
        }
        if index == REG_A {
            self.forget_past(now);
        }
        self.update(now, line);
    }
}

impl Rtc {
    /// Offset 0 index, 1 data.
    pub const PORTS: &'static [PortWindow] = &[PortWindow { port: 0x70, len: 2, offset: 0 }];

    /// A clock that drives `irq` (ISA interrupt 8).
    pub fn new(clock: Arc<Clock>, irq: IrqLine, notifier: Notifier) -> Self {
        let inner = Mutex::new(Inner::new(instant(&clock)));
        Self { clock, irq, notifier, inner }
    }

    /// Stores the memory size where firmware leaves it: bytes of RAM below and above 4 GiB.
    pub fn set_memory_size(&self, low: u64, high: u64) {
        let mut inner = self.inner.lock();
        let mut put = |at: usize, len: usize, value: u64| {
            inner.cmos[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
        };
        let extended = (low.saturating_sub(1 << 20) >> 10).min(0xffff);
        put(0x15, 2, 640);
        put(0x17, 2, extended);
        put(0x30, 2, extended);
        put(0x34, 2, (low.saturating_sub(16 << 20) >> 16).min(0xffff));
        put(0x5b, 3, (high >> 16).min(0xff_ffff));
    }

    /// Bit 7 of port 0x70: the guest masks NMIs at the chipset.
    pub fn nmi_masked(&self) -> bool {
        self.inner.lock().nmi_masked
    }

    /// An event that is due has its deadline at `now`, so that whoever asks polls.
    fn deadline(&self, inner: &Inner, now: Now) -> Option<u64> {
        let ticks = |ns| if ns == 0 { 0 } else { self.clock.ns_to_tsc(ns).saturating_add(1) };
        inner.next_event(now).map(|ns| now.tsc.saturating_add(ticks(ns)))
    }
}

fn instant(clock: &Clock) -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let tsc = clock.tsc();
    Now { wall, tsc, ns: clock.tsc_to_ns(tsc) }
}

impl Device for Rtc {
    fn name(&self) -> &'static str {
        "rtc"
    }

    /// The battery keeps time and memory; interrupts are off.
    fn reset(&self) {
        let mut inner = self.inner.lock();
        inner.cmos[REG_B] &= !(PERIODIC | ALARM | UPDATE);
        inner.cmos[REG_C] = 0;
        inner.index = 0;
        inner.nmi_masked = false;
        self.irq.lower();
    }
}

impl Registers for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let now = instant(&self.clock);
        let mut inner = self.inner.lock();
        let mut moved = false;
        bytes::read_each(offset, data, |offset| match offset {
            1 => {
                moved |= usize::from(inner.index) == REG_C;
                inner.read(now, &self.irq)
            }
            _ => 0xff, // the index is write-only
        });
        if moved {
            self.notifier.moved(self.deadline(&inner, now));
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let now = instant(&self.clock);
        let mut inner = self.inner.lock();
        bytes::write_each(offset, data, |offset, value| {
            match offset {
                0 => {
                    inner.index = value & 0x7f;
                    inner.nmi_masked = value & 0x80 != 0;
                }
                1 => {
                    inner.write(value, now, &self.irq);
                    self.notifier.moved(self.deadline(&inner, now));
                }
                _ => {}
            }
            Action::None
        })
    }
}

impl Pollable for Rtc {
    fn next_deadline(&self) -> Option<u64> {
        let now = instant(&self.clock);
        self.deadline(&self.inner.lock(), now)
    }

    fn poll(&self, _now: u64) {
        let now = instant(&self.clock);
        self.inner.lock().update(now, &self.irq);
    }
}

impl SaveRestore for Rtc {
    type State = RtcState;
    const KIND: &'static str = "rtc";
    const VERSION: u32 = 1;

    fn save(&self) -> RtcState {
        let inner = self.inner.lock();
        RtcState {
            cmos: inner.cmos.to_vec(),
            index: inner.index,
            nmi_masked: inner.nmi_masked,
            offset: inner.offset,
            seen_second: inner.seen_second,
            seen_tick: inner.seen_tick,
        }
    }

    fn restore(&self, state: &RtcState) -> Result<(), RestoreError> {
        let Ok(cmos) = <[u8; 128]>::try_from(state.cmos.as_slice()) else {
            return Err(RestoreError { kind: Self::KIND, reason: "the memory is not 128 bytes" });
        };
        let now = instant(&self.clock);
        let mut inner = self.inner.lock();
        *inner = Inner {
            cmos,
            index: state.index & 0x7f,
            nmi_masked: state.nmi_masked,
            offset: state.offset,
            seen_second: state.seen_second,
            seen_tick: state.seen_tick,
        };
        inner.update(now, &self.irq);
        self.irq.set(inner.cmos[REG_C] & C_IRQ != 0);
        self.notifier.moved(self.deadline(&inner, now));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
