//! Time in which a vCPU wanted to run and could not, for the guest (`cpu::x86::steal`): what the governor has its thread wait,
//! and what the thread waits for one of the host's CPUs (`run_delay`, Linux, Documentation/scheduler/sched-stats.rst).

use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cpu::Clock;
use cpu::x86::steal;
use memory::GuestRam;

/// How often the host is asked while the guest runs: as often as Linux accounts its time.
const EVERY: Duration = Duration::from_millis(4);

/// What a vCPU's thread knows of its lost time.
pub struct Stolen<'a> {
    ram: &'a GuestRam,
    clock: &'a Clock,
    /// The guest's MSR: whether and where it wants to be told.
    msr: &'a AtomicU64,
    /// The thread's line of numbers, if the host has it.
    schedstat: Option<File>,
    /// `run_delay` when it was last read.
    delay: Cell<u64>,
    /// Nanoseconds of the governor's of which the guest does not know.
    waited: Cell<u64>,
    /// When the host was asked last, in the clock's ticks, which may also go back.
    asked: Cell<u64>,
    /// [`EVERY`] in those.
    every: u64,
}

impl<'a> Stolen<'a> {
    /// For the calling thread, which may open files yet.
    pub fn new(ram: &'a GuestRam, clock: &'a Clock, msr: &'a AtomicU64) -> Self {
        let schedstat = File::open("/proc/thread-self/schedstat").ok();
        let (delay, waited, asked) = Default::default();
        let every = clock.ns_to_tsc(EVERY.as_nanos() as u64);
        let this = Self { ram, clock, msr, schedstat, delay, waited, asked, every };
        this.delay.set(this.delay());
        this
    }

    /// The guest has written its MSR. What was lost before is not its affair.
    pub fn set(&self, msr: u64) {
        self.msr.store(msr, Ordering::Relaxed);
        self.delay.set(self.delay());
        self.waited.set(0);
        if msr & steal::ENABLED != 0 {
            steal::add(self.ram, msr, 0);
        }
    }

    /// The governor had it wait.
    pub fn waited(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.waited.set(self.waited.get().saturating_add(ns));
    }

    /// Tells the guest what there is to tell. Costs nothing to speak of unless there is.
    pub fn tell(&self) {
        let msr = self.msr.load(Ordering::Relaxed);
        if msr & steal::ENABLED == 0 {
            return;
        }
        let now = self.clock.tsc();
        if now.wrapping_sub(self.asked.get()) < self.every && self.waited.get() == 0 {
            return;
        }
        self.asked.set(now);
        let delay = self.delay();
        let lost = delay.saturating_sub(self.delay.replace(delay)).saturating_add(self.waited.take());
        if lost > 0 {
            steal::add(self.ram, msr, lost);
        }
    }

    /// Nanoseconds that the thread has waited for a CPU since it began.
    fn delay(&self) -> u64 {
        let mut line = [0; 64];
        let read = self.schedstat.as_ref().and_then(|file| file.read_at(&mut line, 0).ok());
        read.and_then(|len| run_delay(line.get(..len)?)).unwrap_or(0)
    }
}

/// The second of three numbers.
fn run_delay(line: &[u8]) -> Option<u64> {
    std::str::from_utf8(line).ok()?.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_line_has_the_delay_in_its_middle() {
        assert_eq!(run_delay(b"1456755 235872 3\n"), Some(235_872));
        assert_eq!((run_delay(b""), run_delay(b"1 x 2"), run_delay(b"1")), (None, None, None));
    }

    #[test]
    fn a_guest_is_told_what_it_lost_since_it_asked() {
        let (ram, clock, msr) = (GuestRam::new(8 << 12).unwrap(), Clock::new(), AtomicU64::new(0));
        let stolen = Stolen::new(&ram, &clock, &msr);
        let told = || ram.load_u64(0x1000).unwrap();
        stolen.waited(Duration::from_secs(1));
        stolen.tell();
        assert_eq!((told(), ram.load_u32(0x1008)), (0, Some(0)));
        stolen.set(0x1001);
        stolen.tell();
        assert!(told() < 1_000_000_000 && ram.load_u32(0x1008).is_some_and(|version| version >= 2));
        let before = told();
        stolen.waited(Duration::from_secs(3));
        stolen.tell();
        assert!((3_000_000_000..4_000_000_000).contains(&(told() - before)), "{before} {}", told());
        let before = told();
        stolen.set(0x1000);
        stolen.waited(Duration::from_secs(3));
        stolen.tell();
        assert_eq!(told(), before);
    }
}
