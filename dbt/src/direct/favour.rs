//! Which programs run directly: to leave the process and come back costs the host some ten microseconds, thirty where others
//! want its CPU.

use std::time::{Duration, Instant};

/// Times in a row at which an address space was found running before it gets a process: most programs end sooner.
const PATIENCE: u32 = 3;
/// Stops that are looked at together.
const STOPS: u32 = 64;
/// What the program has to run between two of them, by its own CPU time, in which the translator would need three to four times as long.
const EACH: Duration = Duration::from_micros(60);
/// For how long a program that stops more often is the translator's: twice as long each time, at most so often.
const AWAY: Duration = Duration::from_millis(1);
const DOUBLINGS: u32 = 9;

/// The address space that was found running last.
#[derive(Debug, Default)]
pub struct Newcomer {
    space: u64,
    times: u32,
}

impl Newcomer {
    /// It was found running: true if it has been for some time.
    pub fn stays(&mut self, space: u64) -> bool {
        if std::mem::replace(&mut self.space, space) != space {
            self.times = 0;
        }
        self.times += 1;
        self.times > PATIENCE
    }
}

/// How a program has done.
#[derive(Debug, Default)]
pub struct Favour {
    on: bool,
    stops: u32,
    /// CPU time of the process when they were counted from 0.
    since: Duration,
    until: Option<Instant>,
    doublings: u32,
}

impl Favour {
    /// That of a program that gets a process, which has taken so much CPU time.
    pub fn new(since: Duration) -> Self {
        Self { on: true, since, ..Self::default() }
    }

    /// It runs directly whenever it runs.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// It does from now on. `polled`: it has run for some time without being asked about.
    pub fn wants(&mut self, polled: bool, now: Instant) -> bool {
        self.on |= polled && self.until.is_none_or(|until| now >= until);
        self.on
    }

    /// Its code may not run directly just now.
    pub fn refused(&mut self) {
        self.on = false;
    }

    /// It has stopped so often. `time`: CPU time that its process has taken, now.
    pub fn stayed(&mut self, stops: u32, time: impl FnOnce() -> Duration) {
        self.stops += stops;
        if self.stops < STOPS {
            return;
        }
        let time = time();
        // What the program before it has taken does not count.
        let spent = time - std::mem::replace(&mut self.since, time).min(time);
        if spent < EACH * self.stops {
            self.on = false;
            self.until = Some(Instant::now() + AWAY * (1 << self.doublings));
            self.doublings = (self.doublings + 1).min(DOUBLINGS);
        }
        self.stops = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newcomer_is_one_that_was_there_before() {
        let mut newcomer = Newcomer::default();
        let found = |newcomer: &mut Newcomer, space| {
            (0..=PATIENCE).map(|_| newcomer.stays(space)).collect::<Vec<_>>()
        };
        assert_eq!(found(&mut newcomer, 1), [false, false, false, true]);
        assert!(!newcomer.stays(2));
        assert_eq!(found(&mut newcomer, 1), [false, false, false, true]);
    }

    #[test]
    fn who_stops_too_often_is_away_for_longer_and_longer() {
        let mut time = Duration::from_secs(1);
        let mut favour = Favour::new(time);
        time += EACH * STOPS;
        favour.stayed(STOPS, || time);
        assert!(favour.is_on());
        time += EACH * (STOPS - 1);
        favour.stayed(STOPS, || time);
        assert!(!favour.is_on() && !favour.wants(true, Instant::now()));
        let first = favour.until.unwrap();
        assert!(!favour.wants(false, first) && favour.wants(true, first) && favour.is_on());
        favour.stayed(STOPS, || time);
        assert!(favour.until.unwrap() > first + AWAY / 2);
    }

    #[test]
    fn who_was_refused_is_asked_again_at_the_next_occasion() {
        let mut favour = Favour::new(Duration::ZERO);
        favour.refused();
        assert!(!favour.wants(false, Instant::now()));
        assert!(favour.wants(true, Instant::now()));
    }
}
