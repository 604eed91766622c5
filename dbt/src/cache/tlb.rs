//! The first-level TLB that emitted look-ups read: direct-mapped, only what the current address space maps, with a table
//! for loads and one for stores per privilege, each with room for entries that others have replaced. It is filled from the interpreter's, which is tagged by address space and
//! thus the second level. The tables lie in the context; what the engine has to know of their entries is here.
// UNSAFETY: sites live in the arena, tables in the context; both are reached through raw pointers.
#![allow(unsafe_code)]

use std::collections::HashMap;

use interp::core::{Flushes, Mapped, Mode};
use memory::PageInfo;

use super::away::Away;
use super::pages::nowhere;
use super::site::{HEAD, NONE, PARKED, Pair, Site};

/// Entries of a table.
pub const ENTRIES: usize = 8192;
/// Page bits of an address, shifted right by eight, that are the offset in a table.
pub const INDEX: u32 = (ENTRIES as u32 - 1) << 4;
/// User, supervisor, supervisor with SMAP suspended.
const BANKS: usize = 3;
/// Loads and stores of every bank.
pub const TABLES: usize = 2 * BANKS;

/// Entries behind them for what others have replaced. Each serves the pages of several entries, and emitted code that finds
/// a page there exchanges it with what has replaced it.
const VICTIMS: usize = 1024;
const SLOTS: usize = ENTRIES + VICTIMS;
/// Where they begin in a table, in bytes, and which bits of an entry's offset choose among them.
pub const VICTIMS_AT: u32 = (ENTRIES * size_of::<Pair>()) as u32;
pub const VICTIM_INDEX: u32 = (VICTIMS as u32 - 1) << 4;

/// A table as emitted code sees it.
pub type Table = [Pair; SLOTS];

/// What the engine knows of an entry.
#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// First site on the list.
    first: u32,
    /// It is on the lists of filled entries: bit 0 lower half, bit 1 upper half.
    listed: u8,
}

/// Where an operand lies that its instruction names: how many bytes from which code page, or at which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Place {
    pub from: Option<u32>,
    /// The page's address, or its distance.
    pub page: i32,
    /// The address is above 2 GiB, not negative.
    pub far: bool,
    pub table: usize,
}

/// Sites by number; zero is none.
pub struct Sites {
    pairs: *mut Pair,
    sites: *mut Site,
    used: u32,
    capacity: u32,
    /// Those whose pair serves all instructions that name operands in a page.
    shared: HashMap<Place, u32>,
    /// What empty sites and entries hold: a page of no guest's, at an address that no guest can know.
    none: Pair,
    _dummy: Box<[u64; 512]>,
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
        let dummy = Box::new([0u64; 512]);
        let none = Pair { neg_page: nowhere().wrapping_neg(), host: dummy.as_ptr() as u64 };
        Self { pairs, sites, used: 1, capacity: capacity as u32, shared: HashMap::new(), none, _dummy: dummy }
    }

    /// True if there is no room for `count` more.
    pub fn is_full(&self, count: usize) -> bool {
        count >= (self.capacity - self.used) as usize
    }

    /// A new empty site: its number. The caller has asked [`is_full`](Self::is_full).
    pub fn add(&mut self) -> u32 {
        let number = self.used.min(self.capacity - 1);
        self.used = number + 1;
        self.set(number, |s| *s = Site::default());
        self.set_pair(number, self.none);
        number
    }

    /// The site whose pair serves a place, made if it is the first one asked for.
    pub fn shared(&mut self, place: Place) -> u32 {
        if let Some(&number) = self.shared.get(&place) {
            return number;
        }
        let number = self.add();
        self.shared.insert(place, number);
        number
    }

    /// Where emitted code finds a site's pair.
    pub fn pair(&self, number: u32) -> u64 {
        self.pairs as u64 + u64::from(number) * size_of::<Pair>() as u64
    }

    /// Says which instruction a site belongs to.
    pub fn describe(&mut self, number: u32, code: u32, insn: (u16, u8), access: (u8, bool), parked: bool) {
        self.set(number, |s| {
            (s.code, s.offset, s.len) = (code, insn.0, insn.1 | if parked { PARKED } else { 0 });
            s.size = if access.1 { -(access.0 as i8) } else { access.0 as i8 };
        });
    }

    /// Says where the code behind the instruction is.
    pub fn continue_at(&mut self, number: u32, after: u64) {
        self.set(number, |s| s.after = after);
    }

    /// Forgets all sites.
    pub fn clear(&mut self) {
        self.used = 1;
        self.shared.clear();
    }

    /// Number of the site whose pair is at an address that emitted code has given.
    pub fn by_pair(&self, pair: u64) -> u32 {
        (pair.wrapping_sub(self.pairs as u64) / size_of::<Pair>() as u64) as u32
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

    fn set_pair(&mut self, number: u32, pair: Pair) {
        // SAFETY: as above.
        unsafe { *self.pairs.add((number % self.capacity) as usize) = pair };
    }
}

/// The TLB.
pub struct Tlb {
    /// `TABLES` tables.
    pairs: *mut Pair,
    entries: Box<[Entry]>,
    /// Numbers of filled entries, lower and upper half of the address space.
    filled: [Vec<u16>; 2],
    /// Entries of address spaces that are not loaded.
    away: Away<Known>,
}

/// An entry of an address space: its table, the page and where that is.
#[derive(Debug, Clone, Copy)]
struct Known {
    table: usize,
    lin: u64,
    host: u64,
}

// SAFETY: the tables belong to the vCPU whose context they are in.
unsafe impl Send for Tlb {}

/// The table for accesses of a mode.
pub fn table(mode: Mode, store: bool) -> usize {
    let bank = if mode.user { 0 } else { 1 + usize::from(mode.user_pages) };
    2 * bank + usize::from(store)
}

fn number(table: usize, lin: u64) -> u32 {
    (table * SLOTS + (lin >> 12) as usize % ENTRIES) as u32
}

fn victim(table: usize, lin: u64) -> u32 {
    (table * SLOTS + ENTRIES + (lin >> 12) as usize % VICTIMS) as u32
}

impl Tlb {
    /// An empty TLB in tables that live as long as the vCPU.
    pub fn new(tables: &mut [Table; TABLES], sites: &Sites) -> Self {
        let pairs = tables.as_mut_ptr().cast();
        let mut tlb = Self {
            pairs,
            entries: vec![Entry::default(); TABLES * SLOTS].into_boxed_slice(),
            filled: [Vec::new(), Vec::new()],
            away: Away::default(),
        };
        (0..(TABLES * SLOTS) as u32).for_each(|number| tlb.set(number, sites.none));
        tlb
    }

    fn pair(&self, number: u32) -> Pair {
        // SAFETY: kept within the tables.
        unsafe { *self.pairs.add(number as usize % (TABLES * SLOTS)) }
    }

    fn set(&mut self, number: u32, pair: Pair) {
        // SAFETY: as above; emitted code of this thread reads and exchanges entries, but not now.
        unsafe { *self.pairs.add(number as usize % (TABLES * SLOTS)) = pair };
    }

    fn entry(&mut self, number: u32) -> &mut Entry {
        let number = number as usize % self.entries.len();
        &mut self.entries[number]
    }

    /// True if the page of `lin` is there.
    pub fn has(&self, table: usize, lin: u64) -> bool {
        self.pair(number(table, lin)).neg_page == (lin & !0xfff).wrapping_neg()
    }

    /// The host's page of `lin`, if it is there.
    pub fn page(&self, table: usize, lin: u64) -> Option<u64> {
        let pair = self.pair(number(table, lin));
        (pair.neg_page == (lin & !0xfff).wrapping_neg()).then_some(pair.host)
    }

    /// Remembers a page. What it replaces is kept beside it.
    pub fn fill(&mut self, sites: &mut Sites, table: usize, lin: u64, page: Mapped) {
        self.put(sites, table, lin, page.host as u64, page.stays);
    }

    fn put(&mut self, sites: &mut Sites, table: usize, lin: u64, host: u64, stays: bool) {
        let number = number(table, lin);
        let old = self.pair(number);
        if old.neg_page != sites.none.neg_page {
            let victim = victim(table, lin);
            self.drop_entry(sites, victim);
            self.set(victim, old);
            // They may be exchanged: whatever half of the address space is flushed, neither may stay.
            for entry in [number, victim] {
                self.list(entry, 0);
                self.list(entry, 1);
            }
        }
        let lin = lin & !0xfff;
        self.set(number, Pair { neg_page: lin.wrapping_neg(), host });
        self.list(number, (lin >> 63) as usize);
        if !stays {
            self.list(number, 0);
        }
    }

    /// Has an entry dropped when a half of the address space is.
    fn list(&mut self, number: u32, half: usize) {
        let entry = self.entry(number);
        if entry.listed & 1 << half == 0 {
            entry.listed |= 1 << half;
            self.filled[half].push(number as u16);
        }
    }

    /// Lets a site name the page of `lin`, which is in the table: the host's page.
    pub fn promote(&mut self, sites: &mut Sites, table: usize, lin: u64, site: u32) -> u64 {
        let number = number(table, lin);
        self.unlink(sites, site);
        let pair = self.pair(number);
        let next = std::mem::replace(&mut self.entry(number).first, site);
        sites.set_pair(site, pair);
        sites.set(site, |s| {
            s.prev = HEAD | number;
            s.next = next;
        });
        if next != NONE {
            sites.set(next, |s| s.prev = site);
        }
        pair.host
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
        while at != NONE {
            let next = sites.get(at).next;
            sites.set_pair(at, sites.none);
            sites.set(at, |s| (s.prev, s.next) = (NONE, NONE));
            at = next;
        }
    }

    /// Empties an entry. Sites that name its page are on the list of the entry where it was filled in.
    fn drop_entry(&mut self, sites: &mut Sites, entry: u32) {
        let pair = self.pair(entry);
        if pair.neg_page != sites.none.neg_page {
            let table = entry as usize / SLOTS;
            self.drop_sites(sites, number(table, pair.neg_page.wrapping_neg()));
        }
        self.set(entry, sites.none);
    }

    fn drop_half(&mut self, sites: &mut Sites, half: usize) {
        let mut filled = std::mem::take(&mut self.filled[half]);
        for number in filled.drain(..) {
            let number = u32::from(number);
            // It may hold a page of the other half by now, and be on both lists then: dropping that too does no harm.
            self.drop_entry(sites, number);
            self.entry(number).listed &= !(1 << half);
        }
        self.filled[half] = filled;
    }

    /// Takes back what the interpreter's TLB has dropped.
    pub fn flush(&mut self, sites: &mut Sites, flushes: &Flushes) {
        if flushes.lost {
            self.away.clear();
        }
        if flushes.lower {
            self.drop_half(sites, 0);
        }
        if flushes.upper {
            self.drop_half(sites, 1);
        }
        for &page in flushes.pages() {
            for table in 0..TABLES {
                for number in [number(table, page), victim(table, page)] {
                    if self.pair(number).neg_page == (page & !0xfff).wrapping_neg() {
                        self.drop_entry(sites, number);
                    }
                }
            }
        }
    }

    /// Another address space is loaded, and nothing else of the lower half was dropped.
    pub fn switch(&mut self, sites: &mut Sites, from: u64, to: u64) {
        let left = self.away.leave(from);
        for i in (0..self.filled[0].len()).rev() {
            let number = u32::from(self.filled[0][i]);
            let Pair { neg_page, host } = self.pair(number);
            let lin = neg_page.wrapping_neg();
            let known = Known { table: number as usize / SLOTS, lin, host };
            if neg_page != sites.none.neg_page && lin >> 63 == 0 && !self.away.keep(left, known) {
                break;
            }
        }
        self.drop_half(sites, 0);
        if let Some(loaded) = self.away.come(to) {
            while let Some(Known { table, lin, host }) = self.away.next(loaded) {
                self.put(sites, table, lin, host, true);
            }
        }
    }

    /// Stores to a page, whatever its linear address, have to be looked at from now on.
    pub fn protect(&mut self, sites: &mut Sites, host: *const u8) {
        self.away.clear();
        for half in 0..2 {
            for i in 0..self.filled[half].len() {
                let number = u32::from(self.filled[half][i]);
                let stores = number as usize / SLOTS % 2 == 1;
                if stores && self.pair(number).host == host as u64 {
                    self.drop_entry(sites, number);
                }
            }
        }
    }

    /// Drops everything.
    pub fn clear(&mut self, sites: &mut Sites) {
        self.away.clear();
        self.drop_half(sites, 0);
        self.drop_half(sites, 1);
    }
}

/// True if stores to the page may go to the host without anybody looking.
pub fn store_is_free(info: *const PageInfo) -> bool {
    // SAFETY: `Mapped::info` points into the page table of guest RAM, which the vCPU keeps alive.
    !info.is_null() && !unsafe { (*info).has_code() }
}

#[cfg(test)]
mod tests;
