//! The register page and the interrupt command register (Intel SDM volume 3, 12.4.1, 12.6.1).

use super::core::{Core, State, Vectors, esr, lvt};
use crate::bytes;
use crate::interrupt::{ApicBus, Delivery, Destination, Message};

/// Version 0x14, six local vectors, EOI-broadcast suppression.
const VERSION: u32 = 1 << 24 | (lvt::COUNT as u32 - 1) << 16 | 0x14;

/// Writable bits of the local vectors.
pub(super) const LVT_WRITABLE: [u32; lvt::COUNT] =
    [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
/// Writable bits of the spurious vector register: vector, enable, focus, EOI-broadcast suppression.
pub(super) const SVR_WRITABLE: u32 = 0x13ff;

/// Registers by offset / 16; the x2APIC MSRs are these from 0x800.
pub(super) mod reg {
    pub(in super::super) const ID: u32 = 0x02;
    pub(in super::super) const VERSION: u32 = 0x03;
    pub(in super::super) const TPR: u32 = 0x08;
    pub(in super::super) const APR: u32 = 0x09;
    pub(in super::super) const PPR: u32 = 0x0a;
    pub(in super::super) const EOI: u32 = 0x0b;
    pub(in super::super) const RRD: u32 = 0x0c;
    pub(in super::super) const LDR: u32 = 0x0d;
    pub(in super::super) const DFR: u32 = 0x0e;
    pub(in super::super) const SVR: u32 = 0x0f;
    pub(in super::super) const ISR: u32 = 0x10;
    pub(in super::super) const TMR: u32 = 0x18;
    pub(in super::super) const IRR: u32 = 0x20;
    pub(in super::super) const ESR: u32 = 0x28;
    pub(in super::super) const ICR_LOW: u32 = 0x30;
    pub(in super::super) const ICR_HIGH: u32 = 0x31;
    pub(in super::super) const LVT: u32 = 0x32;
    pub(in super::super) const INITIAL_COUNT: u32 = 0x38;
    pub(in super::super) const CURRENT_COUNT: u32 = 0x39;
    pub(in super::super) const DIVIDE: u32 = 0x3e;
    pub(in super::super) const SELF_IPI: u32 = 0x3f;
}

/// Which local vector a register is.
pub(super) fn lvt_index(register: u32) -> Option<usize> {
    let index = register.wrapping_sub(reg::LVT) as usize;
    (index < lvt::COUNT).then_some(index)
}

fn vectors(set: &Vectors, index: u32) -> u32 {
    set.0[index as usize & 7]
}

impl Core {
    /// A register that reads the same in both modes; `None` if there is none.
    pub(super) fn read_register(&self, state: &State, register: u32) -> Option<u32> {
        Some(match register {
            reg::VERSION => VERSION,
            reg::TPR => state.tpr.into(),
            reg::PPR => state.processor_priority().into(),
            reg::LDR => self.logical_id_of(state),
            reg::SVR => state.svr,
            reg::ISR..reg::TMR => vectors(&state.isr, register),
            reg::TMR..reg::IRR => vectors(&state.tmr, register),
            reg::IRR..reg::ESR => vectors(&state.irr, register),
            reg::ESR => state.esr,
            reg::INITIAL_COUNT => state.timer.initial,
            reg::CURRENT_COUNT => state.timer_count(&self.clock),
            reg::DIVIDE => state.timer.divide,
            _ => state.lvt[lvt_index(register)?],
        })
    }

    /// A write that means the same in both modes; false if there is no such register. The value has been
    /// checked (x2APIC) or not (xAPIC); reserved bits are dropped.
    pub(super) fn write_register(&self, state: &mut State, register: u32, value: u32) -> bool {
        match register {
            reg::TPR => state.tpr = value as u8,
            reg::SVR => {
                state.svr = value & SVR_WRITABLE;
                if !state.is_software_enabled() {
                    state.lvt.iter_mut().for_each(|entry| *entry |= lvt::MASKED);
                }
            }
            reg::ESR => state.esr = std::mem::take(&mut state.errors),
            reg::INITIAL_COUNT => state.set_initial_count(value, &self.clock),
            reg::DIVIDE => state.set_divide(value, &self.clock),
            _ => {
                let Some(index) = lvt_index(register) else { return false };
                let mut value = value & LVT_WRITABLE[index];
                if !state.is_software_enabled() {
                    value |= lvt::MASKED;
                }
                if index == lvt::TIMER {
                    state.set_timer_lvt(value, &self.clock);
                } else {
                    state.lvt[index] = value;
                }
            }
        }
        true
    }

    pub(super) fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        let (register, byte) = ((offset >> 4) as u32 & 0xff, offset as u32 & 0xf);
        let read = |state: &State| {
            Some(match register {
                reg::ID => self.id() << 24,
                reg::APR | reg::RRD => 0,
                reg::DFR => state.dfr,
                reg::ICR_LOW => state.icr as u32,
                reg::ICR_HIGH => (state.icr >> 32) as u32,
                reg::EOI | reg::SELF_IPI => return None,
                _ => return self.read_register(state, register),
            })
        };
        let value = match self.look(read) {
            Some(value) => value,
            None => {
                self.with(|state| state.error(esr::REGISTER));
                0
            }
        };
        bytes::put(data, u64::from(value).checked_shr(8 * byte).unwrap_or(0));
    }

    pub(super) fn mmio_write(&self, offset: u64, data: &[u8], bus: &ApicBus) {
        if offset & 0xf != 0 || data.len() < 4 {
            return;
        }
        let (register, value) = ((offset >> 4) as u32 & 0xff, bytes::get(data) as u32);
        match register {
            reg::EOI => self.signal_eoi(bus),
            reg::ICR_LOW => {
                let icr = self.with(|state| {
                    state.icr = state.icr & !0xffff_ffff | u64::from(value & 0x000c_cfff);
                    state.icr
                });
                self.send_ipi(icr, Destination::from_u8((icr >> 56) as u8, icr >> 11 & 1 != 0), bus);
            }
            _ => self.with(|state| match register {
                reg::LDR => state.ldr = value & 0xff00_0000,
                reg::DFR => state.dfr = value | 0x0fff_ffff,
                reg::ICR_HIGH => state.icr = state.icr & 0xffff_ffff | u64::from(value & 0xff00_0000) << 32,
                reg::ID | reg::APR | reg::RRD => {}
                _ => {
                    let read_only = matches!(register, reg::VERSION | reg::PPR | reg::CURRENT_COUNT)
                        || (reg::ISR..reg::ESR).contains(&register);
                    if !read_only && !self.write_register(state, register, value) {
                        state.error(esr::REGISTER);
                    }
                }
            }),
        }
    }

    pub(super) fn signal_eoi(&self, bus: &ApicBus) {
        if let Some(vector) = self.end_of_interrupt() {
            bus.broadcast_eoi(vector);
        }
    }

    /// Sends what the command register holds. This APIC's lock is free: targets are locked one at a time.
    pub(super) fn send_ipi(&self, icr: u64, destination: Destination, bus: &ApicBus) {
        let (vector, level) = (icr as u8, icr >> 15 & 1 != 0);
        let Some(delivery) = Delivery::decode(icr).filter(|d| *d != Delivery::ExtInt) else { return };
        if delivery == Delivery::Init && level && icr >> 14 & 1 == 0 {
            return; // INIT level de-assert: no processor since the Pentium listens
        }
        if matches!(delivery, Delivery::Fixed | Delivery::LowestPriority) && vector < 16 {
            self.with(|state| state.error(esr::SEND_VECTOR));
            return;
        }
        // IPIs are edges, whatever the trigger bit says.
        let message = Message { destination, delivery, vector, level: false };
        match icr >> 18 & 3 {
            0 => {
                bus.send(&message);
            }
            1 => {
                self.accept(&message);
            }
            shorthand => {
                for core in bus.cores() {
                    if shorthand == 2 || core.id() != self.id() {
                        core.accept(&message);
                    }
                }
            }
        }
    }
}
