//! From instructions to host code, a block at a time.
//!
//! Inside translated code guest registers are in the host registers of the same names, but for R9, R10 and R11, which
//! are in the context, and RSP, of which R11 holds the host address; host R9 and R10 are scratch, host RSP is the return
//! stack. Arithmetic flags are in the host's, or put aside in the context while code of ours clobbers them. Scratch
//! registers go on holding the guest's R9 to R11 until they are written.

pub mod asm;
pub mod bits;
pub mod branch;
pub mod code32;
pub mod divide;
pub mod frame;
pub mod held;
pub mod instruction;
pub mod memory;
pub mod named;
pub mod native;
pub mod pause;
pub mod reach;
pub mod stack;
pub mod string;
pub mod system;
pub mod transition;
pub mod x87;

use std::ops::Range;

use iced_x86::Instruction;
use interp::core::Mode;

use crate::analysis::flags;
use crate::analysis::reach::Role;
use crate::analysis::stack::Slot;
use crate::cache::pages::Pages;
use crate::cache::tlb::Sites;
use crate::runtime::context::{Left, field};
use crate::runtime::stubs::Stubs;
use asm::reg::RAX;
use asm::{Asm, Forward, Mem, Place};
use reach::Reach;

/// Registers whose value is in no host register.
pub fn spilled(register: u8) -> bool {
    matches!(register, asm::reg::RSP | 9..=11)
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
    /// What follows relies on the stack's window.
    pub windowed: bool,
    /// Flags are put aside here.
    pub parked: bool,
}

/// Instructions that rely on one check of the stack's window.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Of the first of them.
    pub offset: u16,
    /// The bytes, as seen from RSP there.
    pub range: Range<i32>,
    /// The check.
    pub here: Place,
    /// The reference that leads to code for when the bytes are in two pages.
    pub instead: Place,
}

/// The state of emitting one block.
pub struct Emitter<'a> {
    pub asm: &'a mut Asm,
    pub sites: &'a mut Sites,
    pub pages: &'a Pages,
    pub stubs: &'a Stubs,
    /// Where the words of the vCPU's bell are.
    pub bell: u64,
    /// Number of the code page and of its mode.
    pub page: u32,
    pub mode: usize,
    pub kind: Mode,
    /// Number of the mode that SYSCALL or SYSRET of the block leads to.
    pub other: usize,
    /// Numbers that the lists below begin with.
    pub first_branch: u32,
    pub first_operation: u32,
    pub first_segment: u32,
    pub branches: Vec<Branch>,
    pub operations: Vec<Handed>,
    pub segments: Vec<Segment>,
    /// Sites made, with the place behind their instruction where code goes on there.
    pub made: Vec<(u32, Option<Place>)>,
    /// Flags are live before the instruction being emitted.
    pub live: bool,
    /// Flags are live behind it.
    pub live_behind: bool,
    /// Flags are put aside: what is live is in the context.
    pub parked: bool,
    /// Registers of the guest's that host R9 and R10 hold beside the context, as long as they are not written.
    pub held: [Option<u8>; 2],
    /// What accesses behind the instruction want of its look-up, and the last look-up that others may go by.
    pub role: Role,
    pub reach: Option<Reach>,
    /// The stack as the instruction finds it.
    pub slot: Slot,
    /// What follows the instruction relies on the stack's window.
    pub windowed: bool,
    /// What the guest's RSP is ahead of what R11 says, and whether the instruction being emitted may add to that.
    pub ahead: i32,
    pub defers: bool,
    pub unit: x87::Unit,
}

impl Emitter<'_> {
    /// Leaves for the engine with an argument, from the section in force.
    pub fn exit(&mut self, left: Left, argument: u32) {
        self.asm.call_with(self.stubs.leave[left as usize], argument);
    }

    /// Leaves the instruction to the interpreter; code goes on behind it.
    pub fn operation(&mut self, insn: &Instruction, ends: bool) {
        self.settle_x87();
        self.settle_stack();
        self.unpark();
        let number = self.first_operation + self.operations.len() as u32;
        self.exit(Left::Operation, number);
        let after = (!ends).then(|| self.asm.here());
        self.unit.present = false;
        self.held = [None; 2];
        self.reach = None;
        self.hand(insn, after, 0);
    }

    /// The same in the cold section, for an instruction that is usually done here: `jump` leads there. Gives the number
    /// of the operation; its continuation is set by [`continue_at`](Self::continue_at).
    pub fn cold_operation(&mut self, insn: &Instruction, restore_rcx: bool, jump: Forward) -> usize {
        let index = self.operations.len();
        let number = self.first_operation + index as u32;
        self.aside(jump, |e| {
            if restore_rcx {
                e.asm.mov(asm::reg::RCX, asm::reg::R9);
            }
            e.exit(Left::Operation, number);
        });
        self.hand(insn, None, 0);
        index
    }

    /// Notes an instruction for the interpreter.
    pub fn hand(&mut self, insn: &Instruction, after: Option<Place>, popped: i32) {
        let (windowed, parked) = (self.windowed, self.parked);
        self.operations.push(Handed { insn: *insn, after, popped, windowed, parked });
    }

    /// Code goes on here after an operation.
    pub fn continue_at(&mut self, operation: usize) {
        let here = self.resume();
        self.operations[operation].after = Some(here);
    }

    /// Before code that clobbers flags: puts them aside if they are live.
    pub fn park(&mut self) {
        if self.live && !self.parked {
            self.parked = true;
            self.asm.push(RAX);
            self.asm.save_flags();
            self.asm.store32(Mem::Gs(field::PARKED), RAX);
            self.asm.pop(RAX);
        }
    }

    /// Before code that uses flags: gets them back.
    pub fn unpark(&mut self) {
        self.unpark_aside();
        self.parked = false;
    }

    /// The same for a way out that is seldom taken.
    pub fn unpark_aside(&mut self) {
        if self.parked {
            self.asm.push(RAX);
            self.asm.load32(RAX, Mem::Gs(field::PARKED));
            self.asm.restore_flags();
            self.asm.pop(RAX);
        }
    }

    /// Before the guest's instruction itself: gets flags back if it reads them or leaves some of them as they are.
    pub fn unpark_for(&mut self, insn: &Instruction) {
        // Condition bits of the x87 unit are not among them.
        let touched = (insn.rflags_read() | insn.rflags_modified()) & !flags::X87;
        if flags::before(insn, flags::ALL) == 0 {
            self.parked = false;
        } else if touched != 0 {
            self.unpark();
        }
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
