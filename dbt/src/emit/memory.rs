//! Memory operands: the linear address, the check of its page, and what happens on a miss.
//!
//! Stack accesses at a known distance from RSP go through the stack's window, which is checked once for many of them.
//! Addresses that an instruction itself names stay on their page: the check compares with the page that the site touched
//! last. All others look the page up in the first-level TLB. Checks clobber flags; those that are live are put aside.

use std::ops::Range;

use iced_x86::{Instruction, Mnemonic, Register};

use super::asm::{Asm, Forward, Mem, Section, Target, at, cond, reg, sum};
use super::named::is_named;
use super::{Emitter, Segment, spilled};
use crate::analysis::stack;
use crate::cache::site::Pair;
use crate::cache::tlb::{INDEX, table};
use crate::frontend::class::Access;
use crate::runtime::context::{Left, field};
use reg::{R9, R10, R11, RCX};

/// An operand behind a check.
pub const CHECKED: Mem = Mem::At { base: Some(R10), index: Some(R9), scale: 0, disp: 0 };

impl Emitter<'_> {
    /// The checked memory operand. Clobbers R9 and R10. `None` if the form is too rare to care.
    pub fn operand(&mut self, insn: &Instruction, access: Access) -> Option<Mem> {
        if self.slot.inside
            && let Some(distance) = stack::distance(insn)
        {
            return Some(at(R11, distance + self.ahead));
        }
        if let Some(operand) = self.named(insn, access).or_else(|| self.in_frame(insn, access)) {
            return Some(operand);
        }
        if let Some(operand) = self.follow(insn, access) {
            return Some(operand);
        }
        self.address(insn)?;
        self.look_up_for_all(insn, access);
        Some(CHECKED)
    }

    /// The same for what an instruction keeps on the stack, at a distance from RSP.
    pub fn on_stack(&mut self, insn: &Instruction, distance: i32, access: Access) -> Mem {
        if self.slot.inside {
            return at(R11, distance + self.ahead);
        }
        self.asm.load(R10, Mem::Gs(field::STACK_NEG));
        self.lea_word(R10, Mem::At { base: Some(R10), index: Some(R11), scale: 0, disp: distance });
        self.check(insn, access);
        CHECKED
    }

    /// The same for what a register points to.
    pub fn through(&mut self, insn: &Instruction, register: u8, access: Access) -> Mem {
        self.mov_word(R10, register);
        self.check(insn, access);
        CHECKED
    }

    /// Passes a hint on if the page is at hand. What it hints at may be no address at all, so nothing is filled and nothing
    /// faults; flags are not put aside for it.
    pub fn prefetch(&mut self, insn: &Instruction) {
        if self.live && !self.parked || self.address(insn).is_none() {
            return;
        }
        let hint = match insn.mnemonic() {
            Mnemonic::Prefetchw => (0x0d, 1),
            Mnemonic::Prefetchnta => (0x18, 0),
            Mnemonic::Prefetcht0 => (0x18, 1),
            Mnemonic::Prefetcht1 => (0x18, 2),
            _ => (0x18, 3),
        };
        let unknown = self.asm.look_up(table(self.kind, false), 4095);
        self.asm.prefetch(hint, CHECKED);
        self.asm.bind(unknown);
    }

    /// The same operand in one register, R10, so that R9 is free; or as it is, if it does not need R9.
    pub fn without_r9(&mut self, operand: Mem) -> Mem {
        match operand {
            Mem::At { base: Some(R9), .. } | Mem::At { index: Some(R9), .. } => {
                self.asm.lea(R10, operand);
                at(R10, 0)
            }
            other => other,
        }
    }

    /// R10 becomes the linear address of the memory operand; R9 is clobbered. `None` if the form is too rare to care.
    pub fn address(&mut self, insn: &Instruction) -> Option<()> {
        self.effective(insn)?;
        let base = match insn.memory_segment() {
            Register::FS => field::FS_BASE,
            Register::GS => field::GS_BASE,
            _ => return Some(()),
        };
        self.asm.load(R9, Mem::Gs(base));
        self.lea_word(R10, sum(R10, R9));
        Some(())
    }

    /// R10 becomes the effective address; R9 may be clobbered.
    pub fn effective(&mut self, insn: &Instruction) -> Option<()> {
        self.effective_to(R10, insn, true)
    }

    /// The same for another register, or its low half alone; R9 and R10 may be clobbered.
    pub fn effective_to(&mut self, to: u8, insn: &Instruction, wide: bool) -> Option<()> {
        let (base, index) = (insn.memory_base(), insn.memory_index());
        if insn.is_ip_rel_memory_operand() {
            if base != Register::RIP {
                return None;
            }
            let disp = i32::try_from(insn.memory_displacement64() as i64).ok()?;
            self.asm.load(R10, self.lin_word());
            self.asm.lea_size(to, at(R10, disp), wide);
            return Some(());
        }
        let narrow = narrow(insn);
        let displacement = insn.memory_displacement64();
        let disp = if narrow { displacement as i32 } else { i32::try_from(displacement as i64).ok()? };
        let number = |register: Register| match register {
            Register::None => Some(None),
            r if r.is_gpr() => Some(Some(r.full_register().number() as u8)),
            _ => None,
        };
        let registers = [number(base)?, number(index)?];
        // Where they are; those without a home go to a scratch register that the other one is not in.
        let mut hosts = registers.map(|r| r.and_then(|r| if spilled(r) { self.holder(r) } else { Some(r) }));
        for i in 0..2 {
            if let (Some(register), None) = (registers[i], hosts[i]) {
                let scratch = if hosts[1 - i] == Some(R10) { R9 } else { R10 };
                self.load_register(scratch, register);
                hosts[i] = Some(scratch);
            }
        }
        let [base, index] = hosts;
        let scale = insn.memory_index_scale().trailing_zeros() as u8;
        let mem = Mem::At { base, index, scale, disp };
        self.asm.lea_size(to, mem, wide && !narrow);
        Some(())
    }

    /// Checks the access at R10. Behind it R9 plus R10 is the host address.
    pub fn check(&mut self, insn: &Instruction, access: Access) {
        self.check_by(insn, access, table(self.kind, access.store));
    }

    /// The same by a table that may be one for stores where the access is none.
    pub(super) fn check_by(&mut self, insn: &Instruction, access: Access, table: usize) {
        self.park();
        let site = self.site(insn, access);
        let most = 4096 - i32::from(access.size);
        let asm = &mut *self.asm;
        if !is_named(insn) {
            let miss = asm.look_up(table, most);
            let resume = Target::Here(asm.here());
            self.aside(miss, |e| {
                e.asm.call_noting(e.stubs.miss[table], site);
                let _ = e.asm.jmp(resume);
            });
            return;
        }
        let pair = self.sites.pair(site);
        let field = |offset: i32| Mem::Data(pair + offset as u64);
        asm.add(R10, field(Pair::NEG_PAGE));
        asm.cmp_imm(R10, most);
        let miss = asm.jcc(cond::ABOVE, Target::Fixed(0));
        asm.load(R9, field(Pair::HOST));
        let resume = Target::Here(asm.here());
        self.aside(miss, |e| {
            e.asm.lea(R9, Mem::Data(pair));
            e.asm.store_imm32(Mem::Gs(field::ARGUMENT), site);
            let stub = e.stubs.access[table][access.size.trailing_zeros() as usize];
            let _ = e.asm.call(Target::Fixed(stub));
            let _ = e.asm.jmp(resume);
        });
    }

    /// Checks that bytes of the stack, as seen from RSP, are in the window; moves it there if they can be. `offset`: of the
    /// first instruction that relies on it. Flags survive if they are live.
    pub fn check_window(&mut self, range: &Range<i32>, offset: u16) {
        let most = 4096 - (range.end - range.start);
        let keeps = self.live && !self.parked;
        let here = self.asm.here();
        let (bytes, word_mask) = (self.word(), self.word_mask());
        let asm = &mut *self.asm;
        let miss = if keeps {
            // Both ends are compared, but for a single word, which an aligned stack has whole.
            let word = range.end - range.start == bytes;
            let end = |base: u8, disp: i32| Mem::At { base: Some(base), index: Some(R11), scale: 0, disp };
            asm.mov(R9, RCX);
            asm.load(RCX, Mem::Gs(field::STACK_WINDOW));
            if !word {
                asm.lea(R10, end(RCX, range.end - 1));
                asm.pext_mem(R10, R10, Mem::Gs(field::PAGE_MASK));
            }
            asm.lea(RCX, end(RCX, range.start));
            asm.pext_mem(RCX, RCX, Mem::Gs(if word { word_mask } else { field::PAGE_MASK }));
            if !word {
                asm.lea(RCX, sum(RCX, R10));
            }
            asm.jump_unless_zero(Target::Fixed(0))
        } else {
            asm.lea(R9, at(R11, range.start));
            asm.add(R9, Mem::Gs(field::STACK_WINDOW));
            asm.cmp_imm(R9, most);
            asm.jcc(cond::ABOVE, Target::Fixed(0))
        };
        let resume = Target::Here(asm.here());
        let window = self.stubs.window[usize::from(self.code32())][table(self.kind, true)];
        let number = self.first_segment + self.segments.len() as u32;
        self.asm.switch(Section::Cold);
        self.asm.bind(miss);
        self.note_x87_aside();
        self.park();
        self.asm.lea(R10, at(R11, range.start));
        self.asm.imm(R9, most);
        let _ = self.asm.call(Target::Fixed(window));
        let refused = self.asm.jcc(cond::ABOVE, Target::Fixed(0));
        if keeps {
            self.unpark_aside();
        }
        let _ = self.asm.jmp(resume);
        self.asm.bind(refused);
        self.unpark_aside();
        if keeps {
            self.parked = false;
        }
        let jump = self.asm.jmp(Target::Fixed(0));
        self.asm.bind(jump);
        self.asm.call_with(self.stubs.leave[Left::Straddle as usize], number);
        self.asm.switch(Section::Hot);
        let instead = self.asm.field(jump);
        self.segments.push(Segment { offset, range: range.clone(), here, instead });
    }

    /// The instruction wants an address that is a multiple of its operand's size. Gives the operation that raises the
    /// fault.
    pub fn check_alignment(&mut self, insn: &Instruction, operand: Mem, size: u8) -> usize {
        self.park();
        // Behind a check R10 is the offset in the page.
        if !matches!(operand, Mem::At { index: Some(R9), .. }) {
            self.asm.lea(R10, operand);
        }
        self.asm.test8(R10, size - 1);
        let wrong = self.asm.jcc(cond::NOT_EQUAL, Target::Fixed(0));
        self.cold_operation(insn, false, wrong)
    }

    /// A new site for an access of the instruction.
    pub(super) fn site(&mut self, insn: &Instruction, access: Access) -> u32 {
        let site = self.sites.add();
        let place = (insn.ip() as u16, insn.len() as u8);
        self.sites.describe(site, self.page, place, (access.size, access.store), self.parked);
        self.made.push((site, None));
        site
    }

    /// Sites made since `first` continue here.
    pub fn sites_end(&mut self, first: usize) {
        if first == self.made.len() {
            return;
        }
        let here = self.resume();
        for (_, place) in &mut self.made[first..] {
            *place = Some(here);
        }
    }

    /// `out` is emitted in the cold section, where `jump` leads, with the x87 unit's pointers noted.
    pub fn aside(&mut self, jump: Forward, out: impl FnOnce(&mut Self)) {
        self.asm.switch(Section::Cold);
        self.asm.bind(jump);
        self.note_x87_aside();
        out(self);
        self.asm.switch(Section::Hot);
    }
}

impl Asm {
    /// Looks the page of the linear address in R10 up in the first-level TLB. Behind it R9 plus R10 is the host address; the
    /// jump leads where it is not there, or the offset in the page is above `most`.
    pub fn look_up(&mut self, table: usize, most: i32) -> Forward {
        let entry = |offset: i32| Mem::GsAt(R9, field::table(table) + offset as u32);
        self.rorx32(R9, R10, 8);
        self.and_imm32(R9, INDEX);
        self.add(R10, entry(Pair::NEG_PAGE));
        self.cmp_imm(R10, most);
        let miss = self.jcc(cond::ABOVE, Target::Fixed(0));
        self.load(R9, entry(Pair::HOST));
        miss
    }
}

/// The effective address has 32 bits.
pub fn narrow(insn: &Instruction) -> bool {
    let (base, index) = (insn.memory_base(), insn.memory_index());
    base.is_gpr32() || index.is_gpr32() || insn.memory_displ_size() == 4 && base == index
}
