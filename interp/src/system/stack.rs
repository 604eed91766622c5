//! A stack while an instruction or a delivery pushes to it or pops from it. The stack pointer changes at the
//! end, by [`Stack::commit`], so that a fault in the middle leaves it alone.

use cpu::Segment;
use cpu::x86::{Exception, gpr, seg, seg_attr, vector};

use crate::cpu::{CodeSize, Cpu};
use crate::mmu::{Int, Stored};
use crate::op::Stop;

/// A stack segment and a moving pointer into it.
#[derive(Clone, Copy)]
pub(super) struct Stack {
    base: u64,
    /// First and last valid offset.
    bounds: (u64, u64),
    /// Bits of the stack pointer in use.
    mask: u64,
    pub sp: u64,
    /// Error code of the #SS that a bad offset raises.
    pub code: u32,
    /// What the pushes hit.
    pub stored: Stored,
}

impl Stack {
    /// The running program's stack.
    #[inline]
    pub fn current(cpu: &Cpu) -> Self {
        let sp = cpu.regs[gpr::RSP];
        if cpu.code_size == CodeSize::Bits64 {
            Self::flat(sp)
        } else {
            Self::segmented(&cpu.segments[seg::SS], sp, cpu.real_segments())
        }
    }

    /// A stack in 64-bit mode.
    #[inline]
    pub fn flat(sp: u64) -> Self {
        Self { base: 0, bounds: (0, u64::MAX), mask: u64::MAX, sp, code: 0, stored: Stored::CLEAN }
    }

    /// A stack in a segment; the segment was checked to be writable data when it was loaded.
    pub fn segmented(ss: &Segment, sp: u64, real: bool) -> Self {
        let wide = ss.attr & seg_attr::DB != 0;
        let mask = if wide { 0xffff_ffff } else { 0xffff };
        let limit = u64::from(ss.limit);
        let unusable = !real && ss.attr & seg_attr::UNUSABLE != 0;
        let expand_down = !real && ss.attr & (seg_attr::DC | seg_attr::CODE) == seg_attr::DC;
        let bounds = match (unusable, expand_down) {
            (true, _) => (1, 0),
            (_, true) => (limit + 1, mask),
            _ => (0, limit),
        };
        Self { base: ss.base, bounds, mask, sp: sp & mask, code: 0, stored: Stored::CLEAN }
    }

    #[inline]
    fn linear(&self, cpu: &mut Cpu, offset: u64, size: usize) -> Result<u64, Stop> {
        if self.mask == u64::MAX {
            return Ok(offset);
        }
        let last = offset + size as u64 - 1;
        if offset < self.bounds.0 || last > self.bounds.1 {
            return Err(cpu.raise(Exception::with_code(vector::SS, self.code)));
        }
        Ok(self.base.wrapping_add(offset) & 0xffff_ffff)
    }

    #[inline]
    pub fn push<T: Int>(&mut self, cpu: &mut Cpu, value: T) -> Result<(), Stop> {
        let sp = self.sp.wrapping_sub(T::SIZE as u64) & self.mask;
        let lin = self.linear(cpu, sp, T::SIZE)?;
        self.stored = self.stored.and(cpu.store(lin, seg::SS as u8, value)?);
        self.sp = sp;
        Ok(())
    }

    #[inline]
    pub fn pop<T: Int>(&mut self, cpu: &mut Cpu) -> Result<T, Stop> {
        let lin = self.linear(cpu, self.sp, T::SIZE)?;
        let value = cpu.load(lin, seg::SS as u8)?;
        self.sp = self.sp.wrapping_add(T::SIZE as u64) & self.mask;
        Ok(value)
    }

    /// Pushes `size` bytes: 2, 4 or 8.
    pub fn push_sized(&mut self, cpu: &mut Cpu, size: u8, value: u64) -> Result<(), Stop> {
        match size {
            2 => self.push(cpu, value as u16),
            4 => self.push(cpu, value as u32),
            _ => self.push(cpu, value),
        }
    }

    /// Pops `size` bytes: 2, 4 or 8.
    pub fn pop_sized(&mut self, cpu: &mut Cpu, size: u8) -> Result<u64, Stop> {
        match size {
            2 => self.pop::<u16>(cpu).map(u64::from),
            4 => self.pop::<u32>(cpu).map(u64::from),
            _ => self.pop(cpu),
        }
    }

    /// Moves the pointer without an access.
    pub fn skip(&mut self, bytes: u64) {
        self.sp = self.sp.wrapping_add(bytes) & self.mask;
    }

    /// Makes the pointer the program's.
    #[inline]
    pub fn commit(&self, cpu: &mut Cpu) {
        let rsp = &mut cpu.regs[gpr::RSP];
        // A 16-bit stack keeps the upper bits; a 32-bit one clears those of RSP.
        let keep = if self.mask == 0xffff { *rsp & !0xffff } else { 0 };
        *rsp = keep | (self.sp & self.mask);
    }
}
