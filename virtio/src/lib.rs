//! Virtio devices (Virtual I/O Device, OASIS, version 1.2) over PCI and memory-mapped registers.
//!
//! A [`VirtioDevice`] knows queues and its own configuration; a transport ([`VirtioPci`], [`VirtioMmio`]) shows
//! it to the driver and is what machines put on a bus. Only the modern interface is there, no transitional one.
//! Queues are our own and not those of the crate virtio-queue: stores must be told to [`memory::GuestRam`], and a
//! malformed chain has to become DEVICE_NEEDS_RESET instead of a shorter chain.
//!
//! # Locks
//! frontend -> worker's session -> queue; transport's interrupt state -> interrupt controllers. A completion takes
//! the last three only, so that a reset can wait for it.

mod balloon;
mod blk;
mod console;
mod device;
mod frontend;
mod fs;
mod link;
mod mmio;
mod net;
mod pci;
mod queue;
mod rng;
mod throttle;
mod vsock;
mod worker;

pub use balloon::{Balloon, BalloonState, BalloonStatistics};
pub use blk::{Blk, BlkOptions};
pub use console::{Console, ConsoleSize, ConsoleState, Peer, PortBackend, PortBell};
pub use device::{DeviceState, NetState, Session, Transport, VirtioDevice, feature};
pub use frontend::{Frontend, FrontendState};
pub use fs::Fs;
pub use link::{DriverLink, Interrupt};
pub use mmio::{VirtioMmio, VirtioMmioState};
pub use net::Net;
pub use pci::{VirtioPci, VirtioPciState};
pub use queue::{Chain, Queue, QueueError, QueueLayout, Segment};
pub use rng::Rng;
pub use throttle::{Rate, Throttle};
pub use vsock::{Vsock, VsockHost};

#[cfg(test)]
mod testing;
