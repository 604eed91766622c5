//! The plain moves between vector registers, general registers and memory, and zeroing idioms: common enough to
//! deserve handlers of their own.
// UNSAFETY: copies between guest memory and the register file.
#![allow(unsafe_code)]

use iced_x86::{Code, Mnemonic, Register};

use super::memory::copy16;
use crate::cpu::Cpu;
use crate::decode::{Lowering, register};
use crate::mmu::Int;
use crate::op::{Done, Op, Stop, threaded};

/// The three ways in which an instruction is encoded and how much it moves.
const LEGACY: u8 = 0;
const VEX128: u8 = 1;
const VEX256: u8 = 2;

/// Picks the instance of a handler for an encoding.
macro_rules! encoded {
    ($encoding:expr, $handler:ident $(, $extra:tt)*) => {
        match $encoding {
            LEGACY => threaded($handler::<LEGACY $(, $extra)*>),
            VEX128 => threaded($handler::<VEX128 $(, $extra)*>),
            _ => threaded($handler::<VEX256 $(, $extra)*>),
        }
    };
}

/// Lowers a plain move; false if the instruction is none.
pub(super) fn lower(l: &mut Lowering) -> bool {
    use Mnemonic as M;
    let vex = l.insn.code().encoding() == iced_x86::EncodingKind::VEX;
    let wide = (0..l.insn.op_count()).any(|n| l.is_reg(n) && l.insn.op_register(n).is_ymm());
    let encoding = match (vex, wide) {
        (false, _) => LEGACY,
        (true, false) => VEX128,
        (true, true) => VEX256,
    };
    match l.insn.mnemonic() {
        M::Movups | M::Movupd | M::Movdqu | M::Lddqu => full(l, encoding, false),
        M::Vmovups | M::Vmovupd | M::Vmovdqu | M::Vlddqu => full(l, encoding, false),
        M::Movaps | M::Movapd | M::Movdqa | M::Movntps | M::Movntpd | M::Movntdq | M::Movntdqa => {
            full(l, encoding, true)
        }
        M::Vmovaps | M::Vmovapd | M::Vmovdqa | M::Vmovntps | M::Vmovntpd | M::Vmovntdq | M::Vmovntdqa => {
            full(l, encoding, true)
        }
        M::Movss | M::Vmovss => scalar::<u32>(l, encoding),
        M::Movsd | M::Vmovsd => scalar::<u64>(l, encoding),
        M::Movd | M::Vmovd | M::Movq | M::Vmovq => word(l, encoding),
        M::Pxor | M::Xorps | M::Xorpd | M::Vpxor | M::Vxorps | M::Vxorpd => zero(l, encoding),
        M::Vzeroupper => l.run(zero_upper),
        M::Vzeroall => l.run(zero_all),
        _ => false,
    }
}

/// Registers of operands `dst` and `src` (a memory operand counts as none).
fn registers(l: &mut Lowering, dst: u32, src: u32) -> bool {
    let number = |l: &Lowering, n: u32| if l.is_reg(n) { Some(l.insn.op_register(n)) } else { None };
    let (dst, src) = (number(l, dst), number(l, src));
    let vector = |r: Option<Register>| r.is_none_or(|r| r.is_xmm() || r.is_ymm());
    l.op.dst = dst.map_or(0, |r| r.number() as u8);
    l.op.src = src.map_or(0, |r| r.number() as u8);
    vector(dst) && vector(src)
}

impl Cpu {
    #[inline(always)]
    fn encoding<const ENCODING: u8>(&mut self) -> Result<(), Stop> {
        if ENCODING == LEGACY { self.sse() } else { self.avx() }
    }
}

fn full(l: &mut Lowering, encoding: u8, aligned: bool) -> bool {
    if !registers(l, 0, 1) {
        return false;
    }
    let size = if encoding == VEX256 { 32 } else { 16 };
    l.op.aux = if aligned { size - 1 } else { 0 };
    let run = if l.is_mem(1) {
        encoded!(encoding, full_load)
    } else if l.is_mem(0) {
        encoded!(encoding, full_store)
    } else {
        encoded!(encoding, full_move)
    };
    l.thread(run)
}

fn full_load<const ENCODING: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.encoding::<ENCODING>()?;
    let size = if ENCODING == VEX256 { 32 } else { 16 };
    let from = cpu.vector_source(op, size, u64::from(op.aux))?;
    let to = cpu.host.reg(op.dst);
    // SAFETY: `vector_source` vouches for `size` bytes.
    unsafe {
        copy16(from, (&raw mut to.lo).cast());
        if ENCODING == VEX256 {
            copy16(from.add(16), (&raw mut to.hi).cast());
        }
    }
    if ENCODING == VEX128 {
        to.hi = 0;
    }
    Ok(())
}

fn full_store<const ENCODING: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.encoding::<ENCODING>()?;
    let size = if ENCODING == VEX256 { 32 } else { 16 };
    let lin = cpu.vector_target(op, size, u64::from(op.aux))?;
    let from: *const u8 = (&raw const *cpu.host.reg(op.src)).cast();
    // SAFETY: a register has 32 bytes.
    unsafe { cpu.store_vector(lin, op.seg, from, size) }?.done()
}

fn full_move<const ENCODING: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.encoding::<ENCODING>()?;
    let from = *cpu.host.reg(op.src);
    let to = cpu.host.reg(op.dst);
    to.lo = from.lo;
    match ENCODING {
        VEX128 => to.hi = 0,
        VEX256 => to.hi = from.hi,
        _ => {}
    }
    Ok(())
}

/// MOVSS and MOVSD: loads clear the rest of the register, register forms merge.
fn scalar<T: Int>(l: &mut Lowering, encoding: u8) -> bool {
    let vex = encoding != LEGACY;
    if l.insn.op_count() == 3 {
        // dst = src2 merged into src1
        if !registers(l, 0, 1) {
            return false;
        }
        l.op.aux = l.insn.op_register(2).number() as u8;
        return l.thread(threaded(scalar_merge::<T>));
    }
    if !registers(l, 0, 1) {
        return false;
    }
    let run = match (l.is_mem(0), l.is_mem(1), vex) {
        (false, true, false) => threaded(element_load::<T, LEGACY>),
        (false, true, true) => threaded(element_load::<T, VEX128>),
        (true, false, false) => threaded(element_store::<T, LEGACY>),
        (true, false, true) => threaded(element_store::<T, VEX128>),
        _ => threaded(scalar_move::<T>),
    };
    l.thread(run)
}

fn element_load<T: Int, const ENCODING: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.encoding::<ENCODING>()?;
    let value = cpu.load_op::<T>(op)?;
    set_low::<T, ENCODING>(cpu, op.dst, value);
    Ok(())
}

fn element_store<T: Int, const ENCODING: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.encoding::<ENCODING>()?;
    let value = T::of(cpu.host.reg(op.src).lo as u64);
    cpu.store_op(op, value)?.done()
}

/// Zero-extends to 128 bits, or to the whole register for VEX.
#[inline(always)]
fn set_low<T: Int, const ENCODING: u8>(cpu: &mut Cpu, register: u8, value: T) {
    let to = cpu.host.reg(register);
    to.lo = u128::from(value.zx());
    if ENCODING != LEGACY {
        to.hi = 0;
    }
}

#[inline(always)]
fn merged<T: Int>(into: u128, low: u128) -> u128 {
    let mask = u128::MAX >> (128 - T::BITS);
    (into & !mask) | (low & mask)
}

fn scalar_move<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.sse()?;
    let low = cpu.host.reg(op.src).lo;
    let to = cpu.host.reg(op.dst);
    to.lo = merged::<T>(to.lo, low);
    Ok(())
}

fn scalar_merge<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.avx()?;
    let low = cpu.host.reg(op.aux).lo;
    let upper = cpu.host.reg(op.src).lo;
    let to = cpu.host.reg(op.dst);
    (to.lo, to.hi) = (merged::<T>(upper, low), 0);
    Ok(())
}

/// MOVD and MOVQ with XMM registers.
fn word(l: &mut Lowering, encoding: u8) -> bool {
    use Code as C;
    let quad = match l.insn.code() {
        C::Movd_xmm_rm32 | C::Movd_rm32_xmm | C::VEX_Vmovd_xmm_rm32 | C::VEX_Vmovd_rm32_xmm => false,
        C::Movq_xmm_rm64 | C::Movq_rm64_xmm | C::VEX_Vmovq_xmm_rm64 | C::VEX_Vmovq_rm64_xmm => true,
        C::Movq_xmm_xmmm64 | C::Movq_xmmm64_xmm => true,
        C::VEX_Vmovq_xmm_xmmm64 | C::VEX_Vmovq_xmmm64_xmm => true,
        _ => return false,
    };
    let slot = |l: &Lowering, n: u32| {
        let reg = l.insn.op_register(n);
        if reg.is_gpr() { register(reg).0 } else { reg.number() as u8 }
    };
    let gpr = |l: &Lowering, n: u32| l.is_reg(n) && l.insn.op_register(n).is_gpr();
    if l.is_reg(0) {
        l.op.dst = slot(l, 0);
    }
    if l.is_reg(1) {
        l.op.src = slot(l, 1);
    }
    let vex = encoding != LEGACY;
    macro_rules! pick {
        ($handler:ident) => {
            match (quad, vex) {
                (false, false) => threaded($handler::<u32, LEGACY>),
                (false, true) => threaded($handler::<u32, VEX128>),
                (true, false) => threaded($handler::<u64, LEGACY>),
                (true, true) => threaded($handler::<u64, VEX128>),
            }
        };
    }
    let run = if l.is_mem(1) {
        pick!(element_load)
    } else if l.is_mem(0) {
        pick!(element_store)
    } else if gpr(l, 0) {
        pick!(to_general)
    } else if gpr(l, 1) {
        pick!(from_general)
    } else {
        pick!(low_move)
    };
    l.thread(run)
}

fn from_general<T: Int, const ENCODING: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.encoding::<ENCODING>()?;
    set_low::<T, ENCODING>(cpu, op.dst, T::of(cpu.reg(op.src)));
    Ok(())
}

fn to_general<T: Int, const ENCODING: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.encoding::<ENCODING>()?;
    let value = T::of(cpu.host.reg(op.src).lo as u64);
    cpu.set_gpr(usize::from(op.dst), value);
    Ok(())
}

fn low_move<T: Int, const ENCODING: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.encoding::<ENCODING>()?;
    let value = T::of(cpu.host.reg(op.src).lo as u64);
    set_low::<T, ENCODING>(cpu, op.dst, value);
    Ok(())
}

/// PXOR and the like of a register with itself.
fn zero(l: &mut Lowering, encoding: u8) -> bool {
    let last = l.insn.op_count() - 1;
    if !l.is_reg(last) || l.insn.op_register(last) != l.insn.op_register(last - 1) || !registers(l, 0, last) {
        return false;
    }
    l.thread(encoded!(encoding, clear))
}

fn clear<const ENCODING: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.encoding::<ENCODING>()?;
    let to = cpu.host.reg(op.dst);
    to.lo = 0;
    if ENCODING != LEGACY {
        to.hi = 0;
    }
    Ok(())
}

/// Registers that VZEROUPPER and VZEROALL reach: eight outside 64-bit mode.
fn reachable(cpu: &mut Cpu) -> &mut [super::state::Ymm] {
    let count = if cpu.code_size == crate::cpu::CodeSize::Bits64 { 16 } else { 8 };
    &mut cpu.host.ymm[..count]
}

fn zero_upper(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.avx()?;
    reachable(cpu).iter_mut().for_each(|r| r.hi = 0);
    Ok(())
}

fn zero_all(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.avx()?;
    reachable(cpu).fill(Default::default());
    Ok(())
}
