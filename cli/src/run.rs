//! `guesthouse run`.

mod definition;
mod identity;
mod jail;
mod plan;
mod restore;
mod status;

use std::cell::Cell;
use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use cpu::{Engine, Observe};
use machine::{Backends, CharBackend, Machine, MachineError, MachineSpec, NullBackend, Outcome, Snapshot};
use server::{Folder, Registry, Server, Vm};

use crate::args::RunArguments;
use crate::console::{Console, Style};
use crate::exit;
use crate::footprint;
use crate::life::detach::Caller;
use crate::life::{LifeArguments, Restarts};
use crate::signals::Signals;
use crate::terminal::RawMode;
use plan::Plan;
pub use restore::{RestoreArguments, restore};
use status::Reasons;

/// When a machine's start is over.
const SETTLED: Duration = Duration::from_secs(1);
const NO_CALLER: &str = "the host refuses a descriptor: raise its limit of open files";
const NO_THREAD: &str = "the host refuses a thread: raise its limit of tasks";

/// Boots a machine and stays with it to its end; the exit status. In the `background` somebody else waits for its start.
pub fn run(arguments: &RunArguments, background: bool, signals: &Signals) -> anyhow::Result<u8> {
    // What is certainly wrong should not cost a download first.
    let definition = definition::read(arguments)?;
    let choice = machine::engine::choose(definition.engine)?;
    let observe = Observe { perf_map: arguments.perf_map, trace: arguments.dbt_trace.clone() };
    let engine = if observe.any() { choice.engine.observed(&observe)? } else { choice.engine };
    let plan = match Plan::new(&definition, &arguments.command, background, signals) {
        Ok(plan) if signals.caught().is_none() => plan,
        other => return exit::after_signal(signals, other.map(|_| 0)),
    };
    tracing::info!("engine {}: {}; {:?}", engine.name(), choice.reason, plan.spec);
    if let Some(notice) = choice.notice.filter(|_| std::io::stderr().is_terminal()) {
        eprintln!("guesthouse: {notice}");
    }

    live(&arguments.life, background, signals, engine.as_ref(), &plan, definition, None)
}

/// Makes the machine a folder, and has it live there to its end; the exit status. From a `snapshot` it begins there.
fn live(
    life: &LifeArguments,
    background: bool,
    signals: &Signals,
    engine: &dyn Engine,
    plan: &Plan,
    mut definition: MachineSpec,
    snapshot: Option<&Snapshot>,
) -> anyhow::Result<u8> {
    let caller = if background { Some(Caller::take().context(NO_CALLER)?) } else { None };
    // What somebody is looking at is gone when he is.
    let keep = background && !life.rm;
    let name = life.machine_name.as_deref();
    let (folder, mut status) = Registry::of_user()?.create(name, keep)?;
    status.guest.clone_from(&plan.guest);
    status.engine = engine.name().to_owned();
    (status.cpus, status.memory) = (plan.spec.cpus, plan.spec.memory.get());
    let described = plan.machine(&folder).and_then(|spec| {
        definition.resolve_paths(&std::env::current_dir().unwrap_or_default());
        folder.write_spec(&definition)?;
        folder.write_status(&status)?;
        Ok(spec)
    });
    let spec = described.inspect_err(|_| forget(&folder))?;
    if life.no_jail {
        eprintln!("{}", jail::NONE);
    } else {
        let entered = jail::enter(&spec, snapshot, &folder, signals);
        entered.inspect_err(|_| forget(&folder))?;
    }
    let vm = Arc::new(Vm::new(folder, status, definition));
    let caller = Cell::new(caller);
    let result = Run { life, caller, signals, engine, plan, spec, vm: &vm, snapshot }.run();
    if result.is_err() || !keep {
        forget(vm.folder());
    }
    result
}

fn forget(folder: &Folder) {
    if let Err(e) = folder.remove() {
        tracing::warn!("{e}");
    }
}

/// A machine and everything around it.
struct Run<'a> {
    life: &'a LifeArguments,
    /// Who waits for a machine in the background.
    caller: Cell<Option<Caller>>,
    signals: &'a Signals,
    engine: &'a dyn Engine,
    plan: &'a Plan,
    /// The machine, with the files of guests in it.
    spec: MachineSpec,
    vm: &'a Arc<Vm>,
    /// Where its first life begins.
    snapshot: Option<&'a Snapshot>,
}

impl Run<'_> {
    fn run(&self) -> anyhow::Result<u8> {
        let (plan, vm) = (self.plan, self.vm);
        let reasons = Arc::new(Reasons::default());
        let (ended, broken) = (Arc::clone(&reasons), Arc::clone(vm));
        let console = Console::new(plan.style, plan.spec.console, plan.raw, vm.hub(), move || {
            ended.broken.store(true, Ordering::SeqCst);
            broken.end();
        })
        .context(NO_THREAD)?;
        let (serial, terminal) = (console.serial(), console.terminal());
        // The debug ports belong to kernels that use them in place of a serial port.
        let debug: Arc<dyn CharBackend> = match plan.style {
            Style::Plain { .. } => serial.clone(),
            Style::Command | Style::Shell => Arc::new(NullBackend),
        };
        let backends = Backends { console: serial, terminal, debug };
        let machine = match self.snapshot {
            Some(snapshot) => {
                Arc::new(Machine::restore(snapshot, self.spec.clone(), self.engine, backends.clone())?)
            }
            None => self.make(&backends)?,
        };

        let raw = if plan.raw { RawMode::enter().ok() } else { None };
        let stopped = Arc::clone(vm);
        self.signals.on_signal(move || stopped.end());
        self.signals.on_resize(console.resizer());
        let (stopped, quit) = (Arc::clone(vm), Arc::clone(&reasons));
        let connected = console.connect(typist(vm), move || {
            quit.quit.store(true, Ordering::SeqCst);
            stopped.end();
        });
        connected.context(NO_THREAD)?;
        console.open_to_clients(plan.style, typist(vm));
        let server = Server::start(vm)?;
        if self.snapshot.is_some() {
            identity::renew(&machine, &vm.status());
        }
        let (status, outcome) = self.live(machine, &backends, &reasons, &console);
        // Clients get everything the guest has said, then the news.
        console.finish();
        vm.finish(status, &outcome.to_string());
        drop(server);
        drop(raw);
        Ok(status)
    }

    /// The caller, if one still waits, may ask the machine for something from now on.
    fn report(&self) -> Result<(), String> {
        let reported = self.caller.take().map(|caller| caller.report(&self.vm.status().id));
        reported.transpose().map(|_| ()).map_err(|e| e.to_string())
    }

    fn make(&self, backends: &Backends) -> Result<Arc<Machine>, MachineError> {
        Machine::new(self.spec.clone(), self.engine, backends.clone()).map(Arc::new)
    }

    /// Starts the machine, again after failures if it is to be; how it ended for good.
    fn live(
        &self,
        machine: Arc<Machine>,
        backends: &Backends,
        reasons: &Reasons,
        console: &Console,
    ) -> (u8, Outcome) {
        let command = !self.spec.command.is_empty();
        let mut restarts = Restarts::default();
        let mut machine = Ok(machine);
        loop {
            let began = Instant::now();
            let outcome = match &machine {
                Ok(machine) if self.vm.attach(machine) => {
                    console.has_room();
                    let started = machine.start().map_err(|e| e.to_string());
                    match started.and_then(|()| self.report()) {
                        Ok(()) => {
                            if !machine.ends_within(SETTLED) {
                                footprint::give_back_the_start();
                            }
                            machine.wait()
                        }
                        Err(e) => Outcome::Failed(e),
                    }
                }
                Ok(_) => Outcome::Stopped,
                Err(e) => Outcome::Failed(MachineError::to_string(e)),
            };
            let exits = machine.as_ref().map_or(0, |machine| machine.exits());
            tracing::info!("{outcome}; {exits} exits");
            let status = self.signals.caught().map(exit::signal);
            let status =
                status.unwrap_or_else(|| status::of(&outcome, reasons, self.vm.is_killed(), command));
            let pause = restarts.next(self.life.restart, status, began.elapsed());
            let Some(pause) = pause else { return (status, outcome) };
            // Its disks and sockets are the next one's.
            self.vm.detach();
            drop(machine);
            if !self.vm.await_restart(pause) {
                return (status, outcome);
            }
            machine = self.make(backends);
        }
    }
}

/// Types at the serial port of the machine of the moment.
fn typist(vm: &Arc<Vm>) -> impl Fn(&[u8]) -> usize + Send + Sync + 'static {
    let vm: Weak<Vm> = Arc::downgrade(vm);
    move |bytes| {
        let machine = vm.upgrade().and_then(|vm| vm.machine());
        // Until there is one, it has no room.
        machine.map_or(0, |machine| machine.pc().uart.push_input(bytes))
    }
}
