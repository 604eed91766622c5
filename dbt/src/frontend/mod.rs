//! From guest bytes to instructions and what is to become of them.

pub mod block;
pub mod class;
pub mod code32;
pub mod parts;
pub mod x87;
