//! Saved state of a local APIC.

use cpu::{ApicState, Signals};

use super::core::{Core, State, Vectors, base, lvt};
use super::registers::{LVT_WRITABLE, SVR_WRITABLE};
use super::timer::Timer;
use crate::{RestoreError, SaveRestore};

impl Core {
    pub(in crate::interrupt) fn save(&self) -> ApicState {
        self.look(|state| ApicState {
            id: self.id(),
            apic_base: state.apic_base,
            tpr: state.tpr,
            ldr: state.ldr,
            dfr: state.dfr,
            svr: state.svr,
            errors: state.errors,
            esr: state.esr,
            icr: state.icr,
            lvt: state.lvt,
            irr: state.irr.0,
            isr: state.isr.0,
            tmr: state.tmr.0,
            initial_count: state.timer.initial,
            divide: state.timer.divide,
            timer_start: state.timer.start,
            timer_expiry: state.timer.expiry,
            tsc_deadline: state.timer.tsc_deadline,
            tsc_expiry: state.timer.tsc_expiry,
            tsc_adjust: state.tsc_adjust,
            lint0: state.lint0,
            external: state.external,
            nmi: self.nmi_pending(),
            init: state.init,
            sipi: state.sipi,
            waits_for_sipi: state.waits_for_sipi,
        })
    }

    /// An engine has the registers from now on. What is left is an APIC that is off: LINT0 is the CPU's INTR pin.
    pub(in crate::interrupt) fn lend(&self) {
        self.with(|state| {
            let (lint0, tsc_adjust) = (state.lint0, state.tsc_adjust);
            *state = State {
                lint0,
                tsc_adjust,
                apic_base: 0,
                waits_for_sipi: false,
                ..State::power_on(self.id())
            };
        });
    }

    /// The engine gives them back.
    pub(in crate::interrupt) fn give_back(&self, given: &ApicState) -> Result<(), RestoreError> {
        let (lint0, tsc_adjust) = self.look(|state| (state.lint0, state.tsc_adjust));
        self.restore(&ApicState { lint0, tsc_adjust, ..given.clone() })
    }

    pub(super) fn restore(&self, saved: &ApicState) -> Result<(), RestoreError> {
        let refuse = |reason| Err(RestoreError { kind: super::LocalApic::KIND, reason });
        if saved.id != self.id() {
            return refuse("it belongs to another processor");
        }
        let both = base::ENABLE | base::X2APIC;
        if saved.apic_base & both == base::X2APIC
            || saved.apic_base & !(base::ADDRESS | base::BSP | both) != 0
        {
            return refuse("no such mode in IA32_APIC_BASE");
        }
        let reserved = saved.lvt.iter().zip(LVT_WRITABLE).any(|(entry, writable)| entry & !writable != 0);
        if reserved || saved.svr & !SVR_WRITABLE != 0 || saved.divide & !0xb != 0 {
            return refuse("reserved bits are set");
        }
        if saved.irr[0] & 0xffff != 0 || saved.isr[0] & 0xffff != 0 {
            return refuse("a vector below 16 is pending");
        }
        self.with(|state| {
            state.apic_base = saved.apic_base & !base::BSP | if self.is_bsp() { base::BSP } else { 0 };
            (state.tpr, state.ldr, state.dfr, state.svr) = (saved.tpr, saved.ldr, saved.dfr, saved.svr);
            (state.errors, state.esr, state.icr, state.lvt) = (saved.errors, saved.esr, saved.icr, saved.lvt);
            (state.irr, state.isr, state.tmr) = (Vectors(saved.irr), Vectors(saved.isr), Vectors(saved.tmr));
            state.timer = Timer {
                initial: saved.initial_count,
                divide: saved.divide,
                start: saved.timer_start,
                expiry: saved.timer_expiry,
                tsc_deadline: saved.tsc_deadline,
                tsc_expiry: saved.tsc_expiry,
            };
            (state.tsc_adjust, state.lint0, state.external) = (saved.tsc_adjust, saved.lint0, saved.external);
            (state.init, state.sipi, state.waits_for_sipi) = (saved.init, saved.sipi, saved.waits_for_sipi);
        });
        if saved.nmi {
            self.set_signals(Signals::NMI);
        }
        if saved.init || saved.sipi.is_some() {
            self.set_signals(Signals::EXIT);
        }
        Ok(())
    }
}

const _: () = assert!(lvt::COUNT == 6, "the saved table has six entries");
