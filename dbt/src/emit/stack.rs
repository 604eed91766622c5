//! PUSH, POP, LEAVE in 64-bit code.

use iced_x86::{Instruction, OpKind};

use super::asm::{Mem, at, reg, sum};
use super::memory::OPERAND;
use super::{Emitter, home, spilled};
use crate::frontend::class::Access;
use crate::runtime::context::field;
use reg::{R9, R10, R11};

/// A stack access.
pub const fn word(store: bool) -> Access {
    Access { size: 8, store, aligned: false }
}

const RBP: u8 = 5;

impl Emitter<'_> {
    /// PUSH of a register or an immediate.
    pub fn push(&mut self, insn: &Instruction) {
        let first = self.made.len();
        self.asm.lea(R10, at(R11, -8));
        self.check(insn, word(true));
        match insn.op_kind(0) {
            OpKind::Register => {
                let number = insn.op0_register().number() as u8;
                if spilled(number) {
                    self.asm.lea(R10, sum(R10, R9));
                    self.asm.load(R9, Mem::Gs(field::reg(number)));
                    self.asm.store(at(R10, 0), R9);
                } else {
                    self.asm.store(OPERAND, home(number));
                }
            }
            _ => self.asm.store_imm(OPERAND, insn.immediate(0) as i32),
        }
        self.move_stack(-8);
        self.sites_end(first);
    }

    /// POP of a register.
    pub fn pop(&mut self, insn: &Instruction) {
        let first = self.made.len();
        let number = insn.op0_register().number() as u8;
        self.asm.mov(R10, R11);
        self.check(insn, word(false));
        if spilled(number) {
            self.asm.load(R9, OPERAND);
            self.asm.store(Mem::Gs(field::reg(number)), R9);
            self.move_stack(8);
        } else if home(number) == R11 {
            self.asm.load(R11, OPERAND); // POP RSP: the value wins
        } else {
            self.asm.load(home(number), OPERAND);
            self.move_stack(8);
        }
        self.sites_end(first);
    }

    /// LEAVE.
    pub fn leave(&mut self, insn: &Instruction) {
        let first = self.made.len();
        self.asm.mov(R10, RBP);
        self.check(insn, word(false));
        self.asm.lea(R11, at(RBP, 8));
        self.asm.load(RBP, OPERAND);
        self.sites_end(first);
    }
}
