//! The translations of one vCPU: finds them, makes them, links them, takes them back.
// UNSAFETY: copies guest code out of RAM.
#![allow(unsafe_code)]

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use iced_x86::Code;
use interp::core::{Lowered, Mode, Session};
use memory::Overwrites;
use rustix::io::Errno;

use crate::cache::arena::{Arena, DATA};
use crate::cache::pages::{Block as Entry, Pages};
use crate::cache::tlb::{Sites, TABLES, Table, Tlb};
use crate::emit::asm::{Asm, Mem, Target, at, reg, sum};
use crate::emit::instruction::Edge;
use crate::emit::x87::{Note, Unit};
use crate::emit::{Emitter, Handed};
use crate::frontend::block::Block;
use crate::frontend::class::{Class, class};
use crate::peers::{Peer, Peers};
use crate::runtime::context::{Left, MODES, field};
use crate::runtime::stubs::Stubs;

/// Room that a block has to find.
const BLOCK_CODE: usize = 64 << 10;
const BLOCK_SITES: usize = 512;
/// Attempts to read code that changes meanwhile.
const ATTEMPTS: usize = 8;
/// Bytes of a page.
const PAGE: usize = 4096;
/// Bytes of the longest instruction.
const LONGEST: usize = 15;
/// Counters of executions.
const HEATS: usize = 1 << 16;

/// An instruction that the interpreter executes for a translation.
pub struct Operation {
    pub lowered: Lowered,
    pub page: u32,
    pub offset: u16,
    /// Where code goes on; zero if it does not.
    pub after: u64,
    pub popped: i32,
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

/// See the module.
pub struct Translator {
    arena: Arena,
    pub stubs: Stubs,
    pub sites: Sites,
    pub tlb: Tlb,
    pub pages: Pages,
    pub operations: Vec<Operation>,
    pub links: Vec<Link>,
    /// x87 instructions with their code pages.
    pub notes: Vec<(u32, Note)>,
    modes: Vec<Mode>,
    heat: Box<[u8]>,
    threshold: u8,
    asm: Asm,
    block: Block,
    /// The page being translated.
    bytes: Vec<u8>,
    /// The code page that its only instruction goes on in.
    second: Option<u32>,
    /// Changes when all translations are forgotten.
    pub generation: u64,
    overwrites: Overwrites,
    peers: Arc<Peers>,
    own: Arc<Peer>,
}

impl Translator {
    /// No translations yet. Code that was executed more than `threshold` times gets one.
    ///
    /// # Errors
    /// The host refuses executable memory.
    pub fn new(
        threshold: u8,
        tables: &mut [Table; TABLES],
        peers: Arc<Peers>,
        own: Arc<Peer>,
    ) -> Result<Self, Errno> {
        let avx = std::arch::is_x86_feature_detected!("avx");
        let mut arena = Arena::new()?;
        let stubs = Stubs::new(&mut arena, avx);
        let data = arena.data();
        // SAFETY: the words of the pages take the first part of the data area only.
        let rest = unsafe { data.add(Pages::BYTES) };
        let sites = Sites::new(rest, DATA - Pages::BYTES);
        Ok(Self {
            stubs,
            tlb: Tlb::new(tables, &sites),
            sites,
            pages: Pages::new(data),
            operations: Vec::new(),
            links: Vec::new(),
            notes: Vec::new(),
            modes: Vec::new(),
            heat: vec![0; HEATS].into_boxed_slice(),
            threshold,
            asm: Asm::default(),
            block: Block::default(),
            bytes: Vec::new(),
            second: None,
            generation: 0,
            overwrites: Overwrites::default(),
            peers,
            own,
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

    /// The mode of a number.
    pub fn mode_of(&self, number: usize) -> Mode {
        self.modes[number]
    }

    /// Takes back what has become invalid.
    #[inline]
    pub fn sync(&mut self, s: &mut Session) {
        let flushes = s.flushes();
        if !flushes.is_empty() {
            self.tlb.flush(&mut self.sites, &flushes);
            self.pages.flush(&flushes);
        }
        if self.overwrites.any() {
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

    /// Enters translated code as far as the other vCPUs are concerned.
    #[inline]
    pub fn enter(&mut self) {
        while !self.own.enter() {
            for host in self.own.take_requests() {
                self.tlb.protect(&mut self.sites, host as *const u8);
            }
        }
    }

    /// Translated code was left.
    #[inline]
    pub fn leave(&self) {
        self.own.leave();
    }

    /// The instructions that were left to the interpreter most often.
    pub fn frequent_operations(&self) -> Vec<(Code, u64)> {
        let mut counts = HashMap::<Code, u64>::new();
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
        self.tlb.clear(&mut self.sites);
        self.pages.clear();
        self.sites.clear();
        self.operations.clear();
        self.links.clear();
        self.notes.clear();
        self.modes.clear();
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
        let identity = self.pages.get(page).identity(offset).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let heat = &mut self.heat[(identity >> 40) as usize & (HEATS - 1)];
        if *heat < self.threshold {
            *heat += 1;
            return None;
        }
        self.translate(s, page, offset, mode)
    }

    /// Lets a link lead to the translation of its target. Between pages it goes by way of a comparison.
    pub fn link(&mut self, number: u32, target_page: u32, block: Entry) {
        let Some(&Link { page, target, field }) = self.links.get(number as usize) else { return };
        if field == 0 || self.arena.is_full(256) {
            return;
        }
        if page == target_page && (0..4096).contains(&target) {
            self.arena.redirect(field, block.entry);
            return;
        }
        let asm = &mut self.asm;
        asm.clear();
        use reg::{R9, R10, RCX};
        asm.load(R10, Mem::Data(self.pages.lin_word(page)));
        asm.lea(R10, at(R10, (target & !0xfff) as i32));
        asm.mov(R9, RCX);
        asm.load(RCX, Mem::Data(self.pages.neg_word(target_page)));
        asm.lea(RCX, sum(RCX, R10));
        let same = asm.jrcxz();
        asm.mov(RCX, R9);
        asm.store_imm32(Mem::Gs(field::ARGUMENT), number);
        let _ = asm.jmp(Target::Fixed(self.stubs.exits[Left::Link as usize]));
        asm.bind_short(same);
        asm.mov(RCX, R9);
        let _ = asm.jmp(Target::Fixed(block.entry));
        let bases = self.arena.next();
        self.arena.add(asm.finish(bases));
        self.arena.redirect(field, bases[0]);
    }

    #[cold]
    #[inline(never)]
    fn translate(&mut self, s: &mut Session, page: u32, offset: u16, mode: usize) -> Option<Entry> {
        if self.arena.is_full(BLOCK_CODE) || self.sites.is_full(BLOCK_SITES) {
            self.clear();
            return None;
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        let found = self.read(s, page, offset, &mut bytes).filter(|()| !self.block.insns.is_empty());
        let block = found.map(|()| self.emit(s, page, offset, mode, &bytes));
        self.bytes = bytes;
        block
    }

    /// Reads and decodes a block, and marks its bytes as code.
    fn read(&mut self, s: &mut Session, page: u32, offset: u16, bytes: &mut Vec<u8>) -> Option<()> {
        let ram = s.ram();
        let memory = ram.page(self.pages.get(page).phys)?;
        let word = |i: usize| {
            // SAFETY: the page is mapped for the life of the RAM. Other vCPUs may write to it meanwhile, hence the
            // volatile read; a change is found out below.
            unsafe { memory.host.as_ptr().cast::<u64>().add(i).read_volatile() }
        };
        for _ in 0..ATTEMPTS {
            bytes.clear();
            (0..PAGE / 8).for_each(|i| bytes.extend_from_slice(&word(i).to_le_bytes()));
            self.block.decode(bytes, usize::from(offset));
            self.second = None;
            if self.block.insns.is_empty() {
                self.read_crossing(s, page, offset, bytes)?;
            }
            // What was looked at beside the block counts as its code: other flags may matter when that changes.
            let own = usize::from(offset)..self.block.end.max(usize::from(offset) + 1);
            let ranges = || std::iter::once(&own).chain(&self.block.seen).filter(|r| r.start < PAGE);
            let place = |r: &Range<usize>| (r.start as u16, (r.end.min(PAGE) - r.start) as u16);
            for (at, len) in ranges().map(place) {
                s.claim(&memory, at, len);
            }
            let same = |r: &Range<usize>| {
                let mut words = r.start / 8..r.end.min(PAGE).div_ceil(8);
                let (at, len) = place(r);
                words.all(|i| bytes[i * 8..i * 8 + 8] == word(i).to_le_bytes())
                    && memory.info.is_marked(at, len)
            };
            if ranges().all(same) {
                return self.pages.is_current(page).then_some(());
            }
        }
        None
    }

    /// The same for the one instruction at the end of a page that goes on in the next. Its second part counts as code from
    /// now on; that it was not rewritten meanwhile is found out when it is compared with the page's state.
    fn read_crossing(&mut self, s: &mut Session, page: u32, offset: u16, bytes: &mut Vec<u8>) -> Option<()> {
        if PAGE - usize::from(offset) >= LONGEST {
            return None;
        }
        let lin = self.pages.lin(page).wrapping_add(PAGE as u64);
        let phys = s.fetch(lin)?;
        let ram = s.ram();
        let next = ram.page(phys)?;
        s.claim(&next, 0, LONGEST as u16);
        let mode = self.pages.get(page).mode;
        let second = self.pages.map(lin, phys, mode, next.info)?;
        for i in 0..LONGEST {
            // SAFETY: the first bytes of a page of RAM; volatile as in `read`.
            bytes.push(unsafe { next.host.as_ptr().add(i).read_volatile() });
        }
        self.block.decode_crossing(bytes, usize::from(offset));
        self.second = Some(second);
        self.pages.pin(second);
        (self.pages.is_current(second) && next.info.is_marked(0, LONGEST as u16)).then_some(())
    }

    fn emit(&mut self, s: &mut Session, page: u32, offset: u16, mode: usize, bytes: &[u8]) -> Entry {
        let kind = self.modes[mode];
        self.asm.clear();
        let mut e = Emitter {
            asm: &mut self.asm,
            sites: &mut self.sites,
            pages: &self.pages,
            stubs: &self.stubs,
            page,
            mode,
            kind,
            first_branch: self.links.len() as u32,
            first_operation: self.operations.len() as u32,
            branches: Vec::new(),
            operations: Vec::new(),
            made: Vec::new(),
            live: true,
            live_behind: true,
            unit: Unit { first: self.notes.len() as u32, ..Unit::default() },
        };
        e.expect_target(i32::from(offset));
        let entry = e.asm.here();
        if let Some(second) = self.second {
            e.expect_second(second, offset);
        }
        let mut open = true;
        for (i, insn) in self.block.insns.iter().enumerate() {
            e.live = self.block.live[i] != 0;
            e.live_behind = self.block.live.get(i + 1).is_none_or(|&live| live != 0);
            let class = if s.allows(insn.code()) { class(insn, kind) } else { Class::Operation };
            let raw = &bytes[insn.ip() as usize..insn.next_ip() as usize];
            let target = insn.near_branch_target() as i64;
            let backward = target <= insn.ip() as i64;
            let edge = Edge { target, backward, live: self.block.live_ahead[i] };
            let done = e.instruction(insn, class, raw, edge);
            open &= !(done.is_some() && class.leaves());
            if done.is_none() {
                let ends = s.lower(insn, insn.ip() as u16).ends;
                e.operation(insn, ends);
                if ends {
                    open = false;
                    break;
                }
            }
        }
        if open {
            e.settle_x87();
            e.jump(self.block.end as i64, true, false);
        }
        let Emitter { branches, operations, made, unit, .. } = e;
        self.notes.extend(unit.notes.into_iter().map(|note| (page, note)));
        let bases = self.arena.next();
        self.arena.add(self.asm.finish(bases));
        let address = |place| self.asm.address(place, bases);
        for branch in branches {
            let field = if branch.redirect { address(branch.field) } else { 0 };
            self.links.push(Link { page, target: branch.target, field });
        }
        for (site, after) in made {
            self.sites.continue_at(site, after.map_or(0, address));
        }
        for Handed { insn, after, popped } in operations {
            let offset = insn.ip() as u16;
            let lowered = s.lower(&insn, offset);
            let after = after.map_or(0, address);
            self.operations.push(Operation {
                lowered,
                page,
                offset,
                after,
                popped,
                code: insn.code(),
                count: 0,
            });
        }
        let block = Entry { offset, entry: address(entry), checked: bases[0] };
        self.pages.insert(page, block);
        block
    }
}

#[cfg(test)]
mod tests;
