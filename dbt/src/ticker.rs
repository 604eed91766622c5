//! A thread that reminds running vCPUs of their timers: translated code counts no instructions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cpu::Signals;
use jail::Kind;
use parking_lot::{Condvar, Mutex};

/// How late a timer may be.
const PERIOD: Duration = Duration::from_micros(500);

#[derive(Default)]
struct Shared {
    /// vCPUs that run.
    running: AtomicU32,
    vcpus: Mutex<Vec<(Arc<Pulse>, Arc<Signals>)>>,
    ended: AtomicBool,
    idle: Mutex<()>,
    wake: Condvar,
}

/// Whether a vCPU is to be reminded.
pub struct Pulse {
    running: AtomicBool,
    /// It need not be before then, in microseconds since `start`.
    rests: AtomicU64,
    start: Instant,
}

/// The thread. It ends with this value.
pub struct Ticker {
    shared: Arc<Shared>,
}

/// A vCPU's part in it; the thread lives as long as any.
pub struct Ticket {
    ticker: Arc<Ticker>,
    pulse: Arc<Pulse>,
}

/// While it lives, the vCPU is reminded.
pub struct Running<'a>(&'a Ticket);

impl Ticker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn new() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        jail::spawn(Kind::Timer, "dbt-ticker", move || theirs.run())?;
        Ok(Self { shared })
    }

    /// Takes a vCPU on.
    pub fn ticket(self: &Arc<Self>, signals: Arc<Signals>) -> Ticket {
        let (running, rests) = (AtomicBool::new(false), AtomicU64::new(0));
        let pulse = Arc::new(Pulse { running, rests, start: Instant::now() });
        let mut vcpus = self.shared.vcpus.lock();
        vcpus.retain(|(pulse, _)| Arc::strong_count(pulse) > 1);
        vcpus.push((pulse.clone(), signals));
        Ticket { ticker: self.clone(), pulse }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        let _idle = self.shared.idle.lock();
        self.shared.wake.notify_one();
    }
}

impl Pulse {
    /// The vCPU does nothing that `until` could change, and takes long to stop.
    pub fn rest(&self, until: Instant) {
        let until = until.saturating_duration_since(self.start).as_micros() as u64;
        self.rests.store(until, Ordering::Relaxed);
    }

    /// It no longer rests.
    pub fn wake(&self) {
        self.rests.store(0, Ordering::Relaxed);
    }

    fn is_due(&self) -> bool {
        self.running.load(Ordering::Acquire)
            && match self.rests.load(Ordering::Relaxed) {
                0 => true,
                until => self.start.elapsed().as_micros() as u64 >= until,
            }
    }
}

impl Ticket {
    /// What tells whether it is to be reminded.
    pub fn pulse(&self) -> Arc<Pulse> {
        self.pulse.clone()
    }

    /// The vCPU runs from now on.
    pub fn running(&self) -> Running<'_> {
        self.pulse.running.store(true, Ordering::Release);
        let shared = &self.ticker.shared;
        if shared.running.fetch_add(1, Ordering::AcqRel) == 0 {
            let _idle = shared.idle.lock();
            shared.wake.notify_one();
        }
        Running(self)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.pulse.running.store(false, Ordering::Release);
        self.0.ticker.shared.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Shared {
    fn run(&self) {
        while !self.ended.load(Ordering::Acquire) {
            if self.running.load(Ordering::Acquire) == 0 {
                let mut idle = self.idle.lock();
                if self.running.load(Ordering::Acquire) == 0 && !self.ended.load(Ordering::Acquire) {
                    self.wake.wait(&mut idle);
                }
                continue;
            }
            std::thread::sleep(PERIOD);
            for (pulse, signals) in &*self.vcpus.lock() {
                if pulse.is_due() {
                    signals.set(Signals::POLL);
                }
            }
        }
    }
}
