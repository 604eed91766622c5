//! Emits a block and keeps what is needed of it.

use interp::core::{Mode, Session};

use super::{Link, Operation, Segment, Translator};
use crate::analysis::reach::{self, Role};
use crate::analysis::stack::{self, Slot};
use crate::cache::pages::Block as Entry;
use crate::emit::instruction::Edge;
use crate::emit::x87::Unit;
use crate::emit::{self, Emitter, Handed};
use crate::frontend::class::{Class, class};
use crate::frontend::code32;
use crate::trace::{Marks, Translation};

impl Translator {
    pub(super) fn emitter(&mut self, page: u32, kind: Mode) -> Emitter<'_> {
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
            role: Role::default(),
            reach: None,
            slot: Slot::default(),
            windowed: false,
            ahead: 0,
            defers: false,
            unit: Unit { first: self.notes.len() as u32, ..Unit::default() },
        }
    }

    /// Emits the block that was read. `windows`: stack accesses may go through the window.
    pub(super) fn emit(
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
        let roles = reach::roles(&block.insns, &classes, &slots);
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
            e.role = roles[i];
            e.slot = slots.get(i).cloned().unwrap_or_default();
            e.windowed = slots.get(i + 1).is_some_and(|slot| slot.inside && slot.check.is_none());
            if let Some(range) = e.slot.check.clone() {
                e.settle_stack();
                e.check_window(&range, insn.ip() as u16);
            }
            let raw = &bytes[insn.ip() as usize..insn.next_ip() as usize];
            let target = code32::target(insn);
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
        Entry {
            offset,
            entry: address(entry),
            checked: 0,
            live: self.block.live.first().is_none_or(|&live| live != 0),
        }
    }
}
