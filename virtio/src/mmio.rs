//! Virtio over memory-mapped registers (4.2), version 2.
//!
//! NOT modelled: the legacy interface, shared memory regions, reset of a single queue.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use device::{Action, Device, IrqLine, Registers, RestoreError, SaveRestore, bytes};
use memory::GuestRam;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::frontend::{Frontend, FrontendState, QueueSetup, Selected, word};
use crate::{Interrupt, Transport, VirtioDevice};

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = 0x1af4;
/// QueueNotify.
const NOTIFY: u64 = 0x050;

/// Where the device's configuration begins.
const CONFIG: u64 = 0x100;
/// Interrupt status: queues; configuration.
const USED: u32 = 1;
const CONFIGURED: u32 = 2;

/// A virtio device behind [`LEN`](Self::LEN) bytes of registers.
pub struct VirtioMmio {
    frontend: Frontend,
    interrupts: Arc<Interrupts>,
    selected: Mutex<Selected>,
}

struct Interrupts {
    status: Mutex<u32>,
    line: IrqLine,
}

/// Saved state of [`VirtioMmio`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct VirtioMmioState {
    pub interrupts: u32,
    selected: Selected,
    pub frontend: FrontendState,
}

impl Interrupts {
    /// The line follows the status.
    fn change(&self, change: impl FnOnce(&mut u32)) {
        let mut status = self.status.lock();
        change(&mut status);
        self.line.set(*status != 0);
    }
}

impl Interrupt for Interrupts {
    fn queue(&self, _index: u16) {
        self.change(|status| *status |= USED);
    }

    fn config(&self) {
        self.change(|status| *status |= CONFIGURED);
    }
}

impl VirtioMmio {
    /// Bytes of registers.
    pub const LEN: u64 = 0x1000;

    /// `device`, which interrupts by the level-triggered `line`.
    pub fn new(device: Arc<dyn VirtioDevice>, ram: Arc<GuestRam>, line: IrqLine) -> Self {
        let interrupts = Arc::new(Interrupts { status: Mutex::new(0), line });
        let frontend = Frontend::new(device, ram, interrupts.clone());
        Self { frontend, interrupts, selected: Mutex::default() }
    }

    fn register(&self, offset: u64) -> u32 {
        let selected = *self.selected.lock();
        let queue = || self.frontend.queue(selected.queue);
        let most = || self.frontend.device().queues().get(usize::from(selected.queue)).copied();
        match offset {
            0x000 => MAGIC,
            0x004 => VERSION,
            0x008 => self.frontend.device().kind().into(),
            0x00c => VENDOR,
            0x010 => word(self.frontend.offered(), selected.device_features),
            0x034 => most().unwrap_or(0).into(),
            0x044 => queue().enabled.into(),
            0x060 => *self.interrupts.status.lock(),
            0x070 => self.frontend.status().into(),
            // Length and base of a shared memory region that is not there.
            0x0b0..=0x0bc => u32::MAX,
            0x0fc => self.frontend.device().config_generation().into(),
            _ => 0,
        }
    }

    fn set_register(&self, offset: u64, value: u32) {
        let queue = self.selected.lock().queue;
        let setup = |change: &dyn Fn(&mut QueueSetup)| self.frontend.set_queue(queue, change);
        let low = |field: &mut u64| *field = *field & !0xffff_ffff | u64::from(value);
        let high = |field: &mut u64| *field = *field & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            0x014 => self.selected.lock().device_features = value,
            0x020 => {
                let word = self.selected.lock().driver_features;
                self.frontend.accept(word, value);
            }
            0x024 => self.selected.lock().driver_features = value,
            // A number that is no queue's selects none.
            0x030 => self.selected.lock().queue = u16::try_from(value).unwrap_or(u16::MAX),
            0x038 => setup(&|q| q.layout.size = u16::try_from(value).unwrap_or(0)),
            0x044 if value == 1 => setup(&|q| q.enabled = true),
            NOTIFY => self.frontend.device().notify(u16::try_from(value).unwrap_or(u16::MAX)),
            0x064 => self.interrupts.change(|status| *status &= !value),
            0x070 => self.set_status(value as u8),
            0x080 => setup(&|q| low(&mut q.layout.descriptors)),
            0x084 => setup(&|q| high(&mut q.layout.descriptors)),
            0x090 => setup(&|q| low(&mut q.layout.available)),
            0x094 => setup(&|q| high(&mut q.layout.available)),
            0x0a0 => setup(&|q| low(&mut q.layout.used)),
            0x0a4 => setup(&|q| high(&mut q.layout.used)),
            _ => {}
        }
    }

    fn set_status(&self, value: u8) {
        if self.frontend.set_status(value) {
            self.driver_left();
        }
    }

    fn driver_left(&self) {
        self.interrupts.change(|status| *status = 0);
        *self.selected.lock() = Selected::default();
    }
}

impl Device for VirtioMmio {
    fn name(&self) -> &'static str {
        self.frontend.device().name()
    }

    fn reset(&self) {
        self.frontend.reset();
        self.driver_left();
    }
}

impl Registers for VirtioMmio {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match offset {
            CONFIG.. => self.frontend.device().read_config(offset - CONFIG, data),
            _ if data.len() == 4 => bytes::put(data, self.register(offset).into()),
            _ => data.fill(0), // the registers are 32 bits wide
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        match offset {
            CONFIG.. => self.frontend.device().write_config(offset - CONFIG, data),
            _ if data.len() == 4 => self.set_register(offset, bytes::get(data) as u32),
            _ => {}
        }
        Action::None
    }
}

impl Transport for VirtioMmio {
    fn hold(&self, held: bool) {
        self.frontend.hold(held);
    }

    fn can_be_kept(&self) -> bool {
        self.frontend.device().can_be_kept()
    }

    fn event(&self) -> Option<BorrowedFd<'_>> {
        self.frontend.device().event()
    }

    fn notifications(&self) -> Vec<(u64, Option<u32>)> {
        (0..self.frontend.queue_count()).map(|queue| (NOTIFY, Some(queue.into()))).collect()
    }
}

impl SaveRestore for VirtioMmio {
    type State = VirtioMmioState;
    const KIND: &'static str = "virtio-mmio";
    const VERSION: u32 = 1;

    fn save(&self) -> VirtioMmioState {
        let frontend = self.frontend.save();
        let interrupts = *self.interrupts.status.lock();
        VirtioMmioState { interrupts, selected: *self.selected.lock(), frontend }
    }

    fn restore(&self, state: &VirtioMmioState) -> Result<(), RestoreError> {
        if state.interrupts & !(USED | CONFIGURED) != 0 {
            return Err(RestoreError {
                kind: Self::KIND,
                reason: "reserved bits of the interrupt status are set",
            });
        }
        self.frontend.check(&state.frontend, Self::KIND)?;
        self.frontend.reset();
        self.interrupts.change(|status| *status = state.interrupts);
        *self.selected.lock() = state.selected;
        self.frontend.restore(&state.frontend, Self::KIND)
    }
}

#[cfg(test)]
mod tests;
