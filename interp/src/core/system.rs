//! What an engine needs that executes system instructions itself.

use cpu::x86::{efer, rflags, seg};

use super::Session;
use crate::cpu::Cpu;
pub use crate::system::Gate;

/// What SYSCALL and SYSRET load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gates {
    /// EFER.SCE.
    pub enabled: bool,
    /// IA32_LSTAR.
    pub target: u64,
    /// Flags that SYSCALL clears: IA32_FMASK.
    pub mask: u64,
    /// CS and SS behind SYSCALL.
    pub inner: [u16; 2],
    /// CS and SS behind SYSRET to 64-bit code.
    pub outer: [u16; 2],
}

impl Session<'_, '_> {
    /// What SYSCALL and SYSRET would load now.
    pub fn gates(&self) -> Gates {
        let cpu = self.cpu();
        Gates {
            enabled: cpu.efer & efer::SCE != 0 && Cpu::canonical(cpu.msrs.lstar),
            target: cpu.msrs.lstar,
            mask: cpu.msrs.sfmask,
            inner: cpu.gate_selectors(Gate::Syscall),
            outer: cpu.gate_selectors(Gate::Sysret),
        }
    }

    /// The engine has executed SYSCALL or SYSRET: takes over segments and privilege, and RFLAGS but for the arithmetic
    /// flags.
    pub fn passed(&mut self, gate: Gate, system_flags: u64) {
        self.set_system_flags(system_flags);
        self.run.cpu.enter_gate(gate);
    }

    /// The engine has executed STAC or CLAC at CPL 0: takes over RFLAGS but for the arithmetic flags.
    pub fn set_system_flags(&mut self, flags: u64) {
        let cpu = &mut *self.run.cpu;
        cpu.eflags = flags & rflags::ALL & !rflags::STATUS | rflags::FIXED;
        cpu.tlb.set_ac(flags & rflags::AC != 0);
    }

    /// CR2 and CR3.
    pub fn cr2_and_cr3(&self) -> [u64; 2] {
        [self.cpu().cr2, self.cpu().cr3]
    }

    /// IA32_KERNEL_GS_BASE.
    pub fn kernel_gs_base(&self) -> u64 {
        self.cpu().msrs.kernel_gs_base
    }

    /// Replaces the bases of FS and GS, and IA32_KERNEL_GS_BASE.
    pub fn set_bases(&mut self, fs: u64, gs: u64, kernel: u64) {
        let cpu = &mut *self.run.cpu;
        cpu.set_base(seg::FS, fs);
        cpu.set_base(seg::GS, gs);
        cpu.msrs.kernel_gs_base = kernel;
    }

    /// What the guest's TSC is ahead of the host's. Stays as it is until the guest changes it.
    pub fn tsc_offset(&self) -> u64 {
        let cpu = self.cpu();
        cpu.clock.offset().wrapping_add(cpu.msrs.tsc_adjust)
    }

    /// IA32_TSC_AUX.
    pub fn tsc_aux(&self) -> u32 {
        self.cpu().msrs.tsc_aux as u32
    }
}
