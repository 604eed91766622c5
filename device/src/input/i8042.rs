//! Keyboard controller: Intel 8042 as the IBM PC/AT and PS/2 program it (IBM PS/2 Hardware Interface
//! Technical Reference, "Keyboard and Auxiliary Device Controller"), with a keyboard on its first port.
//!
//! The auxiliary port is absent: loopback answers on the keyboard port and the interface test says "clock
//! stuck low", which systems take for "no mouse" at once. NOT modelled: serial timing (answers are there at
//! once), the controller's RAM beyond the command byte, A20 (the output port's bit is kept, addresses are
//! never masked), keyboard lock.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::keyboard::{Keyboard, KeyboardState};
use crate::{Action, Device, IrqLine, PortWindow, Registers, RestoreError, SaveRestore, bytes};

mod translate;

use translate::{BREAK_PREFIX, set1};

/// Bits of the status register.
mod status {
    pub(super) const OUTPUT_FULL: u8 = 0x01;
    pub(super) const SYSTEM: u8 = 0x04;
    pub(super) const COMMAND: u8 = 0x08;
    pub(super) const UNLOCKED: u8 = 0x10;
}

/// Bits of the command byte.
mod config {
    pub(super) const IRQ: u8 = 0x01;
    pub(super) const SYSTEM: u8 = 0x04;
    pub(super) const DISABLED: u8 = 0x10;
    pub(super) const AUX_DISABLED: u8 = 0x20;
    pub(super) const TRANSLATE: u8 = 0x40;
    pub(super) const WRITABLE: u8 = 0x77;
}

/// Output port: not reset, A20 open, keyboard clock and data high.
const OUTPUT_PORT: u8 = 0xcf;
const OUTPUT_NOT_RESET: u8 = 0x01;

/// What the next byte to port 0x60 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
enum Expect {
    /// For the keyboard.
    #[default]
    Keyboard,
    CommandByte,
    OutputPort,
    /// To be answered as if the keyboard or the auxiliary device had sent it.
    Echo,
    /// For the auxiliary device, which is not there.
    Aux,
}

/// 8042 with a keyboard.
pub struct I8042 {
    irq: IrqLine,
    inner: Mutex<Inner>,
}

struct Inner {
    command_byte: u8,
    output_port: u8,
    /// The last write went to the command port.
    command_last: bool,
    expect: Expect,
    /// Output buffer: read by the system at port 0x60.
    output: Option<u8>,
    last: u8,
    /// Answers of the controller itself, which go before the keyboard's.
    answer: Option<u8>,
    keyboard: Keyboard,
    /// A break prefix came and marks the next code (translation).
    releasing: bool,
    irq: bool,
}

/// Saved state of [`I8042`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct I8042State {
    pub command_byte: u8,
    pub output_port: u8,
    pub command_last: bool,
    expect: Expect,
    pub output: Option<u8>,
    pub last: u8,
    pub answer: Option<u8>,
    pub keyboard: KeyboardState,
    pub releasing: bool,
}

impl Inner {
    fn new() -> Self {
        Self {
            // As a BIOS leaves it: self-test passed, translating, interrupt on.
            command_byte: config::TRANSLATE | config::AUX_DISABLED | config::SYSTEM | config::IRQ,
            output_port: OUTPUT_PORT,
            command_last: false,
            expect: Expect::Keyboard,
            output: None,
            last: 0,
            answer: None,
            keyboard: Keyboard::new(),
            releasing: false,
            irq: false,
        }
    }

    fn status(&self) -> u8 {
        let mut status = status::UNLOCKED;
        if self.command_byte & config::SYSTEM != 0 {
            status |= status::SYSTEM;
        }
        if self.command_last {
            status |= status::COMMAND;
        }
        if self.output.is_some() {
            status |= status::OUTPUT_FULL;
        }
        status
    }

    /// Moves the next byte into an empty output buffer and sets the line.
    fn update(&mut self, line: &IrqLine) {
        if self.output.is_none() {
            self.output = self.answer.take();
        }
        if self.output.is_none() && self.command_byte & config::DISABLED == 0 {
            while self.output.is_none()
                && let Some(code) = self.keyboard.send()
            {
                self.output = self.translate(code);
            }
        }
        let irq = self.output.is_some() && self.command_byte & config::IRQ != 0;
        if irq != self.irq {
            self.irq = irq;
            line.set(irq);
        }
    }

    /// A byte of the keyboard as the system sees it; a break prefix is folded into the next code.
    fn translate(&mut self, code: u8) -> Option<u8> {
        if self.command_byte & config::TRANSLATE == 0 {
            return Some(code);
        }
        if code == BREAK_PREFIX {
            self.releasing = true;
            return None;
        }
        let released = std::mem::take(&mut self.releasing);
        Some(set1(code) | if released { 0x80 } else { 0 })
    }

    fn read_data(&mut self, line: &IrqLine) -> u8 {
        if let Some(byte) = self.output.take() {
            self.last = byte;
            // The line falls with the buffer, so that the next byte is an edge.
            self.irq = false;
            line.lower();
        }
        self.last
    }

    fn write_data(&mut self, value: u8) -> Action {
        match std::mem::take(&mut self.expect) {
            Expect::Keyboard => {
                self.command_byte &= !config::DISABLED; // writing to the keyboard enables it
                self.keyboard.receive(value);
            }
            Expect::CommandByte => self.command_byte = value & config::WRITABLE,
            Expect::OutputPort => return self.set_output_port(value),
            Expect::Echo => self.answer = Some(value),
            Expect::Aux => self.answer = Some(0xfe), // resend: nobody answered
        }
        Action::None
    }

    fn set_output_port(&mut self, value: u8) -> Action {
        self.output_port = value;
        if value & OUTPUT_NOT_RESET == 0 { Action::Reset } else { Action::None }
    }

    fn command(&mut self, command: u8) -> Action {
        self.expect = Expect::Keyboard;
        match command {
            0x20 => self.answer = Some(self.command_byte),
            0x60 => self.expect = Expect::CommandByte,
            0xa7 => self.command_byte |= config::AUX_DISABLED,
            0xa8 => self.command_byte &= !config::AUX_DISABLED,
            0xa9 => self.answer = Some(0x01), // auxiliary clock line stuck low
            0xaa => {
                // Self-test: the controller is as after power-on.
                self.command_byte |= config::SYSTEM | config::DISABLED;
                self.output = None;
                self.answer = Some(0x55);
            }
            0xab => self.answer = Some(0x00), // keyboard interface: no fault
            0xad => self.command_byte |= config::DISABLED,
            0xae => self.command_byte &= !config::DISABLED,
            0xc0 => self.answer = Some(0xa0), // input port: not locked, colour display
            0xd0 => {
                let full = u8::from(self.output.is_some()) << 4;
                self.answer = Some(self.output_port & !0x30 | full);
            }
            0xd1 => self.expect = Expect::OutputPort,
            0xd2 | 0xd3 => self.expect = Expect::Echo,
            0xd4 => self.expect = Expect::Aux,
            0xdd => self.output_port &= !0x02,
            0xdf => self.output_port |= 0x02,
            // Pulse output lines that are zero in the low bits; line 0 is the CPU's reset.
            0xf0..=0xff if command & 1 == 0 => return Action::Reset,
            _ => {}
        }
        Action::None
    }
}

impl I8042 {
    /// Offset 0 data, 1 status and command.
    pub const PORTS: &'static [PortWindow] =
        &[PortWindow { port: 0x60, len: 1, offset: 0 }, PortWindow { port: 0x64, len: 1, offset: 1 }];

    /// A controller whose keyboard interrupt is `irq` (ISA interrupt 1).
    pub fn new(irq: IrqLine) -> Self {
        Self { irq, inner: Mutex::new(Inner::new()) }
    }

    /// Keys are pressed or released: scan codes of set 2, whole sequences. How many bytes were taken; a
    /// keyboard whose buffer is full or that the system has not enabled drops them.
    pub fn push_scancodes(&self, codes: &[u8]) -> usize {
        let mut inner = self.inner.lock();
        let taken = inner.keyboard.push(codes);
        inner.update(&self.irq);
        taken
    }
}

impl Device for I8042 {
    fn name(&self) -> &'static str {
        "i8042"
    }

    fn reset(&self) {
        *self.inner.lock() = Inner::new();
        self.irq.lower();
    }
}

impl Registers for I8042 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut inner = self.inner.lock();
        bytes::read_each(offset, data, |offset| match offset {
            0 => {
                let byte = inner.read_data(&self.irq);
                inner.update(&self.irq);
                byte
            }
            1 => inner.status(),
            _ => 0xff,
        });
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let mut inner = self.inner.lock();
        bytes::write_each(offset, data, |offset, value| {
            let action = match offset {
                0 => {
                    inner.command_last = false;
                    inner.write_data(value)
                }
                1 => {
                    inner.command_last = true;
                    inner.command(value)
                }
                _ => Action::None,
            };
            inner.update(&self.irq);
            action
        })
    }
}

impl SaveRestore for I8042 {
    type State = I8042State;
    const KIND: &'static str = "i8042";
    const VERSION: u32 = 1;

    fn save(&self) -> I8042State {
        let inner = self.inner.lock();
        I8042State {
            command_byte: inner.command_byte,
            output_port: inner.output_port,
            command_last: inner.command_last,
            expect: inner.expect,
            output: inner.output,
            last: inner.last,
            answer: inner.answer,
            keyboard: inner.keyboard.save(),
            releasing: inner.releasing,
        }
    }

    fn restore(&self, state: &I8042State) -> Result<(), RestoreError> {
        let Some(keyboard) = Keyboard::restore(&state.keyboard) else {
            return Err(RestoreError { kind: Self::KIND, reason: "the keyboard's buffer is too long" });
        };
        let mut inner = self.inner.lock();
        *inner = Inner {
            command_byte: state.command_byte & config::WRITABLE,
            output_port: state.output_port,
            command_last: state.command_last,
            expect: state.expect,
            output: state.output,
            last: state.last,
            answer: state.answer,
            keyboard,
            releasing: state.releasing,
            irq: inner.irq,
        };
        inner.update(&self.irq);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
