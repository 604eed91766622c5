//! Guest registers that have no home, and what scratch registers still hold of them. The context has them always; reading
//! them back from there at once would wait for the store.

use super::Emitter;
use super::asm::{Mem, Place, Section, Target, reg, sum};
use super::reach::BEYOND;
use crate::runtime::context::field;
use reg::{R9, R10, R11, RSP};

/// The scratch registers.
const SCRATCH: [u8; 2] = [R9, R10];

impl Emitter<'_> {
    /// The scratch register that holds a guest register.
    pub fn holder(&self, number: u8) -> Option<u8> {
        let pairs = SCRATCH.into_iter().zip(self.held);
        pairs.into_iter().find(|&(host, held)| held == Some(number) && self.keeps(host)).map(|(host, _)| host)
    }

    pub(super) fn keeps(&self, host: u8) -> bool {
        self.asm.written & 1 << host == 0
    }

    fn hold(&mut self, host: u8, number: u8) {
        if let Some(i) = SCRATCH.iter().position(|&h| h == host) {
            self.held[i] = Some(number);
            self.reach = None;
            self.asm.written &= !(1 << host);
        }
    }

    /// A scratch register for each of two guest registers at most: the one that holds it, or one that holds nothing of use.
    pub fn scratch_for(&self, registers: [Option<u8>; 2]) -> [u8; 2] {
        let holders = registers.map(|r| r.and_then(|r| self.holder(r)));
        match holders {
            [Some(a), Some(b)] if a != b => [a, b],
            [Some(a), _] => [a, if a == R9 { R10 } else { R9 }],
            [None, Some(b)] => [if b == R9 { R10 } else { R9 }, b],
            [None, None] if self.held[0].is_some() && self.keeps(R9) && registers[1].is_none() => [R10, R9],
            _ => [R9, R10],
        }
    }

    /// `to` becomes a guest register that has no home.
    pub fn load_register(&mut self, to: u8, number: u8) {
        if number == RSP {
            self.asm.load(to, Mem::Gs(field::STACK_NEG));
            self.lea_word(to, sum(to, R11));
            return;
        }
        match self.holder(number) {
            Some(host) if host == to => {}
            Some(host) => self.asm.mov(to, host),
            None => {
                self.asm.load(to, Mem::Gs(field::reg(number)));
                self.hold(to, number);
            }
        }
    }

    /// A guest register that has no home becomes what another register is.
    pub fn store_register(&mut self, number: u8, from: u8) {
        if number == RSP {
            // What computed it may have been emitted as bytes.
            self.asm.written |= 1 << from;
            self.asm.load(R11, Mem::Gs(field::STACK_ADDEND));
            self.asm.lea(R11, sum(R11, from));
            return;
        }
        self.asm.store(Mem::Gs(field::reg(number)), from);
        for held in &mut self.held {
            if *held == Some(number) {
                *held = None;
            }
        }
        self.hold(from, number);
    }

    /// Where the engine comes back to behind an instruction: here, with scratch registers as code here expects them.
    pub fn resume(&mut self) -> Place {
        let here = self.asm.here();
        let held: Vec<_> = SCRATCH.into_iter().zip(self.held).filter(|&(host, _)| self.keeps(host)).collect();
        let mut place = None;
        self.asm.switch(Section::Cold);
        let cold = self.asm.here();
        for (host, number) in held {
            if let Some(number) = number {
                let written = self.asm.written;
                self.asm.load(host, Mem::Gs(field::reg(number)));
                self.asm.written = written;
                place = Some(cold);
            }
        }
        if self.reach().is_some() {
            // What the look-up found may not hold any more.
            let written = self.asm.written;
            self.asm.imm(R10, BEYOND);
            self.asm.written = written;
            place = Some(cold);
        }
        if place.is_some() {
            let _ = self.asm.jmp(Target::Here(here));
        }
        self.asm.switch(Section::Hot);
        place.unwrap_or(here)
    }
}
