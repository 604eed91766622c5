//! Cases that need the board: interrupt controllers, timers, other CPUs, resets. Each is a guest of its own, a
//! kernel for multiboot 1, and what must be seen when its run has ended. Whoever has a machine runs them:
//! [`BoardCase::image`] is the kernel, [`BoardCase::check`] compares.

mod asm;
mod case;
pub mod layout;
mod part;
mod program;
mod table;

pub use asm::Asm;
pub use case::{BoardCase, End, Expect, Outcome};
pub use program::Program;

/// The whole table.
pub fn all() -> Vec<BoardCase> {
    table::all()
}
