//! What a driver sees of a device through any transport: status, features and the set-up of queues (2.1, 2.2,
//! 2.6; 3.1 for the order).

use std::sync::Arc;

use device::RestoreError;
use memory::GuestRam;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::device::DeviceState;
use crate::queue::QueuePosition;
use crate::{DriverLink, Interrupt, Queue, QueueLayout, Session, VirtioDevice, feature};

/// Bits of the device status.
pub mod status {
    /// The driver agrees with the features.
    pub const DRIVER_OK: u8 = 4;
    /// The device agrees with the driver's features.
    pub const FEATURES_OK: u8 = 8;
    /// The device does nothing until it is reset.
    pub const NEEDS_RESET: u8 = 64;
}

/// A device, and how far its driver has come with it.
pub struct Frontend {
    device: Arc<dyn VirtioDevice>,
    ram: Arc<GuestRam>,
    interrupt: Arc<dyn Interrupt>,
    inner: Mutex<Inner>,
}

struct Inner {
    status: u8,
    features: u64,
    queues: Vec<QueueSetup>,
    session: Option<Arc<Session>>,
    /// The device may reach memory. It is not the driver's to decide by virtio's means, so a reset changes nothing.
    access: bool,
    /// The machine wants it to stand still. Nor does this change.
    held: bool,
}

/// What the driver looks at through registers that show one of several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selected {
    /// Which 32 of the features that the device offers.
    pub device_features: u32,
    /// Which 32 of those that the driver accepts.
    pub driver_features: u32,
    /// Number of the queue.
    pub queue: u16,
}

/// 32 of all features; those beyond the first two words are not there.
pub fn word(features: u64, number: u32) -> u32 {
    features.checked_shr(number.saturating_mul(32)).unwrap_or(0) as u32
}

/// A queue as the driver sets it up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct QueueSetup {
    /// Where it is.
    pub layout: QueueLayout,
    /// The driver uses it.
    pub enabled: bool,
}

/// Saved state of [`Frontend`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct FrontendState {
    pub status: u8,
    pub features: u64,
    pub queues: Vec<QueueSetup>,
    pub positions: Vec<QueuePosition>,
    #[serde(default)]
    pub device: DeviceState,
}

impl Inner {
    fn new(device: &dyn VirtioDevice) -> Self {
        let setup = |&size: &u16| QueueSetup {
            layout: QueueLayout { size, ..QueueLayout::default() },
            enabled: false,
        };
        let queues = device.queues().iter().map(setup).collect();
        Self { status: 0, features: 0, queues, session: None, access: true, held: false }
    }

    /// The device has the session now.
    fn is_running(&self) -> bool {
        self.session.is_some() && self.may_run()
    }

    fn may_run(&self) -> bool {
        self.access && !self.held
    }

    fn status(&self) -> u8 {
        let broken = self.session.as_ref().is_some_and(|s| s.link.is_broken());
        self.status | if broken { status::NEEDS_RESET } else { 0 }
    }
}

impl Frontend {
    /// A device whose driver has not come yet.
    pub fn new(device: Arc<dyn VirtioDevice>, ram: Arc<GuestRam>, interrupt: Arc<dyn Interrupt>) -> Self {
        let inner = Mutex::new(Inner::new(device.as_ref()));
        Self { device, ram, interrupt, inner }
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn VirtioDevice> {
        &self.device
    }

    /// All features that are offered.
    pub fn offered(&self) -> u64 {
        self.device.features() | feature::RING
    }

    fn is_sensible(&self, features: u64) -> bool {
        features & !self.offered() == 0 && features & feature::VERSION_1 != 0
    }

    /// The features that the driver has accepted so far.
    pub fn accepted(&self) -> u64 {
        self.inner.lock().features
    }

    /// The driver accepts 32 features: word 0 or 1. Too late once they are agreed on.
    pub fn accept(&self, word: u32, bits: u32) {
        let mut inner = self.inner.lock();
        if word > 1 || inner.status & status::FEATURES_OK != 0 {
            return;
        }
        let shift = 32 * word;
        inner.features = inner.features & !(0xffff_ffff << shift) | u64::from(bits) << shift;
    }

    /// The device status.
    pub fn status(&self) -> u8 {
        self.inner.lock().status()
    }

    /// The driver writes the device status: zero resets, else it sets bits. True if it was a reset.
    pub fn set_status(&self, value: u8) -> bool {
        if value == 0 {
            self.reset();
            return true;
        }
        let mut inner = self.inner.lock();
        let mut new = value & !inner.status & !status::NEEDS_RESET;
        if new & status::FEATURES_OK != 0 && !self.is_sensible(inner.features) {
            new &= !status::FEATURES_OK;
        }
        if (inner.status | new) & status::FEATURES_OK == 0 {
            new &= !status::DRIVER_OK;
        }
        inner.status |= new;
        if new & status::DRIVER_OK != 0 {
            let positions = vec![QueuePosition::default(); inner.queues.len()];
            self.start(&mut inner, &positions);
        }
        false
    }

    fn start(&self, inner: &mut Inner, positions: &[QueuePosition]) {
        let link = Arc::new(DriverLink::new(self.device.name(), self.interrupt.clone()));
        let mut queues = Vec::new();
        for ((setup, &position), index) in inner.queues.iter().zip(positions).zip(0..) {
            let features = inner.features;
            let make = || Queue::new(self.ram.clone(), link.clone(), index, setup.layout, features, position);
            queues.push(match setup.enabled.then(make) {
                Some(Ok(queue)) => Some(Arc::new(queue)),
                Some(Err(why)) => {
                    link.fail(index, &why);
                    None
                }
                None => None,
            });
        }
        let session = Arc::new(Session { features: inner.features, queues, link });
        inner.session = Some(session.clone());
        if inner.may_run() {
            self.device.start(session);
        }
    }

    /// Whether the device may reach memory. One that may not stands still, and goes on where it was.
    pub fn set_access(&self, access: bool) {
        self.allow(|inner| inner.access = access);
    }

    /// Has the device stand still, whatever its driver says, until it is let go.
    pub fn hold(&self, held: bool) {
        self.allow(|inner| inner.held = held);
    }

    fn allow(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.inner.lock();
        let before = inner.may_run();
        change(&mut inner);
        let after = inner.may_run();
        match &inner.session {
            Some(session) if after && !before => self.device.start(session.clone()),
            Some(_) if before && !after => self.device.stop(),
            _ => {}
        }
    }

    /// Number of queues.
    pub fn queue_count(&self) -> u16 {
        self.device.queues().len() as u16
    }

    /// The set-up of a queue; all zero if there is none of that number.
    pub fn queue(&self, index: u16) -> QueueSetup {
        self.inner.lock().queues.get(usize::from(index)).copied().unwrap_or_default()
    }

    /// The driver sets a queue up. It does so before it enables the queue, later it is ignored.
    pub fn set_queue(&self, index: u16, change: impl FnOnce(&mut QueueSetup)) {
        let mut inner = self.inner.lock();
        let Some(setup) = inner.queues.get_mut(usize::from(index)) else { return };
        let Some(&most) = self.device.queues().get(usize::from(index)) else { return };
        if setup.enabled {
            return;
        }
        let mut changed = *setup;
        change(&mut changed);
        if changed.layout.size.is_power_of_two() && changed.layout.size <= most {
            *setup = changed;
        }
    }

    /// Back to power-on, with the device.
    pub fn reset(&self) {
        let mut inner = self.inner.lock();
        if inner.is_running() {
            self.device.stop();
        }
        self.device.reset();
        *inner = Inner { access: inner.access, held: inner.held, ..Inner::new(self.device.as_ref()) };
    }

    /// The state now. Whatever is under way ends first; what is only available stays so.
    pub fn save(&self) -> FrontendState {
        let inner = self.inner.lock();
        let mut positions = vec![QueuePosition::default(); inner.queues.len()];
        let running = inner.is_running();
        if running {
            self.device.stop();
        }
        let device = self.device.save();
        if let Some(session) = &inner.session {
            for (position, queue) in positions.iter_mut().zip(&session.queues) {
                *position = queue.as_ref().map(|q| q.position()).unwrap_or_default();
            }
            if running {
                self.device.start(session.clone());
            }
        }
        FrontendState {
            status: inner.status(),
            features: inner.features,
            queues: inner.queues.clone(),
            positions,
            device,
        }
    }

    /// Says whether [`restore`](Self::restore) would take the state.
    ///
    /// # Errors
    /// It is that of another device, or none that a device can be in.
    pub fn check(&self, state: &FrontendState, kind: &'static str) -> Result<(), RestoreError> {
        let refuse = |reason| Err(RestoreError { kind, reason });
        let sizes = self.device.queues();
        if state.queues.len() != sizes.len() || state.positions.len() != sizes.len() {
            return refuse("it has another number of queues");
        }
        let fits = |(setup, &most): (&QueueSetup, &u16)| {
            setup.layout.size.is_power_of_two() && setup.layout.size <= most
        };
        if !state.queues.iter().zip(sizes).all(fits) {
            return refuse("a queue has an impossible size");
        }
        let agreed = state.status & status::FEATURES_OK != 0;
        if agreed && !self.is_sensible(state.features) || !agreed && state.status & status::DRIVER_OK != 0 {
            return refuse("its driver accepted what is not offered");
        }
        self.device.check(&state.device, kind)
    }

    /// Replaces the state. Interrupts may come before it returns.
    ///
    /// # Errors
    /// See [`check`](Self::check).
    pub fn restore(&self, state: &FrontendState, kind: &'static str) -> Result<(), RestoreError> {
        self.check(state, kind)?;
        self.reset();
        let mut inner = self.inner.lock();
        inner.status = state.status & !status::NEEDS_RESET;
        inner.features = state.features;
        inner.queues.clone_from(&state.queues);
        self.device.restore(&state.device);
        if state.status & status::DRIVER_OK != 0 {
            self.start(&mut inner, &state.positions);
            if let Some(session) = inner.session.as_ref().filter(|_| state.status & status::NEEDS_RESET != 0)
            {
                session.link.fail(0, &crate::QueueError::Saved);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
