//! What 32-bit code has shorter: addresses, and words on the stack. Its registers are the low halves of the host's, which
//! instructions that write 32 bits extend by zeros as they do in 64-bit code.
//!
//! ESP is the low half of R11 less what R11 is ahead of it: the upper half follows nobody. Where the stack's window is
//! relied on it is such that R11 is right as a whole, even if ESP is on its way around 4 GiB; the engine sees to that.

use super::Emitter;
use super::asm::Mem;
use crate::frontend::class::Access;
use crate::runtime::context::field;

impl Emitter<'_> {
    /// 32-bit code is being translated.
    pub fn code32(&self) -> bool {
        self.kind.code32.is_some()
    }

    /// Bytes of a word on the stack.
    pub fn word(&self) -> i32 {
        if self.code32() { 4 } else { 8 }
    }

    /// The bits of an address that are not an offset in such a word that is aligned, nor in a page: where they are.
    pub fn word_mask(&self) -> u32 {
        if self.code32() { field::WORD32_MASK } else { field::WORD_MASK }
    }

    /// A stack access.
    pub fn on_word(&self, store: bool) -> Access {
        Access { size: self.word() as u8, store, aligned: false }
    }

    /// Loads a word of the stack, or an address.
    pub fn load_word(&mut self, to: u8, from: Mem) {
        if self.code32() { self.asm.load32(to, from) } else { self.asm.load(to, from) }
    }

    /// Stores one.
    pub fn store_word(&mut self, to: Mem, from: u8) {
        if self.code32() { self.asm.store32(to, from) } else { self.asm.store(to, from) }
    }

    /// `lea to, [from]` of a linear address.
    pub fn lea_word(&mut self, to: u8, from: Mem) {
        self.asm.lea_size(to, from, !self.code32());
    }

    /// `mov to, from` of an address.
    pub fn mov_word(&mut self, to: u8, from: u8) {
        self.asm.mov_size(to, from, !self.code32());
    }
}
