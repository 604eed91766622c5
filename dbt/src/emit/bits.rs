//! BT, BTS, BTR and BTC whose bit number is in a register: the bit may lie anywhere before or behind the operand.

use iced_x86::{Instruction, Mnemonic};

use super::asm::{Mem, at, reg, sum};
use super::memory::narrow;
use super::{Emitter, spilled};
use crate::frontend::class::Access;
use crate::frontend::parts::Parts;
use reg::{R9, R10};

impl Emitter<'_> {
    /// The instruction on the word that has the bit.
    pub fn bit_string(&mut self, insn: &Instruction, bytes: &[u8], access: Access) -> Option<()> {
        let parts = Parts::new(bytes, insn)?;
        if narrow(insn) && !self.code32() {
            return None;
        }
        let first = self.made.len();
        let bits = access.size * 8;
        self.address(insn)?;
        self.park();
        self.bit_number(insn);
        if bits < 64 {
            self.asm.shl(R9, 64 - bits);
        }
        self.asm.sar(R9, 64 - bits + bits.trailing_zeros() as u8, true);
        let scale = access.size.trailing_zeros() as u8;
        self.lea_word(R10, Mem::At { base: Some(R10), index: Some(R9), scale, disp: 0 });
        self.check(insn, access);
        let test = insn.mnemonic() == Mnemonic::Bt;
        if test {
            match access.size {
                8 => self.asm.load(R10, sum(R10, R9)),
                4 => self.asm.load32(R10, sum(R10, R9)),
                _ => self.asm.load_zx16(R10, sum(R10, R9)),
            }
        } else {
            self.asm.lea(R10, sum(R10, R9));
        }
        self.bit_number(insn);
        self.asm.and_imm32(R9, u32::from(bits - 1));
        self.unpark_for(insn);
        if test {
            self.asm.bytes(&[0x4d, 0x0f, 0xa3, 0xca]); // bt r10, r9
        } else {
            parts.encode(self.asm, |_| R9, Some(at(R10, 0)))?;
        }
        self.sites_end(first);
        Some(())
    }

    /// R9 becomes the register with the bit's number.
    fn bit_number(&mut self, insn: &Instruction) {
        let number = insn.op1_register().full_register().number() as u8;
        if spilled(number) {
            self.load_register(R9, number);
        } else {
            self.asm.mov(R9, number);
        }
    }
}
