//! A thread that reminds running vCPUs of their timers: translated code counts no instructions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use cpu::Signals;
use jail::Kind;
use parking_lot::{Condvar, Mutex};

/// How late a timer may be.
const PERIOD: Duration = Duration::from_micros(500);

#[derive(Default)]
struct Shared {
    /// vCPUs that run.
    running: AtomicU32,
    vcpus: Mutex<Vec<(Arc<AtomicBool>, Arc<Signals>)>>,
    ended: AtomicBool,
    idle: Mutex<()>,
    wake: Condvar,
}

/// The thread. It ends with this value.
pub struct Ticker {
    shared: Arc<Shared>,
}

/// A vCPU's part in it; the thread lives as long as any.
pub struct Ticket {
    ticker: Arc<Ticker>,
    running: Arc<AtomicBool>,
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
        let running = Arc::new(AtomicBool::new(false));
        let mut vcpus = self.shared.vcpus.lock();
        vcpus.retain(|(flag, _)| Arc::strong_count(flag) > 1);
        vcpus.push((running.clone(), signals));
        Ticket { ticker: self.clone(), running }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        let _idle = self.shared.idle.lock();
        self.shared.wake.notify_one();
    }
}

impl Ticket {
    /// The vCPU runs from now on.
    pub fn running(&self) -> Running<'_> {
        self.running.store(true, Ordering::Release);
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
        self.0.running.store(false, Ordering::Release);
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
            for (running, signals) in &*self.vcpus.lock() {
                if running.load(Ordering::Acquire) {
                    signals.set(Signals::POLL);
                }
            }
        }
    }
}
