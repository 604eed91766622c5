//! Decoded blocks, keyed by physical address and mode, in a bounded arena.
// UNSAFETY: blocks keep raw pointers to entries of the RAM page table, to check generations cheaply.
#![allow(unsafe_code)]

use std::sync::Arc;

use memory::{GuestRam, PageInfo};

use crate::op::{Exit, Op};

/// Operations the arena holds: 10 MiB. A full arena is emptied, which costs a re-decode of what is still hot.
const MAX_OPS: usize = (10 << 20) / size_of::<Op>();
const MAX_BLOCKS: usize = MAX_OPS / 10;
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

/// A run of instructions that ends at the first branch, at a system instruction or at the page end.
#[repr(align(64))]
pub(crate) struct Block {
    phys: u64,
    key: u8,
    /// Next block in the same bucket.
    next: u32,
    start: u32,
    count: u16,
    /// Guest instructions, which may be fewer or more than operations.
    insns: u16,
    /// Guest bytes.
    pub bytes: u16,
    source: Source,
    /// For an instruction that crosses into another page.
    pub second: Option<Source>,
    /// Blocks of the same page that follow: behind this one, and at the targets of its direct branches. Where a page
    /// is mapped does not matter to them.
    links: [Link; 1 + Exit::LINKED],
}

/// A block that may be entered without looking it up.
#[derive(Clone, Copy)]
struct Link {
    /// [`memory::code_epoch`] when the block was found current; 0 if there is none.
    epoch: u64,
    entry: Entry,
}

const NO_LINK: Link = Link { epoch: 0, entry: Entry { block: NONE, span: 0 } };

/// What the run loop needs of a block: two words, so that it stays in registers.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// The block's number.
    pub block: u32,
    /// First operation in bits 0-31, number of operations in 32-47, number of guest instructions in 48-63.
    span: u64,
}

impl Entry {
    /// Guest instructions.
    #[inline(always)]
    pub fn insns(self) -> u64 {
        self.span >> 48
    }
}

/// A block just decoded.
pub(crate) struct Decoded {
    pub phys: u64,
    pub key: u8,
    pub insns: u16,
    pub bytes: u16,
    pub source: Source,
    pub second: Option<Source>,
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
    ops: Vec<Op>,
    blocks: Vec<Block>,
    buckets: Box<[u32; BUCKETS]>,
    jumps: Box<[Jump; JUMPS]>,
    epoch: u32,
    /// Keeps every `Source::info` alive.
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

impl Cache {
    pub fn new(ram: Arc<GuestRam>) -> Self {
        Self {
            ops: Vec::new(),
            blocks: Vec::new(),
            buckets: Box::new([NONE; BUCKETS]),
            jumps: Box::new([NO_JUMP; JUMPS]),
            epoch: 0,
            _ram: ram,
        }
    }

    /// The block that a jump to `lin` reached last in this context, if its code is still the same.
    #[inline(always)]
    pub fn by_jump(&self, lin: u64, context: u64) -> Option<u32> {
        let jump = &self.jumps[jump_slot(lin)];
        (jump.lin == lin && jump.context == context && self.current(jump.block)).then_some(jump.block)
    }

    /// True if the block's code was not overwritten since it was decoded.
    #[inline(always)]
    pub fn current(&self, block: u32) -> bool {
        self.blocks
            .get(block as usize)
            .is_some_and(|b| b.source.current() && b.second.is_none_or(|s| s.current()))
    }

    /// Remembers where a jump led.
    pub fn remember(&mut self, lin: u64, context: u64, block: u32) {
        self.jumps[jump_slot(lin)] = Jump { lin, context, block };
    }

    /// The block that follows `block` on side `side`, if it is known and current.
    #[inline(always)]
    pub fn linked(&mut self, block: u32, side: usize) -> Option<Entry> {
        let link = self.blocks[block as usize].links.get(side)?;
        let entry = link.entry;
        if link.epoch == memory::code_epoch() {
            return Some(entry);
        }
        self.renew(block, side, entry)
    }

    /// Code was overwritten somewhere since the link was made or last looked at.
    #[inline(never)]
    #[cold]
    fn renew(&mut self, block: u32, side: usize, old: Entry) -> Option<Entry> {
        let epoch = memory::code_epoch();
        if !self.current(old.block) {
            return None;
        }
        let entry = self.entry(old.block); // it may have been decoded anew in its place
        *self.blocks[block as usize].links.get_mut(side)? = Link { epoch, entry };
        Some(entry)
    }

    /// Remembers that `next` follows `block` on side `side`, if both are in one page.
    pub fn link(&mut self, block: u32, side: usize, next: Entry) {
        let epoch = memory::code_epoch();
        if !self.current(next.block) {
            return;
        }
        let to = &self.blocks[next.block as usize];
        let (to_phys, crosses) = (to.phys, to.second.is_some());
        let Some(from) = self.blocks.get_mut(block as usize) else { return };
        if (from.phys ^ to_phys) < 4096
            && !crosses
            && let Some(link) = from.links.get_mut(side)
        {
            *link = Link { epoch, entry: next };
        }
    }

    /// How to enter a block.
    #[inline(always)]
    pub fn entry(&self, id: u32) -> Entry {
        let block = &self.blocks[id as usize];
        let span = u64::from(block.start) | u64::from(block.count) << 32 | u64::from(block.insns) << 48;
        Entry { block: id, span }
    }

    /// The operations of a block.
    #[inline(always)]
    pub fn ops(&self, entry: Entry) -> &[Op] {
        let start = entry.span as u32 as usize;
        &self.ops[start..start + (entry.span >> 32 & 0xffff) as usize]
    }

    /// Changes when block numbers become meaningless.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The current block at a physical address.
    pub fn find(&self, phys: u64, key: u8) -> Option<u32> {
        let mut at = self.buckets[bucket(phys, key)];
        while let Some(block) = self.blocks.get(at as usize) {
            if block.phys == phys && block.key == key {
                return self.current(at).then_some(at);
            }
            at = block.next;
        }
        None
    }

    #[inline(always)]
    pub fn block(&self, id: u32) -> &Block {
        &self.blocks[id as usize]
    }

    /// Adds a block, replacing a stale one with the same key.
    pub fn insert(&mut self, decoded: &Decoded, ops: &[Op]) -> u32 {
        if self.ops.len() + ops.len() > MAX_OPS || self.blocks.len() >= MAX_BLOCKS {
            self.clear();
        }
        let head = &mut self.buckets[bucket(decoded.phys, decoded.key)];
        let mut at = *head;
        let mut reuse = None;
        while let Some(block) = self.blocks.get(at as usize) {
            if block.phys == decoded.phys && block.key == decoded.key {
                reuse = Some((at, block.next, block.start, block.count));
                break;
            }
            at = block.next;
        }
        // A rewritten block takes its old place if it is no longer, so that self-modifying code fills no arena.
        let (start, in_place) = match reuse {
            Some((_, _, start, count)) if ops.len() <= usize::from(count) => (start, true),
            _ => (self.ops.len() as u32, false),
        };
        if in_place {
            self.ops[start as usize..start as usize + ops.len()].copy_from_slice(ops);
        } else {
            self.ops.extend_from_slice(ops);
        }
        let block = Block {
            phys: decoded.phys,
            key: decoded.key,
            next: reuse.map_or(*head, |r| r.1),
            start,
            count: ops.len() as u16,
            insns: decoded.insns,
            bytes: decoded.bytes,
            source: decoded.source,
            second: decoded.second,
            links: [NO_LINK; 1 + Exit::LINKED],
        };
        if let Some((id, ..)) = reuse {
            self.blocks[id as usize] = block;
            id
        } else {
            let id = self.blocks.len() as u32;
            *head = id;
            self.blocks.push(block);
            id
        }
    }

    fn clear(&mut self) {
        self.ops.clear();
        self.blocks.clear();
        self.buckets.fill(NONE);
        self.jumps.fill(NO_JUMP);
        self.epoch = self.epoch.wrapping_add(1);
    }
}
