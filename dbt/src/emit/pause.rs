//! PAUSE: the host's own. Loops poll at their jumps; now and then the interpreter does it, which lets other threads run.

use iced_x86::Instruction;

use super::Emitter;
use super::asm::{Mem, Target, cond};
use crate::runtime::context::{Left, field};

/// One in so many goes to the interpreter.
const PERIOD: u32 = 8;

impl Emitter<'_> {
    /// PAUSE.
    pub fn pause(&mut self, insn: &Instruction) {
        self.park();
        self.asm.bytes(&[0xf3, 0x90]);
        self.asm.dec32(Mem::Gs(field::PAUSES));
        let due = self.asm.jcc(cond::SIGN, Target::Fixed(0));
        let number = self.first_operation + self.operations.len() as u32;
        self.aside(due, |e| {
            e.asm.store_imm32(Mem::Gs(field::PAUSES), PERIOD - 1);
            e.exit(Left::Operation, number);
        });
        self.hand(insn, None, 0);
    }
}
