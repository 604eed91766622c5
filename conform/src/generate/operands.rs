//! Register, immediate and branch operands, by the kinds iced's operand tables name.

use iced_x86::{OpCodeOperandKind as K, OpKind, Register};

use super::draft::Draft;
use super::values;
use crate::layout::{CODE, selector};

/// Selectors worth loading: null, the user ones, the kernel's, beyond the table, in an absent LDT.
const SELECTORS: [u16; 14] =
    [0, 1, 2, 3, 0x23, 0x2b, 0x2b, 0x33, 0x20, 0x10, 0x18, 0x4f8, 0x2f, selector::DATA];

impl Draft<'_> {
    /// Chooses all operands; `None` if these cannot go together.
    pub fn operands(&mut self) -> Option<()> {
        let kinds = self.info.op_kinds();
        let mut memory = None;
        for (n, &kind) in kinds.iter().enumerate() {
            let n = n as u32;
            if self.register_operand(n, kind) || self.fixed_register(n, kind) {
                continue;
            }
            if is_memory(kind) {
                memory = Some((n, kind));
                continue;
            }
            self.other_operand(n, kind)?;
        }
        match memory {
            Some((n, kind)) => self.memory_operand(n, kind),
            None => Some(()),
        }
    }

    /// A register of a class, or memory in its place for some kinds.
    fn register_operand(&mut self, n: u32, kind: K) -> bool {
        let Some((first, count, or_memory)) = class(kind) else { return false };
        if or_memory && self.rng.percent(60) {
            return false;
        }
        let count = if first == Register::AL && !self.form.compat {
            20
        } else if count == 16 && self.form.compat {
            8
        } else {
            count
        };
        // The same register twice, in a good part of the cases.
        let earlier = (0..n).map(|i| self.insn.op_register(i)).find(|r| in_class(*r, first, count));
        let register = match earlier {
            Some(register) if self.rng.percent(12) => register,
            _ => first + self.rng.below(count) as u32,
        };
        self.insn.set_op_kind(n, OpKind::Register);
        self.insn.set_op_register(n, register);
        true
    }

    fn fixed_register(&mut self, n: u32, kind: K) -> bool {
        let register = match kind {
            K::es => Register::ES,
            K::cs => Register::CS,
            K::ss => Register::SS,
            K::ds => Register::DS,
            K::fs => Register::FS,
            K::gs => Register::GS,
            K::al => Register::AL,
            K::cl => Register::CL,
            K::ax => Register::AX,
            K::dx => Register::DX,
            K::eax => Register::EAX,
            K::rax => Register::RAX,
            K::st0 => Register::ST0,
            _ => return false,
        };
        self.insn.set_op_kind(n, OpKind::Register);
        self.insn.set_op_register(n, register);
        true
    }

    fn other_operand(&mut self, n: u32, kind: K) -> Option<()> {
        let value = values::integer(self.rng);
        let insn = &mut self.insn;
        match kind {
            K::imm8 => {
                if (0..n).any(|i| matches!(insn.op_kind(i), OpKind::Immediate8 | OpKind::Immediate16)) {
                    insn.set_op_kind(n, OpKind::Immediate8_2nd);
                    insn.set_immediate8_2nd(value as u8);
                } else {
                    insn.set_op_kind(n, OpKind::Immediate8);
                    insn.set_immediate8(value as u8);
                }
            }
            K::imm8_const_1 => {
                insn.set_op_kind(n, OpKind::Immediate8);
                insn.set_immediate8(1);
            }
            K::imm8sex16 => {
                insn.set_op_kind(n, OpKind::Immediate8to16);
                insn.set_immediate8to16(i16::from(value as i8));
            }
            K::imm8sex32 => {
                insn.set_op_kind(n, OpKind::Immediate8to32);
                insn.set_immediate8to32(i32::from(value as i8));
            }
            K::imm8sex64 => {
                insn.set_op_kind(n, OpKind::Immediate8to64);
                insn.set_immediate8to64(i64::from(value as i8));
            }
            K::imm16 => {
                insn.set_op_kind(n, OpKind::Immediate16);
                insn.set_immediate16(value as u16);
            }
            K::imm32 => {
                insn.set_op_kind(n, OpKind::Immediate32);
                insn.set_immediate32(value as u32);
            }
            K::imm32sex64 => {
                insn.set_op_kind(n, OpKind::Immediate32to64);
                insn.set_immediate32to64(i64::from(value as i32));
            }
            K::imm64 => {
                insn.set_op_kind(n, OpKind::Immediate64);
                insn.set_immediate64(value);
            }
            K::br16_1 | K::br16_2 => {
                insn.set_op_kind(n, OpKind::NearBranch16);
                let near = self.short_target();
                let target = if kind == K::br16_1 { near } else { self.rng.below(0x1_0000) };
                self.insn.set_near_branch16(target as u16);
            }
            K::br32_1 | K::br32_4 => {
                insn.set_op_kind(n, OpKind::NearBranch32);
                let target = if kind == K::br32_1 { self.short_target() } else { self.jump_target() };
                self.insn.set_near_branch32(target as u32);
            }
            K::br64_1 | K::br64_4 => {
                insn.set_op_kind(n, OpKind::NearBranch64);
                let target = if kind == K::br64_1 { self.short_target() } else { self.near_target() };
                self.insn.set_near_branch64(target);
            }
            K::farbr2_2 | K::farbr4_2 => {
                let selector = self.selector();
                let target = self.jump_target();
                let (kind, short) = if kind == K::farbr2_2 {
                    (OpKind::FarBranch16, true)
                } else {
                    (OpKind::FarBranch32, false)
                };
                self.insn.set_op_kind(n, kind);
                if short {
                    self.insn.set_far_branch16(target as u16);
                } else {
                    self.insn.set_far_branch32(target as u32);
                }
                self.insn.set_far_branch_selector(selector);
            }
            _ => return None,
        }
        Some(())
    }

    /// A selector for a segment register or a far pointer.
    pub fn selector(&mut self) -> u16 {
        self.rng.pick(&SELECTORS)
    }

    /// Within reach of a byte displacement, before or behind the instruction.
    fn short_target(&mut self) -> u64 {
        // Not into the instructions of a sequence.
        let forward = self.at != self.regs.rip || self.rng.percent(50);
        let distance = if forward { self.rng.between(20, 100) } else { self.rng.between(-90, -1) };
        self.at.wrapping_add_signed(distance)
    }

    /// Within reach of a 32-bit displacement.
    fn near_target(&mut self) -> u64 {
        let target = self.jump_target();
        let distance = target.wrapping_sub(self.at) as i64;
        if i32::try_from(distance).is_ok_and(|d| d.unsigned_abs() < i32::MAX as u32 - 16) {
            target
        } else {
            CODE + 8
        }
    }
}

fn in_class(register: Register, first: Register, count: u64) -> bool {
    (register as u32).wrapping_sub(first as u32) < count as u32
}

/// First register, their number, and whether memory may take the operand's place.
fn class(kind: K) -> Option<(Register, u64, bool)> {
    Some(match kind {
        K::r8_or_mem => (Register::AL, 8, true),
        K::r16_or_mem => (Register::AX, 16, true),
        K::r32_or_mem => (Register::EAX, 16, true),
        K::r64_or_mem => (Register::RAX, 16, true),
        K::mm_or_mem => (Register::MM0, 8, true),
        K::xmm_or_mem => (Register::XMM0, 16, true),
        K::ymm_or_mem => (Register::YMM0, 16, true),
        K::r8_reg | K::r8_opcode => (Register::AL, 8, false),
        K::r16_reg | K::r16_rm | K::r16_opcode => (Register::AX, 16, false),
        K::r32_reg | K::r32_rm | K::r32_opcode | K::r32_vvvv => (Register::EAX, 16, false),
        K::r64_reg | K::r64_rm | K::r64_opcode | K::r64_vvvv => (Register::RAX, 16, false),
        K::seg_reg => (Register::ES, 6, false),
        K::mm_reg | K::mm_rm => (Register::MM0, 8, false),
        K::xmm_reg | K::xmm_rm | K::xmm_vvvv | K::xmm_is4 | K::xmm_is5 => (Register::XMM0, 16, false),
        K::ymm_reg | K::ymm_rm | K::ymm_vvvv | K::ymm_is4 | K::ymm_is5 => (Register::YMM0, 16, false),
        K::cr_reg => (Register::CR0, 16, false),
        K::dr_reg => (Register::DR0, 16, false),
        K::sti_opcode => (Register::ST0, 8, false),
        _ => return None,
    })
}

fn is_memory(kind: K) -> bool {
    matches!(
        kind,
        K::mem
            | K::mem_offs
            | K::mem_vsib32x
            | K::mem_vsib64x
            | K::mem_vsib32y
            | K::mem_vsib64y
            | K::seg_rSI
            | K::es_rDI
            | K::seg_rDI
            | K::seg_rBX_al
            | K::r8_or_mem
            | K::r16_or_mem
            | K::r32_or_mem
            | K::r64_or_mem
            | K::mm_or_mem
            | K::xmm_or_mem
            | K::ymm_or_mem
    )
}
