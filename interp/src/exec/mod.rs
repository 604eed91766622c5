//! Integer instructions, one file per family. Each has `lower`, which chooses a handler by operand form and
//! size, and the handlers.

pub(crate) mod arith;
pub(crate) mod bits;
pub(crate) mod branch;
pub(crate) mod condition;
pub(crate) mod exchange;
pub(crate) mod fused;
pub(crate) mod mov;
pub(crate) mod muldiv;
pub(crate) mod shift;
pub(crate) mod stack;
pub(crate) mod string;

use crate::cpu::Cpu;
use crate::mmu::Int;
use crate::op::{Op, op_flag};

/// Picks the instance of a threaded handler for an operand size in bytes.
macro_rules! sized {
    ($size:expr, $handler:ident $(, $extra:ty)*) => {
        match $size {
            1 => $handler::<u8 $(, $extra)*> as crate::op::Threaded,
            2 => $handler::<u16 $(, $extra)*>,
            4 => $handler::<u32 $(, $extra)*>,
            _ => $handler::<u64 $(, $extra)*>,
        }
    };
}
pub(crate) use sized;

/// The same for a handler that leaves going on to its caller.
macro_rules! sized_done {
    ($size:expr, $handler:ident $(, $extra:ty)*) => {
        match $size {
            1 => crate::op::threaded($handler::<u8 $(, $extra)*>) as crate::op::Threaded,
            2 => crate::op::threaded($handler::<u16 $(, $extra)*>),
            4 => crate::op::threaded($handler::<u32 $(, $extra)*>),
            _ => crate::op::threaded($handler::<u64 $(, $extra)*>),
        }
    };
}
pub(crate) use sized_done;

impl Cpu {
    #[inline(always)]
    pub fn reg(&self, slot: u8) -> u64 {
        self.regs[usize::from(slot & 31)]
    }

    #[inline(always)]
    fn read_slot<T: Int>(&self, slot: u8, high: bool) -> T {
        let value = self.reg(slot);
        T::of(if T::SIZE == 1 { value >> (u32::from(high) * 8) } else { value })
    }

    /// Writes a register as an instruction of the size does: 32-bit results clear the upper half, smaller ones
    /// keep the rest.
    #[inline(always)]
    fn write_slot<T: Int>(&mut self, slot: u8, high: bool, value: T) {
        let reg = &mut self.regs[usize::from(slot & 31)];
        *reg = match T::SIZE {
            1 => {
                let shift = u32::from(high) * 8;
                (*reg & !(0xff << shift)) | (value.zx() << shift)
            }
            2 => (*reg & !0xffff) | value.zx(),
            _ => value.zx(),
        };
    }

    /// The destination register.
    #[inline(always)]
    pub fn dst<T: Int>(&self, op: &Op) -> T {
        self.read_slot(op.dst, op.has(op_flag::HIGH_DST))
    }

    /// The source register.
    #[inline(always)]
    pub fn src<T: Int>(&self, op: &Op) -> T {
        self.read_slot(op.src, op.has(op_flag::HIGH_SRC))
    }

    #[inline(always)]
    pub fn set_dst<T: Int>(&mut self, op: &Op, value: T) {
        self.write_slot(op.dst, op.has(op_flag::HIGH_DST), value);
    }

    #[inline(always)]
    pub fn set_src<T: Int>(&mut self, op: &Op, value: T) {
        self.write_slot(op.src, op.has(op_flag::HIGH_SRC), value);
    }

    /// Reads a general register by number.
    #[inline(always)]
    pub fn gpr<T: Int>(&self, index: usize) -> T {
        T::of(self.regs[index & 15])
    }

    /// Writes a general register by number, as an instruction of the size does.
    #[inline(always)]
    pub fn set_gpr<T: Int>(&mut self, index: usize, value: T) {
        self.write_slot(index as u8 & 15, false, value);
    }

    /// RIP of the instruction behind `op`.
    #[inline(always)]
    pub fn next_ip(&self, op: &Op) -> u64 {
        let ip = self.regs[usize::from(crate::op::slot::BLOCK)].wrapping_add(op.next());
        self.truncate_ip(ip)
    }

    /// RIP of the instruction itself.
    #[inline(always)]
    pub fn this_ip(&self, op: &Op) -> u64 {
        let ip = self.regs[usize::from(crate::op::slot::BLOCK)].wrapping_add(u64::from(op.off));
        self.truncate_ip(ip)
    }
}
