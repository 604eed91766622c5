//! CPU time of this process and of those that run guest code for it.
// UNSAFETY: asks the kernel for the time of another process.
#![allow(unsafe_code)]

use std::time::Duration;

use parking_lot::Mutex;

/// Processes that run, and what those have taken that have ended.
static MEMBERS: Mutex<(Vec<i32>, Duration)> = Mutex::new((Vec::new(), Duration::ZERO));

/// A process that is counted.
#[derive(Debug)]
pub struct Member(i32);

impl Member {
    /// From now on, until this value is dropped, which has to be before the process is waited for.
    pub fn new(pid: i32) -> Self {
        MEMBERS.lock().0.push(pid);
        Self(pid)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut members = MEMBERS.lock();
        members.0.retain(|&pid| pid != self.0);
        members.1 += of_process(self.0);
    }
}

/// The processes beside this one.
pub fn members() -> Vec<i32> {
    MEMBERS.lock().0.clone()
}

/// CPU time of all of them together.
pub fn cpu_time() -> Duration {
    let members = MEMBERS.lock();
    members.0.iter().map(|&pid| of_process(pid)).sum::<Duration>()
        + members.1
        + of(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// Zero if there is none.
fn of_process(pid: i32) -> Duration {
    // As clock_getcpuclockid(3) numbers them.
    const SCHED: i32 = 2;
    of(!pid << 3 | SCHED)
}

fn of(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place for the time.
    match unsafe { libc::clock_gettime(clock, &raw mut time) } {
        0 => Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn another_process_counts_and_goes_on_counting() {
        let mut child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        let member = Member::new(child.id() as i32);
        assert_eq!(members(), [child.id() as i32]);
        let begun = std::time::Instant::now();
        while of_process(child.id() as i32) < Duration::from_millis(50) {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(5));
        }
        let own = || of(libc::CLOCK_PROCESS_CPUTIME_ID);
        assert!(cpu_time() >= own() + Duration::from_millis(50));
        drop(member);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(members().is_empty());
        assert!(cpu_time() >= Duration::from_millis(50));
    }
}
