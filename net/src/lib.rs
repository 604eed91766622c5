//! Networks: what a virtual network card asks of the other end of its cable ([`NetBackend`]), and what can be there.
//!
//! [`UserNet`] is a network of the guest's own behind address translation, made of ordinary sockets, so that it needs
//! no privileges; [`TapNet`] is the host's network; [`switch`] is one that machines share. Knows no machine: frames come and go through a [`GuestPort`].
//!
//! # Threads
//! A backend has one thread, which owns all of its state. vCPUs only ring its bell; it takes frames from the guest
//! and hands frames over by itself.

mod bell;
mod cable;
mod capture;
mod complete;
mod error;
mod mac;
mod offload;
mod port;
pub mod switch;
mod tap;
mod thread;
mod user;

pub use capture::Capture;
pub use error::NetError;
pub use mac::Mac;
pub use offload::{Offload, Segmentation};
pub use port::{Abilities, Frame, GuestPort, MAX_FRAME, NetBackend, Put};
pub use tap::{Tap, TapConfig, TapNet};
pub use thread::Threaded;
pub use user::{Forward, Nat, Transport, UserConfig, UserNet};
