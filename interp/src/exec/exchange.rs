//! XCHG XADD CMPXCHG CMPXCHG8B CMPXCHG16B.
// UNSAFETY: the 16-byte compare-and-swap is one host instruction on a guest address.
#![allow(unsafe_code)]

use cpu::x86::{Exception, gpr};
use iced_x86::Mnemonic;

use super::arith::{add_with, sub_with};
use super::sized_done;
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::mmu::{Access, Int};
use crate::op::{Done, Op, op_flag};

fn xchg_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let (a, b) = (cpu.dst::<T>(op), cpu.src::<T>(op));
    cpu.set_dst(op, b);
    cpu.set_src(op, a);
    Ok(())
}

/// XCHG with memory locks with or without the prefix.
fn xchg_mr<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let lin = cpu.linear(op, T::SIZE, true)?;
    let new = cpu.src::<T>(op);
    let (stored, old) = cpu.modify_locked(lin, op.seg, |_, old: T| (new, old))?;
    cpu.set_src(op, old);
    stored.done()
}

fn xadd_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let (a, b) = (cpu.dst::<T>(op), cpu.src::<T>(op));
    let (sum, flags) = add_with(a, b, false);
    cpu.flags = flags;
    cpu.set_src(op, a);
    cpu.set_dst(op, sum);
    Ok(())
}

fn xadd_mr<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let lin = cpu.linear(op, T::SIZE, true)?;
    let b = cpu.src::<T>(op);
    let change = |_: &mut Cpu, a: T| {
        let (sum, flags) = add_with(a, b, false);
        (sum, (a, flags))
    };
    let (stored, (old, flags)) = if op.has(op_flag::LOCK) {
        cpu.modify_locked(lin, op.seg, change)?
    } else {
        cpu.modify(lin, op.seg, change)?
    };
    cpu.flags = flags;
    cpu.set_src(op, old);
    stored.done()
}

fn cmpxchg_rr<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let (expected, old) = (cpu.gpr::<T>(gpr::RAX), cpu.dst::<T>(op));
    cpu.flags = sub_with(expected, old, false).1;
    if expected == old {
        let new = cpu.src::<T>(op);
        cpu.set_dst(op, new);
    } else {
        cpu.set_gpr(gpr::RAX, old);
    }
    Ok(())
}

/// The destination is written in either case, as the bus sees it; RAX only on a mismatch.
fn cmpxchg_mr<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let lin = cpu.linear(op, T::SIZE, true)?;
    let (expected, new) = (cpu.gpr::<T>(gpr::RAX), cpu.src::<T>(op));
    let change = |_: &mut Cpu, old: T| (if old == expected { new } else { old }, old);
    let (stored, old) = if op.has(op_flag::LOCK) {
        cpu.modify_locked(lin, op.seg, change)?
    } else {
        cpu.modify(lin, op.seg, change)?
    };
    cpu.flags = sub_with(expected, old, false).1;
    if expected != old {
        cpu.set_gpr(gpr::RAX, old);
    }
    stored.done()
}

fn cmpxchg8b(cpu: &mut Cpu, op: &Op) -> Done {
    let lin = cpu.linear(op, 8, true)?;
    let pair = |high: u64, low: u64| (high << 32) | (low & 0xffff_ffff);
    let expected = pair(cpu.regs[gpr::RDX], cpu.regs[gpr::RAX]);
    let new = pair(cpu.regs[gpr::RCX], cpu.regs[gpr::RBX]);
    let (stored, old) =
        cpu.modify_locked(lin, op.seg, |_, old: u64| (if old == expected { new } else { old }, old))?;
    cpu.flags = cpu.flags.with_zf(old == expected);
    if old != expected {
        cpu.regs[gpr::RAX] = old & 0xffff_ffff;
        cpu.regs[gpr::RDX] = old >> 32;
    }
    stored.done()
}

fn cmpxchg16b(cpu: &mut Cpu, op: &Op) -> Done {
    let lin = cpu.linear(op, 16, true)?;
    if lin & 15 != 0 {
        return Err(cpu.raise(Exception::gp(0)));
    }
    let pair = |high: u64, low: u64| (u128::from(high) << 64) | u128::from(low);
    let expected = pair(cpu.regs[gpr::RDX], cpu.regs[gpr::RAX]);
    let new = pair(cpu.regs[gpr::RCX], cpu.regs[gpr::RBX]);
    if cpu.direct(lin, 16, true).is_none() {
        cpu.check_address(lin, 16, op.seg)?;
        cpu.probe(lin, 16, Access::Write, cpu.privilege())?;
    }
    let (old, stored) = match cpu.direct(lin, 16, true) {
        Some(host) => {
            // SAFETY: `direct` vouches for 16 writable bytes of RAM; `lin` is 16-aligned and host pages keep the
            // offset. The decoder lowers this only if the model, hence the host, has CMPXCHG16B.
            let old = unsafe { swap16(host, expected, new) };
            (old, cpu.note_direct_store(lin, 16))
        }
        None => {
            let mut bytes = [0; 16];
            cpu.read_linear(lin, &mut bytes, cpu.privilege())?;
            let old = u128::from_le_bytes(bytes);
            let value = if old == expected { new } else { old };
            (old, cpu.write_linear(lin, &value.to_le_bytes(), cpu.privilege())?)
        }
    };
    cpu.flags = cpu.flags.with_zf(old == expected);
    if old != expected {
        cpu.regs[gpr::RAX] = old as u64;
        cpu.regs[gpr::RDX] = (old >> 64) as u64;
    }
    stored.done()
}

/// # Safety
/// `at` is 16-aligned and writable for 16 bytes; the host has CMPXCHG16B.
unsafe fn swap16(at: *mut u8, expected: u128, new: u128) -> u128 {
    let (low, high): (u64, u64);
    // SAFETY: the caller's promise is the instruction's contract. RBX is the compiler's own: it is exchanged for the
    // low half of `new` and put back.
    unsafe {
        std::arch::asm!(
            "xchg {new_low}, rbx",
            "lock cmpxchg16b xmmword ptr [{at}]",
            "mov rbx, {new_low}",
            at = in(reg) at,
            new_low = inout(reg) new as u64 => _,
            in("rcx") (new >> 64) as u64,
            inout("rax") expected as u64 => low,
            inout("rdx") (expected >> 64) as u64 => high,
            options(nostack),
        );
    }
    u128::from(high) << 64 | u128::from(low)
}

pub(crate) fn lower(l: &mut Lowering) -> bool {
    let size = l.size(0);
    let memory = l.is_mem(0);
    match l.insn.mnemonic() {
        Mnemonic::Cmpxchg8b => return l.run(cmpxchg8b),
        Mnemonic::Cmpxchg16b => return l.cpu.model.has(cpu::x86::Feature::CX16) && l.run(cmpxchg16b),
        _ => {}
    }
    if memory {
        l.src(1);
    } else {
        l.dst(0);
        if l.is_mem(1) {
            // XCHG is symmetric: the register is the source whichever way it is written.
            l.op.src = l.op.dst;
            l.op.flags |= if l.op.has(op_flag::HIGH_DST) { op_flag::HIGH_SRC } else { 0 };
            return l.thread(sized_done!(size, xchg_mr));
        }
        l.src(1);
    }
    let run = match (l.insn.mnemonic(), memory) {
        (Mnemonic::Xchg, true) => sized_done!(size, xchg_mr),
        (Mnemonic::Xchg, false) => sized_done!(size, xchg_rr),
        (Mnemonic::Xadd, true) => sized_done!(size, xadd_mr),
        (Mnemonic::Xadd, false) => sized_done!(size, xadd_rr),
        (_, true) => sized_done!(size, cmpxchg_mr),
        (_, false) => sized_done!(size, cmpxchg_rr),
    };
    l.thread(run)
}
