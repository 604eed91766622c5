//! System instructions that touch a flag or a selector and nothing else.

use iced_x86::{Instruction, Register};

use super::asm::{Mem, Target, at, reg, sum};
use super::{Emitter, spilled};
use crate::frontend::class::Access;
use crate::runtime::context::field;
use reg::{R9, R10, RAX, RCX, RDX};

/// All arithmetic flags in RFLAGS.
const STATUS: u32 = 0x8d5;

impl Emitter<'_> {
    /// CLI at CPL 0.
    pub fn cli(&mut self) {
        self.asm.store_imm8(Mem::Gs(field::INTERRUPTS), 0);
        self.asm.store_imm8(Mem::Gs(field::ATTENTION), !(cpu::Signals::INTR as u8));
    }

    /// STI at CPL 0. If anything is pending the interpreter does it, for the sake of the shadow.
    pub fn sti(&mut self, insn: &Instruction) {
        let asm = &mut *self.asm;
        asm.mov(R9, RCX);
        asm.load(RCX, Mem::Gs(field::SIGNALS));
        asm.load32(RCX, at(RCX, 0));
        let none = asm.jrcxz();
        let pending = asm.jmp(Target::Fixed(0));
        asm.bind_short(none);
        asm.mov(RCX, R9);
        asm.store_imm8(Mem::Gs(field::INTERRUPTS), 1);
        asm.store_imm8(Mem::Gs(field::ATTENTION), 0xff);
        let operation = self.cold_operation(insn, true, pending);
        self.continue_at(operation);
    }

    /// PUSHFQ, PUSHFD.
    pub fn pushf(&mut self, insn: &Instruction) {
        // The slot comes first: should it be missing, the interpreter pushes the flags, which have to be there still.
        let first = self.made.len();
        let slot = self.on_stack(insn, -self.word(), self.on_word(true));
        let slot = self.without_r9(slot);
        let checked = !self.slot.inside;
        let clobbered = self.parked;
        // Where they are live afterwards they stay aside, too.
        if self.live_behind {
            self.park();
        }
        if clobbered {
            self.unpark_aside();
        }
        self.parked &= self.live_behind;
        let asm = &mut *self.asm;
        if checked {
            asm.store(Mem::Gs(field::CALLED), R10);
        }
        asm.bytes(&[0x9c]); // pushfq
        asm.pop(R9);
        asm.and_imm32(R9, STATUS);
        asm.or(R9, Mem::Gs(field::SYSTEM_FLAGS));
        asm.load_zx8(R10, Mem::Gs(field::INTERRUPTS));
        asm.shl(R10, 9);
        asm.lea(R9, sum(R9, R10));
        if checked {
            asm.load(R10, Mem::Gs(field::CALLED));
        }
        self.store_word(slot, R9);
        self.move_stack(-self.word());
        self.sites_end(first);
    }

    /// SWAPGS at CPL 0.
    pub fn swapgs(&mut self) {
        let asm = &mut *self.asm;
        asm.load(R9, Mem::Gs(field::GS_BASE));
        asm.load(R10, Mem::Gs(field::KERNEL_GS_BASE));
        asm.store(Mem::Gs(field::KERNEL_GS_BASE), R9);
        asm.store(Mem::Gs(field::GS_BASE), R10);
    }

    /// RDTSC: the host's, and what the guest's is ahead of it. Keeps flags.
    pub fn rdtsc(&mut self) {
        let asm = &mut *self.asm;
        asm.bytes(&[0x0f, 0x31]); // rdtsc
        asm.bytes(&[0xc4, 0xe3, 0xfb, 0xf0, 0xd2, 32]); // rorx rdx, rdx, 32
        asm.lea(RAX, sum(RAX, RDX));
        asm.load(R9, Mem::Gs(field::TSC_OFFSET));
        asm.lea(RAX, sum(RAX, R9));
        asm.bytes(&[0xc4, 0xe3, 0xfb, 0xf0, 0xd0, 32]); // rorx rdx, rax, 32
        asm.mov32(RDX, RDX);
        asm.mov32(RAX, RAX);
    }

    /// RDTSCP, which waits for all loads before it.
    pub fn rdtscp(&mut self) {
        self.asm.bytes(&[0x0f, 0xae, 0xe8]); // lfence
        self.rdtsc();
        self.asm.load32(RCX, Mem::Gs(field::TSC_AUX));
    }

    /// SERIALIZE. Whoever has overwritten code rings this vCPU before going on.
    pub fn serialize(&mut self, insn: &Instruction) {
        self.asm.bytes(&[0x0f, 0xae, 0xf0]); // mfence
        self.jump(insn.next_ip() as i64, self.live_behind, true);
    }

    /// MOV of a segment register to a 32-bit register.
    pub fn selector(&mut self, insn: &Instruction) {
        let to = insn.op0_register().full_register().number() as u8;
        let from = insn.op1_register().number() as u32;
        let host = if spilled(to) { R10 } else { to };
        self.asm.load32(host, Mem::Gs(field::SELECTORS + 4 * from));
        if spilled(to) {
            self.store_register(to, R10);
        }
    }

    /// MOV of a segment register to memory.
    pub fn store_selector(&mut self, insn: &Instruction) -> Option<()> {
        let first = self.made.len();
        let slot = self.operand(insn, Access { size: 2, store: true, aligned: false })?;
        let slot = self.without_r9(slot);
        self.asm.load32(R9, Mem::Gs(field::SELECTORS + 4 * insn.op1_register().number() as u32));
        self.asm.store16(slot, R9);
        self.sites_end(first);
        Some(())
    }

    /// MOV of CR2 or CR3 to a register.
    pub fn control(&mut self, insn: &Instruction) {
        let to = insn.op0_register().number() as u8;
        let from = if insn.op1_register() == Register::CR2 { field::CR2 } else { field::CR3 };
        let host = if spilled(to) { R10 } else { to };
        self.load_word(host, Mem::Gs(from));
        if spilled(to) {
            self.store_register(to, R10);
        }
    }
}
