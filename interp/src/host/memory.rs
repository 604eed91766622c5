//! Memory operands of vector and x87 instructions: a pointer into guest RAM where the TLB allows it, else
//! through `HostState::scratch`.
// UNSAFETY: reads and writes guest RAM through TLB entries, as `mmu::access` does.
#![allow(unsafe_code)]

use std::arch::asm;

use cpu::x86::{Exception, seg, vector};

use crate::cpu::{CodeSize, Cpu};
use crate::mmu::{Access, Stored};
use crate::op::{Op, Stop};

/// Copies 16 bytes with one load and one store.
///
/// # Safety
/// `from` is readable and `to` writable for 16 bytes.
#[inline(always)]
pub(super) unsafe fn copy16(from: *const u8, to: *mut u8) {
    // SAFETY: the caller vouches for both pointers; one XMM register is clobbered and declared.
    unsafe {
        asm!("movdqu {x}, [{from}]", "movdqu [{to}], {x}", x = out(xmm_reg) _, from = in(reg) from,
            to = in(reg) to, options(nostack, preserves_flags));
    }
}

impl Cpu {
    /// A pointer to `size` (at most 64) readable bytes: the memory operand, or a copy of it. `align` has the
    /// address bits that must be zero.
    #[inline(always)]
    pub(super) fn vector_source(&mut self, op: &Op, size: usize, align: u64) -> Result<*const u8, Stop> {
        let lin = self.linear(op, size, false)?;
        if lin & align != 0 {
            return Err(self.misaligned(lin, op.seg));
        }
        match self.direct(lin, size, false) {
            Some(pointer) => Ok(pointer),
            None => self.source_slow(lin, op.seg, size),
        }
    }

    #[cold]
    #[inline(never)]
    fn source_slow(&mut self, lin: u64, seg: u8, size: usize) -> Result<*const u8, Stop> {
        let mut bytes = [0; 64];
        self.read_operand(lin, seg, &mut bytes[..size])?;
        self.host.scratch.0 = bytes;
        Ok(self.host.scratch.0.as_ptr())
    }

    /// Copies a memory operand of any size out of the guest.
    pub(super) fn read_operand(&mut self, lin: u64, seg: u8, bytes: &mut [u8]) -> Result<(), Stop> {
        match bytes {
            [a] => *a = self.load::<u8>(lin, seg)?,
            [_, _] => bytes.copy_from_slice(&self.load::<u16>(lin, seg)?.to_le_bytes()),
            [_, _, _, _] => bytes.copy_from_slice(&self.load::<u32>(lin, seg)?.to_le_bytes()),
            [_, _, _, _, _, _, _, _] => bytes.copy_from_slice(&self.load::<u64>(lin, seg)?.to_le_bytes()),
            _ => {
                self.check_canonical(lin, seg, bytes.len())?;
                self.read_linear(lin, bytes, self.privilege())?;
            }
        }
        Ok(())
    }

    /// Copies a memory operand of any size into the guest; nothing is written if it faults.
    pub(super) fn write_operand(&mut self, lin: u64, seg: u8, bytes: &[u8]) -> Result<Stored, Stop> {
        match *bytes {
            [a] => self.store(lin, seg, a),
            [a, b] => self.store(lin, seg, u16::from_le_bytes([a, b])),
            [a, b, c, d] => self.store(lin, seg, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => self.store(lin, seg, u64::from_le_bytes([a, b, c, d, e, f, g, h])),
            _ => {
                self.check_canonical(lin, seg, bytes.len())?;
                self.write_linear(lin, bytes, self.privilege())
            }
        }
    }

    /// Linear address of a memory operand to be read.
    pub(super) fn source_address(&mut self, op: &Op, size: usize) -> Result<u64, Stop> {
        self.linear(op, size, false)
    }

    /// The same, with the address bits that must be zero.
    pub(super) fn source_address_aligned(&mut self, op: &Op, size: usize, align: u64) -> Result<u64, Stop> {
        let lin = self.linear(op, size, false)?;
        if lin & align != 0 {
            return Err(self.misaligned(lin, op.seg));
        }
        Ok(lin)
    }

    /// Checks that the parts of an XSAVE image can be written, so that none is unless all can.
    pub(super) fn probe_area(&mut self, lin: u64, seg: u8, components: u64) -> Result<(), Stop> {
        let len = if components & cpu::x86::xcr0::AVX != 0 { cpu::XSAVE_LEN } else { 576 };
        self.probe_target(lin, seg, len)
    }

    /// Linear address of a memory operand to be written.
    #[inline(always)]
    pub(super) fn vector_target(&mut self, op: &Op, size: usize, align: u64) -> Result<u64, Stop> {
        let lin = self.linear(op, size, true)?;
        if lin & align != 0 {
            return Err(self.misaligned(lin, op.seg));
        }
        Ok(lin)
    }

    /// Stores an XMM or YMM register (16 or 32 bytes at `from`).
    ///
    /// # Safety
    /// `from` is readable for `size` bytes.
    #[inline(always)]
    pub(super) unsafe fn store_vector(
        &mut self,
        lin: u64,
        seg: u8,
        from: *const u8,
        size: usize,
    ) -> Result<Stored, Stop> {
        let entry = *self.tlb.entry(lin);
        if let Some(to) = self.direct(lin, size, true) {
            // SAFETY: `direct` vouches for `to` (a writable page of guest RAM), the caller for `from`; the entry
            // that `direct` matched has a valid `info`.
            let hit_code = unsafe {
                copy16(from, to);
                if size == 32 {
                    copy16(from.add(16), to.add(16));
                }
                (*entry.info).note_store((lin & 0xfff) as u16, size as u16)
            };
            return Ok(Stored::noted(hit_code));
        }
        // SAFETY: as the caller says; guest registers are no guest RAM, so nobody else writes them.
        let bytes = unsafe { std::slice::from_raw_parts(from, size) };
        let mut copy = [0; 32];
        copy[..size].copy_from_slice(bytes);
        self.write_operand(lin, seg, &copy[..size])
    }

    /// Checks that a memory operand could be written now.
    pub(super) fn probe_target(&mut self, lin: u64, seg: u8, size: usize) -> Result<(), Stop> {
        self.check_canonical(lin, seg, size)?;
        self.probe(lin, size, Access::Write, self.privilege())
    }

    /// Checks the last byte of a large operand, which CPUs reach for before they go through it from the start.
    pub(super) fn probe_end(&mut self, lin: u64, seg: u8, size: usize, access: Access) -> Result<(), Stop> {
        self.check_canonical(lin, seg, size)?;
        self.probe(lin.wrapping_add(size as u64 - 1), 1, access, self.privilege())
    }

    /// #GP(0), or #SS(0) for a stack address that is not even canonical.
    #[cold]
    fn misaligned(&mut self, lin: u64, seg: u8) -> Stop {
        match self.check_canonical(lin, seg, 1) {
            Err(stop) => stop,
            Ok(()) => self.raise(Exception::gp(0)),
        }
    }

    fn check_canonical(&mut self, lin: u64, seg_index: u8, size: usize) -> Result<(), Stop> {
        let last = lin.wrapping_add(size as u64 - 1);
        if self.code_size == CodeSize::Bits64 && !(Self::canonical(lin) && Self::canonical(last)) {
            let stack = usize::from(seg_index) == seg::SS;
            let vector = if stack { vector::SS } else { vector::GP };
            return Err(self.raise(Exception::with_code(vector, 0)));
        }
        Ok(())
    }
}
