//! Vector, x87 and bit-manipulation instructions, executed by the host CPU on the guest's registers.
//!
//! Every instruction has a form (`form`): itself with registers and addresses left open. For each form a stub of
//! host code is made once per process (`emit`, `arena`) that loads the operands through pointers, executes the
//! very instruction and stores what it wrote. Handlers (`run`, `x87`) check whether the instruction may run
//! (`gate`), reach its memory operand through the guest's MMU (`memory`), call the stub and turn exceptions that
//! the stub recorded in MXCSR or FSW into the guest's. What touches more memory than one operand, or state that
//! is no register, is done in Rust: `save`, `environment`, `masked`. So are the most common moves (`moves`) and
//! bit instructions (`bits`), for speed.

mod arena;
mod bits;
mod emit;
mod environment;
mod form;
mod gate;
mod integer;
mod lend;
mod masked;
mod memory;
mod moves;
mod run;
mod save;
mod state;
mod x87;
mod xsave;

use iced_x86::{CpuidFeature, Instruction, Mnemonic, OpKind};

pub(crate) use emit::x87_opcode;
pub(crate) use form::x87 as is_x87;
pub(crate) use state::{HostState, Pointers};

use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::op::{Done, Op};
use crate::system;

/// What the host says against executable memory, if anything; no engine that runs guest code on the host CPU can do without.
/// It is there from then on: threads of guests may be forbidden to ask for some.
pub fn refusal() -> Option<String> {
    form::prepare().err().map(|why| why.to_string())
}

/// Lowers an instruction for the host CPU. One that the guest's CPU model lacks becomes #UD; false if this
/// project does not execute it.
pub(crate) fn lower(l: &mut Lowering) -> bool {
    if !l.cpu.model.allows(l.insn.code()) {
        return bits::without_extension(l) || l.end_with(system::undefined);
    }
    if form::x87(l.insn) {
        return x87::lower(l);
    }
    if moves::lower(l) || integer::lower(l) || bits::lower(l) || save::lower(l) || masked::lower(l) {
        return true;
    }
    if l.insn.mnemonic() == Mnemonic::Emms {
        return l.run(empty_mmx);
    }
    if !stub_can_run(l.insn) {
        return false;
    }
    match form::form(l.insn) {
        Some(form) => run::lower(l, form),
        None => false,
    }
}

/// Only instructions that do nothing but compute on named registers and one memory operand may run in a stub.
fn stub_can_run(insn: &Instruction) -> bool {
    use CpuidFeature as C;
    let features = insn.code().cpuid_features();
    let computes = features.iter().all(|f| {
        matches!(
            f,
            C::ADX
                | C::AES
                | C::AVX
                | C::AVX2
                | C::BMI1
                | C::BMI2
                | C::F16C
                | C::FMA
                | C::GFNI
                | C::LZCNT
                | C::MMX
                | C::PCLMULQDQ
                | C::POPCNT
                | C::RDRAND
                | C::RDSEED
                | C::SHA
                | C::SSE
                | C::SSE2
                | C::SSE3
                | C::SSE4_1
                | C::SSE4_2
                | C::SSSE3
                | C::VAES
                | C::VPCLMULQDQ
        )
    });
    let named = (0..insn.op_count()).all(|n| match insn.op_kind(n) {
        OpKind::Register | OpKind::Immediate8 => true,
        OpKind::Memory => !insn.is_vsib() && insn.memory_size().size() != 0,
        _ => false,
    });
    let registers = (0..insn.op_count()).any(|n| insn.op_kind(n) == OpKind::Register);
    computes && named && registers && !features.is_empty()
}

fn empty_mmx(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.mmx()?;
    let image = cpu.host.x87_mut();
    image.enter_mmx();
    image.ftw = 0;
    Ok(())
}

#[cfg(test)]
mod tests;
