//! RDTSC, RDTSCP, RDPMC, RDPID. The guest's TSC is the machine clock's plus IA32_TSC_ADJUST.

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

fn rdtscp(cpu: &mut Cpu, _: &Op) -> Done {
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
