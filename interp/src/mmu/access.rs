//! Loads and stores by linear address: the fast path.
// UNSAFETY: a TLB hit yields a raw host pointer into guest RAM.
#![allow(unsafe_code)]

use cpu::x86::gpr;

pub(crate) use super::host::Int;
use crate::code::{At, next};
use crate::cpu::{CodeSize, Cpu};
use crate::flags::Flags;
use crate::op::{Done, Op, Stop};

/// A store is complete. The handler finishes its other effects and then returns [`done`](Self::done), which
/// leaves the block if the store hit decoded code.
#[must_use]
#[derive(Clone, Copy)]
pub(crate) struct Stored {
    pub(super) hit_code: bool,
}

impl Stored {
    /// A store that hit no code.
    pub const CLEAN: Self = Self { hit_code: false };

    /// What [`PageInfo::note_store`](memory::PageInfo::note_store) said.
    pub fn noted(hit_code: bool) -> Self {
        Self { hit_code }
    }

    #[inline(always)]
    pub fn done(self) -> Done {
        if self.hit_code { Err(Stop::Leave) } else { Ok(()) }
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self { hit_code: self.hit_code | other.hit_code }
    }
}

/// Bytes from `lin` to the end of its page suffice for `size`.
#[inline(always)]
pub(super) fn fits(lin: u64, size: usize) -> bool {
    (lin & 0xfff) as usize <= 4096 - size
}

impl Cpu {
    /// Effective address of the memory operand.
    #[inline(always)]
    pub fn effective(&self, op: &Op) -> u64 {
        let base = self.regs[usize::from(op.base & 31)];
        let index = self.regs[usize::from(op.index & 31)] << (op.scale & 3);
        let address = base.wrapping_add(index).wrapping_add(op.disp as i64 as u64);
        address << (op.addr_shift & 63) >> (op.addr_shift & 63)
    }

    /// Linear address of the memory operand, with segment checks where they exist.
    #[inline(always)]
    pub fn linear(&mut self, op: &Op, size: usize, write: bool) -> Result<u64, Stop> {
        let ea = self.effective(op);
        self.segmented(op.seg, ea, size, write)
    }

    /// Segment and offset to linear address.
    #[inline(always)]
    pub fn segmented(&mut self, seg: u8, offset: u64, size: usize, write: bool) -> Result<u64, Stop> {
        if self.code_size == CodeSize::Bits64 {
            return Ok(self.seg_base[usize::from(seg & 7)].wrapping_add(offset));
        }
        self.checked_segment(seg, offset, size, write)
    }

    /// Loads from the instruction's memory operand.
    #[inline(always)]
    pub fn load_op<T: Int>(&mut self, op: &Op) -> Result<T, Stop> {
        let lin = self.linear(op, T::SIZE, false)?;
        self.load(lin, op.seg)
    }

    /// Stores to the instruction's memory operand.
    #[inline(always)]
    pub fn store_op<T: Int>(&mut self, op: &Op, value: T) -> Result<Stored, Stop> {
        let lin = self.linear(op, T::SIZE, true)?;
        self.store(lin, op.seg, value)
    }

    /// Loads at a linear address, at the current privilege. `seg` tells #SS from #GP for addresses that are not
    /// canonical.
    #[inline(always)]
    pub fn load<T: Int>(&mut self, lin: u64, seg: u8) -> Result<T, Stop> {
        if let Some(entry) = self.tlb.readable(lin, T::SIZE) {
            let host = entry.addend.wrapping_add(lin as usize) as *const u8;
            // SAFETY: a tag matches only while the entry describes this linear page, whose host page lives as
            // long as `self.ram`; `fits` keeps the access inside it.
            return Ok(unsafe { T::load(host) });
        }
        self.load_slow(lin, seg)
    }

    /// Stores at a linear address, at the current privilege.
    #[inline(always)]
    pub fn store<T: Int>(&mut self, lin: u64, seg: u8, value: T) -> Result<Stored, Stop> {
        if let Some(entry) = self.tlb.writable(lin, T::SIZE) {
            let host = entry.addend.wrapping_add(lin as usize) as *mut u8;
            // SAFETY: as in `load`, and `write` tags are set for writable pages only. `info` points into the
            // page table of `self.ram`.
            let hit_code = unsafe {
                T::store(host, value);
                (*entry.info).note_store((lin & 0xfff) as u16, T::SIZE as u16)
            };
            return Ok(Stored { hit_code });
        }
        self.store_slow(lin, seg, value)
    }

    /// Reads, changes and writes back, not atomically: `change` gives the new value and a result. Faults are
    /// those of a store, raised before `change` is called.
    #[inline(always)]
    pub fn modify<T: Int, R>(
        &mut self,
        lin: u64,
        seg: u8,
        change: impl FnOnce(&mut Self, T) -> (T, R),
    ) -> Result<(Stored, R), Stop> {
        if let Some(&entry) = self.tlb.writable(lin, T::SIZE) {
            let host = entry.addend.wrapping_add(lin as usize) as *mut u8;
            // SAFETY: as in `store`.
            let old = unsafe { T::load(host) };
            let (new, result) = change(self, old);
            // SAFETY: as in `store`; `change` computes and cannot unmap RAM.
            let hit_code = unsafe {
                T::store(host, new);
                (*entry.info).note_store((lin & 0xfff) as u16, T::SIZE as u16)
            };
            return Ok((Stored { hit_code }, result));
        }
        let old = self.load_for_write(lin, seg)?;
        let (new, result) = change(self, old);
        Ok((self.store_slow(lin, seg, new)?, result))
    }

    /// The LOCKed form of [`modify`](Self::modify); `change` may be called several times.
    pub fn modify_locked<T: Int, R>(
        &mut self,
        lin: u64,
        seg: u8,
        mut change: impl FnMut(&mut Self, T) -> (T, R),
    ) -> Result<(Stored, R), Stop> {
        let mut entry = *self.tlb.entry(lin);
        if entry.write != self.tlb.tag(lin) || !fits(lin, T::SIZE) {
            let old: T = self.load_for_write(lin, seg)?;
            entry = *self.tlb.entry(lin);
            if entry.write != self.tlb.tag(lin) || !fits(lin, T::SIZE) {
                return self.modify_split(lin, seg, old, change);
            }
        }
        let host = entry.addend.wrapping_add(lin as usize) as *mut u8;
        // SAFETY: as in `store`.
        let mut old = unsafe { T::load(host) };
        loop {
            let (new, result) = change(self, old);
            // SAFETY: as in `store`.
            let seen = unsafe { T::swap_if(host, old, new) };
            if seen == old {
                // SAFETY: `info` points into the page table of `self.ram`.
                let hit_code = unsafe { (*entry.info).note_store((lin & 0xfff) as u16, T::SIZE as u16) };
                return Ok((Stored { hit_code }, result));
            }
            old = seen;
        }
    }

    /// A host pointer for `len` bytes of one page, if the page may be read (or written) directly. Bulk moves of
    /// string instructions and vector operands use it.
    #[inline]
    pub fn direct(&self, lin: u64, len: usize, write: bool) -> Option<*mut u8> {
        let entry = self.tlb.entry(lin);
        let tag = if write { entry.write } else { entry.read };
        (tag == self.tlb.tag(lin) && len <= 4096 && fits(lin, len))
            .then(|| entry.addend.wrapping_add(lin as usize) as *mut u8)
    }

    /// To be called after a store through [`direct`](Self::direct).
    #[inline]
    pub fn note_direct_store(&self, lin: u64, len: usize) -> Stored {
        // SAFETY: `direct` has just found this entry filled, so `info` points into the page table of `self.ram`; that
        // of an empty entry is null.
        let info = unsafe { self.tlb.entry(lin).info.as_ref() };
        Stored { hit_code: info.is_some_and(|info| info.note_store((lin & 0xfff) as u16, len as u16)) }
    }
}

/// Loads the memory operand in 64-bit code and continues with `then`. Everything but a TLB hit is out of line and
/// in tail position, so that the hot path needs no stack frame; the functions below are of the same make.
#[inline(always)]
pub(crate) fn with_load<T: Int>(
    cpu: &mut Cpu,
    op: At,
    then: impl Fn(&mut Cpu, At, T) -> Stop + Copy,
) -> Stop {
    #[cold]
    #[inline(never)]
    fn slow<T: Int>(cpu: &mut Cpu, op: At, then: impl Fn(&mut Cpu, At, T) -> Stop + Copy) -> Stop {
        match cpu.load_op::<T>(&op) {
            Ok(value) => then(cpu, op, value),
            Err(stop) => cpu.stopped(&op, stop),
        }
    }
    if cpu.code_size == CodeSize::Bits64 {
        let lin = cpu.seg_base[usize::from(op.seg & 7)].wrapping_add(cpu.effective(&op));
        if let Some(entry) = cpu.tlb.readable(lin, T::SIZE) {
            let host = entry.addend.wrapping_add(lin as usize) as *const u8;
            // SAFETY: as in `Cpu::load`.
            let value = unsafe { T::load(host) };
            return then(cpu, op, value);
        }
    }
    slow(cpu, op, then)
}

/// Stores `value` to the memory operand.
#[inline(always)]
pub(crate) fn with_store<T: Int>(cpu: &mut Cpu, op: At, value: impl Fn(&Cpu, &Op) -> T + Copy) -> Stop {
    #[cold]
    #[inline(never)]
    fn slow<T: Int>(cpu: &mut Cpu, op: At, value: impl Fn(&Cpu, &Op) -> T + Copy) -> Stop {
        let value = value(cpu, &op);
        match cpu.store_op(&op, value).and_then(Stored::done) {
            Ok(()) => next(cpu, op),
            Err(stop) => cpu.stopped(&op, stop),
        }
    }
    if cpu.code_size == CodeSize::Bits64 {
        let lin = cpu.seg_base[usize::from(op.seg & 7)].wrapping_add(cpu.effective(&op));
        if let Some(entry) = cpu.tlb.writable(lin, T::SIZE) {
            // SAFETY: as in `Cpu::store`. A page with code takes the slow path.
            unsafe {
                if !(*entry.info).has_code() {
                    T::store(entry.addend.wrapping_add(lin as usize) as *mut u8, value(cpu, &op));
                    if !(*entry.info).has_code() {
                        return next(cpu, op);
                    }
                    return stored_to_code(cpu, op, lin, T::SIZE);
                }
            }
        }
    }
    slow(cpu, op, value)
}

/// Reads, changes and writes the memory operand without LOCK; `change` gives the new value and flags.
#[inline(always)]
pub(crate) fn with_modify<T: Int>(
    cpu: &mut Cpu,
    op: At,
    change: impl Fn(&Cpu, &Op, T) -> (T, Flags) + Copy,
) -> Stop {
    #[cold]
    #[inline(never)]
    fn slow<T: Int>(cpu: &mut Cpu, op: At, change: impl Fn(&Cpu, &Op, T) -> (T, Flags) + Copy) -> Stop {
        let done = cpu.linear(&op, T::SIZE, true).and_then(|lin| {
            let (stored, flags) = cpu.modify(lin, op.seg, |cpu, old| change(cpu, &op, old))?;
            cpu.flags = flags;
            stored.done()
        });
        match done {
            Ok(()) => next(cpu, op),
            Err(stop) => cpu.stopped(&op, stop),
        }
    }
    if cpu.code_size == CodeSize::Bits64 {
        let lin = cpu.seg_base[usize::from(op.seg & 7)].wrapping_add(cpu.effective(&op));
        if let Some(entry) = cpu.tlb.writable(lin, T::SIZE) {
            let host = entry.addend.wrapping_add(lin as usize) as *mut u8;
            let info = entry.info;
            // SAFETY: as in `Cpu::modify`.
            unsafe {
                if !(*info).has_code() {
                    let (new, flags) = change(cpu, &op, T::load(host));
                    T::store(host, new);
                    cpu.flags = flags;
                    if !(*info).has_code() {
                        return next(cpu, op);
                    }
                    return stored_to_code(cpu, op, lin, T::SIZE);
                }
            }
        }
    }
    slow(cpu, op, change)
}

/// Pushes `value` and continues.
#[inline(always)]
pub(crate) fn with_push<T: Int>(cpu: &mut Cpu, op: At, value: impl Fn(&Cpu, &Op) -> T + Copy) -> Stop {
    #[cold]
    #[inline(never)]
    fn slow<T: Int>(cpu: &mut Cpu, op: At, value: impl Fn(&Cpu, &Op) -> T + Copy) -> Stop {
        let value = value(cpu, &op);
        match cpu.push(value).and_then(Stored::done) {
            Ok(()) => next(cpu, op),
            Err(stop) => cpu.stopped(&op, stop),
        }
    }
    if cpu.code_size == CodeSize::Bits64 {
        let lin = cpu.regs[gpr::RSP].wrapping_sub(T::SIZE as u64);
        if let Some(entry) = cpu.tlb.writable(lin, T::SIZE) {
            // SAFETY: as in `with_store`.
            unsafe {
                if !(*entry.info).has_code() {
                    T::store(entry.addend.wrapping_add(lin as usize) as *mut u8, value(cpu, &op));
                    if !(*entry.info).has_code() {
                        cpu.regs[gpr::RSP] = lin;
                        return next(cpu, op);
                    }
                    cpu.regs[gpr::RSP] = lin;
                    return stored_to_code(cpu, op, lin, T::SIZE);
                }
            }
        }
    }
    slow(cpu, op, value)
}

/// Loads from the top of the stack, without releasing it, and continues with `then`.
#[inline(always)]
pub(crate) fn with_top<T: Int>(cpu: &mut Cpu, op: At, then: impl Fn(&mut Cpu, At, T) -> Stop + Copy) -> Stop {
    #[cold]
    #[inline(never)]
    fn slow<T: Int>(cpu: &mut Cpu, op: At, then: impl Fn(&mut Cpu, At, T) -> Stop + Copy) -> Stop {
        match cpu.peek::<T>(0) {
            Ok(value) => then(cpu, op, value),
            Err(stop) => cpu.stopped(&op, stop),
        }
    }
    if cpu.code_size == CodeSize::Bits64 {
        let lin = cpu.regs[gpr::RSP];
        if let Some(entry) = cpu.tlb.readable(lin, T::SIZE) {
            let host = entry.addend.wrapping_add(lin as usize) as *const u8;
            // SAFETY: as in `Cpu::load`.
            let value = unsafe { T::load(host) };
            return then(cpu, op, value);
        }
    }
    slow(cpu, op, then)
}

/// A store is complete, and meanwhile another vCPU has decoded code from the page.
#[cold]
#[inline(never)]
fn stored_to_code(cpu: &mut Cpu, op: At, lin: u64, size: usize) -> Stop {
    match cpu.note_direct_store(lin, size).done() {
        Ok(()) => next(cpu, op),
        Err(stop) => cpu.stopped(&op, stop),
    }
}
