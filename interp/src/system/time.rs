//! RDTSC, RDTSCP, RDPMC, RDPID, LFENCE. The guest's TSC is the machine clock's plus IA32_TSC_ADJUST.
// UNSAFETY: LFENCE is reached through a compiler intrinsic.
#![allow(unsafe_code)]

use std::arch::x86_64::_mm_lfence;

use cpu::x86::{cr4, gpr};
use iced_x86::Mnemonic;

use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop, threaded};

pub(super) fn lower(l: &mut Lowering) -> bool {
    match l.insn.mnemonic() {
        Mnemonic::Rdtsc => l.thread(threaded(rdtsc)),
        Mnemonic::Rdtscp => l.run(rdtscp),
        Mnemonic::Rdpid => {
            l.dst(0);
            l.run(rdpid)
        }
        _ => l.run(rdpmc),
    }
}

impl Cpu {
    /// Time-stamp counter.
    #[inline]
    pub(super) fn tsc(&self) -> u64 {
        self.clock.tsc().wrapping_add(self.msrs.tsc_adjust)
    }

    #[inline]
    fn tsc_to_regs(&mut self) -> Result<(), Stop> {
        if self.cr4 & cr4::TSD != 0 && self.cpl > 0 {
            return Err(self.gp0());
        }
        let tsc = self.tsc();
        self.regs[gpr::RAX] = tsc & 0xffff_ffff;
        self.regs[gpr::RDX] = tsc >> 32;
        Ok(())
    }
}

fn rdtsc(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.tsc_to_regs()
}

/// Guests order RDTSC behind their loads with it: without it here the host's RDTSC overtakes the host's load, and
/// time goes back from one vCPU to another.
pub(super) fn lfence(_: &mut Cpu, _: &Op) -> Done {
    // SAFETY: LFENCE is in every x86-64 CPU and touches nothing.
    unsafe { _mm_lfence() };
    Ok(())
}

/// Waits for all that went before, as LFENCE does.
fn rdtscp(cpu: &mut Cpu, op: &Op) -> Done {
    lfence(cpu, op)?;
    cpu.tsc_to_regs()?;
    cpu.regs[gpr::RCX] = cpu.msrs.tsc_aux & 0xffff_ffff;
    Ok(())
}

fn rdpid(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.set_system_reg(op.dst, cpu.msrs.tsc_aux);
    Ok(())
}

/// There are no performance counters.
fn rdpmc(cpu: &mut Cpu, _: &Op) -> Done {
    Err(cpu.gp0())
}
