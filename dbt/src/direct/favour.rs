//! Which programs run directly: to leave the process and come back costs the host some ten microseconds, and several times as much
//! where it has to map pages, or is a guest itself. How much, nobody can say beforehand; whether it pays shows in how fast a program
//! comes by the guest's kernel, once as the translator's and once by itself.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Times that a program was found running before it gets a process, or is judged: most programs end sooner.
const PATIENCE: u32 = 3;
/// Between two of them is no more than that.
const LATELY: Duration = Duration::from_millis(10);
/// And no less.
const LEAST: Duration = Duration::from_micros(1);
/// Entries into the kernel a second that cost too little to ask.
const FEW: f32 = 2000.0;
/// With so many entries into the kernel once is enough.
const MANY: u64 = 16;
/// For how long it is known how fast a program comes by as the translator's: it may do something else by then.
const FRESH: Duration = Duration::from_millis(100);
/// With stops for more than this part of its time nothing is to be gained.
const HOPELESS: f32 = 0.5;
/// What a program may owe: time in which it was stopped, mostly to map its pages, over time in which it ran. Half of it at a later try.
const CREDIT: Duration = Duration::from_millis(16);
/// Of the time between two stops, what the host needs to get there and back.
const SWITCH: Duration = Duration::from_micros(10);
/// More time than that between two stops was somebody else's on the host: the ticker asks more often; and more than that for a stop.
const LONGEST: Duration = Duration::from_micros(2600);
const DEAREST: Duration = Duration::from_micros(600);
/// For how long a program that comes out too often is the translator's: twice as long each time, at most so often.
const AWAY: Duration = Duration::from_millis(4);
const DOUBLINGS: u32 = 7;
/// Times at which it was found to pay that make up for one at which it did not.
const AMENDS: u32 = 16;
/// Programs that are remembered.
const REMEMBERED: usize = 32;

/// When a program was found running last, which way, and how often the kernel had been entered.
#[derive(Debug, Clone, Copy)]
struct Found {
    on: bool,
    entries: u64,
    now: Instant,
}

/// How a program has done.
#[derive(Debug, Clone, Copy, Default)]
pub struct Favour {
    on: bool,
    until: Option<Instant>,
    doublings: u32,
    /// When it left it had entered the kernel often.
    was_busy: bool,
    found: Option<Found>,
    /// Times that it was found running again before long, the one way or the other.
    ticks: u32,
    /// Entries into the kernel a second, as the translator's and by itself.
    rates: [Option<f32>; 2],
    /// When the first was seen last.
    seen: Option<Instant>,
    /// See [`CREDIT`].
    debt: Duration,
    /// Of a stay: what it has to pay with, and time that was somebody else's.
    ran: Duration,
    lost: Duration,
}

impl Favour {
    /// The program runs directly whenever it runs.
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// It was found running `now`, after so many entries into the kernel by whomever.
    pub fn found(&mut self, entries: u64, now: Instant) {
        let found = Found { on: self.on, entries, now };
        match self.found.replace(found) {
            Some(last) if last.on == self.on && now - last.now < LATELY => {
                self.found_again(entries.saturating_sub(last.entries), now - last.now, now);
            }
            _ => self.ticks = 0,
        }
    }

    fn found_again(&mut self, entries: u64, elapsed: Duration, now: Instant) {
        self.ticks = self.ticks.saturating_add(if entries < MANY { 1 } else { PATIENCE });
        let rate = entries as f32 / elapsed.max(LEAST).as_secs_f32();
        let known = &mut self.rates[usize::from(self.on)];
        let rate = *known.insert(known.map_or(rate, |known| (known + rate) / 2.0));
        if self.ticks < PATIENCE {
            return;
        }
        if !self.on {
            self.seen = Some(now);
            // What it was away for is over.
            if self.was_busy && rate < FEW {
                (self.until, self.doublings, self.was_busy) = (None, 0, false);
            }
            return;
        }
        if self.ticks >= AMENDS {
            self.ticks -= AMENDS - PATIENCE;
            self.doublings = self.doublings.saturating_sub(1);
        }
        match self.rates {
            [_, Some(direct)] if direct <= FEW => {}
            [Some(translated), Some(direct)] if self.seen.is_some_and(|seen| now - seen < FRESH) => {
                if direct < translated {
                    self.leave(now);
                }
            }
            // A short time as the translator's will tell.
            _ => *self = Self { on: false, ticks: 0, rates: [None; 2], ..*self },
        }
    }

    /// It does from now on. `polled`: it was found running. `cost`: what a stop costs.
    pub fn wants(&mut self, polled: bool, cost: Duration, now: Instant) -> bool {
        let ripe = || self.until.is_none_or(|until| now >= until);
        let hopeless = || self.rates[0].is_some_and(|rate| rate * cost.as_secs_f32() > HOPELESS);
        if !self.on && polled && self.ticks >= PATIENCE && ripe() && !hopeless() {
            *self = Self { on: true, ticks: 0, rates: [self.rates[0], None], ..*self };
        }
        self.on
    }

    /// Its code may not run directly just now, or another program has got its process.
    pub fn refused(&mut self) {
        (self.on, self.ticks) = (false, 0);
    }

    /// It was in the process for so long between two stops.
    pub fn stopped(&mut self, inside: Duration) {
        self.ran += inside.min(LONGEST).saturating_sub(SWITCH);
        self.lost += inside.saturating_sub(LONGEST);
    }

    /// A stay has taken so long, and is over `now`.
    pub fn stayed(&mut self, whole: Duration, now: Instant) {
        let [ran, lost] = [&mut self.ran, &mut self.lost].map(std::mem::take);
        let outside = whole.saturating_sub(ran + lost);
        self.debt = (self.debt + outside).saturating_sub(ran);
        if self.debt > CREDIT {
            self.debt = CREDIT / 2;
            self.leave(now);
        }
    }

    fn leave(&mut self, now: Instant) {
        (self.on, self.ticks) = (false, 0);
        self.was_busy = self.rates.into_iter().flatten().any(|rate| rate > FEW);
        self.until = Some(now + AWAY * (1 << self.doublings));
        self.doublings = (self.doublings + 1).min(DOUBLINGS);
    }
}

/// What it costs to stop and go on where no page is to be mapped, as an average.
#[derive(Debug)]
pub struct Cost(pub Duration);

impl Default for Cost {
    fn default() -> Self {
        Self(SWITCH)
    }
}

impl Cost {
    /// A stay with one stop has taken so long, and the program so much of it.
    pub fn add(&mut self, whole: Duration, inside: Duration) {
        let outside = whole - inside.saturating_sub(SWITCH).min(whole);
        self.0 = (self.0 * 15 + outside.min(DEAREST)) / 16;
    }
}

/// Those of programs that have no process at the moment, by vCPU and top of their tables: longer than their address spaces are known
/// by a number.
#[derive(Debug, Default)]
pub struct Past(VecDeque<((u64, u64), Favour)>);

impl Past {
    /// That of a program, which is no longer remembered.
    pub fn take(&mut self, program: (u64, u64)) -> Favour {
        let at = self.0.iter().position(|(other, _)| *other == program);
        at.and_then(|at| self.0.remove(at)).map_or_else(Favour::default, |(_, favour)| favour)
    }

    /// Remembers it, for those that were remembered longest.
    pub fn put(&mut self, program: (u64, u64), favour: Favour) {
        self.take(program);
        self.0.truncate(REMEMBERED - 1);
        self.0.push_front((program, favour));
    }

    /// The same, to change it.
    pub fn get(&mut self, program: (u64, u64)) -> &mut Favour {
        let favour = self.take(program);
        self.put(program, favour);
        &mut self.0[0].1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_micros(500);

    /// Found running so often, with so many entries into the kernel each time.
    fn run(favour: &mut Favour, ticks: u32, entries: u64, now: Instant) -> bool {
        (0..ticks).for_each(|_| favour.found_again(entries, TICK, now));
        favour.wants(true, Duration::ZERO, now)
    }

    /// Stays of a program that needs so many pages, and runs so long in each.
    fn stay(favour: &mut Favour, stays: u32, inside: Duration, outside: Duration, now: Instant) {
        for _ in 0..stays {
            favour.stopped(inside);
            favour.stayed(inside + outside, now);
            if !favour.is_on() {
                return;
            }
        }
    }

    #[test]
    fn a_program_gets_a_process_when_it_has_run_for_some_time() {
        let (mut favour, now) = (Favour::default(), Instant::now());
        assert!(!run(&mut favour, PATIENCE - 1, 0, now));
        favour.found(0, now + LATELY);
        favour.found(0, now + 2 * LATELY);
        assert!(!run(&mut favour, PATIENCE - 1, 0, now));
        favour.found_again(0, TICK, now);
        assert!(
            !favour.wants(false, Duration::ZERO, now)
                && favour.wants(true, Duration::ZERO, now)
                && favour.is_on()
        );
    }

    #[test]
    fn who_gets_on_faster_by_itself_stays_and_who_does_not_leaves() {
        let now = Instant::now();
        for (translated, direct, stays) in [(20, 60, true), (20, 10, false), (20, 0, true), (0, 60, true)] {
            let mut favour = Favour::default();
            assert!(run(&mut favour, PATIENCE, translated, now));
            run(&mut favour, PATIENCE, direct, now);
            assert_eq!(favour.is_on(), stays, "{translated} {direct}");
        }
    }

    #[test]
    fn who_is_slower_is_away_for_longer_and_longer() {
        let (mut favour, start) = (Favour::default(), Instant::now());
        let away = |favour: &mut Favour| {
            favour.until = None;
            assert!(run(favour, PATIENCE, 10, start));
            run(favour, PATIENCE, 5, start);
            assert!(!favour.is_on());
            favour.until.unwrap() - start
        };
        assert_eq!([0; 3].map(|_| away(&mut favour)), [1, 2, 4].map(|n| AWAY * n));
        favour.until = None;
        run(&mut favour, PATIENCE, 10, start);
        run(&mut favour, AMENDS, 20, start);
        favour.on = false;
        assert!(away(&mut favour) < AWAY * 8, "good times make up for bad ones");
    }

    #[test]
    fn a_program_may_owe_for_its_pages_for_some_time() {
        let (short, long, start) = (Duration::from_micros(20), Duration::from_micros(100), Instant::now());
        let mut favour = Favour::default();
        assert!(run(&mut favour, PATIENCE, 0, start));
        stay(&mut favour, 100, long, short, start);
        stay(&mut favour, 100, short, long, start);
        assert!(favour.is_on());
        stay(&mut favour, 100, short, long, start);
        assert!(!favour.is_on());
    }

    #[test]
    fn who_enters_the_kernel_all_the_time_is_not_tried() {
        let (mut favour, now) = (Favour::default(), Instant::now());
        let busy = |favour: &mut Favour, cost: u64| {
            (0..PATIENCE).for_each(|_| favour.found_again(10, TICK, now));
            favour.wants(true, Duration::from_micros(cost), now)
        };
        assert!(!busy(&mut favour, 60) && busy(&mut favour, 20));
    }

    #[test]
    fn who_was_away_since_it_was_busy_comes_back_when_it_is_not() {
        let (mut favour, now) = (Favour::default(), Instant::now());
        for _ in 0..DOUBLINGS {
            favour.until = None;
            assert!(run(&mut favour, PATIENCE, 20, now));
            run(&mut favour, PATIENCE, 10, now);
            assert!(!favour.is_on());
        }
        assert!(!run(&mut favour, PATIENCE, 20, now), "{favour:?}");
        assert!(run(&mut favour, 2 * PATIENCE, 0, now), "{favour:?}");
    }

    #[test]
    fn time_that_was_somebody_elses_counts_for_nobody() {
        let (mut favour, now) = (Favour::default(), Instant::now());
        run(&mut favour, PATIENCE, 0, now);
        for _ in 0..50 {
            favour.stopped(Duration::from_millis(20));
            favour.stopped(Duration::ZERO);
            favour.stayed(Duration::from_millis(24), now);
        }
        assert!(!favour.is_on(), "{favour:?}");
    }

    #[test]
    fn who_was_refused_is_asked_again_after_some_time() {
        let (mut favour, now) = (Favour::default(), Instant::now());
        assert!(run(&mut favour, PATIENCE, 0, now));
        favour.refused();
        assert!(!favour.wants(true, Duration::ZERO, now));
        assert!(run(&mut favour, PATIENCE, 0, now));
    }

    #[test]
    fn who_becomes_busy_is_compared_with_itself_anew() {
        let (mut favour, now) = (Favour::default(), Instant::now());
        assert!(run(&mut favour, PATIENCE, 0, now));
        let later = now + 2 * FRESH;
        assert!(run(&mut favour, 10 * PATIENCE, 0, later), "nothing to compare");
        assert!(!run(&mut favour, PATIENCE, 10, later));
        assert!(run(&mut favour, PATIENCE, 20, later), "after some time as the translator's");
        run(&mut favour, PATIENCE, 10, later);
        assert!(!favour.is_on() && favour.until.is_some());
    }

    #[test]
    fn a_few_programs_are_remembered() {
        let mut past = Past::default();
        for n in 0..=REMEMBERED as u64 {
            past.get((1, n)).doublings = 3;
            past.get((1, n)).doublings += 1;
        }
        assert_eq!(
            [past.get((1, 1)).doublings, past.get((2, 1)).doublings, past.get((1, 0)).doublings],
            [4, 0, 0]
        );
    }
}
