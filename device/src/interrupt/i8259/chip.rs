//! One 8259A.

use cpu::{I8259Chip, I8259Init as Init};

/// Which of the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Master,
    Slave,
}

impl Role {
    /// Inputs that can be made level-triggered: not the timer, keyboard, cascade, clock and FPU.
    fn elcr_writable(self) -> u8 {
        match self {
            Self::Master => 0xf8,
            Self::Slave => 0xde,
        }
    }

    fn cascade(self) -> u8 {
        match self {
            Self::Master => 1 << super::CASCADE,
            Self::Slave => 0,
        }
    }
}

/// Runtime state; bit `n` of a byte is input `n`.
#[derive(Debug)]
pub(super) struct Chip {
    role: Role,
    irr: u8,
    imr: u8,
    isr: u8,
    inputs: u8,
    elcr: u8,
    base: u8,
    /// The input with the lowest priority; the next one has the highest.
    lowest: u8,
    init: Init,
    wants_icw4: bool,
    single: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_nested: bool,
    poll: bool,
    read_isr: bool,
}

impl Chip {
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            irr: 0,
            imr: 0,
            isr: 0,
            inputs: 0,
            elcr: 0,
            base: 0,
            lowest: 7,
            init: Init::Done,
            wants_icw4: false,
            single: false,
            auto_eoi: false,
            rotate_on_auto_eoi: false,
            special_mask: false,
            special_nested: false,
            poll: false,
            read_isr: false,
        }
    }

    /// Back to power-on; the input wires keep their level. The part's state is undefined then: all inputs are
    /// masked, so that nothing comes with a vector nobody has set.
    pub(super) fn power_on(&mut self) {
        *self = Self { inputs: self.inputs, imr: 0xff, ..Self::new(self.role) };
    }

    /// True if the level changed.
    pub(super) fn set_input(&mut self, input: u8, asserted: bool) -> bool {
        let bit = 1 << input;
        if (self.inputs & bit != 0) == asserted {
            return false;
        }
        self.inputs ^= bit;
        if asserted {
            self.irr |= bit;
        } else if (self.elcr | self.role.cascade()) & bit != 0 {
            // Level inputs follow the wire, and so does the cascade.
            self.irr &= !bit;
        }
        true
    }

    /// Position in the order of priority, 0 the highest.
    fn rank(&self, input: u8) -> u8 {
        input.wrapping_sub(self.lowest).wrapping_sub(1) & 7
    }

    fn highest(&self, set: u8) -> Option<u8> {
        (0..8).filter(|n| set >> n & 1 != 0).min_by_key(|&n| self.rank(n))
    }

    /// The input that INT is asserted for.
    pub(super) fn pending(&self) -> Option<u8> {
        if self.init != Init::Done {
            return None;
        }
        let input = self.highest(self.irr & !self.imr)?;
        let mut blocking = self.isr;
        if self.special_mask {
            blocking &= !self.imr;
        }
        if self.special_nested {
            blocking &= !self.role.cascade(); // the slave may interrupt again within its own level
        }
        match self.highest(blocking) {
            Some(serviced) if self.rank(serviced) <= self.rank(input) => None,
            _ => Some(input),
        }
    }

    fn accept(&mut self, input: u8) {
        let bit = 1 << input;
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.lowest = input;
        }
    }

    /// Second acknowledge pulse: the vector, that of input 7 if nothing is pending any more.
    pub(super) fn acknowledge(&mut self) -> u8 {
        let input = self.pending();
        if let Some(input) = input {
            self.accept(input);
        }
        self.base | input.unwrap_or(7)
    }

    pub(super) fn is_polled(&self) -> bool {
        self.poll
    }

    pub(super) fn read(&mut self, data: bool) -> u8 {
        if std::mem::take(&mut self.poll) {
            return match self.pending() {
                Some(input) => {
                    self.accept(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match (data, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }

    pub(super) fn write(&mut self, data: bool, value: u8) {
        match (data, self.init) {
            (false, _) if value & 0x10 != 0 => self.icw1(value),
            (false, _) if value & 0x08 != 0 => self.ocw3(value),
            (false, _) => self.ocw2(value),
            (true, Init::Done) => self.imr = value,
            (true, Init::Icw2) => {
                self.base = value & 0xf8;
                self.init = match (self.single, self.wants_icw4) {
                    (false, _) => Init::Icw3,
                    (true, true) => Init::Icw4,
                    (true, false) => Init::Done,
                };
            }
            (true, Init::Icw3) => self.init = if self.wants_icw4 { Init::Icw4 } else { Init::Done },
            (true, Init::Icw4) => {
                self.auto_eoi = value & 0x02 != 0;
                self.special_nested = value & 0x10 != 0;
                self.init = Init::Done;
            }
        }
    }

    fn icw1(&mut self, value: u8) {
        let (inputs, elcr, base) = (self.inputs, self.elcr, self.base);
        *self = Self { inputs, elcr, base, ..Self::new(self.role) };
        self.irr = inputs & elcr; // the edge latches are cleared
        self.wants_icw4 = value & 0x01 != 0;
        self.single = value & 0x02 != 0;
        self.init = Init::Icw2;
    }

    fn ocw2(&mut self, value: u8) {
        let level = value & 7;
        let highest = self.highest(self.isr);
        match value >> 5 {
            0 => self.rotate_on_auto_eoi = false,
            4 => self.rotate_on_auto_eoi = true,
            1 | 5 => {
                if let Some(input) = highest {
                    self.isr &= !(1 << input);
                    if value >> 5 == 5 {
                        self.lowest = input;
                    }
                }
            }
            3 => self.isr &= !(1 << level),
            6 => self.lowest = level,
            7 => {
                self.isr &= !(1 << level);
                self.lowest = level;
            }
            _ => {}
        }
    }

    fn ocw3(&mut self, value: u8) {
        if value & 0x40 != 0 {
            self.special_mask = value & 0x20 != 0;
        }
        self.poll = value & 0x04 != 0;
        if value & 0x02 != 0 {
            self.read_isr = value & 0x01 != 0;
        }
    }

    pub(super) fn elcr(&self) -> u8 {
        self.elcr
    }

    pub(super) fn set_elcr(&mut self, value: u8) {
        self.elcr = value & self.role.elcr_writable();
        self.irr = self.irr & !self.elcr | self.inputs & self.elcr;
    }

    pub(super) fn save(&self) -> I8259Chip {
        I8259Chip {
            irr: self.irr,
            imr: self.imr,
            isr: self.isr,
            inputs: self.inputs,
            elcr: self.elcr,
            base: self.base,
            lowest: self.lowest,
            init: self.init,
            wants_icw4: self.wants_icw4,
            single: self.single,
            auto_eoi: self.auto_eoi,
            rotate_on_auto_eoi: self.rotate_on_auto_eoi,
            special_mask: self.special_mask,
            special_nested: self.special_nested,
            poll: self.poll,
            read_isr: self.read_isr,
        }
    }

    /// The state but for the inputs, which stay.
    pub(super) fn give_back(&mut self, given: &I8259Chip) {
        self.restore(&I8259Chip { inputs: self.inputs, ..given.clone() });
    }

    /// Every state is harmless; what has fewer bits than its field is cut to size.
    pub(super) fn restore(&mut self, state: &I8259Chip) {
        *self = Self {
            role: self.role,
            irr: state.irr,
            imr: state.imr,
            isr: state.isr,
            inputs: state.inputs,
            elcr: state.elcr & self.role.elcr_writable(),
            base: state.base & 0xf8,
            lowest: state.lowest & 7,
            init: state.init,
            wants_icw4: state.wants_icw4,
            single: state.single,
            auto_eoi: state.auto_eoi,
            rotate_on_auto_eoi: state.rotate_on_auto_eoi,
            special_mask: state.special_mask,
            special_nested: state.special_nested,
            poll: state.poll,
            read_isr: state.read_isr,
        };
    }
}
