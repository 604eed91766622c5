//! TLB and cache maintenance, prefetches and fences. Guest RAM is the host's, coherent and with the host's memory
//! order: cache instructions have nothing to do but fault.

use cpu::x86::{cr4, seg};
use iced_x86::Mnemonic;

use super::{drain, serialised};
use crate::cpu::{CodeSize, Cpu};
use crate::decode::Lowering;
use crate::mmu::Access;
use crate::op::{Done, Op, SEG_FLAT, threaded};

pub(super) fn lower(l: &mut Lowering) -> bool {
    use Mnemonic as M;
    match l.insn.mnemonic() {
        M::Invlpg => l.end_with(invlpg),
        M::Invpcid => {
            l.src(0);
            l.end_with(invpcid)
        }
        M::Invd | M::Wbinvd | M::Wbnoinvd => l.run(cache_all),
        M::Clflush | M::Clflushopt | M::Clwb => l.run(cache_line),
        M::Mfence => l.thread(threaded(mfence)),
        M::Lfence => l.thread(threaded(super::time::lfence)),
        M::Serialize => l.end_with(serialised),
        // Loads are ordered and stores too; prefetches are hints.
        _ => l.thread(threaded(super::halt::nop)),
    }
}

fn invlpg(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let offset = cpu.effective(op);
    let lin = if cpu.code_size == CodeSize::Bits64 {
        cpu.seg_base[usize::from(op.seg & 7)].wrapping_add(offset)
    } else {
        let base = if op.seg == SEG_FLAT { 0 } else { cpu.segments[usize::from(op.seg).min(seg::GS)].base };
        base.wrapping_add(offset) & 0xffff_ffff
    };
    cpu.tlb.flush_page(lin);
    serialised(cpu, op)
}

fn invpcid(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.require_cpl0()?;
    let kind = cpu.system_reg(op.src);
    let lin = cpu.linear(op, 16, false)?;
    let pcid: u64 = cpu.load(lin, op.seg)?;
    let address: u64 = cpu.load(cpu.wrap_linear(lin.wrapping_add(8)), op.seg)?;
    let no_pcids = cpu.cr4 & cr4::PCIDE == 0 && pcid != 0;
    match kind {
        0 | 1 if pcid > 0xfff || no_pcids => return Err(cpu.gp0()),
        0 if !Cpu::canonical(address) => return Err(cpu.gp0()),
        0 => cpu.tlb.flush_page(address),
        1 => cpu.tlb.flush_pcid(pcid as u16),
        // Type 3 keeps global pages; dropping them too is allowed.
        2 | 3 => {
            if pcid > 0xfff {
                return Err(cpu.gp0());
            }
            cpu.tlb.flush_all();
        }
        _ => return Err(cpu.gp0()),
    }
    serialised(cpu, op)
}

fn cache_all(cpu: &mut Cpu, _: &Op) -> Done {
    drain();
    cpu.require_cpl0()
}

/// Faults as a load of one byte would.
fn cache_line(cpu: &mut Cpu, op: &Op) -> Done {
    let lin = cpu.linear(op, 1, false)?;
    if cpu.direct(lin, 1, false).is_some() {
        return Ok(());
    }
    if cpu.code_size == CodeSize::Bits64 && !Cpu::canonical(lin) {
        let vector = if usize::from(op.seg) == seg::SS { cpu::x86::vector::SS } else { cpu::x86::vector::GP };
        return Err(cpu.fault(vector, 0));
    }
    let privilege = cpu.privilege();
    cpu.probe(lin, 1, Access::Read, privilege)
}

fn mfence(_: &mut Cpu, _: &Op) -> Done {
    drain();
    Ok(())
}
