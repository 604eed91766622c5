//! FXSAVE, FXRSTOR, the XSAVE family, LDMXCSR and STMXCSR (Intel SDM volume 1, 10.5 and chapter 13).

use cpu::x86::{Exception, Feature, cr0, cr4, gpr, vector, xcr0};
use iced_x86::{Code, Mnemonic};

use super::state::{MXCSR_INIT, MXCSR_MASK};
use super::xsave::{AVX, HEADER, LEGACY, MXCSR, XMM, mxcsr_of};
use crate::cpu::{CodeSize, Cpu};
use crate::decode::Lowering;
use crate::mmu::{Access, Stored};
use crate::op::{Done, Op, Stop};

/// `aux` of forms with REX.W: pointers of 64 bits.
const WIDE: u8 = 1;
/// XCOMP_BV: the image has the compacted format.
const COMPACT: u64 = 1 << 63;

/// Lowers these instructions.
pub(super) fn lower(l: &mut Lowering) -> bool {
    use Mnemonic as M;
    let wide = matches!(
        l.insn.code(),
        Code::Fxsave64_m512byte
            | Code::Fxrstor64_m512byte
            | Code::Xsave64_mem
            | Code::Xsaveopt64_mem
            | Code::Xsavec64_mem
            | Code::Xrstor64_mem
    );
    l.op.aux = if wide { WIDE } else { 0 };
    l.run(match l.insn.mnemonic() {
        M::Fxsave | M::Fxsave64 => fxsave,
        M::Fxrstor | M::Fxrstor64 => fxrstor,
        M::Xsave | M::Xsave64 => xsave,
        M::Xsaveopt | M::Xsaveopt64 => xsaveopt,
        M::Xsavec | M::Xsavec64 => xsavec,
        M::Xrstor | M::Xrstor64 => xrstor,
        M::Ldmxcsr => load_mxcsr::<false>,
        M::Vldmxcsr => load_mxcsr::<true>,
        M::Stmxcsr => store_mxcsr::<false>,
        M::Vstmxcsr => store_mxcsr::<true>,
        _ => return false,
    })
}

impl Cpu {
    /// XMM and YMM registers that the mode can name.
    fn vector_registers(&self) -> usize {
        if self.code_size == CodeSize::Bits64 { 16 } else { 8 }
    }

    fn check_fx(&mut self) -> Result<(), Stop> {
        if self.cr0 & (cr0::EM | cr0::TS) != 0 {
            return Err(self.raise(Exception::new(vector::NM)));
        }
        self.host.reclaim_x87();
        Ok(())
    }

    fn check_xsave(&mut self) -> Result<(), Stop> {
        if self.cr4 & cr4::OSXSAVE == 0 {
            return Err(self.raise(Exception::ud()));
        }
        self.task_switched()?;
        self.host.reclaim_x87();
        Ok(())
    }

    /// EDX:EAX, limited to what XCR0 enables (RFBM).
    fn requested(&self) -> u64 {
        let mask = (self.regs[gpr::RAX] & 0xffff_ffff) | self.regs[gpr::RDX] << 32;
        mask & self.xcr0
    }
}

fn fxsave(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.check_fx()?;
    let lin = cpu.vector_target(op, LEGACY, 15)?;
    let mut image = [0; LEGACY];
    cpu.host.write_legacy(&mut image, op.aux == WIDE);
    // The reserved rest belongs to software.
    let len = XMM + 16 * cpu.vector_registers();
    cpu.probe_end(lin, op.seg, LEGACY, Access::Write)?;
    cpu.probe_target(lin, op.seg, LEGACY)?;
    cpu.write_operand(lin, op.seg, &image[..len])?.done()
}

fn fxrstor(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.check_fx()?;
    let lin = cpu.source_address_aligned(op, LEGACY, 15)?;
    cpu.probe_end(lin, op.seg, LEGACY, Access::Read)?;
    let mut image = [0; LEGACY];
    cpu.read_operand(lin, op.seg, &mut image)?;
    let mxcsr = mxcsr_of(&image);
    if mxcsr & !MXCSR_MASK != 0 {
        return Err(cpu.raise(Exception::gp(0)));
    }
    let count = cpu.vector_registers();
    let host = &mut *cpu.host;
    host.read_x87(&image, op.aux == WIDE);
    host.read_sse(&image, count);
    host.mxcsr = mxcsr;
    Ok(())
}

fn xsave(cpu: &mut Cpu, op: &Op) -> Done {
    save(cpu, op, false)
}

fn xsaveopt(cpu: &mut Cpu, op: &Op) -> Done {
    save(cpu, op, true)
}

/// The standard format. `skip_initial`: components in their initial state are not written.
fn save(cpu: &mut Cpu, op: &Op, skip_initial: bool) -> Done {
    cpu.check_xsave()?;
    let requested = cpu.requested();
    let lin = cpu.vector_target(op, AVX, 63)?;
    let mut header = [0; 8];
    let used = cpu.host.in_use();
    cpu.probe_area(lin, op.seg, requested)?;
    cpu.read_operand(lin.wrapping_add(LEGACY as u64), op.seg, &mut header)?;
    let present = (u64::from_le_bytes(header) & !requested) | (requested & used);
    let written = if skip_initial { requested & used } else { requested };
    let mut stored = write_components(cpu, op, lin, written)?;
    if requested & (xcr0::SSE | xcr0::AVX) != 0 {
        stored = stored.and(write_mxcsr(cpu, op, lin)?);
    }
    let at = lin.wrapping_add(LEGACY as u64);
    stored.and(cpu.write_operand(at, op.seg, &present.to_le_bytes())?).done()
}

/// The compacted format, which has the same offsets as the standard one as long as AVX is the last component.
fn xsavec(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.check_xsave()?;
    let requested = cpu.requested();
    let lin = cpu.vector_target(op, AVX, 63)?;
    cpu.probe_area(lin, op.seg, requested)?;
    let present = requested & (cpu.host.in_use() | cpu.host.mxcsr_in_use());
    let mut stored = write_components(cpu, op, lin, present)?;
    if present & xcr0::SSE != 0 {
        stored = stored.and(write_mxcsr(cpu, op, lin)?);
    }
    let mut header = [0; 16];
    header[..8].copy_from_slice(&present.to_le_bytes());
    header[8..].copy_from_slice(&(requested | COMPACT).to_le_bytes());
    let at = lin.wrapping_add(LEGACY as u64);
    stored.and(cpu.write_operand(at, op.seg, &header)?).done()
}

fn write_mxcsr(cpu: &mut Cpu, op: &Op, lin: u64) -> Result<Stored, Stop> {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&cpu.host.mxcsr.to_le_bytes());
    bytes[4..].copy_from_slice(&MXCSR_MASK.to_le_bytes());
    cpu.write_operand(lin.wrapping_add(MXCSR.start as u64), op.seg, &bytes)
}

fn write_components(cpu: &mut Cpu, op: &Op, lin: u64, components: u64) -> Result<Stored, Stop> {
    let count = cpu.vector_registers();
    let mut image = [0; LEGACY + HEADER + 256];
    cpu.host.write_legacy(&mut image, op.aux == WIDE);
    cpu.host.write_avx(&mut image[AVX..]);
    let mut parts: [(u64, std::ops::Range<usize>); 4] = [
        (xcr0::X87, 0..MXCSR.start),
        (xcr0::X87, MXCSR.end..XMM),
        (xcr0::SSE, XMM..XMM + 16 * count),
        (xcr0::AVX, AVX..AVX + 16 * count),
    ];
    let mut stored = Stored::CLEAN;
    for (component, range) in &mut parts {
        if components & *component != 0 {
            let at = lin.wrapping_add(range.start as u64);
            stored = stored.and(cpu.write_operand(at, op.seg, &image[range.clone()])?);
        }
    }
    Ok(stored)
}

fn xrstor(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.check_xsave()?;
    let requested = cpu.requested();
    let lin = cpu.source_address_aligned(op, AVX, 63)?;
    let mut image = [0; AVX + 256];
    cpu.read_operand(lin, op.seg, &mut image[..AVX])?;
    let mut legacy = [0; LEGACY];
    legacy.copy_from_slice(&image[..LEGACY]);
    let word = |n: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&image[LEGACY + n * 8..LEGACY + n * 8 + 8]);
        u64::from_le_bytes(bytes)
    };
    let (present, layout) = (word(0), word(1));
    let compact = layout & COMPACT != 0 && cpu.model.has(Feature::XSAVEC);
    let valid = if compact {
        let listed = layout & !COMPACT;
        listed & !cpu.xcr0 == 0 && present & !listed == 0 && (2..8).all(|n| word(n) == 0)
    } else {
        present & !cpu.xcr0 == 0 && layout == 0 && word(2) == 0
    };
    let loads_mxcsr =
        if compact { requested & present & xcr0::SSE != 0 } else { requested & (xcr0::SSE | xcr0::AVX) != 0 };
    let mxcsr = mxcsr_of(&legacy);
    if !valid || (loads_mxcsr && mxcsr & !MXCSR_MASK != 0) {
        return Err(cpu.raise(Exception::gp(0)));
    }
    let count = cpu.vector_registers();
    let load = requested & present;
    if load & xcr0::AVX != 0 {
        let at = lin.wrapping_add(AVX as u64);
        cpu.read_operand(at, op.seg, &mut image[AVX..AVX + 16 * count])?;
    }
    let host = &mut *cpu.host;
    host.init(requested & !present, count);
    if load & xcr0::X87 != 0 {
        host.read_x87(&legacy, op.aux == WIDE);
    }
    if load & xcr0::SSE != 0 {
        host.read_sse(&legacy, count);
    }
    if load & xcr0::AVX != 0 {
        host.read_avx(&image[AVX..AVX + 16 * count]);
    }
    if loads_mxcsr {
        host.mxcsr = mxcsr;
    } else if compact && requested & xcr0::SSE != 0 {
        host.mxcsr = MXCSR_INIT;
    }
    Ok(())
}

fn load_mxcsr<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    if VEX { cpu.avx() } else { cpu.sse() }?;
    let value = cpu.load_op::<u32>(op)?;
    if value & !MXCSR_MASK != 0 {
        return Err(cpu.raise(Exception::gp(0)));
    }
    cpu.host.mxcsr = value;
    Ok(())
}

fn store_mxcsr<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    if VEX { cpu.avx() } else { cpu.sse() }?;
    let value = cpu.host.mxcsr;
    cpu.store_op(op, value)?.done()
}
