//! The cable between a network card and what it is plugged into.

use std::io;
use std::sync::Arc;

use crate::Offload;

/// Most bytes of a frame: an IP packet of any length behind an Ethernet header with a tag.
pub const MAX_FRAME: usize = 65_535 + 18;

/// What a guest takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Abilities {
    /// Frames whose checksum is not complete.
    pub checksum: bool,
    /// Large frames of TCP over IPv4; implies `checksum`.
    pub tcp4: bool,
    /// Large frames of TCP over IPv6; implies `checksum`.
    pub tcp6: bool,
}

/// A frame from the guest.
#[derive(Debug, Clone, Default)]
pub struct Frame {
    /// From the Ethernet header on.
    pub bytes: Vec<u8>,
    /// What is left to do.
    pub offload: Offload,
    /// The pair of queues it came by; answers go there.
    pub queue: u16,
}

/// What became of a frame for the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It is on its way, or lost for a reason of the guest's.
    Done,
    /// There is no room now. The backend is woken when there may be.
    Full,
    /// Nobody listens.
    Gone,
}

/// The guest's end. Called by the backend's thread.
pub trait GuestPort: Send + Sync {
    /// What the guest takes now.
    fn abilities(&self) -> Abilities;

    /// Takes the next frame of the guest's; false if there is none, and the backend is woken at the next one.
    fn take(&self, frame: &mut Frame) -> bool;

    /// Hands a frame over, in parts.
    fn put(&self, queue: u16, offload: &Offload, parts: &[&[u8]]) -> Put;

    /// Tells the guest of all that was taken and put.
    fn finish(&self);

    /// The network's end of the cable is plugged in, as at the beginning, or not.
    fn link(&self, up: bool) {
        let _ = up;
    }
}

/// The other end: a network.
pub trait NetBackend: Send + Sync {
    /// Plugs the card in, once; the backend works from now on.
    ///
    /// # Errors
    /// The host gives no thread.
    fn connect(&self, port: Arc<dyn GuestPort>) -> io::Result<()>;

    /// There may be frames to take, or room for some. Called by vCPUs: returns at once.
    fn wake(&self);

    /// The card was reset: the guest knows of no connection any more.
    fn reset(&self);
}
