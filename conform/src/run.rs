//! Runs cases on host and engine, on several threads.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cpu::Engine;
use cpu::x86::CpuModel;
use thiserror::Error;

use crate::cases::named_cases;
use crate::compare::{Difference, differences};
use crate::dead;
use crate::generate::{Case, Generator};
use crate::guest::{Guest, GuestError, Trouble};
use crate::input::{Input, Outcome};
use crate::oracle::{BATCH, Oracle, OracleError};
use crate::report::{Mismatch, Summary, count_up};
use crate::{Form, forms, undefined};

/// What to run.
#[derive(Debug, Clone)]
pub struct Options {
    /// All random values come from it and a case's number.
    pub seed: u64,
    /// Number of the first case.
    pub first: u64,
    /// How many.
    pub cases: u64,
    /// Worker threads.
    pub jobs: usize,
    /// The CPU model that the engine shows and that decides which forms there are.
    pub model: CpuModel,
    /// Only forms whose name is one of these, if any.
    pub only: Vec<String>,
    /// The engine need not keep arithmetic flags that the guest overwrites before it reads them: where a fault comes
    /// in between they are counted, not compared.
    pub dead_flags: bool,
    /// Blocks are of 32-bit code.
    pub code32: bool,
}

/// A run could not be done.
#[derive(Debug, Error)]
pub enum RunError {
    /// The host cannot serve as oracle.
    #[error(transparent)]
    Oracle(#[from] OracleError),
    /// The engine cannot be set up.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// A form was asked for that there is not.
    #[error(
        "no instruction form {0:?} within cpu model {1}: names are iced's codes, with @32 for 32-bit code"
    )]
    NoForm(String, &'static str),
    /// A worker thread could not be had.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// A worker thread panicked.
    #[error("a worker thread panicked")]
    Panicked,
}

/// Runs the named cases, unless forms are given, and then random ones; `progress` is told now and then how many are done.
pub fn run(
    engine: &dyn Engine,
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<Summary, RunError> {
    let [sequences, bytes] = [Form::sequence, Form::bytes].map(|f| [false, true].map(f));
    let all: Vec<Form> = forms(&options.model).into_iter().chain(sequences).chain(bytes).collect();
    let forms: Vec<Form> = if options.only.is_empty() {
        all
    } else {
        let find = |name: &String| {
            let found: Vec<Form> =
                all.iter().copied().filter(|f| f.name().eq_ignore_ascii_case(name)).collect();
            if found.is_empty() {
                Err(RunError::NoForm(name.clone(), options.model.name()))
            } else {
                Ok(found)
            }
        };
        options.only.iter().map(find).collect::<Result<Vec<_>, _>>()?.concat()
    };
    let shared = Work {
        engine,
        options,
        forms: &forms,
        next: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        named: AtomicBool::new(true),
        progress,
    };
    let results: Vec<Result<Summary, RunError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..options.jobs.max(1))
            .map(|i| {
                std::thread::Builder::new().name(format!("conform-{i}")).spawn_scoped(scope, || shared.work())
            })
            .collect();
        workers
            .into_iter()
            .map(|w| w.map_err(RunError::Thread)?.join().map_err(|_| RunError::Panicked)?)
            .collect()
    });
    let mut summary = Summary::default();
    for result in results {
        summary.merge(result?);
    }
    summary.samples.sort_by(|a, b| (&a.form, a.case).cmp(&(&b.form, b.case)));
    Ok(summary)
}

/// What the workers share.
struct Work<'a> {
    engine: &'a dyn Engine,
    options: &'a Options,
    forms: &'a [Form],
    /// Cases handed out.
    next: AtomicU64,
    stop: AtomicBool,
    /// The named cases are still to be run.
    named: AtomicBool,
    progress: &'a (dyn Fn(u64) + Sync),
}

impl Work<'_> {
    fn work(&self) -> Result<Summary, RunError> {
        let result = self.batches();
        if result.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        result
    }

    fn batches(&self) -> Result<Summary, RunError> {
        let mut oracle = Oracle::new()?;
        let mut guest = Guest::new(self.engine, self.options.model.clone())?;
        let generator = Generator::new(self.options.model.clone());
        let mut summary = Summary::default();
        let mut engine = vec![Outcome::zeroed(); BATCH];
        if self.options.only.is_empty() && self.named.swap(false, Ordering::Relaxed) {
            self.batch(&named_cases(), &mut oracle, &mut guest, &mut engine, &mut summary)?;
        }
        while !self.stop.load(Ordering::Relaxed) {
            let from = self.next.fetch_add(BATCH as u64, Ordering::Relaxed);
            if from >= self.options.cases {
                break;
            }
            let to = (from + BATCH as u64).min(self.options.cases);
            (self.progress)(from);
            let cases: Vec<Case> =
                (from..to).filter_map(|n| self.case(&generator, self.options.first + n)).collect();
            self.batch(&cases, &mut oracle, &mut guest, &mut engine, &mut summary)?;
        }
        count_up(&mut summary.counters, guest.counters());
        Ok(summary)
    }

    fn case(&self, generator: &Generator, index: u64) -> Option<Case> {
        // If forms were not chosen, every fourth case is a sequence, or random bytes.
        let form = match (self.options.only.is_empty(), index % 4) {
            (true, 3) => match index / 4 % 8 {
                0 => Form::bytes(false),
                1 => Form::bytes(true),
                n => Form::sequence(n % 2 == 1),
            },
            (true, _) => self.forms[((index - index / 4) % self.forms.len() as u64) as usize],
            (false, _) => self.forms[(index % self.forms.len() as u64) as usize],
        };
        generator.case(form, self.options.seed, index)
    }

    fn batch(
        &self,
        cases: &[Case],
        oracle: &mut Oracle,
        guest: &mut Guest,
        engine: &mut [Outcome],
        summary: &mut Summary,
    ) -> Result<(), RunError> {
        let inputs: Vec<Input> = cases.iter().map(|c| c.input).collect();
        oracle.start(&inputs)?;
        let mut troubles = Vec::with_capacity(cases.len());
        for (case, outcome) in cases.iter().zip(engine.iter_mut()) {
            let ran = catch_unwind(AssertUnwindSafe(|| guest.run(&case.input, case.stepping, outcome)));
            troubles.push(match ran {
                Ok(result) => result?,
                Err(_) => {
                    *guest = Guest::new(self.engine, self.options.model.clone())?;
                    Err(Trouble::Fault("the engine panicked".to_owned()))
                }
            });
        }
        let host = match oracle.finish() {
            Ok(outcomes) => outcomes,
            Err(OracleError::Died { index, how }) => {
                // The case is to blame; the rest of the batch is lost with the child.
                if let Some(case) = cases.get(index) {
                    summary.add(mismatch(case, "host", how, String::new()));
                }
                *oracle = Oracle::new()?;
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for (((case, host), engine), trouble) in cases.iter().zip(host).zip(engine).zip(troubles) {
            let mut host = *host;
            summary.count(case.form, host.vector != u64::from(cpu::x86::vector::BP));
            if let Err(Trouble::Fault(text) | Trouble::Exit(text)) = trouble {
                summary.add(mismatch(case, "end", format!("vector {}", host.vector), text));
                continue;
            }
            let found = differences(case, &mut host, engine);
            if self.options.dead_flags && only_dead_flags(case, &found, &host, engine) {
                summary.dead_flags += 1;
            } else if !found.is_empty() {
                summary.add(Mismatch::new(case, found));
            }
        }
        Ok(())
    }
}

/// Nothing differs but arithmetic flags in the frame of a fault, and the code overwrites them all.
fn only_dead_flags(case: &Case, found: &[Difference], host: &Outcome, engine: &Outcome) -> bool {
    let input = &case.input;
    let bitness = if input.compat() { 32 } else { 64 };
    let (_, undefined) = undefined::context(case, host);
    matches!(found, [only] if only.what == "rflags")
        && (host.regs.rflags ^ engine.regs.rflags)
            & !dead::dead(bitness, input.code(), input.regs.rip, host.regs.rip)
            & !undefined
            == 0
}

fn mismatch(case: &Case, what: &str, host: String, engine: String) -> Mismatch {
    Mismatch::new(case, vec![Difference { what: what.to_owned(), host, engine }])
}
