//! Direct execution: programs of the guest (CPL 3, 64-bit code) run on the host's CPU as they are, each in a process of the host
//! whose address space is the guest's (`process.rs`, `space.rs`). Whatever that process cannot do by itself ends its stay: system
//! calls, faults of the guest's, instructions that would tell of the host (`scan.rs`), interrupts. The rest is the
//! translator's, as are programs that come out too often (`favour.rs`).
//!
//! Not exact: instructions that the guest's CPU model lacks and the host has are executed; CPUID in the middle of other
//! instructions is the host's, or right behind a load of SS or an IRET with RF, where the CPU passes a breakpoint by, as are
//! SGDT, SIDT, SLDT, STR, SMSW and LAR at CPL 3 where the host lets programs have them.

mod favour;
mod pool;
mod process;
mod scan;
mod space;
#[cfg(test)]
mod tests;
mod tracee;

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use interp::core::Session;

use crate::engine::Directness;
use crate::ticker::Pulse;
use crate::translator::Translator;
use pool::Pool;
pub use pool::{enter_thread, rest};
use process::Stop;
use space::Program;

/// Where the tables in force are.
#[inline]
fn root(s: &Session) -> u64 {
    let [_, cr3] = s.cr2_and_cr3();
    cr3 & 0x000f_ffff_ffff_f000
}

/// How often programs ran, and what ended it.
#[derive(Debug, Default)]
pub struct Counts {
    /// Stays in a process.
    pub stays: u64,
    /// Times that a process stopped.
    pub stops: u64,
    /// Pages that were mapped because they were touched.
    pub faults: u64,
    /// Times that code was not allowed there.
    pub refused: u64,
}

impl Counts {
    /// For those who watch.
    pub fn named(&self) -> [(&'static str, u64); 4] {
        let &Self { stays, stops, faults, refused } = self;
        [
            ("direct_stays", stays),
            ("direct_stops", stops),
            ("direct_faults", faults),
            ("direct_refused", refused),
        ]
    }
}

/// Where a program goes on.
pub enum Left {
    /// Something wants to be looked at first.
    Around,
    /// The instruction at RIP is the interpreter's.
    Step,
    /// A single step's trap is due.
    Trap,
    /// The code at RIP is the translator's.
    Translate,
    /// The process has ended, and with it the program's registers.
    Lost,
}

/// One vCPU's part in the processes of its thread.
pub struct Direct {
    /// Whose programs they are: another number for each vCPU that a thread has run.
    owner: u64,
    /// Tops of the tables of programs that run here, as of the last time.
    favoured: Vec<u64>,
    which: Directness,
    /// The process that runs, for those who want the vCPU to look around.
    running: Arc<AtomicI32>,
    /// Whether the vCPU is reminded of its timers, and when it was last.
    pulse: Arc<Pulse>,
    polled: Instant,
    pub counts: Counts,
}

/// For how long a program is left alone, if no timer is due before: to be reminded of them costs it a stop.
const REST: Duration = Duration::from_millis(2);

impl Direct {
    pub fn new(which: Directness, pulse: Arc<Pulse>) -> Self {
        static OWNERS: AtomicU64 = AtomicU64::new(1);
        Self {
            owner: OWNERS.fetch_add(1, Ordering::Relaxed),
            favoured: Vec::new(),
            which,
            running: Arc::default(),
            pulse,
            polled: Instant::now(),
            counts: Counts::default(),
        }
    }

    /// The process to interrupt, if it is not 0.
    pub fn running(&self) -> Arc<AtomicI32> {
        self.running.clone()
    }

    /// The current program runs here: the way out of the guest's kernel leads past this.
    #[inline]
    pub fn favours(&self, s: &Session) -> bool {
        !self.favoured.is_empty() && (self.always() || self.favoured.contains(&root(s)))
    }

    #[inline]
    fn always(&self) -> bool {
        self.which == Directness::Always
    }

    /// Between two blocks: runs the current program, if it is one that runs here. `polled`: it is time to look who runs. `entries`: into
    /// the guest's kernel, so far.
    #[inline]
    pub fn run(
        &mut self,
        s: &mut Session,
        translator: &mut Translator,
        polled: bool,
        entries: u64,
    ) -> Option<Left> {
        let asked = polled && self.which != Directness::Never;
        if !asked && !self.always() && !self.favours(s) {
            return None;
        }
        self.try_run(s, translator, polled, entries)
    }

    #[inline(never)]
    fn try_run(
        &mut self,
        s: &mut Session,
        translator: &mut Translator,
        polled: bool,
        entries: u64,
    ) -> Option<Left> {
        let mode = s.mode()?;
        if !(mode.user && mode.sse && mode.avx && mode.x87 && mode.code32.is_none() && s.is_plain()) {
            return None;
        }
        // The kernel takes no others for a process.
        if [4, 5].into_iter().any(|segment| s.segment_base(segment) >= process::OWN.start) {
            return None;
        }
        let ram = s.ram();
        pool::with(&ram, |pool| {
            let (now, id) = (Instant::now(), Program { owner: self.owner, space: s.space(), root: root(s) });
            let cost = pool.cost.0;
            let favour = pool.favour(id);
            if polled {
                self.polled = now;
                favour.found(entries, now);
            }
            let wanted = favour.wants(polled, cost, now);
            if !wanted && !self.always() {
                // What was found may have ended it: its system calls return as others do.
                self.remember(pool);
                return None;
            }
            s.watch_dropped();
            // Those that nobody asked for meanwhile may be gone as well.
            pool.sync(s, translator);
            let index = pool.take(s, id, now)?;
            let outcome = pool.space(index).is_free_of(s).then(|| self.stay(pool, index, s, translator, now));
            self.remember(pool);
            outcome
        })
    }

    fn rest(&self, s: &Session) {
        let due = s.until_deadline().map_or(REST, |left| left.min(REST));
        self.pulse.rest((Instant::now() + due).min(self.polled + REST));
    }

    fn remember(&mut self, pool: &Pool) {
        self.favoured.clear();
        self.favoured.extend(pool.favoured(self.owner));
    }

    /// The program's state is the session's before and afterwards.
    fn stay(
        &mut self,
        pool: &mut Pool,
        index: usize,
        s: &mut Session,
        translator: &mut Translator,
        since: Instant,
    ) -> Left {
        self.counts.stays += 1;
        let mut stops = 1;
        let left = match pool.space(index).enter(s) {
            Ok(()) => self.stops(pool, index, s, translator, &mut stops),
            Err(_) => Left::Around,
        };
        self.counts.stops += u64::from(stops);
        let space = pool.space(index);
        match left {
            Left::Lost => return left,
            Left::Translate => space.favour.refused(),
            Left::Around | Left::Step | Left::Trap => {}
        }
        let left = if space.leave(s).is_err() { Left::Lost } else { left };
        let now = Instant::now();
        let (whole, inside) = (now - since, space.inside);
        space.favour.stayed(whole, now);
        if stops == 2 && matches!(left, Left::Step) {
            pool.cost.add(whole, inside);
        }
        left
    }

    fn stops(
        &mut self,
        pool: &mut Pool,
        index: usize,
        s: &mut Session,
        translator: &mut Translator,
        stops: &mut u32,
    ) -> Left {
        loop {
            translator.enter(0);
            pool.protect(&mut translator.protected);
            let space = pool.space(index);
            if space.settle().is_err() {
                translator.leave();
                return Left::Around;
            }
            self.rest(s);
            self.running.store(space.pid(), Ordering::SeqCst);
            // Whoever has set signals before it saw the process has not interrupted it.
            let stop = if s.is_signalled() { Ok(Stop::Interrupted) } else { space.run() };
            self.running.store(0, Ordering::SeqCst);
            self.pulse.wake();
            translator.leave();
            *stops += 1;
            if !space.is_plain() {
                return match stop {
                    Ok(Stop::Stepped) => Left::Trap,
                    Ok(_) => Left::Around,
                    Err(_) => Left::Lost,
                };
            }
            match stop {
                Ok(Stop::Interrupted) if !s.is_signalled() => {}
                Ok(Stop::Interrupted) => return Left::Around,
                Ok(Stop::Instruction) => return Left::Step,
                Ok(Stop::Stepped) => return Left::Trap,
                Ok(Stop::Fault(addr)) => match space.fault(s, addr, self.which) {
                    space::Fault::Mapped => self.counts.faults += 1,
                    space::Fault::Guests => return Left::Step,
                    space::Fault::Refused => {
                        self.counts.refused += 1;
                        return Left::Translate;
                    }
                },
                Err(_) => return Left::Lost,
            }
        }
    }
}
