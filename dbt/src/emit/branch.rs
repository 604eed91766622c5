//! Branches. Calls and returns are the host's own, so that its return predictor works: the return point compares the
//! guest's return address. Indirect branches go through a table; the target compares.

use iced_x86::{Instruction, OpKind};

use super::asm::{Forward, Mem, Target, at, cond, reg, sum};
use super::instruction::Edge;
use super::{Branch, Emitter, spilled};
use crate::runtime::bell;
use crate::runtime::context::{ASIDE, Left, field};
use reg::{R9, R10, RCX};

impl Emitter<'_> {
    /// Compares the target in R10 with an offset in this page; goes to `other` if it is another. Flags survive: it is
    /// not known what that other place makes of them.
    pub fn expect_target(&mut self, offset: i32, other: u64) {
        let neg = self.neg_word();
        // Whoever comes from elsewhere brings what they have.
        self.unit.present = false;
        self.held = [None; 2];
        self.reach = None;
        let asm = &mut *self.asm;
        asm.mov(R9, RCX);
        asm.load(RCX, neg);
        asm.lea(RCX, Mem::At { base: Some(RCX), index: Some(R10), scale: 0, disp: -offset });
        let _ = asm.jump_unless_zero(Target::Fixed(other));
    }

    /// The instruction at `offset` goes on in another code page: leaves if that is not mapped behind this one.
    pub fn expect_second(&mut self, second: u32, offset: u16) {
        let number = self.branch(i64::from(offset));
        let (lin, neg) = (self.lin_word(), Mem::Data(self.pages.neg_word(second)));
        let asm = &mut *self.asm;
        asm.load(R10, lin);
        asm.lea(R10, at(R10, 4096));
        asm.mov(R9, RCX);
        asm.load(RCX, neg);
        asm.lea(RCX, sum(RCX, R10));
        let elsewhere = asm.jump_unless_zero(Target::Fixed(0));
        self.aside(elsewhere, |e| e.exit(Left::Stale, number));
    }

    /// Leaves if the vCPU has signals. `out` is emitted for that, in the cold section.
    fn poll(&mut self, live: bool, out: impl FnOnce(&mut Self)) {
        let rung = Mem::Data(bell::rung(self.bell));
        let asm = &mut *self.asm;
        let jump = if live {
            asm.mov(R9, RCX);
            asm.load32(RCX, rung);
            asm.jump_unless_zero(Target::Fixed(0))
        } else {
            self.signalled()
        };
        self.aside(jump, out);
    }

    /// Leads somewhere if the vCPU has signals. Clobbers flags.
    pub fn signalled(&mut self) -> Forward {
        self.asm.cmp32_zero(Mem::Data(bell::rung(self.bell)));
        self.asm.jcc(cond::NOT_EQUAL, Target::Fixed(0))
    }

    /// Registers a direct branch: its number.
    pub fn branch(&mut self, target: i64) -> u32 {
        let field = self.asm.here();
        self.branches.push(Branch { target, field, redirect: false });
        self.first_branch + self.branches.len() as u32 - 1
    }

    /// Where a target in this page is translated, if it is.
    fn known(&self, target: i64) -> Option<u64> {
        let offset = u16::try_from(target).ok().filter(|&o| o < 4096)?;
        Some(self.pages.get(self.page).block(offset)?.entry)
    }

    /// Lets `jump` lead to a branch's target, by way of the engine the first time.
    fn lead(&mut self, jump: Forward, number: u32, target: i64) {
        let field = self.asm.field(jump);
        let branch = &mut self.branches[(number - self.first_branch) as usize];
        (branch.field, branch.redirect) = (field, true);
        match self.known(target) {
            Some(entry) => self.asm.aim(jump, entry),
            None => self.aside(jump, |e| e.exit(Left::Link, number)),
        }
    }

    /// Goes on at a target, given from the first byte of the page. `backward`: the guest may be in a loop.
    pub fn jump(&mut self, target: i64, live: bool, backward: bool) {
        if live {
            self.unpark();
        }
        self.parked = false;
        let number = self.branch(target);
        if backward {
            self.poll(live, |e| e.exit(Left::Signalled, number));
        }
        let jump = self.asm.jmp(Target::Fixed(0));
        self.lead(jump, number, target);
    }

    /// Goes on at a target, given from the first byte of the page, in code of another mode.
    pub fn jump_out(&mut self, target: i64) {
        let number = self.branch(target);
        let jump = self.asm.jmp(Target::Fixed(0));
        let field = self.asm.field(jump);
        let branch = &mut self.branches[(number - self.first_branch) as usize];
        (branch.field, branch.redirect) = (field, true);
        self.aside(jump, |e| e.exit(Left::Link, number));
    }

    /// A conditional branch.
    pub fn jcc(&mut self, condition: u8, target: i64, live: bool, backward: bool) {
        if backward {
            let over = self.asm.jcc(condition ^ 1, Target::Fixed(0));
            self.jump(target, live, true);
            self.asm.bind(over);
        } else {
            let number = self.branch(target);
            let jump = self.asm.jcc(condition, Target::Fixed(0));
            self.lead(jump, number, target);
        }
    }

    /// Pushes the address `offset` of this page on the guest's stack. Clobbers R10 if the slot has to be checked.
    fn push_return(&mut self, insn: &Instruction, offset: i32, undo: bool) {
        let slot = self.on_stack(insn, -self.word(), self.on_word(true));
        let slot = self.without_r9(slot);
        if undo && !self.code32() {
            self.asm.load(R9, slot);
            self.asm.store(Mem::Gs(field::OVERWRITTEN), R9);
        }
        let lin = self.lin_word();
        self.asm.load(R9, lin);
        self.asm.lea(R9, at(R9, offset));
        self.store_word(slot, R9);
        self.move_stack(-self.word());
    }

    /// A direct call. Calls do not poll: without jumps and returns, which do, they soon
    /// use up the return stack.
    pub fn call(&mut self, insn: &Instruction, edge: Edge) {
        let offset = insn.next_ip() as i32;
        self.push_return(insn, offset, false);
        self.settle_stack();
        if edge.live {
            self.unpark();
        }
        self.parked = false;
        let number = self.branch(edge.target);
        let call = self.asm.call(Target::Fixed(0));
        self.lead(call, number, edge.target);
        self.expect_return(offset);
    }

    /// Where a call comes back to.
    fn expect_return(&mut self, offset: i32) {
        self.expect_target(offset, self.stubs.elsewhere[self.mode]);
        if self.live_behind {
            self.take_parked();
        }
    }

    /// R10 becomes the target of an indirect branch.
    fn indirect_target(&mut self, insn: &Instruction) -> Option<()> {
        match insn.op_kind(0) {
            OpKind::Register => {
                let number = insn.op0_register().full_register().number() as u8;
                if spilled(number) {
                    self.load_register(R10, number);
                } else {
                    self.mov_word(R10, number);
                }
            }
            _ => {
                let operand = self.operand(insn, self.on_word(false))?;
                self.load_word(R10, operand);
            }
        }
        Some(())
    }

    /// What has to be undone, by the interpreter, if the target in R10 is no address at all, and whether flags stay put aside.
    /// In 32-bit code it always is one, and they do not.
    fn note_origin(&mut self, insn: &Instruction, popped: i32) {
        if self.code32() {
            self.unpark();
            return;
        }
        let number = self.first_operation + self.operations.len() as u32;
        self.hand(insn, None, popped);
        let parked = if std::mem::take(&mut self.parked) { ASIDE } else { 0 };
        self.asm.store_imm32(Mem::Gs(field::ARGUMENT), number | parked);
    }

    /// Where flags are live and an indirect branch has led: gets them back if they were left put aside.
    pub fn take_parked(&mut self) {
        if self.code32() {
            return;
        }
        let asm = &mut *self.asm;
        asm.mov(R9, RCX);
        asm.load_zx8(RCX, Mem::Gs(field::ARGUMENT_TOP));
        let parked = asm.jump_unless_zero(Target::Fixed(0));
        let resume = Target::Here(asm.here());
        self.aside(parked, |e| {
            e.parked = true;
            e.unpark();
            let _ = e.asm.jmp(resume);
        });
    }

    /// The index of the target in R10 in the jump table: R9. If there are signals it is that of the entry that asks the
    /// engine.
    pub(super) fn index(&mut self) {
        let mask = Mem::Data(bell::mask(self.bell));
        self.asm.pext_mem(R9, R10, mask);
    }

    /// An indirect jump.
    pub fn jump_indirect(&mut self, insn: &Instruction) -> Option<()> {
        self.indirect_target(insn)?;
        self.note_origin(insn, 0);
        self.index();
        self.asm.jmp_table(R9, field::jumps(self.mode));
        Some(())
    }

    /// An indirect call.
    pub fn call_indirect(&mut self, insn: &Instruction) -> Option<()> {
        let offset = insn.next_ip() as i32;
        self.indirect_target(insn)?;
        let keeps = self.slot.inside;
        if !keeps {
            self.asm.store(Mem::Gs(field::CALLED), R10);
        }
        self.push_return(insn, offset, true);
        if !keeps {
            self.asm.load(R10, Mem::Gs(field::CALLED));
        }
        self.note_origin(insn, -self.word());
        self.index();
        self.asm.call_table(R9, field::jumps(self.mode));
        self.expect_return(offset);
        Some(())
    }

    /// A near return.
    pub fn ret(&mut self, insn: &Instruction) {
        let slot = self.on_stack(insn, 0, self.on_word(false));
        self.load_word(R10, slot);
        let popped = self.word() + if insn.op_count() > 0 { i32::from(insn.immediate16()) } else { 0 };
        self.move_stack(popped);
        self.settle_stack();
        self.note_origin(insn, popped);
        self.asm.bytes(&[0xc3]);
    }
}
