//! SHL SHR SAR ROL ROR RCL RCR SHLD SHRD.

use cpu::x86::gpr;
use iced_x86::Mnemonic;

use super::arith::change;
use super::{sized, sized_done};
use crate::code::{At, next};
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::decode::liveness::FlagUse;
use crate::flags::Flags;
use crate::mmu::Int;
use crate::op::{Done, Op, Stop, op_flag};

/// A shift or rotate by a count already masked to 5 or 6 bits. A count of zero changes no flag.
trait Shift {
    /// All flags are written (if the count is not zero): shifts.
    const WRITES: bool = false;
    /// The result depends on no flag: all but RCL and RCR.
    const READS_NONE: bool = true;
    fn apply<T: Int>(a: T, count: u32, flags: Flags) -> (T, Flags);
}

/// Flags of a shift: SF, ZF, PF from the result; AF is undefined (hosts clear it).
#[inline(always)]
fn shifted<T: Int>(res: T, cf: bool, of: bool) -> (T, Flags) {
    (res, Flags::logic(res.sx()).with_cf_of(cf, of))
}

#[inline(always)]
fn sign<T: Int>(value: T) -> bool {
    value.zx() >> (T::BITS - 1) & 1 != 0
}

struct Shl;
impl Shift for Shl {
    const WRITES: bool = true;
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, flags: Flags) -> (T, Flags) {
        if count == 0 {
            return (a, flags);
        }
        // The bit shifted out last; beyond the width (8 and 16 bits) it is 0.
        let wide = u128::from(a.zx()) << count;
        let res = T::of(wide as u64);
        let cf = wide >> T::BITS & 1 != 0;
        shifted(res, cf, sign(res) != cf)
    }
}

struct Shr;
impl Shift for Shr {
    const WRITES: bool = true;
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, flags: Flags) -> (T, Flags) {
        if count == 0 {
            return (a, flags);
        }
        let res = T::of(a.zx() >> count);
        let cf = a.zx() >> (count - 1) & 1 != 0;
        // OF is defined for a count of 1 only.
        shifted(res, cf, sign(a))
    }
}

struct Sar;
impl Shift for Sar {
    const WRITES: bool = true;
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, flags: Flags) -> (T, Flags) {
        if count == 0 {
            return (a, flags);
        }
        let wide = a.sx() as i64;
        let res = T::of((wide >> count) as u64);
        let cf = wide >> (count - 1) & 1 != 0;
        shifted(res, cf, false)
    }
}

struct Rol;
impl Shift for Rol {
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, flags: Flags) -> (T, Flags) {
        if count == 0 {
            return (a, flags);
        }
        let n = count % T::BITS;
        let res = if n == 0 { a } else { T::of(a.zx() << n | a.zx() >> (T::BITS - n)) };
        let cf = res.zx() & 1 != 0;
        (res, flags.with_cf_of(cf, sign(res) != cf))
    }
}

struct Ror;
impl Shift for Ror {
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, flags: Flags) -> (T, Flags) {
        if count == 0 {
            return (a, flags);
        }
        let n = count % T::BITS;
        let res = if n == 0 { a } else { T::of(a.zx() >> n | a.zx() << (T::BITS - n)) };
        let cf = sign(res);
        (res, flags.with_cf_of(cf, cf != (res.zx() >> (T::BITS - 2) & 1 != 0)))
    }
}

struct Rcl;
impl Shift for Rcl {
    const READS_NONE: bool = false;
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, flags: Flags) -> (T, Flags) {
        let n = count % (T::BITS + 1);
        if n == 0 {
            return (a, flags);
        }
        // BITS + 1 bits rotate: the carry is above the operand.
        let wide = u128::from(a.zx()) | u128::from(flags.cf()) << T::BITS;
        let turned = wide << n | wide >> (T::BITS + 1 - n);
        let res = T::of(turned as u64);
        let cf = turned >> T::BITS & 1 != 0;
        (res, flags.with_cf_of(cf, sign(res) != cf))
    }
}

struct Rcr;
impl Shift for Rcr {
    const READS_NONE: bool = false;
    #[inline(always)]
    fn apply<T: Int>(a: T, count: u32, flags: Flags) -> (T, Flags) {
        let n = count % (T::BITS + 1);
        if n == 0 {
            return (a, flags);
        }
        let wide = u128::from(a.zx()) | u128::from(flags.cf()) << T::BITS;
        let turned = wide >> n | wide << (T::BITS + 1 - n);
        let res = T::of(turned as u64);
        let cf = turned >> T::BITS & 1 != 0;
        (res, flags.with_cf_of(cf, sign(res) != (res.zx() >> (T::BITS - 2) & 1 != 0)))
    }
}

#[inline(always)]
fn mask<T: Int>(count: u64) -> u32 {
    count as u32 & if T::SIZE == 8 { 63 } else { 31 }
}

fn r_imm<T: Int, S: Shift>(cpu: &mut Cpu, op: At) -> Stop {
    let (res, flags) = S::apply(cpu.dst::<T>(&op), u32::from(op.aux), cpu.flags);
    cpu.flags = flags;
    cpu.set_dst(&op, res);
    next(cpu, op)
}

fn quiet_r_imm<T: Int, S: Shift>(cpu: &mut Cpu, op: At) -> Stop {
    let res = S::apply(cpu.dst::<T>(&op), u32::from(op.aux), cpu.flags).0;
    cpu.set_dst(&op, res);
    next(cpu, op)
}

fn r_cl<T: Int, S: Shift>(cpu: &mut Cpu, op: At) -> Stop {
    let (res, flags) = S::apply(cpu.dst::<T>(&op), mask::<T>(cpu.regs[gpr::RCX]), cpu.flags);
    cpu.flags = flags;
    cpu.set_dst(&op, res);
    next(cpu, op)
}

fn m_imm<T: Int, S: Shift>(cpu: &mut Cpu, op: &Op) -> Done {
    let count = u32::from(op.aux);
    change::<T>(cpu, op, |cpu, a| S::apply(a, count, cpu.flags))
}

fn m_cl<T: Int, S: Shift>(cpu: &mut Cpu, op: &Op) -> Done {
    let count = mask::<T>(cpu.regs[gpr::RCX]);
    change::<T>(cpu, op, |cpu, a| S::apply(a, count, cpu.flags))
}

/// SHLD (`LEFT`) and SHRD. Counts beyond 16 with 16-bit operands are undefined; hosts shift dest:src:dest.
#[inline(always)]
fn double<T: Int, const LEFT: bool>(a: T, b: T, count: u32, flags: Flags) -> (T, Flags) {
    if count == 0 {
        return (a, flags);
    }
    let bits = T::BITS;
    let (wide, low) = if T::SIZE == 2 {
        // Three words, so that counts up to 31 stay inside.
        let (x, y) = (u128::from(a.zx()), u128::from(b.zx()));
        if LEFT { (x << 32 | y << 16 | x, 32) } else { (x << 32 | y << 16 | x, 0) }
    } else {
        let (x, y) = (u128::from(a.zx()), u128::from(b.zx()));
        if LEFT { (x << bits | y, bits) } else { (y << bits | x, 0) }
    };
    let (res, cf) = if LEFT {
        let turned = wide << count;
        (T::of((turned >> low) as u64), wide >> (low + bits - count.min(low + bits)) & 1 != 0)
    } else {
        (T::of((wide >> count) as u64), wide >> (count - 1) & 1 != 0)
    };
    shifted(res, cf, sign(res) != sign(a))
}

fn double_r<T: Int, const LEFT: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let count = double_count::<T>(cpu, op);
    let (res, flags) = double::<T, LEFT>(cpu.dst(op), cpu.src(op), count, cpu.flags);
    cpu.flags = flags;
    cpu.set_dst(op, res);
    Ok(())
}

fn double_m<T: Int, const LEFT: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let count = double_count::<T>(cpu, op);
    let b = cpu.src::<T>(op);
    change::<T>(cpu, op, |cpu, a| double::<T, LEFT>(a, b, count, cpu.flags))
}

/// `imm` is the count, or has bit 8 set for CL.
#[inline(always)]
fn double_count<T: Int>(cpu: &Cpu, op: &Op) -> u32 {
    mask::<T>(if op.imm & 0x100 != 0 { cpu.regs[gpr::RCX] } else { op.imm })
}

pub(crate) fn lower(l: &mut Lowering) -> bool {
    match l.insn.mnemonic() {
        Mnemonic::Shl | Mnemonic::Sal => shift::<Shl>(l),
        Mnemonic::Shr => shift::<Shr>(l),
        Mnemonic::Sar => shift::<Sar>(l),
        Mnemonic::Rol => shift::<Rol>(l),
        Mnemonic::Ror => shift::<Ror>(l),
        Mnemonic::Rcl => shift::<Rcl>(l),
        Mnemonic::Rcr => shift::<Rcr>(l),
        Mnemonic::Shld => double_shift::<true>(l),
        Mnemonic::Shrd => double_shift::<false>(l),
        _ => false,
    }
}

fn shift<S: Shift>(l: &mut Lowering) -> bool {
    let size = l.size(0);
    let memory = l.is_mem(0);
    if !memory {
        l.dst(0);
    }
    if l.is_reg(1) {
        return if memory { l.thread(sized_done!(size, m_cl, S)) } else { l.thread(sized!(size, r_cl, S)) };
    }
    l.op.aux = l.insn.immediate(1) as u8 & if size == 8 { 63 } else { 31 };
    if memory {
        return l.thread(sized_done!(size, m_imm, S));
    }
    // A shift by a count other than zero writes all flags; rotates keep some.
    let writes = S::WRITES && l.op.aux != 0;
    let flags = if writes { FlagUse::WRITES } else { FlagUse { reads: true, ..FlagUse::NEUTRAL } };
    let quiet = S::READS_NONE.then_some(sized!(size, quiet_r_imm, S));
    l.thread_flags(sized!(size, r_imm, S), FlagUse { quiet, ..flags })
}

fn double_shift<const LEFT: bool>(l: &mut Lowering) -> bool {
    let size = l.size(0);
    l.src(1);
    l.op.imm = if l.is_reg(2) { 0x100 } else { l.insn.immediate(2) & 0xff };
    if l.is_mem(0) {
        return l.run(match size {
            2 => double_m::<u16, LEFT>,
            4 => double_m::<u32, LEFT>,
            _ => double_m::<u64, LEFT>,
        });
    }
    l.dst(0);
    l.op.flags &= !op_flag::LOCK;
    l.run(match size {
        2 => double_r::<u16, LEFT>,
        4 => double_r::<u32, LEFT>,
        _ => double_r::<u64, LEFT>,
    })
}
