//! MOV and its kin: MOVZX MOVSX MOVSXD LEA BSWAP MOVBE MOVNTI XLAT, the sign extensions of the accumulator, and the
//! moves to and from single flags (LAHF SAHF CLC STC CMC CLD STD SALC).

use cpu::x86::{gpr, rflags};
use iced_x86::{Mnemonic, OpKind};

use super::{sized, sized_done};
use crate::code::{At, next};
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::decode::liveness::FlagUse;
use crate::flags::Flags;
use crate::mmu::Int;
use crate::mmu::access::{with_load, with_store};
use crate::op::{Done, Op, Stop, Threaded};

fn rr<T: Int>(cpu: &mut Cpu, op: At) -> Stop {
    let value = cpu.src::<T>(&op);
    cpu.set_dst(&op, value);
    next(cpu, op)
}

fn ri<T: Int>(cpu: &mut Cpu, op: At) -> Stop {
    cpu.set_dst(&op, T::of(op.imm));
    next(cpu, op)
}

fn rm<T: Int>(cpu: &mut Cpu, op: At) -> Stop {
    with_load(cpu, op, |cpu, op, value: T| {
        cpu.set_dst(&op, value);
        next(cpu, op)
    })
}

fn mr<T: Int>(cpu: &mut Cpu, op: At) -> Stop {
    with_store(cpu, op, |cpu, op| cpu.src::<T>(op))
}

fn mi<T: Int>(cpu: &mut Cpu, op: At) -> Stop {
    with_store(cpu, op, |_, op| T::of(op.imm))
}

/// MOV from a 64-bit absolute address, which is in `imm`.
fn load_absolute<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let lin = cpu.segmented(op.seg, op.imm, T::SIZE, false)?;
    let value = cpu.load::<T>(lin, op.seg)?;
    cpu.set_dst(op, value);
    Ok(())
}

/// MOV to a 64-bit absolute address.
fn store_absolute<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let lin = cpu.segmented(op.seg, op.imm, T::SIZE, true)?;
    let value = cpu.src::<T>(op);
    cpu.store(lin, op.seg, value)?.done()
}

/// From `S` to `D`, zero-extended.
fn zx_rr<S: Int, D: Int>(cpu: &mut Cpu, op: At) -> Stop {
    let value = cpu.src::<S>(&op).zx();
    cpu.set_dst(&op, D::of(value));
    next(cpu, op)
}

fn zx_rm<S: Int, D: Int>(cpu: &mut Cpu, op: At) -> Stop {
    with_load(cpu, op, |cpu, op, value: S| {
        cpu.set_dst(&op, D::of(value.zx()));
        next(cpu, op)
    })
}

/// From `S` to `D`, sign-extended.
fn sx_rr<S: Int, D: Int>(cpu: &mut Cpu, op: At) -> Stop {
    let value = cpu.src::<S>(&op).sx();
    cpu.set_dst(&op, D::of(value));
    next(cpu, op)
}

fn sx_rm<S: Int, D: Int>(cpu: &mut Cpu, op: At) -> Stop {
    with_load(cpu, op, |cpu, op, value: S| {
        cpu.set_dst(&op, D::of(value.sx()));
        next(cpu, op)
    })
}

fn lea<T: Int>(cpu: &mut Cpu, op: At) -> Stop {
    let address = cpu.effective(&op);
    cpu.set_dst(&op, T::of(address));
    next(cpu, op)
}

fn swap_bytes<T: Int>(value: T) -> T {
    T::of(value.zx().swap_bytes() >> (64 - T::BITS))
}

/// With a 16-bit operand the result is undefined; hosts give zero.
fn bswap<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = if T::SIZE == 2 { T::of(0) } else { swap_bytes(cpu.dst::<T>(op)) };
    cpu.set_dst(op, value);
    Ok(())
}

fn movbe_rm<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = cpu.load_op::<T>(op)?;
    cpu.set_dst(op, swap_bytes(value));
    Ok(())
}

fn movbe_mr<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = swap_bytes(cpu.src::<T>(op));
    cpu.store_op(op, value)?.done()
}

/// CBW, CWDE, CDQE.
fn widen<S: Int, D: Int>(cpu: &mut Cpu, _: &Op) -> Done {
    let value = cpu.gpr::<S>(gpr::RAX).sx();
    cpu.set_gpr(gpr::RAX, D::of(value));
    Ok(())
}

/// CWD, CDQ, CQO.
fn spread<T: Int>(cpu: &mut Cpu, _: &Op) -> Done {
    let sign = (cpu.gpr::<T>(gpr::RAX).sx() as i64 >> 63) as u64;
    cpu.set_gpr(gpr::RDX, T::of(sign));
    Ok(())
}

/// The memory operand is rBX; AL is added here.
fn xlat(cpu: &mut Cpu, op: &Op) -> Done {
    let offset = cpu.effective(op).wrapping_add(cpu.regs[gpr::RAX] & 0xff);
    let offset = offset << op.addr_shift >> op.addr_shift;
    let lin = cpu.segmented(op.seg, offset, 1, false)?;
    let value = cpu.load::<u8>(lin, op.seg)?;
    cpu.set_gpr(gpr::RAX, value);
    Ok(())
}

fn lahf(cpu: &mut Cpu, _: &Op) -> Done {
    let flags = (cpu.flags.bits() & 0xff) | rflags::FIXED;
    cpu.regs[gpr::RAX] = (cpu.regs[gpr::RAX] & !0xff00) | (flags << 8);
    Ok(())
}

fn sahf(cpu: &mut Cpu, _: &Op) -> Done {
    let loaded = rflags::STATUS & 0xff;
    let bits = (cpu.flags.bits() & !loaded) | (cpu.regs[gpr::RAX] >> 8 & loaded);
    cpu.flags = Flags::from_bits(bits);
    Ok(())
}

fn clc(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.flags = cpu.flags.with_cf(false);
    Ok(())
}

fn stc(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.flags = cpu.flags.with_cf(true);
    Ok(())
}

fn cmc(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.flags = cpu.flags.with_cf(!cpu.flags.cf());
    Ok(())
}

fn cld(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.eflags &= !rflags::DF;
    Ok(())
}

fn std(cpu: &mut Cpu, _: &Op) -> Done {
    cpu.eflags |= rflags::DF;
    Ok(())
}

fn salc(cpu: &mut Cpu, _: &Op) -> Done {
    let value = if cpu.flags.cf() { 0xff } else { 0u8 };
    cpu.set_gpr(gpr::RAX, value);
    Ok(())
}

pub(crate) fn lower(l: &mut Lowering) -> bool {
    match l.insn.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movnti => mov(l),
        Mnemonic::Movzx => extend(l, false),
        Mnemonic::Movsx | Mnemonic::Movsxd => extend(l, true),
        Mnemonic::Lea => {
            l.dst(0);
            let size = l.size(0);
            *l.flag_use = FlagUse::NEUTRAL; // no access
            l.thread(sized!(size, lea))
        }
        Mnemonic::Bswap => {
            l.dst(0);
            let size = l.size(0);
            l.thread(sized_done!(size, bswap))
        }
        Mnemonic::Movbe => movbe(l),
        Mnemonic::Cbw => l.run(widen::<u8, u16>),
        Mnemonic::Cwde => l.run(widen::<u16, u32>),
        Mnemonic::Cdqe => l.run(widen::<u32, u64>),
        Mnemonic::Cwd => l.run(spread::<u16>),
        Mnemonic::Cdq => l.run(spread::<u32>),
        Mnemonic::Cqo => l.run(spread::<u64>),
        Mnemonic::Xlatb => {
            l.op.index = crate::op::slot::ZERO; // AL is not a plain index
            l.run(xlat)
        }
        Mnemonic::Lahf => l.run(lahf),
        Mnemonic::Sahf => l.run(sahf),
        Mnemonic::Clc => l.run(clc),
        Mnemonic::Stc => l.run(stc),
        Mnemonic::Cmc => l.run(cmc),
        Mnemonic::Cld => l.run(cld),
        Mnemonic::Std => l.run(std),
        Mnemonic::Salc => l.run(salc),
        _ => false,
    }
}

fn mov(l: &mut Lowering) -> bool {
    // Moves of segment, control and debug registers are system instructions.
    let system = |n| l.insn.op_kind(n) == OpKind::Register && !l.insn.op_register(n).is_gpr();
    if system(0) || system(1) {
        return false;
    }
    let size = l.size(0);
    if l.is_mem(0) {
        if l.is_imm(1) {
            l.imm(1);
            return l.thread_flags(sized!(size, mi), FlagUse::NEUTRAL);
        }
        l.src(1);
        return if l.absolute() {
            l.thread(sized_done!(size, store_absolute))
        } else {
            l.thread_flags(sized!(size, mr), FlagUse::NEUTRAL)
        };
    }
    l.dst(0);
    if l.is_mem(1) {
        return if l.absolute() {
            l.thread(sized_done!(size, load_absolute))
        } else {
            l.thread_flags(sized!(size, rm), FlagUse::NEUTRAL)
        };
    }
    if l.is_imm(1) {
        l.imm(1);
        return l.thread_flags(sized!(size, ri), FlagUse::NEUTRAL);
    }
    l.src(1);
    l.thread_flags(sized!(size, rr), FlagUse::NEUTRAL)
}

fn extend(l: &mut Lowering, signed: bool) -> bool {
    l.dst(0);
    let memory = l.is_mem(1);
    if !memory {
        l.src(1);
    }
    let (to, from) = (l.size(0), l.size(1));
    macro_rules! pick {
        ($from:ty) => {
            match (signed, memory) {
                (false, false) => sized2!(zx_rr, $from),
                (false, true) => sized2!(zx_rm, $from),
                (true, false) => sized2!(sx_rr, $from),
                (true, true) => sized2!(sx_rm, $from),
            }
        };
    }
    macro_rules! sized2 {
        ($handler:ident, $from:ty) => {
            match to {
                2 => $handler::<$from, u16> as Threaded,
                4 => $handler::<$from, u32>,
                _ => $handler::<$from, u64>,
            }
        };
    }
    let run = match from {
        1 => pick!(u8),
        2 => pick!(u16),
        _ => pick!(u32),
    };
    l.thread_flags(run, FlagUse::NEUTRAL)
}

fn movbe(l: &mut Lowering) -> bool {
    if !l.cpu.model.has(cpu::x86::Feature::MOVBE) {
        return false;
    }
    let size = l.size(0);
    if l.is_mem(0) {
        l.src(1);
        return l.thread(sized_done!(size, movbe_mr));
    }
    l.dst(0);
    l.thread(sized_done!(size, movbe_rm))
}
