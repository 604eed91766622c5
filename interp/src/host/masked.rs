//! Instructions whose mask says which elements of memory they touch: MASKMOVQ and MASKMOVDQU, VMASKMOV and
//! VPMASKMOV, gathers. Elements that are masked off cannot fault.

use iced_x86::{Mnemonic, OpKind};

use super::state::Ymm;
use crate::cpu::{CodeSize, Cpu};
use crate::decode::{Lowering, segment};
use crate::mmu::Stored;
use crate::op::{Done, Op, Stop};
use crate::system;

/// Lowers these instructions; false if it is none.
pub(super) fn lower(l: &mut Lowering) -> bool {
    use Mnemonic as M;
    match l.insn.mnemonic() {
        M::Maskmovq => bytes(l, byte_store_mmx),
        M::Maskmovdqu => bytes(l, byte_store::<false>),
        M::Vmaskmovdqu => bytes(l, byte_store::<true>),
        M::Vmaskmovps | M::Vpmaskmovd => elements(l, 4),
        M::Vmaskmovpd | M::Vpmaskmovq => elements(l, 8),
        M::Vpgatherdd | M::Vgatherdps => gather(l, 4, 4),
        M::Vpgatherdq | M::Vgatherdpd => gather(l, 4, 8),
        M::Vpgatherqd | M::Vgatherqps => gather(l, 8, 4),
        M::Vpgatherqq | M::Vgatherqpd => gather(l, 8, 8),
        _ => false,
    }
}

/// The bytes of a register.
fn bytes_of(register: Ymm) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&register.lo.to_le_bytes());
    bytes[16..].copy_from_slice(&register.hi.to_le_bytes());
    bytes
}

fn register_of(bytes: [u8; 32]) -> Ymm {
    let (mut lo, mut hi) = ([0; 16], [0; 16]);
    lo.copy_from_slice(&bytes[..16]);
    hi.copy_from_slice(&bytes[16..]);
    Ymm { lo: u128::from_le_bytes(lo), hi: u128::from_le_bytes(hi) }
}

/// MASKMOV of bytes to [rDI]: `dst` has the data, `src` the mask.
fn bytes(l: &mut Lowering, run: crate::op::Handler) -> bool {
    l.op.base = cpu::x86::gpr::RDI as u8;
    l.op.seg = segment(l.insn);
    l.op.addr_shift = match l.insn.op_kind(0) {
        OpKind::MemorySegRDI => 0,
        OpKind::MemorySegEDI => 32,
        _ => 48,
    };
    l.op.dst = l.insn.op_register(1).number() as u8;
    l.op.src = l.insn.op_register(2).number() as u8;
    l.run(run)
}

fn byte_store<const VEX: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    if VEX { cpu.avx() } else { cpu.sse() }?;
    let (data, mask) = (bytes_of(*cpu.host.reg(op.dst)), bytes_of(*cpu.host.reg(op.src)));
    probe_whole(cpu, op, 16)?;
    store_selected(cpu, op, &data[..16], &mask[..16], 1)?.done()
}

/// Whether bytes that are masked off can fault is left to the CPU (Intel SDM volume 2, MASKMOVDQU): they can here.
fn probe_whole(cpu: &mut Cpu, op: &Op, size: usize) -> Result<(), Stop> {
    let lin = cpu.vector_target(op, size, 0)?;
    cpu.probe_target(lin, op.seg, size)
}

fn byte_store_mmx(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.mmx()?;
    let image = cpu.host.x87();
    let register = |n: u8| image.st[usize::from(n).wrapping_sub(image.top()) & 7];
    let (data, mask) = (register(op.dst), register(op.src));
    cpu.host.x87_mut().enter_mmx(); // even if a fault follows
    probe_whole(cpu, op, 8)?;
    store_selected(cpu, op, &data[..8], &mask[..8], 1)?.done()
}

/// Linear address of `size` bytes at an offset into the memory operand.
fn element(cpu: &mut Cpu, op: &Op, offset: usize, size: usize, write: bool) -> Result<u64, Stop> {
    let shift = op.addr_shift & 63;
    let address = cpu.effective(op).wrapping_add(offset as u64) << shift >> shift;
    cpu.segmented(op.seg, address, size, write)
}

/// Stores the elements whose mask has its top bit set, after making sure that none of them faults.
fn store_selected(cpu: &mut Cpu, op: &Op, data: &[u8], mask: &[u8], size: usize) -> Result<Stored, Stop> {
    let selected = |at: usize| mask[at + size - 1] & 0x80 != 0;
    for at in (0..data.len()).step_by(size).filter(|&at| selected(at)) {
        let lin = element(cpu, op, at, size, true)?;
        cpu.probe_target(lin, op.seg, size)?;
    }
    let mut stored = Stored::CLEAN;
    for at in (0..data.len()).step_by(size).filter(|&at| selected(at)) {
        let lin = element(cpu, op, at, size, true)?;
        stored = stored.and(cpu.write_operand(lin, op.seg, &data[at..at + size])?);
    }
    Ok(stored)
}

/// VMASKMOV and VPMASKMOV: `src` has the mask, `dst` the destination or the data, `aux` the bytes in all, `imm`
/// those of an element.
fn elements(l: &mut Lowering, size: u64) -> bool {
    let load = l.is_reg(0);
    let register = l.insn.op_register(if load { 0 } else { 2 });
    l.op.dst = register.number() as u8;
    l.op.src = l.insn.op_register(1).number() as u8;
    l.op.aux = register.size() as u8;
    l.op.imm = size;
    l.run(if load { masked_load } else { masked_store })
}

fn masked_load(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.avx()?;
    let (size, len) = (op.imm as usize & 8 | op.imm as usize & 4, usize::from(op.aux & 0x30));
    let mask = bytes_of(*cpu.host.reg(op.src));
    let mut result = [0; 32];
    for at in (0..len).step_by(size.max(1)) {
        if mask[at + size - 1] & 0x80 != 0 {
            let lin = element(cpu, op, at, size, false)?;
            cpu.read_operand(lin, op.seg, &mut result[at..at + size])?;
        }
    }
    *cpu.host.reg(op.dst) = register_of(result);
    Ok(())
}

fn masked_store(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.avx()?;
    let len = usize::from(op.aux & 0x30);
    let (data, mask) = (bytes_of(*cpu.host.reg(op.dst)), bytes_of(*cpu.host.reg(op.src)));
    store_selected(cpu, op, &data[..len], &mask[..len], op.imm as usize)?.done()
}

/// `dst` has the destination, `aux` the mask, `src` the indices, `imm` the sizes of an index and of an element and
/// the number of elements.
fn gather(l: &mut Lowering, index_size: usize, size: usize) -> bool {
    let (dst, index, mask) = (l.insn.op_register(0), l.insn.memory_index(), l.insn.op_register(2));
    let numbers = [dst.number(), index.number(), mask.number()];
    if numbers[0] == numbers[1] || numbers[1] == numbers[2] || numbers[0] == numbers[2] {
        return l.end_with(system::undefined);
    }
    let count = (dst.size() / size).min(index.size() / index_size);
    (l.op.dst, l.op.src, l.op.aux) = (numbers[0] as u8, numbers[1] as u8, numbers[2] as u8);
    l.op.imm = (index_size | size << 8 | count << 16) as u64;
    l.run(run_gather)
}

/// Elements are loaded lowest first; one that faults leaves those before it loaded and their masks cleared, so that
/// the instruction goes on from there when it is restarted. The masks that are left are all ones or zeros by then (Intel
/// SDM volume 2, VGATHERDPS, operation).
fn run_gather(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.avx()?;
    let (index_size, size) = (op.imm as usize & 0xff, op.imm as usize >> 8 & 0xff);
    let count = op.imm as usize >> 16 & 0xff;
    let indices = bytes_of(*cpu.host.reg(op.src));
    let mut mask = bytes_of(*cpu.host.reg(op.aux));
    let mut result = bytes_of(*cpu.host.reg(op.dst));
    for element in mask[..count * size].chunks_exact_mut(size) {
        let selected = element[size - 1] & 0x80 != 0;
        element.fill(if selected { 0xff } else { 0 });
    }
    mask[count * size..].fill(0);
    // Each mask is cleared when its element is done.
    let mut outcome = Ok(());
    for n in 0..count {
        let at = n * size;
        if mask[at] != 0 {
            let lin = gather_address(cpu, op, &indices[n * index_size..][..index_size], size);
            let loaded = lin.and_then(|lin| cpu.read_operand(lin, op.seg, &mut result[at..at + size]));
            if loaded.is_err() {
                outcome = loaded;
                break;
            }
        }
        mask[at..at + size].fill(0);
    }
    if outcome.is_ok() {
        result[count * size..].fill(0);
    }
    *cpu.host.reg(op.aux) = register_of(mask);
    *cpu.host.reg(op.dst) = register_of(result);
    outcome
}

fn gather_address(cpu: &mut Cpu, op: &Op, index: &[u8], size: usize) -> Result<u64, Stop> {
    let index = match *index {
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])) as u64,
        [a, b, c, d, e, f, g, h] => u64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => 0,
    };
    let shift = op.addr_shift & 63;
    let base = cpu.reg(op.base).wrapping_add(op.disp as i64 as u64);
    let address = base.wrapping_add(index << (op.scale & 3)) << shift >> shift;
    debug_assert!(cpu.code_size == CodeSize::Bits64 || shift != 0);
    cpu.segmented(op.seg, address, size, false)
}
