//! String instructions with DF clear, and CLD. MOVS and STOS that are repeated go piece by piece: a piece
//! ends where the page of an operand does, and is the host's own repeated instruction at the host's addresses. Between two
//! pieces the count and the addresses are what the guest may see.

use iced_x86::{Instruction, Mnemonic, OpKind};

use super::Emitter;
use super::asm::{Mem, Target, at, cond, reg};
use crate::frontend::class::Access;
use crate::runtime::context::field;
use reg::{R9, RAX, RCX, RDI, RSI};

/// DF in the second byte of RFLAGS.
const DF: u8 = 4;
/// MOV to memory, MOV from memory and CMP with memory of a byte; the next opcode is that of the other sizes.
const STORE: u8 = 0x88;
const LOAD: u8 = 0x8a;
const COMPARE: u8 = 0x3a;

impl Emitter<'_> {
    /// CLD: does nothing where DF is clear already.
    pub fn clear_direction(&mut self, insn: &Instruction) {
        let backward = self.unless_forward(insn);
        self.continue_at(backward);
    }

    /// A string instruction; `size` is that of its elements.
    pub fn string(&mut self, insn: &Instruction, size: u8) {
        let first = self.made.len();
        let repeated = insn.has_rep_prefix() || insn.has_repne_prefix();
        // Compared with what it does it costs nothing to have flags exact when it is left.
        self.live |= repeated;
        let backward = self.unless_forward(insn);
        let waiting = if repeated {
            Some(self.repeated(insn, size))
        } else {
            self.element(insn, size);
            None
        };
        self.sites_end(first);
        [Some(backward), waiting].into_iter().flatten().for_each(|operation| self.continue_at(operation));
    }

    /// Goes to the interpreter, by the operation given, if DF is set.
    fn unless_forward(&mut self, insn: &Instruction) -> usize {
        self.park();
        self.asm.test_mem8(Mem::Gs(field::SYSTEM_FLAGS + 1), DF);
        let backward = self.asm.jcc(cond::NOT_EQUAL, Target::Fixed(0));
        self.cold_operation(insn, false, backward)
    }

    fn element(&mut self, insn: &Instruction, size: u8) {
        use Mnemonic as M;
        let load = Access { size, store: false, aligned: false };
        let store = Access { store: true, ..load };
        let mnemonic = insn.mnemonic();
        match mnemonic {
            M::Stosb | M::Stosw | M::Stosd | M::Stosq => {
                let to = self.through(insn, RDI, store);
                self.asm.sized(STORE, RAX, to, size);
            }
            M::Scasb | M::Scasw | M::Scasd | M::Scasq => {
                let with = self.through(insn, RDI, load);
                self.unpark_for(insn);
                self.asm.sized(COMPARE, RAX, with, size);
            }
            M::Lodsb | M::Lodsw | M::Lodsd | M::Lodsq => {
                let from = self.through(insn, RSI, load);
                self.asm.sized(LOAD, RAX, from, size);
            }
            _ => {
                let compare = matches!(mnemonic, M::Cmpsb | M::Cmpsw | M::Cmpsd | M::Cmpsq);
                let from = self.through(insn, RSI, load);
                self.asm.sized(LOAD, R9, from, size);
                self.asm.store(Mem::Gs(field::CALLED), R9);
                let other = self.through(insn, RDI, if compare { load } else { store });
                let other = self.without_r9(other);
                self.asm.load(R9, Mem::Gs(field::CALLED));
                if compare {
                    self.unpark_for(insn);
                }
                self.asm.sized(if compare { COMPARE } else { STORE }, R9, other, size);
            }
        }
        for register in moved(insn) {
            self.lea_word(register, at(register, i32::from(size)));
        }
    }

    /// MOVS or STOS with a count. Gives the operation that is there for signals.
    fn repeated(&mut self, insn: &Instruction, size: u8) -> usize {
        let load = Access { size, store: false, aligned: false };
        let copies =
            matches!(insn.mnemonic(), Mnemonic::Movsb | Mnemonic::Movsw | Mnemonic::Movsd | Mnemonic::Movsq);
        let again = Target::Here(self.asm.here());
        self.asm.test_reg(RCX, !self.code32());
        let done = self.asm.jcc(cond::EQUAL, Target::Fixed(0));
        if copies {
            let from = self.through(insn, RSI, load);
            self.asm.lea(R9, from);
            self.asm.store(Mem::Gs(field::CALLED), R9);
        }
        self.through(insn, RDI, Access { store: true, ..load });
        let stub = self.stubs.pieces[usize::from(self.code32())][usize::from(copies)]
            [size.trailing_zeros() as usize];
        let _ = self.asm.call(Target::Fixed(stub));
        let waiting = self.signalled();
        let operation = self.cold_operation(insn, false, waiting);
        let _ = self.asm.jmp(again);
        self.asm.bind(done);
        operation
    }
}

/// The registers that the instruction moves on.
fn moved(insn: &Instruction) -> impl Iterator<Item = u8> {
    let source = (0..2).any(|i| matches!(insn.op_kind(i), OpKind::MemorySegRSI | OpKind::MemorySegESI));
    let target = (0..2).any(|i| matches!(insn.op_kind(i), OpKind::MemoryESRDI | OpKind::MemoryESEDI));
    [source.then_some(RSI), target.then_some(RDI)].into_iter().flatten()
}
