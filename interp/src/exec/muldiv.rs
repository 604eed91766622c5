//! MUL IMUL DIV IDIV and the decimal adjustments DAA DAS AAA AAS AAM AAD.

use cpu::x86::{Exception, gpr, rflags, vector};
use iced_x86::Mnemonic;

use crate::code::{At, next};
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::decode::liveness::FlagUse;
use crate::flags::Flags;
use crate::mmu::Int;
use crate::mmu::access::with_load;
use crate::op::{Done, Handler, Op, Stop, Threaded, threaded};

/// The operand of a one-operand form.
#[inline(always)]
fn operand<T: Int, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Result<T, Stop> {
    if MEM { cpu.load_op::<T>(op) } else { Ok(cpu.src::<T>(op)) }
}

/// The double-width accumulator: AX, DX:AX, EDX:EAX, RDX:RAX.
#[inline(always)]
fn accumulator<T: Int>(cpu: &Cpu) -> u128 {
    if T::SIZE == 1 {
        return u128::from(cpu.gpr::<u16>(gpr::RAX));
    }
    u128::from(cpu.gpr::<T>(gpr::RDX).zx()) << T::BITS | u128::from(cpu.gpr::<T>(gpr::RAX).zx())
}

#[inline(always)]
fn set_accumulator<T: Int>(cpu: &mut Cpu, low: T, high: T) {
    if T::SIZE == 1 {
        cpu.set_gpr(gpr::RAX, (low.zx() | high.zx() << 8) as u16);
    } else {
        cpu.set_gpr(gpr::RAX, low);
        cpu.set_gpr(gpr::RDX, high);
    }
}

/// CF and OF tell that the high half matters; the others are undefined (SF and PF of the low half here).
#[inline(always)]
fn product_flags<T: Int>(low: T, overflow: bool) -> Flags {
    Flags::logic(low.sx()).with_cf_of(overflow, overflow)
}

fn mul<T: Int, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let b = operand::<T, MEM>(cpu, op)?;
    let product = u128::from(cpu.gpr::<T>(gpr::RAX).zx()) * u128::from(b.zx());
    let (low, high) = (T::of(product as u64), T::of((product >> T::BITS) as u64));
    set_accumulator(cpu, low, high);
    cpu.flags = product_flags(low, high.zx() != 0);
    Ok(())
}

fn imul<T: Int, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let b = operand::<T, MEM>(cpu, op)?;
    let product = i128::from(cpu.gpr::<T>(gpr::RAX).sx() as i64) * i128::from(b.sx() as i64);
    let (low, high) = (T::of(product as u64), T::of((product >> T::BITS) as u64));
    set_accumulator(cpu, low, high);
    cpu.flags = product_flags(low, i128::from(low.sx() as i64) != product);
    Ok(())
}

/// The truncated signed product, and whether it was truncated.
#[inline(always)]
fn multiply<T: Int>(a: T, b: T) -> (T, bool) {
    let (product, overflow) = (a.sx() as i64).overflowing_mul(b.sx() as i64);
    let low = T::of(product as u64);
    (low, overflow || low.sx() as i64 != product)
}

/// `QUIET`: nobody reads the flags.
#[inline(always)]
fn keep_product<T: Int, const QUIET: bool>(cpu: &mut Cpu, op: &Op, a: T, b: T) {
    let (low, overflow) = multiply(a, b);
    cpu.set_dst(op, low);
    if !QUIET {
        cpu.flags = product_flags(low, overflow);
    }
}

fn imul_rr<T: Int, const QUIET: bool>(cpu: &mut Cpu, op: At) -> Stop {
    let (a, b) = (cpu.dst::<T>(&op), cpu.src::<T>(&op));
    keep_product::<T, QUIET>(cpu, &op, a, b);
    next(cpu, op)
}

fn imul_rm<T: Int, const QUIET: bool>(cpu: &mut Cpu, op: At) -> Stop {
    with_load(cpu, op, |cpu, op, b: T| {
        let a = cpu.dst::<T>(&op);
        keep_product::<T, QUIET>(cpu, &op, a, b);
        next(cpu, op)
    })
}

fn imul_rri<T: Int, const QUIET: bool>(cpu: &mut Cpu, op: At) -> Stop {
    let a = cpu.src::<T>(&op);
    keep_product::<T, QUIET>(cpu, &op, a, T::of(op.imm));
    next(cpu, op)
}

fn imul_rmi<T: Int, const QUIET: bool>(cpu: &mut Cpu, op: At) -> Stop {
    with_load(cpu, op, |cpu, op, a: T| {
        keep_product::<T, QUIET>(cpu, &op, a, T::of(op.imm));
        next(cpu, op)
    })
}

fn div<T: Int, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let divisor = operand::<T, MEM>(cpu, op)?.zx();
    let dividend = accumulator::<T>(cpu);
    if divisor == 0 || dividend >> T::BITS >= u128::from(divisor) {
        return Err(cpu.raise(Exception::new(vector::DE)));
    }
    // The quotient fits; a 64-bit division is several times faster where it suffices.
    let (quotient, remainder) = match u64::try_from(dividend) {
        Ok(small) => (small / divisor, small % divisor),
        Err(_) => ((dividend / u128::from(divisor)) as u64, (dividend % u128::from(divisor)) as u64),
    };
    set_accumulator(cpu, T::of(quotient), T::of(remainder));
    Ok(())
}

fn idiv<T: Int, const MEM: bool>(cpu: &mut Cpu, op: &Op) -> Done {
    let divisor = i128::from(operand::<T, MEM>(cpu, op)?.sx() as i64);
    let unused = 128 - 2 * T::BITS;
    let dividend = (accumulator::<T>(cpu) << unused) as i128 >> unused;
    let quotient = match (i64::try_from(dividend), divisor) {
        (_, 0) => None,
        (Ok(small), d) => small.checked_div(d as i64).map(i128::from),
        _ => dividend.checked_div(divisor),
    };
    let Some(quotient) = quotient.filter(|&q| i128::from(T::of(q as u64).sx() as i64) == q) else {
        return Err(cpu.raise(Exception::new(vector::DE)));
    };
    let remainder = dividend - quotient * divisor;
    set_accumulator(cpu, T::of(quotient as u64), T::of(remainder as u64));
    Ok(())
}

/// Replaces AL and sets SF, ZF, PF from it.
fn adjusted(cpu: &mut Cpu, al: u8, cf: bool, af: bool) {
    cpu.set_gpr(gpr::RAX, al);
    let bits = Flags::logic(al.sx()).with_cf_of(cf, false).bits();
    cpu.flags = Flags::from_bits(bits | if af { rflags::AF } else { 0 });
}

/// DAA and DAS: `add` tells which.
fn decimal(cpu: &mut Cpu, add: bool) {
    let old = cpu.gpr::<u8>(gpr::RAX);
    let (old_cf, old_af) = (cpu.flags.cf(), cpu.flags.af());
    let step = |al: u8, by: u8| if add { al.wrapping_add(by) } else { al.wrapping_sub(by) };
    let (mut al, mut cf) = (old, false);
    let af = old & 0xf > 9 || old_af;
    if af {
        al = step(al, 6);
        cf = old_cf || if add { old > 0xf9 } else { old < 6 };
    }
    if old > 0x99 || old_cf {
        al = step(al, 0x60);
        cf = true;
    }
    adjusted(cpu, al, cf, af);
}

fn daa(cpu: &mut Cpu, _: &Op) -> Done {
    decimal(cpu, true);
    Ok(())
}

fn das(cpu: &mut Cpu, _: &Op) -> Done {
    decimal(cpu, false);
    Ok(())
}

/// AAA and AAS.
fn ascii(cpu: &mut Cpu, add: bool) {
    let ax = cpu.gpr::<u16>(gpr::RAX);
    let adjust = ax & 0xf > 9 || cpu.flags.af();
    let ax = match (adjust, add) {
        (true, true) => ax.wrapping_add(0x106),
        (true, false) => ax.wrapping_sub(0x106),
        _ => ax,
    };
    cpu.set_gpr(gpr::RAX, ax & 0xff0f);
    let bits = if adjust { rflags::AF | rflags::CF } else { 0 };
    let zp = Flags::logic((ax & 0xf).zx()).bits() & (rflags::ZF | rflags::PF);
    cpu.flags = Flags::from_bits(bits | zp);
}

fn aaa(cpu: &mut Cpu, _: &Op) -> Done {
    ascii(cpu, true);
    Ok(())
}

fn aas(cpu: &mut Cpu, _: &Op) -> Done {
    ascii(cpu, false);
    Ok(())
}

fn aam(cpu: &mut Cpu, op: &Op) -> Done {
    let (al, base) = (cpu.gpr::<u8>(gpr::RAX), op.imm as u8);
    let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
        return Err(cpu.raise(Exception::new(vector::DE)));
    };
    cpu.set_gpr(gpr::RAX, u16::from_le_bytes([low, high]));
    cpu.flags = Flags::logic(low.sx());
    Ok(())
}

fn aad(cpu: &mut Cpu, op: &Op) -> Done {
    let [al, ah] = cpu.gpr::<u16>(gpr::RAX).to_le_bytes();
    let res = al.wrapping_add(ah.wrapping_mul(op.imm as u8));
    cpu.set_gpr(gpr::RAX, u16::from(res));
    cpu.flags = Flags::logic(res.sx());
    Ok(())
}

pub(crate) fn lower(l: &mut Lowering) -> bool {
    match l.insn.mnemonic() {
        Mnemonic::Daa => return l.run(daa),
        Mnemonic::Das => return l.run(das),
        Mnemonic::Aaa => return l.run(aaa),
        Mnemonic::Aas => return l.run(aas),
        Mnemonic::Aam | Mnemonic::Aad => {
            l.imm(0);
            let run: Handler = if l.insn.mnemonic() == Mnemonic::Aam { aam } else { aad };
            return l.run(run);
        }
        _ => {}
    }
    let size = l.size(0);
    let count = l.insn.op_count();
    let source = if count == 1 { 0 } else { 1 };
    let memory = l.is_mem(source);
    if count > 1 {
        l.dst(0);
    }
    if !memory {
        l.src(source);
    }
    if count == 3 {
        l.imm(2);
    }
    if count > 1 {
        return imul_truncating(l, size, memory);
    }
    macro_rules! pick {
        ($handler:ident) => {
            match (size, memory) {
                (1, false) => threaded($handler::<u8, false>) as Threaded,
                (1, true) => threaded($handler::<u8, true>),
                (2, false) => threaded($handler::<u16, false>),
                (2, true) => threaded($handler::<u16, true>),
                (4, false) => threaded($handler::<u32, false>),
                (4, true) => threaded($handler::<u32, true>),
                (_, false) => threaded($handler::<u64, false>),
                (_, true) => threaded($handler::<u64, true>),
            }
        };
    }
    let run = match l.insn.mnemonic() {
        Mnemonic::Mul => pick!(mul),
        Mnemonic::Imul => pick!(imul),
        Mnemonic::Div => pick!(div),
        _ => pick!(idiv),
    };
    if matches!(l.insn.mnemonic(), Mnemonic::Mul | Mnemonic::Imul) {
        *l.flag_use = FlagUse::WRITES.faulting();
    }
    l.thread(run)
}

/// IMUL with two or three operands.
fn imul_truncating(l: &mut Lowering, size: usize, memory: bool) -> bool {
    macro_rules! pick {
        ($quiet:literal) => {
            match (l.insn.op_count(), memory) {
                (2, false) => word_sized!(imul_rr, $quiet),
                (2, true) => word_sized!(imul_rm, $quiet),
                (_, false) => word_sized!(imul_rri, $quiet),
                (_, true) => word_sized!(imul_rmi, $quiet),
            }
        };
    }
    macro_rules! word_sized {
        ($handler:ident, $quiet:literal) => {
            match size {
                2 => $handler::<u16, $quiet> as Threaded,
                4 => $handler::<u32, $quiet>,
                _ => $handler::<u64, $quiet>,
            }
        };
    }
    let (run, quiet) = (pick!(false), pick!(true));
    l.thread_flags(run, FlagUse::WRITES.or_quiet(quiet))
}
