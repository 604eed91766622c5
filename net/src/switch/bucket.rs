//! A token bucket: so many in a second, and a burst.

use std::time::{Duration, Instant};

/// The bucket. It may be overdrawn by what is taken last, which is then waited for.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Tokens in a second, and at most.
    rate: f64,
    burst: f64,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    /// A full one.
    pub fn new(rate: u64, burst: u64, now: Instant) -> Self {
        let (rate, burst) = (rate.max(1) as f64, burst.max(1) as f64);
        Self { rate, burst, tokens: burst, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * self.rate).min(self.burst);
        self.at = self.at.max(now);
    }

    /// Takes if there is anything; false if not.
    pub fn take(&mut self, count: u64, now: Instant) -> bool {
        self.fill(now);
        let is_open = self.tokens > 0.0;
        if is_open {
            self.tokens -= count as f64;
        }
        is_open
    }

    /// When there is something to take; None for now.
    pub fn opens(&mut self, now: Instant) -> Option<Instant> {
        self.fill(now);
        let wait =
            Duration::try_from_secs_f64((-self.tokens / self.rate).clamp(0.0, 3600.0)).unwrap_or_default();
        (self.tokens <= 0.0).then(|| now + wait.max(Duration::from_micros(100)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_taken_comes_back_with_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut bucket = Bucket::new(1000, 100, start);
        assert!(bucket.opens(start).is_none() && bucket.take(300, start), "overdrawn by 200");
        assert!(!bucket.take(1, at(199)));
        let opens = bucket.opens(at(199)).unwrap();
        assert!(opens > at(199) && opens <= at(201), "{:?}", opens - start);
        assert!(bucket.take(1, at(202)));
        assert!(
            bucket.take(1, at(10_000)) && bucket.take(99, at(10_000)) && !bucket.take(1, at(10_000)),
            "no more than the burst"
        );
        assert!(!bucket.take(1, start), "time that goes backward fills nothing");
    }

    #[test]
    fn a_second_has_its_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_000_000, 100_000, start);
        let taken =
            (0..10_000u64).filter(|i| bucket.take(1500, start + Duration::from_micros(i * 100))).count()
                * 1500;
        assert!((1_000_000..1_120_000).contains(&taken), "{taken}");
    }
}
