//! XGETBV and XSETBV (Intel SDM volume 1, 13.3).

use cpu::x86::{Feature, cr4, gpr, xcr0};
use iced_x86::Mnemonic;

use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::op::{Done, Op, Stop};

pub(super) fn lower(l: &mut Lowering) -> bool {
    if l.insn.mnemonic() == Mnemonic::Xgetbv { l.run(xgetbv) } else { l.end_with(xsetbv) }
}

fn require_osxsave(cpu: &mut Cpu) -> Result<(), Stop> {
    if cpu.cr4 & cr4::OSXSAVE == 0 { Err(cpu.ud()) } else { Ok(()) }
}

fn xgetbv(cpu: &mut Cpu, _: &Op) -> Done {
    require_osxsave(cpu)?;
    let value = match cpu.regs[gpr::RCX] as u32 {
        0 => cpu.xcr0,
        // XINUSE: a component may always be reported as in use.
        1 if cpu.model.has(Feature::XGETBV1) => cpu.xcr0,
        _ => return Err(cpu.gp0()),
    };
    cpu.regs[gpr::RAX] = value & 0xffff_ffff;
    cpu.regs[gpr::RDX] = value >> 32;
    Ok(())
}

fn xsetbv(cpu: &mut Cpu, op: &Op) -> Done {
    require_osxsave(cpu)?;
    cpu.require_cpl0()?;
    let value = cpu.regs[gpr::RAX] & 0xffff_ffff | cpu.regs[gpr::RDX] << 32;
    let avx_without_sse = value & xcr0::AVX != 0 && value & xcr0::SSE == 0;
    let known = value & !cpu.model.xcr0() == 0 && value & xcr0::X87 != 0;
    if cpu.regs[gpr::RCX] as u32 != 0 || !known || avx_without_sse {
        return Err(cpu.gp0());
    }
    cpu.xcr0 = value;
    cpu.rip = cpu.next_ip(op);
    Err(Stop::Jump)
}
