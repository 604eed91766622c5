//! Loads and stores beside the fast path: TLB misses, page crossings, memory-mapped I/O, segment checks and
//! watchpoints.
// UNSAFETY: reads and writes RAM through the host page of a translation.
#![allow(unsafe_code)]

use std::sync::Mutex;

use cpu::x86::{Exception, cr0, rflags, seg, seg_attr, vector};

use super::access::{Int, Stored, fits};
use super::{Access, Privilege};
use crate::cpu::{CodeSize, Cpu};
use crate::op::Stop;

/// Locked operations that cross a page or touch a device exclude each other. Plain accesses of other vCPUs may
/// come in between their halves.
static SPLIT_LOCK: Mutex<()> = Mutex::new(());

impl Cpu {
    /// Privilege of an instruction's explicit accesses.
    pub fn privilege(&self) -> Privilege {
        if self.cpl == 3 { Privilege::User } else { Privilege::Supervisor }
    }

    /// Checks a segment-relative access outside 64-bit mode and gives its linear address.
    pub fn checked_segment(
        &mut self,
        seg_index: u8,
        offset: u64,
        size: usize,
        write: bool,
    ) -> Result<u64, Stop> {
        let Some(segment) = self.segments.get(usize::from(seg_index)).copied() else {
            return Ok(offset); // the flat slot: system structures in protected mode use their own checks
        };
        let limit = u64::from(segment.limit);
        let last = offset.wrapping_add(size as u64 - 1);
        let fault = |cpu: &mut Self| {
            let vector = if usize::from(seg_index) == seg::SS { vector::SS } else { vector::GP };
            Err(cpu.raise(Exception::with_code(vector, 0)))
        };
        if self.real_segments() {
            if last > limit || last < offset {
                return fault(self);
            }
            return Ok(segment.base.wrapping_add(offset) & 0xffff_ffff);
        }
        let attr = segment.attr;
        if attr & seg_attr::UNUSABLE != 0 || attr & seg_attr::P == 0 {
            return fault(self);
        }
        let code = attr & seg_attr::CODE != 0;
        let denied = if write { code || attr & seg_attr::RW == 0 } else { code && attr & seg_attr::RW == 0 };
        let expand_down = !code && attr & seg_attr::DC != 0;
        let outside = if expand_down {
            let top = if attr & seg_attr::DB != 0 { 0xffff_ffff } else { 0xffff };
            offset <= limit || last > top || last < offset
        } else {
            last > limit || last < offset
        };
        if denied || outside {
            return fault(self);
        }
        Ok(segment.base.wrapping_add(offset) & 0xffff_ffff)
    }

    /// Raises #GP or #SS for an address that is not canonical, #AC for a misaligned one where that is on.
    pub fn check_address(&mut self, lin: u64, size: usize, seg_index: u8) -> Result<(), Stop> {
        if self.code_size == CodeSize::Bits64 {
            let last = lin.wrapping_add(size as u64 - 1);
            if !Self::canonical(lin) || !Self::canonical(last) {
                let vector = if usize::from(seg_index) == seg::SS { vector::SS } else { vector::GP };
                return Err(self.raise(Exception::with_code(vector, 0)));
            }
        }
        if self.alignment_checked() && size <= 8 && lin & (size as u64 - 1) != 0 {
            return Err(self.raise(Exception::with_code(vector::AC, 0)));
        }
        Ok(())
    }

    /// CPL 3 with CR0.AM and EFLAGS.AC: such a CPU gets no TLB entries, so that every access comes here.
    fn alignment_checked(&self) -> bool {
        self.cpl == 3 && self.cr0 & cr0::AM != 0 && self.eflags & rflags::AC != 0
    }

    #[cold]
    #[inline(never)]
    pub(super) fn load_slow<T: Int>(&mut self, lin: u64, seg_index: u8) -> Result<T, Stop> {
        self.check_address(lin, T::SIZE, seg_index)?;
        let mut bytes = [0; 8];
        self.read_linear(lin, &mut bytes[..T::SIZE], self.privilege())?;
        Ok(T::of(u64::from_le_bytes(bytes)))
    }

    #[cold]
    #[inline(never)]
    pub(super) fn store_slow<T: Int>(&mut self, lin: u64, seg_index: u8, value: T) -> Result<Stored, Stop> {
        self.check_address(lin, T::SIZE, seg_index)?;
        self.write_linear(lin, &value.zx().to_le_bytes()[..T::SIZE], self.privilege())
    }

    /// The load of a read-modify-write: faults are those of a store.
    #[cold]
    #[inline(never)]
    pub(super) fn load_for_write<T: Int>(&mut self, lin: u64, seg_index: u8) -> Result<T, Stop> {
        self.check_address(lin, T::SIZE, seg_index)?;
        self.probe(lin, T::SIZE, Access::Write, self.privilege())?;
        let mut bytes = [0; 8];
        self.read_linear(lin, &mut bytes[..T::SIZE], self.privilege())?;
        Ok(T::of(u64::from_le_bytes(bytes)))
    }

    /// A locked operation on a page crossing, on a device, or with alignment checks on.
    #[cold]
    pub(super) fn modify_split<T: Int, R>(
        &mut self,
        lin: u64,
        seg_index: u8,
        _: T,
        mut change: impl FnMut(&mut Self, T) -> (T, R),
    ) -> Result<(Stored, R), Stop> {
        let _guard = SPLIT_LOCK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let old = self.load_for_write(lin, seg_index)?;
        let (new, result) = change(self, old);
        Ok((self.store_slow(lin, seg_index, new)?, result))
    }

    /// Checks that `size` bytes may be accessed, without accessing them.
    pub fn probe(&mut self, lin: u64, size: usize, access: Access, privilege: Privilege) -> Result<(), Stop> {
        self.page(lin, access, privilege)?;
        if !fits(lin, size) {
            self.page((lin | 0xfff).wrapping_add(1), access, privilege)?;
        }
        Ok(())
    }

    /// Reads bytes at a linear address; may cross pages and touch devices.
    pub fn read_linear(&mut self, lin: u64, data: &mut [u8], privilege: Privilege) -> Result<(), Stop> {
        self.watch(lin, data.len(), false);
        let mut at = 0;
        while at < data.len() {
            let here = self.wrap_linear(lin.wrapping_add(at as u64));
            let len = (4096 - (here & 0xfff) as usize).min(data.len() - at);
            let phys = self.page(here, Access::Read, privilege)?;
            self.read_phys(phys, &mut data[at..at + len]);
            at += len;
        }
        Ok(())
    }

    /// Writes bytes at a linear address; nothing is written unless all pages allow it.
    pub fn write_linear(&mut self, lin: u64, data: &[u8], privilege: Privilege) -> Result<Stored, Stop> {
        let lin = self.wrap_linear(lin);
        let first_len = (4096 - (lin & 0xfff) as usize).min(data.len());
        let phys = self.page(lin, Access::Write, privilege)?;
        let mut stored = Stored::CLEAN;
        if first_len < data.len() {
            // All callers write far less than a page.
            let next = self.wrap_linear(lin.wrapping_add(first_len as u64));
            let second = self.page(next, Access::Write, privilege)?;
            stored = stored.and(self.write_phys(second, &data[first_len..]));
        }
        stored = stored.and(self.write_phys(phys, &data[..first_len]));
        self.watch(lin, data.len(), true);
        Ok(stored)
    }

    /// Outside 64-bit mode linear addresses have 32 bits.
    pub fn wrap_linear(&self, lin: u64) -> u64 {
        if self.long_mode() { lin } else { lin & 0xffff_ffff }
    }

    /// Translates one address, fills the TLB where direct access is possible, raises #PF.
    pub(crate) fn page(&mut self, lin: u64, access: Access, privilege: Privilege) -> Result<u64, Stop> {
        let translation = match self.translate(lin, access, privilege) {
            Ok(translation) => translation,
            Err(exception) => return Err(self.raise(exception)),
        };
        self.tlb.note_size(lin, translation.size);
        if access == Access::Execute {
            self.tlb.note_code(lin, translation.global);
        }
        let own = privilege == self.privilege();
        if own && access != Access::Execute && !self.alignment_checked() && !self.watched_page(lin) {
            let ram = self.ram.clone();
            if let Some(page) = ram.page(translation.phys) {
                self.tlb.fill(
                    lin,
                    page.host.as_ptr(),
                    page.info,
                    translation.read,
                    translation.write,
                    translation.global,
                );
            }
        }
        Ok(translation.phys)
    }

    /// Reads guest-physical bytes within one page: RAM or device.
    pub fn read_phys(&mut self, phys: u64, data: &mut [u8]) {
        match self.ram.page(phys) {
            Some(page) => {
                // SAFETY: the callers keep to one page, which is mapped while `self.ram` lives.
                let from = unsafe { page.host.as_ptr().add((phys & 0xfff) as usize) };
                match data.len() {
                    // SAFETY: as above; one access each, as atomic as the guest's own.
                    2 => data.copy_from_slice(&unsafe { u16::load(from) }.to_le_bytes()),
                    // SAFETY: as above.
                    4 => data.copy_from_slice(&unsafe { u32::load(from) }.to_le_bytes()),
                    // SAFETY: as above.
                    8 => data.copy_from_slice(&unsafe { u64::load(from) }.to_le_bytes()),
                    _ => {
                        let (words, rest) = data.as_chunks_mut();
                        for (i, word) in words.iter_mut().enumerate() {
                            // SAFETY: as above.
                            *word = unsafe { u64::load(from.add(8 * i)) }.to_le_bytes();
                        }
                        for (i, byte) in rest.iter_mut().enumerate() {
                            // SAFETY: as above.
                            *byte = unsafe { u8::load(from.add(8 * words.len() + i)) };
                        }
                    }
                }
            }
            None => {
                let mut at = 0;
                while at < data.len() {
                    let len = bus_width(data.len() - at);
                    self.io().mmio_read(phys + at as u64, &mut data[at..at + len]);
                    at += len;
                }
            }
        }
    }

    /// Writes guest-physical bytes within one page: RAM or device.
    pub fn write_phys(&mut self, phys: u64, data: &[u8]) -> Stored {
        match self.ram.page(phys) {
            Some(page) => {
                // SAFETY: as in `read_phys`.
                let to = unsafe { page.host.as_ptr().add((phys & 0xfff) as usize) };
                match *data {
                    // SAFETY: as in `read_phys`.
                    [a, b] => unsafe { u16::store(to, u16::from_le_bytes([a, b])) },
                    // SAFETY: as in `read_phys`.
                    [a, b, c, d] => unsafe { u32::store(to, u32::from_le_bytes([a, b, c, d])) },
                    // SAFETY: as in `read_phys`.
                    [a, b, c, d, e, f, g, h] => unsafe {
                        u64::store(to, u64::from_le_bytes([a, b, c, d, e, f, g, h]))
                    },
                    _ => {
                        let (words, rest) = data.as_chunks();
                        for (i, &word) in words.iter().enumerate() {
                            // SAFETY: as in `read_phys`.
                            unsafe { u64::store(to.add(8 * i), u64::from_le_bytes(word)) };
                        }
                        for (i, &byte) in rest.iter().enumerate() {
                            // SAFETY: as in `read_phys`.
                            unsafe { u8::store(to.add(8 * words.len() + i), byte) };
                        }
                    }
                }
                Stored { hit_code: page.info.note_store((phys & 0xfff) as u16, data.len() as u16) }
            }
            None => {
                let mut at = 0;
                while at < data.len() {
                    let len = bus_width(data.len() - at);
                    self.io().mmio_write(phys + at as u64, &data[at..at + len]);
                    at += len;
                }
                Stored::CLEAN
            }
        }
    }

    /// True if a data breakpoint lies in the page: it gets no TLB entry, so that its accesses come here.
    fn watched_page(&self, lin: u64) -> bool {
        let dr7 = self.dr[5];
        dr7 & 0xff != 0 && (0..4).any(|i| dr7 >> (i * 2) & 3 != 0 && (self.dr[i] ^ lin) & !0xfff == 0)
    }

    /// Notes the data breakpoints that an access hits; #DB follows after the instruction.
    fn watch(&mut self, lin: u64, len: usize, write: bool) {
        let dr7 = self.dr[5];
        if dr7 & 0xff == 0 {
            return;
        }
        for i in 0..4 {
            let kind = dr7 >> (16 + i * 4) & 3;
            let size = [1u64, 2, 8, 4][(dr7 >> (18 + i * 4) & 3) as usize];
            let start = self.dr[i] & !(size - 1);
            let overlap = lin < start.wrapping_add(size) && start < lin.wrapping_add(len as u64);
            let wanted = kind == 3 || (kind == 1 && write);
            if dr7 >> (i * 2) & 3 != 0 && wanted && overlap {
                self.watch_hits |= 1 << i;
            }
        }
    }
}

/// The next access of the bus where `left` bytes remain: parts of a page crossing and 10-byte operands have odd
/// lengths, buses have not.
fn bus_width(left: usize) -> usize {
    if left >= 8 { 8 } else { 1 << left.ilog2() }
}
