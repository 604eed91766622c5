//! Operands at RSP and an index: tables that procedures keep in their frames. They lie in the stack's window most of the
//! time, where their host address is at hand; elsewhere the page is looked up.

use iced_x86::{Instruction, Register};

use super::asm::{Mem, Target, at, cond, reg, sum};
use super::{Emitter, spilled};
use crate::analysis::stack;
use crate::cache::tlb::table;
use crate::frontend::class::Access;
use crate::frontend::code32::{displacement, stack_pointer};
use crate::runtime::context::field;
use reg::{R9, R10, R11};

impl Emitter<'_> {
    /// The checked operand, if it is one of these. Clobbers R9, R10 and flags.
    pub fn in_frame(&mut self, insn: &Instruction, access: Access) -> Option<Mem> {
        let based = matches!(insn.memory_segment(), Register::FS | Register::GS);
        let index = insn.memory_index();
        let like_this = insn.memory_base() == stack_pointer(insn)
            && index.is_gpr()
            && index.size() == insn.memory_base().size();
        if !like_this || based || !stack::has_operand(insn) {
            return None;
        }
        let disp = i32::try_from(displacement(insn)).ok()?;
        self.park();
        let site = self.site(insn, access);
        let number = index.full_register().number() as u8;
        let index = if spilled(number) {
            self.holder(number).unwrap_or_else(|| {
                self.load_register(R10, number);
                R10
            })
        } else {
            number
        };
        let scale = insn.memory_index_scale().trailing_zeros() as u8;
        let most = 4096 - i32::from(access.size);
        self.asm.lea(R9, Mem::At { base: Some(R11), index: Some(index), scale, disp });
        self.asm.mov(R10, R9);
        self.asm.add(R10, Mem::Gs(field::STACK_WINDOW));
        self.asm.cmp_imm(R10, most);
        let outside = self.asm.jcc(cond::ABOVE, Target::Fixed(0));
        let resume = Target::Here(self.asm.here());
        let table = table(self.kind, access.store);
        self.aside(outside, |e| {
            e.asm.mov(R10, R9);
            e.asm.add(R10, Mem::Gs(field::STACK_NEG));
            if e.code32() {
                e.asm.mov32(R10, R10);
            }
            let miss = e.asm.look_up(table, most);
            let found = Target::Here(e.asm.here());
            e.asm.lea(R9, sum(R9, R10));
            let _ = e.asm.jmp(resume);
            e.asm.bind(miss);
            e.asm.call_noting(e.stubs.miss[table], site);
            let _ = e.asm.jmp(found);
        });
        Some(at(R9, 0))
    }
}
