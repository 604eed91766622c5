//! Which accesses of a block follow one another by the same registers. Behind the look-up of the first, the others need no
//! more than their distance from it, as long as they stay in the page.

use iced_x86::{Instruction, InstructionInfoFactory, OpAccess, Register};

use super::stack::{self, Slot};
use crate::emit::spilled;
use crate::frontend::class::{Access, Class};
use crate::frontend::code32::{displacement, word};

/// The form of an address that another access may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    base: Register,
    index: Register,
    scale: u32,
}

/// Bytes between two accesses at most.
const SPAN: i32 = 1 << 16;

/// What accesses behind an instruction's want of its look-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Role {
    /// They go by it.
    pub leads: bool,
    /// Some of them are stores.
    pub stores: bool,
}

/// Form and displacement of the memory operand, if its address is the sum of registers that are where the guest's are.
pub fn form(insn: &Instruction) -> Option<(Form, i32)> {
    let (base, index) = (insn.memory_base(), insn.memory_index());
    let home = |r: Register| r.is_gpr() && r.size() == word(insn) && !spilled(r.number() as u8);
    let plain = stack::has_operand(insn)
        && home(base)
        && (index == Register::None || home(index))
        && !matches!(insn.memory_segment(), Register::FS | Register::GS);
    let disp = i32::try_from(displacement(insn)).ok()?;
    let (base, index) = (base.full_register(), index.full_register());
    plain.then_some((Form { base, index, scale: insn.memory_index_scale() }, disp))
}

/// True if accesses of displacements `from` and `to` are near enough.
pub fn near(from: i32, to: i32) -> Option<i32> {
    to.checked_sub(from).filter(|d| d.unsigned_abs() < SPAN as u32)
}

/// What an instruction is to those behind it.
enum Kind {
    /// It accesses memory by look-up. `leads`: it uses the scratch registers for nothing more, so that others may follow.
    Access {
        store: bool,
        leads: bool,
    },
    /// It leaves the scratch registers alone.
    Between,
    Other,
}

fn kind(insn: &Instruction, class: Class, slot: &Slot) -> Kind {
    match class {
        Class::Native(Some(_)) | Class::X87 { access: Some(_), .. }
            if slot.inside && stack::distance(insn).is_some() =>
        {
            Kind::Between
        }
        Class::Native(Some(Access { store, .. })) | Class::X87 { access: Some(Access { store, .. }), .. } => {
            Kind::Access { store, leads: true }
        }
        Class::PushMemory | Class::CallIndirect | Class::JmpIndirect => {
            Kind::Access { store: false, leads: false }
        }
        Class::Native(None) | Class::X87 { access: None, .. } | Class::Lea | Class::Nothing => Kind::Between,
        Class::Push | Class::Pop if slot.inside => Kind::Between,
        Class::Jcc if insn.near_branch_target() > insn.ip() => Kind::Between,
        _ => Kind::Other,
    }
}

/// The instruction changes none of the form's registers, and needs no scratch register for its own.
fn keeps(factory: &mut InstructionInfoFactory, insn: &Instruction, form: &Form) -> bool {
    factory.info(insn).used_registers().iter().all(|used| {
        let register = used.register().full_register();
        let reads = matches!(used.access(), OpAccess::Read | OpAccess::CondRead);
        match register {
            Register::R9 | Register::R10 | Register::R11 => false,
            r => reads || r != form.base && r != form.index,
        }
    })
}

/// The accesses that go by one look-up, so far.
#[derive(Default)]
struct Chain {
    members: Vec<usize>,
    /// Form and displacement of the last one, if others may follow it.
    last: Option<(Form, i32)>,
    /// The look-up is one for stores.
    stores: bool,
    /// No branch since the first one: whatever comes is certain to come.
    certain: bool,
}

impl Chain {
    /// Adds a store's need to the look-up. False if the look-up cannot answer for a store that may not come.
    fn take_store(&mut self, roles: &mut [Role]) -> bool {
        if !self.stores && self.certain {
            self.stores = true;
            self.members.iter().for_each(|&member| roles[member].stores = true);
        }
        self.stores
    }
}

/// The roles of a block's instructions.
pub fn roles(insns: &[Instruction], classes: &[Class], slots: &[Slot]) -> Vec<Role> {
    let mut roles = vec![Role::default(); insns.len()];
    let mut factory = None;
    let mut chain = Chain::default();
    let none = Slot::default();
    for (i, insn) in insns.iter().enumerate() {
        let slot = slots.get(i).unwrap_or(&none);
        if slot.check.is_some() {
            chain.last = None;
        }
        let (store, leads) = match kind(insn, classes[i], slot) {
            Kind::Between => {
                chain.certain &= classes[i] != Class::Jcc;
                continue;
            }
            Kind::Other => {
                chain.last = None;
                continue;
            }
            Kind::Access { store, leads } => (store, leads),
        };
        let found = form(insn);
        let follows = match (chain.last, found, chain.members.last()) {
            (Some((old, from)), Some((new, to)), Some(&last)) if old == new && near(from, to).is_some() => {
                let factory = factory.get_or_insert_with(InstructionInfoFactory::new);
                let kept = insns[last..i].iter().all(|insn| keeps(factory, insn, &old));
                (kept && (!store || chain.take_store(&mut roles))).then_some(last)
            }
            _ => None,
        };
        match follows {
            Some(last) => {
                roles[last].leads = true;
                roles[i].stores = chain.stores;
            }
            None => {
                chain.members.clear();
                (chain.stores, chain.certain) = (store, true);
            }
        }
        chain.members.push(i);
        chain.last = found.filter(|_| leads);
    }
    roles
}
