//! Rates that a queue is served at: buckets of operations and of bytes, which fill with time and which requests empty. A
//! request may take more than there is, and the next one waits until the debt is paid, so that any request passes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jail::Kind;
use parking_lot::{Condvar, Mutex};

/// Without a burst, a bucket holds what comes in this time.
const DEFAULT_BURST: f64 = 0.1;
/// Longest wait before a bucket is looked at again: the rate may be another one by then.
const LONGEST: Duration = Duration::from_secs(1);

/// How fast a queue may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rate {
    /// Operations in a second.
    pub operations: Option<u64>,
    /// Bytes in a second.
    pub bytes: Option<u64>,
    /// Bytes that may go at once after a pause.
    pub burst: Option<u64>,
}

impl Rate {
    fn is_limit(&self) -> bool {
        self.operations.is_some() || self.bytes.is_some()
    }
}

/// What fills with time.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    rate: f64,
    size: f64,
    level: f64,
}

impl Bucket {
    /// A full one. The rate is at least one.
    fn new(rate: u64, size: Option<u64>) -> Self {
        let rate = rate.max(1) as f64;
        let size = size.map_or(rate * DEFAULT_BURST, |size| size as f64).max(1.0);
        Self { rate, size, level: size }
    }

    fn fill(&mut self, time: Duration) {
        self.level = (self.level + self.rate * time.as_secs_f64()).min(self.size);
    }

    /// Until there is something in it.
    fn wait(&self) -> Option<Duration> {
        (self.level <= 0.0)
            .then(|| Duration::from_secs_f64(((1.0 - self.level) / self.rate).min(LONGEST.as_secs_f64())))
    }
}

/// Both buckets of a queue, or of the queues of a device.
#[derive(Default)]
pub struct Throttle {
    /// There is a limit at all.
    limits: AtomicBool,
    state: Mutex<State>,
    alarm: Arc<Alarm>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct State {
    operations: Option<Bucket>,
    bytes: Option<Bucket>,
    filled: Option<Instant>,
}

/// Calls who had to wait.
#[derive(Default)]
struct Alarm {
    state: Mutex<AlarmState>,
    changed: Condvar,
}

#[derive(Default)]
struct AlarmState {
    at: Option<Instant>,
    end: bool,
    call: Option<Box<dyn Fn() + Send>>,
}

impl Throttle {
    /// Who is called when there may be something to do again. Whoever was connected before is not being called any more.
    pub fn connect(&self, call: impl Fn() + Send + 'static) {
        self.alarm.state.lock().call = Some(Box::new(call));
    }

    /// From now on, this is the rate.
    ///
    /// # Errors
    /// The host gives no thread.
    pub fn set(&self, rate: &Rate) -> io::Result<()> {
        let mut thread = self.thread.lock();
        if rate.is_limit() && thread.is_none() {
            let alarm = self.alarm.clone();
            *thread = Some(jail::spawn(Kind::Timer, "virtio-limit", move || alarm.run())?);
        }
        let mut state = self.state.lock();
        state.operations = rate.operations.map(|operations| Bucket::new(operations, None));
        state.bytes = rate.bytes.map(|bytes| Bucket::new(bytes, rate.burst));
        state.filled = Some(Instant::now());
        self.limits.store(rate.is_limit(), Ordering::SeqCst);
        drop(state);
        // Whoever waits for the old rate looks again.
        self.alarm.set(Instant::now());
        Ok(())
    }

    /// One more request may be served now. If not, who was connected is called when it may.
    pub fn is_ready(&self) -> bool {
        if !self.limits.load(Ordering::Relaxed) {
            return true;
        }
        let now = Instant::now();
        let mut state = self.state.lock();
        let passed =
            state.filled.replace(now).map_or(Duration::ZERO, |then| now.saturating_duration_since(then));
        let State { operations, bytes, .. } = &mut *state;
        let waits = [operations, bytes].into_iter().flatten().filter_map(|bucket| {
            bucket.fill(passed);
            bucket.wait()
        });
        let Some(wait) = waits.max() else { return true };
        drop(state);
        self.alarm.set(now + wait);
        false
    }

    /// A request of so many bytes is served.
    pub fn spend(&self, bytes: u64) {
        if !self.limits.load(Ordering::Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        if let Some(bucket) = &mut state.operations {
            bucket.level -= 1.0;
        }
        if let Some(bucket) = &mut state.bytes {
            bucket.level -= bytes as f64;
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.alarm.state.lock().end = true;
        self.alarm.changed.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

impl Alarm {
    fn set(&self, at: Instant) {
        let mut state = self.state.lock();
        if state.at.is_none_or(|before| at < before) {
            state.at = Some(at);
            self.changed.notify_all();
        }
    }

    fn run(&self) {
        let mut state = self.state.lock();
        while !state.end {
            match state.at {
                None => self.changed.wait(&mut state),
                Some(at) if Instant::now() < at => {
                    self.changed.wait_until(&mut state, at);
                }
                Some(_) => {
                    state.at = None;
                    // It only rings a bell, and takes no lock of ours.
                    if let Some(call) = &state.call {
                        call();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// Bytes in requests of this size that pass in a second.
    fn passes(rate: Rate, request: u64) -> f64 {
        let throttle = Throttle::default();
        let (bell, rung) = std::sync::mpsc::channel();
        throttle.connect(move || {
            let _ = bell.send(());
        });
        throttle.set(&rate).unwrap();
        let (start, mut sum) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(1) {
            if throttle.is_ready() {
                throttle.spend(request);
                sum += request;
            } else {
                rung.recv_timeout(Duration::from_secs(5)).unwrap();
            }
        }
        sum as f64 / start.elapsed().as_secs_f64()
    }

    #[test]
    fn bytes_and_operations_pass_at_their_rates() {
        let bytes = Rate { bytes: Some(1 << 20), burst: Some(1), ..Rate::default() };
        // Small ones, and such as are larger than the bucket.
        for request in [4096, 200_000] {
            let rate = passes(bytes, request);
            assert!((0.8..1.3).contains(&(rate / (1 << 20) as f64)), "{rate}");
        }
        let operations = Rate { operations: Some(200), ..Rate::default() };
        let rate = passes(operations, 1);
        assert!((180.0..245.0).contains(&rate), "{rate}");
    }

    #[test]
    fn a_burst_passes_at_once_and_no_limit_is_none() {
        let throttle = Throttle::default();
        assert!(throttle.is_ready());
        let rate = Rate { bytes: Some(1000), burst: Some(10_000), ..Rate::default() };
        throttle.set(&rate).unwrap();
        for _ in 0..10 {
            assert!(throttle.is_ready());
            throttle.spend(1000);
        }
        throttle.spend(1000);
        assert!(!throttle.is_ready());
        let called = Arc::new(AtomicU64::new(0));
        let count = called.clone();
        throttle.connect(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        throttle.set(&Rate::default()).unwrap();
        assert!(throttle.is_ready());
        crate::testing::eventually(|| (called.load(Ordering::SeqCst) > 0).then_some(()));
    }
}
