//! MOVS STOS LODS SCAS CMPS INS OUTS, with and without REP.
//!
//! A repeated instruction runs as many elements as it can and keeps RCX, RSI and RDI current, so that a fault or an
//! interrupt finds it restartable. Moves and fills within pages that are plain RAM go by whole runs.
// UNSAFETY: runs are copied by the host's own string instructions on guest RAM.
#![allow(unsafe_code)]

use std::arch::asm;

use cpu::x86::{gpr, rflags, seg};
use iced_x86::{Mnemonic, OpKind};

use super::arith::sub_with;
use super::sized_done;
use crate::cpu::Cpu;
use crate::decode::Lowering;
use crate::decode::segment;
use crate::mmu::{Access, Int, Stored};
use crate::op::{Done, Op, Stop, op_flag};

const ES: u8 = seg::ES as u8;

/// Elements of a repeated instruction between two looks at timers, at most; a run of a page counts as a sixteenth.
pub(crate) const SLICE: i64 = 1024;

/// One element of a string instruction.
trait Element {
    /// REPE and REPNE look at ZF after each element.
    const COMPARES: bool = false;
    /// The element at the current RSI and RDI, which are moved on if it succeeds.
    fn one<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<Stored, Stop>;
    /// Up to `count` elements at once: how many were done, 0 if none could be.
    fn run<T: Int>(_: &mut Cpu, _: &Op, _: u64) -> (u64, Stored) {
        (0, Stored::CLEAN)
    }
}

impl Cpu {
    /// An index or count register as the address size shows it.
    #[inline(always)]
    fn string_reg(&self, index: usize, op: &Op) -> u64 {
        self.regs[index] << op.addr_shift >> op.addr_shift
    }

    #[inline(always)]
    fn set_string_reg(&mut self, index: usize, op: &Op, value: u64) {
        match op.addr_shift {
            0 => self.regs[index] = value,
            32 => self.regs[index] = value & 0xffff_ffff,
            _ => self.set_gpr(index, value as u16),
        }
    }

    /// Moves an index register by `elements` in the direction of DF.
    #[inline(always)]
    fn step_string(&mut self, index: usize, op: &Op, bytes: u64) {
        let by = if self.eflags & rflags::DF != 0 { bytes.wrapping_neg() } else { bytes };
        self.set_string_reg(index, op, self.regs[index].wrapping_add(by));
    }

    #[inline(always)]
    fn source<T: Int>(&mut self, op: &Op) -> Result<u64, Stop> {
        let offset = self.string_reg(gpr::RSI, op);
        self.segmented(op.seg, offset, T::SIZE, false)
    }

    #[inline(always)]
    fn target_of<T: Int>(&mut self, op: &Op, write: bool) -> Result<u64, Stop> {
        let offset = self.string_reg(gpr::RDI, op);
        self.segmented(ES, offset, T::SIZE, write)
    }

    /// Bytes that a run from the offset in register `index` may cover: to the end of its page, and not around the
    /// end of the address size or the segment.
    fn run_room<T: Int>(
        &mut self,
        seg: u8,
        index: usize,
        op: &Op,
        bytes: u64,
        write: bool,
    ) -> Option<(u64, u64)> {
        let offset = self.string_reg(index, op);
        let span = u64::MAX >> op.addr_shift;
        let lin = self.segmented(seg, offset, T::SIZE, write).ok()?;
        let mut room = (4096 - (lin & 0xfff)).min(bytes).min((span - offset).saturating_add(1));
        room -= room % T::SIZE as u64;
        if room == 0 || self.segmented(seg, offset, room as usize, write).ok()? != lin {
            return None;
        }
        Some((lin, room))
    }
}

struct Movs;
impl Element for Movs {
    #[inline(always)]
    fn one<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<Stored, Stop> {
        let from = cpu.source::<T>(op)?;
        let value = cpu.load::<T>(from, op.seg)?;
        let to = cpu.target_of::<T>(op, true)?;
        let stored = cpu.store(to, ES, value)?;
        cpu.step_string(gpr::RSI, op, T::SIZE as u64);
        cpu.step_string(gpr::RDI, op, T::SIZE as u64);
        Ok(stored)
    }

    fn run<T: Int>(cpu: &mut Cpu, op: &Op, count: u64) -> (u64, Stored) {
        let none = (0, Stored::CLEAN);
        let bytes = count.saturating_mul(T::SIZE as u64);
        let Some((from, room)) = cpu.run_room::<T>(op.seg, gpr::RSI, op, bytes, false) else { return none };
        let Some((to, len)) = cpu.run_room::<T>(ES, gpr::RDI, op, room, true) else { return none };
        let (Some(source), Some(target)) =
            (cpu.direct(from, len as usize, false), cpu.direct(to, len as usize, true))
        else {
            return none;
        };
        if (target as usize).wrapping_sub(source as usize) < len as usize && T::SIZE > 1 && target != source {
            return none; // the pattern repeats by elements
        }
        // SAFETY: `direct` vouches for `len` bytes at both; the host's MOVSB copies upward byte by byte, which is
        // the guest's own semantics, overlapping or not.
        unsafe {
            asm!("rep movsb", inout("rcx") len => _, inout("rsi") source => _, inout("rdi") target => _,
                 options(nostack, preserves_flags));
        }
        let stored = cpu.note_direct_store(to, len as usize);
        cpu.set_string_reg(gpr::RSI, op, cpu.regs[gpr::RSI].wrapping_add(len));
        cpu.set_string_reg(gpr::RDI, op, cpu.regs[gpr::RDI].wrapping_add(len));
        (len / T::SIZE as u64, stored)
    }
}

struct Stos;
impl Element for Stos {
    #[inline(always)]
    fn one<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<Stored, Stop> {
        let to = cpu.target_of::<T>(op, true)?;
        let value = cpu.gpr::<T>(gpr::RAX);
        let stored = cpu.store(to, ES, value)?;
        cpu.step_string(gpr::RDI, op, T::SIZE as u64);
        Ok(stored)
    }

    fn run<T: Int>(cpu: &mut Cpu, op: &Op, count: u64) -> (u64, Stored) {
        let none = (0, Stored::CLEAN);
        let bytes = count.saturating_mul(T::SIZE as u64);
        let Some((to, len)) = cpu.run_room::<T>(ES, gpr::RDI, op, bytes, true) else { return none };
        let Some(target) = cpu.direct(to, len as usize, true) else { return none };
        let done = len / T::SIZE as u64;
        let value = cpu.regs[gpr::RAX];
        // SAFETY: `direct` vouches for `len` bytes, a multiple of the element; DF is clear in Rust code.
        unsafe {
            match T::SIZE {
                1 => {
                    asm!("rep stosb", inout("rcx") done => _, in("rax") value, inout("rdi") target => _, options(nostack, preserves_flags))
                }
                2 => {
                    asm!("rep stosw", inout("rcx") done => _, in("rax") value, inout("rdi") target => _, options(nostack, preserves_flags))
                }
                4 => {
                    asm!("rep stosd", inout("rcx") done => _, in("rax") value, inout("rdi") target => _, options(nostack, preserves_flags))
                }
                _ => {
                    asm!("rep stosq", inout("rcx") done => _, in("rax") value, inout("rdi") target => _, options(nostack, preserves_flags))
                }
            }
        }
        let stored = cpu.note_direct_store(to, len as usize);
        cpu.set_string_reg(gpr::RDI, op, cpu.regs[gpr::RDI].wrapping_add(len));
        (done, stored)
    }
}

struct Lods;
impl Element for Lods {
    #[inline(always)]
    fn one<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<Stored, Stop> {
        let from = cpu.source::<T>(op)?;
        let value = cpu.load::<T>(from, op.seg)?;
        cpu.set_gpr(gpr::RAX, value);
        cpu.step_string(gpr::RSI, op, T::SIZE as u64);
        Ok(Stored::CLEAN)
    }
}

struct Scas;
impl Element for Scas {
    const COMPARES: bool = true;
    #[inline(always)]
    fn one<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<Stored, Stop> {
        let at = cpu.target_of::<T>(op, false)?;
        let value = cpu.load::<T>(at, ES)?;
        cpu.flags = sub_with(cpu.gpr::<T>(gpr::RAX), value, false).1;
        cpu.step_string(gpr::RDI, op, T::SIZE as u64);
        Ok(Stored::CLEAN)
    }
}

struct Cmps;
impl Element for Cmps {
    const COMPARES: bool = true;
    #[inline(always)]
    fn one<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<Stored, Stop> {
        let from = cpu.source::<T>(op)?;
        let a = cpu.load::<T>(from, op.seg)?;
        let at = cpu.target_of::<T>(op, false)?;
        let b = cpu.load::<T>(at, ES)?;
        cpu.flags = sub_with(a, b, false).1;
        cpu.step_string(gpr::RSI, op, T::SIZE as u64);
        cpu.step_string(gpr::RDI, op, T::SIZE as u64);
        Ok(Stored::CLEAN)
    }
}

struct Ins;
impl Element for Ins {
    fn one<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<Stored, Stop> {
        let port = cpu.gpr::<u16>(gpr::RDX);
        cpu.check_io(port, T::SIZE as u16)?;
        let to = cpu.target_of::<T>(op, true)?;
        // The store must not fault once the device has given its data away.
        cpu.check_address(to, T::SIZE, ES)?;
        cpu.probe(to, T::SIZE, Access::Write, cpu.privilege())?;
        let mut data = [0; 8];
        cpu.io().port_read(port, &mut data[..T::SIZE]);
        let stored = cpu.store(to, ES, T::of(u64::from_le_bytes(data)))?;
        cpu.step_string(gpr::RDI, op, T::SIZE as u64);
        Ok(stored)
    }
}

struct Outs;
impl Element for Outs {
    fn one<T: Int>(cpu: &mut Cpu, op: &Op) -> Result<Stored, Stop> {
        let port = cpu.gpr::<u16>(gpr::RDX);
        cpu.check_io(port, T::SIZE as u16)?;
        let from = cpu.source::<T>(op)?;
        let value = cpu.load::<T>(from, op.seg)?;
        cpu.io().port_write(port, &value.zx().to_le_bytes()[..T::SIZE]);
        cpu.step_string(gpr::RSI, op, T::SIZE as u64);
        Ok(Stored::CLEAN)
    }
}

fn once<T: Int, E: Element>(cpu: &mut Cpu, op: &Op) -> Done {
    E::one::<T>(cpu, op)?.done()
}

fn repeat<T: Int, E: Element>(cpu: &mut Cpu, op: &Op) -> Done {
    let mut slice = SLICE;
    loop {
        let count = cpu.string_reg(gpr::RCX, op);
        if count == 0 {
            return Ok(());
        }
        let stepping = cpu.needs_stepping();
        let forward = cpu.eflags & rflags::DF == 0;
        let (mut done, mut stored) =
            if forward && !stepping && count > 1 { E::run::<T>(cpu, op, count) } else { (0, Stored::CLEAN) };
        let bulk = done != 0;
        if !bulk {
            stored = E::one::<T>(cpu, op)?;
            done = 1;
        }
        cpu.set_string_reg(gpr::RCX, op, count - done);
        let ended = E::COMPARES && cpu.flags.zf() == op.has(op_flag::REPNE);
        if count == done || ended {
            return stored.done();
        }
        // In the middle: other code may have been overwritten, someone may be waiting, or every element traps.
        slice -= if bulk { SLICE / 16 } else { 1 };
        if stored.done().is_err() || stepping || slice <= 0 || cpu.signals.load() != 0 {
            return Err(Stop::Again);
        }
    }
}

pub(crate) fn lower(l: &mut Lowering) -> bool {
    let operands = (0..l.insn.op_count()).map(|i| l.insn.op_kind(i));
    l.op.addr_shift = operands
        .filter_map(|kind| match kind {
            OpKind::MemorySegSI | OpKind::MemoryESDI => Some(48),
            OpKind::MemorySegESI | OpKind::MemoryESEDI => Some(32),
            OpKind::MemorySegRSI | OpKind::MemoryESRDI => Some(0),
            _ => None,
        })
        .next()
        .unwrap_or(0);
    l.op.seg = segment(l.insn);
    let repeated = l.insn.has_rep_prefix() || l.insn.has_repne_prefix();
    macro_rules! pick {
        ($size:literal, $element:ty) => {
            if repeated { sized_done!($size, repeat, $element) } else { sized_done!($size, once, $element) }
        };
    }
    use Mnemonic as M;
    let run = match l.insn.mnemonic() {
        M::Movsb => pick!(1, Movs),
        M::Movsw => pick!(2, Movs),
        M::Movsd => pick!(4, Movs),
        M::Movsq => pick!(8, Movs),
        M::Stosb => pick!(1, Stos),
        M::Stosw => pick!(2, Stos),
        M::Stosd => pick!(4, Stos),
        M::Stosq => pick!(8, Stos),
        M::Lodsb => pick!(1, Lods),
        M::Lodsw => pick!(2, Lods),
        M::Lodsd => pick!(4, Lods),
        M::Lodsq => pick!(8, Lods),
        M::Scasb => pick!(1, Scas),
        M::Scasw => pick!(2, Scas),
        M::Scasd => pick!(4, Scas),
        M::Scasq => pick!(8, Scas),
        M::Cmpsb => pick!(1, Cmps),
        M::Cmpsw => pick!(2, Cmps),
        M::Cmpsd => pick!(4, Cmps),
        M::Cmpsq => pick!(8, Cmps),
        M::Insb => pick!(1, Ins),
        M::Insw => pick!(2, Ins),
        M::Insd => pick!(4, Ins),
        M::Outsb => pick!(1, Outs),
        M::Outsw => pick!(2, Outs),
        M::Outsd => pick!(4, Outs),
        _ => return false,
    };
    l.thread(run)
}
