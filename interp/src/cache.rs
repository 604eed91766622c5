//! Decoded blocks, keyed by physical address and mode, in a bounded arena.
// UNSAFETY: blocks keep raw pointers to entries of the RAM page table, to check generations cheaply, and run their code.
#![allow(unsafe_code)]

mod copy;
mod restless;

use std::ops::Deref;
use std::sync::Arc;

use memory::{GuestRam, PageInfo};

pub(crate) use self::copy::Copy;
pub(crate) use self::restless::Restless;
use crate::code::{Code, Exit, Start};
use crate::cpu::Cpu;
use crate::op::{Op, Stop};

/// Operations and links that a block takes, about.
const BLOCK_SLOTS: usize = 10;
const BUCKETS: usize = 1 << 14;
const JUMPS: usize = 1 << 12;
const NONE: u32 = u32::MAX;

/// A page that a block was decoded from, and its generation then.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// Guest-physical address of the page.
    pub phys: u64,
    pub info: *const PageInfo,
    pub generation: u32,
}

/// How to find out whether a block is what its bytes say.
pub(crate) enum Origin {
    /// It is, while the page is of the generation it was decoded in, and the second one, for an instruction that crosses
    /// into another page.
    Marked(Source, Option<Source>),
    /// The bytes are compared. No link leads to such a block.
    Copied(Copy),
}

/// A run of instructions that ends at the first branch, at a system instruction or at the page end.
#[repr(align(64))]
pub(crate) struct Block {
    phys: u64,
    start: Start,
    /// Slots of the arena that it takes.
    slots: u16,
    /// Guest instructions, which may be fewer or more than operations.
    pub insns: u16,
    /// Guest bytes.
    pub bytes: u16,
    /// Offset of the last operation.
    pub last: u16,
    origin: Origin,
}

/// A block just decoded.
pub(crate) struct Decoded {
    pub phys: u64,
    pub key: u8,
    pub insns: u16,
    pub bytes: u16,
    pub origin: Origin,
}

/// What a block is found by, apart from the block: those that are passed by on the way need not be looked at.
struct Place {
    phys: u64,
    key: u8,
    /// Next block in the same bucket.
    next: u32,
}

#[derive(Clone, Copy)]
struct Jump {
    lin: u64,
    context: u64,
    block: u32,
}

const NO_JUMP: Jump = Jump { lin: u64::MAX, context: u64::MAX, block: NONE };

/// The decoded blocks of one vCPU.
pub(crate) struct Cache {
    /// What the arena holds at most, operations and links.
    max_slots: usize,
    code: Code,
    blocks: Vec<Block>,
    /// Of the blocks, in the same order.
    places: Vec<Place>,
    buckets: Box<[u32; BUCKETS]>,
    jumps: Box<[Jump; JUMPS]>,
    version: u32,
    pub restless: Restless,
    /// Keeps every `Source::info` and every page with copies alive.
    _ram: Arc<GuestRam>,
}

// SAFETY: the pointers in `Source` name entries of the page table that `_ram` owns; those are atomics.
unsafe impl Send for Cache {}

fn bucket(phys: u64, key: u8) -> usize {
    let mixed = (phys ^ (u64::from(key) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 50) as usize & (BUCKETS - 1)
}

#[inline(always)]
fn jump_slot(lin: u64) -> usize {
    (lin ^ (lin >> 12)) as usize & (JUMPS - 1)
}

impl Source {
    #[inline(always)]
    fn current(&self) -> bool {
        // SAFETY: see `Cache::_ram`.
        unsafe { (*self.info).generation() == self.generation }
    }
}

impl Block {
    /// The page that its only instruction crosses into.
    pub fn second(&self) -> Option<Source> {
        match self.origin {
            Origin::Marked(_, second) => second,
            Origin::Copied(_) => None,
        }
    }

    #[inline(always)]
    fn is_current(&self) -> bool {
        match &self.origin {
            Origin::Marked(source, second) => source.current() && second.is_none_or(|s| s.current()),
            Origin::Copied(copy) => copy.is_current(),
        }
    }

    #[inline(always)]
    fn is_copied(&self) -> bool {
        matches!(self.origin, Origin::Copied(_))
    }
}

impl Cache {
    /// An empty cache whose operations take `bytes` at most. A full one is emptied, which costs a re-decode of what is
    /// still hot.
    pub fn new(ram: Arc<GuestRam>, bytes: usize) -> Self {
        Self {
            max_slots: bytes / size_of::<Op>(),
            code: Code::default(),
            blocks: Vec::new(),
            places: Vec::new(),
            buckets: Box::new([NONE; BUCKETS]),
            jumps: Box::new([NO_JUMP; JUMPS]),
            version: 0,
            restless: Restless::default(),
            _ram: ram,
        }
    }

    /// The block that a jump to `lin` reached last in this context, if its code is still the same.
    #[inline(always)]
    pub fn by_jump(&mut self, lin: u64, context: u64) -> Option<u32> {
        let jump = &self.jumps[jump_slot(lin)];
        if jump.lin != lin || jump.context != context {
            return None;
        }
        let block = self.blocks.get(jump.block as usize)?;
        let current = block.is_current() && (!block.is_copied() || self.restless.unchanged(block.phys));
        current.then_some(jump.block)
    }

    /// Where code at `lin` is, if a jump has led there in this context.
    pub fn phys_by_jump(&self, lin: u64, context: u64) -> Option<u64> {
        let jump = &self.jumps[jump_slot(lin)];
        let known = jump.lin == lin && jump.context == context;
        self.blocks.get(jump.block as usize).filter(|_| known).map(|block| block.phys)
    }

    /// True if the block's code was not overwritten since it was decoded.
    #[inline(always)]
    pub fn current(&self, block: u32) -> bool {
        self.blocks.get(block as usize).is_some_and(Block::is_current)
    }

    /// True if the block is compared with its bytes before it runs.
    #[inline(always)]
    pub fn is_copied(&self, block: u32) -> bool {
        self.blocks.get(block as usize).is_some_and(Block::is_copied)
    }

    /// Remembers where a jump led.
    pub fn remember(&mut self, lin: u64, context: u64, block: u32) {
        self.jumps[jump_slot(lin)] = Jump { lin, context, block };
    }

    /// Runs a block, and where links lead from it.
    #[inline(always)]
    pub fn run(&self, cpu: &mut Cpu, block: u32) -> Stop {
        cpu.block = block;
        // SAFETY: blocks and their code are dropped together.
        unsafe { self.code.run(cpu, self.blocks[block as usize].start) }
    }

    /// The block that the link of `exit` leads to, which was overwritten code at some time since it was made and is not
    /// now: the link is good again. To be asked before anything is inserted since `exit` was set.
    pub fn renew(&mut self, exit: Exit) -> Option<u32> {
        // SAFETY: as said.
        let block = unsafe { self.code.linked(exit)? };
        let epoch = memory::code_epoch();
        if !self.current(block) || self.is_copied(block) {
            return None;
        }
        // It may have been decoded anew, in another place.
        let start = self.blocks[block as usize].start;
        // SAFETY: as above, and blocks start sequences.
        unsafe { self.code.link(exit, epoch, block, start) };
        Some(block)
    }

    /// Makes the link of `exit`, which block `from` has set at the time of `version`, lead to block `to` if both are in one
    /// page.
    pub fn link(&mut self, exit: Exit, version: u32, from: u32, to: u32) {
        let epoch = memory::code_epoch();
        let (Some(a), Some(b)) = (self.blocks.get(from as usize), self.blocks.get(to as usize)) else {
            return;
        };
        let one_page = (a.phys ^ b.phys) < 4096 && b.second().is_none();
        if version == self.version && one_page && !b.is_copied() && b.is_current() {
            let start = b.start;
            // SAFETY: what was replaced or dropped since would have changed the version; blocks start sequences.
            unsafe { self.code.link(exit, epoch, to, start) };
        }
    }

    /// The operations of a block.
    pub fn ops(&self, block: u32) -> impl Iterator<Item = impl Deref<Target = Op>> {
        // SAFETY: blocks and their code are dropped together.
        unsafe { self.code.ops(self.blocks[block as usize].start) }
    }

    /// Changes when operations are replaced or dropped.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The current block at a physical address; one that is compared with its bytes while the page is restless.
    pub fn find(&mut self, phys: u64, key: u8) -> Option<u32> {
        let at = self.placed(phys, key)?;
        let block = self.blocks.get(at as usize)?;
        let wanted = block.is_copied() == self.restless.is(phys);
        (wanted && block.is_current()).then_some(at)
    }

    /// The block at a physical address, current or not.
    fn placed(&self, phys: u64, key: u8) -> Option<u32> {
        let mut at = self.buckets[bucket(phys, key)];
        while let Some(place) = self.places.get(at as usize) {
            if place.phys == phys && place.key == key {
                return Some(at);
            }
            at = place.next;
        }
        None
    }

    #[inline(always)]
    pub fn block(&self, id: u32) -> &Block {
        &self.blocks[id as usize]
    }

    /// Adds a block, replacing a stale one with the same key.
    pub fn insert(&mut self, decoded: Decoded, ops: &[Op]) -> u32 {
        if let Origin::Copied(_) = decoded.origin {
            self.restless.changed(decoded.phys);
        }
        let slots = Code::slots(ops);
        if self.code.len() + slots > self.max_slots || self.blocks.len() >= self.max_slots / BLOCK_SLOTS {
            self.clear();
        }
        let old = self.placed(decoded.phys, decoded.key);
        let reuse = old.map(|id| (self.blocks[id as usize].start, self.blocks[id as usize].slots));
        // A rewritten block takes its old place if it is no longer, so that self-modifying code fills no arena.
        let (start, slots) = match reuse {
            Some((start, room)) if slots <= usize::from(room) => {
                // SAFETY: the block's own, which is as long; blocks and their code are dropped together.
                unsafe { self.code.replace(start, ops) };
                self.version = self.version.wrapping_add(1);
                (start, room)
            }
            _ => (self.code.push(ops), slots as u16),
        };
        let block = Block {
            phys: decoded.phys,
            start,
            slots,
            insns: decoded.insns,
            bytes: decoded.bytes,
            last: ops.last().map_or(0, |op| op.off),
            origin: decoded.origin,
        };
        if let Some(id) = old {
            self.blocks[id as usize] = block;
            return id;
        }
        let id = self.blocks.len() as u32;
        let head = &mut self.buckets[bucket(decoded.phys, decoded.key)];
        let next = std::mem::replace(head, id);
        self.blocks.push(block);
        self.places.push(Place { phys: decoded.phys, key: decoded.key, next });
        id
    }

    fn clear(&mut self) {
        self.code.clear();
        self.blocks.clear();
        self.places.clear();
        self.buckets.fill(NONE);
        self.jumps.fill(NO_JUMP);
        self.version = self.version.wrapping_add(1);
    }
}
