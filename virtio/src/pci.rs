//! Virtio over PCI (4.1): capabilities that say where in BAR 0 the registers are, MSI-X in BAR 2, MSI and an
//! interrupt pin for those who have nothing better.
//!
//! NOT modelled: the transitional interface, notification data, shared memory regions.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use device::pci::{
    Bar, BarRange, ConfigSpace, ConfigState, Identity, Msi, MsiSink, Msix, MsixState, PciFunction, command,
};
use device::{Action, Device, IrqLine, RestoreError, SaveRestore, bytes};
use memory::GuestRam;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::frontend::{Frontend, FrontendState, QueueSetup, Selected, word};
use crate::{Interrupt, Transport, VirtioDevice};

/// Red Hat, for virtio; device ids follow the types.
const VENDOR: u16 = 0x1af4;
const DEVICE: u16 = 0x1040;
/// BARs: registers, MSI-X.
const REGISTERS: u8 = 0;
const MSIX: u8 = 2;
/// A vendor-specific capability and what it tells of (4.1.4).
const VENDOR_CAPABILITY: u8 = 9;
const COMMON: u64 = 0x0000;
const ISR: u64 = 0x1000;
const CONFIG: u64 = 0x2000;
const NOTIFY: u64 = 0x3000;
const REGION: u64 = 0x1000;
/// Bytes from one queue's notification address to the next.
const NOTIFY_STEP: u32 = 4;
/// No vector.
const NO_VECTOR: u16 = 0xffff;
/// Interrupt status: queues; configuration.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;
/// Fields of the capability through which configuration space reaches the BARs.
const WINDOW_BAR: u8 = 4;
const WINDOW_OFFSET: u8 = 8;
const WINDOW_LEN: u8 = 12;
const WINDOW_DATA: u8 = 16;

/// A virtio device in a PCI slot.
pub struct VirtioPci {
    frontend: Frontend,
    interrupts: Arc<Interrupts>,
    selected: Mutex<Selected>,
    /// Held by whoever brings the device in step with the bus-master bit.
    mastering: Mutex<()>,
    /// Offset of the window capability.
    window: u8,
}

/// The function's configuration space and its ways to interrupt.
struct Interrupts {
    inner: Mutex<Inner>,
    line: IrqLine,
    sink: Arc<dyn MsiSink>,
}

struct Inner {
    config: ConfigSpace,
    msix: Msix,
    msi: Msi,
    vectors: Vec<u16>,
    config_vector: u16,
    isr: u8,
    asserted: bool,
}

/// Saved state of [`VirtioPci`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct VirtioPciState {
    pub config: ConfigState,
    pub msix: MsixState,
    pub vectors: Vec<u16>,
    pub config_vector: u16,
    pub isr: u8,
    selected: Selected,
    pub frontend: FrontendState,
}

impl Inner {
    fn new(device: &dyn VirtioDevice, line: u8) -> (Self, u8) {
        let kind = device.kind();
        let identity = Identity {
            vendor: VENDOR,
            device: DEVICE.wrapping_add(kind),
            revision: 1,
            class: device.pci_class(),
            subsystem: (VENDOR, kind),
        };
        let mut config = ConfigSpace::new(&identity);
        config.add_bar(REGISTERS, Bar { len: 4 * REGION, wide: true });
        config.add_bar(MSIX, Bar { len: Msix::LEN, wide: false });
        config.set_interrupt(line);
        let queues = device.queues().len() as u16;
        let msix = Msix::new(&mut config, queues.saturating_add(1), MSIX);
        for (what, at, more) in
            [(1u8, COMMON, None), (3, ISR, None), (4, CONFIG, None), (2, NOTIFY, Some(NOTIFY_STEP))]
        {
            let mut body = vec![if more.is_some() { 20 } else { 16 }, what, REGISTERS, 0, 0, 0];
            body.extend((at as u32).to_le_bytes());
            body.extend((REGION as u32).to_le_bytes());
            body.extend(more.iter().flat_map(|more| more.to_le_bytes()));
            config.add_capability(VENDOR_CAPABILITY, &body, &[]);
        }
        let mut body = [0; 18];
        (body[0], body[1]) = (20, 5);
        let mut writable = [0; 18];
        writable[2] = 0xff;
        writable[6..14].fill(0xff);
        let window = config.add_capability(VENDOR_CAPABILITY, &body, &writable);
        let msi = Msi::new(&mut config);
        let vectors = vec![NO_VECTOR; queues.into()];
        let inner = Self { config, msix, msi, vectors, config_vector: NO_VECTOR, isr: 0, asserted: false };
        (inner, window)
    }

    /// Brings the interrupt pin in step with what asks for it.
    fn update(&mut self, line: &IrqLine) {
        let messages = self.msix.is_enabled(&self.config) || self.msi.is_enabled(&self.config);
        let disabled = self.config.command() & command::INTX_DISABLE != 0;
        self.config.set_interrupt_status(self.isr != 0 && !messages);
        let asserted = self.isr != 0 && !messages && !disabled;
        if asserted != self.asserted {
            self.asserted = asserted;
            line.set(asserted);
        }
    }
}

impl Interrupts {
    fn raise(&self, isr: u8, vector: impl FnOnce(&Inner) -> Option<u16>) {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        if inner.msix.is_enabled(&inner.config) {
            if let Some(vector) = vector(inner) {
                inner.msix.trigger(vector, &inner.config, self.sink.as_ref());
            }
            return;
        }
        inner.isr |= isr;
        if inner.msi.is_enabled(&inner.config) {
            inner.msi.trigger(&inner.config, self.sink.as_ref());
        }
        inner.update(&self.line);
    }
}

impl Interrupt for Interrupts {
    fn queue(&self, index: u16) {
        self.raise(ISR_QUEUE, |inner| inner.vectors.get(usize::from(index)).copied());
    }

    fn config(&self) {
        self.raise(ISR_CONFIG, |inner| Some(inner.config_vector));
    }
}

impl VirtioPci {
    /// `device` with its interrupt pin on `line`, which firmware calls `line_number`.
    pub fn new(
        device: Arc<dyn VirtioDevice>,
        ram: Arc<GuestRam>,
        line: IrqLine,
        line_number: u8,
        sink: Arc<dyn MsiSink>,
    ) -> Self {
        let (inner, window) = Inner::new(device.as_ref(), line_number);
        let interrupts = Arc::new(Interrupts { inner: Mutex::new(inner), line, sink });
        let frontend = Frontend::new(device, ram, interrupts.clone());
        // As after power-on.
        frontend.set_access(false);
        Self { frontend, interrupts, selected: Mutex::default(), mastering: Mutex::default(), window }
    }

    /// A function that is no bus master leaves memory alone (PCI 3.0, 6.2.2). Not under the lock of the interrupts:
    /// what is under way ends with one.
    fn follow_mastering(&self) {
        let _one = self.mastering.lock();
        let command = self.interrupts.inner.lock().config.command();
        self.frontend.set_access(command & command::BUS_MASTER != 0);
    }

    /// The common configuration (4.1.4.3) as it reads now.
    fn common(&self) -> [u8; 64] {
        let selected = *self.selected.lock();
        let setup = self.frontend.queue(selected.queue);
        let (config_vector, vector) = {
            let inner = self.interrupts.inner.lock();
            let vector = inner.vectors.get(usize::from(selected.queue)).copied();
            (inner.config_vector, vector.unwrap_or(NO_VECTOR))
        };
        let mut image = [0; 64];
        let mut put = |at: usize, data: &[u8]| image[at..at + data.len()].copy_from_slice(data);
        put(0x00, &selected.device_features.to_le_bytes());
        put(0x04, &word(self.frontend.offered(), selected.device_features).to_le_bytes());
        put(0x08, &selected.driver_features.to_le_bytes());
        put(0x0c, &word(self.frontend.accepted(), selected.driver_features).to_le_bytes());
        put(0x10, &config_vector.to_le_bytes());
        put(0x12, &self.frontend.queue_count().to_le_bytes());
        put(0x14, &[self.frontend.status(), self.frontend.device().config_generation()]);
        put(0x16, &selected.queue.to_le_bytes());
        put(0x18, &setup.layout.size.to_le_bytes());
        put(0x1a, &vector.to_le_bytes());
        put(0x1c, &u16::from(setup.enabled).to_le_bytes());
        put(0x1e, &selected.queue.to_le_bytes());
        put(0x20, &setup.layout.descriptors.to_le_bytes());
        put(0x28, &setup.layout.available.to_le_bytes());
        put(0x30, &setup.layout.used.to_le_bytes());
        image
    }

    /// A write to a field of it, in the field's width; 64-bit fields also by halves.
    fn set_common(&self, offset: u64, data: &[u8]) {
        let value = bytes::get(data);
        let queue = self.selected.lock().queue;
        let setup = |change: &dyn Fn(&mut QueueSetup)| self.frontend.set_queue(queue, change);
        match (offset, data.len()) {
            (0x00, 4) => self.selected.lock().device_features = value as u32,
            (0x08, 4) => self.selected.lock().driver_features = value as u32,
            (0x0c, 4) => {
                let word = self.selected.lock().driver_features;
                self.frontend.accept(word, value as u32);
            }
            (0x10, 2) => {
                let mut inner = self.interrupts.inner.lock();
                inner.config_vector = vector(value as u16, &inner.msix);
            }
            (0x14, 1) => self.set_status(value as u8),
            (0x16, 2) => self.selected.lock().queue = value as u16,
            (0x18, 2) => setup(&|q| q.layout.size = value as u16),
            (0x1a, 2) => {
                let mut inner = self.interrupts.inner.lock();
                let valid = vector(value as u16, &inner.msix);
                if let Some(vector) = inner.vectors.get_mut(usize::from(queue)) {
                    *vector = valid;
                }
            }
            (0x1c, 2) if value == 1 => setup(&|q| q.enabled = true),
            (0x20..0x38, 4 | 8) if offset.is_multiple_of(data.len() as u64) => setup(&|q| {
                let field = match offset & !7 {
                    0x20 => &mut q.layout.descriptors,
                    0x28 => &mut q.layout.available,
                    _ => &mut q.layout.used,
                };
                let mut whole = field.to_le_bytes();
                for (byte, &new) in whole.iter_mut().skip((offset & 7) as usize).zip(data) {
                    *byte = new;
                }
                *field = u64::from_le_bytes(whole);
            }),
            _ => {}
        }
    }

    fn set_status(&self, value: u8) {
        if self.frontend.set_status(value) {
            self.driver_left();
        }
    }

    /// After a reset of the device, which is not one of the function.
    fn driver_left(&self) {
        let mut guard = self.interrupts.inner.lock();
        let inner = &mut *guard;
        inner.vectors.fill(NO_VECTOR);
        inner.config_vector = NO_VECTOR;
        inner.isr = 0;
        inner.update(&self.interrupts.line);
        *self.selected.lock() = Selected::default();
    }

    /// Reading the interrupt status clears it.
    fn take_isr(&self) -> u8 {
        let mut inner = self.interrupts.inner.lock();
        let isr = std::mem::take(&mut inner.isr);
        inner.update(&self.interrupts.line);
        isr
    }

    /// Where the window of configuration space leads now, if `offset` and `len` are its data.
    fn window(&self, offset: u16, len: usize) -> Option<(u8, u64, usize)> {
        let data = u16::from(self.window) + u16::from(WINDOW_DATA);
        if self.window == 0 || offset != data || len > 4 {
            return None;
        }
        let inner = self.interrupts.inner.lock();
        let bar = inner.config.word(self.window + WINDOW_BAR) as u8;
        let at = inner.config.double_word(self.window + WINDOW_OFFSET);
        let wanted = inner.config.double_word(self.window + WINDOW_LEN) as usize;
        let fits = matches!(wanted, 1 | 2 | 4) && wanted <= len && at.is_multiple_of(wanted as u32);
        fits.then_some((bar, at.into(), wanted))
    }
}

/// A vector that the function has, or none.
fn vector(value: u16, msix: &Msix) -> u16 {
    if value < msix.vectors() { value } else { NO_VECTOR }
}

impl Device for VirtioPci {
    fn name(&self) -> &'static str {
        self.frontend.device().name()
    }

    fn reset(&self) {
        self.frontend.reset();
        self.driver_left();
        let mut guard = self.interrupts.inner.lock();
        let inner = &mut *guard;
        inner.config.reset();
        inner.msix.reset();
        inner.update(&self.interrupts.line);
        drop(guard);
        self.follow_mastering();
    }
}

impl PciFunction for VirtioPci {
    fn read_config(&self, offset: u16, data: &mut [u8]) {
        if let Some((bar, at, len)) = self.window(offset, data.len()) {
            data.fill(0);
            return self.read_bar(bar, at, &mut data[..len]);
        }
        self.interrupts.inner.lock().config.read(offset, data);
    }

    fn write_config(&self, offset: u16, data: &[u8]) -> bool {
        if let Some((bar, at, len)) = self.window(offset, data.len()) {
            // No register of a virtio device concerns the machine.
            let _: Action = self.write_bar(bar, at, &data[..len]);
            return false;
        }
        let mut guard = self.interrupts.inner.lock();
        let inner = &mut *guard;
        let moved = inner.config.write(offset, data);
        inner.msix.settle(&inner.config, self.interrupts.sink.as_ref());
        inner.update(&self.interrupts.line);
        drop(guard);
        self.follow_mastering();
        moved
    }

    fn place(&self, bar: u8, address: u64) {
        self.interrupts.inner.lock().config.place(bar, address);
    }

    fn wants(&self) -> Vec<(u8, u64)> {
        self.interrupts.inner.lock().config.bars().map(|(index, bar)| (index, bar.len)).collect()
    }

    fn ranges(&self) -> Vec<BarRange> {
        self.interrupts.inner.lock().config.ranges()
    }

    fn read_bar(&self, bar: u8, offset: u64, data: &mut [u8]) {
        match (bar, offset & !(REGION - 1)) {
            (REGISTERS, COMMON) => crate::device::read_image(&self.common(), offset, data),
            (REGISTERS, ISR) => bytes::put(data, if offset == ISR { self.take_isr().into() } else { 0 }),
            (REGISTERS, CONFIG) => self.frontend.device().read_config(offset - CONFIG, data),
            (MSIX, _) => self.interrupts.inner.lock().msix.read(offset, data),
            _ => data.fill(0),
        }
    }

    fn write_bar(&self, bar: u8, offset: u64, data: &[u8]) -> Action {
        match (bar, offset & !(REGION - 1)) {
            (REGISTERS, NOTIFY) => {
                self.frontend.device().notify(((offset - NOTIFY) / u64::from(NOTIFY_STEP)) as u16);
            }
            (REGISTERS, COMMON) => self.set_common(offset, data),
            (REGISTERS, CONFIG) => self.frontend.device().write_config(offset - CONFIG, data),
            (MSIX, _) => {
                let mut guard = self.interrupts.inner.lock();
                let inner = &mut *guard;
                inner.msix.write(offset, data);
                inner.msix.settle(&inner.config, self.interrupts.sink.as_ref());
            }
            _ => {}
        }
        Action::None
    }
}

impl Transport for VirtioPci {
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
        let ranges = self.interrupts.inner.lock().config.ranges();
        let Some(registers) = ranges.iter().find(|range| range.bar == REGISTERS) else { return Vec::new() };
        let at = |queue| registers.start + NOTIFY + u64::from(queue) * u64::from(NOTIFY_STEP);
        (0..self.frontend.queue_count()).map(|queue| (at(queue), None)).collect()
    }
}

impl SaveRestore for VirtioPci {
    type State = VirtioPciState;
    const KIND: &'static str = "virtio-pci";
    const VERSION: u32 = 1;

    fn save(&self) -> VirtioPciState {
        // First the device, which may still raise an interrupt until it stands.
        let frontend = self.frontend.save();
        let inner = self.interrupts.inner.lock();
        VirtioPciState {
            config: inner.config.save(),
            msix: inner.msix.save(),
            vectors: inner.vectors.clone(),
            config_vector: inner.config_vector,
            isr: inner.isr,
            selected: *self.selected.lock(),
            frontend,
        }
    }

    fn restore(&self, state: &VirtioPciState) -> Result<(), RestoreError> {
        let refuse = |reason| Err(RestoreError { kind: Self::KIND, reason });
        self.frontend.check(&state.frontend, Self::KIND)?;
        {
            let mut guard = self.interrupts.inner.lock();
            let inner = &mut *guard;
            let known = |v: u16| v == vector(v, &inner.msix);
            let vectors = state.vectors.iter().chain([&state.config_vector]);
            if state.vectors.len() != inner.vectors.len() || !vectors.copied().all(known) {
                return refuse("a vector is one that the device does not have");
            }
            if state.isr & !(ISR_QUEUE | ISR_CONFIG) != 0 {
                return refuse("reserved bits of the interrupt status are set");
            }
            let mut config = inner.config.clone();
            config.restore(&state.config, Self::KIND)?;
            inner.msix.restore(&state.msix, Self::KIND)?;
            inner.config = config;
        }
        // The old driver's device stands before the new one's vectors are there.
        self.frontend.reset();
        self.follow_mastering();
        {
            let mut guard = self.interrupts.inner.lock();
            let inner = &mut *guard;
            inner.vectors.clone_from(&state.vectors);
            inner.config_vector = state.config_vector;
            inner.isr = state.isr;
            inner.update(&self.interrupts.line);
            *self.selected.lock() = state.selected;
        }
        self.frontend.restore(&state.frontend, Self::KIND)
    }
}

#[cfg(test)]
mod tests;
