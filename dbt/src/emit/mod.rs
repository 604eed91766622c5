//! From instructions to host code, a block at a time.
//!
//! Inside translated code guest registers are in the host registers of the same names, but for R9, R10 and R11, which
//! are in the context, and RSP, which is in R11; host R9 and R10 are scratch, host RSP is the return stack. Arithmetic
//! flags are in the host's. No value is kept in a scratch register from one instruction to the next.

pub mod asm;
pub mod branch;
pub mod divide;
pub mod instruction;
pub mod memory;
pub mod native;
pub mod stack;
pub mod system;
pub mod x87;

use iced_x86::Instruction;
use interp::core::Mode;

use crate::cache::pages::Pages;
use crate::cache::tlb::Sites;
use crate::runtime::context::{Left, field};
use crate::runtime::stubs::Stubs;
use asm::{Asm, Forward, Mem, Place, Section, Target};

/// Registers that live in the context.
pub fn spilled(register: u8) -> bool {
    matches!(register, 9..=11)
}

/// Where a guest register is in translated code, if it is in a register.
pub fn home(register: u8) -> u8 {
    if register == asm::reg::RSP { asm::reg::R11 } else { register }
}

/// A direct branch, to be linked when it is first taken.
#[derive(Debug, Clone, Copy)]
pub struct Branch {
    /// Target, from the first byte of the code page.
    pub target: i64,
    /// The reference to redirect, if there is one.
    pub field: Place,
    pub redirect: bool,
}

/// An instruction left to the interpreter.
#[derive(Debug, Clone, Copy)]
pub struct Handed {
    /// The instruction.
    pub insn: Instruction,
    /// Where code goes on, if it does.
    pub after: Option<Place>,
    /// Bytes that the instruction has taken from the stack before it may leave for a bad target.
    pub popped: i32,
}

/// The state of emitting one block.
pub struct Emitter<'a> {
    pub asm: &'a mut Asm,
    pub sites: &'a mut Sites,
    pub pages: &'a Pages,
    pub stubs: &'a Stubs,
    /// Number of the code page and of its mode.
    pub page: u32,
    pub mode: usize,
    pub kind: Mode,
    /// Numbers that the lists below begin with.
    pub first_branch: u32,
    pub first_operation: u32,
    pub branches: Vec<Branch>,
    pub operations: Vec<Handed>,
    /// Sites made, with the place behind their instruction where code goes on there.
    pub made: Vec<(u32, Option<Place>)>,
    /// Flags are live before the instruction being emitted.
    pub live: bool,
    /// Flags are live behind it.
    pub live_behind: bool,
    pub unit: x87::Unit,
}

impl Emitter<'_> {
    /// A jump to the stub for `left` with its argument, in the section in force.
    pub fn exit(&mut self, left: Left, argument: u32) {
        self.asm.store_imm32(Mem::Gs(field::ARGUMENT), argument);
        let _ = self.asm.jmp(Target::Fixed(self.stubs.exits[left as usize]));
    }

    /// Leaves the instruction to the interpreter; code goes on behind it.
    pub fn operation(&mut self, insn: &Instruction, ends: bool) {
        self.settle_x87();
        let number = self.first_operation + self.operations.len() as u32;
        self.exit(Left::Operation, number);
        let after = (!ends).then(|| self.asm.here());
        self.unit.present = false;
        self.operations.push(Handed { insn: *insn, after, popped: 0 });
    }

    /// The same in the cold section, for an instruction that is usually done here: `jump` leads there. Gives the number
    /// of the operation; its continuation is set by [`continue_at`](Self::continue_at).
    pub fn cold_operation(&mut self, insn: &Instruction, restore_rcx: bool, jump: Forward) -> usize {
        self.asm.switch(Section::Cold);
        self.asm.bind(jump);
        if restore_rcx {
            self.asm.mov(asm::reg::RCX, asm::reg::R9);
        }
        let index = self.operations.len();
        self.exit(Left::Operation, self.first_operation + index as u32);
        self.operations.push(Handed { insn: *insn, after: None, popped: 0 });
        self.asm.switch(Section::Hot);
        index
    }

    /// Code goes on here after an operation.
    pub fn continue_at(&mut self, operation: usize) {
        let here = self.asm.here();
        self.operations[operation].after = Some(here);
    }

    /// The page's linear address.
    pub fn lin_word(&self) -> Mem {
        Mem::Data(self.pages.lin_word(self.page))
    }

    /// Its negative.
    pub fn neg_word(&self) -> Mem {
        Mem::Data(self.pages.neg_word(self.page))
    }
}
