//! What the host's CPU may do otherwise than the engines, where code runs on it as it is. Single instructions are compared
//! with that in mind (`vendor.rs`); blocks in which it would show are left out.

use cpu::{CpuState, XSAVE_SELECTORS};
use iced_x86::{Instruction, Mnemonic as M, OpKind};

use crate::generate::Block;

/// The block is not compared with code that ran as it is. `rip`: where it ended, `faulted`: not by INT3.
pub fn is_open(block: &Block, rip: u64, faulted: bool) -> bool {
    block.listing().iter().any(|insn| {
        stores_pointers(insn) || narrow(insn) || faulted && insn.ip() == rip && faults_differ(insn)
    })
}

/// CPUs differ in what they remember of the last x87 instruction (CPUID leaf 7, FDP_EXCPTN_ONLY and the bit for FCS and FDS).
fn stores_pointers(insn: &Instruction) -> bool {
    matches!(insn.mnemonic(), M::Fnstenv | M::Fstenv | M::Fnsave | M::Fsave | M::Fxsave | M::Fxsave64)
}

/// CPUs differ in what a repeated string instruction with addresses of 32 bits leaves in the upper halves.
fn narrow(insn: &Instruction) -> bool {
    let kinds = [OpKind::MemorySegESI, OpKind::MemoryESEDI];
    insn.is_string_instruction()
        && (insn.has_rep_prefix() || insn.has_repne_prefix())
        && insn.op_kinds().any(|kind| kinds.contains(&kind))
}

fn faults_differ(insn: &Instruction) -> bool {
    let mmx = insn.op_count() > 1 && insn.op1_register().is_mm();
    let x87_store = matches!(insn.mnemonic(), M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp);
    mmx || x87_store
        || insn.is_vsib()
        || insn.is_string_instruction()
        || matches!(insn.mnemonic(), M::Call | M::Enter | M::Bound | M::Vcvtps2ph)
        || matches!(insn.mnemonic(), M::Vmaskmovps | M::Vmaskmovpd | M::Vpmaskmovd | M::Vpmaskmovq)
}

/// Takes what need not agree over from the state that is expected.
pub fn settle(expected: &CpuState, state: &mut CpuState) {
    for part in [6..24, XSAVE_SELECTORS..XSAVE_SELECTORS + 4] {
        state.xsave[part.clone()].copy_from_slice(&expected.xsave[part]);
    }
    // Any interrupt of the host's makes 0 of those that are null (IRET to an outer privilege level).
    for (expected, segment) in expected.segments.iter().zip(&mut state.segments) {
        if expected.selector < 4 && segment.selector == 0 {
            *segment = *expected;
        }
    }
}
