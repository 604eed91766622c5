//! What the manuals leave open, or vendors decide differently: those parts of an outcome are not compared.
//!
//! * Flags: iced's table of undefined flags, refined for shifts and rotates, whose count decides (Intel SDM volume 2:
//!   a count of 0 changes no flag; OF is defined for a count of 1).
//! * Page-fault error codes for addresses in the kernel's half: the host kernel sets P, so that no program can learn
//!   what is mapped there.
//! * Memory behind an interrupted store of several parts (FXSAVE, FNSAVE, ENTER ...): how much was written when the
//!   fault came is the processor's business.

use cpu::x86::{gpr, rflags};
use iced_x86::{Instruction, Mnemonic as M, OpKind, RflagsBits};

use crate::generate::Case;
use crate::input::Outcome;

/// RFLAGS bits that are not compared.
pub(crate) fn flags(case: &Case) -> u64 {
    let insn = &case.insn;
    if insn.is_invalid() {
        return 0;
    }
    let mut undefined = from_iced(insn.rflags_undefined());
    if let Some((count, size)) = shift_count(case) {
        let rotate = matches!(insn.mnemonic(), M::Rol | M::Ror | M::Rcl | M::Rcr);
        undefined = match count {
            0 => 0,
            1 if rotate => 0,
            1 => rflags::AF,
            _ if rotate => rflags::OF,
            _ => rflags::AF | rflags::OF,
        };
        // SHL and SHR by the operand's size or more: CF is undefined; SHLD and SHRD: nothing is defined.
        if count > size && !rotate && insn.mnemonic() != M::Sar {
            undefined |= rflags::CF;
        }
    }
    undefined
}

/// Effective count and operand bits of a shift or rotate.
fn shift_count(case: &Case) -> Option<(u64, u64)> {
    let insn = &case.insn;
    let count_operand = match insn.mnemonic() {
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr => 1,
        M::Shld | M::Shrd => 2,
        _ => return None,
    };
    let size = operand_bits(insn);
    let raw = match insn.op_kind(count_operand) {
        OpKind::Immediate8 => u64::from(insn.immediate8()),
        _ => case.input.regs.gpr[gpr::RCX],
    };
    Some((raw & if size == 64 { 63 } else { 31 }, size))
}

fn operand_bits(insn: &Instruction) -> u64 {
    let bytes = match insn.op0_kind() {
        OpKind::Register => insn.op0_register().size(),
        _ => insn.memory_size().size(),
    };
    bytes as u64 * 8
}

fn from_iced(bits: u32) -> u64 {
    [
        (RflagsBits::OF, rflags::OF),
        (RflagsBits::SF, rflags::SF),
        (RflagsBits::ZF, rflags::ZF),
        (RflagsBits::AF, rflags::AF),
        (RflagsBits::CF, rflags::CF),
        (RflagsBits::PF, rflags::PF),
    ]
    .into_iter()
    .filter(|(iced, _)| bits & iced != 0)
    .fold(0, |all, (_, flag)| all | flag)
}

/// Error code bits that are not compared.
pub(crate) fn error_code(host: &Outcome) -> u64 {
    let kernel_half = host.cr2 >> 47 != 0;
    if host.vector == u64::from(cpu::x86::vector::PF) && kernel_half { 1 } else { 0 }
}

/// True if memory is not compared.
pub(crate) fn memory(case: &Case, host: &Outcome) -> bool {
    let faulted = host.vector == u64::from(cpu::x86::vector::PF);
    faulted
        && matches!(
            case.insn.mnemonic(),
            M::Fxsave | M::Fxsave64 | M::Fnsave | M::Fnstenv | M::Enter | M::Pusha | M::Pushad | M::Call
        )
}
