//! A machine from its definition to its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use agent::Host;
use block::{BlockBackend, Overlay, Patient};
use cpu::x86::CpuModel;
use cpu::{Clock, CpuState, Engine, Signals, VmConfig};
use device::Action;
use jail::Kind;
use memory::GuestRam;
use net::Mac;
use parking_lot::Mutex;
use virtio::{Balloon, Net, VirtioDevice};

use crate::console::{self, SocketPort};
use crate::control::{Control, Go};
use crate::doorbells::Doorbells;
use crate::governor::Governor;
use crate::limits::Throttles;
use crate::meter::{Counters, MeteredDisk, MeteredNet};
use crate::moving::{Running, create_vm};
use crate::pc::{Backends, Pc};
use crate::snapshot::SnapshotError;
use crate::vcpu::{self, Slot};
use crate::vsock::{self, Opened, VsockSocket};
use crate::{MachineError, MachineSpec, Outcome, balloon, disks, files, nets, shares};

const AT_ITS_END: MachineError = MachineError::State { state: "at its end", remedy: "start another one" };
/// How long a vCPU has to say what its engine counts.
const ANSWER: Duration = Duration::from_millis(20);

/// What the threads of a machine share.
pub struct Shared {
    pub pc: Pc,
    pub engine: Mutex<Running>,
    /// What every engine is told of the machine.
    pub config: VmConfig,
    disks: Vec<Arc<dyn BlockBackend>>,
    /// Where their changes are that are gone with the machine.
    overlays: Vec<Option<Overlay>>,
    /// Disks and networks, for what they count.
    metered: Vec<Arc<MeteredDisk>>,
    nets: Vec<Arc<MeteredNet>>,
    cards: Vec<Arc<Net>>,
    ports: Vec<Arc<SocketPort>>,
    balloon: Arc<Balloon>,
    throttles: Throttles,
    pub governor: Governor,
    vsock: Option<Arc<VsockSocket>>,
    agent: Arc<Host>,
    pub spec: MachineSpec,
    slots: Vec<Slot>,
    control: Control,
    pub doorbells: Mutex<Doorbells>,
    /// Held by whoever lends local APICs; they are to be lent anew.
    pub lending: Mutex<bool>,
    /// Instructions between two reloads of CPU state; 0 for never.
    reload_every: AtomicU64,
    /// Instructions of vCPUs that were replaced.
    retired: AtomicU64,
    paused: Mutex<Paused>,
}

/// Who wants the machine to stand still.
#[derive(Default)]
struct Paused {
    user: bool,
    /// Disks that wait for the host.
    disks: u32,
    /// Somebody is writing it down, and has it stand still.
    writing: bool,
    snapshot: bool,
    /// Guest time at which it began.
    since: Option<u64>,
}

impl Shared {
    /// A participant is at a boundary.
    pub fn meet(&self) -> Go {
        self.control.meet(None)
    }

    /// The same for the one who resets the machine: it reads files, which vCPUs may not.
    fn meet_for_reset(&self) -> Go {
        self.control.meet(Some(&|| self.reset().map_err(|e| Outcome::Failed(e.to_string()))))
    }

    /// Somebody calls a meeting.
    pub fn is_called(&self) -> bool {
        self.control.is_called()
    }

    /// Does what a device asks for.
    pub fn act(&self, action: Action) {
        if self.control.act(action, self.spec.no_reboot) {
            tracing::info!(?action, "the guest asks for it");
            self.kick();
        }
    }

    /// Ends the machine.
    pub fn end(&self, outcome: Outcome) {
        self.control.end(outcome);
        self.kick();
        self.patients().for_each(Patient::give_up);
    }

    /// Disks whose writes may wait.
    fn patients(&self) -> impl Iterator<Item = &Patient> {
        self.disks.iter().filter_map(|disk| disk.patient())
    }

    /// Stops all vCPUs at an instruction boundary, and guest time with them, as long as somebody wants it; false if
    /// the machine ends instead.
    fn hold(&self, change: impl FnOnce(&mut Paused)) -> bool {
        let mut paused = self.paused.lock();
        change(&mut paused);
        match (paused.user || paused.snapshot || paused.disks > 0, paused.since) {
            (true, None) => {
                self.control.pause();
                self.kick();
                if !self.control.wait_paused() {
                    return false;
                }
                paused.since = Some(self.pc.clock.tsc());
            }
            (false, Some(since)) => {
                paused.since = None;
                self.pc.clock.set_tsc(since);
                self.lend_anew();
                self.control.resume();
            }
            _ => {}
        }
        true
    }

    /// Does something while all vCPUs stand at instruction boundaries. Guest time goes on, unless the machine is paused.
    pub fn held<T>(&self, act: impl FnOnce() -> T) -> Result<T, MachineError> {
        // Pauses wait, and so does whoever ends one.
        let paused = self.paused.lock();
        let goes_on = paused.since.is_none();
        if goes_on {
            self.control.pause();
            self.kick();
        }
        let still = !goes_on || self.control.wait_paused();
        let done = if still && self.control.look(true) {
            let done = self.recall_apics().map(|()| act());
            self.control.look(false);
            done
        } else {
            Err(AT_ITS_END)
        };
        if goes_on {
            self.control.resume();
        }
        done
    }

    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    pub fn reload_every(&self) -> Option<u64> {
        Some(self.reload_every.load(Ordering::Relaxed)).filter(|&n| n != 0)
    }

    pub fn count_retired(&self, instructions: u64) {
        self.retired.fetch_add(instructions, Ordering::Relaxed);
    }

    /// Brings every participant to the meeting.
    fn kick(&self) {
        self.wake_vcpus();
        self.pc.timers.stop();
    }

    /// Every vCPU looks at what it is to do.
    pub fn wake_vcpus(&self) {
        for slot in &self.slots {
            slot.signals.set(Signals::EXIT);
        }
    }

    /// The board to power-on, tables and kernel into RAM; the boot processor where the kernel begins, the
    /// others waiting for it. Nothing runs meanwhile.
    fn reset(&self) -> Result<(), MachineError> {
        self.recall_apics()?;
        self.pc.reset();
        let rsdp = boot::acpi::install(&self.pc.ram, &self.pc.acpi(self.spec.cpus))?;
        let entry = files::boot(&self.spec, &self.disks, &self.pc.ram, rsdp)?;
        // Firmware sets up the MSRs of all processors alike.
        let waiting = CpuState { msrs: entry.state.msrs.clone(), ..CpuState::reset() };
        for (i, slot) in self.slots.iter().enumerate() {
            let state = if i == 0 { &entry.state } else { &waiting };
            slot.set_state(slot.vcpu.lock().as_mut(), state)?;
        }
        Ok(())
    }

    fn timer_thread(&self) {
        jail::narrow(Kind::Board);
        while self.meet_for_reset() != Go::End {
            self.pc.timers.run();
        }
    }
}

/// A machine. Dropping it stops it.
pub struct Machine {
    shared: Arc<Shared>,
    /// None before the start.
    threads: Mutex<Option<Vec<JoinHandle<()>>>>,
    /// Guest time at which one from a snapshot begins.
    resumes_at: Mutex<Option<u64>>,
}

impl Machine {
    /// Makes a machine and loads its kernel; nothing runs yet.
    ///
    /// # Errors
    /// A definition that cannot be: numbers, memory, files, CPU model, engine. Each is one line.
    pub fn new(spec: MachineSpec, engine: &dyn Engine, backends: Backends) -> Result<Self, MachineError> {
        spec.validate()?;
        let model = Arc::new(CpuModel::named(spec.cpu_model.as_deref())?);
        let size = spec.memory.get();
        let ram = Arc::new(match spec.hugepages {
            Some(page) => GuestRam::huge(size, page.get()),
            None if spec.clonable || spec.direct && engine.shares_ram() => GuestRam::freezable(size),
            None => GuestRam::new(size),
        }?);
        let machine = Self::assemble(spec, engine, backends, model, ram, Arc::new(Clock::new()))?;
        machine.shared.reset()?;
        Ok(machine)
    }

    /// A machine in which nothing was loaded.
    pub(crate) fn assemble(
        mut spec: MachineSpec,
        engine: &dyn Engine,
        backends: Backends,
        model: Arc<CpuModel>,
        ram: Arc<GuestRam>,
        clock: Arc<Clock>,
    ) -> Result<Self, MachineError> {
        nets::address(&mut spec)?;
        let signals: Vec<_> = (0..spec.cpus).map(|_| Arc::new(Signals::new())).collect();
        let (metered, overlays) = disks::open(&spec)?;
        let disks: Vec<_> = metered.iter().map(|disk| disk.clone() as Arc<dyn BlockBackend>).collect();
        let mut throttles = Throttles::default();
        let mut devices = disks::devices(&spec, &disks, &mut throttles)?;
        let (nets, cards) = nets::open(&spec, &mut throttles)?;
        devices.extend(cards.iter().map(|card| card.clone() as Arc<dyn VirtioDevice>));
        throttles.apply(&spec.limits)?;
        devices.extend(shares::open(&spec.shares)?);
        let ports = console::open(&spec.ports)?;
        let agent = Arc::<Host>::default();
        devices.extend(console::devices(&spec, backends.terminal.clone(), &ports, &agent)?);
        let balloon = balloon::device(&spec)?;
        devices.push(balloon.clone());
        let vsock = vsock::open(&spec)?.map(|Opened { socket, device }| {
            devices.push(device);
            socket
        });
        let pc = Pc::new(spec.board, ram.clone(), clock.clone(), &signals, backends, devices)?;
        let config = VmConfig { ram, clock, model, vcpus: spec.cpus, irqchip: spec.irqchip };
        let vm = create_vm(engine, config.clone())?;
        let slots = (0..spec.cpus)
            .zip(signals)
            .filter_map(|(index, signals)| Some((index, signals, pc.lapic(index)?)))
            .map(|(index, signals, lapic)| {
                Ok(Slot::new(vm.create_vcpu(index, signals.clone())?, signals, lapic))
            })
            .collect::<Result<Vec<_>, MachineError>>()?;
        let shared = Shared {
            control: Control::new(slots.len() + 1),
            lending: Mutex::default(),
            doorbells: Mutex::default(),
            pc,
            disks,
            overlays,
            metered,
            nets,
            cards,
            ports,
            balloon,
            throttles,
            governor: Governor::new(spec.limits.clone())?,
            vsock,
            agent,
            engine: Mutex::new(Running { name: engine.name(), vm }),
            config,
            spec,
            slots,
            reload_every: AtomicU64::new(0),
            retired: AtomicU64::new(0),
            paused: Mutex::default(),
        };
        let shared = Arc::new(shared);
        shared.watch_doorbells();
        for patient in shared.patients() {
            let machine = Arc::downgrade(&shared);
            patient.set_watcher(Box::new(move |stuck| {
                if let Some(machine) = machine.upgrade() {
                    let change: i32 = if stuck { 1 } else { -1 };
                    machine.hold(|paused| paused.disks = paused.disks.saturating_add_signed(change));
                }
            }));
        }
        Ok(Self { shared, threads: Mutex::default(), resumes_at: Mutex::default() })
    }

    /// Starts the guest. Once.
    ///
    /// # Errors
    /// The host refuses threads, or the machine was started before.
    pub fn start(&self) -> Result<(), MachineError> {
        let mut guard = self.threads.lock();
        if guard.is_some() {
            return Err(MachineError::State { state: "started already", remedy: "start a machine once" });
        }
        let threads = guard.insert(Vec::new());
        if let Some(tsc) = self.resumes_at.lock().take() {
            self.shared.pc.clock.set_tsc(tsc);
            self.shared.pc.hold(false);
        }
        let mut failed = None;
        let mut spawn = |name: String, body: Box<dyn FnOnce(&Shared) + Send>| {
            let shared = self.shared.clone();
            let thread = failed.is_none().then(|| {
                Builder::new().name(name).spawn(move || {
                    let guard = Guard(&shared);
                    body(&shared);
                    std::mem::forget(guard);
                })
            });
            match thread {
                Some(Ok(thread)) => return threads.push(thread),
                Some(Err(error)) => failed = Some(error),
                None => {}
            }
            self.shared.control.leave();
        };
        spawn("timers".to_owned(), Box::new(Shared::timer_thread));
        for index in 0..self.shared.slots.len() {
            let body = move |shared: &Shared| vcpu::thread(shared, index as u32, &shared.slots[index]);
            spawn(format!("vcpu{index}"), Box::new(body));
        }
        drop(guard);
        match failed {
            None => self.start_governor(),
            Some(error) => {
                self.shared.end(Outcome::Stopped);
                Err(MachineError::Thread(error))
            }
        }
    }

    /// Stops all vCPUs at an instruction boundary, and guest time with them.
    ///
    /// # Errors
    /// The machine is not running.
    pub fn pause(&self) -> Result<(), MachineError> {
        self.running()?;
        if self.shared.hold(|paused| paused.user = true) { Ok(()) } else { Err(AT_ITS_END) }
    }

    /// Continues after a pause.
    pub fn resume(&self) {
        self.shared.hold(|paused| paused.user = false);
    }

    /// Nobody else writes it down until the guard goes.
    pub(crate) fn write_down(&self) -> Result<Writing<'_>, MachineError> {
        if !self.is_started() {
            return Err(MachineError::State { state: "not started", remedy: "start it first" });
        }
        if self.shared.control.outcome().is_some() {
            return Err(AT_ITS_END);
        }
        if std::mem::replace(&mut self.shared.paused.lock().writing, true) {
            return Err(MachineError::State { state: "being written down", remedy: "wait until it is" });
        }
        Ok(Writing(&self.shared))
    }

    /// Guest time since when it stands still.
    pub(crate) fn stopped_at(&self) -> Option<u64> {
        self.shared.paused.lock().since
    }

    /// It will begin at this time of the guest's, and its devices with it.
    pub(crate) fn await_start(&self, tsc: u64) {
        *self.resumes_at.lock() = Some(tsc);
    }

    /// What the CPUs are.
    pub(crate) fn model(&self) -> &CpuModel {
        &self.shared.config.model
    }

    pub(crate) fn disks(&self) -> &[Arc<dyn BlockBackend>] {
        &self.shared.disks
    }

    /// Where the changes of a disk are that are gone with the machine.
    pub(crate) fn overlay(&self, index: usize) -> Option<&Overlay> {
        self.shared.overlays.get(index)?.as_ref()
    }

    /// Resets the machine as its reset button does: the kernel is loaded anew.
    pub fn reset(&self) {
        self.shared.act(Action::Reset);
    }

    /// Ends the machine at once. The guest is not asked.
    pub fn stop(&self) {
        self.shared.end(Outcome::Stopped);
    }

    /// Presses the power button; a guest that listens shuts down.
    pub fn press_power_button(&self) {
        self.shared.pc.power.press_power_button();
    }

    /// Waits for the end: all threads of the machine are gone when it returns. A machine that was never
    /// started is taken as stopped.
    pub fn wait(&self) -> Outcome {
        if !self.is_started() {
            return Outcome::Stopped;
        }
        let outcome = self.shared.control.wait();
        self.shared.governor.end();
        // Who is told that writes wait has the machine meanwhile, on a thread that its end would wait for.
        self.shared.patients().for_each(Patient::end);
        for thread in self.threads.lock().iter_mut().flat_map(std::mem::take) {
            // A panic was reported by the thread's guard.
            let _ = thread.join();
        }
        self.shared.slots.iter().for_each(|slot| slot.vcpu.lock().finish());
        self.shared.ports.iter().for_each(|port| port.close());
        self.shared.vsock.iter().for_each(|socket| socket.close());
        self.shared.agent.opened(false);
        outcome
    }

    /// Waits for the machine to end, but no longer than this; false if it has not.
    pub fn ends_within(&self, patience: Duration) -> bool {
        self.shared.control.wait_for(patience)
    }

    /// How the machine ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        self.shared.control.outcome()
    }

    /// The board: serial port, keyboard, memory.
    pub fn pc(&self) -> &Pc {
        &self.shared.pc
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn governor(&self) -> &Governor {
        &self.shared.governor
    }

    pub(crate) fn throttles(&self) -> &Throttles {
        &self.shared.throttles
    }

    pub(crate) fn balloon(&self) -> &Balloon {
        &self.shared.balloon
    }

    /// The agent in the guest, if there is one: it says so when it is asked for something.
    pub fn agent(&self) -> &Arc<Host> {
        &self.shared.agent
    }

    /// Cards whose addresses are others than the guest's drivers have read, since the machine is a copy: what they take them for, and
    /// what they are.
    pub fn mistaken_cards(&self) -> Vec<(Mac, Mac)> {
        self.shared.cards.iter().filter_map(|card| card.mistaken()).collect()
    }

    /// The definition.
    pub fn spec(&self) -> &MachineSpec {
        &self.shared.spec
    }

    /// The state of every vCPU.
    ///
    /// # Errors
    /// The machine is neither paused nor at its end.
    pub fn cpu_states(&self) -> Result<Vec<CpuState>, MachineError> {
        self.still()?;
        Ok(self.shared.slots.iter().map(|slot| slot.vcpu.lock().state()).collect())
    }

    /// Replaces the state of every vCPU, in their order; those without a new state keep theirs.
    ///
    /// # Errors
    /// The machine is not paused, or a state is none that a CPU can be in.
    pub fn set_cpu_states(&self, states: &[CpuState]) -> Result<(), MachineError> {
        self.still()?;
        for (slot, state) in self.shared.slots.iter().zip(states) {
            slot.set_state(slot.vcpu.lock().as_mut(), state)?;
        }
        Ok(())
    }

    /// From now on, moves the state of every vCPU into a new vCPU after so many instructions: a guest that
    /// does not notice proves that a CPU state is whole. `None` ends it. Takes effect at each vCPU's next
    /// exit.
    pub fn reload_cpu_states_every(&self, instructions: Option<u64>) {
        self.shared.reload_every.store(instructions.unwrap_or(0), Ordering::Relaxed);
    }

    /// Instructions run by all vCPUs, where the engine counts them.
    ///
    /// # Errors
    /// The machine is neither paused nor at its end.
    pub fn instructions(&self) -> Result<u64, MachineError> {
        self.still()?;
        let running: u64 = self.shared.slots.iter().map(|slot| slot.vcpu.lock().instructions()).sum();
        Ok(running + self.shared.retired.load(Ordering::Relaxed))
    }

    /// How often guest code was left so far, or reached a device.
    pub fn exits(&self) -> u64 {
        self.shared.slots.iter().flat_map(|slot| slot.exits.counts()).map(|(_, count)| count).sum()
    }

    /// What everything in it has counted so far. Waits for vCPUs, a moment each: not for threads that have something to do.
    pub fn counters(&self) -> Counters {
        let shared = &self.shared;
        let engine = shared.slots.iter().flat_map(|slot| slot.engine_counters(ANSWER));
        Counters {
            exits: sums(shared.slots.iter().flat_map(|slot| slot.exits.counts())),
            engine: sums(engine),
            disks: shared.metered.iter().map(|disk| disk.stats()).collect(),
            nets: shared.nets.iter().map(|net| net.stats()).collect(),
        }
    }

    pub(crate) fn running(&self) -> Result<(), MachineError> {
        if self.is_started() {
            return Ok(());
        }
        Err(MachineError::State { state: "not started", remedy: "start it first" })
    }

    pub(crate) fn is_started(&self) -> bool {
        self.threads.lock().is_some()
    }

    fn still(&self) -> Result<(), MachineError> {
        if !self.is_started() || self.shared.control.stands_still() {
            return Ok(());
        }
        Err(MachineError::State { state: "running", remedy: "pause it first" })
    }
}

/// Counters of the same name are one.
fn sums(counters: impl Iterator<Item = (&'static str, u64)>) -> Vec<(&'static str, u64)> {
    let mut sums: Vec<(&'static str, u64)> = Vec::new();
    for (name, value) in counters {
        match sums.iter_mut().find(|(other, _)| *other == name) {
            Some((_, sum)) => *sum = sum.wrapping_add(value),
            None => sums.push((name, value)),
        }
    }
    sums
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.stop();
        self.wait();
    }
}

/// As long as this lives, the machine is written down.
pub struct Writing<'a>(&'a Shared);

impl Writing<'_> {
    /// Has the guest and its devices stand still, until the guard goes.
    pub fn stand_still(&self) -> Result<Still<'_>, MachineError> {
        let mut stuck = false;
        let held = self.0.hold(|paused| {
            paused.snapshot = true;
            stuck = paused.disks > 0;
        });
        let still = Still(self.0);
        match (held && self.0.control.look(true), stuck) {
            (true, false) => {
                self.0.pc.hold(true);
                self.0.recall_apics()?;
                Ok(still)
            }
            (true, true) => Err(SnapshotError::Stuck.into()),
            (false, _) => Err(AT_ITS_END),
        }
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.0.paused.lock().writing = false;
    }
}

/// As long as this lives, guest and devices stand still.
pub struct Still<'a>(&'a Shared);

impl Drop for Still<'_> {
    fn drop(&mut self) {
        self.0.pc.hold(false);
        self.0.control.look(false);
        self.0.hold(|paused| paused.snapshot = false);
    }
}

/// Dropped by a participant's panic: the machine ends instead of waiting for it.
struct Guard<'a>(&'a Shared);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.0.end(Outcome::Failed("a thread of the machine panicked: this is a bug, report it".to_owned()));
        self.0.control.leave();
    }
}
