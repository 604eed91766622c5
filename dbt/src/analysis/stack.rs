//! Which accesses of a block lie at a known distance from RSP. A check of the stack's window then serves many of them: a
//! block falls into segments, each of which changes RSP by constants only.

use std::ops::Range;

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use crate::frontend::class::{Access, Class};
use crate::frontend::code32::{displacement, stack_pointer, word};

/// Bytes that one check covers at most: the more, the more often they lie in two pages.
const SPAN: i32 = 1024;

/// The stack as one instruction of a block finds it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Slot {
    /// Bytes that have to be in the window, as seen from RSP: a segment's accesses begin here.
    pub check: Option<Range<i32>>,
    /// The accesses of this instruction are among those that were checked.
    pub inside: bool,
}

/// What an instruction does.
struct Effect {
    /// Bytes that it accesses, as seen from RSP before it.
    access: Option<Range<i32>>,
    /// What it adds to RSP, if that is known.
    change: Option<i32>,
}

/// The distance from RSP of the memory operand.
pub fn distance(insn: &Instruction) -> Option<i32> {
    let plain = insn.memory_base() == stack_pointer(insn)
        && insn.memory_index() == Register::None
        && matches!(insn.memory_segment(), Register::SS | Register::DS);
    let displacement = i32::try_from(displacement(insn)).ok()?;
    (plain && has_operand(insn) && displacement.unsigned_abs() < SPAN as u32).then_some(displacement)
}

/// There is an explicit memory operand.
pub fn has_operand(insn: &Instruction) -> bool {
    (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory)
}

/// What ADD, SUB and LEA of a constant do to RSP.
pub fn constant(insn: &Instruction) -> Option<i32> {
    let pointer = stack_pointer(insn);
    if insn.op_count() != 2 || insn.op_kind(0) != OpKind::Register || insn.op0_register() != pointer {
        return None;
    }
    let immediate = !matches!(insn.op_kind(1), OpKind::Register | OpKind::Memory);
    let change = match insn.mnemonic() {
        Mnemonic::Add if immediate => insn.immediate(1) as i32,
        Mnemonic::Sub if immediate => (insn.immediate(1) as i32).checked_neg()?,
        Mnemonic::Lea if insn.memory_base() == pointer && insn.memory_index() == Register::None => {
            i32::try_from(displacement(insn)).ok()?
        }
        _ => return None,
    };
    (change.unsigned_abs() <= 1 << 20).then_some(change)
}

fn effect(insn: &Instruction, class: Class) -> Effect {
    let operand = |size: u8| distance(insn).map(|d| d..d + i32::from(size));
    let native = |access: Option<Access>| {
        let writes = matches!(insn.mnemonic(), Mnemonic::Xchg | Mnemonic::Xadd | Mnemonic::Mulx);
        let names = |n: u32| {
            insn.op_kind(n) == OpKind::Register && insn.op_register(n).full_register() == Register::RSP
        };
        let changes = insn.op_count() > 0 && names(0) || writes && insn.op_count() > 1 && names(1);
        let change = if changes { constant(insn) } else { Some(0) };
        Effect { access: access.and_then(|a| operand(a.size)), change }
    };
    let word = word(insn) as i32;
    match class {
        Class::Push | Class::Pushf => Effect { access: Some(-word..0), change: Some(-word) },
        Class::Pop => {
            let change = (insn.op0_register() != stack_pointer(insn)).then_some(word);
            Effect { access: Some(0..word), change }
        }
        Class::PushMemory => {
            let from = operand(word as u8).unwrap_or(-word..0);
            Effect { access: Some(from.start.min(-word)..from.end.max(0)), change: Some(-word) }
        }
        Class::PopMemory => Effect { access: Some(0..word), change: Some(word) },
        Class::Call => Effect { access: Some(-word..0), change: None },
        Class::CallIndirect => {
            let target = operand(word as u8).unwrap_or(-word..0);
            Effect { access: Some(target.start.min(-word)..target.end.max(0)), change: None }
        }
        Class::JmpIndirect => Effect { access: operand(word as u8), change: None },
        Class::Ret => Effect { access: Some(0..word), change: None },
        Class::Leave | Class::Syscall | Class::Sysret | Class::Stac | Class::Clac | Class::Operation => {
            Effect { access: None, change: None }
        }
        Class::Native(access) | Class::X87 { access, .. } => native(access),
        Class::Lea => native(None),
        Class::StoreSelector | Class::LoadControl => Effect { access: operand(2), change: Some(0) },
        Class::Divide => Effect { access: operand(insn.memory_size().size() as u8), change: Some(0) },
        Class::Selector | Class::Control | Class::ReadBase => native(None),
        Class::Nothing
        | Class::Prefetch
        | Class::BitString(_)
        | Class::Pause
        | Class::String(_)
        | Class::Cld
        | Class::Jcc
        | Class::Jmp
        | Class::Serialize
        | Class::Cli
        | Class::Sti
        | Class::WriteBase
        | Class::Swapgs
        | Class::Rdtsc
        | Class::Rdtscp => Effect { access: None, change: Some(0) },
    }
}

/// The segment being found.
#[derive(Default)]
struct Open {
    /// Its first instruction, accesses or not.
    start: usize,
    /// How far RSP has moved since.
    depth: i32,
    /// The first instruction that accesses the stack.
    first: Option<usize>,
    /// The bytes accessed, as seen from RSP at the start.
    range: Range<i32>,
}

impl Open {
    /// Ends the segment before instruction `next`. The check comes before the first access, or earlier if no flag is live
    /// there: checks of live flags are long.
    fn close(&mut self, next: usize, slots: &mut [Slot], depths: &[i32], live: &[u32]) {
        if let Some(first) = self.first {
            let place = (self.start..=first).rev().find(|&i| live[i] == 0).unwrap_or(first);
            let depth = depths[place];
            slots[place].check = Some(self.range.start - depth..self.range.end - depth);
            slots[place..next].iter_mut().for_each(|slot| slot.inside = true);
        }
        *self = Self { start: next, ..Self::default() };
    }
}

/// The slots of a block. `live`: flags live before each instruction.
pub fn slots(insns: &[Instruction], classes: &[Class], live: &[u32]) -> Vec<Slot> {
    let mut slots = vec![Slot::default(); insns.len()];
    let mut depths = vec![0; insns.len()];
    let mut open = Open::default();
    for (i, insn) in insns.iter().enumerate() {
        let Effect { access, change } = effect(insn, classes[i]);
        if let Some(access) = access {
            let here = access.start + open.depth..access.end + open.depth;
            let all = match open.first {
                Some(_) => open.range.start.min(here.start)..open.range.end.max(here.end),
                None => here,
            };
            if all.end - all.start > SPAN {
                open.close(i, &mut slots, &depths, live);
                open.range = access;
            } else {
                open.range = all;
            }
            open.first.get_or_insert(i);
        }
        depths[i] = open.depth;
        match change {
            Some(change) if open.depth.unsigned_abs() < 1 << 24 => open.depth += change,
            _ => open.close(i + 1, &mut slots, &depths, live),
        }
    }
    open.close(insns.len(), &mut slots, &depths, live);
    slots
}

#[cfg(test)]
mod tests;
