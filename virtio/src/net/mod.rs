//! Network card (5.1): frames between the driver's queues and a [`net::NetBackend`], large ones whole, with several
//! pairs of queues. The backend's thread does the work; vCPUs ring its bell.
//!
//! NOT modelled: receive filters (the cable has nobody else at it), VLAN filters, UDP segmentation, hash reports and
//! RSS.

mod control;
mod port;

use std::io;
use std::sync::Arc;

use ::net::{Mac, NetBackend};
use device::RestoreError;
use parking_lot::Mutex;

use crate::device::read_image;
use crate::{DeviceState, NetState, Session, Throttle, VirtioDevice};
use port::Port;

/// Feature bits (5.1.3).
mod bit {
    pub const CSUM: u64 = 1;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
    pub const CTRL_VQ: u64 = 1 << 17;
    pub const MQ: u64 = 1 << 22;
}

/// Entries of a queue: room for several large frames in small buffers.
const QUEUE_SIZE: u16 = 1024;
const CONTROL_SIZE: u16 = 64;
/// Most pairs of queues.
const MAX_PAIRS: u16 = 8;
/// The link is up.
const LINK_UP: u16 = 1;

/// A network card.
pub struct Net {
    backend: Arc<dyn NetBackend>,
    port: Arc<Port>,
    queues: Vec<u16>,
    mac: Mac,
    /// The address that the driver has read.
    known: Mutex<Option<Mac>>,
}

impl Net {
    /// A card with this address and 1 to 8 pairs of queues, plugged into `backend`.
    ///
    /// # Errors
    /// The backend gets no thread from the host.
    pub fn new(backend: Arc<dyn NetBackend>, mac: Mac, pairs: u16) -> io::Result<Self> {
        let pairs = pairs.clamp(1, MAX_PAIRS);
        let mut queues = vec![QUEUE_SIZE; usize::from(pairs) * 2];
        queues.push(CONTROL_SIZE);
        let port = Arc::new(Port::new(pairs));
        for throttle in [port.sent(), port.received()] {
            let bell = Arc::downgrade(&backend);
            throttle.connect(move || {
                if let Some(backend) = bell.upgrade() {
                    backend.wake();
                }
            });
        }
        backend.connect(port.clone())?;
        Ok(Self { backend, port, queues, mac, known: Mutex::default() })
    }

    /// The rates of frames from the guest and to it.
    pub fn throttles(&self) -> [Arc<Throttle>; 2] {
        [self.port.sent().clone(), self.port.received().clone()]
    }

    /// The address that the driver has read, where the card's is another one.
    pub fn mistaken(&self) -> Option<(Mac, Mac)> {
        self.known.lock().filter(|known| *known != self.mac).map(|known| (known, self.mac))
    }

    fn pairs(&self) -> u16 {
        (self.queues.len() / 2) as u16
    }
}

impl Drop for Net {
    /// The last who holds the network must not be a throttle that the network holds.
    fn drop(&mut self) {
        self.throttles().iter().for_each(|throttle| throttle.connect(|| {}));
    }
}

impl VirtioDevice for Net {
    fn name(&self) -> &'static str {
        "virtio-net"
    }

    fn kind(&self) -> u16 {
        1
    }

    fn pci_class(&self) -> u32 {
        0x02_0000
    }

    fn features(&self) -> u64 {
        let checksums = bit::CSUM | bit::GUEST_CSUM;
        let large = bit::GUEST_TSO4 | bit::GUEST_TSO6 | bit::HOST_TSO4 | bit::HOST_TSO6;
        let several = if self.pairs() > 1 { bit::MQ } else { 0 };
        checksums | large | bit::MAC | bit::MRG_RXBUF | bit::STATUS | bit::CTRL_VQ | several
    }

    fn queues(&self) -> &[u16] {
        &self.queues
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let status = if self.port.is_up() { LINK_UP } else { 0 };
        let mut config = [0; 10];
        config[..6].copy_from_slice(&self.mac.0);
        config[6..8].copy_from_slice(&status.to_le_bytes());
        config[8..].copy_from_slice(&self.pairs().to_le_bytes());
        read_image(&config, offset, data);
        if offset < self.mac.0.len() as u64 && !data.is_empty() {
            *self.known.lock() = Some(self.mac);
        }
    }

    fn start(&self, session: Arc<Session>) {
        self.port.start(session);
        self.backend.wake();
    }

    fn stop(&self) {
        self.port.stop();
    }

    fn notify(&self, queue: u16) {
        if !self.port.control(queue) {
            self.backend.wake();
        }
    }

    fn reset(&self) {
        self.port.reset();
        self.backend.reset();
    }

    fn save(&self) -> DeviceState {
        DeviceState::Net(NetState { pairs: self.port.pairs(), known: *self.known.lock() })
    }

    fn check(&self, state: &DeviceState, kind: &'static str) -> Result<(), RestoreError> {
        match state {
            DeviceState::Net(state) if (1..=self.pairs()).contains(&state.pairs) => Ok(()),
            _ => Err(RestoreError { kind, reason: "it is of another type of device, or has other queues" }),
        }
    }

    fn restore(&self, state: &DeviceState) {
        if let DeviceState::Net(NetState { pairs, known }) = state {
            self.port.use_pairs(*pairs);
            *self.known.lock() = *known;
        }
    }
}

#[cfg(test)]
mod tests;
