//! What the manuals leave open, or vendors decide differently: those parts of an outcome are not compared.
//!
//! * Flags: iced's table of undefined flags, refined for shifts and rotates, whose count decides (Intel SDM volume 2:
//!   a count of 0 changes no flag; OF is defined for a count of 1).
//! * Page-fault error codes for addresses in the kernel's half: the host kernel sets P, so that no program can learn
//!   what is mapped there.
//! * Memory behind an interrupted store of several parts (FXSAVE, FNSAVE, ENTER ...): how much was written when the
//!   fault came is the processor's business. `vendor` has what else faults leave behind by vendor.
//! * MXCSR_MASK in an FXSAVE image: it is the CPU model's.
//! * x87 registers when a conversion between MMX and XMM registers raises #XM.
//! * Some flags in MXCSR when #XM is reported. That is no freedom of processors but an approximation of the interpreter,
//!   which has the host execute with exceptions masked: PE beside an unmasked overflow or underflow (rounding is
//!   another); everything in DPPS and DPPD, whose later steps find more.
//! * The upper half of a 32-bit PUSH of a segment register, which Intel processors leave alone and AMD's clear.

use cpu::XSAVE_LEN;
use cpu::x86::{gpr, rflags, vector};
use iced_x86::{Instruction, Mnemonic as M, OpKind, RflagsBits};

use crate::contested;
use crate::generate::Case;
use crate::input::Outcome;
use crate::layout::{MEMORY_LEN, offset};
use crate::vendor;

/// The instruction that an outcome is about, the last one or that which faulted, and RFLAGS bits that are not
/// compared after it.
pub(crate) fn context<'a>(case: &'a Case, host: &Outcome) -> (&'a Instruction, u64) {
    if case.steps.is_empty() {
        return (&case.insn, flags(&case.insn, case));
    }
    let faulted = host.vector != u64::from(vector::BP);
    match case.steps.iter().find(|s| faulted && s.insn.ip() == host.regs.rip) {
        Some(step) => (&step.insn, step.undefined | from_iced(step.insn.rflags_undefined())),
        None => (&case.insn, case.undefined),
    }
}

fn flags(insn: &Instruction, case: &Case) -> u64 {
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

pub(crate) fn from_iced(bits: u32) -> u64 {
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

/// Clears what is not compared of the vector state.
pub(crate) fn vector_state(insn: &Instruction, host: &Outcome, fp: &mut [u8; XSAVE_LEN]) {
    let faulted = host.vector != u64::from(vector::BP);
    if faulted && matches!(insn.mnemonic(), M::Dpps | M::Dppd | M::Vdpps | M::Vdppd) {
        fp[24] &= !0x3f;
    }
    if host.vector != u64::from(vector::XM) {
        return;
    }
    if contested::mmx_before_fault(insn) {
        fp[..5].fill(0);
        fp[32..160].fill(0);
    }
    let mxcsr = u32::from_le_bytes([host.fp[24], host.fp[25], host.fp[26], host.fp[27]]);
    const OVERFLOW_UNDERFLOW: u32 = 0x18;
    if mxcsr & !(mxcsr >> 7) & OVERFLOW_UNDERFLOW != 0 {
        fp[24] &= !0x20;
    }
}

/// Error code bits that are not compared.
pub(crate) fn error_code(host: &Outcome) -> u64 {
    // TASK_SIZE_MAX of x86-64 Linux.
    let kernel_half = host.cr2 >= 0x7fff_ffff_f000;
    if host.vector == u64::from(vector::PF) && kernel_half { 1 } else { 0 }
}

/// Places in the memory image that are not compared.
pub(crate) fn memory(case: &Case, insn: &Instruction, host: &Outcome) -> Vec<usize> {
    let faulted = host.vector != u64::from(vector::BP);
    let parts = matches!(
        insn.mnemonic(),
        M::Fxsave | M::Fxsave64 | M::Fnsave | M::Fnstenv | M::Enter | M::Pusha | M::Pushad
    ) || insn.is_call_far()
        || insn.is_call_far_indirect();
    if faulted && parts {
        return (0..MEMORY_LEN).collect();
    }
    let bytes = |addr: u64, len: u64| (0..len).filter_map(|i| offset(addr.wrapping_add(i))).collect();
    let operand = || contested::address(insn, 0, &case.input, true).unwrap_or_default();
    if faulted && vendor::stores_in_parts(insn) {
        return bytes(operand(), 8);
    }
    if matches!(insn.mnemonic(), M::Fxsave | M::Fxsave64) {
        return bytes(operand().wrapping_add(28), 4);
    }
    if contested::half_push(insn) {
        return bytes(host.regs.gpr[gpr::RSP].wrapping_add(2), 2);
    }
    Vec::new()
}
