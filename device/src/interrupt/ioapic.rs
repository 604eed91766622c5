//! I/O APIC: Intel 82093AA (datasheet 290566, section 3), version 0x20 with the EOI register (Intel ICH
//! datasheets, "I/O APIC").
//!
//! NOT modelled: input polarity (a line is asserted or it is not), delivery status (messages arrive at
//! once), arbitration.

use std::sync::Arc;

use cpu::IoapicState;
use parking_lot::Mutex;

use super::{ApicBus, Delivery, Destination, Message};
use crate::{Action, Device, IrqSink, Registers, RestoreError, SaveRestore, bytes};

const PINS: usize = 24;
const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const REMOTE_IRR: u64 = 1 << 14;
const LOGICAL: u64 = 1 << 11;
const WRITABLE: u64 = 0xff00_0000_0001_afff & !(1 << 12);

/// 24-input I/O APIC.
pub struct Ioapic {
    bus: Arc<ApicBus>,
    power_on_id: u8,
    inner: Mutex<Inner>,
}

struct Inner {
    id: u8,
    select: u8,
    table: [u64; PINS],
    /// Inputs that are asserted.
    inputs: u32,
}

impl Inner {
    fn new(id: u8) -> Self {
        Self { id, select: 0, table: [MASKED; PINS], inputs: 0 }
    }

    /// What a pin sends.
    fn message(&self, pin: usize) -> Option<Message> {
        let entry = self.table[pin];
        let delivery = Delivery::decode(entry).filter(|d| *d != Delivery::Startup)?;
        let destination = Destination::from_u8((entry >> 56) as u8, entry & LOGICAL != 0);
        Some(Message { destination, delivery, vector: entry as u8, level: is_level(entry) })
    }

    /// Sends the message of a pin whose input is asserted, if its entry lets it. Called on a rising edge, and
    /// for level-triggered pins whenever one might have become deliverable.
    fn service(&mut self, pin: usize, bus: &ApicBus) {
        let entry = self.table[pin];
        let Some(message) = self.message(pin) else { return };
        if entry & MASKED != 0 || message.level && entry & REMOTE_IRR != 0 {
            return;
        }
        let accepted = bus.send(&message);
        if message.level && accepted {
            self.table[pin] |= REMOTE_IRR;
        }
    }

    fn service_level(&mut self, pin: usize, bus: &ApicBus) {
        if self.inputs >> pin & 1 != 0 && is_level(self.table[pin]) {
            self.service(pin, bus);
        }
    }

    fn register(&self) -> u32 {
        match self.select {
            0 | 2 => u32::from(self.id) << 24,
            1 => Ioapic::VERSION,
            n => match self.table.get(usize::from(n.wrapping_sub(0x10)) / 2) {
                Some(entry) if n >= 0x10 => (entry >> (32 * (n & 1))) as u32,
                _ => 0,
            },
        }
    }

    fn set_register(&mut self, value: u32, bus: &ApicBus) {
        let n = self.select;
        if n == 0 {
            self.id = (value >> 24) as u8 & 0xf;
        }
        let pin = usize::from(n.wrapping_sub(0x10)) / 2;
        if n < 0x10 || pin >= PINS {
            return;
        }
        let shift = 32 * (n & 1);
        let writable = WRITABLE & 0xffff_ffff << shift;
        let mut entry = self.table[pin] & !writable | u64::from(value) << shift & writable;
        if entry & LEVEL == 0 {
            // Software acknowledges a level interrupt by making the entry edge-triggered for a moment.
            entry &= !REMOTE_IRR;
        }
        let before = self.message(pin);
        self.table[pin] = entry;
        if let Some(message) = self.message(pin).filter(|message| before != Some(*message)) {
            bus.route(pin as u32, &message);
        }
        self.service_level(pin, bus);
    }

    fn end_of_interrupt(&mut self, vector: u8, bus: &ApicBus) {
        for pin in 0..PINS {
            let entry = self.table[pin];
            if entry as u8 == vector && entry & REMOTE_IRR != 0 {
                self.table[pin] &= !REMOTE_IRR;
                self.service_level(pin, bus);
            }
        }
    }
}

/// Only fixed and lowest-priority messages can be level-triggered.
fn is_level(entry: u64) -> bool {
    entry & LEVEL != 0 && matches!(Delivery::decode(entry), Some(Delivery::Fixed | Delivery::LowestPriority))
}

impl Ioapic {
    /// Where a PC has it.
    pub const BASE: u64 = 0xfec0_0000;
    /// Bytes of registers.
    pub const LEN: u64 = 0x1000;
    /// Number of inputs.
    pub const PINS: u32 = PINS as u32;
    /// Version register: 24 entries, version 0x20.
    const VERSION: u32 = (PINS as u32 - 1) << 16 | 0x20;

    /// An I/O APIC that sends its messages to `bus`.
    pub fn new(id: u8, bus: Arc<ApicBus>) -> Self {
        Self { bus, power_on_id: id, inner: Mutex::new(Inner::new(id)) }
    }

    /// Tells an engine that has the local APICs what each pin sends.
    pub(super) fn announce(&self) {
        let inner = self.inner.lock();
        for pin in 0..PINS {
            if let Some(message) = inner.message(pin) {
                self.bus.route(pin as u32, &message);
            }
        }
    }

    /// A local APIC finished the level-triggered interrupt `vector`.
    pub fn end_of_interrupt(&self, vector: u8) {
        self.inner.lock().end_of_interrupt(vector, &self.bus);
    }

    /// Sets the level of an input; true if it was another one.
    pub(super) fn set_input(&self, pin: u32, asserted: bool) -> bool {
        if pin >= Self::PINS {
            return false;
        }
        let mut inner = self.inner.lock();
        let was = inner.inputs >> pin & 1 != 0;
        if was == asserted {
            return false;
        }
        inner.inputs ^= 1 << pin;
        if asserted {
            inner.service(pin as usize, &self.bus);
        }
        true
    }

    /// An engine gives the registers back; inputs are known here.
    pub(super) fn give_back(&self, given: &IoapicState) -> Result<(), RestoreError> {
        let inputs = self.inner.lock().inputs;
        self.restore(&IoapicState { inputs, ..given.clone() })
    }

    /// Sends what an engine has given back without sending it.
    pub(super) fn settle(&self) {
        let mut inner = self.inner.lock();
        (0..PINS).for_each(|pin| inner.service_level(pin, &self.bus));
    }
}

impl IrqSink for Ioapic {
    fn set_level(&self, pin: u32, asserted: bool) {
        self.set_input(pin, asserted);
    }
}

impl Device for Ioapic {
    fn name(&self) -> &'static str {
        "ioapic"
    }

    fn reset(&self) {
        let mut inner = self.inner.lock();
        let inputs = inner.inputs; // the wires are not ours
        *inner = Inner { inputs, ..Inner::new(self.power_on_id) };
    }
}

impl Registers for Ioapic {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let inner = self.inner.lock();
        let value = match offset {
            0x00 => u32::from(inner.select),
            0x10 => inner.register(),
            _ => 0,
        };
        bytes::put(data, value.into());
    }

    fn write(&self, offset: u64, data: &[u8]) -> Action {
        let value = bytes::get(data) as u32;
        let mut inner = self.inner.lock();
        match offset {
            0x00 => inner.select = value as u8,
            0x10 => inner.set_register(value, &self.bus),
            0x40 => inner.end_of_interrupt(value as u8, &self.bus),
            _ => {}
        }
        Action::None
    }
}

impl SaveRestore for Ioapic {
    type State = IoapicState;
    const KIND: &'static str = "ioapic";
    const VERSION: u32 = 1;

    fn save(&self) -> IoapicState {
        let inner = self.inner.lock();
        IoapicState { id: inner.id, select: inner.select, table: inner.table, inputs: inner.inputs }
    }

    fn restore(&self, state: &IoapicState) -> Result<(), RestoreError> {
        if state.inputs >> PINS != 0 || state.table.iter().any(|e| e & !(WRITABLE | REMOTE_IRR) != 0) {
            return Err(RestoreError { kind: Self::KIND, reason: "reserved bits are set" });
        }
        let (id, select, table, inputs) = (state.id & 0xf, state.select, state.table, state.inputs);
        *self.inner.lock() = Inner { id, select, table, inputs };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
