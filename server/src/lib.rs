//! What others need of a running machine: where it is ([`registry`]), what it says ([`Hub`]) and how it is told what to do,
//! HTTP and JSON on a Unix socket in the machine's folder ([`Server`], [`Client`]).
//!
//! A machine is one process and there is no other (docs/adr/0005-living-with-machines.md). The server is one thread of
//! that process; nothing a client does or leaves undone makes the guest wait.

mod client;
mod error;
mod greeting;
mod hub;
mod listen;
mod openapi;
pub mod registry;
mod routes;
pub mod snapshot;
mod vm;

pub use client::{Client, Upgraded};
pub use error::ServerError;
pub use hub::{Hub, LogFiles};
pub use listen::{Server, answers};
pub use openapi::document;
pub use registry::{Entry, Folder, Registry, State, Status};
pub use routes::{Answer, Event, EventKind, MachineInfo, Stats};
pub use vm::Vm;
