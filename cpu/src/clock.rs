//! Guest time. One clock per machine: the guest's TSC is the host's TSC plus an offset, and nanoseconds are
//! derived from it, so that all timers of a machine agree.
// UNSAFETY: RDTSC is reached through a compiler intrinsic.
#![allow(unsafe_code)]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long the host's TSC is measured at least.
const WHILE: Duration = Duration::from_millis(3);
/// A beginning that is older says nothing: the host may have slept meanwhile, and its clocks differ on what that was.
const OLD: Duration = Duration::from_secs(1);
/// Looks at both clocks, of which the best counts: one that was interrupted is wrong by as long as that took.
const LOOKS: u32 = 8;

/// How much frequencies of one host may seem to differ, as a fraction: a host that is busy measures badly.
const TOLERANCE: u64 = 100;

/// The time base of a machine.
#[derive(Debug)]
pub struct Clock {
    /// Added to the host's TSC to give the guest's.
    offset: AtomicU64,
    hz: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock {
    /// Begins to measure the host's TSC. Whoever calls it first of all need not wait when he makes a clock.
    pub fn prepare() {
        BEGUN.get_or_init(Moment::now);
    }

    /// A clock whose TSC starts at zero now.
    pub fn new() -> Self {
        let hz = host_tsc_hz();
        Self { offset: AtomicU64::new(host_tsc().wrapping_neg()), hz }
    }

    /// The same for a host whose TSC counts `hz` in a second, which is taken for granted.
    pub fn assuming(hz: u64) -> Self {
        Self { offset: AtomicU64::new(host_tsc().wrapping_neg()), hz: hz.max(1) }
    }

    /// A clock that goes on where one of another process or host was: the guest has been told `hz`.
    ///
    /// # Errors
    /// This host's frequency, if it is another one: the guest's time would run at the wrong speed.
    pub fn resumed(tsc: u64, hz: u64) -> Result<Self, u64> {
        let clock = Self { hz, ..Self::new() };
        let ours = host_tsc_hz();
        if ours.abs_diff(hz) > ours / TOLERANCE {
            return Err(ours);
        }
        clock.set_tsc(tsc);
        Ok(clock)
    }

    /// Guest TSC now, in ticks of [`tsc_hz`](Self::tsc_hz).
    #[inline]
    pub fn tsc(&self) -> u64 {
        host_tsc().wrapping_add(self.offset())
    }

    /// What the guest TSC is ahead of the host's.
    #[inline]
    pub fn offset(&self) -> u64 {
        self.offset.load(Ordering::Relaxed)
    }

    /// Ticks per second.
    pub fn tsc_hz(&self) -> u64 {
        self.hz
    }

    /// Moves the clock so that the guest TSC reads `tsc` now (resume from a snapshot).
    pub fn set_tsc(&self, tsc: u64) {
        self.offset.store(tsc.wrapping_sub(host_tsc()), Ordering::Relaxed);
    }

    /// Has the guest TSC be ahead of the host's by this, as it once was.
    pub fn set_offset(&self, offset: u64) {
        self.offset.store(offset, Ordering::Relaxed);
    }

    /// The guest TSC is the host's from now on, for an engine that cannot shift it.
    pub fn follow_host(&self) {
        self.set_offset(0);
    }

    /// Nanoseconds since the guest TSC was zero.
    pub fn ns(&self) -> u64 {
        self.tsc_to_ns(self.tsc())
    }

    /// Converts TSC ticks to nanoseconds.
    pub fn tsc_to_ns(&self, ticks: u64) -> u64 {
        (u128::from(ticks) * 1_000_000_000 / u128::from(self.hz)) as u64
    }

    /// Nanoseconds until the clock reads `tsc`; 0 if it has.
    pub fn ns_until(&self, tsc: u64) -> u64 {
        self.tsc_to_ns(tsc.saturating_sub(self.tsc()))
    }

    /// Converts nanoseconds to TSC ticks, saturating.
    pub fn ns_to_tsc(&self, ns: u64) -> u64 {
        u64::try_from(u128::from(ns) * u128::from(self.hz) / 1_000_000_000).unwrap_or(u64::MAX)
    }
}

fn host_tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 CPU and touches no memory.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Both clocks of the host at one moment.
#[derive(Debug, Clone, Copy)]
struct Moment {
    time: Instant,
    tsc: u64,
}

impl Moment {
    fn now() -> Self {
        let look = |_| {
            let before = host_tsc();
            let time = Instant::now();
            let between = host_tsc().wrapping_sub(before);
            (between, Self { time, tsc: before.wrapping_add(between / 2) })
        };
        let best = (0..LOOKS).map(look).min_by_key(|&(between, _)| between);
        best.map_or_else(|| Self { time: Instant::now(), tsc: host_tsc() }, |(_, moment)| moment)
    }

    /// Ticks per second since then.
    fn hz(self) -> u64 {
        let now = Self::now();
        let (elapsed, ticks) = (now.time.duration_since(self.time), now.tsc.wrapping_sub(self.tsc));
        // Rounded to 1 kHz: CPUID and guests express the frequency in kHz.
        ((u128::from(ticks) * 1_000_000 / elapsed.as_nanos().max(1)) as u64).max(1) * 1000
    }
}

/// When this process began to measure.
static BEGUN: OnceLock<Moment> = OnceLock::new();

/// What the host's TSC counts in a second by the monotonic clock, measured once per process; good to a few ppm.
fn host_tsc_hz() -> u64 {
    static HZ: OnceLock<u64> = OnceLock::new();
    *HZ.get_or_init(|| {
        let begun = *BEGUN.get_or_init(Moment::now);
        let begun = if begun.time.elapsed() < OLD { begun } else { Moment::now() };
        std::thread::sleep(WHILE.saturating_sub(begun.time.elapsed()));
        begun.hz()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_agrees_with_the_host() {
        let clock = Clock::new();
        let (t0, n0) = (Instant::now(), clock.ns());
        std::thread::sleep(Duration::from_millis(50));
        let ratio = (clock.ns() - n0) as f64 / t0.elapsed().as_nanos() as f64;
        assert!((0.98..1.02).contains(&ratio), "{ratio}");
        assert_eq!(clock.tsc_to_ns(clock.ns_to_tsc(1_000_000_000)) / 1000, 1_000_000);
    }

    #[test]
    fn a_short_while_measures_as_well_as_a_long_one() {
        let (begun, mut short) = (Moment::now(), Vec::new());
        for _ in 0..9 {
            let begun = Moment::now();
            std::thread::sleep(WHILE);
            short.push(begun.hz());
        }
        short.sort_unstable();
        let (short, long) = (short[4], begun.hz());
        assert!(short.abs_diff(long) < long / 5000, "{short} Hz in {WHILE:?}, {long} Hz in the whole");
    }
}
