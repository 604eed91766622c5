//! DIV and IDIV. The host must not fault, so operands that may overflow go to the interpreter.

use iced_x86::{Code, Instruction, OpKind};

use super::asm::{Target, at, cond, reg};
use super::{Emitter, spilled};
use crate::frontend::class::Access;
use reg::{R9, R10, RAX};

const RDX: u8 = 2;

impl Emitter<'_> {
    /// Divides; flags are undefined afterwards.
    pub fn divide(&mut self, insn: &Instruction) -> Option<()> {
        let wide = matches!(insn.code(), Code::Div_rm64 | Code::Idiv_rm64);
        let signed = matches!(insn.code(), Code::Idiv_rm32 | Code::Idiv_rm64);
        let first = self.made.len();
        (self.live, self.parked) = (false, false);
        if insn.op_kind(0) == OpKind::Register {
            let number = insn.op0_register().full_register().number() as u8;
            if spilled(number) {
                self.load_register(R9, number);
            } else {
                self.asm.mov(R9, number);
            }
            if !wide {
                self.asm.mov32(R9, R9);
            }
        } else {
            let size = if wide { 8 } else { 4 };
            let operand = self.operand(insn, Access { size, store: false, aligned: false })?;
            if wide {
                self.asm.load(R9, operand);
            } else {
                self.asm.load32(R9, operand);
            }
        }
        let mut operations = Vec::new();
        let mut unless = |e: &mut Self, condition: u8| {
            let jump = e.asm.jcc(condition, Target::Fixed(0));
            operations.push(e.cold_operation(insn, false, jump));
        };
        if signed {
            // The high half has to be the low half's sign, and the divisor neither 0 nor -1.
            self.asm.mov_size(R10, RAX, wide);
            self.asm.sar(R10, if wide { 63 } else { 31 }, wide);
            self.asm.cmp_reg(R10, RDX, wide);
            unless(self, cond::NOT_EQUAL);
            self.asm.lea_size(R10, at(R9, 1), wide);
            self.asm.cmp_imm_size(R10, 1, wide);
            unless(self, cond::BELOW_OR_EQUAL);
        } else {
            self.asm.cmp_reg(RDX, R9, wide);
            unless(self, cond::ABOVE_OR_EQUAL);
        }
        self.asm.divide(R9, signed, wide);
        self.sites_end(first);
        for operation in operations {
            self.continue_at(operation);
        }
        Some(())
    }
}
