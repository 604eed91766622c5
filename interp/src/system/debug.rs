//! Debug registers, breakpoints and single-stepping (Intel SDM volume 3, chapter 18).

use cpu::x86::{Exception, cr4, rflags, seg};

use super::serialised;
use crate::cpu::{CodeSize, Cpu};
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop, slot};

/// DR6.
pub(super) mod dr6 {
    /// Bits that read as one.
    pub const FIXED: u64 = 0xffff_0ff0;
    pub const BREAKPOINTS: u64 = 0xf;
    /// Debug register access while DR7.GD is set.
    pub const BD: u64 = 1 << 13;
    /// Single step.
    pub const BS: u64 = 1 << 14;
    /// Task switch to a TSS with its T bit set.
    pub const BT: u64 = 1 << 15;
}

mod dr7 {
    pub const FIXED: u64 = 1 << 10;
    pub const GD: u64 = 1 << 13;
    pub const WRITABLE: u64 = 0xffff_23ff;
    /// Kind of breakpoint: instruction.
    pub const EXECUTE: u64 = 0;
    /// I/O, with CR4.DE.
    pub const IO: u64 = 2;
}

/// Notes in `cpu.watch_hits` above the bits of DR6: the instruction takes no single-step trap.
pub(super) const NO_STEP_TRAP: u64 = 1 << 62;
/// The instruction has set RF, which stays for the next one.
pub(super) const KEEP_RF: u64 = 1 << 63;

const DR6: usize = 4;
const DR7: usize = 5;

/// MOV to and from a debug register.
pub(super) fn lower(l: &mut Lowering) -> bool {
    let to = l.insn.op0_register().is_dr();
    let register = l.insn.op_register(if to { 0 } else { 1 });
    l.op.aux = register.number() as u8;
    if to {
        l.src(1);
        l.end_with(write)
    } else {
        l.dst(0);
        l.run(read)
    }
}

/// Index into `cpu.dr` after the checks that reads and writes share.
fn index(cpu: &mut Cpu, op: &Op) -> Result<usize, Stop> {
    let number = usize::from(op.aux);
    let alias = number == 4 || number == 5;
    if number > 7 || (alias && cpu.cr4 & cr4::DE != 0) {
        return Err(cpu.ud());
    }
    cpu.require_cpl0()?;
    if cpu.dr[DR7] & dr7::GD != 0 {
        return Err(cpu.raise(Exception::debug(dr6::BD)));
    }
    Ok(match number {
        0..=3 => number,
        4 | 6 => DR6,
        _ => DR7,
    })
}

fn read(cpu: &mut Cpu, op: &Op) -> Done {
    let index = index(cpu, op)?;
    let value = cpu.dr[index];
    cpu.set_system_reg(op.dst, value);
    Ok(())
}

fn write(cpu: &mut Cpu, op: &Op) -> Done {
    let index = index(cpu, op)?;
    let value = cpu.system_reg(op.src);
    if index >= DR6 && value >> 32 != 0 {
        return Err(cpu.gp0());
    }
    cpu.dr[index] = match index {
        DR6 => value & (dr6::BREAKPOINTS | dr6::BD | dr6::BS | dr6::BT) | dr6::FIXED,
        DR7 => value & dr7::WRITABLE | dr7::FIXED,
        _ => value,
    };
    // Watched pages get no TLB entries.
    if cpu.dr[DR7] & 0xff != 0 {
        cpu.tlb.flush_all();
    }
    serialised(cpu, op)
}

impl Cpu {
    /// What a #DB does to the debug registers when it is delivered.
    pub(super) fn enter_debug(&mut self, payload: u64) {
        let bits = dr6::BREAKPOINTS | dr6::BD | dr6::BS | dr6::BT;
        self.dr[DR6] = self.dr[DR6] & !dr6::BREAKPOINTS | payload & bits;
        self.dr[DR7] &= !dr7::GD;
    }

    /// TF or breakpoints are on.
    pub(super) fn debugging(&self) -> bool {
        self.eflags & rflags::TF != 0 || self.dr[DR7] & 0xff != 0
    }

    /// Breakpoints of a kind that cover part of `len` units from `at`, as DR6 bits.
    fn breakpoints(&self, kind: u64, at: u64, len: u64) -> u64 {
        let control = self.dr[DR7];
        let mut hits = 0;
        for i in 0..4 {
            let enabled = control >> (i * 2) & 3 != 0 && control >> (16 + i * 4) & 3 == kind;
            let size = [1u64, 2, 8, 4][(control >> (18 + i * 4) & 3) as usize];
            let start = self.dr[i as usize] & !(size - 1);
            if enabled && at < start.wrapping_add(size) && start < at.wrapping_add(len) {
                hits |= 1 << i;
            }
        }
        hits
    }

    /// Notes the I/O breakpoints that an access to ports hits.
    pub(super) fn watch_io(&mut self, port: u16, len: u16) {
        if self.dr[DR7] & 0xff != 0 && self.cr4 & cr4::DE != 0 {
            self.watch_hits |= self.breakpoints(dr7::IO, u64::from(port), u64::from(len));
        }
    }

    /// Raises #DB if an instruction breakpoint is at RIP (unless RF).
    pub fn check_code_breakpoints(&mut self) -> Result<(), Stop> {
        let shadow = std::mem::take(&mut self.events.mov_ss_shadow);
        if self.dr[DR7] & 0xff == 0 || self.eflags & rflags::RF != 0 || shadow {
            return Ok(());
        }
        let lin = if self.code_size == CodeSize::Bits64 {
            self.rip
        } else {
            self.wrap_linear(self.segments[seg::CS].base.wrapping_add(self.rip) & 0xffff_ffff)
        };
        match self.breakpoints(dr7::EXECUTE, lin, 1) {
            0 => Ok(()),
            hits => Err(self.raise(Exception::debug(hits))),
        }
    }

    /// After a stepped instruction: single-step and data-breakpoint traps (delivered at the new RIP), RF is
    /// cleared. `single_step`: TF was set when the instruction began.
    pub fn after_step(&mut self, single_step: bool) -> Result<(), Stop> {
        let hits = std::mem::take(&mut self.watch_hits);
        // An unfinished REP instruction stays at its place, and RF with it.
        if hits & KEEP_RF == 0 && self.rip != self.regs[usize::from(slot::BLOCK)] {
            self.eflags &= !rflags::RF;
        }
        let step = if single_step && hits & NO_STEP_TRAP == 0 { dr6::BS } else { 0 };
        let traps = hits & (dr6::BREAKPOINTS | dr6::BT) | step;
        if traps == 0 || self.events.mov_ss_shadow {
            return Ok(());
        }
        Err(self.raise(Exception::debug(traps)))
    }
}
