//! Programmable interrupt controller pair: Intel 8259A (datasheet 231468) with the edge/level control
//! registers of the 82378 (EISA ELCR, ports 0x4d0-0x4d1). The slave is on the master's input 2.
//!
//! NOT modelled: 8080 mode, buffered mode, LTIM (the ELCR decides), other cascades. An edge stays latched
//! when its line falls before the acknowledge.

use cpu::I8259State;
use parking_lot::Mutex;

use crate::{Action, Device, IrqLine, PortWindow, Registers, RestoreError, SaveRestore, bytes};

mod chip;

use chip::{Chip, Role};

/// Input of the master that the slave drives.
const CASCADE: u8 = 2;

/// The 8259A pair of a PC.
pub struct I8259 {
    output: IrqLine,
    inner: Mutex<Pair>,
}

struct Pair {
    master: Chip,
    slave: Chip,
    /// Level of the INT output.
    int: bool,
}

impl Pair {
    fn update(&mut self, output: &IrqLine) {
        self.master.set_input(CASCADE, self.slave.pending().is_some());
        let int = self.master.pending().is_some();
        if int != self.int {
            self.int = int;
            output.set(int);
        }
    }

    /// The slave answers an acknowledge of the cascade input.
    fn acknowledge_slave(&mut self) -> u8 {
        let vector = self.slave.acknowledge();
        // The cascade wire falls and rises again if more is pending, which the master must see as an edge.
        self.master.set_input(CASCADE, false);
        vector
    }

    fn acknowledge(&mut self) -> u8 {
        let cascade = self.master.pending() == Some(CASCADE);
        let vector = self.master.acknowledge();
        if cascade { self.acknowledge_slave() } else { vector }
    }
}

impl I8259 {
    /// Offsets 0-1 master, 2-3 slave, 4-5 edge/level control.
    pub const PORTS: &'static [PortWindow] = &[
        PortWindow { port: 0x20, len: 2, offset: 0 },
        PortWindow { port: 0xa0, len: 2, offset: 2 },
        PortWindow { port: 0x4d0, len: 2, offset: 4 },
    ];

    /// A pair whose INT output is `output`.
    pub fn new(output: IrqLine) -> Self {
        let mut pair = Pair { master: Chip::new(Role::Master), slave: Chip::new(Role::Slave), int: false };
        pair.master.power_on();
        pair.slave.power_on();
        Self { output, inner: Mutex::new(pair) }
    }

    /// Sets the level of input 0-15; the cascade input is not a line.
    pub fn set_input(&self, irq: u8, asserted: bool) {
        let mut pair = self.inner.lock();
        let changed = match irq {
            CASCADE => false,
            0..8 => pair.master.set_input(irq, asserted),
            8..16 => pair.slave.set_input(irq - 8, asserted),
            _ => false,
        };
        if changed {
            pair.update(&self.output);
        }
    }

    /// The CPU's interrupt acknowledge: the vector. With nothing pending it is the spurious one (input 7).
    pub fn acknowledge(&self) -> u8 {
        let mut pair = self.inner.lock();
        let vector = pair.acknowledge();
        // INT falls during the acknowledge, so that whatever is next is an edge.
        pair.int = false;
        self.output.lower();
        pair.update(&self.output);
        vector
    }

    /// An engine gives the registers back; inputs are known here.
    pub(super) fn give_back(&self, given: &I8259State) {
        let mut pair = self.inner.lock();
        pair.master.give_back(&given.master);
        pair.slave.give_back(&given.slave);
        pair.update(&self.output);
    }

    /// Level of the INT output.
    pub fn output(&self) -> bool {
        self.inner.lock().int
    }
}

impl Device for I8259 {
    fn name(&self) -> &'static str {
        "i8259"
    }

    fn reset(&self) {
        let mut pair = self.inner.lock();
        pair.master.power_on();
        pair.slave.power_on();
        pair.update(&self.output);
    }
}

impl Registers for I8259 {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut pair = self.inner.lock();
        bytes::read_each(offset, data, |offset| match offset {
            0 | 1 => pair.master.read(offset == 1),
            2 | 3 => {
                let poll = pair.slave.is_polled();
                let value = pair.slave.read(offset == 3);
                if poll {
                    pair.master.set_input(CASCADE, false);
                }
                value
            }
            4 => pair.master.elcr(),
            5 => pair.slave.elcr(),
            _ => 0xff,
        });
        pair.update(&self.output); // polling acknowledges
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let mut pair = self.inner.lock();
        let action = bytes::write_each(offset, data, |offset, value| {
            match offset {
                0 | 1 => pair.master.write(offset == 1, value),
                2 | 3 => pair.slave.write(offset == 3, value),
                4 => pair.master.set_elcr(value),
                5 => pair.slave.set_elcr(value),
                _ => {}
            }
            Action::None
        });
        pair.update(&self.output);
        action
    }
}

impl SaveRestore for I8259 {
    type State = I8259State;
    const KIND: &'static str = "i8259";
    const VERSION: u32 = 1;

    fn save(&self) -> I8259State {
        let pair = self.inner.lock();
        I8259State { master: pair.master.save(), slave: pair.slave.save() }
    }

    fn restore(&self, state: &I8259State) -> Result<(), RestoreError> {
        let mut pair = self.inner.lock();
        pair.master.restore(&state.master);
        pair.slave.restore(&state.slave);
        // Whoever hangs on the output learns the level even where it is the old one.
        pair.int = pair.master.pending().is_some();
        self.output.set(pair.int);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
