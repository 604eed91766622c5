//! The first-level TLB that emitted look-ups read: direct-mapped, one bank per privilege, only what the current address
//! space maps. It is filled from the interpreter's, which is tagged by address space and thus the second level.
// UNSAFETY: sites live in the arena and are reached through raw pointers.
#![allow(unsafe_code)]

use std::mem::offset_of;

use interp::core::{Flushes, Mapped, Mode};
use memory::PageInfo;

use super::site::{HEAD, NO_PAGE, NONE, PATIENCE, Pair, Site};

/// Entries per bank.
pub const ENTRIES: usize = 8192;
/// Distance of the page bits that are added to make an index.
pub const FOLD: u32 = 13;
/// User, supervisor, supervisor with SMAP suspended.
pub const BANKS: usize = 3;
/// No page has this address.
const NEVER: u64 = 1;

/// One page.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Entry {
    /// The page, if loads may go to the host.
    read: u64,
    /// The page, if stores may.
    write: u64,
    /// Host address minus linear address.
    addend: u64,
    /// First site on the list.
    first: u32,
    /// It is on the lists of filled entries: bit 0 lower half, bit 1 upper half.
    listed: u8,
}

const _: () = assert!(size_of::<Entry>() == 32);

impl Entry {
    /// Offsets for emitted code.
    pub const READ: i32 = offset_of!(Self, read) as i32;
    pub const WRITE: i32 = offset_of!(Self, write) as i32;
    pub const ADDEND: i32 = offset_of!(Self, addend) as i32;
}

const EMPTY: Entry = Entry { read: NEVER, write: NEVER, addend: 0, first: NONE, listed: 0 };

/// Sites by number; zero is none.
pub struct Sites {
    pairs: *mut Pair,
    sites: *mut Site,
    used: u32,
    capacity: u32,
    /// What empty sites name as their host page.
    dummy: Box<[u64; 512]>,
}

// SAFETY: the sites belong to the vCPU whose arena they are in.
unsafe impl Send for Sites {}

impl Sites {
    /// Sites in `bytes` bytes at `base`, which live as long as the vCPU.
    pub fn new(base: *mut u8, bytes: usize) -> Self {
        let capacity = bytes / (size_of::<Pair>() + size_of::<Site>());
        // SAFETY: the pairs take the first third of the area.
        let sites = unsafe { base.add(capacity * size_of::<Pair>()) };
        let (pairs, sites) = (base.cast(), sites.cast());
        Self { pairs, sites, used: 1, capacity: capacity as u32, dummy: Box::new([0; 512]) }
    }

    /// What emitted code adds to twice a pair's address to find the site.
    pub fn bias(&self) -> u64 {
        (self.sites as u64).wrapping_sub(2 * self.pairs as u64)
    }

    /// True if there is no room for `count` more.
    pub fn is_full(&self, count: usize) -> bool {
        count >= (self.capacity - self.used) as usize
    }

    /// A new empty site: its number. The caller has asked [`is_full`](Self::is_full).
    pub fn add(&mut self) -> u32 {
        let number = self.used.min(self.capacity - 1);
        self.used = number + 1;
        let site = Site {
            after: 0,
            prev: NONE,
            next: NONE,
            missed: 0,
            code: 0,
            offset: 0,
            len: 0,
            count: 1,
            size: 1,
            store: false,
            patience: 1,
        };
        self.set(number, |s| *s = site);
        self.set_pair(number, NO_PAGE, self.dummy.as_ptr() as u64);
        number
    }

    /// Where emitted code finds a site's pair.
    pub fn pair(&self, number: u32) -> u64 {
        self.pairs as u64 + u64::from(number) * size_of::<Pair>() as u64
    }

    /// Says which instruction a site belongs to.
    pub fn describe(&mut self, number: u32, code: u32, insn: (u16, u8), access: (u8, bool)) {
        self.set(number, |s| {
            (s.code, s.offset, s.len, s.size, s.store) = (code, insn.0, insn.1, access.0, access.1);
        });
    }

    /// Says where the code behind the instruction is.
    pub fn continue_at(&mut self, number: u32, after: u64) {
        self.set(number, |s| s.after = after);
    }

    /// Forgets all sites.
    pub fn clear(&mut self) {
        self.used = 1;
    }

    /// Number of the site whose pair is at an address that emitted code has given.
    pub fn by_pair(&self, pair: u64) -> u32 {
        (pair.wrapping_sub(self.pairs as u64) / size_of::<Pair>() as u64) as u32
    }

    /// Number of the site at an address that emitted code has given.
    pub fn by_site(&self, site: u64) -> u32 {
        (site.wrapping_sub(self.sites as u64) / size_of::<Site>() as u64) as u32
    }

    /// A site's content.
    pub fn get(&self, number: u32) -> Site {
        // SAFETY: the number is kept within the data area.
        unsafe { *self.sites.add((number % self.capacity) as usize) }
    }

    fn set(&mut self, number: u32, change: impl FnOnce(&mut Site)) {
        // SAFETY: as above; no reference to a site is kept anywhere.
        change(unsafe { &mut *self.sites.add((number % self.capacity) as usize) });
    }

    fn set_pair(&mut self, number: u32, neg_page: u64, host: u64) {
        // SAFETY: as above.
        unsafe { *self.pairs.add((number % self.capacity) as usize) = Pair { neg_page, host } };
    }
}

/// The TLB.
pub struct Tlb {
    banks: Box<[[Entry; ENTRIES]; BANKS]>,
    /// Numbers of filled entries, lower and upper half of the address space.
    filled: [Vec<u16>; 2],
}

/// Bank of a mode.
pub fn bank(mode: Mode) -> usize {
    if mode.user { 0 } else { 1 + usize::from(mode.user_pages) }
}

fn index(lin: u64) -> usize {
    let page = lin >> 12;
    (page.wrapping_add(page >> FOLD)) as u32 as usize & (ENTRIES - 1)
}

impl Default for Tlb {
    fn default() -> Self {
        let banks = vec![[EMPTY; ENTRIES]; BANKS].into_boxed_slice();
        let banks = banks.try_into().unwrap_or_else(|_| Box::new([[EMPTY; ENTRIES]; BANKS]));
        Self { banks, filled: [Vec::new(), Vec::new()] }
    }
}

impl Tlb {
    /// Where emitted code looks.
    pub fn address(&self, bank: usize) -> *const u8 {
        self.banks[bank].as_ptr().cast()
    }

    /// Remembers a page.
    pub fn fill(&mut self, sites: &mut Sites, bank: usize, lin: u64, page: Mapped, store: bool) {
        let number = (bank * ENTRIES + index(lin)) as u32;
        let lin = lin & !0xfff;
        let addend = (page.host as u64).wrapping_sub(lin);
        let entry = self.entry(number);
        let same = entry.addend == addend && (entry.read == lin || entry.write == lin);
        if !same {
            self.drop_entry(sites, number);
            self.entry(number).addend = addend;
        }
        let entry = self.entry(number);
        *(if store { &mut entry.write } else { &mut entry.read }) = lin;
        let half = 1 << (lin >> 63);
        if entry.listed & half == 0 {
            entry.listed |= half;
            self.filled[(lin >> 63) as usize].push(number as u16);
        }
    }

    fn entry(&mut self, number: u32) -> &mut Entry {
        let number = number as usize % (BANKS * ENTRIES);
        &mut self.banks[number / ENTRIES][number % ENTRIES]
    }

    /// Lets a site name the page of `lin`, which has just been filled or found: its host address less the linear one.
    pub fn promote(&mut self, sites: &mut Sites, bank: usize, lin: u64, site: u32) -> u64 {
        let number = (bank * ENTRIES + index(lin)) as u32;
        self.unlink(sites, site);
        let entry = self.entry(number);
        let addend = entry.addend;
        let host = addend.wrapping_add(lin & !0xfff);
        let next = std::mem::replace(&mut entry.first, site);
        sites.set_pair(site, (lin & !0xfff).wrapping_neg(), host);
        sites.set(site, |s| {
            s.prev = HEAD | number;
            s.next = next;
            s.patience = s.patience.saturating_mul(2).min(PATIENCE);
            s.count = s.patience;
        });
        if next != NONE {
            sites.set(next, |s| s.prev = site);
        }
        addend
    }

    fn unlink(&mut self, sites: &mut Sites, site: u32) {
        let Site { prev, next, .. } = sites.get(site);
        if prev & HEAD != 0 {
            self.entry(prev & !HEAD).first = next;
        } else if prev != NONE {
            sites.set(prev, |s| s.next = next);
        }
        if next != NONE {
            sites.set(next, |s| s.prev = prev);
        }
    }

    fn drop_sites(&mut self, sites: &mut Sites, number: u32) {
        let mut at = std::mem::replace(&mut self.entry(number).first, NONE);
        let dummy = sites.dummy.as_ptr() as u64;
        while at != NONE {
            let next = sites.get(at).next;
            sites.set_pair(at, NO_PAGE, dummy);
            sites.set(at, |s| (s.prev, s.next, s.count) = (NONE, NONE, 1));
            at = next;
        }
    }

    fn drop_entry(&mut self, sites: &mut Sites, number: u32) {
        self.drop_sites(sites, number);
        let entry = self.entry(number);
        (entry.read, entry.write) = (NEVER, NEVER);
    }

    fn drop_half(&mut self, sites: &mut Sites, half: usize) {
        for number in std::mem::take(&mut self.filled[half]) {
            let number = u32::from(number);
            // It may hold a page of the other half by now, and be on both lists then: dropping that too does no harm.
            self.drop_entry(sites, number);
            self.entry(number).listed &= !(1 << half);
        }
    }

    /// Takes back what the interpreter's TLB has dropped.
    pub fn flush(&mut self, sites: &mut Sites, flushes: &Flushes) {
        if flushes.lower {
            self.drop_half(sites, 0);
        }
        if flushes.upper {
            self.drop_half(sites, 1);
        }
        for &page in flushes.pages() {
            for bank in 0..BANKS {
                let number = (bank * ENTRIES + index(page)) as u32;
                let entry = self.entry(number);
                if entry.read == page || entry.write == page {
                    self.drop_entry(sites, number);
                }
            }
        }
    }

    /// Stores to a page, whatever its linear address, have to be looked at from now on.
    pub fn protect(&mut self, sites: &mut Sites, host: *const u8) {
        for half in 0..2 {
            for i in 0..self.filled[half].len() {
                let number = u32::from(self.filled[half][i]);
                let entry = self.entry(number);
                if entry.write != NEVER && entry.addend.wrapping_add(entry.write) == host as u64 {
                    entry.write = NEVER;
                    self.drop_sites(sites, number);
                }
            }
        }
    }

    /// Drops everything.
    pub fn clear(&mut self, sites: &mut Sites) {
        self.drop_half(sites, 0);
        self.drop_half(sites, 1);
    }
}

/// True if stores to the page may go to the host without anybody looking.
pub fn store_is_free(info: *const PageInfo) -> bool {
    // SAFETY: `Mapped::info` points into the page table of guest RAM, which the vCPU keeps alive.
    !info.is_null() && !unsafe { (*info).has_code() }
}
