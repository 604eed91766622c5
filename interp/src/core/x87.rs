//! x87 and MMX instructions that the engine executes itself.

use cpu::x86::seg;
use iced_x86::Instruction;

use super::Session;
use crate::host::{self, Pointers};

impl Session<'_, '_> {
    /// The guest's x87 state is in the registers of this thread's FPU. The interpreter takes it back when it needs it.
    pub fn x87_lent(&self) -> bool {
        self.cpu().host.lent
    }

    /// Puts it there, in a [`Mode`](super::Mode) with `x87`.
    pub fn lend_x87(&mut self) {
        self.run.cpu.host.lend_x87();
    }

    /// What the guest finds as x87 instruction and operand pointers: opcode and address of the last instruction that
    /// is no control instruction; segment and offset of the last memory operand, if there was one since the last call.
    pub fn note_x87(&mut self, opcode: u16, ip: u64, operand: Option<(usize, u64)>) {
        let cpu = &mut *self.run.cpu;
        let old = cpu.host.pointers;
        let (dp, ds) = match operand {
            Some((segment, offset)) => (offset, cpu.segments.get(segment).map_or(0, |s| s.selector)),
            None => (old.dp, old.ds),
        };
        cpu.host.pointers = Pointers { opcode, ip, cs: cpu.segments[seg::CS].selector, dp, ds };
    }
}

/// An x87 instruction.
pub fn is_x87(insn: &Instruction) -> bool {
    host::is_x87(insn)
}

/// Its opcode as [`Session::note_x87`] wants it.
pub fn opcode(insn: &Instruction) -> u16 {
    host::x87_opcode(insn)
}

/// Number of its memory operand's segment.
pub fn segment(insn: &Instruction) -> u8 {
    crate::decode::segment(insn)
}
