//! Operations as they lie in memory: sequences that end by themselves, and links from one to the next.
//!
//! Operations of a sequence are threaded: each one ends by calling the next, which optimised builds turn into a jump, so
//! that there is no loop to return to and every operation has an indirect branch of its own to predict. A direct branch
//! goes on in the block that it leads to in the same way. What is called before control returns is bounded by
//! [`Cpu::budget`], so that the stack stays bounded even where the calls are not turned into jumps.
// UNSAFETY: going from an operation to the one behind it, or to where a link leads, is not checked.
#![allow(unsafe_code)]

use std::marker::PhantomData;
use std::ops::Deref;
use std::ptr::{NonNull, null};

use crate::cpu::Cpu;
use crate::op::{Op, Stop, op_flag, slot};

/// An operation, or the link that lies behind each one with [`op_flag::LINK`].
#[repr(C)]
union Slot {
    op: Op,
    link: Link,
}

/// The block of the same page that follows a direct branch, or the end of a block. Where the page is mapped does not
/// matter to it.
#[derive(Clone, Copy)]
struct Link {
    /// [`memory::code_epoch`] when the block was found current; 0 if there is none.
    epoch: u64,
    block: u32,
    start: Start,
}

const NO_LINK: Link = Link { epoch: 0, block: 0, start: Start(0) };

/// Where a sequence starts, in bytes from the first of its [`Code`].
#[derive(Clone, Copy)]
pub(crate) struct Start(u32);

/// An operation with a link, by its place in its [`Code`].
#[derive(Clone, Copy)]
pub(crate) struct Exit(usize);

impl Exit {
    /// Of no code.
    pub const NONE: Self = Self(usize::MAX);
}

/// The code that a vCPU runs.
#[derive(Clone, Copy)]
pub(crate) struct Base(*const Slot);

impl Base {
    /// None.
    pub const NONE: Self = Self(null());
}

/// An operation in its sequence.
#[derive(Clone, Copy)]
pub(crate) struct At<'a> {
    slot: NonNull<Slot>,
    code: PhantomData<&'a Code>,
}

impl Deref for At<'_> {
    type Target = Op;

    #[inline(always)]
    fn deref(&self) -> &Op {
        // SAFETY: an `At` is made from the start of a sequence or from the operation before it, and both make sure that
        // its slot holds an operation; the borrow of the code keeps it there.
        unsafe { &self.slot.as_ref().op }
    }
}

impl At<'_> {
    /// The operation behind this one.
    ///
    /// # Safety
    /// This is not the last one of its sequence, and it has a link if and only if `LINKED`.
    #[inline(always)]
    unsafe fn behind<const LINKED: bool>(self) -> Self {
        debug_assert_eq!(self.has(op_flag::LINK), LINKED);
        // SAFETY: the caller vouches for it.
        Self { slot: unsafe { self.slot.add(1 + LINKED as usize) }, ..self }
    }

    #[inline(always)]
    fn run(self, cpu: &mut Cpu) -> Stop {
        (self.run)(cpu, self)
    }
}

/// Goes on with the operation behind `op`, which has no link.
#[inline(always)]
pub(crate) fn next(cpu: &mut Cpu, op: At) -> Stop {
    // SAFETY: the last operation is `last`, which does not call this. Handlers of operations that are lowered with the
    // flag call `pass` or `follow` instead, as development builds check.
    unsafe { op.behind::<false>() }.run(cpu)
}

/// Goes on behind a branch that is not taken.
#[inline(always)]
pub(crate) fn pass(cpu: &mut Cpu, op: At) -> Stop {
    // SAFETY: as above; a branch has a link.
    unsafe { op.behind::<true>() }.run(cpu)
}

/// Offset of the operation behind every sequence: farther than any block reaches.
const END: u16 = u16::MAX;

/// That operation.
fn last(_: &mut Cpu, _: At) -> Stop {
    Stop::End
}

impl Cpu {
    /// Goes on at `target`, outside the block: where the link of `op` leads or, without one or if something else wants
    /// attention, in the loop that runs blocks. `op.aux` is the number of instructions up to here.
    #[inline(always)]
    pub fn follow(&mut self, target: u64, op: At) -> Stop {
        debug_assert!(op.has(op_flag::LINK));
        self.budget -= i64::from(op.aux);
        // SAFETY: operations with the flag, and no others come here, have a link behind them.
        let link = unsafe { op.slot.add(1).as_ref().link };
        if link.epoch == memory::code_epoch() && self.budget > 0 && self.signals.load() == 0 {
            self.regs[usize::from(slot::BLOCK)] = target;
            self.block = link.block;
            // SAFETY: `Code::link` made the link lead to the start of a sequence of the code that it is in, and that is
            // the code that runs, whose base `Code::run` has set.
            let slot =
                unsafe { NonNull::new_unchecked(self.base.0.cast_mut()).byte_add(link.start.0 as usize) };
            return At { slot, ..op }.run(self);
        }
        self.rip = target;
        self.exit = Exit((op.slot.as_ptr() as usize).wrapping_sub(self.base.0 as usize));
        Stop::Taken
    }
}

/// Sequences of operations.
#[derive(Default)]
pub(crate) struct Code {
    slots: Vec<Slot>,
}

impl Code {
    /// Slots that a sequence takes.
    pub fn slots(ops: &[Op]) -> usize {
        ops.iter().map(|op| 1 + usize::from(op.has(op_flag::LINK))).sum::<usize>() + 1
    }

    /// Slots in use.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Drops all sequences.
    pub fn clear(&mut self) {
        self.slots.clear();
    }

    /// Adds a sequence: where it starts.
    pub fn push(&mut self, ops: &[Op]) -> Start {
        let start = Start((self.slots.len() * size_of::<Slot>()) as u32);
        layout(ops, |slot| self.slots.push(slot));
        start
    }

    /// Puts a sequence in the place of one that has as many slots or more.
    ///
    /// # Safety
    /// `start` is that of such a sequence, which was not dropped since.
    pub unsafe fn replace(&mut self, start: Start, ops: &[Op]) {
        let first = start.0 as usize / size_of::<Slot>();
        let mut room = self.slots[first..].iter_mut();
        layout(ops, |new| {
            if let Some(slot) = room.next() {
                *slot = new;
            }
        });
    }

    /// The operations of a sequence, and the end.
    ///
    /// # Safety
    /// `start` is that of a sequence of this code, which was not dropped since.
    pub unsafe fn ops(&self, start: Start) -> impl Iterator<Item = At<'_>> {
        // SAFETY: the caller vouches for it.
        let first = unsafe { self.at(start) };
        std::iter::successors(Some(first), |op| match (op.off, op.has(op_flag::LINK)) {
            (END, _) => None,
            // SAFETY: not the last one, which alone has that offset, and the flag was looked at.
            (_, true) => Some(unsafe { op.behind::<true>() }),
            // SAFETY: as above.
            (_, false) => Some(unsafe { op.behind::<false>() }),
        })
    }

    /// Runs a sequence, and where links lead from it.
    ///
    /// # Safety
    /// As for [`ops`](Self::ops).
    #[inline(always)]
    pub unsafe fn run(&self, cpu: &mut Cpu, start: Start) -> Stop {
        cpu.base = Base(self.slots.as_ptr());
        // SAFETY: the caller vouches for it.
        unsafe { self.at(start) }.run(cpu)
    }

    /// Runs the first sequence.
    pub fn run_first(&self, cpu: &mut Cpu) -> Stop {
        if self.slots.is_empty() {
            return Stop::End;
        }
        // SAFETY: a sequence starts there.
        unsafe { self.run(cpu, Start(0)) }
    }

    /// # Safety
    /// As for [`ops`](Self::ops).
    #[inline(always)]
    unsafe fn at(&self, start: Start) -> At<'_> {
        let base = NonNull::from(self.slots.as_slice()).cast::<Slot>();
        // SAFETY: the caller vouches for it.
        At { slot: unsafe { base.byte_add(start.0 as usize) }, code: PhantomData }
    }

    /// The block that the link of an operation leads to, whether it is current or not.
    ///
    /// # Safety
    /// `exit` was set by code of this, none of which was replaced or dropped since.
    pub unsafe fn linked(&self, exit: Exit) -> Option<u32> {
        // SAFETY: operations that set an exit have a link behind them.
        let link = unsafe { self.slots.get(exit.0 / size_of::<Slot>() + 1)?.link };
        (link.epoch != 0).then_some(link.block)
    }

    /// Makes the link of an operation lead to block `block` at `start`, which is current.
    ///
    /// # Safety
    /// As for [`linked`](Self::linked), and `start` is that of a sequence of this code.
    pub unsafe fn link(&mut self, exit: Exit, epoch: u64, block: u32, start: Start) {
        if let Some(slot) = self.slots.get_mut(exit.0 / size_of::<Slot>() + 1) {
            slot.link = Link { epoch, block, start };
        }
    }
}

/// Operations with their links, and the end.
fn layout(ops: &[Op], mut put: impl FnMut(Slot)) {
    for &op in ops {
        put(Slot { op });
        if op.has(op_flag::LINK) {
            put(Slot { link: NO_LINK });
        }
    }
    put(Slot { op: Op { run: last, ..Op::template(END, 0) } });
}
