//! A machine as its server knows it: what it is doing, and the way to have it do something else. The machine behind it
//! may be replaced by another one when it is started again after a failure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use agent::protocol::Request;
use jail::Kind;
use machine::{EngineKind, Machine, MachineError, MachineSpec};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, broadcast, watch};

use crate::greeting;
use crate::registry::now;
use crate::routes::{Event, EventKind};
use crate::{Folder, Hub, State, Status};

/// How long an agent may take to do what it is asked for.
const ANSWER: Duration = Duration::from_secs(3);
/// How long a machine has to start before its clients are told that it does not run.
const START: Duration = Duration::from_secs(5);
/// Time that guests are not told of.
const MOMENT: Duration = Duration::from_secs(1);
/// Events that a client may be behind.
const EVENTS: usize = 64;

/// A machine and its folder.
pub struct Vm {
    folder: Folder,
    spec: MachineSpec,
    hub: Arc<Hub>,
    events: broadcast::Sender<Event>,
    life: Mutex<Life>,
    changed: Condvar,
    /// A guest's agent has answered.
    answered: Arc<Notify>,
    over: watch::Sender<bool>,
}

struct Life {
    status: Status,
    machine: Option<Arc<Machine>>,
    /// Since when its guest stands still.
    still: Option<Instant>,
    /// Somebody wants it to end, and not to start again.
    ending: bool,
    /// A client has ended it without asking the guest.
    killed: bool,
}

impl Vm {
    /// A machine that is being made. `spec` is what it will be.
    #[must_use]
    pub fn new(folder: Folder, status: Status, spec: MachineSpec) -> Self {
        let hub = Arc::new(Hub::logged(folder.path()));
        let life = Life { status, machine: None, still: None, ending: false, killed: false };
        Self {
            folder,
            spec,
            hub,
            events: broadcast::Sender::new(EVENTS),
            life: Mutex::new(life),
            changed: Condvar::new(),
            answered: Arc::default(),
            over: watch::Sender::new(false),
        }
    }

    /// Its folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What it is.
    pub fn spec(&self) -> &MachineSpec {
        &self.spec
    }

    /// Its console.
    pub fn hub(&self) -> &Arc<Hub> {
        &self.hub
    }

    /// What it is doing.
    pub fn status(&self) -> Status {
        self.life.lock().status.clone()
    }

    /// The machine of the moment.
    pub fn machine(&self) -> Option<Arc<Machine>> {
        self.life.lock().machine.clone()
    }

    /// This machine runs from now on; false if it is not to.
    pub fn attach(&self, machine: &Arc<Machine>) -> bool {
        let mut life = self.life.lock();
        if life.ending {
            return false;
        }
        let answered = self.answered.clone();
        machine.agent().on_answer(move || answered.notify_one());
        life.machine = Some(machine.clone());
        life.status.started = Some(now());
        life.status.engine = machine.engine().to_owned();
        self.enter(&mut life, State::Running);
        true
    }

    /// The machine of the moment has ended.
    pub fn detach(&self) {
        self.life.lock().machine = None;
    }

    /// The machine has failed and is to be started again after a while; false if somebody does not want that.
    pub fn await_restart(&self, pause: Duration) -> bool {
        let mut life = self.life.lock();
        if !life.ending {
            life.status.restarts = life.status.restarts.saturating_add(1);
            self.enter(&mut life, State::Starting);
            self.changed.wait_while_for(&mut life, |life| !life.ending, pause);
        }
        !life.ending
    }

    /// It has ended for good, with this exit status.
    pub fn finish(&self, exit_status: u8, outcome: &str) {
        let mut life = self.life.lock();
        life.machine = None;
        life.status.exit_status = Some(exit_status);
        life.status.outcome = outcome.lines().next().map(str::to_owned);
        life.status.finished = Some(now());
        self.enter(&mut life, State::Exited);
        drop(life);
        self.hub.set_input(None);
    }

    /// Nobody will answer any more.
    pub(crate) fn close(&self) {
        self.over.send_replace(true);
    }

    /// True if a client has ended it without asking the guest.
    pub fn is_killed(&self) -> bool {
        self.life.lock().killed
    }

    /// Ends it now, as its owner.
    pub fn end(&self) {
        self.end_as(false);
    }

    /// Ends it now, as a client.
    pub fn kill(&self) {
        self.end_as(true);
    }

    fn end_as(&self, client: bool) {
        let mut life = self.life.lock();
        life.ending = true;
        life.killed |= client;
        self.changed.notify_all();
        // Still locked, so that the machine is not left to this thread: the process does not wait for it.
        if let Some(machine) = &life.machine {
            machine.stop();
        }
    }

    /// Asks the guest to shut down, by its agent if there is one, otherwise by the power button.
    pub fn shut_down(&self) {
        let mut life = self.life.lock();
        life.ending = true;
        self.changed.notify_all();
        let Some(machine) = life.machine.clone() else { return };
        // Nobody who stands still can shut down.
        if life.status.state == State::Paused {
            machine.resume();
            self.enter(&mut life, State::Running);
        }
        drop(life);
        let (agent, machine) = (machine.agent().clone(), Arc::downgrade(&machine));
        let ask = move || {
            let heard = agent.is_up() && agent.request(&Request::PowerOff, ANSWER).is_ok();
            if let Some(machine) = machine.upgrade().filter(|_| !heard) {
                machine.press_power_button();
            }
        };
        // It may keep us waiting, and the machine may end meanwhile.
        if let Err(e) = jail::spawn(Kind::Device, "shutdown", ask) {
            tracing::warn!("the host refuses a thread: {e}");
        }
        self.emit(EventKind::PowerButton);
    }

    /// Has the guest stand still. Waits for that: not for the server's thread.
    pub fn pause(&self) -> Result<(), MachineError> {
        self.halt_or_go(State::Running, State::Paused, |machine| machine.pause())?;
        self.life.lock().still.get_or_insert_with(Instant::now);
        Ok(())
    }

    /// Has it go on. After more than a moment its agent sets the guest's clock.
    pub fn resume(&self) -> Result<(), MachineError> {
        self.halt_or_go(State::Paused, State::Running, |machine| {
            machine.resume();
            let still = self.life.lock().still.take();
            if still.is_some_and(|since| since.elapsed() >= MOMENT) {
                greeting::set_time(machine);
            }
            Ok(())
        })
    }

    /// Has another engine run its guest's code. Waits for the guest to stand still: not for the server's thread.
    pub fn move_to(&self, engine: EngineKind) -> Result<(), MachineError> {
        let machine = self.running()?;
        let engine = machine::engine::choose(engine)?.engine;
        machine.move_to(engine.as_ref())?;
        let mut life = self.life.lock();
        // Unless it has ended, and been started again, meanwhile.
        if life.machine.as_ref().is_some_and(|current| Arc::ptr_eq(current, &machine)) {
            // Of several who wanted something, the last one's.
            life.status.engine = machine.engine().to_owned();
            let state = life.status.state;
            self.enter(&mut life, state);
        }
        Ok(())
    }

    fn running(&self) -> Result<Arc<Machine>, MachineError> {
        let not_running = MachineError::State { state: "not running", remedy: "wait until it is" };
        self.machine().ok_or(not_running)
    }

    /// Does nothing to a machine that is `to` already.
    fn halt_or_go(
        &self,
        from: State,
        to: State,
        change: impl FnOnce(&Machine) -> Result<(), MachineError>,
    ) -> Result<(), MachineError> {
        let machine = self.running()?;
        change(&machine)?;
        let mut life = self.life.lock();
        if life.status.state == from {
            self.enter(&mut life, to);
        }
        Ok(())
    }

    /// What happens from now on.
    pub(crate) fn events(&self) -> (Event, broadcast::Receiver<Event>) {
        let life = self.life.lock();
        (self.event(&life, EventKind::State), self.events.subscribe())
    }

    /// The machine of the moment. One that is just being started is waited for.
    pub(crate) async fn started(&self) -> Option<Arc<Machine>> {
        let start = Instant::now();
        loop {
            let (machine, state) = {
                let life = self.life.lock();
                (life.machine.clone(), life.status.state)
            };
            if machine.is_some() || state != State::Starting || start.elapsed() >= START {
                return machine;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until a guest's agent has answered, which it does anew after each start.
    pub(crate) async fn answered(&self) {
        self.answered.notified().await;
    }

    /// Waits until nobody will answer any more.
    pub(crate) async fn finished(&self) {
        let _ = self.over.subscribe().wait_for(|over| *over).await;
    }

    /// Tells everybody who listens.
    fn emit(&self, kind: EventKind) {
        let event = self.event(&self.life.lock(), kind);
        let _ = self.events.send(event);
    }

    fn enter(&self, life: &mut Life, state: State) {
        life.status.state = state;
        if let Err(e) = self.folder.write_status(&life.status) {
            tracing::warn!("{e}");
        }
        // An error says that nobody listens.
        let _ = self.events.send(self.event(life, EventKind::State));
    }

    fn event(&self, life: &Life, event: EventKind) -> Event {
        let Status { id, name, state, exit_status, .. } = &life.status;
        let (id, name) = (id.clone(), name.clone());
        Event { time: now(), id, name, event, state: *state, exit_status: *exit_status }
    }
}
