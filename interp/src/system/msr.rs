//! RDMSR and WRMSR (Intel SDM volume 4). Registers of the local APIC belong to the machine; unknown ones raise #GP.

use cpu::x86::{efer, gpr, msr, seg, steal};
use iced_x86::Mnemonic;

use super::serialised;
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::op::{Done, Op};

const PLATFORM_ID: u32 = 0x17;
const DEBUGCTL: u32 = 0x1d9;

/// IA32_FEATURE_CONTROL: locked, nothing enabled.
const FEATURE_CONTROL_LOCKED: u64 = 1;
/// IA32_BIOS_SIGN_ID: the microcode revision is in the upper half.
const MICROCODE: u64 = 0x2b00_0603 << 32;
/// Eight variable ranges, fixed ranges, write combining.
const MTRR_CAPABILITIES: u64 = 8 | 1 << 8 | 1 << 10;
/// IA32_MISC_ENABLE: no branch trace store, no precise event sampling.
const NO_TRACING: u64 = 1 << 11 | 1 << 12;
/// IBRS, STIBP, SSBD, BHI_DIS_S: accepted, without effect.
const SPEC_CTRL_BITS: u64 = 7 | 1 << 10;
const EFER_BITS: u64 = efer::SCE | efer::LME | efer::LMA | efer::NXE;
const MTRR_DEF_TYPE_BITS: u64 = 0xcff;
const PHYS_MASK: u64 = (1 << cpu::x86::PHYS_BITS) - 1;

pub(super) fn lower(l: &mut Lowering) -> bool {
    if l.insn.mnemonic() == Mnemonic::Rdmsr { l.run(rdmsr) } else { l.end_with(wrmsr) }
}

fn rdmsr(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_cpl0()?;
    match cpu.read_msr(cpu.regs[gpr::RCX] as u32) {
        Some(value) => {
            cpu.regs[gpr::RAX] = value & 0xffff_ffff;
            cpu.regs[gpr::RDX] = value >> 32;
            Ok(())
        }
        None => Err(cpu.gp0()),
    }
}

fn wrmsr(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let value = cpu.regs[gpr::RAX] & 0xffff_ffff | cpu.regs[gpr::RDX] << 32;
    if !cpu.write_msr(cpu.regs[gpr::RCX] as u32, value) {
        return Err(cpu.gp0());
    }
    // The block ends: an end of interrupt or a self-IPI wants to be noticed before the next instruction.
    serialised(cpu, op)
}

/// Index of a fixed-range MTRR.
fn fixed_mtrr(number: u32) -> Option<usize> {
    match number {
        msr::MTRR_FIX64K_00000 => Some(0),
        msr::MTRR_FIX16K_80000 => Some(1),
        msr::MTRR_FIX16K_A0000 => Some(2),
        msr::MTRR_FIX4K_C0000..=msr::MTRR_FIX4K_F8000 => Some(3 + (number - msr::MTRR_FIX4K_C0000) as usize),
        _ => None,
    }
}

/// Memory types: uncacheable, write-combining, write-through, write-protected, write-back.
fn memory_type(value: u64) -> bool {
    matches!(value & 0xff, 0 | 1 | 4 | 5 | 6)
}

/// All eight bytes are memory types; `also` is one more that counts.
fn memory_types(value: u64, also: u8) -> bool {
    value.to_le_bytes().iter().all(|&t| memory_type(u64::from(t)) || t == also)
}

impl Cpu {
    fn read_msr(&mut self, number: u32) -> Option<u64> {
        let msrs = &self.msrs;
        Some(match number {
            msr::TSC => self.tsc(),
            msr::APIC_BASE | msr::TSC_DEADLINE | msr::X2APIC_FIRST..=msr::X2APIC_LAST => {
                return self.io().apic_msr_read(number);
            }
            msr::EFER => self.efer,
            msr::STAR => msrs.star,
            msr::LSTAR => msrs.lstar,
            msr::CSTAR => msrs.cstar,
            msr::SFMASK => msrs.sfmask,
            msr::FS_BASE => self.segments[seg::FS].base,
            msr::GS_BASE => self.segments[seg::GS].base,
            msr::KERNEL_GS_BASE => msrs.kernel_gs_base,
            msr::TSC_AUX => msrs.tsc_aux,
            msr::SYSENTER_CS => msrs.sysenter_cs,
            msr::SYSENTER_ESP => msrs.sysenter_esp,
            msr::SYSENTER_EIP => msrs.sysenter_eip,
            msr::TSC_ADJUST => msrs.tsc_adjust,
            msr::SPEC_CTRL => msrs.spec_ctrl,
            msr::ARCH_CAPABILITIES => self.model.arch_capabilities(),
            msr::FEATURE_CONTROL => FEATURE_CONTROL_LOCKED,
            msr::BIOS_SIGN_ID => MICROCODE,
            msr::MISC_ENABLE => msrs.misc_enable | NO_TRACING,
            msr::PAT => msrs.pat,
            msr::MTRRCAP => MTRR_CAPABILITIES,
            msr::MTRR_DEF_TYPE => msrs.mtrr_def_type,
            msr::MTRR_PHYSBASE0..=msr::MTRR_PHYSMASK7 => {
                msrs.mtrr_var[(number - msr::MTRR_PHYSBASE0) as usize & 15]
            }
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_OLD => msrs.kvm_wall_clock,
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_OLD => msrs.kvm_system_time,
            msr::KVM_STEAL_TIME => msrs.kvm_steal_time,
            PLATFORM_ID | DEBUGCTL | msr::MCG_CAP | msr::MCG_STATUS => 0,
            _ => msrs.mtrr_fixed[fixed_mtrr(number)?],
        })
    }

    /// False raises #GP.
    fn write_msr(&mut self, number: u32, value: u64) -> bool {
        let canonical = Self::canonical(value);
        let msrs = &mut self.msrs;
        let (place, valid) = match number {
            msr::TSC => {
                let delta = value.wrapping_sub(self.tsc());
                return self.adjust_tsc(self.msrs.tsc_adjust.wrapping_add(delta));
            }
            msr::APIC_BASE | msr::TSC_DEADLINE | msr::X2APIC_FIRST..=msr::X2APIC_LAST => {
                return self.io().apic_msr_write(number, value);
            }
            msr::EFER => return self.set_efer(value),
            msr::FS_BASE | msr::GS_BASE => {
                if canonical {
                    self.set_base(if number == msr::FS_BASE { seg::FS } else { seg::GS }, value);
                }
                return canonical;
            }
            msr::STAR => (&mut msrs.star, true),
            msr::LSTAR => (&mut msrs.lstar, canonical),
            msr::CSTAR => (&mut msrs.cstar, canonical),
            msr::SFMASK => (&mut msrs.sfmask, value >> 32 == 0),
            msr::KERNEL_GS_BASE => (&mut msrs.kernel_gs_base, canonical),
            msr::TSC_AUX => (&mut msrs.tsc_aux, value >> 32 == 0),
            msr::SYSENTER_CS => (&mut msrs.sysenter_cs, true),
            msr::SYSENTER_ESP => (&mut msrs.sysenter_esp, canonical),
            msr::SYSENTER_EIP => (&mut msrs.sysenter_eip, canonical),
            msr::TSC_ADJUST => return self.adjust_tsc(value),
            msr::SPEC_CTRL => (&mut msrs.spec_ctrl, value & !SPEC_CTRL_BITS == 0),
            msr::MISC_ENABLE => (&mut msrs.misc_enable, true),
            msr::PAT => (&mut msrs.pat, memory_types(value, 7)),
            msr::MTRR_DEF_TYPE => {
                (&mut msrs.mtrr_def_type, value & !MTRR_DEF_TYPE_BITS == 0 && memory_type(value))
            }
            msr::MTRR_PHYSBASE0..=msr::MTRR_PHYSMASK7 => {
                let base = number & 1 == 0;
                let reserved = if base { 0xf00 } else { 0x7ff } | !PHYS_MASK;
                let valid = value & reserved == 0 && (!base || memory_type(value));
                (&mut msrs.mtrr_var[(number - msr::MTRR_PHYSBASE0) as usize & 15], valid)
            }
            msr::KVM_WALL_CLOCK | msr::KVM_WALL_CLOCK_OLD => return self.set_wall_clock(value),
            msr::KVM_SYSTEM_TIME | msr::KVM_SYSTEM_TIME_OLD => return self.set_system_time(value),
            msr::KVM_STEAL_TIME => return self.set_steal_time(value),
            // Predictors and caches that the guest cannot observe: the commands do nothing.
            msr::PRED_CMD | msr::FLUSH_CMD => return value & !1 == 0,
            // Debug controls are accepted and not acted upon; so is a query of the microcode revision.
            DEBUGCTL | msr::BIOS_SIGN_ID => return true,
            msr::MCG_STATUS => return value == 0,
            _ => match fixed_mtrr(number) {
                Some(index) => (&mut msrs.mtrr_fixed[index], memory_types(value, 0)),
                None => return false,
            },
        };
        if valid {
            *place = value;
        }
        valid
    }

    fn adjust_tsc(&mut self, adjust: u64) -> bool {
        self.msrs.tsc_adjust = adjust;
        self.io().set_tsc_adjust(adjust);
        self.publish_time();
        true
    }

    fn set_steal_time(&mut self, value: u64) -> bool {
        let valid = value & steal::RESERVED == 0;
        if valid {
            self.msrs.kvm_steal_time = value;
            self.io().set_steal_time(value);
        }
        valid
    }

    /// IA32_EFER: LME cannot change while paging is on; LMA is not software's.
    fn set_efer(&mut self, value: u64) -> bool {
        let changed = value ^ self.efer;
        if value & !EFER_BITS != 0 || (changed & efer::LME != 0 && self.paging()) {
            return false;
        }
        self.efer = value & !efer::LMA | self.efer & efer::LMA;
        if changed & efer::NXE != 0 {
            self.tlb.flush_all();
        }
        true
    }
}
