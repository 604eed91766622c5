//! ACPI fixed hardware (ACPI 6.5, 4.8.3): PM1a event and control blocks, and the 3.579545 MHz power
//! management timer, 32 bits wide (FADT flag TMR_VAL_EXT).
//!
//! NOT modelled: SMI_CMD (the system is always in ACPI mode: SCI_EN reads as one), general-purpose events,
//! sleep states other than S5, wake-up.

use std::sync::Arc;

use cpu::Clock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::time::{rescale, rescale_up};
use crate::{Action, Device, IrqLine, Notifier, Pollable, Registers, RestoreError, SaveRestore, bytes};

/// SLP_TYP of S5, for the DSDT's `_S5` package.
pub const S5_SLEEP_TYPE: u8 = 5;

/// Status and enable bits of the event block.
const TIMER: u16 = 1 << 0;
const GLOBAL: u16 = 1 << 5;
const POWER_BUTTON: u16 = 1 << 8;
const SLEEP_BUTTON: u16 = 1 << 9;
const RTC: u16 = 1 << 10;
const STATUS: u16 = TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC | 1 << 4 | 1 << 14 | 1 << 15;
const ENABLE: u16 = TIMER | GLOBAL | POWER_BUTTON | SLEEP_BUTTON | RTC;

/// Bits of the control block.
const SCI_EN: u16 = 1 << 0;
const SLP_EN: u16 = 1 << 13;
const CONTROL: u16 = 1 << 1 | 0x1c00;

/// PM1a blocks and power management timer: [`LEN`](Self::LEN) registers from one base.
pub struct AcpiPower {
    clock: Arc<Clock>,
    sci: IrqLine,
    notifier: Notifier,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    status: u16,
    enable: u16,
    control: u16,
    /// Timer carries (bit 31 changed) that the status accounts for.
    carries: u64,
    sci: bool,
}

/// Saved state of [`AcpiPower`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct AcpiPowerState {
    pub status: u16,
    pub enable: u16,
    pub control: u16,
    pub carries: u64,
}

impl Inner {
    fn update(&mut self, timer: u64, line: &IrqLine) {
        let carries = timer >> 31;
        if carries != self.carries {
            self.carries = carries;
            self.status |= TIMER;
        }
        let sci = self.status & self.enable != 0;
        if sci != self.sci {
            self.sci = sci;
            line.set(sci);
        }
    }

    fn byte(&self, offset: u64, timer: u64) -> u8 {
        let low = |value: u16| value as u8;
        let high = |value: u16| (value >> 8) as u8;
        match offset {
            0 => low(self.status),
            1 => high(self.status),
            2 => low(self.enable),
            3 => high(self.enable),
            4 => low(self.control | SCI_EN),
            5 => high(self.control),
            8..12 => (timer >> (8 * (offset - 8))) as u8,
            _ => 0,
        }
    }

    fn write(&mut self, offset: u64, value: u8) -> Action {
        let (wide, mask) = match offset & 1 {
            0 => (u16::from(value), 0x00ff),
            _ => (u16::from(value) << 8, 0xff00),
        };
        match offset {
            0 | 1 => self.status &= !(wide & mask),
            2 | 3 => self.enable = self.enable & !mask | wide & ENABLE,
            4 | 5 => {
                self.control = self.control & !mask | wide & CONTROL;
                if wide & SLP_EN != 0 && self.control >> 10 & 7 == u16::from(S5_SLEEP_TYPE) {
                    return Action::PowerOff;
                }
            }
            _ => {}
        }
        Action::None
    }
}

impl AcpiPower {
    /// Number of registers.
    pub const LEN: u16 = 12;
    /// Offset of PM1a_EVT_BLK (4 bytes).
    pub const EVENT: u16 = 0;
    /// Offset of PM1a_CNT_BLK (2 bytes).
    pub const CONTROL: u16 = 4;
    /// Offset of PM_TMR_BLK (4 bytes).
    pub const TIMER: u16 = 8;
    /// Frequency of the timer, hertz.
    pub const TIMER_HZ: u64 = 3_579_545;

    /// Fixed hardware that raises `sci` (level-triggered; ISA interrupt 9 by convention).
    pub fn new(clock: Arc<Clock>, sci: IrqLine, notifier: Notifier) -> Self {
        let inner = Mutex::new(Inner { carries: 0, ..Inner::default() });
        Self { clock, sci, notifier, inner }
    }

    /// The user presses the power button.
    pub fn press_power_button(&self) {
        let mut inner = self.inner.lock();
        inner.status |= POWER_BUTTON;
        inner.update(self.timer(self.clock.tsc()), &self.sci);
    }

    fn timer(&self, now: u64) -> u64 {
        rescale(now, self.clock.tsc_hz(), Self::TIMER_HZ)
    }

    fn deadline(&self, inner: &Inner) -> Option<u64> {
        let wanted = inner.enable & !inner.status & TIMER != 0;
        wanted.then(|| rescale_up((inner.carries + 1) << 31, Self::TIMER_HZ, self.clock.tsc_hz()))
    }
}

impl Device for AcpiPower {
    fn name(&self) -> &'static str {
        "acpi-power"
    }

    fn reset(&self) {
        let timer = self.timer(self.clock.tsc());
        let mut inner = self.inner.lock();
        *inner = Inner { carries: timer >> 31, ..Inner::default() };
        self.sci.lower();
    }
}

impl Registers for AcpiPower {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let timer = self.timer(self.clock.tsc());
        if offset == u64::from(Self::TIMER) {
            // The hot path of guests that keep time by it; needs no lock.
            return bytes::put(data, timer & 0xffff_ffff);
        }
        let mut inner = self.inner.lock();
        inner.update(timer, &self.sci);
        bytes::read_each(offset, data, |offset| inner.byte(offset, timer));
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let timer = self.timer(self.clock.tsc());
        let mut inner = self.inner.lock();
        inner.update(timer, &self.sci);
        // The type may come in the low byte's write and the enable in the high one's, or both at once.
        let action = bytes::write_each(offset, data, |offset, value| inner.write(offset, value));
        inner.update(timer, &self.sci);
        self.notifier.moved(self.deadline(&inner));
        action
    }
}

impl Pollable for AcpiPower {
    fn next_deadline(&self) -> Option<u64> {
        self.deadline(&self.inner.lock())
    }

    fn poll(&self, now: u64) {
        self.inner.lock().update(self.timer(now), &self.sci);
    }
}

impl SaveRestore for AcpiPower {
    type State = AcpiPowerState;
    const KIND: &'static str = "acpi-power";
    const VERSION: u32 = 1;

    fn save(&self) -> AcpiPowerState {
        let inner = self.inner.lock();
        let (status, enable, control) = (inner.status, inner.enable, inner.control);
        AcpiPowerState { status, enable, control, carries: inner.carries }
    }

    fn restore(&self, state: &AcpiPowerState) -> Result<(), RestoreError> {
        if state.status & !STATUS != 0 || state.enable & !ENABLE != 0 || state.control & !CONTROL != 0 {
            return Err(RestoreError { kind: Self::KIND, reason: "reserved bits are set" });
        }
        if state.carries >> 32 != 0 {
            return Err(RestoreError { kind: Self::KIND, reason: "the timer is out of range" });
        }
        let timer = self.timer(self.clock.tsc());
        let mut inner = self.inner.lock();
        *inner = Inner {
            status: state.status,
            enable: state.enable,
            control: state.control,
            carries: state.carries,
            sci: inner.sci,
        };
        inner.update(timer, &self.sci);
        self.notifier.moved(self.deadline(&inner));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
