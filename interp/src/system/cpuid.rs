//! CPUID.

use cpu::x86::{CpuidEnv, cr4, gpr, msr};

use crate::cpu::Cpu;
use crate::op::{Done, Op};

/// IA32_APIC_BASE: the local APIC is on.
const APIC_ENABLE: u64 = 1 << 11;

pub(super) fn cpuid(cpu: &mut Cpu, op: &Op) -> Done {
    super::time::lfence(cpu, op)?; // CPUID serialises, and guests lean on that for RDTSC
    let env = CpuidEnv {
        apic_id: cpu.index,
        vcpus: cpu.vcpus,
        apic: cpu.io().apic_msr_read(msr::APIC_BASE).is_none_or(|base| base & APIC_ENABLE != 0),
        osxsave: cpu.cr4 & cr4::OSXSAVE != 0,
        xcr0: cpu.xcr0,
        tsc_hz: cpu.clock.tsc_hz(),
    };
    let result = cpu.model.cpuid(cpu.regs[gpr::RAX] as u32, cpu.regs[gpr::RCX] as u32, &env);
    cpu.regs[gpr::RAX] = u64::from(result.eax);
    cpu.regs[gpr::RBX] = u64::from(result.ebx);
    cpu.regs[gpr::RCX] = u64::from(result.ecx);
    cpu.regs[gpr::RDX] = u64::from(result.edx);
    Ok(())
}
