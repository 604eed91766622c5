//! A vCPU's thread: run, wait, react.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cpu::x86::{cr0, rflags};
use cpu::{CpuFault, CpuIo, CpuState, EngineError, Signals, Vcpu, VcpuExit};
use device::Action;
use device::interrupt::LocalApic;
use parking_lot::Mutex;

use crate::control::Go;
use crate::machine::Shared;
use crate::{Outcome, Report};

/// A vCPU between the machine, which may look at it while it stands still, and its thread.
pub struct Slot {
    /// The engine's part. The thread holds the lock while it runs.
    pub vcpu: Mutex<Box<dyn Vcpu>>,
    /// Requests to it.
    pub signals: Arc<Signals>,
    /// Its local APIC.
    pub lapic: LocalApic,
    /// Exits to the machine so far.
    pub exits: AtomicU64,
}

impl Slot {
    /// Replaces the CPU state, and tells the APIC what it has to know of it.
    pub fn set_state(&self, vcpu: &mut dyn Vcpu, state: &CpuState) -> Result<(), EngineError> {
        vcpu.set_state(state)?;
        self.lapic.set_tsc_adjust(state.msrs.tsc_adjust);
        Ok(())
    }
}

/// The life of a vCPU thread.
pub fn thread(shared: &Shared, index: u32, slot: &Slot) {
    let runner = Runner { shared, index, slot, io: Io { shared, lapic: &slot.lapic } };
    while shared.meet() != Go::End {
        if let Err(outcome) = runner.until_kicked(&mut slot.vcpu.lock()) {
            shared.end(outcome);
        }
    }
    let (instructions, exits) = (slot.vcpu.lock().instructions(), slot.exits.load(Ordering::Relaxed));
    tracing::debug!(vcpu = index, instructions, exits, "the vcpu ends");
}

struct Runner<'a> {
    shared: &'a Shared,
    index: u32,
    slot: &'a Slot,
    io: Io<'a>,
}

impl Runner<'_> {
    /// Runs until the machine wants something that is not this CPU's affair alone.
    fn until_kicked(&self, vcpu: &mut Box<dyn Vcpu>) -> Result<(), Outcome> {
        let (signals, lapic) = (&*self.slot.signals, &self.slot.lapic);
        loop {
            // Cleared first: whatever is requested from here on sets it again.
            signals.clear(Signals::EXIT);
            if self.shared.is_called() {
                return Ok(());
            }
            self.init_and_startup(vcpu.as_mut())?;
            if lapic.waits_for_sipi() {
                signals.wait(Signals::EXIT, None);
                continue;
            }
            match self.run(vcpu) {
                Ok(VcpuExit::Kicked) => {}
                Ok(VcpuExit::Halt) => self.wait_for_interrupt(vcpu.as_ref()),
                Ok(VcpuExit::Limit) => self.reload(vcpu)?,
                Ok(VcpuExit::Shutdown) => {
                    let (state, count) = (vcpu.state(), vcpu.instructions());
                    let report = Report::triple_fault(self.index, state, &self.shared.pc.ram, count);
                    return Err(Outcome::TripleFault(Arc::new(report)));
                }
                Err(fault) => return Err(self.fault(vcpu.as_ref(), fault)),
            }
        }
    }

    fn run(&self, vcpu: &mut Box<dyn Vcpu>) -> Result<VcpuExit, CpuFault> {
        self.slot.exits.fetch_add(1, Ordering::Relaxed);
        match self.shared.reload_every() {
            None => vcpu.run(&self.io),
            Some(instructions) => vcpu.run_limited(&self.io, instructions),
        }
    }

    /// Takes the state out of the vCPU and puts it into a new one: what is not in it is lost. Neither may have come
    /// to look at its timers by itself.
    fn reload(&self, vcpu: &mut Box<dyn Vcpu>) -> Result<(), Outcome> {
        self.slot.lapic.poll();
        let state = vcpu.state();
        let fresh = self.shared.vm.create_vcpu(self.index, self.slot.signals.clone());
        let moved = fresh.and_then(|mut fresh| {
            fresh.set_state(&state)?;
            self.shared.count_retired(vcpu.instructions());
            *vcpu = fresh;
            Ok(())
        });
        moved.map_err(|e| self.fault(vcpu.as_ref(), engine_fault(&e)))
    }

    /// INIT and start-up messages of other CPUs (Intel SDM volume 3, 9.4).
    fn init_and_startup(&self, vcpu: &mut dyn Vcpu) -> Result<(), Outcome> {
        let lapic = &self.slot.lapic;
        let state = if lapic.take_init() {
            if self.index == 0 {
                // It would go on at the reset vector, where firmware would boot the machine anew.
                self.shared.act(Action::Reset);
                return Ok(());
            }
            Some(after_init(CpuState::reset(), &vcpu.state()))
        } else {
            None
        };
        let state = match lapic.take_sipi() {
            Some(vector) => Some(after_init(CpuState::startup(vector), &vcpu.state())),
            None => state,
        };
        match state {
            Some(state) => self.slot.set_state(vcpu, &state).map_err(|e| self.fault(vcpu, engine_fault(&e))),
            None => Ok(()),
        }
    }

    /// HLT: sleeps until something ends it.
    fn wait_for_interrupt(&self, vcpu: &dyn Vcpu) {
        let (signals, lapic) = (&*self.slot.signals, &self.slot.lapic);
        let mut mask = Signals::EXIT | Signals::INTR | Signals::NMI;
        if signals.load() & (Signals::INTR | Signals::NMI) != 0 {
            // It did not end the halt: either it came just now, or the CPU does not listen.
            let state = vcpu.state();
            if state.rflags & rflags::IF == 0 {
                mask &= !Signals::INTR;
            }
            if state.events.nmi_blocked {
                mask &= !Signals::NMI;
            }
        }
        loop {
            lapic.poll();
            if signals.load() & mask != 0 {
                return;
            }
            let clock = &self.shared.pc.clock;
            let timeout = lapic.next_deadline().map(|deadline| {
                let ns = clock.tsc_to_ns(deadline.saturating_sub(clock.tsc()));
                // Guests may ask for years; the host's clock cannot count that far.
                Duration::from_nanos(ns.min(60_000_000_000))
            });
            signals.wait(mask, timeout);
        }
    }

    fn fault(&self, vcpu: &dyn Vcpu, fault: CpuFault) -> Outcome {
        let report = Report::engine_fault(self.index, vcpu.state(), fault, vcpu.instructions());
        Outcome::EngineFault(Arc::new(report))
    }
}

fn engine_fault(error: &EngineError) -> CpuFault {
    CpuFault { reason: error.to_string(), rip: 0, bytes: Vec::new(), mode: "unknown" }
}

/// What INIT leaves alone (Intel SDM volume 3, table 10-1): MSRs, the extended state, CR0.CD and NW.
fn after_init(state: CpuState, before: &CpuState) -> CpuState {
    const KEPT: u64 = cr0::CD | cr0::NW;
    CpuState {
        cr0: state.cr0 & !KEPT | before.cr0 & KEPT,
        msrs: before.msrs.clone(),
        xsave: before.xsave.clone(),
        xcr0: before.xcr0,
        ..state
    }
}

/// The world as one vCPU sees it.
struct Io<'a> {
    shared: &'a Shared,
    lapic: &'a LocalApic,
}

impl CpuIo for Io<'_> {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        self.shared.pc.ports.read(port, data);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        self.shared.act(self.shared.pc.ports.write(port, data));
    }

    fn mmio_read(&self, addr: u64, data: &mut [u8]) {
        match self.lapic.mmio_offset(addr) {
            Some(offset) => self.lapic.mmio_read(offset, data),
            None => self.shared.pc.mmio.read(addr, data),
        }
    }

    fn mmio_write(&self, addr: u64, data: &[u8]) {
        match self.lapic.mmio_offset(addr) {
            Some(offset) => self.lapic.mmio_write(offset, data),
            None => self.shared.act(self.shared.pc.mmio.write(addr, data)),
        }
    }

    fn take_interrupt(&self) -> Option<u8> {
        self.lapic.take_interrupt()
    }

    fn task_priority(&self) -> u8 {
        self.lapic.task_priority()
    }

    fn set_task_priority(&self, priority: u8) {
        self.lapic.set_task_priority(priority);
    }

    fn apic_msr_read(&self, msr: u32) -> Option<u64> {
        self.lapic.msr_read(msr)
    }

    fn apic_msr_write(&self, msr: u32, value: u64) -> bool {
        self.lapic.msr_write(msr, value)
    }

    fn set_tsc_adjust(&self, adjust: u64) {
        self.lapic.set_tsc_adjust(adjust);
    }

    fn poll(&self) {
        self.lapic.poll();
    }
}
