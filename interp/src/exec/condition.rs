//! SETcc and CMOVcc.

use iced_x86::ConditionCode;

use super::sized_done;
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::mmu::Int;
use crate::op::{Done, Op};

fn set_r<const C: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = u8::from(cpu.flags.condition(C));
    cpu.set_dst(op, value);
    Ok(())
}

fn set_m<const C: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = u8::from(cpu.flags.condition(C));
    cpu.store_op(op, value)?.done()
}

/// A 32-bit CMOV clears the upper half even if the condition is false.
fn cmov_rr<const C: u8, T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = if cpu.flags.condition(C) { cpu.src::<T>(op) } else { cpu.dst::<T>(op) };
    cpu.set_dst(op, value);
    Ok(())
}

fn cmov_16<const C: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    cmov_rr::<C, u16>(cpu, op)
}

fn cmov_32<const C: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    cmov_rr::<C, u32>(cpu, op)
}

fn cmov_64<const C: u8>(cpu: &mut Cpu, op: &Op) -> Done {
    cmov_rr::<C, u64>(cpu, op)
}

/// The load happens, and faults, whatever the condition.
fn cmov_rm<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let loaded = cpu.load_op::<T>(op)?;
    let value = if cpu.flags.condition(op.aux) { loaded } else { cpu.dst::<T>(op) };
    cpu.set_dst(op, value);
    Ok(())
}

/// Encoding of a condition, 0 to 15.
pub(crate) fn encoding(code: ConditionCode) -> Option<u8> {
    use ConditionCode as C;
    let order = [
        C::o,
        C::no,
        C::b,
        C::ae,
        C::e,
        C::ne,
        C::be,
        C::a,
        C::s,
        C::ns,
        C::p,
        C::np,
        C::l,
        C::ge,
        C::le,
        C::g,
    ];
    order.iter().position(|&c| c == code).map(|n| n as u8)
}

/// Picks the instance of a threaded handler for a condition.
macro_rules! pick_condition {
    ($condition:expr, $handler:ident) => {
        pick_condition!(@ $condition, [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15], $handler)
    };
    (@ $condition:expr, [$($n:literal)*], $handler:ident) => {
        match $condition & 15 {
            $($n => $handler::<$n> as crate::op::Threaded,)*
            _ => $handler::<0>,
        }
    };
}
pub(super) use pick_condition;

/// The same for a handler that leaves going on to its caller.
macro_rules! by_condition {
    ($condition:expr, $handler:ident) => {
        by_condition!(@ $condition, [0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15], $handler)
    };
    (@ $condition:expr, [$($n:literal)*], $handler:ident) => {
        match $condition & 15 {
            $($n => crate::op::threaded($handler::<$n>) as crate::op::Threaded,)*
            _ => crate::op::threaded($handler::<0>),
        }
    };
}
pub(super) use by_condition;

pub(crate) fn lower(l: &mut Lowering) -> bool {
    let Some(condition) = encoding(l.insn.condition_code()) else { return false };
    let mnemonic = l.insn.mnemonic();
    if sets_byte(mnemonic) {
        if l.is_mem(0) {
            return l.thread(by_condition!(condition, set_m));
        }
        l.dst(0);
        return l.thread(by_condition!(condition, set_r));
    }
    if !moves(mnemonic) {
        return false;
    }
    l.dst(0);
    l.op.aux = condition;
    let size = l.size(0);
    if l.is_mem(1) {
        return l.thread(sized_done!(size, cmov_rm));
    }
    l.src(1);
    l.thread(match size {
        2 => by_condition!(condition, cmov_16),
        4 => by_condition!(condition, cmov_32),
        _ => by_condition!(condition, cmov_64),
    })
}

fn sets_byte(mnemonic: iced_x86::Mnemonic) -> bool {
    use iced_x86::Mnemonic as M;
    matches!(
        mnemonic,
        M::Seto
            | M::Setno
            | M::Setb
            | M::Setae
            | M::Sete
            | M::Setne
            | M::Setbe
            | M::Seta
            | M::Sets
            | M::Setns
            | M::Setp
            | M::Setnp
            | M::Setl
            | M::Setge
            | M::Setle
            | M::Setg
    )
}

fn moves(mnemonic: iced_x86::Mnemonic) -> bool {
    use iced_x86::Mnemonic as M;
    matches!(
        mnemonic,
        M::Cmovo
            | M::Cmovno
            | M::Cmovb
            | M::Cmovae
            | M::Cmove
            | M::Cmovne
            | M::Cmovbe
            | M::Cmova
            | M::Cmovs
            | M::Cmovns
            | M::Cmovp
            | M::Cmovnp
            | M::Cmovl
            | M::Cmovge
            | M::Cmovle
            | M::Cmovg
    )
}
