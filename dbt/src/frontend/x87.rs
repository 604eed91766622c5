//! x87 and MMX instructions, whose registers are the host's own.

use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind};
use interp::core::Mode;
use interp::core::x87::is_x87;

use super::class::{Access, Class, access};

/// Chooses; `None` for instructions of other kinds.
pub fn class(insn: &Instruction, mode: Mode) -> Option<Class> {
    if is_x87(insn) {
        return Some(if mode.x87 { x87(insn) } else { Class::Operation });
    }
    if !is_mmx(insn) {
        return None;
    }
    let runs = mode.x87 && mode.sse && computes(insn);
    Some(if runs { mmx(insn) } else { Class::Operation })
}

fn memory(insn: &Instruction) -> Option<u32> {
    (0..insn.op_count()).find(|&i| insn.op_kind(i) == OpKind::Memory)
}

fn x87(insn: &Instruction) -> Class {
    use Mnemonic as M;
    let noted = match insn.mnemonic() {
        // Nothing is pending.
        M::Wait => return Class::Nothing,
        M::Fldcw => return Class::LoadControl,
        M::Fnstcw | M::Fnstsw | M::Fnclex | M::Fnop => false,
        M::Fninit | M::Fldenv | M::Fnstenv | M::Frstor | M::Fnsave => return Class::Operation,
        M::Fneni | M::Fndisi | M::Fnsetpm => return Class::Operation,
        _ => true,
    };
    let store = matches!(
        insn.mnemonic(),
        M::Fst | M::Fstp | M::Fist | M::Fistp | M::Fisttp | M::Fbstp | M::Fnstcw | M::Fnstsw
    );
    let size = match insn.memory_size().size() {
        _ if memory(insn).is_none() => return Class::X87 { access: None, noted },
        // Ten bytes, checked as if they were sixteen.
        10 => 16,
        size @ (2 | 4 | 8) => size as u8,
        _ => return Class::Operation,
    };
    Class::X87 { access: Some(Access { size, store, aligned: false }), noted }
}

fn is_mmx(insn: &Instruction) -> bool {
    use Mnemonic as M;
    // Whether those two switch the unit to MMX when their source is memory depends on the host.
    matches!(insn.mnemonic(), M::Emms | M::Cvtpi2ps | M::Cvtpi2pd)
        || (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Register && insn.op_register(i).is_mm())
}

/// It does nothing but compute on named registers and one memory operand.
fn computes(insn: &Instruction) -> bool {
    use CpuidFeature as F;
    let named = (0..insn.op_count())
        .all(|i| matches!(insn.op_kind(i), OpKind::Register | OpKind::Memory | OpKind::Immediate8));
    let known = |f: &F| matches!(f, F::MMX | F::SSE | F::SSE2 | F::SSE3 | F::SSSE3);
    named && insn.cpuid_features().iter().all(known)
}

fn mmx(insn: &Instruction) -> Class {
    let conversion = matches!(insn.mnemonic(), Mnemonic::Cvtpi2ps | Mnemonic::Cvtpi2pd);
    match memory(insn) {
        None => Class::X87 { access: None, noted: false },
        Some(operand) if !conversion => match access(insn, operand) {
            Some(access) => Class::X87 { access: Some(access), noted: false },
            None => Class::Operation,
        },
        Some(_) => Class::Operation,
    }
}
