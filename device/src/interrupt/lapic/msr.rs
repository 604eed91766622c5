//! IA32_APIC_BASE, IA32_TSC_DEADLINE and the x2APIC registers as MSRs (Intel SDM volume 3, 12.4.4, 12.12).

use ::cpu::x86::msr::{APIC_BASE, TSC_DEADLINE, X2APIC_FIRST};

use super::core::{Core, State, base};
use super::registers::{LVT_WRITABLE, SVR_WRITABLE, lvt_index, reg};
use crate::interrupt::{ApicBus, Delivery, Destination, Message};

/// Bits of the x2APIC ICR that must be zero; delivery status (12) is dropped.
const ICR_RESERVED: u64 = 0xfff3_2000;
/// Read-only bits of local vectors (delivery status, remote IRR), which may be written with anything.
const LVT_READ_ONLY: u32 = 1 << 12 | 1 << 14;

impl Core {
    pub(super) fn msr_read(&self, msr: u32) -> Option<u64> {
        self.look(|state| match msr {
            APIC_BASE => Some(state.apic_base),
            TSC_DEADLINE => Some(state.tsc_deadline()),
            _ if !state.is_x2apic() => None,
            _ => match msr.checked_sub(X2APIC_FIRST)? {
                reg::ID => Some(self.id().into()),
                reg::ICR_LOW => Some(state.icr),
                register => self.read_register(state, register).map(u64::from),
            },
        })
    }

    pub(super) fn msr_write(&self, msr: u32, value: u64, bus: &ApicBus) -> bool {
        match msr {
            APIC_BASE => return self.with(|state| self.set_apic_base(state, value)),
            TSC_DEADLINE => {
                self.with(|state| state.set_tsc_deadline(value, &self.clock));
                return true;
            }
            _ => {}
        }
        let Some(register) = msr.checked_sub(X2APIC_FIRST).filter(|_| self.is_x2apic()) else {
            return false;
        };
        match register {
            reg::ICR_LOW => {
                if value & ICR_RESERVED != 0 {
                    return false;
                }
                let icr = value & !(1 << 12);
                self.with(|state| state.icr = icr);
                self.send_ipi(icr, Destination::from_u32((icr >> 32) as u32, icr >> 11 & 1 != 0), bus);
                true
            }
            reg::EOI => {
                if value == 0 {
                    self.signal_eoi(bus);
                }
                value == 0
            }
            reg::SELF_IPI if value <= 0xff => {
                let destination = Destination::Physical(self.id());
                self.accept(&Message {
                    destination,
                    delivery: Delivery::Fixed,
                    vector: value as u8,
                    level: false,
                });
                true
            }
            _ => self.with(|state| {
                u32::try_from(value).is_ok_and(|value| {
                    value & reserved(register) == 0 && self.write_register(state, register, value)
                })
            }),
        }
    }

    /// Mode transitions (12.12.5): disabled -> xAPIC -> x2APIC -> disabled, and no other.
    fn set_apic_base(&self, state: &mut State, value: u64) -> bool {
        let mode = value & (base::ENABLE | base::X2APIC);
        let old = state.apic_base & (base::ENABLE | base::X2APIC);
        let both = base::ENABLE | base::X2APIC;
        let legal = match (old, mode) {
            (_, base::X2APIC) => false,
            (0, new) => new != both,
            (old, base::ENABLE) if old == both => false,
            _ => true,
        };
        if !legal || value & !(base::ADDRESS | base::BSP | both) != 0 {
            return false;
        }
        // Which processor boots is decided by the machine.
        let bsp = if self.is_bsp() { base::BSP } else { 0 };
        state.apic_base = value & (base::ADDRESS | both) | bsp;
        if mode == 0 && old != 0 {
            state.clear_registers();
        }
        if mode == both && old != both {
            state.icr &= 0xffff_ffff; // the destination field changes its meaning
        }
        true
    }
}

/// Bits of a register that raise #GP when set, in x2APIC mode; all ones where it cannot be written.
fn reserved(register: u32) -> u32 {
    match register {
        reg::TPR => !0xff,
        reg::SVR => !SVR_WRITABLE,
        reg::ESR => !0,
        reg::INITIAL_COUNT => 0,
        reg::DIVIDE => !0xb,
        _ => match lvt_index(register) {
            Some(index) => !(LVT_WRITABLE[index] | LVT_READ_ONLY),
            None => !0,
        },
    }
}
