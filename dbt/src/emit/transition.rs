//! SYSCALL, SYSRET, STAC and CLAC: from one mode to another without leaving translated code. What belongs to the
//! interpreter's state, segments and privilege, follows when translated code is left.

use iced_x86::Instruction;

use super::Emitter;
use super::asm::{Forward, Mem, Section, Target, at, cond, reg, sum};
use crate::runtime::context::{Left, field};
use crate::runtime::transition::{AC, IF, MASKED, PLAIN, STATUS, SYSCALL, SYSRET};
use reg::{R9, R10, R11, RAX, RCX, RSP};

impl Emitter<'_> {
    /// SYSCALL at CPL 3.
    pub fn syscall(&mut self, insn: &Instruction) {
        let lin = self.lin_word();
        let asm = &mut *self.asm;
        asm.mov(R9, RAX);
        asm.save_flags();
        asm.load32(R10, Mem::Gs(field::SYSTEM_FLAGS));
        asm.and32(R10, Mem::Gs(field::GATE_REFUSED));
        let refused = asm.jcc(cond::NOT_EQUAL, Target::Fixed(0));
        asm.load32(R10, Mem::Gs(field::SYSTEM_FLAGS));
        asm.load(RCX, Mem::Gs(field::ENTRIES));
        asm.lea(RCX, at(RCX, 1));
        asm.store(Mem::Gs(field::ENTRIES), RCX);
        // R11 becomes RFLAGS.
        asm.load_zx8(RCX, Mem::Gs(field::INTERRUPTS));
        asm.shl(RCX, 9);
        asm.lea(R10, sum(R10, RCX));
        asm.bytes(&[0x0f, 0xb6, 0xcc]); // movzx ecx, ah
        asm.and_imm32(RCX, STATUS & 0xff);
        asm.lea(R10, sum(R10, RCX));
        asm.bytes(&[0x0f, 0xb6, 0xc8]); // movzx ecx, al
        asm.shl(RCX, 11);
        asm.lea(R10, sum(R10, RCX));
        asm.store(Mem::Gs(field::reg(11)), R10);
        asm.and32(R10, Mem::Gs(field::GATE_KEPT));
        asm.store(Mem::Gs(field::SYSTEM_FLAGS), R10);
        asm.and32(RAX, Mem::Gs(field::GATE_KEPT_STATUS));
        asm.restore_flags();
        asm.mov(RAX, R9);
        asm.load(RCX, lin);
        asm.lea(RCX, at(RCX, insn.next_ip() as i32));
        asm.store_imm8(Mem::Gs(field::INTERRUPTS), 0);
        asm.store_imm8(Mem::Gs(field::ATTENTION), MASKED);
        asm.load(R10, Mem::Gs(field::GATE_INNER));
        asm.store(Mem::Gs(field::SELECTORS + 4), R10);
        asm.load(R10, Mem::Gs(field::GATE_TARGET));
        self.pass(SYSCALL);
        self.instead(insn, &[refused]);
    }

    /// SYSRET to 64-bit code.
    pub fn sysret(&mut self, insn: &Instruction) {
        let asm = &mut *self.asm;
        asm.mov(R9, RAX);
        asm.save_flags();
        asm.load32(R10, Mem::Gs(field::reg(11)));
        asm.and32(R10, Mem::Gs(field::GATE_OUTER_FLAGS));
        asm.cmp_imm(R10, IF as i32);
        let flags = asm.jcc(cond::NOT_EQUAL, Target::Fixed(0));
        asm.mov(R10, RCX);
        asm.shl(R10, 16);
        asm.sar(R10, 16, true);
        asm.cmp_reg(R10, RCX, true);
        let target = asm.jcc(cond::NOT_EQUAL, Target::Fixed(0));
        // An interrupt that waits for IF is the next thing to happen.
        asm.load(R10, Mem::Gs(field::SIGNALS));
        asm.cmp32_zero(at(R10, 0));
        let signals = asm.jcc(cond::NOT_EQUAL, Target::Fixed(0));
        asm.load32(RAX, Mem::Gs(field::reg(11)));
        asm.mov32(R10, RAX);
        asm.and_imm32(R10, PLAIN);
        asm.lea(R10, at(R10, 2));
        asm.store(Mem::Gs(field::SYSTEM_FLAGS), R10);
        asm.mov32(R10, RAX);
        asm.sar(R10, 11, false);
        asm.and_imm32(R10, 1);
        asm.shl(RAX, 8);
        asm.lea(RAX, sum(RAX, R10));
        asm.restore_flags();
        asm.mov(RAX, R9);
        asm.store_imm8(Mem::Gs(field::INTERRUPTS), 1);
        asm.store_imm8(Mem::Gs(field::ATTENTION), 0xff);
        asm.load(R10, Mem::Gs(field::GATE_OUTER));
        asm.store(Mem::Gs(field::SELECTORS + 4), R10);
        asm.mov(R10, RCX);
        self.pass(SYSRET);
        self.instead(insn, &[flags, target, signals]);
    }

    /// The interpreter does it after all, where `refused` leads with RAX in R9 and the flags in AX.
    pub fn instead(&mut self, insn: &Instruction, refused: &[Forward]) {
        let number = self.first_operation + self.operations.len() as u32;
        self.asm.switch(Section::Cold);
        refused.iter().for_each(|&jump| self.asm.bind(jump));
        self.asm.restore_flags();
        self.asm.mov(RAX, R9);
        self.exit(Left::Operation, number);
        self.asm.switch(Section::Hot);
        self.hand(insn, None, 0);
    }

    /// STAC and CLAC with SMAP, each in the mode where AC is not yet as it says.
    pub fn set_access(&mut self, insn: &Instruction, set: bool) {
        let change = if set { AC as i32 } else { -(AC as i32) };
        self.asm.load(R9, Mem::Gs(field::SYSTEM_FLAGS));
        self.asm.lea(R9, at(R9, change));
        self.asm.store(Mem::Gs(field::SYSTEM_FLAGS), R9);
        if !set {
            self.close_window();
        }
        self.change_mode();
        self.jump_out(insn.next_ip() as i64);
    }

    /// Goes on in the other mode, at the address in R10. Keeps flags.
    fn pass(&mut self, gate: u32) {
        self.close_window();
        self.asm.store_imm32(Mem::Gs(field::GATE), gate);
        self.change_mode();
        self.asm.store_imm32(Mem::Gs(field::ARGUMENT), 0);
        self.index();
        self.asm.jmp_table(R9, field::jumps(self.other));
    }

    /// Less may be accessed from here on than what the stack's window was opened for.
    fn close_window(&mut self) {
        let asm = &mut *self.asm;
        asm.load(R9, Mem::Gs(field::STACK_NEG));
        asm.lea(R11, sum(R11, R9));
        asm.load(R9, Mem::Gs(field::NO_WINDOW));
        asm.store(Mem::Gs(field::STACK_WINDOW), R9);
        asm.store_imm(Mem::Gs(field::STACK_ADDEND), 0);
        asm.store_imm(Mem::Gs(field::STACK_NEG), 0);
    }

    fn change_mode(&mut self) {
        let asm = &mut *self.asm;
        asm.store_imm32(Mem::Gs(field::PASSED), self.other as u32 + 1);
        asm.store(Mem::Gs(field::stack_of(self.mode)), RSP);
        asm.load(RSP, Mem::Gs(field::stack_of(self.other)));
    }
}
