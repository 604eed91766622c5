//! A vCPU whose local APIC is KVM's: HLT, start-up, IPIs, timers and priorities are the kernel's affair. What is left to do is
//! the 8259's interrupts and the I/O APIC's ends of interrupt, unless those are KVM's, too, and the state on its way from and to
//! the machine.

use std::cell::Cell;

use cpu::x86::rflags;
use cpu::{ApicState, CpuIo, CpuState, Irqchip};
use kvm_bindings::{
    KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED, kvm_mp_state, kvm_vcpu_events,
};
use kvm_ioctls::VcpuFd;

use super::KvmVcpu;
use crate::error::{Failure, failed};
use crate::state::{self, apic};

/// Whether the processor runs, sleeps or waits for its start-up. What arrived for it meanwhile takes effect.
pub fn activity(fd: &VcpuFd) -> Result<u32, Failure> {
    Ok(fd.get_mp_state().map_err(failed("KVM_GET_MP_STATE"))?.mp_state)
}

fn set_activity(fd: &VcpuFd, mp_state: u32) -> Result<(), Failure> {
    fd.set_mp_state(kvm_mp_state { mp_state }).map_err(failed("KVM_SET_MP_STATE"))
}

impl KvmVcpu {
    /// The rest of `give`.
    pub(super) fn give_activity(&mut self, new: &CpuState) -> Result<(), Failure> {
        set_activity(&self.fd, if new.events.halted { KVM_MP_STATE_HALTED } else { KVM_MP_STATE_RUNNABLE })?;
        self.kept.events.halted = false;
        self.look_at_lint0()
    }

    /// An interrupt of the 8259's can be taken now, which KVM tells at exits only.
    fn look_at_lint0(&mut self) -> Result<(), Failure> {
        if self.index == 0 {
            let regs = self.fd.get_regs().map_err(failed("KVM_GET_REGS"))?;
            let events = self.fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?;
            self.ready = regs.rflags & rflags::IF != 0
                && events.interrupt.shadow == 0
                && events.interrupt.injected == 0
                && apic::passes_external(&self.fd)?;
        }
        Ok(())
    }

    /// Has the CPU take an interrupt of the 8259's, for which it is ready. Not by KVM_INTERRUPT, which keeps the vector where
    /// nobody can ask for it.
    pub(super) fn inject_external(&self, vector: u8) -> Result<(), Failure> {
        let mut events = self.fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?;
        (events.interrupt.injected, events.interrupt.nr, events.interrupt.soft) = (1, vector, 0);
        events.flags = 0;
        self.fd.set_vcpu_events(&events).map_err(failed("KVM_SET_VCPU_EVENTS"))?;
        if activity(&self.fd)? == KVM_MP_STATE_HALTED {
            set_activity(&self.fd, KVM_MP_STATE_RUNNABLE)?;
        }
        Ok(())
    }

    /// Before the machine gets to see the vCPU: notes KVM's local APIC, whose timers run on.
    pub(super) fn stand(&mut self) -> Result<(), Failure> {
        if self.shared.has_apics() {
            self.standing = None;
            self.standing = Some(self.taken_apic()?);
        }
        Ok(())
    }

    /// The local APIC's state, and whether the processor waits for its start-up.
    pub(super) fn taken_apic(&mut self) -> Result<ApicState, Failure> {
        let waiting = [KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_SIPI_RECEIVED];
        let waits_for_sipi = waiting.contains(&activity(&self.fd)?);
        let adjust = self.kept.msrs.tsc_adjust;
        let state = apic::load(&self.fd, &self.shared.config.clock, self.index, self.ran_out, adjust)?;
        let mut state = ApicState { waits_for_sipi, ..state };
        let events = self.fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?;
        if let Some(vector) = has_taken(&events, &state) {
            let (word, bit) = (usize::from(vector >> 5), 1 << (vector & 31));
            state.isr[word] &= !bit;
            state.irr[word] |= bit;
        }
        if apic::has_run_out(&state) && !bit(&state.irr, state.lvt[0] as u8) {
            // Nobody tells whether it has interrupted: KVM does that at an entry. Twice is better than never.
            state.timer_expiry = Some(self.shared.config.clock.tsc());
        }
        let Some(then) = &self.standing else { return Ok(state) };
        // A timer that has run out since has not interrupted.
        let ApicState { timer_start, timer_expiry, initial_count, tsc_deadline, tsc_expiry, .. } = *then;
        Ok(ApicState { timer_start, timer_expiry, initial_count, tsc_deadline, tsc_expiry, ..state })
    }

    pub(super) fn give_apic(&mut self, new: &ApicState) -> Result<(), Failure> {
        self.standing = None;
        let mut events = self.fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"))?;
        if events.interrupt.injected != 0 {
            // It waits in the APIC again.
            (events.interrupt.injected, events.flags) = (0, 0);
            self.fd.set_vcpu_events(&events).map_err(failed("KVM_SET_VCPU_EVENTS"))?;
        }
        self.follow_clock()?;
        apic::store(&self.fd, &self.shared.config.clock, new)?;
        self.ran_out = if new.timer_expiry.is_none() { new.initial_count } else { 0 };
        if new.waits_for_sipi {
            set_activity(&self.fd, KVM_MP_STATE_INIT_RECEIVED)?;
        }
        self.look_at_lint0()
    }
}

/// The interrupt that KVM has taken from its local APIC, whose state this is, and not delivered: it may as well wait there.
pub fn has_taken(events: &kvm_vcpu_events, apic: &ApicState) -> Option<u8> {
    let taken = events.interrupt.injected != 0 && events.interrupt.soft == 0;
    Some(events.interrupt.nr).filter(|vector| taken && bit(&apic.isr, *vector))
}

fn bit(vectors: &[u32; 8], vector: u8) -> bool {
    vectors[usize::from(vector >> 5)] >> (vector & 31) & 1 != 0
}

/// What the stepper's instruction wanted, and cannot have.
const NO_LAPIC: &str = "an instruction that kvm does not know writes to the local APIC";
const NO_CHIPS: &str =
    "an instruction that kvm does not know reaches the I/O APIC or the 8259s, which kvm has";

/// Where those are.
fn is_chip_port(port: u16) -> bool {
    matches!(port, 0x20 | 0x21 | 0xa0 | 0xa1 | 0x4d0 | 0x4d1)
}
const IOAPIC: u64 = 0xfec0_0000;

/// The machine for the stepper, with KVM's local APIC.
pub struct SplitIo<'a> {
    io: &'a dyn CpuIo,
    fd: &'a VcpuFd,
    /// The register page is there, if it is.
    page: Option<u64>,
    /// The other controllers are KVM's, too.
    chips: bool,
    priority: Cell<u8>,
    refused: Cell<Option<&'static str>>,
}

impl<'a> SplitIo<'a> {
    /// Before a step.
    pub fn new(io: &'a dyn CpuIo, fd: &'a VcpuFd, irqchip: Irqchip) -> Result<Self, Failure> {
        let sregs = fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        let page = apic::page(sregs.apic_base);
        let (priority, refused) = (Cell::new(sregs.cr8 as u8), Cell::new(None));
        Ok(Self { io, fd, page, chips: irqchip == Irqchip::Kernel, priority, refused })
    }

    /// After it: CR8 is KVM's. What the instruction wanted and cannot have, if so.
    pub fn finish(&self) -> Result<Option<&'static str>, Failure> {
        let mut sregs = self.fd.get_sregs().map_err(failed("KVM_GET_SREGS"))?;
        let priority = u64::from(self.priority.get());
        if sregs.cr8 != priority {
            sregs.cr8 = priority;
            self.fd.set_sregs(&sregs).map_err(failed("KVM_SET_SREGS"))?;
        }
        Ok(self.refused.get())
    }

    fn look_for_chips(&self, is_theirs: bool) {
        if self.chips && is_theirs {
            self.refused.set(Some(NO_CHIPS));
        }
    }

    fn offset(&self, addr: u64) -> Option<usize> {
        self.page.filter(|page| addr & !0xfff == *page).map(|_| (addr & 0xfff) as usize)
    }
}

impl CpuIo for SplitIo<'_> {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        self.look_for_chips(is_chip_port(port));
        self.io.port_read(port, data);
    }
    fn port_write(&self, port: u16, data: &[u8]) {
        self.look_for_chips(is_chip_port(port));
        self.io.port_write(port, data);
    }

    fn mmio_read(&self, addr: u64, data: &mut [u8]) {
        self.look_for_chips(addr & !0xfff == IOAPIC);
        let Some(offset) = self.offset(addr) else { return self.io.mmio_read(addr, data) };
        let value = apic::register(self.fd, offset).unwrap_or(0).to_le_bytes();
        for (i, byte) in data.iter_mut().enumerate() {
            *byte = value.get((offset & 0xf) + i).copied().unwrap_or(0);
        }
    }

    fn mmio_write(&self, addr: u64, data: &[u8]) {
        self.look_for_chips(addr & !0xfff == IOAPIC);
        if self.offset(addr).is_none() {
            return self.io.mmio_write(addr, data);
        }
        self.refused.set(Some(NO_LAPIC));
    }

    fn take_interrupt(&self) -> Option<u8> {
        None
    }
    fn task_priority(&self) -> u8 {
        self.priority.get()
    }
    fn set_task_priority(&self, priority: u8) {
        self.priority.set(priority & 0xf);
    }
    fn apic_msr_read(&self, msr: u32) -> Option<u64> {
        state::msr(self.fd, msr).ok().flatten()
    }
    fn apic_msr_write(&self, msr: u32, value: u64) -> bool {
        state::try_msr(self.fd, msr, value).unwrap_or(false)
    }
    fn set_tsc_adjust(&self, adjust: u64) {
        self.io.set_tsc_adjust(adjust);
    }
    fn set_steal_time(&self, msr: u64) {
        self.io.set_steal_time(msr);
    }
    fn poll(&self) {
        self.io.poll();
    }
}
