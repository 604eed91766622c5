//! VM Generation ID (Microsoft, "Virtual Machine Generation ID", 2012): 16 bytes in the guest's RAM that change when the guest
//! becomes another one, as by a clone or by going back to a snapshot, so that it does not use the same random numbers again. The
//! guest finds the place by ACPI (`boot::acpi`) and is told of a change by an interrupt.

use std::sync::Arc;

use device::{Device, IrqLine};
use memory::GuestRam;
use parking_lot::Mutex;

/// The identifier.
pub struct VmGenId {
    ram: Arc<GuestRam>,
    address: u64,
    changed: IrqLine,
    value: Mutex<[u8; 16]>,
}

impl VmGenId {
    /// One at an address that the guest leaves alone; `changed` is edge-triggered.
    pub fn new(ram: Arc<GuestRam>, address: u64, changed: IrqLine) -> Self {
        Self { ram, address, changed, value: Mutex::new(random()) }
    }

    /// The one in force.
    pub fn value(&self) -> [u8; 16] {
        *self.value.lock()
    }

    /// The guest is another one from now on.
    pub fn set(&self, value: [u8; 16]) {
        let mut current = self.value.lock();
        *current = value;
        self.write(value);
        self.changed.pulse();
    }

    /// The same with a value that nobody has had.
    pub fn renew(&self) {
        self.set(random());
    }

    fn write(&self, value: [u8; 16]) {
        if let Err(e) = self.ram.write(self.address, &value) {
            tracing::warn!("no generation for the guest: {e}");
        }
    }
}

impl Device for VmGenId {
    fn name(&self) -> &'static str {
        "vm-generation-id"
    }

    fn reset(&self) {
        self.write(*self.value.lock());
    }
}

/// Random, as version 4 of RFC 9562 has it.
fn random() -> [u8; 16] {
    let mut value = [0; 16];
    if let Err(e) = rustix::rand::getrandom(&mut value, rustix::rand::GetRandomFlags::empty()) {
        tracing::warn!("the host has no random numbers: {e}");
    }
    value[6] = value[6] & 0x0f | 0x40;
    value[8] = value[8] & 0x3f | 0x80;
    value
}
