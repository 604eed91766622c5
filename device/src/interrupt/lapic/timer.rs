//! The APIC timer (Intel SDM volume 3, 12.5.4). Counts are computed from the machine clock when they are read.

use cpu::Clock;

use super::APIC_TIMER_HZ;
use super::core::{State, lvt};

/// Nanoseconds of an undivided count.
const NS_PER_COUNT: u64 = 1_000_000_000 / APIC_TIMER_HZ;

/// Runtime state of the timer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Timer {
    /// Initial count register.
    pub(super) initial: u32,
    /// Divide configuration register.
    pub(super) divide: u32,
    /// When the count was `initial`.
    pub(super) start: u64,
    /// One-shot and periodic: when the count reaches zero.
    pub(super) expiry: Option<u64>,
    /// IA32_TSC_DEADLINE, in the vCPU's own TSC; zero is disarmed.
    pub(super) tsc_deadline: u64,
    /// The same on the machine clock.
    pub(super) tsc_expiry: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    OneShot,
    Periodic,
    TscDeadline,
}

impl Timer {
    pub(super) fn deadline(&self) -> Option<u64> {
        self.expiry.or(self.tsc_expiry)
    }

    /// log2 of the divisor: 000b divides by 2, 111b by 1.
    fn shift(&self) -> u32 {
        let code = self.divide & 3 | self.divide >> 1 & 4;
        (code + 1) & 7
    }

    /// Ticks of the machine clock that `count` takes; at least one, so that a timer cannot fire for ever
    /// at one instant.
    fn ticks(&self, count: u32, clock: &Clock) -> u64 {
        let ns = (u64::from(count) << self.shift()) * NS_PER_COUNT;
        clock.ns_to_tsc(ns).max(1)
    }

    fn count_at(&self, now: u64, periodic: bool, clock: &Clock) -> u32 {
        if self.initial == 0 {
            return 0;
        }
        let period = self.ticks(self.initial, clock);
        let elapsed = now.saturating_sub(self.start);
        let elapsed = match periodic {
            true => elapsed % period,
            false if elapsed >= period => return 0,
            false => elapsed,
        };
        let counts = (clock.tsc_to_ns(elapsed) / NS_PER_COUNT) >> self.shift();
        self.initial - counts.min(u64::from(self.initial)) as u32
    }
}

impl State {
    pub(super) fn timer_mode(&self) -> Mode {
        match self.lvt[lvt::TIMER] >> 17 & 3 {
            1 => Mode::Periodic,
            2 => Mode::TscDeadline,
            _ => Mode::OneShot,
        }
    }

    /// Current count register.
    pub(super) fn timer_count(&self, clock: &Clock) -> u32 {
        match self.timer_mode() {
            Mode::TscDeadline => 0,
            mode => self.timer.count_at(clock.tsc(), mode == Mode::Periodic, clock),
        }
    }

    /// Initial count register: starts or (zero) stops the timer.
    pub(super) fn set_initial_count(&mut self, count: u32, clock: &Clock) {
        if self.timer_mode() == Mode::TscDeadline {
            return;
        }
        self.timer.initial = count;
        self.timer.start = clock.tsc();
        self.timer.expiry =
            (count != 0).then(|| self.timer.start.saturating_add(self.timer.ticks(count, clock)));
    }

    /// Divide configuration register: the rest of the count goes on at the new rate.
    pub(super) fn set_divide(&mut self, value: u32, clock: &Clock) {
        let (now, periodic) = (clock.tsc(), self.timer_mode() == Mode::Periodic);
        let count = self.timer.count_at(now, periodic, clock);
        self.timer.divide = value & 0xb;
        if self.timer.expiry.is_some() {
            let passed = self.timer.ticks(self.timer.initial.saturating_sub(count), clock);
            self.timer.start = now.saturating_sub(passed);
            self.timer.expiry = Some(now.saturating_add(self.timer.ticks(count, clock)));
        }
    }

    /// LVT timer register, masked to its bits. Entering or leaving TSC-deadline mode disarms the timer.
    pub(super) fn set_timer_lvt(&mut self, value: u32, clock: &Clock) {
        let old = self.timer_mode();
        self.lvt[lvt::TIMER] = value;
        let new = self.timer_mode();
        if (old == Mode::TscDeadline) != (new == Mode::TscDeadline) {
            (self.timer.initial, self.timer.expiry) = (0, None);
            (self.timer.tsc_deadline, self.timer.tsc_expiry) = (0, None);
        } else if new == Mode::Periodic && self.timer.expiry.is_none() && self.timer.initial != 0 {
            // A one-shot count that ran out starts again.
            let initial = self.timer.initial;
            self.set_initial_count(initial, clock);
        }
    }

    /// IA32_TSC_DEADLINE as it reads.
    pub(super) fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline
    }

    /// WRMSR IA32_TSC_DEADLINE: ignored outside TSC-deadline mode.
    pub(super) fn set_tsc_deadline(&mut self, value: u64, clock: &Clock) {
        if self.timer_mode() == Mode::TscDeadline {
            self.timer.tsc_deadline = value;
            self.rearm_tsc_deadline(clock);
        }
    }

    pub(super) fn rearm_tsc_deadline(&mut self, clock: &Clock) {
        let deadline = self.timer.tsc_deadline;
        self.timer.tsc_expiry = (deadline != 0).then(|| {
            let now = clock.tsc();
            // Signed difference on the vCPU's TSC, so that an adjusted TSC that wrapped stays in order.
            let ahead = deadline.saturating_sub(now.wrapping_add(self.tsc_adjust));
            now.saturating_add(ahead)
        });
        self.poll_timer(clock);
    }

    /// Fires what is due. Missed periods are made up for by one interrupt.
    pub(super) fn poll_timer(&mut self, clock: &Clock) {
        let now = clock.tsc();
        if self.timer.tsc_expiry.is_some_and(|at| at <= now) {
            (self.timer.tsc_deadline, self.timer.tsc_expiry) = (0, None);
            self.fire(lvt::TIMER);
        }
        let Some(expiry) = self.timer.expiry.filter(|at| *at <= now) else { return };
        self.timer.expiry = None;
        if self.timer_mode() == Mode::Periodic {
            let period = self.timer.ticks(self.timer.initial, clock);
            let missed = (now - expiry) / period;
            self.timer.start = expiry.saturating_add(missed.saturating_mul(period));
            self.timer.expiry = Some(self.timer.start.saturating_add(period));
        }
        self.fire(lvt::TIMER);
    }
}
