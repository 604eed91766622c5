//! System instructions that touch a flag or a selector and nothing else.

use iced_x86::{Instruction, Mnemonic, Register};

use super::asm::{Mem, Target, at, cond, reg, sum};
use super::{Emitter, spilled};
use crate::frontend::class::Access;
use crate::runtime::context::field;
use reg::{R9, R10, RAX, RCX, RDX};

/// Where the base is that an instruction names.
fn base(insn: &Instruction) -> u32 {
    match insn.mnemonic() {
        Mnemonic::Rdfsbase | Mnemonic::Wrfsbase => field::FS_BASE,
        _ => field::GS_BASE,
    }
}

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

    /// RDFSBASE and RDGSBASE.
    pub fn read_base(&mut self, insn: &Instruction) {
        let to = insn.op0_register();
        let number = to.full_register().number() as u8;
        let host = if spilled(number) { R10 } else { number };
        if to.size() == 8 {
            self.asm.load(host, Mem::Gs(base(insn)));
        } else {
            self.asm.load32(host, Mem::Gs(base(insn)));
        }
        if spilled(number) {
            self.store_register(number, R10);
        }
    }

    /// WRFSBASE and WRGSBASE. An address that is not canonical is left to the interpreter.
    pub fn write_base(&mut self, insn: &Instruction) {
        let from = insn.op0_register();
        let number = from.full_register().number() as u8;
        if spilled(number) {
            self.load_register(R10, number);
        }
        let host = if spilled(number) { R10 } else { number };
        let asm = &mut *self.asm;
        asm.mov_size(R10, host, from.size() == 8);
        if from.size() == 8 {
            asm.mov(R9, RAX);
            asm.save_flags();
            asm.store(Mem::Gs(field::CALLED), R10);
            asm.shl(R10, 16);
            asm.sar(R10, 16, true);
            asm.cmp(R10, Mem::Gs(field::CALLED));
            let refused = asm.jcc(cond::NOT_EQUAL, Target::Fixed(0));
            asm.restore_flags();
            asm.mov(RAX, R9);
            asm.store(Mem::Gs(base(insn)), R10);
            self.instead(insn, &[refused]);
        } else {
            asm.store(Mem::Gs(base(insn)), R10);
        }
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

    /// MOV of a segment register to a register, of which 16 bits are all that changes or the selector all there is.
    pub fn selector(&mut self, insn: &Instruction) {
        let to = insn.op0_register().full_register().number() as u8;
        let from = insn.op1_register().number() as u32;
        let host = if spilled(to) { R10 } else { to };
        if insn.op0_register().size() == 2 {
            if spilled(to) {
                self.load_register(R10, to);
            }
            self.asm.load32(R9, Mem::Gs(field::SELECTORS + 4 * from));
            self.asm.mov16(host, R9);
        } else {
            self.asm.load32(host, Mem::Gs(field::SELECTORS + 4 * from));
        }
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
