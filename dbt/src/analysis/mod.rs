//! What the emitter has to know of an instruction beside its operands: which flags matter behind it.

pub mod flags;
