//! The software TLB: per page what may be done directly on host memory.
//!
//! A tag is the page's linear address with an address-space number in its low 12 bits, so one comparison checks
//! page, address space and, for addresses that cross into the next page at the low end, nothing else. Entries of
//! user and supervisor accesses (without and with EFLAGS.AC, where SMAP is on) live in separate banks, so that a
//! tag needs no privilege. Kernel-half addresses are tagged 0 whatever the space: global pages stay over CR3
//! switches, others are marked and dropped by the next one. (Linux has some in its map of all memory.) Code there that is not
//! global costs a flush of that half.
//!
//! Of pages larger than 4 KiB there are parts, here and with those who keep translations of their own. INVLPG has to drop
//! all parts of a page, of which the guest's tables say nothing any more: where there may be some, it drops the half.

use std::ptr::null;

use memory::PageInfo;

use crate::core::direct::Told;

/// Entries per bank.
const SIZE: usize = 1024;
/// User, supervisor, supervisor with SMAP suspended.
const BANKS: usize = 3;
/// A tag that no page has: not page-aligned in a way any tag is.
const NEVER: u64 = 0xfff;
/// Address-space numbers in use: 1 to `SPACES - 1`; 0 is the kernel half, 0xfff is [`NEVER`].
const SPACES: u16 = 0xffe;

/// What the TLB knows of a page.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// Tag if loads may go to the host directly.
    pub read: u64,
    /// Tag if stores may.
    pub write: u64,
    /// Host address minus linear address.
    pub addend: usize,
    /// The page's entry in the RAM table.
    pub info: *const PageInfo,
}

const EMPTY: Entry = Entry { read: NEVER, write: NEVER, addend: 0, info: null() };

/// Regions of the address space that have parts of large pages, by hash.
#[derive(Clone, Copy)]
struct Regions([u64; Regions::BITS / 64]);

impl Regions {
    /// Enough that small pages are rarely taken for parts of large ones: a kernel that maps all memory by pages of 2 MiB
    /// sets one for every 4 MiB.
    const BITS: usize = 4096;
    /// Page bits of regions: one size for pages of 2 and 4 MiB, one for those of 1 GiB.
    const SHIFTS: [u32; 2] = [22, 30];

    fn bit(lin: u64, shift: u32) -> (usize, u64) {
        let product = (lin >> shift).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let number = (product >> (64 - Self::BITS.ilog2())) as usize;
        (number / 64, 1 << (number % 64))
    }

    /// Part of a large page of `size` bytes is at `lin`.
    fn insert(&mut self, lin: u64, size: u64) {
        let (word, bit) = Self::bit(lin, size.ilog2().max(Self::SHIFTS[0]));
        self.0[word] |= bit;
    }

    /// True if part of a large page to which `lin` belongs may be there.
    fn may_have(&self, lin: u64) -> bool {
        Self::SHIFTS.into_iter().any(|shift| {
            let (word, bit) = Self::bit(lin, shift);
            self.0[word] & bit != 0
        })
    }
}

const NO_REGIONS: Regions = Regions([0; Regions::BITS / 64]);

/// What was dropped, for those who keep translations of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flushes {
    /// Everything in the lower half, and what does not [stay](super::super::core::Mapped::stays).
    pub lower: bool,
    /// Everything in the upper half.
    pub upper: bool,
    /// Pages of lower halves, in whatever address space: what is known of one that is not loaded holds no longer.
    pub lost: bool,
    pages: [u64; Flushes::PAGES],
    count: u8,
}

impl Flushes {
    const PAGES: usize = 6;

    /// Nothing was.
    #[inline]
    pub fn is_empty(&self) -> bool {
        !self.lower && !self.upper && self.count == 0
    }

    /// Single pages, by linear address.
    pub fn pages(&self) -> &[u64] {
        &self.pages[..usize::from(self.count)]
    }

    fn note_page(&mut self, page: u64) {
        self.lost |= (page as i64) >= 0;
        match self.pages.get_mut(usize::from(self.count)) {
            Some(slot) => {
                *slot = page;
                self.count += 1;
            }
            None if (page as i64) < 0 => self.upper = true,
            None => self.lower = true,
        }
    }
}

/// The TLB of a vCPU.
pub(crate) struct Tlb {
    entries: [[Entry; SIZE]; BANKS],
    /// Bank in force.
    bank: usize,
    /// Tag of lower-half addresses.
    space: u16,
    /// SMAP is on and the CPL is below 3: EFLAGS.AC chooses the bank.
    smap: bool,
    user: bool,
    next_space: u16,
    /// PCID to address-space number.
    spaces: Box<[u16; 4096]>,
    pcid: u16,
    /// Bits of entries, bank by bank: kernel-half pages that are not global.
    passing: [u64; BANKS * SIZE / 64],
    /// Code was fetched from such a page.
    passing_code: bool,
    /// Where parts of large pages came from since all was dropped: lower half, upper half.
    large: [Regions; 2],
    /// Changes whenever linear-to-physical may have changed: lower half, upper half.
    epochs: [u32; 2],
    /// What [`fetch_context`](Self::fetch_context) gives for each half.
    contexts: [u64; 2],
    flushes: Flushes,
    /// How often the numbers of address spaces began anew.
    turns: u64,
    /// Pages of lower halves that were dropped one by one, of whatever address space, if somebody asks.
    pub(crate) dropped: Option<Told>,
}

impl Default for Tlb {
    fn default() -> Self {
        Self {
            entries: [[EMPTY; SIZE]; BANKS],
            bank: 1,
            space: 1,
            smap: false,
            user: false,
            next_space: 2,
            spaces: Box::new([0; 4096]),
            pcid: 0,
            passing: [0; BANKS * SIZE / 64],
            passing_code: false,
            large: [NO_REGIONS; 2],
            epochs: [0, 0],
            contexts: [0, 0],
            flushes: Flushes::default(),
            turns: 0,
            dropped: None,
        }
    }
}

/// Two neighbouring pages never share an index, on which `Tlb::readable` relies.
#[inline(always)]
fn index(lin: u64) -> usize {
    ((lin >> 12) + (lin >> 22)) as usize & (SIZE - 1)
}

impl Tlb {
    /// The tag of a linear address.
    #[inline(always)]
    pub fn tag(&self, lin: u64) -> u64 {
        (lin & !0xfff) | (u64::from(self.space) & !((lin as i64 >> 63) as u64))
    }

    /// The only entry that can describe `lin` in the bank in force.
    #[inline(always)]
    pub fn entry(&self, lin: u64) -> &Entry {
        &self.entries[self.bank][index(lin)]
    }

    /// The entry that allows a load of `size` bytes at `lin`, all in one page. The tag is that of the last byte: if it
    /// lies in the next page, it cannot match, since that page has another index.
    #[inline(always)]
    pub fn readable(&self, lin: u64, size: usize) -> Option<&Entry> {
        let entry = self.entry(lin);
        (entry.read == self.tag(lin.wrapping_add(size as u64 - 1))).then_some(entry)
    }

    /// The same for a store.
    #[inline(always)]
    pub fn writable(&self, lin: u64, size: usize) -> Option<&Entry> {
        let entry = self.entry(lin);
        (entry.write == self.tag(lin.wrapping_add(size as u64 - 1))).then_some(entry)
    }

    /// Remembers a translation for the bank in force.
    pub fn fill(
        &mut self,
        lin: u64,
        host_page: *mut u8,
        info: *const PageInfo,
        read: bool,
        write: bool,
        global: bool,
    ) {
        let slot = self.bank * SIZE + index(lin);
        let bit = 1 << (slot % 64);
        let word = &mut self.passing[slot / 64];
        *word = if (lin as i64) < 0 && !global { *word | bit } else { *word & !bit };
        let tag = self.tag(lin);
        self.entries[self.bank][index(lin)] = Entry {
            read: if read { tag } else { NEVER },
            write: if write { tag } else { NEVER },
            addend: (host_page as usize).wrapping_sub((lin & !0xfff) as usize),
            info,
        };
    }

    /// Says whether the page of `lin`, which is there, stays when another address space is loaded.
    pub fn stays(&self, lin: u64) -> bool {
        let slot = self.bank * SIZE + index(lin);
        (lin as i64) < 0 && self.passing[slot / 64] >> (slot % 64) & 1 == 0
    }

    /// An access goes to the page of `lin`, which has `size` bytes.
    #[inline]
    pub fn note_size(&mut self, lin: u64, size: u64) {
        if size > 1 << 12 {
            self.large[(lin >> 63) as usize].insert(lin, size);
        }
    }

    /// Code is fetched from the page of `lin`.
    #[inline]
    pub fn note_code(&mut self, lin: u64, global: bool) {
        self.passing_code |= (lin as i64) < 0 && !global;
    }

    /// Chooses the bank for the CPL, CR4.SMAP and EFLAGS.AC.
    pub fn set_mode(&mut self, user: bool, smap: bool, ac: bool) {
        self.user = user;
        self.smap = smap && !user;
        self.bank = if user {
            0
        } else if self.smap && ac {
            2
        } else {
            1
        };
        self.update_contexts();
    }

    /// EFLAGS.AC changed.
    #[inline]
    pub fn set_ac(&mut self, ac: bool) {
        if self.smap {
            self.bank = if ac { 2 } else { 1 };
        }
    }

    /// Identifies, together with the epochs, what code fetches of `lin` see: address space and privilege.
    #[inline(always)]
    pub fn fetch_context(&self, lin: u64) -> u64 {
        self.contexts[(lin >> 63) as usize]
    }

    fn update_contexts(&mut self) {
        for half in 0..2 {
            let space = if half == 0 { u64::from(self.space) } else { 0 };
            self.contexts[half] = (u64::from(self.epochs[half]) << 16) | (space << 1) | u64::from(self.user);
        }
    }

    /// Drops everything, global pages too (CR0.PG, CR4 and EFER changes).
    pub fn flush_all(&mut self) {
        self.entries = [[EMPTY; SIZE]; BANKS];

        self.spaces.fill(0);
        self.turns += 1;
        self.next_space = 1;
        self.passing = [0; BANKS * SIZE / 64];
        self.passing_code = false;
        self.space = self.new_space();
        self.bump(true, true);
    }

    /// Address space `pcid` is loaded; with `keep` (bit 63 of the new CR3) its entries stay.
    pub fn switch(&mut self, pcid: u16, keep: bool) {
        self.pcid = pcid & 0xfff;
        if self.passing_code {
            self.flush_half(true);
        }
        self.drop_passing();
        let known = self.spaces[usize::from(self.pcid)];
        self.space = if keep && known != 0 { known } else { self.new_space() };
        self.flushes.lower = true;
        self.update_contexts();
    }

    /// INVPCID types 0 and 1, other spaces than the one loaded included.
    pub fn flush_pcid(&mut self, pcid: u16) {
        let pcid = pcid & 0xfff;
        if pcid == self.pcid {
            self.switch(pcid, false);
        } else {
            self.spaces[usize::from(pcid)] = 0;
        }
    }

    /// INVLPG.
    pub fn flush_page(&mut self, lin: u64) {
        let upper = (lin as i64) < 0;
        if self.large[usize::from(upper)].may_have(lin) {
            self.flush_half(upper);
            return;
        }
        let page = lin & !0xfff;
        for bank in &mut self.entries {
            let entry = &mut bank[index(lin)];
            // A tag may belong to another space: dropping that too is always allowed.
            if (entry.read ^ page) < 0x1000 || (entry.write ^ page) < 0x1000 {
                *entry = EMPTY;
            }
        }
        self.epochs[usize::from(upper)] = self.epochs[usize::from(upper)].wrapping_add(1);
        self.flushes.note_page(page);
        if !upper && let Some(dropped) = &mut self.dropped {
            dropped.note(page);
        }
        self.update_contexts();
    }

    /// The address space in the lower half: another number whenever all that was known of it is no longer good.
    pub fn space(&self) -> u64 {
        self.turns << 16 | u64::from(self.space)
    }

    /// What was dropped since this was called last.
    #[inline]
    pub fn take_flushes(&mut self) -> Flushes {
        if self.flushes.is_empty() { Flushes::default() } else { std::mem::take(&mut self.flushes) }
    }

    /// Drops a half of the address space, the lower one in all spaces.
    fn flush_half(&mut self, upper: bool) {
        for entry in self.entries.iter_mut().flatten() {
            if ((entry.read | entry.write) >> 63 != 0) == upper {
                *entry = EMPTY;
            }
        }
        self.passing_code &= !upper;
        if !upper && let Some(dropped) = &mut self.dropped {
            dropped.lost = true;
        }
        self.bump(!upper, upper);
    }

    fn drop_passing(&mut self) {
        for (i, word) in self.passing.iter_mut().enumerate() {
            let mut bits = std::mem::take(word);
            while bits != 0 {
                let slot = i * 64 + bits.trailing_zeros() as usize;
                self.entries[slot / SIZE][slot % SIZE] = EMPTY;
                bits &= bits - 1;
            }
        }
    }

    fn new_space(&mut self) -> u16 {
        if self.next_space >= SPACES {
            self.entries = [[EMPTY; SIZE]; BANKS];
            self.spaces.fill(0);
            self.turns += 1;
            self.next_space = 1;
            self.bump(true, false);
        }
        let space = self.next_space;
        self.next_space += 1;
        self.spaces[usize::from(self.pcid)] = space;
        space
    }

    /// All there was of a half is dropped.
    fn bump(&mut self, lower: bool, upper: bool) {
        self.flushes.lower |= lower;
        self.flushes.upper |= upper;
        self.flushes.lost |= lower;
        for (half, dropped) in [lower, upper].into_iter().enumerate() {
            if dropped {
                self.epochs[half] = self.epochs[half].wrapping_add(1);
                self.large[half] = NO_REGIONS;
            }
        }
        self.update_contexts();
    }
}

#[cfg(test)]
mod tests;
