//! A vCPU's thread: run, wait, react.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cpu::x86::{cr0, rflags};
use cpu::{CpuFault, CpuIo, CpuState, EngineError, Hypercall, Signals, Vcpu, VcpuExit};
use device::Action;
use device::interrupt::LocalApic;
use jail::Kind;
use parking_lot::{Condvar, Mutex};

use crate::control::Go;
use crate::machine::Shared;
use crate::stolen::Stolen;
use crate::{Outcome, Report};

/// A vCPU between the machine, which may look at it while it stands still, and its thread.
pub struct Slot {
    /// The engine's part. The thread holds the lock while it runs.
    pub vcpu: Mutex<Box<dyn Vcpu>>,
    /// Requests to it.
    pub signals: Arc<Signals>,
    /// Its local APIC.
    pub lapic: LocalApic,
    /// What the guest has in the MSR of its lost time.
    pub steal_time: AtomicU64,
    /// Why guest code was left so far.
    pub exits: Exits,
    /// What the engine counted when it was last asked.
    pub counted: Mutex<EngineCounters>,
    /// Tells of a new answer.
    pub answered: Condvar,
}

/// What an engine counts.
#[derive(Default)]
pub struct EngineCounters {
    /// Somebody waits for an answer.
    pub asked: bool,
    /// The last one.
    pub values: Vec<(&'static str, u64)>,
}

/// Reasons for leaving guest code.
#[derive(Default)]
pub struct Exits {
    halts: AtomicU64,
    kicks: AtomicU64,
    limits: AtomicU64,
    ports: AtomicU64,
    registers: AtomicU64,
    hypercalls: AtomicU64,
}

impl Exits {
    /// How often for which.
    pub fn counts(&self) -> [(&'static str, u64); 6] {
        let Self { halts, kicks, limits, ports, registers, hypercalls } = self;
        let counters = [
            ("halt", halts),
            ("kick", kicks),
            ("limit", limits),
            ("port", ports),
            ("mmio", registers),
            ("hypercall", hypercalls),
        ];
        counters.map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Slot {
    /// A vCPU that is about to begin.
    pub fn new(vcpu: Box<dyn Vcpu>, signals: Arc<Signals>, lapic: LocalApic) -> Self {
        let (steal_time, exits, counted, answered) = Default::default();
        Self { vcpu: Mutex::new(vcpu), signals, lapic, steal_time, exits, counted, answered }
    }

    /// What the engine counts, as new as it is to be had soon.
    pub fn engine_counters(&self, patience: Duration) -> Vec<(&'static str, u64)> {
        if let Some(vcpu) = self.vcpu.try_lock() {
            return vcpu.counters();
        }
        let mut counted = self.counted.lock();
        counted.asked = true;
        self.signals.set(Signals::EXIT);
        self.answered.wait_while_for(&mut counted, |counted| counted.asked, patience);
        counted.values.clone()
    }

    fn answer(&self, vcpu: &dyn Vcpu) {
        let mut counted = self.counted.lock();
        if std::mem::take(&mut counted.asked) {
            counted.values = vcpu.counters();
            self.answered.notify_all();
        }
    }

    /// Replaces the CPU state, and tells others what they have to know of it.
    pub fn set_state(&self, vcpu: &mut dyn Vcpu, state: &CpuState) -> Result<(), EngineError> {
        vcpu.set_state(state)?;
        self.lapic.set_tsc_adjust(state.msrs.tsc_adjust);
        self.steal_time.store(state.msrs.kvm_steal_time, Ordering::Relaxed);
        Ok(())
    }
}

/// The life of a vCPU thread.
pub fn thread(shared: &Shared, index: u32, slot: &Slot) {
    let stolen = Stolen::new(&shared.pc.ram, &shared.pc.clock, &slot.steal_time);
    let io = Io { shared, index, lapic: &slot.lapic, exits: &slot.exits, stolen };
    let runner = Runner { shared, index, slot, io };
    shared.governor.enter();
    let name = shared.engine.lock().name;
    let direct = name == "dbt" && shared.spec.direct;
    if direct {
        shared.engine.lock().vm.enter_thread();
        shared.governor.enter_helpers();
    }
    jail::narrow(match name {
        "kvm" => Kind::KvmVcpu,
        _ if direct => Kind::DirectVcpu,
        _ => Kind::Vcpu,
    });
    tracing::debug!(vcpu = index, "the vcpu begins");
    while shared.meet() != Go::End {
        shared.lend_apics();
        let mut vcpu = slot.vcpu.lock();
        if let Err(outcome) = runner.until_kicked(&mut vcpu) {
            shared.end(outcome);
        }
        vcpu.rest();
    }
    let (instructions, exits) = (slot.vcpu.lock().instructions(), slot.exits.counts());
    tracing::debug!(vcpu = index, instructions, ?exits, "the vcpu ends");
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
        let mut asleep = false;
        loop {
            // Cleared first: whatever is requested from here on sets it again.
            signals.clear(Signals::EXIT);
            self.slot.answer(vcpu.as_ref());
            if self.shared.governor.holds() {
                self.stand_back(vcpu.as_ref(), asleep || vcpu.sleeps());
            }
            asleep = false;
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
                Ok(VcpuExit::Halt) => {
                    self.wait_for_interrupt(vcpu.as_ref());
                    asleep = true;
                }
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

    /// Waits while the machine has used up its time and nobody calls. A CPU loses that time, unless it sleeps, and then from the
    /// moment on at which something would wake it.
    fn stand_back(&self, vcpu: &dyn Vcpu, asleep: bool) {
        let signals = &*self.slot.signals;
        let (mut since, mut mask) = (None, Signals::EXIT | Signals::INTR | Signals::NMI);
        while self.shared.governor.holds() && !self.shared.is_called() {
            self.slot.lapic.poll();
            if since.is_none() && (!asleep || signals.load() & mask & !Signals::EXIT != 0) {
                (since, mask) = (Some(Instant::now()), Signals::EXIT);
            }
            signals.wait(mask, since.is_none().then(|| self.until_deadline()).flatten());
            signals.clear(Signals::EXIT);
            self.slot.answer(vcpu);
        }
        if let Some(since) = since {
            self.io.stolen.waited(since.elapsed());
        }
    }

    /// When the local APIC's timer is due; `None` if it does not run.
    fn until_deadline(&self) -> Option<Duration> {
        let clock = &self.shared.pc.clock;
        self.slot.lapic.next_deadline().map(|deadline| {
            // Guests may ask for years; the host's clock cannot count that far.
            Duration::from_nanos(clock.ns_until(deadline).min(60_000_000_000))
        })
    }

    fn run(&self, vcpu: &mut Box<dyn Vcpu>) -> Result<VcpuExit, CpuFault> {
        self.io.stolen.tell();
        let exit = match self.shared.reload_every() {
            None => vcpu.run(&self.io),
            Some(instructions) => vcpu.run_limited(&self.io, instructions),
        };
        match exit {
            Ok(VcpuExit::Halt) => count(&self.slot.exits.halts),
            Ok(VcpuExit::Kicked) => count(&self.slot.exits.kicks),
            Ok(VcpuExit::Limit) => count(&self.slot.exits.limits),
            Ok(VcpuExit::Shutdown) | Err(_) => {}
        }
        exit
    }

    /// Takes the state out of the vCPU and puts it into a new one: what is not in it is lost. Neither may have come
    /// to look at its timers by itself.
    fn reload(&self, vcpu: &mut Box<dyn Vcpu>) -> Result<(), Outcome> {
        self.slot.lapic.poll();
        let state = vcpu.state();
        let fresh = self.shared.engine.lock().vm.create_vcpu(self.index, self.slot.signals.clone());
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
            signals.wait(mask, self.until_deadline());
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
    index: u32,
    lapic: &'a LocalApic,
    exits: &'a Exits,
    stolen: Stolen<'a>,
}

impl CpuIo for Io<'_> {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        count(&self.exits.ports);
        self.shared.pc.ports.read(port, data);
    }

    fn port_write(&self, port: u16, data: &[u8]) {
        // No part of the board: those do not know which CPU it is.
        if port == Hypercall::PORT
            && let Ok(block) = data.try_into()
        {
            count(&self.exits.hypercalls);
            let action = self.shared.pc.hypercalls.call_at(self.index, u32::from_le_bytes(block));
            return self.shared.act(action);
        }
        count(&self.exits.ports);
        self.shared.act(self.shared.pc.ports.write(port, data));
    }

    fn mmio_read(&self, addr: u64, data: &mut [u8]) {
        count(&self.exits.registers);
        match self.lapic.mmio_offset(addr) {
            Some(offset) => self.lapic.mmio_read(offset, data),
            None => self.shared.pc.mmio.read(addr, data),
        }
    }

    fn mmio_write(&self, addr: u64, data: &[u8]) {
        count(&self.exits.registers);
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

    fn set_steal_time(&self, msr: u64) {
        self.stolen.set(msr);
    }

    fn deadline(&self) -> Option<u64> {
        self.lapic.next_deadline()
    }

    fn hypercall(&self, call: &Hypercall) -> i64 {
        count(&self.exits.hypercalls);
        let (answer, action) = self.shared.pc.hypercalls.call(self.index, call);
        self.shared.act(action);
        answer
    }

    fn end_of_interrupt(&self, vector: u8) {
        self.shared.pc.fabric.ioapic().end_of_interrupt(vector);
    }

    fn poll(&self) {
        self.lapic.poll();
        self.stolen.tell();
    }
}
