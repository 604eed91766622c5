//! Operands of system instructions.

use crate::cpu::{CodeSize, Cpu};
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop};

/// In [`Op::aux`]: the operand is a register; the low bits are its size in bytes.
pub(super) const REG: u8 = 0x80;
const SIZE: u8 = 0xf;

impl Lowering<'_> {
    /// Operand `n` is a 16-bit source, register or memory.
    pub(super) fn source16(&mut self, n: u32) {
        if self.is_reg(n) {
            self.src(n);
            self.op.aux |= REG;
        }
    }

    /// Operand `n` is a destination for a selector: a register of any size, or 16 bits of memory.
    pub(super) fn selector_target(&mut self, n: u32) {
        if self.is_reg(n) {
            self.dst(n);
            self.op.aux = self.size(n) as u8 | REG;
        }
    }
}

impl Cpu {
    /// The operand that [`Lowering::source16`] resolved.
    pub(super) fn load_source16(&mut self, op: &Op) -> Result<u16, Stop> {
        if op.aux & REG != 0 { Ok(self.src(op)) } else { self.load_op(op) }
    }

    /// Writes the operand that [`Lowering::selector_target`] resolved.
    pub(super) fn store_selector(&mut self, op: &Op, value: u64) -> Done {
        match (op.aux & REG != 0, op.aux & SIZE) {
            (false, _) => return self.store_op(op, value as u16)?.done(),
            (_, 2) => self.set_dst(op, value as u16),
            (_, 4) => self.set_dst(op, value as u32),
            _ => self.set_dst(op, value),
        }
        Ok(())
    }

    /// A general register as MOV to control and debug registers sees it: 64 bits in 64-bit mode, else 32.
    pub(super) fn system_reg(&self, slot: u8) -> u64 {
        let value = self.reg(slot);
        if self.code_size == CodeSize::Bits64 { value } else { value & 0xffff_ffff }
    }

    /// Writes a general register as MOV from control and debug registers does.
    pub(super) fn set_system_reg(&mut self, slot: u8, value: u64) {
        let wide = self.code_size == CodeSize::Bits64;
        self.set_gpr::<u64>(usize::from(slot), if wide { value } else { value & 0xffff_ffff });
    }
}
