//! What goes over the agent's port, and between a client and the machine it talks to: frames of sessions. Both ends of
//! both ways use these files, the program in the guest included.
//!
//! A connection begins with a [`Hello`] each way. The host's is the one that counts: it holds a number that the guest's
//! answer repeats, and what came before the answer is somebody else's. So a guest that reboots in the middle of a
//! frame, and a program that is started anew, need no more than another greeting.
//!
//! After that come [`Frame`]s. A session is a program in the guest; its three streams have windows of [`WINDOW`] bytes,
//! and whoever sends into one waits for [`Kind::Credit`]. So no session holds up another one, and what either end keeps
//! is bounded whatever the other one does.

mod decoder;
mod frame;
mod message;

pub use decoder::{Decoder, Garbage, Item, PIECE};
pub use frame::{Frame, HELLO, Hello, Kind, MAX_PAYLOAD, VERSION, put_hello};
pub use message::{Exit, MAX_TEXT, Malformed, Request, Start, Window};

/// Bytes of a stream that may be under way without an answer.
pub const WINDOW: u32 = 1 << 20;
/// Most sessions at a time.
pub const MAX_SESSIONS: usize = 128;
/// What the port is called in the guest.
pub const PORT: &str = "guesthouse.agent";

/// The streams of a session.
pub mod stream {
    /// To the program.
    pub const INPUT: u8 = 0;
    /// From the program.
    pub const OUTPUT: u8 = 1;
    /// From the program.
    pub const ERROR: u8 = 2;
}

#[cfg(test)]
mod tests;
