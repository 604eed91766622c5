//! SETcc and CMOVcc.

use iced_x86::ConditionCode;

use super::sized;
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::mmu::Int;
use crate::op::{Done, Handler, Op};

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
fn cmov_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = if cpu.flags.condition(op.aux) { cpu.src::<T>(op) } else { cpu.dst::<T>(op) };
    cpu.set_dst(op, value);
    Ok(())
}

/// The load happens, and faults, whatever the condition.
fn cmov_rm<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let loaded = cpu.load_op::<T>(op)?;
    let value = if cpu.flags.condition(op.aux) { loaded } else { cpu.dst::<T>(op) };
    cpu.set_dst(op, value);
    Ok(())
}

/// Encoding of a condition, 0 to 15.
pub(super) fn encoding(code: ConditionCode) -> Option<u8> {
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

/// Picks the instance of a handler for a condition.
macro_rules! by_condition {
    ($condition:expr, $handler:ident) => {
        match $condition {
            0 => $handler::<0> as crate::op::Handler,
            1 => $handler::<1>,
            2 => $handler::<2>,
            3 => $handler::<3>,
            4 => $handler::<4>,
            5 => $handler::<5>,
            6 => $handler::<6>,
            7 => $handler::<7>,
            8 => $handler::<8>,
            9 => $handler::<9>,
            10 => $handler::<10>,
            11 => $handler::<11>,
            12 => $handler::<12>,
            13 => $handler::<13>,
            14 => $handler::<14>,
            _ => $handler::<15>,
        }
    };
}
pub(super) use by_condition;

pub(crate) fn lower(l: &mut Lowering) -> bool {
    let Some(condition) = encoding(l.insn.condition_code()) else { return false };
    let code = l.insn.code();
    if code.is_setcc() {
        if l.is_mem(0) {
            return l.run(by_condition!(condition, set_m));
        }
        l.dst(0);
        return l.run(by_condition!(condition, set_r));
    }
    if !code.is_cmovcc() {
        return false;
    }
    l.dst(0);
    l.op.aux = condition;
    let size = l.size(0);
    let run: Handler = if l.is_mem(1) {
        sized!(size, cmov_rm)
    } else {
        l.src(1);
        sized!(size, cmov_rr)
    };
    l.run(run)
}

/// Names of `iced_x86::Code` groups that the library does not have.
trait CodeGroup {
    fn is_setcc(self) -> bool;
    fn is_cmovcc(self) -> bool;
}

impl CodeGroup for iced_x86::Code {
    fn is_setcc(self) -> bool {
        use iced_x86::Mnemonic as M;
        matches!(
            self.mnemonic(),
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

    fn is_cmovcc(self) -> bool {
        use iced_x86::Mnemonic as M;
        matches!(
            self.mnemonic(),
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
}
