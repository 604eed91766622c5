//! BT BTS BTR BTC BSF BSR.

use iced_x86::Mnemonic;

use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::flags::Flags;
use crate::mmu::Int;
use crate::op::{Done, Op, Threaded, op_flag, threaded};

/// What happens to the tested bit.
trait Change {
    const WRITES: bool = true;
    fn apply(value: u64, bit: u64) -> u64;
}

struct Keep;
impl Change for Keep {
    const WRITES: bool = false;
    fn apply(value: u64, _: u64) -> u64 {
        value
    }
}
struct Set;
impl Change for Set {
    fn apply(value: u64, bit: u64) -> u64 {
        value | bit
    }
}
struct Reset;
impl Change for Reset {
    fn apply(value: u64, bit: u64) -> u64 {
        value & !bit
    }
}
struct Flip;
impl Change for Flip {
    fn apply(value: u64, bit: u64) -> u64 {
        value ^ bit
    }
}

/// Only CF changes; the rest is undefined and stays, as on hosts.
#[inline(always)]
fn test(cpu: &mut Cpu, value: u64, index: u32) {
    let of = cpu.flags.of();
    cpu.flags = cpu.flags.with_cf_of(value >> index & 1 != 0, of);
}

#[inline(always)]
fn register<T: Int, C: Change>(cpu: &mut Cpu, op: &Op, index: u64) -> Done {
    let value = cpu.dst::<T>(op);
    let index = index as u32 & (T::BITS - 1);
    test(cpu, value.zx(), index);
    if C::WRITES {
        cpu.set_dst(op, T::of(C::apply(value.zx(), 1 << index)));
    }
    Ok(())
}

fn rr<T: Int, C: Change>(cpu: &mut Cpu, op: &Op) -> Done {
    let index = cpu.src::<T>(op).zx();
    register::<T, C>(cpu, op, index)
}

fn ri<T: Int, C: Change>(cpu: &mut Cpu, op: &Op) -> Done {
    register::<T, C>(cpu, op, op.imm)
}

/// The bit at `index` of the operand-sized word at a linear address.
#[inline(always)]
fn memory<T: Int, C: Change>(cpu: &mut Cpu, op: &Op, lin: u64, index: u64) -> Done {
    let index = index as u32 & (T::BITS - 1);
    if !C::WRITES {
        let value = cpu.load::<T>(lin, op.seg)?;
        test(cpu, value.zx(), index);
        return Ok(());
    }
    let change = |_: &mut Cpu, old: T| (T::of(C::apply(old.zx(), 1 << index)), old);
    let (stored, old) = if op.has(op_flag::LOCK) {
        cpu.modify_locked(lin, op.seg, change)?
    } else {
        cpu.modify(lin, op.seg, change)?
    };
    test(cpu, old.zx(), index);
    stored.done()
}

fn mi<T: Int, C: Change>(cpu: &mut Cpu, op: &Op) -> Done {
    let lin = cpu.linear(op, T::SIZE, C::WRITES)?;
    memory::<T, C>(cpu, op, lin, op.imm)
}

/// A register index is signed and reaches beyond the operand: a bit string.
fn mr<T: Int, C: Change>(cpu: &mut Cpu, op: &Op) -> Done {
    let index = cpu.src::<T>(op).sx();
    let words = (index as i64) >> T::BITS.trailing_zeros();
    let offset = cpu.effective(op).wrapping_add((words as u64).wrapping_mul(T::SIZE as u64));
    let offset = offset << op.addr_shift >> op.addr_shift;
    let lin = cpu.segmented(op.seg, offset, T::SIZE, C::WRITES)?;
    memory::<T, C>(cpu, op, lin, index)
}

/// BSF and BSR: a source of zero sets ZF and leaves the destination as it was. The other flags are undefined; hosts
/// keep some of them, here they follow the source.
#[inline(always)]
fn scan<T: Int>(cpu: &mut Cpu, op: &Op, source: T, find: impl Fn(u64) -> u32) -> Done {
    let bits = cpu.flags.bits();
    cpu.flags = Flags::from_bits(bits).with_zf(source.zx() == 0);
    if source.zx() != 0 {
        cpu.set_dst(op, T::of(u64::from(find(source.zx()))));
    }
    Ok(())
}

fn forward(value: u64) -> u32 {
    value.trailing_zeros()
}

fn reverse(value: u64) -> u32 {
    63 - value.leading_zeros()
}

fn bsf_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let source = cpu.src::<T>(op);
    scan(cpu, op, source, forward)
}
fn bsf_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let source = cpu.load_op::<T>(op)?;
    scan(cpu, op, source, forward)
}
fn bsr_r<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let source = cpu.src::<T>(op);
    scan(cpu, op, source, reverse)
}
fn bsr_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let source = cpu.load_op::<T>(op)?;
    scan(cpu, op, source, reverse)
}

/// Picks the instance of a handler for 2, 4 or 8 bytes.
macro_rules! word_sized {
    ($size:expr, $handler:ident $(, $extra:ty)*) => {
        match $size {
            2 => threaded($handler::<u16 $(, $extra)*>) as Threaded,
            4 => threaded($handler::<u32 $(, $extra)*>),
            _ => threaded($handler::<u64 $(, $extra)*>),
        }
    };
}

pub(crate) fn lower(l: &mut Lowering) -> bool {
    match l.insn.mnemonic() {
        Mnemonic::Bt => bit::<Keep>(l),
        Mnemonic::Bts => bit::<Set>(l),
        Mnemonic::Btr => bit::<Reset>(l),
        Mnemonic::Btc => bit::<Flip>(l),
        mnemonic => {
            let size = l.size(0);
            l.dst(0);
            let memory = l.is_mem(1);
            if !memory {
                l.src(1);
            }
            let run = match (mnemonic == Mnemonic::Bsf, memory) {
                (true, false) => word_sized!(size, bsf_r),
                (true, true) => word_sized!(size, bsf_m),
                (false, false) => word_sized!(size, bsr_r),
                (false, true) => word_sized!(size, bsr_m),
            };
            l.thread(run)
        }
    }
}

fn bit<C: Change>(l: &mut Lowering) -> bool {
    let size = l.size(0);
    let memory = l.is_mem(0);
    if !memory {
        l.dst(0);
    }
    let by_register = l.is_reg(1);
    if by_register {
        l.src(1);
    } else {
        l.imm(1);
    }
    let run = match (memory, by_register) {
        (false, true) => word_sized!(size, rr, C),
        (false, false) => word_sized!(size, ri, C),
        (true, true) => word_sized!(size, mr, C),
        (true, false) => word_sized!(size, mi, C),
    };
    l.thread(run)
}
