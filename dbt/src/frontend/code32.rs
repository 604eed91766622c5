//! 32-bit code: what is different there. Where nothing else says so, an instruction itself tells which code it was
//! decoded from.

use iced_x86::{CodeSize, Instruction, Mnemonic, OpKind, Register};
use interp::core::Code32;

/// What a decoder has to know of code.
pub fn bits(code32: bool) -> u32 {
    if code32 { 32 } else { 64 }
}

/// The instruction is one of 32-bit code.
pub fn is(insn: &Instruction) -> bool {
    insn.code_size() == CodeSize::Code32
}

/// Bytes of what PUSH and CALL put on the stack.
pub fn word(insn: &Instruction) -> usize {
    if is(insn) { 4 } else { 8 }
}

/// The stack pointer as addresses and constants name it.
pub fn stack_pointer(insn: &Instruction) -> Register {
    if is(insn) { Register::ESP } else { Register::RSP }
}

/// A displacement or an absolute address: with its sign, if it has to be added to something.
pub fn displacement(insn: &Instruction) -> i64 {
    let displacement = insn.memory_displacement64();
    if is(insn) { i64::from(displacement as i32) } else { displacement as i64 }
}

/// The target of a direct branch, from where the instruction's address is counted.
pub fn target(insn: &Instruction) -> i64 {
    let target = insn.near_branch_target();
    if is(insn) { i64::from(target as i32) } else { target as i64 }
}

/// The host's instruction does the same: translations know what the memory operand's segment adds to an address, the
/// address is one of 32 bits, and the instruction changes no register that 32-bit code has not.
pub fn is_the_hosts(insn: &Instruction, code: Code32) -> bool {
    if matches!(insn.mnemonic(), Mnemonic::Vzeroupper | Mnemonic::Vzeroall) {
        return false;
    }
    if !(0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory) {
        return true;
    }
    let segment = match insn.memory_segment() {
        Register::CS => false,
        Register::FS => code.fs,
        Register::GS => code.gs,
        _ => true,
    };
    let sixteen_bits =
        insn.memory_base().is_gpr16() || insn.memory_index().is_gpr16() || insn.memory_displ_size() == 2;
    segment && !sixteen_bits
}
