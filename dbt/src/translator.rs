//! The translations of one vCPU: finds them, makes them, links them, takes them back.
// UNSAFETY: gives parts of the arena's data to those who keep words there.
#![allow(unsafe_code)]

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use iced_x86::Code;
use interp::core::direct::Told;
use interp::core::{Flushes, Lowered, Mode, Session};
use memory::Overwrites;
use rustix::io::Errno;

use crate::cache::arena::{Arena, DATA};
use crate::cache::pages::{Block as Entry, Pages};
use crate::cache::tlb::{Sites, TABLES, Table, Tlb};
use crate::emit::asm::Asm;
use crate::emit::x87::Note;
use crate::engine::Options;
use crate::frontend::block::Block;
use crate::peers::{Peer, Peers};
use crate::runtime::bell;
use crate::runtime::context::MODES;
use crate::runtime::stubs::Stubs;
use crate::trace::Tracer;

/// Room that a block has to find.
const BLOCK_CODE: usize = 64 << 10;
const BLOCK_SITES: usize = 512;
/// Entries made at most for targets that meet in one place of a jump table: behind that the last one stays.
const CROWD: u8 = 8;
/// Attempts to read code that changes meanwhile.
const ATTEMPTS: usize = 8;
/// Bytes of a page.
const PAGE: usize = 4096;
/// Bytes of the longest instruction.
const LONGEST: usize = 15;
/// Counters of executions: a whole system's boot comes by half a million places in code.
const HEATS: usize = 1 << 18;

/// An instruction that the interpreter executes for a translation.
pub struct Operation {
    pub lowered: Lowered,
    pub page: u32,
    pub offset: u16,
    /// Where code goes on; zero if it does not.
    pub after: u64,
    pub popped: i32,
    /// Code goes on with the stack's window as it was.
    pub windowed: bool,
    /// Flags are put aside.
    pub parked: bool,
    /// What it is, and how often it was executed, for reports.
    code: Code,
    pub count: u64,
}

/// A direct branch of a translation.
#[derive(Debug, Clone, Copy)]
pub struct Link {
    pub page: u32,
    /// From the first byte of the page.
    pub target: i64,
    /// The reference to redirect; zero if there is none.
    field: u64,
}

/// Instructions that rely on one check of the stack's window.
pub struct Segment {
    pub page: u32,
    /// Of the first of them.
    pub offset: u16,
    /// The bytes, as seen from RSP.
    pub range: Range<i32>,
    /// Where the check is.
    pub check: u64,
    /// The reference to redirect to code that does without.
    instead: u64,
    /// How often the bytes were not in a page that may be accessed directly.
    pub refused: u32,
}

/// See the module.
pub struct Translator {
    arena: Arena,
    pub stubs: Stubs,
    pub sites: Sites,
    pub tlb: Tlb,
    pub pages: Pages,
    pub operations: Vec<Operation>,
    pub links: Vec<Link>,
    pub segments: Vec<Segment>,
    /// x87 instructions with their code pages.
    pub notes: Vec<(u32, Note)>,
    modes: Vec<Mode>,
    /// How often targets have met in a place of a mode's jump table.
    crowds: HashMap<(u8, u16), u8>,
    heat: Box<[u8]>,
    threshold: u8,
    asm: Asm,
    block: Block,
    /// The page being translated.
    bytes: Vec<u8>,
    /// The code page that its only instruction goes on in.
    second: Option<u32>,
    /// The address space in the lower half.
    space: u64,
    /// Changes when all translations are forgotten.
    pub generation: u64,
    overwrites: Overwrites,
    /// Code was overwritten since somebody asked.
    pub overwritten: bool,
    /// Pages, by their addresses here, to which stores have been looked at since.
    pub protected: Told,
    peers: Arc<Peers>,
    own: Arc<Peer>,
    /// Is told of translations.
    pub tracer: Option<Box<Tracer>>,
}

impl Translator {
    /// No translations yet.
    ///
    /// # Errors
    /// The host refuses executable memory.
    pub fn new(
        options: Options,
        tables: &mut [Table; TABLES],
        peers: Arc<Peers>,
        own: Arc<Peer>,
        mut tracer: Option<Box<Tracer>>,
    ) -> Result<Self, Errno> {
        let avx = std::arch::is_x86_feature_detected!("avx");
        let mut arena = Arena::new(tracer.as_ref().is_some_and(|t| t.names_code()), options.room)?;
        let stubs = Stubs::new(&mut arena, avx);
        if let Some(tracer) = &mut tracer {
            tracer.stubs(&stubs, arena.code().start, arena.data() as u64);
        }
        // SAFETY: the words of bell and pages take the first part of the data area only.
        let (data, rest) = unsafe {
            let data = arena.data().add(bell::BYTES);
            (data, data.add(Pages::BYTES))
        };
        let sites = Sites::new(rest, DATA - Pages::BYTES - bell::BYTES);
        Ok(Self {
            stubs,
            tlb: Tlb::new(tables, &sites),
            sites,
            pages: Pages::new(data),
            operations: Vec::new(),
            links: Vec::new(),
            segments: Vec::new(),
            notes: Vec::new(),
            modes: Vec::new(),
            crowds: HashMap::new(),
            heat: vec![0; HEATS].into_boxed_slice(),
            threshold: options.threshold,
            asm: Asm::default(),
            block: Block::default(),
            bytes: Vec::new(),
            second: None,
            space: 0,
            generation: 0,
            overwrites: Overwrites::default(),
            overwritten: false,
            protected: Told::default(),
            peers,
            own,
            tracer,
            arena,
        })
    }

    /// The number of a mode.
    pub fn mode(&mut self, mode: Mode) -> usize {
        if let Some(number) = self.modes.iter().position(|&m| m == mode) {
            return number;
        }
        if self.modes.len() == MODES {
            self.clear();
        }
        self.modes.push(mode);
        self.modes.len() - 1
    }

    /// Modes there are.
    pub fn modes(&self) -> usize {
        self.modes.len()
    }

    /// The number of a mode that code of another leads to, if there is one left.
    fn other_mode(&mut self, mode: Mode) -> Option<usize> {
        if let Some(number) = self.modes.iter().position(|&m| m == mode) {
            return Some(number);
        }
        (self.modes.len() < MODES).then(|| {
            self.modes.push(mode);
            self.modes.len() - 1
        })
    }

    /// The mode of a number.
    pub fn mode_of(&self, number: usize) -> Mode {
        self.modes[number]
    }

    /// Takes back what has become invalid.
    #[inline]
    pub fn sync(&mut self, s: &mut Session) {
        let flushes = s.flushes();
        if !flushes.is_empty() {
            self.drop_flushed(s, flushes);
        }
        if self.overwrites.any() {
            self.overwritten = true;
            let Self { overwrites, pages, .. } = self;
            if !overwrites.take(|page| pages.drop_if_stale(page)) {
                pages.drop_stale();
            }
            // It may have been this vCPU: the others have to know before they see anything that it does next.
            if s.vcpus() > 1 {
                self.peers.code_changed(&self.own);
            }
        }
    }

    fn drop_flushed(&mut self, s: &Session, mut flushes: Flushes) {
        let from = std::mem::replace(&mut self.space, s.space());
        // Who comes back finds what there was, unless numbers of address spaces are not used.
        let switched = flushes.lower && !flushes.lost && s.has_pcids();
        flushes.lower &= !switched;
        self.tlb.flush(&mut self.sites, &flushes);
        self.pages.flush(&flushes);
        if switched {
            self.tlb.switch(&mut self.sites, from, self.space);
            self.pages.switch(from, self.space);
        }
    }

    /// Enters translated code as far as the other vCPUs are concerned. True if stores to the page at `window` have to be
    /// looked at from now on.
    #[inline]
    pub fn enter(&mut self, window: u64) -> bool {
        let mut revoked = false;
        while !self.own.enter() {
            for host in self.own.take_requests() {
                self.tlb.protect(&mut self.sites, host as *const u8);
                revoked |= host as u64 == window;
                self.protected.note(host as u64);
            }
        }
        revoked
    }

    /// Translated code was left.
    #[inline]
    pub fn leave(&self) {
        self.own.leave();
    }

    /// The instructions that were left to the interpreter most often.
    pub fn frequent_operations(&self) -> Vec<(Code, u64)> {
        let mut counts: HashMap<Code, u64> =
            self.tracer.as_ref().map_or_else(HashMap::new, |tracer| tracer.operations().clone());
        for operation in &self.operations {
            *counts.entry(operation.code).or_default() += operation.count;
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|&(_, count)| Reverse(count));
        counts.truncate(16);
        counts
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        tracing::debug!(code = self.arena.used(), pages = self.pages.len(), "translations are dropped");
        let code = self.stubs().end..self.code().end;
        if let Some(tracer) = &mut self.tracer {
            tracer.dropped(&code, self.operations.iter().map(|o| (o.code, o.count)));
        }
        self.tlb.clear(&mut self.sites);
        self.pages.clear();
        self.sites.clear();
        self.operations.clear();
        self.links.clear();
        self.segments.clear();
        self.notes.clear();
        self.modes.clear();
        self.crowds.clear();
        self.arena.truncate(self.stubs.len);
        self.generation += 1;
    }

    /// The translation of the code at `lin`; made if it is warm. `None`: interpret.
    pub fn find(&mut self, s: &mut Session, lin: u64, mode: usize) -> Option<Entry> {
        let offset = (lin & 0xfff) as u16;
        let page = match self.pages.mapped_at(lin, mode as u8) {
            Some(page) => page,
            None => {
                let phys = s.fetch(lin)?;
                let ram = s.ram();
                let info = ram.page(phys)?.info;
                match self.pages.map(lin, phys, mode as u8, info) {
                    Some(page) => page,
                    None => {
                        self.clear();
                        return None;
                    }
                }
            }
        };
        if let Some(block) = self.pages.get(page).block(offset) {
            return Some(block);
        }
        // What is to be translated at once is, however often it is overwritten.
        if self.threshold > 0 && s.is_restless(self.pages.get(page).phys) {
            return None;
        }
        let identity = self.pages.get(page).identity(offset).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let heat = &mut self.heat[(identity >> 40) as usize & (HEATS - 1)];
        if *heat < self.threshold {
            *heat += 1;
            return None;
        }
        self.translate(s, page, offset, mode)
    }

    /// Translates what begins with a segment for when its bytes are not in the stack's window. `None`: no room, or the
    /// code is another by now.
    pub fn without_window(&mut self, s: &mut Session, number: u32, mode: usize) -> Option<u64> {
        let segment = self.segments.get(number as usize)?;
        let (page, offset, instead) = (segment.page, segment.offset, segment.instead);
        if self.arena.is_full(BLOCK_CODE) || self.sites.is_full(BLOCK_SITES) {
            self.clear();
            return None;
        }
        let entry = self.make(s, page, offset, mode, false)?.entry;
        self.arena.redirect(instead, entry);
        Some(entry)
    }

    /// The call whose call instruction is at `address`: its number.
    pub fn call_at(&self, address: u64) -> Option<u32> {
        self.links.iter().position(|l| l.field == address.wrapping_add(1)).map(|n| n as u32)
    }

    /// Where the code is, for whoever looks at addresses in it.
    pub fn code(&self) -> Range<u64> {
        self.arena.code()
    }

    /// Where the stubs are.
    pub fn stubs(&self) -> Range<u64> {
        let start = self.arena.code().start;
        start..start + self.stubs.len as u64
    }

    #[cold]
    #[inline(never)]
    fn translate(&mut self, s: &mut Session, page: u32, offset: u16, mode: usize) -> Option<Entry> {
        let source = self.pages.get(page);
        if s.note_code(source.phys, source.generation) && self.threshold > 0 {
            return None;
        }
        if self.arena.is_full(BLOCK_CODE) || self.sites.is_full(BLOCK_SITES) {
            self.clear();
            return None;
        }
        let block = self.make(s, page, offset, mode, true)?;
        self.pages.insert(page, block);
        Some(block)
    }

    fn make(&mut self, s: &mut Session, page: u32, offset: u16, mode: usize, windows: bool) -> Option<Entry> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let found = self.read(s, page, offset, &mut bytes).filter(|()| !self.block.insns.is_empty());
        let block = found.map(|()| self.emit(s, page, offset, mode, windows, &bytes));
        self.bytes = bytes;
        block
    }

    /// Where the words of the vCPU's bell are.
    pub fn bell(&self) -> *mut u8 {
        self.arena.data()
    }
}

mod emit;
mod links;
mod read;
#[cfg(test)]
mod tests;
