//! SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS and the FS and GS base instructions.

use cpu::Segment;
use cpu::x86::{cr4, efer, gpr, rflags, seg, seg_attr};
use iced_x86::Mnemonic;

use super::debug::NO_STEP_TRAP;
use crate::cpu::{CodeSize, Cpu};
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop, threaded};

pub(super) fn lower(l: &mut Lowering) -> bool {
    match l.insn.mnemonic() {
        Mnemonic::Syscall => l.end_with(syscall),
        Mnemonic::Sysret => l.end_with(sysret32),
        Mnemonic::Sysretq => l.end_with(sysret64),
        Mnemonic::Sysenter => l.end_with(sysenter),
        Mnemonic::Sysexit => l.end_with(sysexit32),
        Mnemonic::Sysexitq => l.end_with(sysexit64),
        Mnemonic::Swapgs => l.thread(threaded(swapgs)),
        mnemonic => {
            let gs = matches!(mnemonic, Mnemonic::Rdgsbase | Mnemonic::Wrgsbase);
            let write = matches!(mnemonic, Mnemonic::Wrfsbase | Mnemonic::Wrgsbase);
            l.op.seg = if gs { seg::GS as u8 } else { seg::FS as u8 };
            l.op.aux = l.size(0) as u8;
            if write {
                l.src(0);
                l.run(write_base)
            } else {
                l.dst(0);
                l.run(read_base)
            }
        }
    }
}

/// Flat code: 64-bit or 32-bit.
fn flat_code(selector: u16, cpl: u8, long: bool) -> Segment {
    let size = if long { seg_attr::L } else { seg_attr::DB };
    let attr = seg_attr::G | size | 0x9b | u32::from(cpl) << seg_attr::DPL_SHIFT;
    Segment { selector, base: 0, limit: u32::MAX, attr }
}

/// Flat writable data.
fn flat_data(selector: u16, cpl: u8) -> Segment {
    let attr = seg_attr::G | seg_attr::DB | 0x93 | u32::from(cpl) << seg_attr::DPL_SHIFT;
    Segment { selector, base: 0, limit: u32::MAX, attr }
}

/// Instructions that take CS and SS from IA32_STAR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// SYSCALL, to CPL 0.
    Syscall,
    /// SYSRET to 64-bit code at CPL 3.
    Sysret,
    /// SYSRET to 32-bit code at CPL 3.
    Sysret32,
}

impl Cpu {
    /// The selectors of CS and SS that an instruction takes from IA32_STAR.
    pub fn gate_selectors(&self, gate: Gate) -> [u16; 2] {
        let star = self.msrs.star;
        let (inner, outer) = ((star >> 32) as u16 & !3, (star >> 48) as u16);
        match gate {
            Gate::Syscall => [inner, inner.wrapping_add(8)],
            Gate::Sysret => [outer.wrapping_add(16) | 3, outer.wrapping_add(8) | 3],
            Gate::Sysret32 => [outer | 3, outer.wrapping_add(8) | 3],
        }
    }

    /// Loads CS and SS with what IA32_STAR says, flat, and the CPL.
    pub fn enter_gate(&mut self, gate: Gate) {
        let cpl = if gate == Gate::Syscall { 0 } else { 3 };
        let [code, stack] = self.gate_selectors(gate);
        self.segments[seg::SS] = flat_data(stack, cpl);
        self.set_code(flat_code(code, cpl, gate != Gate::Sysret32), cpl);
    }

    fn enter_flat(&mut self, code: Segment, stack: Segment, cpl: u8) -> Done {
        self.segments[seg::SS] = stack;
        self.set_code(code, cpl);
        Err(Stop::Jump)
    }
}

fn syscall(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.efer & efer::SCE == 0 || cpu.code_size != CodeSize::Bits64 {
        return Err(cpu.ud());
    }
    cpu.entries += 1;
    let flags = cpu.rflags() & !rflags::RF;
    cpu.regs[gpr::RCX] = cpu.next_ip(op);
    cpu.regs[11] = flags;
    cpu.rip = cpu.msrs.lstar;
    cpu.set_rflags(flags & !cpu.msrs.sfmask);
    if cpu.eflags & rflags::TF == 0 {
        cpu.watch_hits |= NO_STEP_TRAP;
    }
    cpu.enter_gate(Gate::Syscall);
    Err(Stop::Jump)
}

fn sysret64(cpu: &mut Cpu, _: &Op) -> Done {
    sysret(cpu, true)
}

fn sysret32(cpu: &mut Cpu, _: &Op) -> Done {
    sysret(cpu, false)
}

fn sysret(cpu: &mut Cpu, long: bool) -> Done {
    if cpu.efer & efer::SCE == 0 || cpu.code_size != CodeSize::Bits64 {
        return Err(cpu.ud());
    }
    let target = cpu.regs[gpr::RCX];
    if cpu.cpl != 0 || (long && !Cpu::canonical(target)) {
        return Err(cpu.gp0());
    }
    let dropped = rflags::RF | rflags::VM | rflags::VIF | rflags::VIP;
    cpu.set_rflags(cpu.regs[11] & !dropped);
    cpu.rip = if long { target } else { target & 0xffff_ffff };
    cpu.enter_gate(if long { Gate::Sysret } else { Gate::Sysret32 });
    cpu.check_alignment_mode();
    Err(Stop::Jump)
}

fn sysenter(cpu: &mut Cpu, _: &Op) -> Done {
    let cs = cpu.msrs.sysenter_cs as u16 & !3;
    if !cpu.protected() || cs == 0 {
        return Err(cpu.gp0());
    }
    let long = cpu.long_mode();
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.set_rflags(cpu.rflags() & !(rflags::VM | rflags::IF | rflags::RF));
    cpu.regs[gpr::RSP] = cpu.msrs.sysenter_esp & mask;
    cpu.rip = cpu.msrs.sysenter_eip & mask;
    cpu.enter_flat(flat_code(cs, 0, long), flat_data(cs.wrapping_add(8), 0), 0)
}

fn sysexit64(cpu: &mut Cpu, _: &Op) -> Done {
    sysexit(cpu, true)
}

fn sysexit32(cpu: &mut Cpu, _: &Op) -> Done {
    sysexit(cpu, false)
}

fn sysexit(cpu: &mut Cpu, long: bool) -> Done {
    let base = cpu.msrs.sysenter_cs as u16 & !3;
    let (sp, ip) = (cpu.regs[gpr::RCX], cpu.regs[gpr::RDX]);
    let bad = long && !(Cpu::canonical(sp) && Cpu::canonical(ip));
    if !cpu.protected() || base == 0 || cpu.cpl != 0 || bad {
        return Err(cpu.gp0());
    }
    let mask = if long { u64::MAX } else { 0xffff_ffff };
    cpu.regs[gpr::RSP] = sp & mask;
    cpu.rip = ip & mask;
    let cs = base.wrapping_add(if long { 32 } else { 16 }) | 3;
    let done = cpu.enter_flat(flat_code(cs, 3, long), flat_data(cs.wrapping_add(8) | 3, 3), 3);
    cpu.check_alignment_mode();
    done
}

fn swapgs(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.require_cpl0()?;
    let base = &mut cpu.segments[seg::GS].base;
    std::mem::swap(base, &mut cpu.msrs.kernel_gs_base);
    cpu.seg_base[seg::GS] = *base;
    Ok(())
}

fn read_base(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.cr4 & cr4::FSGSBASE == 0 {
        return Err(cpu.ud());
    }
    let base = cpu.segments[usize::from(op.seg)].base;
    match op.aux {
        4 => cpu.set_dst(op, base as u32),
        _ => cpu.set_dst(op, base),
    }
    Ok(())
}

fn write_base(cpu: &mut Cpu, op: &Op) -> Done {
    if cpu.cr4 & cr4::FSGSBASE == 0 {
        return Err(cpu.ud());
    }
    let base = if op.aux == 4 { u64::from(cpu.src::<u32>(op)) } else { cpu.src(op) };
    if !Cpu::canonical(base) {
        return Err(cpu.gp0());
    }
    cpu.set_base(usize::from(op.seg), base);
    Ok(())
}

impl Cpu {
    /// Sets the base of FS or GS.
    pub(crate) fn set_base(&mut self, index: usize, base: u64) {
        self.segments[index].base = base;
        self.seg_base[index] = base;
    }
}
