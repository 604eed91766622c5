//! VMCALL and VMMCALL: both, whatever the CPU's vendor, answer in RAX, and never fault (Linux,
//! Documentation/virt/kvm/x86/hypercalls.rst).

use cpu::Hypercall;
use cpu::x86::gpr;

use super::serialised;
use crate::cpu::{CodeSize, Cpu};
use crate::op::{Done, Op};

pub(super) fn hypercall(cpu: &mut Cpu, op: &Op) -> Done {
    let width = if cpu.code_size == CodeSize::Bits64 { u64::MAX } else { u64::from(u32::MAX) };
    let answer = if cpu.cpl == 0 {
        let [number, arguments @ ..] =
            [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX, gpr::RSI].map(|register| cpu.regs[register] & width);
        cpu.io().hypercall(&Hypercall { number, arguments })
    } else {
        Hypercall::NOT_PERMITTED
    };
    cpu.regs[gpr::RAX] = answer as u64 & width;
    // It may have stopped the machine: look before the next instruction.
    serialised(cpu, op)
}
