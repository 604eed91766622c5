//! One thread for the deadlines of all parts: it sleeps until the earliest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cpu::Clock;
use parking_lot::{Condvar, Mutex};

use crate::Pollable;

/// The parts with deadlines. The machine calls [`run`](Self::run) on a thread of its own.
pub struct Timers {
    clock: Arc<Clock>,
    parts: Mutex<Vec<Arc<dyn Pollable>>>,
    sleep: Arc<Sleep>,
}

/// Tells [`Timers`] that a part's deadline moved; handed to parts at construction. Clones are equal.
#[derive(Clone)]
pub struct Notifier(Option<Arc<Sleep>>);

struct Sleep {
    /// When the thread wakes by itself. `u64::MAX` while it looks at the parts, so that nothing is missed.
    until: AtomicU64,
    state: Mutex<SleepState>,
    wake: Condvar,
}

#[derive(Default)]
struct SleepState {
    changed: bool,
    stopped: bool,
}

impl Timers {
    /// Timers of a machine with `clock`.
    pub fn new(clock: Arc<Clock>) -> Self {
        let sleep = Sleep { until: AtomicU64::new(u64::MAX), state: Mutex::default(), wake: Condvar::new() };
        Self { clock, parts: Mutex::default(), sleep: Arc::new(sleep) }
    }

    /// What parts are constructed with.
    pub fn notifier(&self) -> Notifier {
        Notifier(Some(self.sleep.clone()))
    }

    /// Adds a part.
    pub fn add(&self, part: Arc<dyn Pollable>) {
        self.parts.lock().push(part);
        self.kick();
    }

    /// Polls the parts that are due; the next deadline.
    pub fn poll(&self) -> Option<u64> {
        let parts = self.parts.lock();
        let mut earliest = None;
        for part in parts.iter() {
            let mut deadline = part.next_deadline();
            let now = self.clock.tsc();
            if deadline.is_some_and(|d| d <= now) {
                part.poll(now);
                deadline = part.next_deadline();
            }
            earliest = earliest.into_iter().chain(deadline).min();
        }
        earliest
    }

    /// Polls parts at their deadlines until [`stop`](Self::stop).
    pub fn run(&self) {
        loop {
            self.sleep.until.store(u64::MAX, Ordering::SeqCst);
            let earliest = self.poll().unwrap_or(u64::MAX);
            let mut state = self.sleep.state.lock();
            if state.stopped {
                state.stopped = false;
                return;
            }
            if std::mem::take(&mut state.changed) {
                continue;
            }
            self.sleep.until.store(earliest, Ordering::SeqCst);
            if earliest == u64::MAX {
                self.sleep.wake.wait(&mut state);
            } else {
                let ticks = earliest.saturating_sub(self.clock.tsc());
                // A guest may ask for a deadline years away; the host's clock cannot count that far.
                let ns = self.clock.tsc_to_ns(ticks).min(60_000_000_000);
                self.sleep.wake.wait_for(&mut state, Duration::from_nanos(ns));
            }
            state.changed = false;
        }
    }

    /// Looks at all deadlines again (the clock was set, a part was restored).
    pub fn kick(&self) {
        self.sleep.state.lock().changed = true;
        self.sleep.wake.notify_one();
    }

    /// Ends [`run`](Self::run), or the next call of it if none is under way. It can be called again after.
    pub fn stop(&self) {
        self.sleep.state.lock().stopped = true;
        self.sleep.wake.notify_one();
    }
}

impl Notifier {
    /// For parts that somebody polls without being told.
    pub fn none() -> Self {
        Self(None)
    }

    /// The part's next deadline is now `deadline`. Wakes the thread only if it would sleep past it.
    pub fn moved(&self, deadline: Option<u64>) {
        let (Some(sleep), Some(deadline)) = (&self.0, deadline) else { return };
        if deadline < sleep.until.load(Ordering::SeqCst) {
            sleep.state.lock().changed = true;
            sleep.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests;
