//! Local APIC: Intel SDM volume 3, chapter 12 (xAPIC, x2APIC, TSC-deadline), version 0x14 with six local
//! vectors and EOI-broadcast suppression.
//!
//! NOT modelled: SMI (accepted and dropped), thermal and performance interrupts (their vectors are registers
//! only), focus processor, arbitration priority, writable APIC id, remote read, level-triggered LINT pins
//! (their edges count), and the `tsc_adjust` of [`set_tsc_adjust`](LocalApic::set_tsc_adjust) is told, not
//! known.

mod core;
mod msr;
mod registers;
mod save;
mod timer;

use std::sync::Arc;

use ::cpu::ApicState;

pub(super) use self::core::Core;
use super::ApicBus;
use crate::{Device, RestoreError, SaveRestore};

/// Frequency of the timer's input clock, before the divide register. Fixed, so that guests calibrate it once.
pub const APIC_TIMER_HZ: u64 = 1_000_000_000;

/// A vCPU's local APIC: what `cpu::CpuIo` and the vCPU's loop need of it. Clones are the same APIC.
///
/// It keeps `Signals::INTR` set exactly while [`take_interrupt`](Self::take_interrupt) would yield a vector,
/// sets `Signals::NMI` for NMIs, and `Signals::EXIT` when [`take_init`](Self::take_init) or
/// [`take_sipi`](Self::take_sipi) have something to say.
#[derive(Clone)]
pub struct LocalApic {
    core: Arc<Core>,
    bus: Arc<ApicBus>,
}

impl LocalApic {
    /// The local APIC of vCPU `index` on `bus`.
    pub fn of(bus: &Arc<ApicBus>, index: u32) -> Option<Self> {
        let core = bus.core(index as usize)?.clone();
        Some(Self { core, bus: bus.clone() })
    }

    /// APIC id, which is the vCPU's index.
    pub fn id(&self) -> u32 {
        self.core.id()
    }

    /// The CPU accepts an interrupt: its vector, now in service. `None` if there is none any more.
    pub fn take_interrupt(&self) -> Option<u8> {
        match self.core.take_interrupt() {
            core::Taken::None => None,
            core::Taken::Vector(vector) => Some(vector),
            core::Taken::External => self.bus.acknowledge_pic(),
        }
    }

    /// CR8.
    #[inline]
    pub fn task_priority(&self) -> u8 {
        self.core.task_priority() >> 4
    }

    /// MOV to CR8; only the low four bits count.
    pub fn set_task_priority(&self, priority: u8) {
        self.core.set_task_priority(priority << 4);
    }

    /// Offset in the register page of a guest-physical address, if this APIC answers there now (enabled, in
    /// xAPIC mode). One atomic load: the vCPU asks before it asks the memory bus.
    #[inline]
    pub fn mmio_offset(&self, addr: u64) -> Option<u64> {
        self.core.mmio_offset(addr)
    }

    /// Load from the register page; reads of other than the 32-bit registers give what the bytes hold.
    pub fn mmio_read(&self, offset: u64, data: &mut [u8]) {
        self.core.mmio_read(offset, data);
    }

    /// Store to the register page. Stores that do not cover a whole register at its start are dropped.
    pub fn mmio_write(&self, offset: u64, data: &[u8]) {
        self.core.mmio_write(offset, data, &self.bus);
    }

    /// RDMSR of IA32_APIC_BASE, IA32_TSC_DEADLINE or 0x800-0x8ff; `None` raises #GP.
    pub fn msr_read(&self, msr: u32) -> Option<u64> {
        self.core.msr_read(msr)
    }

    /// WRMSR of the same; false raises #GP.
    pub fn msr_write(&self, msr: u32, value: u64) -> bool {
        self.core.msr_write(msr, value, &self.bus)
    }

    /// Fires the timer if it is due; cheap if not.
    #[inline]
    pub fn poll(&self) {
        self.core.poll();
    }

    /// When the timer is due, in ticks of the machine clock; a halted vCPU sleeps until then.
    #[inline]
    pub fn next_deadline(&self) -> Option<u64> {
        self.core.next_deadline()
    }

    /// Difference between this vCPU's TSC and the machine clock's (IA32_TSC_ADJUST), for the TSC-deadline
    /// timer. Wrapping ticks.
    pub fn set_tsc_adjust(&self, adjust: u64) {
        self.core.set_tsc_adjust(adjust);
    }

    /// True if an INIT arrived; the APIC has done its part of it. The machine gives the vCPU its INIT state;
    /// a processor that [`waits_for_sipi`](Self::waits_for_sipi) stays stopped until [`take_sipi`](Self::take_sipi).
    pub fn take_init(&self) -> bool {
        self.core.take_init()
    }

    /// The vector of a start-up message that this processor waited for.
    pub fn take_sipi(&self) -> Option<u8> {
        self.core.take_sipi()
    }

    /// True for an application processor after power-on or INIT, until [`take_sipi`](Self::take_sipi).
    pub fn waits_for_sipi(&self) -> bool {
        self.core.waits_for_sipi()
    }

    /// What a BIOS does before it starts a system: the APIC is on, LINT0 passes the 8259's interrupts, LINT1
    /// the NMI. For the boot processor when no firmware runs.
    pub fn set_virtual_wire(&self) {
        self.core.set_virtual_wire();
    }
}

impl Device for LocalApic {
    fn name(&self) -> &'static str {
        "lapic"
    }

    fn reset(&self) {
        self.core.reset();
    }
}

impl SaveRestore for LocalApic {
    type State = ApicState;
    const KIND: &'static str = "lapic";
    const VERSION: u32 = 1;

    fn save(&self) -> ApicState {
        self.core.save()
    }

    fn restore(&self, state: &ApicState) -> Result<(), RestoreError> {
        self.core.restore(state)
    }
}

#[cfg(test)]
mod tests;
