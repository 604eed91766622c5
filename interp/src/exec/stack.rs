//! PUSH POP PUSHA POPA ENTER LEAVE, and the stack as other families use it.

use cpu::x86::{gpr, seg};
use iced_x86::{Mnemonic, OpKind};

use crate::code::{At, next};
use crate::cpu::{CodeSize, Cpu};
use crate::decode::Lowering;
use crate::decode::liveness::FlagUse;
use crate::mmu::access::{with_push, with_top};
use crate::mmu::{Int, Stored};
use crate::op::{Done, Op, Stop, Threaded, threaded};

const SS: u8 = seg::SS as u8;

impl Cpu {
    /// Mask of the stack pointer: 16, 32 or 64 bits.
    #[inline(always)]
    pub fn stack_mask(&self) -> u64 {
        if self.code_size == CodeSize::Bits64 {
            u64::MAX
        } else if self.stack32() {
            0xffff_ffff
        } else {
            0xffff
        }
    }

    /// Moves the stack pointer, keeping the bits that the stack size does not cover.
    #[inline(always)]
    pub fn set_stack_pointer(&mut self, value: u64) {
        let mask = self.stack_mask();
        let kept = if mask == 0xffff { self.regs[gpr::RSP] & !mask } else { 0 };
        self.regs[gpr::RSP] = kept | (value & mask);
    }

    /// Pushes; RSP moves only if the store succeeds.
    #[inline(always)]
    pub fn push<T: Int>(&mut self, value: T) -> Result<Stored, Stop> {
        let top = self.regs[gpr::RSP].wrapping_sub(T::SIZE as u64);
        if self.code_size == CodeSize::Bits64 {
            let stored = self.store(top, SS, value)?;
            self.regs[gpr::RSP] = top;
            return Ok(stored);
        }
        let lin = self.segmented(SS, top & self.stack_mask(), T::SIZE, true)?;
        let stored = self.store(lin, SS, value)?;
        self.set_stack_pointer(top);
        Ok(stored)
    }

    /// Reads `offset` bytes above the stack pointer.
    #[inline(always)]
    pub fn peek<T: Int>(&mut self, offset: u64) -> Result<T, Stop> {
        let at = self.regs[gpr::RSP].wrapping_add(offset);
        if self.code_size == CodeSize::Bits64 {
            return self.load(at, SS);
        }
        let lin = self.segmented(SS, at & self.stack_mask(), T::SIZE, false)?;
        self.load(lin, SS)
    }

    /// Releases bytes of the stack.
    #[inline(always)]
    pub fn release(&mut self, bytes: u64) {
        let value = self.regs[gpr::RSP].wrapping_add(bytes);
        self.set_stack_pointer(value);
    }

    /// Pops; RSP moves only if the load succeeds.
    #[inline(always)]
    pub fn pop<T: Int>(&mut self) -> Result<T, Stop> {
        let value = self.peek(0)?;
        self.release(T::SIZE as u64);
        Ok(value)
    }
}

fn push_r<T: Int>(cpu: &mut Cpu, op: At) -> Stop {
    with_push(cpu, op, |cpu, op| cpu.src::<T>(op))
}

fn push_i<T: Int>(cpu: &mut Cpu, op: At) -> Stop {
    with_push(cpu, op, |_, op| T::of(op.imm))
}

fn push_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let value = cpu.load_op::<T>(op)?;
    cpu.push(value)?.done()
}

/// POP RSP: the value wins over the release.
fn pop_r<T: Int>(cpu: &mut Cpu, op: At) -> Stop {
    with_top(cpu, op, |cpu, op, value: T| {
        cpu.release(T::SIZE as u64);
        cpu.set_dst(&op, value);
        next(cpu, op)
    })
}

/// An address that uses RSP sees it after the pop.
fn pop_m<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let old = cpu.regs[gpr::RSP];
    let value = cpu.pop::<T>()?;
    match cpu.store_op(op, value) {
        Ok(stored) => stored.done(),
        Err(stop) => {
            cpu.regs[gpr::RSP] = old;
            Err(stop)
        }
    }
}

/// Order of PUSHA.
const ALL: [usize; 8] = [gpr::RAX, gpr::RCX, gpr::RDX, gpr::RBX, gpr::RSP, gpr::RBP, gpr::RSI, gpr::RDI];

fn pusha<T: Int>(cpu: &mut Cpu, _: &Op) -> Done {
    let old = cpu.regs[gpr::RSP];
    let mut all = Stored::CLEAN;
    for index in ALL {
        let value = if index == gpr::RSP { T::of(old) } else { cpu.gpr::<T>(index) };
        match cpu.push(value) {
            Ok(stored) => all = all.and(stored),
            Err(stop) => {
                cpu.regs[gpr::RSP] = old;
                return Err(stop);
            }
        }
    }
    all.done()
}

fn popa<T: Int>(cpu: &mut Cpu, _: &Op) -> Done {
    let mut values = [T::default(); 8];
    for (i, value) in values.iter_mut().enumerate() {
        *value = cpu.peek((i * T::SIZE) as u64)?;
    }
    for (index, value) in ALL.into_iter().rev().zip(values) {
        if index != gpr::RSP {
            cpu.set_gpr(index, value);
        }
    }
    cpu.release(8 * T::SIZE as u64);
    Ok(())
}

/// ENTER: `imm` is the frame size, `aux` the nesting level.
fn enter<T: Int>(cpu: &mut Cpu, op: &Op) -> Done {
    let old = cpu.regs;
    let restore = |cpu: &mut Cpu, stop| {
        cpu.regs = old;
        Err(stop)
    };
    let mut all = Stored::CLEAN;
    let mut push = |cpu: &mut Cpu, value: T| cpu.push(value).map(|stored| all = all.and(stored));
    if let Err(stop) = push(cpu, T::of(old[gpr::RBP])) {
        return restore(cpu, stop);
    }
    let frame = cpu.regs[gpr::RSP];
    let level = op.aux & 31;
    for i in 1..level {
        let at = old[gpr::RBP].wrapping_sub(u64::from(i) * T::SIZE as u64) & cpu.stack_mask();
        let value = cpu.segmented(SS, at, T::SIZE, false).and_then(|lin| cpu.load::<T>(lin, SS));
        if let Err(stop) = value.and_then(|value| push(cpu, value)) {
            return restore(cpu, stop);
        }
    }
    if level > 0
        && let Err(stop) = push(cpu, T::of(frame))
    {
        return restore(cpu, stop);
    }
    let top = cpu.regs[gpr::RSP].wrapping_sub(op.imm);
    cpu.set_stack_pointer(top);
    // The new top must be writable, as the next push would find out.
    let probe = cpu.segmented(SS, cpu.regs[gpr::RSP] & cpu.stack_mask(), T::SIZE, true);
    let writable = probe.and_then(|lin| cpu.probe(lin, T::SIZE, crate::mmu::Access::Write, cpu.privilege()));
    if let Err(stop) = writable {
        return restore(cpu, stop);
    }
    cpu.set_gpr(gpr::RBP, T::of(frame));
    all.done()
}

fn leave<T: Int>(cpu: &mut Cpu, _: &Op) -> Done {
    let at = cpu.regs[gpr::RBP] & cpu.stack_mask();
    let lin = cpu.segmented(SS, at, T::SIZE, false)?;
    let value = cpu.load::<T>(lin, SS)?;
    cpu.set_stack_pointer(at.wrapping_add(T::SIZE as u64));
    cpu.set_gpr(gpr::RBP, value);
    Ok(())
}

macro_rules! word_sized {
    ($size:expr, $handler:ident) => {
        match $size {
            2 => threaded($handler::<u16>),
            4 => threaded($handler::<u32>),
            _ => threaded($handler::<u64>),
        }
    };
}

macro_rules! word_threaded {
    ($size:expr, $handler:ident) => {
        match $size {
            2 => $handler::<u16> as Threaded,
            4 => $handler::<u32>,
            _ => $handler::<u64>,
        }
    };
}

pub(crate) fn lower(l: &mut Lowering) -> bool {
    let size = l.insn.stack_pointer_increment().unsigned_abs() as usize;
    match l.insn.mnemonic() {
        Mnemonic::Push => match l.insn.op_kind(0) {
            OpKind::Register if l.insn.op_register(0).is_gpr() => {
                l.src(0);
                *l.flag_use = FlagUse::NEUTRAL.faulting();
                l.thread(word_threaded!(size, push_r))
            }
            OpKind::Register => false, // segment registers
            OpKind::Memory => l.thread(word_sized!(size, push_m)),
            _ => {
                l.imm(0);
                *l.flag_use = FlagUse::NEUTRAL.faulting();
                l.thread(word_threaded!(size, push_i))
            }
        },
        Mnemonic::Pop => match l.insn.op_kind(0) {
            OpKind::Register if l.insn.op_register(0).is_gpr() => {
                l.dst(0);
                *l.flag_use = FlagUse::NEUTRAL.faulting();
                l.thread(word_threaded!(size, pop_r))
            }
            OpKind::Register => false,
            _ => l.thread(word_sized!(size, pop_m)),
        },
        Mnemonic::Pusha => l.run(pusha::<u16>),
        Mnemonic::Pushad => l.run(pusha::<u32>),
        Mnemonic::Popa => l.run(popa::<u16>),
        Mnemonic::Popad => l.run(popa::<u32>),
        Mnemonic::Enter => {
            l.imm(0);
            l.op.aux = l.insn.immediate8_2nd();
            use iced_x86::Code as C;
            l.run(match l.insn.code() {
                C::Enterw_imm16_imm8 => enter::<u16>,
                C::Enterd_imm16_imm8 => enter::<u32>,
                _ => enter::<u64>,
            })
        }
        Mnemonic::Leave => {
            use iced_x86::Code as C;
            l.run(match l.insn.code() {
                C::Leavew => leave::<u16>,
                C::Leaved => leave::<u32>,
                _ => leave::<u64>,
            })
        }
        _ => false,
    }
}
