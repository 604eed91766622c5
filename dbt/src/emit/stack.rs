//! PUSH, POP, LEAVE, and what else moves RSP.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::asm::{Mem, at, reg, sum};
use super::{Emitter, spilled};
use crate::analysis::stack;
use crate::frontend::class::Class;
use crate::frontend::code32;
use crate::runtime::context::field;
use reg::{R9, R10, R11, RSP};

const RBP: u8 = 5;

impl Emitter<'_> {
    /// PUSH of a register or an immediate.
    pub fn push(&mut self, insn: &Instruction) {
        let first = self.made.len();
        let word = self.word();
        let slot = self.on_stack(insn, -word, self.on_word(true));
        match insn.op_kind(0) {
            OpKind::Register => {
                let number = insn.op0_register().number() as u8;
                if spilled(number) {
                    let slot = self.without_r9(slot);
                    self.load_register(R9, number);
                    self.store_word(slot, R9);
                } else {
                    self.store_word(slot, number);
                }
            }
            _ if self.code32() => self.asm.store_imm32(slot, insn.immediate(0) as u32),
            _ => self.asm.store_imm(slot, insn.immediate(0) as i32),
        }
        self.move_stack(-word);
        self.sites_end(first);
    }

    /// POP of a register.
    pub fn pop(&mut self, insn: &Instruction) {
        let first = self.made.len();
        let number = insn.op0_register().number() as u8;
        let slot = self.on_stack(insn, 0, self.on_word(false));
        let to = if spilled(number) { R9 } else { number };
        self.load_word(to, slot);
        if number != RSP {
            self.move_stack(self.word()); // of POP RSP the value wins
        }
        if spilled(number) {
            self.store_register(number, R9);
        }
        self.sites_end(first);
    }

    /// PUSH of memory. Both accesses are checked before anything changes.
    pub fn push_memory(&mut self, insn: &Instruction) -> Option<()> {
        let first = self.made.len();
        let word = self.word();
        let operand = self.operand(insn, self.on_word(false))?;
        self.load_word(R9, operand);
        if self.slot.inside {
            self.store_word(at(R11, -word), R9);
        } else {
            self.transfer(|e| Some(e.on_stack(insn, -word, e.on_word(true))))?;
        }
        self.move_stack(-word);
        self.sites_end(first);
        Some(())
    }

    /// POP to memory whose address does not depend on RSP.
    pub fn pop_memory(&mut self, insn: &Instruction) -> Option<()> {
        let first = self.made.len();
        let slot = self.on_stack(insn, 0, self.on_word(false));
        self.load_word(R9, slot);
        self.transfer(|e| e.operand(insn, e.on_word(true)))?;
        self.move_stack(self.word());
        self.sites_end(first);
        Some(())
    }

    /// Stores R9 where `find` says, which clobbers it.
    fn transfer(&mut self, find: impl FnOnce(&mut Self) -> Option<Mem>) -> Option<()> {
        self.asm.store(Mem::Gs(field::CALLED), R9);
        let to = find(self)?;
        let to = self.without_r9(to);
        self.asm.load(R9, Mem::Gs(field::CALLED));
        self.store_word(to, R9);
        Some(())
    }

    /// LEAVE.
    pub fn leave(&mut self, insn: &Instruction) {
        let first = self.made.len();
        self.mov_word(R10, RBP);
        self.check(insn, self.on_word(false));
        self.asm.lea(R10, sum(R10, R9));
        self.asm.load(R9, Mem::Gs(field::STACK_ADDEND));
        let disp = self.word();
        self.asm.lea(R11, Mem::At { base: Some(RBP), index: Some(R9), scale: 0, disp });
        self.load_word(RBP, at(R10, 0));
        self.sites_end(first);
    }

    /// Instructions that move RSP, or a value from or to it, in short. `None` for all others.
    pub fn stack_pointer(&mut self, insn: &Instruction) -> Option<()> {
        if let Some(change) = stack::constant(insn) {
            if insn.mnemonic() != Mnemonic::Lea {
                self.parked = false;
                if self.live_behind {
                    // The flags are those of the guest's address.
                    self.load_register(R9, RSP);
                    let wide = !self.code32();
                    let (opcode, value) = if insn.mnemonic() == Mnemonic::Add {
                        (0, change)
                    } else {
                        (5, change.wrapping_neg())
                    };
                    self.asm.arithmetic_imm(opcode, R9, value, wide);
                }
            }
            self.move_stack(change);
            return Some(());
        }
        let register = |n: u32| {
            (insn.op_count() == 2 && insn.op_kind(n) == OpKind::Register).then(|| insn.op_register(n))
        };
        let size = self.word() as usize;
        let home = |register: Register| {
            let number = register.full_register().number() as u8;
            (register.is_gpr() && register.size() == size && !spilled(number)).then_some(number)
        };
        let pointer = code32::stack_pointer(insn);
        match (insn.mnemonic(), register(0)?, register(1)) {
            (Mnemonic::Mov, to, Some(from)) if to == pointer => {
                let from = home(from)?;
                self.store_register(RSP, from);
            }
            (Mnemonic::Mov, to, Some(from)) if from == pointer => {
                let to = home(to)?;
                self.load_register(to, RSP);
            }
            // The addend is a multiple of the page's size.
            (Mnemonic::And, to, None)
                if to == pointer && !self.live_behind && insn.op_kind(1) != OpKind::Memory =>
            {
                let mask = insn.immediate(1) as i32;
                if !(-4096..0).contains(&mask) {
                    return None;
                }
                self.parked = false;
                self.asm.arithmetic_imm(4, R11, mask, true);
            }
            _ => return None,
        }
        Some(())
    }

    /// `lea rsp, [rsp + change]` of the guest.
    pub fn move_stack(&mut self, change: i32) {
        if self.defers {
            self.ahead += change;
        } else {
            self.asm.lea(R11, at(R11, change));
        }
    }

    /// R11 becomes what the guest's RSP is.
    pub fn settle_stack(&mut self) {
        let ahead = std::mem::take(&mut self.ahead);
        if ahead != 0 {
            self.asm.lea(R11, at(R11, ahead));
        }
    }

    /// The instruction leaves nowhere and needs RSP for nothing but a distance from it, which it may change: R11 may follow
    /// later.
    pub fn may_defer(&self, insn: &Instruction, class: Class) -> bool {
        let names = (0..insn.op_count()).any(|n| {
            insn.op_kind(n) == OpKind::Register && insn.op_register(n).full_register() == Register::RSP
        });
        let plain = !names && insn.memory_base().full_register() != Register::RSP;
        match class {
            Class::Nothing => true,
            Class::Push | Class::Pop => self.slot.inside && !names,
            Class::Call | Class::Ret => self.slot.inside,
            Class::Lea => plain,
            Class::Native(None) => plain || stack::constant(insn).is_some() && !self.live_behind,
            Class::Native(Some(access)) => {
                self.slot.inside && !access.aligned && !names && stack::distance(insn).is_some()
            }
            _ => false,
        }
    }
}
