//! Looking for what is awaited before one sleeps. To be woken costs tens of microseconds on either side, most where the host is
//! a guest itself; a request to a disk of the host's page cache takes less. How long it pays follows from how long
//! the last waits were, so that who waits for long looks at nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Longest and shortest look, in nanoseconds.
const MOST: u32 = 100_000;
const LEAST: u32 = 12_500;

/// How long one who waits looks before he sleeps.
#[derive(Debug, Default)]
pub struct Spin(AtomicU32);

impl Spin {
    /// Waits for `ready`, by sleep if it takes long: `sleep` returns after it was woken, or has nothing to wait for. `most` bounds
    /// the look.
    pub fn wait(&self, most: Option<Duration>, ready: impl Fn() -> bool, sleep: impl FnOnce()) {
        let window = self.0.load(Ordering::Relaxed);
        let start = Instant::now();
        let look = Duration::from_nanos(window.into()).min(most.unwrap_or(Duration::MAX));
        while start.elapsed() < look {
            for _ in 0..16 {
                if ready() {
                    return;
                }
                std::hint::spin_loop();
            }
        }
        sleep();
        let next = match start.elapsed() < Duration::from_nanos(MOST.into()) && has_company() {
            true => (window * 2).clamp(LEAST, MOST),
            false => window / 2 / LEAST * LEAST,
        };
        self.0.store(next, Ordering::Relaxed);
    }
}

/// With one CPU, whoever looks keeps the other from coming.
fn has_company() -> bool {
    static COMPANY: OnceLock<bool> = OnceLock::new();
    *COMPANY.get_or_init(|| std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_are_looked_for_and_long_ones_slept() {
        let spin = Spin::default();
        let slept = |window: &Spin, time| {
            let mut slept = false;
            let ready = || false;
            window.wait(None, ready, || {
                slept = true;
                std::thread::sleep(time);
            });
            slept
        };
        assert!(slept(&spin, Duration::ZERO));
        if !has_company() {
            return;
        }
        assert_eq!(spin.0.load(Ordering::Relaxed), LEAST);
        // What is there is seen without sleep.
        spin.wait(None, || true, || panic!("slept"));
        assert!(slept(&spin, Duration::from_millis(1)));
        assert_eq!(spin.0.load(Ordering::Relaxed), 0);
    }
}
