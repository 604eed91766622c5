//! What the emitter has to know of an instruction beside its operands: which flags matter behind it, and which of its
//! accesses lie at a known distance from the top of the stack, or from the access before.

pub mod flags;
pub mod reach;
pub mod stack;
