//! The state of lowering one instruction: the operation being filled, and how its operands are resolved.

use iced_x86::{Instruction, OpKind, Register};

use super::liveness::FlagUse;
use crate::cpu::{CodeSize, Cpu};
use crate::exec::fused::{Comparison, Form};
use crate::op::{Handler, Op, SEG_FLAT, Threaded, op_flag, plain, slot};

/// One instruction on its way to an operation.
pub(crate) struct Lowering<'a> {
    pub cpu: &'a mut Cpu,
    pub insn: &'a Instruction,
    /// Memory operand, prefixes and lengths are filled in; the family adds the rest.
    pub op: &'a mut Op,
    /// The block ends here: the handler returns `Err(Stop::Jump)` with `cpu.rip` set, or stops otherwise.
    pub ends: bool,
    /// The instruction is a comparison that a following branch may absorb.
    pub comparison: Option<Comparison>,
    /// What the instruction does with flags; families that say nothing are left alone.
    pub flag_use: &'a mut FlagUse,
}

/// To be copied as a whole.
const BLANK: Op = Op {
    run: plain,
    plain: crate::system::unimplemented,
    imm: 0,
    disp: 0,
    dst: slot::ZERO,
    src: slot::ZERO,
    base: slot::ZERO,
    index: slot::ZERO,
    scale: 0,
    seg: SEG_FLAT,
    addr_shift: 0,
    flags: 0,
    off: 0,
    len: 0,
    aux: 0,
};

impl Op {
    /// An operation without operands.
    pub fn template(off: u16, len: u8) -> Self {
        Self { off, len, ..BLANK }
    }
}

impl<'a> Lowering<'a> {
    /// Resolves prefixes and the memory operand, if there is one.
    pub fn new(cpu: &'a mut Cpu, insn: &'a Instruction, op: &'a mut Op, flag_use: &'a mut FlagUse) -> Self {
        let mut this = Self { cpu, insn, op, ends: false, comparison: None, flag_use };
        let prefix = |present: bool, flag: u8| if present { flag } else { 0 };
        this.op.flags = prefix(insn.has_lock_prefix(), op_flag::LOCK)
            | prefix(insn.has_rep_prefix(), op_flag::REP)
            | prefix(insn.has_repne_prefix(), op_flag::REPNE)
            | prefix(this.cpu.stack32(), op_flag::STACK32);
        if (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory) {
            this.memory();
        }
        this
    }

    /// The instruction is CMP or TEST with operands of `size` bytes.
    pub fn fuse_with_branch(&mut self, size: usize) {
        let form = match (self.is_mem(0), self.is_mem(1), self.is_reg(1)) {
            (true, _, true) => Form::MemReg,
            (true, ..) => Form::MemImm,
            (_, true, _) => Form::RegMem,
            (_, _, true) => Form::RegReg,
            _ => Form::RegImm,
        };
        let test = self.insn.mnemonic() == iced_x86::Mnemonic::Test;
        self.comparison = Some(Comparison { test, size, form });
    }

    /// Sets the handler.
    pub fn run(&mut self, handler: Handler) -> bool {
        self.op.run = plain;
        self.op.plain = handler;
        true
    }

    /// Sets a threaded handler, for instructions that are hot.
    pub fn thread(&mut self, run: Threaded) -> bool {
        self.op.run = run;
        true
    }

    /// Sets a threaded handler and says what it does with flags; memory operands may fault.
    pub fn thread_flags(&mut self, run: Threaded, flags: FlagUse) -> bool {
        let memory = (0..self.insn.op_count()).any(|n| self.is_mem(n));
        *self.flag_use = if memory { flags.faulting() } else { flags };
        self.thread(run)
    }

    /// Sets the threaded handler of an instruction that ends its block.
    pub fn end_threaded(&mut self, run: Threaded) -> bool {
        self.ends = true;
        self.thread(run)
    }

    /// Sets the handler of an instruction that ends its block.
    pub fn end_with(&mut self, run: Handler) -> bool {
        self.ends = true;
        self.run(run)
    }

    /// Operand `n` as a register: fills `dst`.
    pub fn dst(&mut self, n: u32) {
        let (slot, high) = register(self.insn.op_register(n));
        self.op.dst = slot;
        self.op.flags |= if high { op_flag::HIGH_DST } else { 0 };
    }

    /// Operand `n` as a register: fills `src`.
    pub fn src(&mut self, n: u32) {
        let (slot, high) = register(self.insn.op_register(n));
        self.op.src = slot;
        self.op.flags |= if high { op_flag::HIGH_SRC } else { 0 };
    }

    /// Operand `n` as an immediate, sign-extended to 64 bits: fills `imm`.
    pub fn imm(&mut self, n: u32) {
        self.op.imm = self.insn.immediate(n);
    }

    pub fn is_reg(&self, n: u32) -> bool {
        self.insn.op_kind(n) == OpKind::Register
    }

    pub fn is_mem(&self, n: u32) -> bool {
        self.insn.op_kind(n) == OpKind::Memory
    }

    pub fn is_imm(&self, n: u32) -> bool {
        !self.is_reg(n) && !self.is_mem(n)
    }

    /// Bytes of operand `n`, a register or the memory operand.
    pub fn size(&self, n: u32) -> usize {
        if self.is_reg(n) { self.insn.op_register(n).size() } else { self.insn.memory_size().size() }
    }

    fn memory(&mut self) {
        let insn = self.insn;
        let (base, index) = (insn.memory_base(), insn.memory_index());
        self.op.seg = segment(insn);
        self.op.scale = insn.memory_index_scale().trailing_zeros() as u8;
        self.op.addr_shift = match address_size(insn, self.cpu.code_size) {
            8 => 0,
            4 => 32,
            _ => 48,
        };
        let displacement = insn.memory_displacement64();
        if insn.is_ip_rel_memory_operand() {
            // Relative to the block's start, where the decoder's addresses begin.
            let displacement =
                if base == Register::EIP { i64::from(displacement as i32) } else { displacement as i64 };
            (self.op.base, self.op.disp) = match i32::try_from(displacement) {
                Ok(disp) => (slot::BLOCK, disp),
                Err(_) => (slot::BLOCK_PLUS_PAGE, (displacement - 4096) as i32),
            };
        } else {
            self.op.base = if base == Register::None { slot::ZERO } else { register(base).0 };
            self.op.disp = displacement as i32;
        }
        self.op.index = if index.is_gpr() { register(index).0 } else { slot::ZERO };
    }

    /// A displacement of 64 bits (MOV to and from an absolute address): fills `imm`.
    pub fn absolute(&mut self) -> bool {
        let displacement = self.insn.memory_displacement64();
        let wide = self.insn.memory_base() == Register::None
            && i64::from(displacement as i32) as u64 != displacement;
        if wide && !self.insn.is_ip_rel_memory_operand() && self.op.addr_shift == 0 {
            self.op.imm = displacement;
            return true;
        }
        false
    }
}

/// Slot of a general register, and whether it is AH, CH, DH or BH.
pub(crate) fn register(register: Register) -> (u8, bool) {
    let high = matches!(register, Register::AH | Register::CH | Register::DH | Register::BH);
    let full = register.full_register();
    if full.is_gpr64() { (full.number() as u8, high) } else { (slot::ZERO, false) }
}

/// Slot of the memory operand's segment. In 64-bit mode overrides other than FS and GS are ignored, so that the base
/// register alone decides between #SS and #GP.
pub(crate) fn segment(insn: &Instruction) -> u8 {
    use Register::{CS, DS, EBP, ES, ESP, RBP, RSP, SS};
    let ignored =
        insn.code_size() == iced_x86::CodeSize::Code64 && matches!(insn.segment_prefix(), ES | CS | SS | DS);
    let register = match insn.memory_base() {
        RSP | ESP | RBP | EBP if ignored => SS,
        _ if ignored => DS,
        _ => insn.memory_segment(),
    };
    if register.is_segment_register() { register.number() as u8 } else { SEG_FLAT }
}

/// Bytes of the effective address.
fn address_size(insn: &Instruction, code: CodeSize) -> usize {
    let (base, index) = (insn.memory_base(), insn.memory_index());
    if base != Register::None {
        return base.size();
    }
    if index.is_gpr() {
        return index.size();
    }
    match insn.memory_displ_size() {
        2 => 2,
        4 => 4,
        8 => 8,
        _ => match code {
            CodeSize::Bits64 => 8,
            CodeSize::Bits32 => 4,
            CodeSize::Bits16 => 2,
        },
    }
}
