//! A case in the making.

use cpu::XSAVE_LEN;
use cpu::x86::{gpr, rflags};
use iced_x86::{Instruction, Mnemonic, OpCodeInfo};

use super::{fp, values};
use crate::forms::Form;
use crate::input::{CODE_MAX, Input, MAX_PATCHES, Patch, Regs};
use crate::layout::{CODE, CODE_LEN, DATA, DATA_END, PAGE, READ_ONLY, STACK, offset, selector};
use crate::rng::Rng;

/// Registers, memory and the instruction, as far as they are chosen.
pub(super) struct Draft<'a> {
    pub rng: &'a mut Rng,
    pub form: Form,
    pub info: &'static OpCodeInfo,
    /// Registers at the start; RIP is the first instruction's.
    pub regs: Regs,
    /// Address of the instruction in the making.
    pub at: u64,
    pub fp: [u8; XSAVE_LEN],
    pub patches: Vec<Patch>,
    pub insn: Instruction,
    /// General registers whose values must stay: bit per register.
    pub fixed: u16,
    /// General registers that earlier instructions of a sequence write, so that their values are not known.
    pub written: u16,
    /// Bytes behind the instruction in the making that no jump may lead to.
    pub reserved: u64,
    /// Linear address of the memory operand, once it is chosen.
    pub target: Option<u64>,
}

impl<'a> Draft<'a> {
    /// Random state, nothing chosen.
    pub fn new(form: Form, rng: &'a mut Rng) -> Self {
        let mut insn = Instruction::default();
        insn.set_code(form.code);
        let mut regs = Regs::default();
        let registers = if form.compat { 8 } else { 16 };
        for value in &mut regs.gpr[..registers] {
            *value = values::integer(rng) & if form.compat { 0xffff_ffff } else { u64::MAX };
        }
        if rng.percent(75) {
            regs.gpr[gpr::RSP] = STACK + PAGE / 2;
        }
        regs.rip = code_address(rng);
        regs.rflags = rflags::FIXED | rflags::IF | (rng.next() & rflags::STATUS);
        let rarely = |rng: &mut Rng, percent, bit| if rng.percent(percent) { bit } else { 0 };
        regs.rflags |= rarely(rng, 20, rflags::DF) | rarely(rng, 3, rflags::NT) | rarely(rng, 3, rflags::ID);
        regs.rflags |= rarely(rng, 3, rflags::AC);
        let code = if form.compat { selector::CODE32 } else { selector::CODE64 };
        let data = selector::DATA;
        let fs = if form.compat { data } else { 0 };
        regs.selectors = [data, code, data, data, fs, fs];
        if !form.compat {
            regs.fs_base = segment_base(rng);
            regs.gs_base = segment_base(rng);
        }
        let fp = fp::state(rng);
        let info = form.code.op_code();
        let at = regs.rip;
        let patches = Vec::new();
        let (fixed, written, reserved) = (0, 0, 16);
        Self { rng, form, info, regs, at, fp, patches, insn, fixed, written, reserved, target: None }
    }

    /// Goes on to the next instruction of a sequence.
    pub fn begin(&mut self, form: Form, at: u64) {
        self.form = form;
        self.info = form.code.op_code();
        self.insn = Instruction::default();
        self.insn.set_code(form.code);
        self.at = at;
        self.target = None;
    }

    /// What an instruction that is given up may have changed.
    pub fn snapshot(&self) -> (Form, Regs, u16, usize) {
        (self.form, self.regs, self.fixed, self.patches.len())
    }

    /// Back to a snapshot.
    pub fn restore(&mut self, (form, regs, fixed, patches): (Form, Regs, u16, usize)) {
        (self.form, self.regs, self.fixed) = (form, regs, fixed);
        self.patches.truncate(patches);
    }

    /// An indirect jump through a register whose value is not known.
    pub fn uses_written_target(&self) -> bool {
        let register = self.insn.op0_register().full_register();
        (self.insn.is_jmp_near_indirect() || self.insn.is_call_near_indirect())
            && register.is_gpr64()
            && self.written >> (register as usize - iced_x86::Register::RAX as usize) & 1 != 0
    }

    /// The case so far, with `code`.
    pub fn input(&self, code: &[u8]) -> Input {
        let mut input = Input::zeroed();
        input.regs = self.regs;
        input.fp = self.fp;
        let len = code.len().min(CODE_MAX);
        input.code[..len].copy_from_slice(&code[..len]);
        input.code_len = len as u32;
        for (to, from) in input.patches.iter_mut().zip(&self.patches) {
            *to = *from;
            input.patch_count += 1;
        }
        input
    }

    pub fn mnemonic(&self) -> Mnemonic {
        self.form.code.mnemonic()
    }

    /// Sets a general register for good.
    pub fn fix(&mut self, register: usize, value: u64) {
        self.regs.gpr[register] = value & self.gpr_mask();
        self.fixed |= 1 << register;
    }

    pub fn is_fixed(&self, register: usize) -> bool {
        self.fixed >> register & 1 != 0
    }

    pub fn gpr_mask(&self) -> u64 {
        if self.form.compat { 0xffff_ffff } else { u64::MAX }
    }

    /// Puts bytes into memory; what is not test memory is dropped.
    pub fn patch(&mut self, addr: u64, bytes: &[u8]) {
        for (i, chunk) in bytes.chunks(64).enumerate() {
            if self.patches.len() < MAX_PATCHES {
                let mut patch =
                    Patch { addr: addr.wrapping_add(i as u64 * 64), len: chunk.len() as u64, bytes: [0; 64] };
                patch.bytes[..chunk.len()].copy_from_slice(chunk);
                self.patches.push(patch);
            }
        }
    }

    /// A linear address for an operand of `size` bytes: mostly good ones, and every kind of bad one.
    pub fn data_address(&mut self, size: u64) -> u64 {
        let size = size.max(1);
        let rng = &mut *self.rng;
        let room = 2 * PAGE - size.min(PAGE);
        let inside = |rng: &mut Rng| 1 + rng.below(size.saturating_sub(1).max(1));
        match rng.below(100) {
            0..=61 => {
                let align = size.next_power_of_two().min(64);
                DATA + rng.below(room) / align * align
            }
            62..=75 => DATA + rng.below(room),
            76..=82 => DATA + PAGE - inside(rng),
            83..=86 => READ_ONLY + rng.below(PAGE - size.min(PAGE - 1)),
            87..=89 => READ_ONLY - inside(rng),
            90..=91 => DATA_END - inside(rng),
            92..=93 => DATA - inside(rng),
            94..=95 => DATA_END + rng.below(PAGE),
            96 => STACK + rng.below(PAGE),
            97 => CODE + CODE_LEN - PAGE / 8 + rng.below(PAGE / 8),
            _ if self.form.compat => rng.below(0x1_0000_0000 - PAGE),
            98 => values::integer(rng) & 0xff_ffff_ffff,
            _ => rng.pick(&[
                0x8000_0000_0000,
                0x7fff_ffff_ffff,
                0xffff_7fff_ffff_fff8,
                0xffff_8000_0000_0000,
                0xffff_ffff_ffff_fff9,
                0x0123_4567_89ab_cdef,
                0,
                0xffff_fffc,
            ]),
        }
    }

    /// Where a jump may go: INT3, or something that cannot be executed. Never into the instruction itself.
    pub fn jump_target(&mut self) -> u64 {
        let start = self.regs.rip;
        let len = self.at - start + self.reserved;
        let rng = &mut *self.rng;
        let target = match rng.below(100) {
            0..=69 => CODE + rng.below(CODE_LEN),
            70..=77 => DATA + rng.below(DATA_END - DATA),
            78..=83 => CODE + CODE_LEN + rng.below(PAGE),
            _ if self.form.compat => rng.below(0x1_0000_0000),
            84..=89 => values::integer(rng) | 1 << 63,
            90..=95 => 1 << (47 + rng.below(16)) | rng.below(1 << 47),
            _ => values::integer(rng) & 0xff_ffff_ffff,
        };
        if target.wrapping_sub(start) < len { target.wrapping_add(len) } else { target }
    }

    /// True if the state suits `other`, which prefixes have made of the instruction: branches go where they were aimed,
    /// and not into themselves.
    pub fn tolerates(&self, other: &Instruction) -> bool {
        use iced_x86::FlowControl as F;
        match other.flow_control() {
            F::Next | F::Exception => true,
            F::ConditionalBranch | F::UnconditionalBranch => {
                other.code() == self.form.code
                    && other.near_branch_target().wrapping_sub(self.regs.rip) >= other.len() as u64
            }
            _ => other.code() == self.form.code,
        }
    }

    /// Memory that holds `len` bytes at `addr` as the case starts, as far as it was chosen.
    pub fn patched(&self, addr: u64, len: usize) -> Option<Vec<u8>> {
        let patch = self.patches.iter().find(|p| p.addr == addr && p.len as usize >= len)?;
        offset(addr).and(offset(addr.checked_add(len as u64 - 1)?))?;
        Some(patch.bytes[..len.min(64)].to_vec())
    }
}

/// Anywhere in the code pages; often across their boundary or at their end.
fn code_address(rng: &mut Rng) -> u64 {
    match rng.below(100) {
        0..=4 => CODE + PAGE - 1 - rng.below(14),
        5..=7 => CODE + CODE_LEN - 1 - rng.below(16),
        _ => CODE + 256 + rng.below(CODE_LEN - 512),
    }
}

/// FS and GS bases stay far below where the child process lives.
fn segment_base(rng: &mut Rng) -> u64 {
    match rng.below(4) {
        0 => 0,
        1 => rng.below(1 << 40),
        2 => rng.below(0x3000_0000) & !0xfff,
        _ => DATA - rng.below(PAGE),
    }
}
