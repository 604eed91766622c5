//! A vCPU: into the guest, and what to do when it comes out.

mod exits;
mod split;

use std::sync::Arc;

use cpu::x86::{msr, rflags};
use cpu::{ApicState, CpuFault, CpuIo, CpuState, EngineError, Signals, Vcpu, VcpuExit};
use kvm_bindings::{KVM_MP_STATE_HALTED, KVM_VCPUEVENT_VALID_NMI_PENDING};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno::Error as Errno;

use crate::engine::Shared;
use crate::error::{Failure, failed};
use crate::helper::{Stepper, Stretch};
use crate::kick::{Alarm, Inside, Kick};
use crate::state::{self, Image};
use crate::vcpu::split::SplitIo;
use crate::{cpuid, modes, raw};

/// Another engine in place of a vCPU would need its local APIC.
const NO_STRETCH: &str = "this kvm has no 32-bit paging, and other engines cannot help while it has the local APICs: take --irqchip userspace";

/// A vCPU of the engine on KVM.
pub struct KvmVcpu {
    kick: Kick,
    fd: VcpuFd,
    shared: Arc<Shared>,
    index: u32,
    signals: Arc<Signals>,
    alarm: Alarm,
    /// What KVM does not keep: registers that it refused, IA32_TSC_ADJUST, HLT. The rest is old.
    kept: CpuState,
    /// TSC offset that KVM was given.
    offset: Option<u64>,
    /// Another engine runs in its place.
    stretch: Option<Stretch>,
    stepper: Stepper,
    /// Initial count of a local timer that had run out when KVM got it.
    ran_out: u32,
    /// KVM's local APIC as it was when the guest was left for the machine.
    standing: Option<ApicState>,
    /// The last exit is completed by the next entry.
    incomplete: bool,
    /// An interrupt could be taken when the guest was left.
    ready: bool,
    /// KVM was given an NMI that it may not have delivered yet.
    has_nmi: bool,
    counters: Counters,
}

/// How often guest code was left, and why.
#[derive(Debug, Default)]
struct Counters {
    ports: u64,
    mmio: u64,
    msrs: u64,
    halts: u64,
    interrupts: u64,
    windows: u64,
    kicks: u64,
    /// Instructions that KVM could not execute.
    emulated: u64,
    /// Stretches in modes that KVM refuses.
    stretches: u64,
}

/// What comes after an exit.
enum Next {
    /// The guest again.
    Enter,
    /// The machine.
    Leave(VcpuExit),
}

type Outcome = Result<Next, CpuFault>;

impl KvmVcpu {
    /// vCPU `index` in the power-on state.
    pub fn new(shared: &Arc<Shared>, index: u32, signals: Arc<Signals>) -> Result<Self, Failure> {
        let fd = create(shared, index)?;
        let given = cpuid::leaves(&shared.config, index, &shared.supported)?;
        fd.set_cpuid2(&given).map_err(failed("KVM_SET_CPUID2"))?;
        if index == 0 && tracing::enabled!(tracing::Level::DEBUG) {
            let taken =
                fd.get_cpuid2(kvm_bindings::KVM_MAX_CPUID_ENTRIES).map_err(failed("KVM_GET_CPUID2"))?;
            tracing::debug!("cpuid leaves that kvm has changed: {:#?}", cpuid::differences(&given, &taken));
        }
        let mut this = Self {
            kick: Kick::new(signals.clone()),
            fd,
            shared: shared.clone(),
            index,
            signals,
            alarm: Alarm::new(shared.config.clock.clone()),
            kept: CpuState::reset(),
            offset: None,
            stretch: None,
            stepper: Stepper::default(),
            ran_out: 0,
            standing: None,
            incomplete: false,
            ready: false,
            has_nmi: false,
            counters: Counters::default(),
        };
        let reset = this.kept.clone();
        this.give(&reset)?;
        Ok(this)
    }

    /// KVM's vCPU is in `state` from now on.
    fn give(&mut self, new: &CpuState) -> Result<(), Failure> {
        let mut image = Image::new(&self.shared.vm)?;
        state::store(&self.fd, &mut image, new)?;
        self.kept.clone_from(new);
        self.ready = new.rflags & rflags::IF != 0 && !new.events.interrupt_shadow;
        self.incomplete = false;
        self.has_nmi = false;
        self.store_tsc_adjust()?;
        self.follow_clock()?;
        if self.shared.has_apics() { self.give_activity(new) } else { Ok(()) }
    }

    /// The state that KVM's vCPU is in.
    fn taken(&self) -> Result<CpuState, Failure> {
        let mut state = self.kept.clone();
        if self.shared.has_apics() {
            // First: a start-up that has arrived changes the registers.
            state.events.halted = split::activity(&self.fd)? == KVM_MP_STATE_HALTED;
        }
        state::load(&self.fd, &mut Image::new(&self.shared.vm)?, &mut state)?;
        Ok(state)
    }

    /// What the guest reads; KVM does not act upon it.
    fn store_tsc_adjust(&self) -> Result<(), Failure> {
        state::set_msr(&self.fd, msr::TSC_ADJUST, self.kept.msrs.tsc_adjust)
    }

    /// The guest's TSC is the machine clock's plus IA32_TSC_ADJUST. Where KVM cannot shift it, the clock follows the host:
    /// timers have to agree with what the guest reads.
    fn follow_clock(&mut self) -> Result<(), Failure> {
        let clock = &self.shared.config.clock;
        let offset = clock.offset().wrapping_add(self.kept.msrs.tsc_adjust);
        if self.offset == Some(offset) {
            return Ok(());
        }
        raw::set_tsc_offset(&self.fd, offset)?;
        if self.offset.is_none() && offset != 0 {
            let seen = state::msr(&self.fd, msr::TSC)?.unwrap_or(0);
            let wanted = clock.tsc().wrapping_add(self.kept.msrs.tsc_adjust);
            if seen.abs_diff(wanted) > seen.abs_diff(wanted.wrapping_sub(offset)) {
                tracing::debug!("this kvm cannot shift the guest's TSC: guest time begins with the host's");
                clock.follow_host();
            }
        }
        self.offset = Some(offset);
        Ok(())
    }

    /// Runs on KVM until the machine is needed, or another engine.
    fn run_here(&mut self, io: &dyn CpuIo) -> Result<VcpuExit, CpuFault> {
        self.standing = None;
        self.follow_clock().map_err(|e| self.fault(e.to_string()))?;
        let inside = self.kick.inside(&mut self.fd);
        self.look_at_apic(io, &inside);
        loop {
            inside.arm();
            if let Some(exit) = self.before_entry(io, &inside)? {
                return Ok(exit);
            }
            match self.enter(io, &inside)? {
                Next::Enter => {}
                Next::Leave(exit) => return Ok(exit),
            }
        }
    }

    /// Requests of the machine, timers, interrupts.
    #[inline]
    fn before_entry(&mut self, io: &dyn CpuIo, inside: &Inside) -> Result<Option<VcpuExit>, CpuFault> {
        if self.alarm.is_due() {
            io.poll();
            self.look_at_apic(io, inside);
        }
        let signals = self.signals.load();
        if signals == 0 && !self.has_nmi && !self.kept.events.halted {
            self.fd.get_kvm_run().request_interrupt_window = 0;
            return Ok(None);
        }
        self.look_at_signals(io, inside, signals)
    }

    #[inline(never)]
    fn look_at_signals(
        &mut self,
        io: &dyn CpuIo,
        inside: &Inside,
        mut signals: u32,
    ) -> Result<Option<VcpuExit>, CpuFault> {
        if signals & (Signals::POLL | Signals::SYNC) != 0 {
            self.signals.clear(Signals::POLL | Signals::SYNC);
            io.poll();
            self.look_at_apic(io, inside);
            signals = self.signals.load();
        }
        if signals & Signals::EXIT != 0 {
            if self.incomplete {
                inside.only_complete();
                return Ok(None);
            }
            self.stand().map_err(|e| self.fault(e.to_string()))?;
            self.settle(io)?;
            return Ok(Some(VcpuExit::Kicked));
        }
        if signals & Signals::NMI != 0 && self.signals.clear(Signals::NMI) {
            self.fd.nmi().map_err(failed("KVM_NMI")).map_err(|e| self.fault(e.to_string()))?;
            self.has_nmi = true;
        }
        let mut waits = false;
        if signals & Signals::INTR != 0 {
            waits = !self.ready;
            if self.ready
                && let Some(vector) = io.take_interrupt()
            {
                let taken = if self.shared.has_apics() {
                    self.inject_external(vector)
                } else {
                    raw::interrupt(&self.fd, vector)
                };
                taken.map_err(|e| self.fault(e.to_string()))?;
                self.counters.interrupts += 1;
                self.kept.events.halted = false;
                self.ready = false;
                waits = self.signals.load() & Signals::INTR != 0;
            }
        }
        if self.has_nmi {
            // One that KVM still has ends a halt, unless the CPU does not listen.
            let events = self.fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"));
            let nmi = events.map_err(|e| self.fault(e.to_string()))?.nmi;
            self.has_nmi = nmi.pending != 0;
            self.kept.events.halted &= !self.has_nmi || nmi.masked != 0;
        }
        if self.kept.events.halted {
            return Ok(Some(VcpuExit::Halt));
        }
        self.fd.get_kvm_run().request_interrupt_window = u8::from(waits);
        Ok(None)
    }

    /// The local APIC, if it is not KVM's, may have changed: its task priority, which KVM has in CR8, and its timer.
    fn look_at_apic(&mut self, io: &dyn CpuIo, inside: &Inside) {
        if self.shared.has_apics() {
            return;
        }
        self.fd.get_kvm_run().cr8 = io.task_priority().into();
        self.alarm.set(io.deadline(), inside.id);
    }

    /// Before the machine gets to see the vCPU: what KVM has accepted and not delivered is no part of a state. An
    /// interrupt is delivered by the stepper, an NMI is pending again; a fault comes again with its instruction.
    fn settle(&mut self, io: &dyn CpuIo) -> Result<(), CpuFault> {
        let events = self.fd.get_vcpu_events().map_err(failed("KVM_GET_VCPU_EVENTS"));
        let mut events = events.map_err(|e| self.fault(e.to_string()))?;
        if events.nmi.pending != 0 || events.nmi.injected != 0 {
            // An NMI in delivery has blocked others already.
            events.nmi.masked &= u8::from(events.nmi.injected == 0);
            (events.nmi.pending, events.nmi.injected) = (0, 0);
            events.flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
            let set = self.fd.set_vcpu_events(&events).map_err(failed("KVM_SET_VCPU_EVENTS"));
            set.map_err(|e| self.fault(e.to_string()))?;
            self.signals.set(Signals::NMI);
        }
        let kept = self.standing.as_ref().is_some_and(|apic| split::has_taken(&events, apic).is_some());
        if events.interrupt.injected != 0 && events.interrupt.soft == 0 && !kept {
            self.step(io, Some(events.interrupt.nr))?;
        }
        Ok(())
    }

    /// Has the stepper execute one instruction.
    fn step(&mut self, io: &dyn CpuIo, interrupt: Option<u8>) -> Outcome {
        let mut state = self.taken().map_err(|e| self.fault(e.to_string()))?;
        let outcome = if self.shared.has_apics() {
            let io =
                SplitIo::new(io, &self.fd, self.shared.irqchip).map_err(|e| self.fault(e.to_string()))?;
            let outcome = self.stepper.step(&self.shared, self.index, &mut state, interrupt, &io);
            if let Some(reason) = io.finish().map_err(|e| self.fault(e.to_string()))? {
                return Err(self.fault(reason.to_owned()));
            }
            outcome
        } else {
            self.stepper.step(&self.shared, self.index, &mut state, interrupt, io)
        };
        self.give(&state).map_err(|e| self.fault(e.to_string()))?;
        self.kept.msrs = state.msrs;
        match outcome? {
            VcpuExit::Shutdown => Ok(Next::Leave(VcpuExit::Shutdown)),
            _ => Ok(Next::Enter),
        }
    }

    /// Runs on another engine until the machine is needed or the mode was left.
    fn run_elsewhere(&mut self, io: &dyn CpuIo) -> Result<VcpuExit, CpuFault> {
        let Some(stretch) = &mut self.stretch else { return Ok(VcpuExit::Kicked) };
        let exit = stretch.run(io)?;
        let state = stretch.state();
        if !modes::refuse(&state, || self.shared.modes()) {
            self.stretch = None;
            self.kick.rehang();
            self.give(&state).map_err(|e| self.fault(e.to_string()))?;
        }
        Ok(exit)
    }

    fn fault(&self, reason: String) -> CpuFault {
        let rip = self.fd.get_regs().map_or(0, |regs| regs.rip);
        CpuFault { reason, rip, bytes: Vec::new(), mode: "kvm" }
    }
}

/// A signal may interrupt the making of a vCPU.
fn create(shared: &Shared, index: u32) -> Result<VcpuFd, Failure> {
    loop {
        match shared.vm.create_vcpu(index.into()) {
            Err(error) if error == Errno::new(libc::EINTR) => {}
            other => return other.map_err(failed("KVM_CREATE_VCPU")),
        }
    }
}

impl Vcpu for KvmVcpu {
    fn run(&mut self, io: &dyn CpuIo) -> Result<VcpuExit, CpuFault> {
        if self.stretch.is_some() { self.run_elsewhere(io) } else { self.run_here(io) }
    }

    fn run_limited(&mut self, io: &dyn CpuIo, _: u64) -> Result<VcpuExit, CpuFault> {
        self.run(io)
    }

    fn state(&self) -> CpuState {
        if let Some(stretch) = &self.stretch {
            return stretch.state();
        }
        self.taken().unwrap_or_else(|failure| {
            tracing::error!(vcpu = self.index, "the state is not to be had: {failure}");
            self.kept.clone()
        })
    }

    fn set_state(&mut self, state: &CpuState) -> Result<(), EngineError> {
        let bad = |e: Failure| EngineError::BadState(e.to_string());
        if state.xsave.len() != cpu::XSAVE_LEN {
            return Err(EngineError::BadState("the xsave image has the wrong length".into()));
        }
        if modes::refuse(state, || self.shared.modes()) {
            if self.shared.has_apics() {
                return Err(EngineError::BadState(NO_STRETCH.to_owned()));
            }
            self.counters.stretches += 1;
            self.stretch = Some(Stretch::new(&self.shared, self.index, self.signals.clone(), state)?);
            return Ok(());
        }
        if self.stretch.take().is_some() {
            self.kick.rehang();
        }
        self.give(state).map_err(bad)
    }

    fn apic(&mut self) -> Result<ApicState, EngineError> {
        self.taken_apic().map_err(|e| EngineError::BadState(e.to_string()))
    }

    fn set_apic(&mut self, state: &ApicState) -> Result<(), EngineError> {
        self.give_apic(state).map_err(|e| EngineError::BadState(e.to_string()))
    }

    fn sleeps(&self) -> bool {
        self.shared.has_apics()
            && split::activity(&self.fd).is_ok_and(|activity| activity == KVM_MP_STATE_HALTED)
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let Counters { ports, mmio, msrs, halts, interrupts, windows, kicks, emulated, stretches } =
            self.counters;
        vec![
            ("ports", ports),
            ("mmio", mmio),
            ("msrs", msrs),
            ("halts", halts),
            ("interrupts", interrupts),
            ("windows", windows),
            ("kicks", kicks),
            ("emulated", emulated),
            ("stretches", stretches),
        ]
    }
}
