//! PUSH, POP, LEAVE in 64-bit code, and what else moves RSP.

use iced_x86::{Instruction, Mnemonic, OpKind, Register};

use super::asm::{Mem, at, reg, sum};
use super::{Emitter, spilled};
use crate::analysis::stack;
use crate::frontend::class::{Access, Class};
use crate::runtime::context::field;
use reg::{R9, R10, R11, RSP};

/// A stack access.
pub const fn word(store: bool) -> Access {
    Access { size: 8, store, aligned: false }
}

const RBP: u8 = 5;

impl Emitter<'_> {
    /// PUSH of a register or an immediate.
    pub fn push(&mut self, insn: &Instruction) {
        let first = self.made.len();
        let slot = self.on_stack(insn, -8, word(true));
        match insn.op_kind(0) {
            OpKind::Register => {
                let number = insn.op0_register().number() as u8;
                if spilled(number) {
                    let slot = self.without_r9(slot);
                    self.load_register(R9, number);
                    self.asm.store(slot, R9);
                } else {
                    self.asm.store(slot, number);
                }
            }
            _ => self.asm.store_imm(slot, insn.immediate(0) as i32),
        }
        self.move_stack(-8);
        self.sites_end(first);
    }

    /// POP of a register.
    pub fn pop(&mut self, insn: &Instruction) {
        let first = self.made.len();
        let number = insn.op0_register().number() as u8;
        let slot = self.on_stack(insn, 0, word(false));
        let to = if spilled(number) { R9 } else { number };
        self.asm.load(to, slot);
        if number != RSP {
            self.move_stack(8); // of POP RSP the value wins
        }
        if spilled(number) {
            self.store_register(number, R9);
        }
        self.sites_end(first);
    }

    /// PUSH of memory. Both accesses are checked before anything changes.
    pub fn push_memory(&mut self, insn: &Instruction) -> Option<()> {
        let first = self.made.len();
        let operand = self.operand(insn, word(false))?;
        self.asm.load(R9, operand);
        if self.slot.inside {
            self.asm.store(at(R11, -8), R9);
        } else {
            self.transfer(|e| Some(e.on_stack(insn, -8, word(true))))?;
        }
        self.move_stack(-8);
        self.sites_end(first);
        Some(())
    }

    /// POP to memory whose address does not depend on RSP.
    pub fn pop_memory(&mut self, insn: &Instruction) -> Option<()> {
        let first = self.made.len();
        let slot = self.on_stack(insn, 0, word(false));
        self.asm.load(R9, slot);
        self.transfer(|e| e.operand(insn, word(true)))?;
        self.move_stack(8);
        self.sites_end(first);
        Some(())
    }

    /// Stores R9 where `find` says, which clobbers it.
    fn transfer(&mut self, find: impl FnOnce(&mut Self) -> Option<Mem>) -> Option<()> {
        self.asm.store(Mem::Gs(field::CALLED), R9);
        let to = find(self)?;
        let to = self.without_r9(to);
        self.asm.load(R9, Mem::Gs(field::CALLED));
        self.asm.store(to, R9);
        Some(())
    }

    /// LEAVE.
    pub fn leave(&mut self, insn: &Instruction) {
        let first = self.made.len();
        self.asm.mov(R10, RBP);
        self.check(insn, word(false));
        self.asm.lea(R10, sum(R10, R9));
        self.asm.load(R9, Mem::Gs(field::STACK_ADDEND));
        self.asm.lea(R11, Mem::At { base: Some(RBP), index: Some(R9), scale: 0, disp: 8 });
        self.asm.load(RBP, at(R10, 0));
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
                    let (opcode, value) = if insn.mnemonic() == Mnemonic::Add {
                        (0, change)
                    } else {
                        (5, change.wrapping_neg())
                    };
                    self.asm.arithmetic_imm(opcode, R9, value);
                }
            }
            self.move_stack(change);
            return Some(());
        }
        let register = |n: u32| {
            (insn.op_count() == 2 && insn.op_kind(n) == OpKind::Register).then(|| insn.op_register(n))
        };
        let home = |register: Register| {
            let number = register.number() as u8;
            (register.is_gpr64() && !spilled(number)).then_some(number)
        };
        match (insn.mnemonic(), register(0)?, register(1)) {
            (Mnemonic::Mov, Register::RSP, Some(from)) => {
                let from = home(from)?;
                self.store_register(RSP, from);
            }
            (Mnemonic::Mov, to, Some(Register::RSP)) => {
                let to = home(to)?;
                self.load_register(to, RSP);
            }
            // The addend is a multiple of the page's size.
            (Mnemonic::And, Register::RSP, None)
                if !self.live_behind
                    && matches!(insn.op_kind(1), OpKind::Immediate8to64 | OpKind::Immediate32to64) =>
            {
                let mask = i32::try_from(insn.immediate(1) as i64).ok()?;
                if !(-4096..0).contains(&mask) {
                    return None;
                }
                self.parked = false;
                self.asm.arithmetic_imm(4, R11, mask);
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
