//! What a virtio device is to a transport.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use ::net::Mac;
use device::RestoreError;
use serde::{Deserialize, Serialize};

use crate::{BalloonState, ConsoleState, DriverLink, Queue};

/// Feature bits that belong to no device type (6).
pub mod feature {
    /// Descriptors may name a table of descriptors.
    pub const INDIRECT_DESC: u64 = 1 << 28;
    /// Notifications are suppressed by index.
    pub const EVENT_IDX: u64 = 1 << 29;
    /// The modern interface.
    pub const VERSION_1: u64 = 1 << 32;
    /// All that the queues can do.
    pub const RING: u64 = INDIRECT_DESC | EVENT_IDX | VERSION_1;
}

/// What driver and device agreed on, from DRIVER_OK to reset.
pub struct Session {
    /// Features that the driver accepted.
    pub features: u64,
    /// The queues; `None` for those that the driver does not use.
    pub queues: Vec<Option<Arc<Queue>>>,
    /// The way to the driver.
    pub link: Arc<DriverLink>,
}

/// What a device remembers besides its queues, from one reset to the next.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum DeviceState {
    /// Nothing.
    #[default]
    Nothing,
    /// What a console's driver has been told.
    Console(ConsoleState),
    /// What a balloon's driver was asked for and has done.
    Balloon(BalloonState),
    /// A card's.
    Net(NetState),
}

/// What a network card remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SavedNet")]
pub struct NetState {
    /// Pairs of queues that the driver uses.
    pub pairs: u16,
    /// The address that the driver has read: a copy's card has another one.
    pub known: Option<Mac>,
}

/// As snapshots have it.
#[derive(Deserialize)]
#[serde(untagged)]
enum SavedNet {
    /// From when cards remembered no address.
    Pairs(u16),
    State {
        pairs: u16,
        known: Option<Mac>,
    },
}

impl From<SavedNet> for NetState {
    fn from(saved: SavedNet) -> Self {
        match saved {
            SavedNet::Pairs(pairs) => Self { pairs, known: None },
            SavedNet::State { pairs, known } => Self { pairs, known },
        }
    }
}

/// A transport as the machine sees it.
pub trait Transport: Send + Sync {
    /// Has the device stand still, whatever its driver says: it touches no memory of the guest's, and its state stays as it
    /// is, until it is let go.
    fn hold(&self, held: bool);
    /// The device can say what it is doing.
    fn can_be_kept(&self) -> bool;
    /// See [`VirtioDevice::event`].
    fn event(&self) -> Option<BorrowedFd<'_>>;
    /// Where in memory the driver notifies the device, as far as the transport knows: all of the address, or where the board
    /// has put its registers left aside; and the value it writes, if others mean something else.
    fn notifications(&self) -> Vec<(u64, Option<u32>)>;
}

/// A device without its transport. Methods are called by vCPU threads and must return soon.
pub trait VirtioDevice: Send + Sync {
    /// For logs.
    fn name(&self) -> &'static str;
    /// Device type (5).
    fn kind(&self) -> u16;
    /// PCI class code for those who look at it: class, subclass, interface.
    fn pci_class(&self) -> u32;
    /// Feature bits of the type.
    fn features(&self) -> u64;
    /// The largest size of each queue: powers of two.
    fn queues(&self) -> &[u16];
    /// Reads configuration; all of `data` is overwritten.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Writes configuration.
    fn write_config(&self, offset: u64, data: &[u8]) {
        let _ = (offset, data);
    }
    /// Changes whenever configuration that is read in several accesses does.
    fn config_generation(&self) -> u8 {
        0
    }
    /// The driver is ready. Never called twice without `stop` in between.
    fn start(&self, session: Arc<Session>);
    /// Lets go of the session: when it returns, the device touches neither its queues nor their buffers any more.
    fn stop(&self);
    /// The driver has put something into a queue. Any number: it comes from the guest.
    fn notify(&self, queue: u16);
    /// Whoever makes this readable has notified the device of all its queues: for engines whose guests can do so without
    /// leaving the kernel. None where the device has no such thing.
    fn event(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Back to power-on, after `stop`.
    fn reset(&self) {}
    /// It can say what it remembers.
    fn can_be_kept(&self) -> bool {
        true
    }
    /// What it remembers, while it stands.
    fn save(&self) -> DeviceState {
        DeviceState::Nothing
    }
    /// Says whether it can have remembered that; `kind` is for the error.
    ///
    /// # Errors
    /// It is another device's.
    fn check(&self, state: &DeviceState, kind: &'static str) -> Result<(), RestoreError> {
        if *state == DeviceState::Nothing {
            return Ok(());
        }
        Err(RestoreError { kind, reason: "it is of another type of device" })
    }
    /// Remembers what was checked. After `reset`, before `start`.
    fn restore(&self, state: &DeviceState) {
        let _ = state;
    }
}

/// Reads from an image of the configuration; what is beyond its end is zero.
pub(crate) fn read_image(image: &[u8], offset: u64, data: &mut [u8]) {
    for (i, byte) in data.iter_mut().enumerate() {
        let at = offset.checked_add(i as u64).and_then(|at| usize::try_from(at).ok());
        *byte = at.and_then(|at| image.get(at)).copied().unwrap_or(0);
    }
}
