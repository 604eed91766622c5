//! Saved state of a local APIC.

use cpu::Signals;
use serde::{Deserialize, Serialize};

use super::core::{Core, Vectors, base, lvt};
use super::registers::{LVT_WRITABLE, SVR_WRITABLE};
use super::timer::Timer;
use crate::{RestoreError, SaveRestore};

/// Saved state of [`LocalApic`](super::LocalApic). Times are ticks of the machine clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)] // registers, under the manual's names
pub struct LapicState {
    pub id: u32,
    pub apic_base: u64,
    pub tpr: u8,
    pub ldr: u32,
    pub dfr: u32,
    pub svr: u32,
    pub errors: u32,
    pub esr: u32,
    pub icr: u64,
    /// Timer, thermal, performance, LINT0, LINT1, error.
    pub lvt: [u32; 6],
    pub irr: [u32; 8],
    pub isr: [u32; 8],
    pub tmr: [u32; 8],
    pub initial_count: u32,
    pub divide: u32,
    pub timer_start: u64,
    pub timer_expiry: Option<u64>,
    pub tsc_deadline: u64,
    pub tsc_expiry: Option<u64>,
    pub tsc_adjust: u64,
    pub lint0: bool,
    pub external: bool,
    pub nmi: bool,
    pub init: bool,
    pub sipi: Option<u8>,
    pub waits_for_sipi: bool,
}

impl Core {
    pub(super) fn save(&self) -> LapicState {
        self.look(|state| LapicState {
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

    pub(super) fn restore(&self, saved: &LapicState) -> Result<(), RestoreError> {
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
