//! x87 and MMX instructions on the host's registers. The first one of a block has the engine put the guest's state there
//! if it is elsewhere; until the block is left only instructions that go to the interpreter take it away again.
//!
//! The host remembers where its own instructions were. What the guest would find as instruction and operand pointers is
//! kept by stores to the context: a number that stands for opcode and place, and the offset of a memory operand. Of
//! instructions in a row only the last one needs them, the others where their successor's memory access may leave.

use iced_x86::Instruction;
use interp::core::x87::{opcode, segment};

use super::Emitter;
use super::asm::{Mem, Target, cond, reg};
use crate::frontend::class::Access;
use crate::runtime::context::{Left, field};
use reg::{R9, R10};

/// An x87 instruction that may be the last one when translated code is left.
#[derive(Debug, Clone, Copy)]
pub struct Note {
    pub offset: u16,
    pub opcode: u16,
}

/// What the emitter knows of the x87 unit.
#[derive(Debug, Default)]
pub struct Unit {
    /// The guest's state is in the host's registers here.
    pub present: bool,
    /// The number that the list begins with.
    pub first: u32,
    pub notes: Vec<Note>,
    /// The last of them is still to be stored to the context, with this operand if there is one.
    pub pending: bool,
    pub operand: Option<Instruction>,
}

const CONTROL: Access = Access { size: 2, store: false, aligned: false };
/// The exceptions in FCW.
const MASKS: u8 = 0x3f;

impl Emitter<'_> {
    /// The instruction itself. `noted`: pointers have to name it.
    pub fn x87(
        &mut self,
        insn: &Instruction,
        bytes: &[u8],
        access: Option<Access>,
        noted: bool,
    ) -> Option<()> {
        self.x87_here(insn);
        self.native(insn, bytes, access)?;
        if noted {
            if access.is_some() {
                self.unit.operand = Some(*insn);
            }
            self.unit.notes.push(Note { offset: insn.ip() as u16, opcode: opcode(insn) });
            self.unit.pending = true;
        }
        Some(())
    }

    /// Notes what is pending, before anything that might leave or change what the operand's address was computed from.
    pub fn settle_x87(&mut self) {
        self.note_x87();
        self.unit.pending = false;
        self.unit.operand = None;
    }

    /// The same for a way out that is seldom taken.
    pub fn note_x87_aside(&mut self) {
        if self.unit.pending {
            self.asm.push(R9);
            self.asm.push(R10);
            self.note_x87();
            self.asm.pop(R10);
            self.asm.pop(R9);
        }
    }

    fn note_x87(&mut self) {
        if !self.unit.pending {
            return;
        }
        if let Some(insn) = self.unit.operand
            && self.effective(&insn).is_some()
        {
            self.asm.store(Mem::Gs(field::X87_OPERAND), R10);
            self.asm.store_imm32(Mem::Gs(field::X87_SEGMENT), u32::from(segment(&insn)) + 1);
        }
        let number = self.unit.first + self.unit.notes.len() as u32;
        self.asm.store_imm32(Mem::Gs(field::X87_NOTE), number);
    }

    /// FLDCW. The interpreter does it if the new control word lets exceptions through: that is another mode.
    pub fn load_control(&mut self, insn: &Instruction) -> Option<()> {
        self.x87_here(insn);
        let first = self.made.len();
        let operand = self.operand(insn, CONTROL)?;
        self.park();
        let word = Mem::Gs(field::X87_WORD);
        let asm = &mut *self.asm;
        // Another vCPU may change it meanwhile: what is loaded is what was looked at.
        asm.load_zx16(R9, operand);
        asm.store16(word, R9);
        asm.not32(R9);
        asm.test8(R9, MASKS);
        let unmasked = asm.jcc(cond::NOT_EQUAL, Target::Fixed(0));
        self.cold_operation(insn, false, unmasked);
        self.asm.bytes(&[0x65, 0xd9]); // fldcw
        self.asm.operand(5, word, 0);
        self.sites_end(first);
        Some(())
    }

    /// Makes sure that the guest's state is in the host's registers.
    fn x87_here(&mut self, insn: &Instruction) {
        if std::mem::replace(&mut self.unit.present, true) {
            return;
        }
        self.park();
        self.reach = None;
        let number = self.branch(insn.ip() as i64);
        let asm = &mut *self.asm;
        asm.cmp32_zero(Mem::Gs(field::X87_AWAY));
        let jump = asm.jcc(cond::NOT_EQUAL, Target::Fixed(0));
        // It comes back by a return, as a look-up does.
        let resume = Target::Here(asm.here());
        self.aside(jump, |e| {
            e.unpark_aside();
            e.asm.store_imm32(Mem::Gs(field::ARGUMENT), number);
            let _ = e.asm.call(Target::Fixed(e.stubs.exits[Left::X87 as usize]));
            let _ = e.asm.jmp(resume);
        });
    }
}
