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

use crate::analysis::stack::{self, Slot};
use crate::cache::arena::{Arena, DATA};
use crate::cache::pages::{Block as Entry, Pages};
use crate::cache::tlb::{Sites, TABLES, Table, Tlb};
use crate::emit::asm::{Asm, Mem, Target, reg};
use crate::emit::instruction::Edge;
use crate::emit::x87::{Note, Unit};
use crate::emit::{self, Emitter, Handed};
use crate::frontend::block::Block;
use crate::frontend::class::{Class, class};
use crate::peers::{Peer, Peers};
use crate::runtime::bell;
use crate::runtime::context::{JUMP_MASK, Left, MODES};
use crate::runtime::stubs::Stubs;
use crate::trace::{Marks, Place, Tracer, Translation};

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
    /// Changes when all translations are forgotten.
    pub generation: u64,
    overwrites: Overwrites,
    peers: Arc<Peers>,
    own: Arc<Peer>,
    /// Is told of translations.
    pub tracer: Option<Box<Tracer>>,
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
        mut tracer: Option<Box<Tracer>>,
    ) -> Result<Self, Errno> {
        let avx = std::arch::is_x86_feature_detected!("avx");
        let mut arena = Arena::new(tracer.as_ref().is_some_and(|t| t.names_code()))?;
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
            threshold,
            asm: Asm::default(),
            block: Block::default(),
            bytes: Vec::new(),
            second: None,
            generation: 0,
            overwrites: Overwrites::default(),
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

    /// Enters translated code as far as the other vCPUs are concerned. True if stores to the page at `window` have to be
    /// looked at from now on.
    #[inline]
    pub fn enter(&mut self, window: u64) -> bool {
        let mut revoked = false;
        while !self.own.enter() {
            for host in self.own.take_requests() {
                self.tlb.protect(&mut self.sites, host as *const u8);
                revoked |= host as u64 == window;
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
        // Flags survive, since another page may be there and make something of them.
        asm.mov(R9, RCX);
        asm.load(R10, Mem::Data(self.pages.lin_word(page)));
        asm.load(RCX, Mem::Data(self.pages.neg_word(target_page)));
        let disp = (target & !0xfff) as i32;
        asm.lea(RCX, Mem::At { base: Some(RCX), index: Some(R10), scale: 0, disp });
        let same = asm.jrcxz();
        asm.mov(RCX, R9);
        asm.call_with(self.stubs.leave[Left::Link as usize], number);
        asm.bind_short(same);
        asm.mov(RCX, R9);
        let _ = asm.jmp(Target::Fixed(block.entry));
        let bases = self.arena.next();
        self.arena.add(asm.finish(bases));
        self.arena.redirect(field, bases[0]);
        self.joint("link", target_page, block.offset, bases);
    }

    /// Tells of code that was made beside translations, and where it leads.
    fn joint(&mut self, what: &str, page: u32, offset: u16, bases: [u64; 2]) {
        let place = self.place(page, offset);
        if let Some(tracer) = &mut self.tracer {
            tracer.joint(what, place, self.asm.finish(bases), bases);
        }
    }

    fn place(&self, page: u32, offset: u16) -> Place {
        let (offset, of) = (u64::from(offset), self.pages.get(page));
        let mode = self.modes[usize::from(of.mode)];
        Place { mode, lin: self.pages.lin(page).wrapping_add(offset), phys: of.phys | offset }
    }

    /// An entry to the translation of the code at `lin` for those who have a target in R10. `present` is what has its place
    /// in the jump table: a translation there is tried behind this one. `None`: no room.
    pub fn checked(&mut self, lin: u64, mode: usize, block: Entry, present: u64) -> Option<u64> {
        let page = self.pages.mapped_at(lin, mode as u8)?;
        let lookup = self.stubs.exits[Left::Lookup as usize];
        let place = (mode as u8, (lin & u64::from(JUMP_MASK)) as u16);
        let alone = present == lookup || present == block.checked;
        let alone = alone || {
            let crowd = self.crowds.entry(place).or_default();
            *crowd = crowd.saturating_add(1);
            *crowd > CROWD
        };
        if alone && block.checked != 0 {
            return Some(block.checked);
        }
        if self.arena.is_full(256) {
            return None;
        }
        self.asm.clear();
        let mut e = self.emitter(page, self.modes[mode]);
        e.expect_target(i32::from(block.offset), if alone { lookup } else { present });
        let _ = e.asm.jmp(Target::Fixed(block.entry));
        let bases = self.arena.next();
        self.arena.add(self.asm.finish(bases));
        if alone {
            self.pages.insert(page, Entry { checked: bases[0], ..block });
        }
        self.joint("entry", page, block.offset, bases);
        Some(bases[0])
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
            let known = self.pages.get(page);
            self.block.decode(bytes, usize::from(offset), |at| known.block(at).is_some());
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

    /// Where the words of the vCPU's bell are.
    pub fn bell(&self) -> *mut u8 {
        self.arena.data()
    }

    fn emitter(&mut self, page: u32, kind: Mode) -> Emitter<'_> {
        Emitter {
            bell: self.arena.data() as u64,
            asm: &mut self.asm,
            sites: &mut self.sites,
            pages: &self.pages,
            stubs: &self.stubs,
            page,
            mode: usize::from(self.pages.get(page).mode),
            kind,
            other: 0,
            first_branch: self.links.len() as u32,
            first_operation: self.operations.len() as u32,
            first_segment: self.segments.len() as u32,
            branches: Vec::new(),
            operations: Vec::new(),
            segments: Vec::new(),
            made: Vec::new(),
            live: true,
            live_behind: true,
            parked: false,
            held: [None; 2],
            slot: Slot::default(),
            windowed: false,
            ahead: 0,
            defers: false,
            unit: Unit { first: self.notes.len() as u32, ..Unit::default() },
        }
    }

    /// Emits the block that was read. `windows`: stack accesses may go through the window.
    fn emit(
        &mut self,
        s: &mut Session,
        page: u32,
        offset: u16,
        mode: usize,
        windows: bool,
        bytes: &[u8],
    ) -> Entry {
        let kind = self.modes[mode];
        self.asm.clear();
        let block = std::mem::take(&mut self.block);
        let mut classes: Vec<Class> = block
            .insns
            .iter()
            .map(|insn| if s.allows(insn.code()) { class(insn, kind) } else { Class::Operation })
            .collect();
        let mut other = mode;
        for class in &mut classes {
            if let Some(kind) = class.other(kind) {
                match self.other_mode(kind) {
                    Some(number) => other = number,
                    None => *class = Class::Operation,
                }
                break;
            }
        }
        let slots = if windows { stack::slots(&block.insns, &classes, &block.live) } else { Vec::new() };
        let second = self.second;
        let mut marks = self.tracer.is_some().then(Marks::default);
        let mut e = self.emitter(page, kind);
        e.other = other;
        let entry = e.asm.here();
        if let Some(second) = second {
            e.expect_second(second, offset);
        }
        let mut open = true;
        for (i, insn) in block.insns.iter().enumerate() {
            if let Some(marks) = &mut marks {
                marks.begin(e.asm.lengths());
            }
            e.live = block.live[i] != 0;
            e.live_behind = block.live.get(i + 1).map_or(block.live_end, |&live| live != 0);
            e.slot = slots.get(i).cloned().unwrap_or_default();
            e.windowed = slots.get(i + 1).is_some_and(|slot| slot.inside && slot.check.is_none());
            if let Some(range) = e.slot.check.clone() {
                e.settle_stack();
                e.check_window(&range, insn.ip() as u16);
            }
            let raw = &bytes[insn.ip() as usize..insn.next_ip() as usize];
            let target = insn.near_branch_target() as i64;
            let backward = target <= insn.ip() as i64;
            let edge = Edge { target, backward, live: block.live_ahead[i] };
            let done = e.instruction(insn, classes[i], raw, edge);
            if done.is_some() && classes[i].leaves() {
                open = false;
                break;
            }
            if done.is_none() {
                if let Some(marks) = &mut marks {
                    marks.left(insn.code());
                }
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
            e.settle_stack();
            e.jump(block.end as i64, block.live_end, false);
        }
        let Emitter { branches, operations, segments, made, unit, .. } = e;
        let place = self.place(page, offset);
        self.block = block;
        self.notes.extend(unit.notes.into_iter().map(|note| (page, note)));
        let bases = self.arena.next();
        let code = self.asm.finish(bases);
        self.arena.add(code);
        if let (Some(tracer), Some(marks)) = (&mut self.tracer, marks) {
            let insns = &self.block.insns;
            tracer.made(&Translation { place, windows, insns, marks, code, bases });
        }
        let address = |place| self.asm.address(place, bases);
        for branch in branches {
            let field = if branch.redirect { address(branch.field) } else { 0 };
            self.links.push(Link { page, target: branch.target, field });
        }
        for (site, after) in made {
            self.sites.continue_at(site, after.map_or(0, address));
        }
        for emit::Segment { offset, range, here, instead } in segments {
            let (check, instead) = (address(here), address(instead));
            self.segments.push(Segment { page, offset, range, check, instead, refused: 0 });
        }
        for Handed { insn, after, popped, windowed, parked } in operations {
            let offset = insn.ip() as u16;
            let lowered = s.lower(&insn, offset);
            let after = after.map_or(0, address);
            self.operations.push(Operation {
                lowered,
                page,
                offset,
                after,
                popped,
                windowed,
                parked,
                code: insn.code(),
                count: 0,
            });
        }
        Entry { offset, entry: address(entry), checked: 0 }
    }
}

#[cfg(test)]
mod tests;
