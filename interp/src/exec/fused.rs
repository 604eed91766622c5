//! CMP and TEST together with the conditional branch that follows: one operation, and the condition comes straight
//! from the operands. The flags are kept all the same, since the code behind the branch may read them.

use super::arith::{Alu, Cmp, Test};
use crate::code::{At, pass};
use crate::cpu::Cpu;
use crate::flags::Flags;
use crate::mmu::Int;
use crate::mmu::access::with_load;
use crate::op::{Op, Stop, Threaded};

/// The comparison half.
trait Compare: Alu {
    /// Condition `C` after comparing `a` with `b`.
    fn holds<T: Int, const C: u8>(a: T, b: T, flags: Flags) -> bool;
}

impl Compare for Cmp {
    #[inline(always)]
    fn holds<T: Int, const C: u8>(a: T, b: T, flags: Flags) -> bool {
        let (signed_a, signed_b) = (a.sx() as i64, b.sx() as i64);
        let base = match C >> 1 {
            1 => a.zx() < b.zx(),
            2 => a == b,
            3 => a.zx() <= b.zx(),
            6 => signed_a < signed_b,
            7 => signed_a <= signed_b,
            _ => return flags.condition(C),
        };
        base != (C & 1 != 0)
    }
}

impl Compare for Test {
    #[inline(always)]
    fn holds<T: Int, const C: u8>(_: T, _: T, flags: Flags) -> bool {
        let res = flags.res as i64;
        let base = match C >> 1 {
            0 | 1 => false,
            2 | 3 => res == 0,
            4 | 6 => res < 0,
            7 => res <= 0,
            _ => return flags.condition(C),
        };
        base != (C & 1 != 0)
    }
}

/// The branch: its offset is the upper half of `imm`.
#[inline(always)]
fn branch<T: Int, K: Compare, const C: u8>(cpu: &mut Cpu, op: At, a: T, b: T) -> Stop {
    let flags = K::apply(a, b, cpu.flags).1;
    cpu.flags = flags;
    if K::holds::<T, C>(a, b, flags) { cpu.take_64((op.imm as i64 >> 32) as u64, op) } else { pass(cpu, op) }
}

/// The immediate is the lower half of `imm`.
#[inline(always)]
fn immediate<T: Int>(op: &Op) -> T {
    T::of(op.imm as u32 as i32 as i64 as u64)
}

fn rr<T: Int, K: Compare, const C: u8>(cpu: &mut Cpu, op: At) -> Stop {
    let (a, b) = (cpu.dst::<T>(&op), cpu.src::<T>(&op));
    branch::<T, K, C>(cpu, op, a, b)
}

fn ri<T: Int, K: Compare, const C: u8>(cpu: &mut Cpu, op: At) -> Stop {
    let a = cpu.dst::<T>(&op);
    branch::<T, K, C>(cpu, op, a, immediate(&op))
}

fn rm<T: Int, K: Compare, const C: u8>(cpu: &mut Cpu, op: At) -> Stop {
    with_load(cpu, op, |cpu, op, b: T| {
        let a = cpu.dst::<T>(&op);
        branch::<T, K, C>(cpu, op, a, b)
    })
}

fn mr<T: Int, K: Compare, const C: u8>(cpu: &mut Cpu, op: At) -> Stop {
    with_load(cpu, op, |cpu, op, a: T| {
        let b = cpu.src::<T>(&op);
        branch::<T, K, C>(cpu, op, a, b)
    })
}

fn mi<T: Int, K: Compare, const C: u8>(cpu: &mut Cpu, op: At) -> Stop {
    with_load(cpu, op, |cpu, op, a: T| branch::<T, K, C>(cpu, op, a, immediate(&op)))
}

/// Operands of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    RegReg,
    RegImm,
    RegMem,
    MemReg,
    MemImm,
}

/// A comparison that may be fused with the branch behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison {
    pub test: bool,
    pub size: usize,
    pub form: Form,
}

impl Comparison {
    /// The operation for this comparison and a branch on `condition`.
    pub fn with_branch(self, condition: u8) -> Threaded {
        if self.test { by_size::<Test>(self, condition) } else { by_size::<Cmp>(self, condition) }
    }
}

fn by_size<K: Compare>(comparison: Comparison, condition: u8) -> Threaded {
    match comparison.size {
        1 => by_form::<u8, K>(comparison.form, condition),
        2 => by_form::<u16, K>(comparison.form, condition),
        4 => by_form::<u32, K>(comparison.form, condition),
        _ => by_form::<u64, K>(comparison.form, condition),
    }
}

fn by_form<T: Int, K: Compare>(form: Form, condition: u8) -> Threaded {
    macro_rules! pick {
        ($($c:literal)*) => {
            match condition & 15 {
                $($c => match form {
                    Form::RegReg => rr::<T, K, $c> as Threaded,
                    Form::RegImm => ri::<T, K, $c>,
                    Form::RegMem => rm::<T, K, $c>,
                    Form::MemReg => mr::<T, K, $c>,
                    Form::MemImm => mi::<T, K, $c>,
                },)*
                _ => rr::<T, K, 0>,
            }
        };
    }
    pick!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
}
