//! BMI, LZCNT, TZCNT and POPCNT. The rest (PDEP, PEXT, CRC32, ADCX ...) runs in stubs.

use iced_x86::{Mnemonic, OpKind};

use super::form::Gate;
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::flags::Flags;
use crate::mmu::Int;
use crate::op::{Done, Op, Stop, threaded};

/// A result and the flags it gives; `None` leaves the flags.
type Outcome<T> = (T, Option<Flags>);

/// Two sources to a result: operand `r/m`, then the other.
trait Compute {
    const GATE: Gate;
    fn compute<T: Int>(cpu: &Cpu, rm: T, other: T) -> Outcome<T>;
}

/// A logical result with CF.
fn logic<T: Int>(result: T, carry: bool) -> Option<Flags> {
    Some(Flags::logic(result.sx()).with_cf(carry))
}

fn narrow<T: Int>(result: u64) -> T {
    T::of(result)
}

macro_rules! compute {
    ($name:ident, $gate:ident, |$cpu:ident, $rm:ident, $other:ident| $body:expr) => {
        struct $name;
        impl Compute for $name {
            const GATE: Gate = Gate::$gate;
            #[inline(always)]
            fn compute<T: Int>($cpu: &Cpu, $rm: T, $other: T) -> Outcome<T> {
                $body
            }
        }
    };
}

compute!(Andn, VexGpr, |_cpu, rm, other| {
    let result = narrow(!other.zx() & rm.zx());
    (result, logic::<T>(result, false))
});
compute!(Blsr, VexGpr, |_cpu, rm, _other| {
    let result = narrow(rm.zx().wrapping_sub(1) & rm.zx());
    (result, logic::<T>(result, rm.zx() == 0))
});
compute!(Blsmsk, VexGpr, |_cpu, rm, _other| {
    let result = narrow(rm.zx().wrapping_sub(1) ^ rm.zx());
    (result, logic::<T>(result, rm.zx() == 0))
});
compute!(Blsi, VexGpr, |_cpu, rm, _other| {
    let result = narrow(rm.zx().wrapping_neg() & rm.zx());
    (result, logic::<T>(result, rm.zx() != 0))
});
compute!(Bzhi, VexGpr, |_cpu, rm, other| {
    let count = other.zx() & 0xff;
    let bits = u64::from(T::BITS);
    let result = narrow(if count < bits { rm.zx() & ((1 << count) - 1) } else { rm.zx() });
    (result, logic::<T>(result, count >= bits))
});
compute!(Bextr, VexGpr, |_cpu, rm, other| {
    let (start, len) = (other.zx() & 0xff, other.zx() >> 8 & 0xff);
    let shifted = if start < 64 { rm.zx() >> start } else { 0 };
    let result = narrow(if len < 64 { shifted & ((1 << len) - 1) } else { shifted });
    (result, logic::<T>(result, false))
});
compute!(Shlx, VexGpr, |_cpu, rm, other| {
    (narrow(rm.zx() << (other.zx() & u64::from(T::BITS - 1))), None)
});
compute!(Shrx, VexGpr, |_cpu, rm, other| {
    (narrow(rm.zx() >> (other.zx() & u64::from(T::BITS - 1))), None)
});
compute!(Sarx, VexGpr, |_cpu, rm, other| {
    (narrow((rm.sx() as i64 >> (other.zx() & u64::from(T::BITS - 1))) as u64), None)
});
compute!(Popcnt, Open, |_cpu, rm, _other| {
    let zero = rm.zx() == 0;
    let flags = Flags::from_bits(if zero { cpu::x86::rflags::ZF } else { 0 });
    (narrow(u64::from(rm.zx().count_ones())), Some(flags))
});
compute!(Lzcnt, Open, |_cpu, rm, _other| {
    let result = narrow(u64::from(rm.zx().leading_zeros() - (64 - T::BITS)));
    (result, logic::<T>(result, rm.zx() == 0))
});
compute!(Tzcnt, Open, |_cpu, rm, _other| {
    let result = narrow(u64::from(rm.zx().trailing_zeros().min(T::BITS)));
    (result, logic::<T>(result, rm.zx() == 0))
});

/// Destination `dst`; `r/m` in `src` or memory; the other source in `aux`.
fn run<T: Int, C: Compute, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.gate(C::GATE)?;
    let rm = if MEMORY { cpu.load_op::<T>(op)? } else { cpu.src::<T>(op) };
    let other = T::of(cpu.reg(op.aux));
    let (result, flags) = C::compute(cpu, rm, other);
    cpu.set_dst(op, result);
    if let Some(flags) = flags {
        cpu.flags = flags;
    }
    Ok(())
}

fn rorx<T: Int, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.vex()?;
    let rm = if MEMORY { cpu.load_op::<T>(op)? } else { cpu.src::<T>(op) }.zx();
    let count = op.imm as u32 & (T::BITS - 1);
    let rotated = if T::BITS == 64 { rm.rotate_right(count) } else { (rm as u32).rotate_right(count).into() };
    cpu.set_dst(op, T::of(rotated));
    Ok(())
}

/// EDX or RDX times `r/m`: high half to `dst`, low half to `aux`; `dst` wins if they are one.
fn mulx<T: Int, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    cpu.vex()?;
    let rm = if MEMORY { cpu.load_op::<T>(op)? } else { cpu.src::<T>(op) };
    let product = u128::from(rm.zx()) * u128::from(cpu.gpr::<T>(cpu::x86::gpr::RDX).zx());
    cpu.set_gpr(usize::from(op.aux), T::of(product as u64));
    cpu.set_dst(op, T::of((product >> T::BITS) as u64));
    Ok(())
}

/// Picks the instance of a handler.
macro_rules! pick {
    ($l:expr, $rm:expr, $handler:ident $(, $compute:ty)?) => {{
        let memory = $l.is_mem($rm);
        match ($l.size(0), memory) {
            (2, false) => threaded($handler::<u16, $($compute,)? false>),
            (2, true) => threaded($handler::<u16, $($compute,)? true>),
            (4, false) => threaded($handler::<u32, $($compute,)? false>),
            (4, true) => threaded($handler::<u32, $($compute,)? true>),
            (_, false) => threaded($handler::<u64, $($compute,)? false>),
            (_, true) => threaded($handler::<u64, $($compute,)? true>),
        }
    }};
}

/// Lowers one of these; false if the instruction is none.
pub(super) fn lower(l: &mut Lowering) -> bool {
    use Mnemonic as M;
    // Which operand is r/m, and which is the other source.
    let (rm, other) = match l.insn.mnemonic() {
        M::Andn => (2, Some(1)),
        M::Mulx => (2, Some(1)),
        M::Blsr | M::Blsmsk | M::Blsi | M::Popcnt | M::Lzcnt | M::Tzcnt => (1, None),
        M::Bzhi | M::Bextr | M::Shlx | M::Shrx | M::Sarx => (1, Some(2)),
        M::Rorx => (1, None),
        _ => return false,
    };
    operands(l, rm, other);
    let run = match l.insn.mnemonic() {
        M::Andn => pick!(l, rm, run, Andn),
        M::Blsr => pick!(l, rm, run, Blsr),
        M::Blsmsk => pick!(l, rm, run, Blsmsk),
        M::Blsi => pick!(l, rm, run, Blsi),
        M::Bzhi => pick!(l, rm, run, Bzhi),
        M::Bextr => pick!(l, rm, run, Bextr),
        M::Shlx => pick!(l, rm, run, Shlx),
        M::Shrx => pick!(l, rm, run, Shrx),
        M::Sarx => pick!(l, rm, run, Sarx),
        M::Popcnt => pick!(l, rm, run, Popcnt),
        M::Lzcnt => pick!(l, rm, run, Lzcnt),
        M::Tzcnt => pick!(l, rm, run, Tzcnt),
        M::Mulx => pick!(l, rm, mulx),
        _ => {
            l.imm(2);
            pick!(l, rm, rorx)
        }
    };
    l.thread(run)
}

fn operands(l: &mut Lowering, rm: u32, other: Option<u32>) {
    l.dst(0);
    if l.insn.op_kind(rm) == OpKind::Register {
        l.src(rm);
    }
    if let Some(other) = other {
        l.op.aux = crate::decode::register(l.insn.op_register(other)).0;
    }
}

/// CPUs without BMI1 and LZCNT ignore the prefix of TZCNT and LZCNT: they are BSF and BSR.
pub(super) fn without_extension(l: &mut Lowering) -> bool {
    let run = match l.insn.mnemonic() {
        Mnemonic::Tzcnt => pick!(l, 1, scan, Forward),
        Mnemonic::Lzcnt => pick!(l, 1, scan, Reverse),
        _ => return false,
    };
    operands(l, 1, None);
    l.thread(run)
}

trait Direction {
    fn find(value: u64) -> u32;
}
struct Forward;
struct Reverse;
impl Direction for Forward {
    fn find(value: u64) -> u32 {
        value.trailing_zeros()
    }
}
impl Direction for Reverse {
    fn find(value: u64) -> u32 {
        63 - value.leading_zeros()
    }
}

fn scan<T: Int, D: Direction, const MEMORY: bool>(cpu: &mut Cpu, op: &Op) -> Result<(), Stop> {
    let rm = if MEMORY { cpu.load_op::<T>(op)? } else { cpu.src::<T>(op) }.zx();
    if rm != 0 {
        cpu.set_dst(op, T::of(u64::from(D::find(rm))));
    }
    cpu.flags = cpu.flags.with_zf(rm == 0);
    Ok(())
}
