//! UART: National Semiconductor PC16550D (datasheet, section 8), as a PC wires it: OUT2 gates the interrupt.
//!
//! The line is infinitely fast: what is written to the transmitter is out at once, and input below the FIFO's
//! trigger level counts as timed out at once. NOT modelled: baud rate and word length (registers only),
//! parity and framing errors, DMA mode, modem inputs other than a peer that is always ready.

use std::collections::VecDeque;
use std::sync::Arc;

use bitflags::bitflags;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::{Action, CharBackend, Device, IrqLine, Registers, RestoreError, SaveRestore, bytes};

const FIFO: usize = 16;

bitflags! {
    /// Interrupt enable register.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Ier: u8 {
        const RECEIVE = 0x01;
        const TRANSMIT = 0x02;
        const LINE = 0x04;
        const MODEM = 0x08;
    }

    /// Line status register.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Lsr: u8 {
        const DATA = 0x01;
        const OVERRUN = 0x02;
        const BREAK = 0x10;
        const THR_EMPTY = 0x20;
        const IDLE = 0x40;
        const FIFO_ERROR = 0x80;
    }

    /// Modem control register.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    struct Mcr: u8 {
        const DTR = 0x01;
        const RTS = 0x02;
        const OUT1 = 0x04;
        const OUT2 = 0x08;
        const LOOPBACK = 0x10;
    }
}

/// Modem status lines with a peer that is ready: CTS, DSR, DCD.
const PEER_READY: u8 = 0xb0;
const LCR_DLAB: u8 = 0x80;
const FCR_ENABLE: u8 = 0x01;

/// 16550A serial port: eight registers.
pub struct Uart16550 {
    irq: IrqLine,
    backend: Arc<dyn CharBackend>,
    inner: Mutex<Inner>,
}

struct Inner {
    ier: Ier,
    fcr: u8,
    lcr: u8,
    mcr: Mcr,
    scratch: u8,
    divisor: u16,
    /// Deltas (bits 0-3) of the modem status register, and the lines they were computed from (bits 4-7).
    msr: u8,
    overrun: bool,
    /// Received characters; those with `BREAK` are a break.
    input: VecDeque<u16>,
    /// The transmitter interrupt has not been acknowledged.
    transmit_pending: bool,
    /// Level of the interrupt line.
    irq: bool,
}

const BREAK: u16 = 0x100;

/// Saved state of [`Uart16550`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct UartState {
    pub ier: u8,
    pub fcr: u8,
    pub lcr: u8,
    pub mcr: u8,
    pub scratch: u8,
    pub divisor: u16,
    pub msr: u8,
    pub overrun: bool,
    pub input: Vec<u16>,
    pub transmit_pending: bool,
}

/// What a register access has to do outside once the lock is free.
#[derive(Default)]
struct Effects {
    output: Option<u8>,
    room: bool,
}

impl Inner {
    fn new() -> Self {
        Self {
            ier: Ier::empty(),
            fcr: 0,
            lcr: 0,
            mcr: Mcr::empty(),
            scratch: 0,
            divisor: 12, // 9600 baud
            msr: PEER_READY,
            overrun: false,
            input: VecDeque::with_capacity(FIFO),
            transmit_pending: false,
            irq: false,
        }
    }

    fn capacity(&self) -> usize {
        if self.fcr & FCR_ENABLE != 0 { FIFO } else { 1 }
    }

    fn room(&self) -> usize {
        // In loopback mode the input pin is disconnected.
        if self.mcr.contains(Mcr::LOOPBACK) { 0 } else { self.capacity().saturating_sub(self.input.len()) }
    }

    fn trigger(&self) -> usize {
        if self.fcr & FCR_ENABLE == 0 { 1 } else { [1, 4, 8, 14][usize::from(self.fcr >> 6)] }
    }

    fn receive(&mut self, character: u16) {
        if self.input.len() < self.capacity() {
            self.input.push_back(character);
        } else {
            self.overrun = true;
        }
    }

    fn lsr(&self) -> Lsr {
        let mut lsr = Lsr::THR_EMPTY | Lsr::IDLE;
        lsr.set(Lsr::DATA, !self.input.is_empty());
        lsr.set(Lsr::OVERRUN, self.overrun);
        lsr.set(Lsr::BREAK, self.input.front().is_some_and(|c| c & BREAK != 0));
        let error = self.fcr & FCR_ENABLE != 0 && self.input.iter().any(|c| c & BREAK != 0);
        lsr.set(Lsr::FIFO_ERROR, error);
        lsr
    }

    /// Interrupt identification (without the FIFO bits), highest priority first.
    fn interrupt(&self) -> u8 {
        let line_error = self.overrun || self.input.front().is_some_and(|c| c & BREAK != 0);
        if self.ier.contains(Ier::LINE) && line_error {
            0x06
        } else if self.ier.contains(Ier::RECEIVE) && self.input.len() >= self.trigger() {
            0x04
        } else if self.ier.contains(Ier::RECEIVE) && !self.input.is_empty() {
            0x0c
        } else if self.ier.contains(Ier::TRANSMIT) && self.transmit_pending {
            0x02
        } else if self.ier.contains(Ier::MODEM) && self.msr & 0x0f != 0 {
            0x00
        } else {
            0x01
        }
    }

    fn update(&mut self, line: &IrqLine) {
        let gate = self.mcr.contains(Mcr::OUT2) && !self.mcr.contains(Mcr::LOOPBACK);
        let irq = gate && self.interrupt() != 0x01;
        if irq != self.irq {
            self.irq = irq;
            line.set(irq);
        }
    }

    /// The modem status lines change: note which.
    fn set_modem_lines(&mut self, lines: u8) {
        let changed = (self.msr ^ lines) >> 4;
        // Ring is the trailing edge only.
        let ring_ended = self.msr & 0x40 != 0 && lines & 0x40 == 0;
        let delta = changed & 0b1011 | if ring_ended { 0b0100 } else { 0 };
        self.msr = lines & 0xf0 | self.msr & 0x0f | delta;
    }

    fn modem_lines(&self) -> u8 {
        if !self.mcr.contains(Mcr::LOOPBACK) {
            return PEER_READY;
        }
        // RTS -> CTS, DTR -> DSR, OUT1 -> RI, OUT2 -> DCD.
        [(Mcr::RTS, 0x10), (Mcr::DTR, 0x20), (Mcr::OUT1, 0x40), (Mcr::OUT2, 0x80)]
            .into_iter()
            .filter(|(bit, _)| self.mcr.contains(*bit))
            .fold(0, |lines, (_, line)| lines | line)
    }

    fn read(&mut self, offset: u64, effects: &mut Effects) -> u8 {
        let dlab = self.lcr & LCR_DLAB != 0;
        match offset & 7 {
            0 if dlab => self.divisor as u8,
            1 if dlab => (self.divisor >> 8) as u8,
            0 => {
                let character = self.input.pop_front();
                effects.room |= character.is_some() && self.input.is_empty();
                character.unwrap_or(0) as u8
            }
            1 => self.ier.bits(),
            2 => {
                let id = self.interrupt();
                if id == 0x02 {
                    self.transmit_pending = false;
                }
                id | if self.fcr & FCR_ENABLE != 0 { 0xc0 } else { 0 }
            }
            3 => self.lcr,
            4 => self.mcr.bits(),
            5 => {
                let lsr = self.lsr();
                self.overrun = false;
                if let Some(front) = self.input.front_mut() {
                    *front &= !BREAK;
                }
                lsr.bits()
            }
            6 => {
                let msr = self.msr;
                self.msr &= 0xf0; // reading clears the deltas
                msr
            }
            _ => self.scratch,
        }
    }

    fn write(&mut self, offset: u64, value: u8, line: &IrqLine, effects: &mut Effects) {
        let dlab = self.lcr & LCR_DLAB != 0;
        match offset & 7 {
            0 if dlab => self.divisor = self.divisor & 0xff00 | u16::from(value),
            1 if dlab => self.divisor = self.divisor & 0xff | u16::from(value) << 8,
            0 => {
                if self.mcr.contains(Mcr::LOOPBACK) {
                    self.receive(value.into());
                } else {
                    effects.output = Some(value);
                }
                if self.fcr & FCR_ENABLE == 0 {
                    // The write takes the interrupt back; it returns with an edge once the byte is out.
                    // With FIFOs a burst is one edge, as on the part.
                    self.transmit_pending = false;
                    self.update(line);
                }
                self.transmit_pending = true;
            }
            1 => {
                let ier = Ier::from_bits_truncate(value);
                // Enabled while the transmitter is empty: it interrupts.
                self.transmit_pending |= (ier - self.ier).contains(Ier::TRANSMIT);
                self.ier = ier;
            }
            2 => {
                let toggled = (value ^ self.fcr) & FCR_ENABLE != 0;
                if toggled || value & (FCR_ENABLE | 0x02) == FCR_ENABLE | 0x02 {
                    effects.room |= !self.input.is_empty() || toggled;
                    self.input.clear();
                }
                // The trigger level can only be set along with the enable bit.
                self.fcr = if value & FCR_ENABLE != 0 { value & 0xc9 } else { 0 };
            }
            3 => self.lcr = value,
            4 => {
                let was = self.mcr;
                self.mcr = Mcr::from_bits_truncate(value);
                self.set_modem_lines(self.modem_lines());
                effects.room |= was.contains(Mcr::LOOPBACK) && !self.mcr.contains(Mcr::LOOPBACK);
            }
            7 => self.scratch = value,
            _ => {} // LSR and MSR: factory test only
        }
    }
}

impl Uart16550 {
    /// Number of registers.
    pub const LEN: u16 = 8;
    /// Ports and ISA interrupts of COM1 to COM4.
    pub const COM: [(u16, u32); 4] = [(0x3f8, 4), (0x2f8, 3), (0x3e8, 4), (0x2e8, 3)];

    /// A port that writes to `backend`.
    pub fn new(irq: IrqLine, backend: Arc<dyn CharBackend>) -> Self {
        Self { irq, backend, inner: Mutex::new(Inner::new()) }
    }

    /// Characters that [`push_input`](Self::push_input) would take now. `CharBackend::room` says when it is
    /// above zero again after the guest has emptied the FIFO.
    pub fn room(&self) -> usize {
        self.inner.lock().room()
    }

    /// Characters arrive; how many were taken.
    pub fn push_input(&self, bytes: &[u8]) -> usize {
        let mut inner = self.inner.lock();
        let taken = inner.room().min(bytes.len());
        inner.input.extend(bytes[..taken].iter().map(|&b| u16::from(b)));
        inner.update(&self.irq);
        taken
    }

    /// A break arrives (the magic-SysRq prefix of Linux); false if there was no room.
    pub fn push_break(&self) -> bool {
        let mut inner = self.inner.lock();
        let room = inner.room() > 0;
        if room {
            inner.input.push_back(BREAK);
            inner.update(&self.irq);
        }
        room
    }

    fn finish(&self, effects: &Effects) {
        if let Some(byte) = effects.output {
            self.backend.write(&[byte]);
        }
        if effects.room {
            self.backend.room();
        }
    }
}

impl Device for Uart16550 {
    fn name(&self) -> &'static str {
        "uart16550"
    }

    fn reset(&self) {
        {
            let mut inner = self.inner.lock();
            *inner = Inner { irq: inner.irq, ..Inner::new() };
            inner.update(&self.irq);
        }
        self.backend.room();
    }
}

impl Registers for Uart16550 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        bytes::read_each(offset, data, |offset| {
            let mut effects = Effects::default();
            let value = {
                let mut inner = self.inner.lock();
                let value = inner.read(offset, &mut effects);
                inner.update(&self.irq);
                value
            };
            self.finish(&effects);
            value
        });
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        bytes::write_each(offset, data, |offset, value| {
            let mut effects = Effects::default();
            {
                let mut inner = self.inner.lock();
                inner.write(offset, value, &self.irq, &mut effects);
                inner.update(&self.irq);
            }
            self.finish(&effects);
            Action::None
        })
    }
}

impl SaveRestore for Uart16550 {
    type State = UartState;
    const KIND: &'static str = "uart16550";
    const VERSION: u32 = 1;

    fn save(&self) -> UartState {
        let inner = self.inner.lock();
        UartState {
            ier: inner.ier.bits(),
            fcr: inner.fcr,
            lcr: inner.lcr,
            mcr: inner.mcr.bits(),
            scratch: inner.scratch,
            divisor: inner.divisor,
            msr: inner.msr,
            overrun: inner.overrun,
            input: inner.input.iter().copied().collect(),
            transmit_pending: inner.transmit_pending,
        }
    }

    fn restore(&self, state: &UartState) -> Result<(), RestoreError> {
        let refuse = |reason| Err(RestoreError { kind: Self::KIND, reason });
        let (Some(ier), Some(mcr)) = (Ier::from_bits(state.ier), Mcr::from_bits(state.mcr)) else {
            return refuse("reserved bits are set");
        };
        let capacity = if state.fcr & FCR_ENABLE != 0 { FIFO } else { 1 };
        if state.input.len() > capacity || state.input.iter().any(|c| c & !0x1ff != 0) {
            return refuse("the receive FIFO holds what it cannot");
        }
        let mut inner = self.inner.lock();
        *inner = Inner {
            ier,
            fcr: state.fcr & 0xc9,
            lcr: state.lcr,
            mcr,
            scratch: state.scratch,
            divisor: state.divisor,
            msr: state.msr,
            overrun: state.overrun,
            input: VecDeque::with_capacity(FIFO),
            transmit_pending: state.transmit_pending,
            irq: inner.irq,
        };
        inner.input.extend(&state.input);
        inner.update(&self.irq);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
