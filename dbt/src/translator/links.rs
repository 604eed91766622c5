//! Code beside translations that leads to them: links between pages, and entries for the jump table.

use super::{CROWD, Link, Translator};
use crate::cache::pages::Block as Entry;
use crate::emit::asm::{Mem, Target, reg};
use crate::runtime::context::{JUMP_MASK, Left};
use crate::trace::Place;

impl Translator {
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
    pub(super) fn joint(&mut self, what: &str, page: u32, offset: u16, bases: [u64; 2]) {
        let place = self.place(page, offset);
        if let Some(tracer) = &mut self.tracer {
            tracer.joint(what, place, self.asm.finish(bases), bases);
        }
    }

    pub(super) fn place(&self, page: u32, offset: u16) -> Place {
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
        if block.live {
            e.take_parked();
        }
        let _ = e.asm.jmp(Target::Fixed(block.entry));
        let bases = self.arena.next();
        self.arena.add(self.asm.finish(bases));
        if alone {
            self.pages.insert(page, Entry { checked: bases[0], ..block });
        }
        self.joint("entry", page, block.offset, bases);
        Some(bases[0])
    }
}
