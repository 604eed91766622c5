//! Where the threads of a machine meet: pause, reset, end.
//!
//! Every vCPU thread and the timer thread are participants. A request sets what is wanted and kicks all of
//! them; each comes to [`Control::meet`] at its next boundary and waits there until it may go on. One of them
//! resets the machine when everybody is there.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use device::Action;
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::Report;

/// How a machine ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// The guest switched itself off (ACPI S5).
    PowerOff,
    /// The guest reset itself, and the machine was told not to start again.
    Reset,
    /// The guest wrote this value to the debug-exit port.
    DebugExit(u8),
    /// A CPU shut down on a triple fault.
    TripleFault(Arc<Report>),
    /// The engine could not go on: an instruction that is not implemented, or a fault of its own.
    EngineFault(Arc<Report>),
    /// The guest reset itself and could not be booted again, or a thread of the machine failed; one line.
    Failed(String),
    /// A snapshot was taken, and was to be the end.
    Saved,
    /// The machine was stopped from outside.
    Stopped,
}

impl fmt::Display for Outcome {
    /// One line; faults have a few more.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("the guest switched itself off"),
            Self::Reset => f.write_str("the guest reset itself"),
            Self::DebugExit(value) => write!(f, "the guest ended the run with {value:#x}"),
            Self::TripleFault(report) | Self::EngineFault(report) => report.fmt(f),
            Self::Failed(why) => f.write_str(why),
            Self::Saved => f.write_str("the machine was saved"),
            Self::Stopped => f.write_str("the machine was stopped"),
        }
    }
}

/// What a participant does after a meeting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// Continue, maybe in another state.
    On,
    /// The machine has ended.
    End,
}

#[derive(Default)]
struct State {
    participants: usize,
    waiting: usize,
    paused: bool,
    reset: bool,
    /// So many look at the state, or change it: no reset may.
    lookers: u32,
    outcome: Option<Outcome>,
}

impl State {
    fn calls_a_meeting(&self) -> bool {
        self.paused || self.reset || self.outcome.is_some()
    }

    fn everybody_waits(&self) -> bool {
        self.waiting == self.participants
    }
}

/// The meeting place.
#[derive(Default)]
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

impl Control {
    /// A place for so many threads.
    pub fn new(participants: usize) -> Self {
        let state = State { participants, ..State::default() };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// What a device wants of the machine; true if the participants have to be kicked.
    pub fn act(&self, action: Action, no_reboot: bool) -> bool {
        match action {
            Action::None => return false,
            Action::Reset if no_reboot => return self.end(Outcome::Reset),
            Action::Reset => {
                self.state.lock().reset = true;
                self.changed.notify_all();
            }
            Action::PowerOff => return self.end(Outcome::PowerOff),
            Action::DebugExit(value) => return self.end(Outcome::DebugExit(value)),
        }
        true
    }

    /// Ends the machine. The first outcome stands; true if this is it.
    pub fn end(&self, outcome: Outcome) -> bool {
        let mut state = self.state.lock();
        let first = state.outcome.is_none();
        state.outcome.get_or_insert(outcome);
        self.changed.notify_all();
        first
    }

    /// A participant is at a boundary. The one that brings `reset` calls it when all are there, if there is a reset to
    /// do; the machine ends if that fails.
    pub fn meet(&self, reset: Option<&dyn Fn() -> Result<(), Outcome>>) -> Go {
        let mut state = self.state.lock();
        if state.calls_a_meeting() {
            state.waiting += 1;
            self.changed.notify_all();
            while state.outcome.is_none() && (state.paused || state.reset) {
                match reset {
                    // It may also be asked for when all wait already.
                    Some(reset) if state.reset && state.lookers == 0 && state.everybody_waits() => {
                        state.reset = false;
                        state.outcome = reset().err();
                        self.changed.notify_all();
                    }
                    _ => self.changed.wait(&mut state),
                }
            }
            state.waiting -= 1;
        }
        if state.outcome.is_some() {
            state.participants -= 1;
            self.changed.notify_all();
            return Go::End;
        }
        Go::On
    }

    /// True if there is a meeting to come to.
    pub fn is_called(&self) -> bool {
        self.state.lock().calls_a_meeting()
    }

    /// Asks for a pause; the caller kicks the participants, then calls [`wait_paused`](Self::wait_paused).
    pub fn pause(&self) {
        self.state.lock().paused = true;
    }

    /// Waits until all participants stand still; false if the machine ended instead.
    pub fn wait_paused(&self) -> bool {
        let mut state = self.state.lock();
        while state.outcome.is_none() && (state.reset || !state.everybody_waits()) {
            self.changed.wait(&mut state);
        }
        state.outcome.is_none()
    }

    /// In a pause: somebody begins to look at the machine's state, or has done. Resets that were asked for before are done before, others
    /// wait. False if the machine has ended.
    pub fn look(&self, on: bool) -> bool {
        let mut state = self.state.lock();
        while on && state.lookers == 0 && state.outcome.is_none() && state.reset {
            self.changed.wait(&mut state);
        }
        state.lookers = state.lookers.saturating_add_signed(if on { 1 } else { -1 });
        self.changed.notify_all();
        state.outcome.is_none()
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.state.lock().paused = false;
        self.changed.notify_all();
    }

    /// True in a pause that all participants have come to, and when they are gone.
    pub fn stands_still(&self) -> bool {
        let state = self.state.lock();
        state.paused && state.everybody_waits() || state.participants == 0
    }

    /// The outcome, if the machine has ended.
    pub fn outcome(&self) -> Option<Outcome> {
        self.state.lock().outcome.clone()
    }

    /// Waits for the outcome and for all participants to be gone.
    pub fn wait(&self) -> Outcome {
        let mut state = self.state.lock();
        loop {
            if let Some(outcome) = gone(&state) {
                return outcome;
            }
            self.changed.wait(&mut state);
        }
    }

    /// Waits for the outcome, but no longer than this; false if it has not come.
    pub fn wait_for(&self, patience: Duration) -> bool {
        let mut state = self.state.lock();
        self.changed.wait_while_for(&mut state, |state| state.outcome.is_none(), patience);
        state.outcome.is_some()
    }

    /// A participant that never came (its thread could not be made).
    pub fn leave(&self) {
        self.state.lock().participants -= 1;
        self.changed.notify_all();
    }
}

fn gone(state: &MutexGuard<State>) -> Option<Outcome> {
    if state.participants == 0 { state.outcome.clone() } else { None }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn one_resets_when_all_are_there_and_all_go_on() {
        let control = Arc::new(Control::new(3));
        let resets = Arc::new(Mutex::new(0));
        control.act(Action::Reset, false);
        let threads: Vec<_> = (0..3)
            .map(|i| {
                let (control, resets) = (control.clone(), resets.clone());
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(5 * i));
                    let reset = || {
                        *resets.lock() += 1;
                        Ok(())
                    };
                    // The first to come.
                    control.meet((i == 0).then_some(&reset))
                })
            })
            .collect();
        assert!(threads.into_iter().all(|t| t.join().unwrap() == Go::On));
        assert_eq!(*resets.lock(), 1);
    }

    #[test]
    fn a_pause_holds_everybody_until_it_ends() {
        let control = Arc::new(Control::new(1));
        control.pause();
        assert!(!control.stands_still());
        let participant = thread::spawn({
            let control = control.clone();
            move || control.meet(None)
        });
        assert!(control.wait_paused());
        assert!(control.stands_still() && !participant.is_finished());
        control.resume();
        assert_eq!(participant.join().unwrap(), Go::On);
    }

    /// One participant, in a pause, and how often it has reset.
    fn paused() -> (Arc<Control>, Arc<Mutex<i32>>, thread::JoinHandle<Go>) {
        let (control, resets) = (Arc::new(Control::new(1)), Arc::new(Mutex::new(0)));
        control.pause();
        let participant = thread::spawn({
            let (control, resets) = (control.clone(), resets.clone());
            move || {
                control.meet(Some(&|| {
                    *resets.lock() += 1;
                    Ok(())
                }))
            }
        });
        assert!(control.wait_paused());
        (control, resets, participant)
    }

    #[test]
    fn a_reset_in_a_pause_is_done_in_it() {
        let (control, resets, participant) = paused();
        control.act(Action::Reset, false);
        assert!(control.wait_paused());
        assert_eq!(*resets.lock(), 1);
        control.resume();
        assert_eq!(participant.join().unwrap(), Go::On);
    }

    #[test]
    fn a_reset_waits_for_who_looks_at_the_state() {
        let (control, resets, participant) = paused();
        // One that was asked for before comes before.
        control.act(Action::Reset, false);
        assert!(control.look(true));
        assert_eq!(*resets.lock(), 1);
        control.act(Action::Reset, false);
        thread::sleep(Duration::from_millis(50));
        assert_eq!(*resets.lock(), 1);
        assert!(control.look(false) && control.wait_paused());
        assert_eq!(*resets.lock(), 2);
        control.end(Outcome::Stopped);
        assert!(!control.look(true));
        assert_eq!(participant.join().unwrap(), Go::End);
    }

    #[test]
    fn the_first_outcome_stands() {
        let control = Control::new(1);
        assert!(control.act(Action::DebugExit(7), false));
        assert!(!control.end(Outcome::Stopped));
        assert_eq!(control.meet(None), Go::End);
        assert!(matches!(control.wait(), Outcome::DebugExit(7)));
        assert!(!control.wait_paused());
    }

    #[test]
    fn a_reset_that_fails_or_is_not_wanted_ends_the_machine() {
        let control = Control::new(1);
        control.act(Action::Reset, false);
        let failed = || Err(Outcome::Failed("gone".to_owned()));
        assert_eq!(control.meet(Some(&failed)), Go::End);
        assert!(matches!(control.wait(), Outcome::Failed(_)));
        let control = Control::new(1);
        assert!(control.act(Action::Reset, true));
        assert!(matches!(control.outcome(), Some(Outcome::Reset)));
    }
}
