//! Pieces of repeated string instructions, by the host's own instruction.

use crate::emit::asm::{Asm, Mem, Target, at, cond, reg, sum};
use crate::runtime::context::field;
use reg::{R9, R10, RCX, RDI, RSI};

/// Sizes of elements, as powers of two.
pub const SIZES: usize = 4;

/// Called with the target's host address as the sum of R9 and R10, and for copies with the source's in the context; an
/// element fits into the pages of both. Moves RCX, RSI and RDI on as far as the pages go. Clobbers R9, R10 and flags. In
/// 32-bit code it moves their lower halves, and clears the upper.
pub fn piece(asm: &mut Asm, copies: bool, size: u8, code32: bool) {
    let pointers = if copies { &[RSI, RDI][..] } else { &[RDI] };
    if code32 {
        asm.mov32(RCX, RCX);
    }
    for &register in pointers {
        asm.store(Mem::Gs(field::reg(register)), register);
    }
    asm.lea(RDI, sum(R9, R10));
    asm.mov32(R10, RDI);
    asm.and_imm32(R10, 0xfff);
    if copies {
        asm.load(RSI, Mem::Gs(field::CALLED));
        asm.mov32(R9, RSI);
        asm.and_imm32(R9, 0xfff);
        unless(asm, R10, R9, cond::ABOVE_OR_EQUAL);
    }
    // Elements to the end of the page that ends first, but no more than there are.
    asm.neg(R10);
    asm.lea(R10, at(R10, 4096));
    asm.sar(R10, size, false);
    unless(asm, R10, RCX, cond::BELOW_OR_EQUAL);
    asm.mov(R9, RCX);
    asm.mov(RCX, R10);
    // rep movs or rep stos
    let opcode = if copies { 0xa4 } else { 0xaa };
    match size {
        0 => asm.bytes(&[0xf3, opcode]),
        1 => asm.bytes(&[0x66, 0xf3, opcode + 1]),
        2 => asm.bytes(&[0xf3, opcode + 1]),
        _ => asm.bytes(&[0xf3, 0x48, opcode + 1]),
    }
    for &register in pointers {
        asm.load(register, Mem::Gs(field::reg(register)));
        let moved = Mem::At { base: Some(register), index: Some(R10), scale: size, disp: 0 };
        asm.lea_size(register, moved, !code32);
    }
    asm.neg(R10);
    asm.lea(RCX, sum(R9, R10));
    asm.bytes(&[0xc3]);
}

/// `to` becomes `other` unless it compares as wanted.
fn unless(asm: &mut Asm, to: u8, other: u8, wanted: u8) {
    asm.cmp_reg(to, other, true);
    let keeps = asm.jcc(wanted, Target::Fixed(0));
    asm.mov(to, other);
    asm.bind(keeps);
}
