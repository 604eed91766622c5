//! ADD OR ADC SBB AND SUB XOR CMP TEST INC DEC NEG NOT.

use iced_x86::Mnemonic;

use super::{sized, sized_done};
use crate::code::{At, next};
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::decode::liveness::FlagUse;
use crate::flags::Flags;
use crate::mmu::access::{with_load, with_modify};
use crate::mmu::{Int, Stored};
use crate::op::{Done, Op, Stop, Threaded, op_flag};

/// A two-operand operation: result and flags.
pub(crate) trait Alu {
    /// CMP and TEST have no result.
    const WRITES: bool = true;
    /// ADC and SBB read the carry.
    const READS: bool = false;
    fn apply<T: Int>(a: T, b: T, flags: Flags) -> (T, Flags);
}

#[inline(always)]
pub(super) fn add_with<T: Int>(a: T, b: T, carry: bool) -> (T, Flags) {
    let (x, y) = (a.zx(), b.zx());
    let sum = x.wrapping_add(y).wrapping_add(u64::from(carry));
    let res = T::of(sum);
    (res, Flags::arith(res.sx(), (x & y) | ((x | y) & !sum), T::BITS))
}

#[inline(always)]
pub(super) fn sub_with<T: Int>(a: T, b: T, borrow: bool) -> (T, Flags) {
    let (x, y) = (a.zx(), b.zx());
    let difference = x.wrapping_sub(y).wrapping_sub(u64::from(borrow));
    let res = T::of(difference);
    (res, Flags::arith(res.sx(), (!x & y) | ((!x | y) & difference), T::BITS))
}

macro_rules! alu {
    ($name:ident, $a:ident, $b:ident, $flags:ident => $body:expr $(, $constant:ident = $value:literal)?) => {
        pub(crate) struct $name;
        impl Alu for $name {
            $(const $constant: bool = $value;)?
            #[inline(always)]
            fn apply<T: Int>($a: T, $b: T, $flags: Flags) -> (T, Flags) {
                $body
            }
        }
    };
}

macro_rules! logic {
    ($name:ident, $op:tt $(, $constant:ident = $value:literal)?) => {
        alu!($name, a, b, _flags => {
            let res = T::of(a.zx() $op b.zx());
            (res, Flags::logic(res.sx()))
        } $(, $constant = $value)?);
    };
}

alu!(Add, a, b, _flags => add_with(a, b, false));
alu!(Adc, a, b, flags => add_with(a, b, flags.cf()), READS = true);
alu!(Sub, a, b, _flags => sub_with(a, b, false));
alu!(Sbb, a, b, flags => sub_with(a, b, flags.cf()), READS = true);
alu!(Cmp, a, b, _flags => sub_with(a, b, false), WRITES = false);
logic!(And, &);
logic!(Or, |);
logic!(Xor, ^);
logic!(Test, &, WRITES = false);

/// Keeps the flags and, if the operation has one, the result in the destination register.
#[inline(always)]
fn finish<T: Int, A: Alu>(cpu: &mut Cpu, op: &Op, b: T) {
    let (res, flags) = A::apply(cpu.dst::<T>(op), b, cpu.flags);
    cpu.flags = flags;
    if A::WRITES {
        cpu.set_dst(op, res);
    }
}

/// The quiet variants compute no flags.
fn quiet_rr<T: Int, A: Alu>(cpu: &mut Cpu, op: At) -> Stop {
    let res = A::apply(cpu.dst::<T>(&op), cpu.src::<T>(&op), cpu.flags).0;
    cpu.set_dst(&op, res);
    next(cpu, op)
}

fn quiet_ri<T: Int, A: Alu>(cpu: &mut Cpu, op: At) -> Stop {
    let res = A::apply(cpu.dst::<T>(&op), T::of(op.imm), cpu.flags).0;
    cpu.set_dst(&op, res);
    next(cpu, op)
}

fn quiet_rm<T: Int, A: Alu>(cpu: &mut Cpu, op: At) -> Stop {
    with_load(cpu, op, |cpu, op, b: T| {
        let res = A::apply(cpu.dst::<T>(&op), b, cpu.flags).0;
        cpu.set_dst(&op, res);
        next(cpu, op)
    })
}

fn rr<T: Int, A: Alu>(cpu: &mut Cpu, op: At) -> Stop {
    let b = cpu.src::<T>(&op);
    finish::<T, A>(cpu, &op, b);
    next(cpu, op)
}

fn ri<T: Int, A: Alu>(cpu: &mut Cpu, op: At) -> Stop {
    finish::<T, A>(cpu, &op, T::of(op.imm));
    next(cpu, op)
}

fn rm<T: Int, A: Alu>(cpu: &mut Cpu, op: At) -> Stop {
    with_load(cpu, op, |cpu, op, b: T| {
        finish::<T, A>(cpu, &op, b);
        next(cpu, op)
    })
}

/// CMP and TEST with memory first.
fn look_mr<T: Int, A: Alu>(cpu: &mut Cpu, op: At) -> Stop {
    with_load(cpu, op, |cpu, op, a: T| {
        cpu.flags = A::apply(a, cpu.src::<T>(&op), cpu.flags).1;
        next(cpu, op)
    })
}

fn look_mi<T: Int, A: Alu>(cpu: &mut Cpu, op: At) -> Stop {
    with_load(cpu, op, |cpu, op, a: T| {
        cpu.flags = A::apply(a, T::of(op.imm), cpu.flags).1;
        next(cpu, op)
    })
}

fn mr<T: Int, A: Alu>(cpu: &mut Cpu, op: At) -> Stop {
    with_modify(cpu, op, |cpu, op, a: T| A::apply(a, cpu.src::<T>(op), cpu.flags))
}

fn mi<T: Int, A: Alu>(cpu: &mut Cpu, op: At) -> Stop {
    with_modify(cpu, op, |cpu, op, a: T| A::apply(a, T::of(op.imm), cpu.flags))
}

fn locked_mr<T: Int, A: Alu>(cpu: &mut Cpu, op: &Op) -> Done {
    let b = cpu.src::<T>(op);
    change::<T>(cpu, op, |cpu, a| A::apply(a, b, cpu.flags))
}

fn locked_mi<T: Int, A: Alu>(cpu: &mut Cpu, op: &Op) -> Done {
    change::<T>(cpu, op, |cpu, a| A::apply(a, T::of(op.imm), cpu.flags))
}

/// Read-modify-write of the memory operand, locked if the instruction is.
#[inline(always)]
pub(super) fn change<T: Int>(cpu: &mut Cpu, op: &Op, apply: impl Fn(&Cpu, T) -> (T, Flags)) -> Done {
    let lin = cpu.linear(op, T::SIZE, true)?;
    let (stored, flags): (Stored, Flags) = if op.has(op_flag::LOCK) {
        cpu.modify_locked(lin, op.seg, |cpu, a| apply(cpu, a))?
    } else {
        cpu.modify(lin, op.seg, |cpu, a| apply(cpu, a))?
    };
    cpu.flags = flags;
    stored.done()
}

/// A one-operand operation.
trait Unary {
    fn apply<T: Int>(a: T, flags: Flags) -> (T, Flags);
}

macro_rules! unary {
    ($name:ident, $a:ident, $flags:ident => $body:expr) => {
        struct $name;
        impl Unary for $name {
            #[inline(always)]
            fn apply<T: Int>($a: T, $flags: Flags) -> (T, Flags) {
                $body
            }
        }
    };
}

unary!(Inc, a, old => {
    let (res, flags) = add_with(a, T::of(1), false);
    (res, flags.with_cf(old.cf()))
});
unary!(Dec, a, old => {
    let (res, flags) = sub_with(a, T::of(1), false);
    (res, flags.with_cf(old.cf()))
});
unary!(Neg, a, _old => sub_with(T::of(0), a, false));
unary!(Not, a, old => (T::of(!a.zx()), old));

fn r<T: Int, U: Unary>(cpu: &mut Cpu, op: At) -> Stop {
    let (res, flags) = U::apply(cpu.dst::<T>(&op), cpu.flags);
    cpu.flags = flags;
    cpu.set_dst(&op, res);
    next(cpu, op)
}

fn quiet_r<T: Int, U: Unary>(cpu: &mut Cpu, op: At) -> Stop {
    let res = U::apply(cpu.dst::<T>(&op), cpu.flags).0;
    cpu.set_dst(&op, res);
    next(cpu, op)
}

fn m<T: Int, U: Unary>(cpu: &mut Cpu, op: At) -> Stop {
    with_modify(cpu, op, |cpu, _, a: T| U::apply(a, cpu.flags))
}

fn locked_m<T: Int, U: Unary>(cpu: &mut Cpu, op: &Op) -> Done {
    change::<T>(cpu, op, |cpu, a| U::apply(a, cpu.flags))
}

/// XOR or SUB of a register with itself: zero, without reading it.
fn zero(cpu: &mut Cpu, op: At) -> Stop {
    cpu.flags = Flags::logic(0);
    cpu.set_dst::<u64>(&op, 0);
    next(cpu, op)
}

pub(crate) fn lower(l: &mut Lowering) -> bool {
    match l.insn.mnemonic() {
        Mnemonic::Add => binary::<Add>(l),
        Mnemonic::Or => binary::<Or>(l),
        Mnemonic::Adc => binary::<Adc>(l),
        Mnemonic::Sbb => binary::<Sbb>(l),
        Mnemonic::And => binary::<And>(l),
        Mnemonic::Sub => binary::<Sub>(l),
        Mnemonic::Xor => binary::<Xor>(l),
        Mnemonic::Cmp => binary::<Cmp>(l),
        Mnemonic::Test => binary::<Test>(l),
        Mnemonic::Inc => single::<Inc>(l),
        Mnemonic::Dec => single::<Dec>(l),
        Mnemonic::Neg => single::<Neg>(l),
        Mnemonic::Not => single::<Not>(l),
        _ => false,
    }
}

fn binary<A: Alu>(l: &mut Lowering) -> bool {
    let size = l.size(0);
    if !A::WRITES {
        l.fuse_with_branch(size);
    }
    let flags = FlagUse { reads: A::READS, ..FlagUse::WRITES };
    let quiet = |quiet: Threaded| if A::WRITES && !A::READS { flags.or_quiet(quiet) } else { flags };
    if l.is_mem(0) {
        let locked = l.op.has(op_flag::LOCK);
        let run = if l.is_reg(1) {
            l.src(1);
            match (A::WRITES, locked) {
                (false, _) => sized!(size, look_mr, A),
                (true, false) => sized!(size, mr, A),
                (true, true) => sized_done!(size, locked_mr, A),
            }
        } else {
            l.imm(1);
            match (A::WRITES, locked) {
                (false, _) => sized!(size, look_mi, A),
                (true, false) => sized!(size, mi, A),
                (true, true) => sized_done!(size, locked_mi, A),
            }
        };
        return l.thread_flags(run, flags);
    }
    l.dst(0);
    if l.is_mem(1) {
        return l.thread_flags(sized!(size, rm, A), quiet(sized!(size, quiet_rm, A)));
    }
    if l.is_reg(1) {
        l.src(1);
        let clears =
            matches!(l.insn.mnemonic(), Mnemonic::Xor | Mnemonic::Sub) && l.op.dst == l.op.src && size >= 4;
        if clears {
            return l.thread_flags(zero, flags);
        }
        return l.thread_flags(sized!(size, rr, A), quiet(sized!(size, quiet_rr, A)));
    }
    l.imm(1);
    l.thread_flags(sized!(size, ri, A), quiet(sized!(size, quiet_ri, A)))
}

fn single<U: Unary>(l: &mut Lowering) -> bool {
    let size = l.size(0);
    if l.is_mem(0) {
        if l.op.has(op_flag::LOCK) {
            return l.thread(sized_done!(size, locked_m, U));
        }
        return l.thread(sized!(size, m, U));
    }
    l.dst(0);
    // INC and DEC keep CF, NOT keeps everything.
    let flags = FlagUse { reads: true, ..FlagUse::NEUTRAL };
    l.thread_flags(sized!(size, r, U), flags.or_quiet(sized!(size, quiet_r, U)))
}
