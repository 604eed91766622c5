//! Programmable interval timer: Intel 8254 (datasheet 231164), with the PC's port B (0x61: gate and output of
//! channel 2, speaker, refresh toggle).
//!
//! Counters are computed from the clock when they are read; nothing ticks. NOT modelled: the one-clock delay
//! between a write and its load; the speaker's sound. Channel 0's line carries a pulse for each rising edge of
//! OUT (mode 0: stays high until reprogrammed); edges that were missed are made up for by one.

use std::sync::Arc;

use cpu::Clock;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{
    Action, Device, IrqLine, Notifier, Pollable, PortWindow, Registers, RestoreError, SaveRestore, bytes,
};

mod channel;

use channel::Channel;
pub use channel::{ChannelState, Run};

/// Half a period of the refresh toggle in port B, nanoseconds.
const REFRESH_NS: u64 = 15_085;

/// 8254 with the PC's wiring.
pub struct I8254 {
    clock: Arc<Clock>,
    irq: IrqLine,
    notifier: Notifier,
    inner: Mutex<Inner>,
}

struct Inner {
    channels: [Channel; 3],
    /// Next rising edge of channel 0, in ticks of the machine clock.
    deadline: Option<u64>,
    /// Port B bits 0-3.
    port_b: u8,
}

/// Saved state of [`I8254`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct I8254State {
    pub channels: [ChannelState; 3],
    pub deadline: Option<u64>,
    pub port_b: u8,
}

impl Inner {
    fn new() -> Self {
        let [a, b, mut c] = [Channel::new(), Channel::new(), Channel::new()];
        c.gate = false;
        Self { channels: [a, b, c], deadline: None, port_b: 0 }
    }
}

impl I8254 {
    /// Input frequency of the counters, hertz.
    pub const HZ: u64 = 1_193_182;
    /// Offsets 0-2 counters, 3 control, 4 port B.
    pub const PORTS: &'static [PortWindow] =
        &[PortWindow { port: 0x40, len: 4, offset: 0 }, PortWindow { port: 0x61, len: 1, offset: 4 }];

    /// A timer whose channel 0 drives `irq` (ISA interrupt 0).
    pub fn new(clock: Arc<Clock>, irq: IrqLine, notifier: Notifier) -> Self {
        Self { clock, irq, notifier, inner: Mutex::new(Inner::new()) }
    }

    fn read_port_b(&self, inner: &Inner, now: u64) -> u8 {
        let refresh = (self.clock.tsc_to_ns(now) / REFRESH_NS) & 1;
        let out = inner.channels[2].out(now, self.clock.tsc_hz());
        inner.port_b | (refresh as u8) << 4 | u8::from(out) << 5
    }

    /// Channel 0 was programmed: where its next edge is.
    fn rearm(&self, inner: &mut Inner) {
        self.irq.lower();
        inner.deadline = inner.channels[0].next_edge(self.clock.tsc(), self.clock.tsc_hz());
        self.notifier.moved(inner.deadline);
    }

    fn write_byte(&self, offset: u64, value: u8) {
        let (now, hz) = (self.clock.tsc(), self.clock.tsc_hz());
        let mut inner = self.inner.lock();
        match offset {
            0..=2 => {
                let loaded = inner.channels[offset as usize].write(value, now, hz);
                if loaded && offset == 0 {
                    self.rearm(&mut inner);
                }
            }
            3 if value >> 6 == 3 => {
                // Read-back: bit 5 clear latches counts, bit 4 clear latches statuses.
                for (i, channel) in inner.channels.iter_mut().enumerate() {
                    if value >> (i + 1) & 1 != 0 {
                        channel.read_back(value & 0x20 == 0, value & 0x10 == 0, now, hz);
                    }
                }
            }
            3 => {
                let index = usize::from(value >> 6);
                let programmed = inner.channels[index].control(value, now, hz);
                if programmed && index == 0 {
                    self.rearm(&mut inner);
                }
            }
            4 => {
                inner.port_b = value & 0x0f;
                inner.channels[2].set_gate(value & 1 != 0, now, hz);
            }
            _ => {}
        }
    }
}

impl Device for I8254 {
    fn name(&self) -> &'static str {
        "i8254"
    }

    fn reset(&self) {
        let mut inner = self.inner.lock();
        *inner = Inner::new();
        self.irq.lower();
    }
}

impl Registers for I8254 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let (now, hz) = (self.clock.tsc(), self.clock.tsc_hz());
        let mut inner = self.inner.lock();
        bytes::read_each(offset, data, |offset| match offset {
            0..=2 => inner.channels[offset as usize].read(now, hz),
            4 => self.read_port_b(&inner, now),
            _ => 0xff,
        });
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        bytes::write_each(offset, data, |offset, value| {
            self.write_byte(offset, value);
            Action::None
        })
    }
}

impl Pollable for I8254 {
    fn next_deadline(&self) -> Option<u64> {
        self.inner.lock().deadline
    }

    fn poll(&self, now: u64) {
        let mut inner = self.inner.lock();
        if inner.deadline.is_none_or(|at| at > now) {
            return;
        }
        if inner.channels[0].holds_output() {
            self.irq.raise();
        } else {
            self.irq.pulse();
        }
        inner.deadline = match inner.channels[0].is_periodic() {
            true => inner.channels[0].next_edge(now, self.clock.tsc_hz()),
            false => None,
        };
    }
}

impl SaveRestore for I8254 {
    type State = I8254State;
    const KIND: &'static str = "i8254";
    const VERSION: u32 = 1;

    fn save(&self) -> I8254State {
        let inner = self.inner.lock();
        let channels = [0, 1, 2].map(|i: usize| inner.channels[i].save());
        I8254State { channels, deadline: inner.deadline, port_b: inner.port_b }
    }

    fn restore(&self, state: &I8254State) -> Result<(), RestoreError> {
        if !state.channels.iter().all(ChannelState::is_valid) {
            return Err(RestoreError { kind: Self::KIND, reason: "a count or mode is out of range" });
        }
        let mut inner = self.inner.lock();
        for (channel, saved) in inner.channels.iter_mut().zip(&state.channels) {
            *channel = Channel::restore(saved);
        }
        inner.deadline = state.deadline;
        inner.port_b = state.port_b & 0x0f;
        self.notifier.moved(inner.deadline);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
