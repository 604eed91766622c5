//! Code pages: a guest-physical page under one mode, and where it is mapped now. Translated code never holds an address
//! of the guest's: it reads the page's linear address from the page's word, and whoever enters a page from elsewhere
//! compares it. A page that is not mapped, or whose bytes have changed, is cut off by a change of that word alone.
// UNSAFETY: the words lie in the arena; the state of RAM pages is reached through raw pointers.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::OnceLock;

use interp::core::Flushes;
use memory::PageInfo;

use super::away::Away;
use crate::runtime::context::MODES;

/// Code pages at most.
pub const MAX: usize = 32768;
const SLOTS: usize = 2048;

/// A linear address that is not canonical and that no guest can know: pages that are not mapped have it, plus one.
pub fn nowhere() -> u64 {
    static NOWHERE: OnceLock<u64> = OnceLock::new();
    *NOWHERE.get_or_init(|| RandomState::new().hash_one(0u64) & 0x0fff_ffff_ffff_f000 | 0x1000_0000_0000_0000)
}

/// Linear address of a mapped page and its negative, as code reads them.
#[repr(C)]
struct Word {
    lin: u64,
    neg: u64,
}

/// Where a translation begins.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    /// Offset in the page.
    pub offset: u16,
    /// For those who know that the page is mapped where they are.
    pub entry: u64,
    /// For those who have a target in R10; zero if nobody has asked for it yet.
    pub checked: u64,
    /// Flags are live there.
    pub live: bool,
}

/// See the module.
pub struct CodePage {
    /// Guest-physical address.
    pub phys: u64,
    /// Number of the mode.
    pub mode: u8,
    info: *const PageInfo,
    /// Of its bytes.
    pub generation: u32,
    /// Where it is mapped.
    lin: Option<u64>,
    /// It is on the lists of mapped pages: bit 0 lower half, bit 1 upper half.
    listed: u8,
    /// Translations depend on its bytes.
    used: bool,
    /// Where translations begin, in order: apart from them, so that a search stays in a cache line or two.
    offsets: Vec<u16>,
    blocks: Vec<Block>,
}

// SAFETY: `info` points into the page table of guest RAM, which the vCPU keeps alive; entries are atomics.
unsafe impl Send for CodePage {}

impl CodePage {
    fn current(&self) -> bool {
        // SAFETY: see above.
        unsafe { (*self.info).generation() == self.generation }
    }

    /// A number for the code at an offset, of these bytes: overwritten code is other code.
    pub fn identity(&self, offset: u16) -> u64 {
        (self.phys | u64::from(offset)).wrapping_add(u64::from(self.generation) << 44)
    }

    /// The translation that begins at an offset.
    pub fn block(&self, offset: u16) -> Option<Block> {
        self.offsets.binary_search(&offset).ok().map(|i| self.blocks[i])
    }
}

/// Multiplies; keys are addresses.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {}
    fn write_u64(&mut self, n: u64) {
        let product = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ product >> 32;
    }
}

/// All code pages of a vCPU.
pub struct Pages {
    words: *mut Word,
    list: Vec<CodePage>,
    /// By address of what is known of the page, with the mode in its low bits.
    by_info: HashMap<u64, u32, BuildHasherDefault<Mix>>,
    /// Mapped pages, lower and upper half.
    mapped: [Vec<u32>; 2],
    /// Linear page with the mode in its low bits, and the code page.
    by_lin: Box<[(u64, u32)]>,
    /// Pages of address spaces that are not loaded, and where they are mapped there.
    away: Away<(u32, u64)>,
}

// SAFETY: the words belong to the vCPU whose arena they are in.
unsafe impl Send for Pages {}

fn slot(key: u64) -> usize {
    (key ^ key >> 12 ^ key >> 23) as usize & (SLOTS - 1)
}

/// Low bits of the address are free for the mode.
fn key(info: *const PageInfo, mode: u8) -> u64 {
    const { assert!(align_of::<PageInfo>() >= MODES) };
    info as u64 | u64::from(mode)
}

impl Pages {
    /// Bytes for the words.
    pub const BYTES: usize = MAX * size_of::<Word>();

    /// Pages whose words begin at `base`, which lives as long as the vCPU.
    pub fn new(base: *mut u8) -> Self {
        Self {
            words: base.cast(),
            list: Vec::new(),
            by_info: HashMap::default(),
            mapped: [Vec::new(), Vec::new()],
            by_lin: vec![(u64::MAX, 0); SLOTS].into_boxed_slice(),
            away: Away::default(),
        }
    }

    /// A page by its number.
    pub fn get(&self, page: u32) -> &CodePage {
        &self.list[page as usize]
    }

    /// Pages there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Where the page's linear address is to be found.
    pub fn lin_word(&self, page: u32) -> u64 {
        // SAFETY: pages are fewer than `MAX`.
        unsafe { self.words.add(page as usize) as u64 }
    }

    /// Where its negative is.
    pub fn neg_word(&self, page: u32) -> u64 {
        self.lin_word(page) + 8
    }

    /// The linear address of a page; [`nowhere`] if it is not mapped.
    pub fn lin(&self, page: u32) -> u64 {
        self.list[page as usize].lin.unwrap_or_else(nowhere)
    }

    /// The page mapped at a linear address under a mode, if that is known.
    #[inline]
    pub fn mapped_at(&self, lin: u64, mode: u8) -> Option<u32> {
        let key = lin & !0xfff | u64::from(mode);
        let (found, page) = self.by_lin[slot(key)];
        (found == key).then_some(page)
    }

    /// The code page of a physical page that is executable at `lin` now. `None` if there is no room for another.
    pub fn map(&mut self, lin: u64, phys: u64, mode: u8, info: &PageInfo) -> Option<u32> {
        let (lin, phys) = (lin & !0xfff, phys & !0xfff);
        let key = key(info, mode);
        let page = match self.by_info.get(&key) {
            Some(&page) if self.list[page as usize].current() => page,
            // Nothing was made of its old bytes: it takes the new ones.
            Some(&page) if !self.list[page as usize].used => {
                self.unmap(page);
                self.list[page as usize].generation = info.generation();
                page
            }
            old => {
                let old = old.copied();
                if self.list.len() >= MAX {
                    return None;
                }
                if let Some(old) = old {
                    self.unmap(old);
                }
                let page = self.list.len() as u32;
                let generation = info.generation();
                self.list.push(CodePage {
                    phys,
                    mode,
                    info,
                    generation,
                    lin: None,
                    listed: 0,
                    used: false,
                    offsets: Vec::new(),
                    blocks: Vec::new(),
                });
                self.write_word(page);
                self.by_info.insert(key, page);
                page
            }
        };
        self.place(page, lin);
        Some(page)
    }

    /// A page is mapped at `lin`.
    fn place(&mut self, page: u32, lin: u64) {
        if self.list[page as usize].lin != Some(lin) {
            self.unmap(page);
            self.list[page as usize].lin = Some(lin);
            let half = (lin >> 63) as usize;
            let listed = &mut self.list[page as usize].listed;
            if *listed & 1 << half == 0 {
                *listed |= 1 << half;
                self.mapped[half].push(page);
            }
            self.write_word(page);
        }
        let key = lin | u64::from(self.list[page as usize].mode);
        self.by_lin[slot(key)] = (key, page);
    }

    /// A translation depends on the page's bytes from now on.
    pub fn pin(&mut self, page: u32) {
        self.list[page as usize].used = true;
    }

    /// Adds a translation.
    pub fn insert(&mut self, page: u32, block: Block) {
        self.pin(page);
        let CodePage { offsets, blocks, .. } = &mut self.list[page as usize];
        match offsets.binary_search(&block.offset) {
            Ok(i) => blocks[i] = block,
            Err(i) => {
                offsets.insert(i, block.offset);
                blocks.insert(i, block);
            }
        }
    }

    /// Forgets a translation.
    pub fn remove(&mut self, page: u32, offset: u16) {
        let CodePage { offsets, blocks, .. } = &mut self.list[page as usize];
        if let Ok(i) = offsets.binary_search(&offset) {
            offsets.remove(i);
            blocks.remove(i);
        }
    }

    fn unmap(&mut self, page: u32) {
        let entry = &mut self.list[page as usize];
        if let Some(lin) = entry.lin.take() {
            let key = lin | u64::from(entry.mode);
            let slot = &mut self.by_lin[slot(key)];
            if *slot == (key, page) {
                *slot = (u64::MAX, 0);
            }
            self.write_word(page);
        }
    }

    fn write_word(&mut self, page: u32) {
        let lin = self.list[page as usize].lin.unwrap_or_else(|| nowhere() + 1);
        // SAFETY: within the data area; only emitted code of this thread reads it.
        unsafe { *self.words.add(page as usize) = Word { lin, neg: lin.wrapping_neg() } };
    }

    fn drop_half(&mut self, half: usize) {
        let mut pages = std::mem::take(&mut self.mapped[half]);
        for page in pages.drain(..) {
            // It may have moved to the other half since: that is found out again at the next use.
            self.list[page as usize].listed &= !(1 << half);
            self.unmap(page);
        }
        self.mapped[half] = pages;
    }

    /// Takes back what the interpreter's TLB has dropped.
    pub fn flush(&mut self, flushes: &Flushes) {
        if flushes.lost {
            self.away.clear();
        }
        if flushes.lower {
            self.drop_half(0);
        }
        if flushes.upper {
            self.drop_half(1);
        }
        for &lin in flushes.pages() {
            // One page may be mapped under several modes.
            for mode in 0..MODES as u8 {
                while let Some(page) = self.mapped_at(lin, mode) {
                    self.unmap(page);
                }
            }
            let half = (lin >> 63) as usize;
            for i in 0..self.mapped[half].len() {
                let page = self.mapped[half][i];
                if self.list[page as usize].lin == Some(lin) {
                    self.unmap(page);
                }
            }
        }
    }

    /// Another address space is loaded, and nothing else of the lower half was dropped.
    pub fn switch(&mut self, from: u64, to: u64) {
        let left = self.away.leave(from);
        for &page in self.mapped[0].iter().rev() {
            if let Some(lin) = self.list[page as usize].lin
                && lin >> 63 == 0
                && !self.away.keep(left, (page, lin))
            {
                break;
            }
        }
        self.drop_half(0);
        if let Some(loaded) = self.away.come(to) {
            while let Some((page, lin)) = self.away.next(loaded) {
                // What has been overwritten meanwhile is another page.
                if self.list[page as usize].current() {
                    self.place(page, lin);
                }
            }
        }
    }

    /// Cuts off a page, if it is mapped and its bytes have changed.
    pub fn drop_if_stale(&mut self, info: *const PageInfo) {
        for mode in 0..MODES as u8 {
            if let Some(&page) = self.by_info.get(&key(info, mode))
                && !self.list[page as usize].current()
            {
                self.unmap(page);
            }
        }
    }

    /// Cuts off every mapped page whose bytes have changed.
    pub fn drop_stale(&mut self) {
        for half in 0..2 {
            for i in 0..self.mapped[half].len() {
                let page = self.mapped[half][i];
                if !self.list[page as usize].current() {
                    self.unmap(page);
                }
            }
        }
    }

    /// True if the page's bytes are those that were translated.
    pub fn is_current(&self, page: u32) -> bool {
        self.list[page as usize].current()
    }

    /// Forgets all pages.
    pub fn clear(&mut self) {
        for page in 0..self.list.len() as u32 {
            self.unmap(page);
        }
        self.away.clear();
        self.list.clear();
        self.by_info.clear();
        self.mapped = [Vec::new(), Vec::new()];
        self.by_lin.fill((u64::MAX, 0));
    }
}
