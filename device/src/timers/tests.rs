use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use super::*;

/// Due once at a time that can be set.
struct Alarm {
    at: Mutex<Option<u64>>,
    fired: AtomicUsize,
}

impl Pollable for Alarm {
    fn next_deadline(&self) -> Option<u64> {
        *self.at.lock()
    }
    fn poll(&self, now: u64) {
        let mut at = self.at.lock();
        assert!(at.is_some_and(|at| at <= now), "polled before its time");
        *at = None;
        self.fired.fetch_add(1, Ordering::SeqCst);
    }
}

fn wait_for(alarm: &Alarm, count: usize) -> bool {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(5) {
        if alarm.fired.load(Ordering::SeqCst) == count {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

#[test]
fn a_deadline_that_moves_earlier_wakes_the_thread() {
    let clock = Arc::new(Clock::new());
    let timers = Timers::new(clock.clone());
    let alarm = Arc::new(Alarm { at: Mutex::new(None), fired: AtomicUsize::new(0) });
    timers.add(alarm.clone());
    let notifier = timers.notifier();
    std::thread::scope(|scope| {
        scope.spawn(|| timers.run());
        std::thread::sleep(Duration::from_millis(20));
        for round in 1..=20 {
            // First far away, then near.
            for ms in [3_600_000, 1] {
                let at = Some(clock.tsc() + clock.ns_to_tsc(ms * 1_000_000));
                *alarm.at.lock() = at;
                notifier.moved(at);
            }
            assert!(wait_for(&alarm, round), "round {round}");
        }
        timers.stop();
    });
    assert_eq!(alarm.next_deadline(), None);
}

#[test]
fn a_stop_before_the_run_is_not_lost() {
    let timers = Timers::new(Arc::new(Clock::new()));
    timers.stop();
    timers.run();
}
