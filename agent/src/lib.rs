//! The guest agent: programs run in a guest, trees copied into it and out of it, its end asked for, over a port of the
//! machine's console. [`PROGRAM`] is what runs in the guest; [`Host`] is the machine's end of the port; [`Client`] is
//! whoever wants something of a machine that is another process, and speaks to [`serve`].
//!
//! The program in the guest shares `protocol` and `tree` and has no library but Rust's own, so these two have none
//! either. No end believes another: sizes, paths and statuses are checked where they come in, and what is kept for
//! others is bounded by the windows of the protocol.

mod client;
mod error;
mod host;
pub mod protocol;
pub mod tree;

pub use client::{Client, Input, Output};
pub use error::AgentError;
pub use host::{Event, Host, Session, serve};

/// The program for the guest: static, x86-64 Linux.
pub const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guesthouse-agent"));

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_is_static() {
        assert_eq!(super::PROGRAM.get(..4), Some(b"\x7fELF".as_slice()));
        // No PT_INTERP among the program headers: e_phoff, e_phentsize, e_phnum of the ELF64 header.
        let word = |at: usize| u16::from_le_bytes([super::PROGRAM[at], super::PROGRAM[at + 1]]) as usize;
        for i in 0..word(56) {
            assert_ne!(super::PROGRAM[word(32) + i * word(54)], 3);
        }
    }
}
