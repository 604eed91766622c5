//! The page walk: 32-bit, PAE and 4-level paging (Intel SDM volume 3, chapter 4).

use cpu::x86::{Exception, cr0, cr4, efer, rflags};

use super::{Access, Privilege};
use crate::cpu::Cpu;

/// Page fault error code bits.
mod pf {
    pub const P: u32 = 1 << 0;
    pub const W: u32 = 1 << 1;
    pub const U: u32 = 1 << 2;
    pub const RSVD: u32 = 1 << 3;
    pub const I: u32 = 1 << 4;
}

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NX: u64 = 1 << 63;
/// Guest-physical addresses have 46 bits; CPUID says so too.
pub(crate) const PHYS_BITS: u32 = 46;
const PHYS_MASK: u64 = (1 << PHYS_BITS) - 1;
const ADDR: u64 = PHYS_MASK & !0xfff;

/// Where a linear address leads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Translation {
    pub phys: u64,
    /// Stores are allowed and the dirty bit is set (for the privilege asked).
    pub write: bool,
    /// Loads are allowed.
    pub read: bool,
    pub global: bool,
    /// The page's bytes.
    pub size: u64,
}

/// The entries of a walk, folded.
struct Walk {
    /// The last entry and where it is.
    leaf: u64,
    leaf_addr: u64,
    /// AND of all U and W bits.
    allowed: u64,
    /// Some entry has NX.
    nx: bool,
    size: u64,
}

impl Cpu {
    /// Translates without faulting on canonicality, which the caller has checked. Sets accessed and dirty bits.
    pub fn translate(
        &self,
        lin: u64,
        access: Access,
        privilege: Privilege,
    ) -> Result<Translation, Exception> {
        if !self.paging() {
            let phys = lin & 0xffff_ffff & PHYS_MASK;
            return Ok(Translation { phys, write: true, read: true, global: false, size: 1 << 12 });
        }
        let fault = |code: u32| {
            let mut code = code;
            code |= if access == Access::Write { pf::W } else { 0 };
            code |= if privilege == Privilege::User { pf::U } else { 0 };
            let fetch = access == Access::Execute
                && (self.efer & efer::NXE != 0 && self.cr4 & cr4::PAE != 0 || self.cr4 & cr4::SMEP != 0);
            code |= if fetch { pf::I } else { 0 };
            Exception::page_fault(code, lin)
        };
        // Another CPU may change an entry between its load and the update of its A bit: then walk again. A guest
        // that keeps doing so from other vCPUs only delays itself.
        loop {
            let walk = if self.cr4 & cr4::PAE == 0 {
                self.walk32(lin).map_err(fault)?
            } else {
                self.walk64(lin).map_err(fault)?
            };
            let Some(mut walk) = walk else { continue };
            let (read, write) = self.permitted(&walk, access, privilege).ok_or_else(|| fault(pf::P))?;
            if !self.mark_leaf(&mut walk, access) {
                continue;
            }
            let offset = lin & (walk.size - 1);
            let base = if self.cr4 & cr4::PAE == 0 {
                base32(walk.leaf, walk.size)
            } else {
                walk.leaf & ADDR & !(walk.size - 1)
            };
            return Ok(Translation {
                phys: base | offset,
                read,
                write: write && walk.leaf & DIRTY != 0,
                global: walk.leaf & GLOBAL != 0 && self.cr4 & cr4::PGE != 0,
                size: walk.size,
            });
        }
    }

    /// Whether `access` is allowed (else `None`), and whether loads and stores would be.
    fn permitted(&self, walk: &Walk, access: Access, privilege: Privilege) -> Option<(bool, bool)> {
        let user_page = walk.allowed & USER != 0;
        let writable = walk.allowed & WRITABLE != 0;
        let (read, write, execute) = if privilege == Privilege::User {
            (user_page, user_page && writable, user_page && !walk.nx)
        } else {
            let smap = self.cr4 & cr4::SMAP != 0
                && user_page
                && (privilege == Privilege::System || self.eflags & rflags::AC == 0);
            let smep = self.cr4 & cr4::SMEP != 0 && user_page;
            (!smap, !smap && (writable || self.cr0 & cr0::WP == 0), !walk.nx && !smep)
        };
        let allowed = match access {
            Access::Read => read,
            Access::Write => write,
            Access::Execute => execute,
        };
        allowed.then_some((read, write))
    }

    /// PAE and 4-level. `Ok(None)`: an entry changed under the walk. `Err`: error code of the fault.
    fn walk64(&self, lin: u64) -> Result<Option<Walk>, u32> {
        let long = self.long_mode();
        let nxe = self.efer & efer::NXE != 0;
        let mut allowed = USER | WRITABLE;
        let mut nx = false;
        let (mut table, mut shift) =
            if long { (self.cr3 & ADDR, 39u32) } else { (self.cr3 & 0xffff_ffe0, 30) };
        loop {
            let index_mask = if shift == 30 && !long { 3 } else { 0x1ff };
            let addr = table + ((lin >> shift) & index_mask) * 8;
            // A table outside RAM reads as all ones, as an open bus does: reserved bits fault.
            let entry = self.ram.load_u64(addr).unwrap_or(u64::MAX);
            if entry & PRESENT == 0 {
                return Err(0);
            }
            let top_pae = shift == 30 && !long;
            let large = entry & LARGE != 0 && shift != 12 && !top_pae;
            let size = 1u64 << shift;
            let mut reserved = (!PHYS_MASK & 0x000f_ffff_ffff_ffff) | if nxe { 0 } else { NX };
            if large {
                if shift == 39 || (shift == 30 && !self.gigabyte_pages()) {
                    reserved |= LARGE;
                }
                reserved |= (size - 1) & ADDR & !(1 << 12); // bit 12 is PAT
            } else if shift == 39 {
                reserved |= LARGE;
            }
            if top_pae {
                reserved |= 0x1e6 | NX;
            }
            if !long && !top_pae {
                reserved |= 0x7ff0_0000_0000_0000;
            }
            if entry & reserved != 0 {
                return Err(pf::P | pf::RSVD);
            }
            if !top_pae {
                allowed &= entry;
                nx |= nxe && entry & NX != 0;
            }
            let leaf = large || shift == 12;
            if leaf {
                return Ok(Some(Walk { leaf: entry, leaf_addr: addr, allowed, nx, size }));
            }
            if !top_pae && entry & ACCESSED == 0 && !self.ram.update_u64(addr, entry, entry | ACCESSED) {
                return Ok(None);
            }
            table = entry & ADDR;
            shift -= 9;
        }
    }

    /// Sets A and, for a store, D in the last entry; false if another CPU has changed it meanwhile.
    fn mark_leaf(&self, walk: &mut Walk, access: Access) -> bool {
        let new = walk.leaf | ACCESSED | if access == Access::Write { DIRTY } else { 0 };
        let old = std::mem::replace(&mut walk.leaf, new);
        old == new
            || if self.cr4 & cr4::PAE == 0 {
                self.ram.update_u32(walk.leaf_addr, old as u32, new as u32)
            } else {
                self.ram.update_u64(walk.leaf_addr, old, new)
            }
    }

    fn walk32(&self, lin: u64) -> Result<Option<Walk>, u32> {
        let pde_addr = (self.cr3 & 0xffff_f000) + ((lin >> 22) & 0x3ff) * 4;
        let pde = self.ram.load_u32(pde_addr).unwrap_or(u32::MAX);
        if u64::from(pde) & PRESENT == 0 {
            return Err(0);
        }
        let large = u64::from(pde) & LARGE != 0 && self.cr4 & cr4::PSE != 0;
        if large {
            // PSE-36: bits 13-20 are address bits 32-39, bit 21 is reserved.
            if pde & (1 << 21) != 0 {
                return Err(pf::P | pf::RSVD);
            }
            let leaf = u64::from(pde);
            return Ok(Some(Walk { leaf, leaf_addr: pde_addr, allowed: leaf, nx: false, size: 1 << 22 }));
        }
        if u64::from(pde) & ACCESSED == 0 && !self.ram.update_u32(pde_addr, pde, pde | ACCESSED as u32) {
            return Ok(None);
        }
        let pte_addr = u64::from(pde & 0xffff_f000) + ((lin >> 12) & 0x3ff) * 4;
        let pte = self.ram.load_u32(pte_addr).unwrap_or(u32::MAX);
        if u64::from(pte) & PRESENT == 0 {
            return Err(0);
        }
        let allowed = u64::from(pte & pde);
        Ok(Some(Walk { leaf: u64::from(pte), leaf_addr: pte_addr, allowed, nx: false, size: 1 << 12 }))
    }

    fn gigabyte_pages(&self) -> bool {
        self.model.gigabyte_pages()
    }

    /// Canonical in 64-bit mode; always true elsewhere.
    #[inline]
    pub fn canonical(lin: u64) -> bool {
        ((lin << 16) as i64 >> 16) as u64 == lin
    }
}

/// Base of a 32-bit leaf: 4 KiB, or 4 MiB with PSE-36.
fn base32(leaf: u64, size: u64) -> u64 {
    if size == 1 << 22 { (leaf & 0xffc0_0000) | ((leaf & 0x001f_e000) << 19) } else { leaf & 0xffff_f000 }
}
