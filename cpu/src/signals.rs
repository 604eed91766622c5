//! What other threads want of a vCPU: one word that its engine polls at block boundaries.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, RwLock};

use crate::Spin;

/// Called when a signal was set, by whoever has set it.
pub type Bell = Arc<dyn Fn() + Send + Sync>;

/// Pending requests to a vCPU. Setting a bit wakes a vCPU that waits in [`Signals::wait`].
#[derive(Default)]
pub struct Signals {
    bits: AtomicU32,
    asleep: Mutex<bool>,
    wake: Condvar,
    bell: RwLock<Option<Bell>>,
    spin: Spin,
}

impl fmt::Debug for Signals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signals").field("bits", &self.load()).finish_non_exhaustive()
    }
}

impl Signals {
    /// Level: an external interrupt can be taken; kept by the interrupt controller, which the engine asks
    /// for the vector through [`CpuIo::take_interrupt`](crate::CpuIo::take_interrupt).
    pub const INTR: u32 = 1 << 0;
    /// Edge: a non-maskable interrupt; the engine clears it when it delivers it.
    pub const NMI: u32 = 1 << 1;
    /// Edge: leave `run` with [`VcpuExit::Kicked`](crate::VcpuExit::Kicked); the machine clears it.
    pub const EXIT: u32 = 1 << 2;

    /// Edge: local timers may be due; the engine clears it and calls [`CpuIo::poll`](crate::CpuIo::poll).
    pub const POLL: u32 = 1 << 3;
    /// Edge, an engine's own: another vCPU asks this one to leave its fast path and look at what they share.
    pub const SYNC: u32 = 1 << 4;

    /// A word with nothing pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// All bits.
    #[inline(always)]
    pub fn load(&self) -> u32 {
        self.bits.load(Ordering::Relaxed)
    }

    /// The word itself, for code that an engine makes: any bit set asks it to come out.
    pub fn word(&self) -> *const u32 {
        self.bits.as_ptr()
    }

    /// Sets bits and wakes the vCPU if it sleeps.
    pub fn set(&self, bits: u32) {
        if self.bits.fetch_or(bits, Ordering::SeqCst) & bits != bits {
            if let Some(bell) = &*self.bell.read() {
                bell();
            }
            let asleep = self.asleep.lock();
            if *asleep {
                self.wake.notify_one();
            }
        }
    }

    /// From now on `bell` is called whenever a bit is set that was clear, in place of the one before. An engine whose code
    /// would rather poll a place of its own puts it there.
    pub fn hang(&self, bell: Bell) {
        *self.bell.write() = Some(bell);
    }

    /// The bell that hangs there.
    pub fn bell(&self) -> Option<Bell> {
        self.bell.read().clone()
    }

    /// Takes `bell` away, unless another has taken its place. It is not running when this returns.
    pub fn unhang(&self, bell: &Bell) {
        let mut place = self.bell.write();
        if place.as_ref().is_some_and(|b| Arc::ptr_eq(b, bell)) {
            *place = None;
        }
    }

    /// Clears bits; true if any of them was set.
    pub fn clear(&self, bits: u32) -> bool {
        self.bits.fetch_and(!bits, Ordering::SeqCst) & bits != 0
    }

    /// Waits until a bit of `mask` is set or the time is over, asleep unless it has lately been short.
    pub fn wait(&self, mask: u32, timeout: Option<Duration>) {
        let ready = || self.bits.load(Ordering::SeqCst) & mask != 0;
        self.spin.wait(timeout, ready, || {
            let mut asleep = self.asleep.lock();
            *asleep = true;
            // Spurious wake-ups are harmless: the caller looks again at everything it waits for.
            if !ready() {
                match timeout {
                    Some(t) => {
                        self.wake.wait_for(&mut asleep, t);
                    }
                    None => self.wake.wait(&mut asleep),
                }
            }
            *asleep = false;
        });
    }
}
