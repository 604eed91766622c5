//! Two engines against each other, on blocks of code: everything is compared that is left when a block has run into an
//! exception.

mod code32;
mod native;
mod world;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use cpu::{CpuState, Engine};
use iced_x86::{Formatter, GasFormatter};
use serde::Serialize;
use serde_json::Value;

use crate::dead;
use crate::generate::{Block, Code32, Generator};
use crate::guest::phys;
use crate::layout::{self, PAGE};
use crate::report::{Counters, count_up};
use crate::run::{Options, RunError};
use world::{End, World};

/// Blocks a worker takes at a time.
const BATCH: u64 = 256;
/// Blocks that are kept in full.
const SAMPLES: usize = 8;

/// A block that the engines disagree about.
#[derive(Debug, Clone, Serialize)]
pub struct BlockMismatch {
    /// Seed of the run.
    pub seed: u64,
    /// Number of the block.
    pub case: u64,
    /// It is one of 32-bit code.
    pub code32: bool,
    /// Its instructions, one per line.
    pub listing: String,
    /// Registers at the start.
    pub input: String,
    /// What differs: under the first engine, under the other.
    pub differences: Vec<String>,
}

impl fmt::Display for BlockMismatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { seed, case, code32, listing, input, differences } = self;
        let code32 = if *code32 { " --code32" } else { "" };
        write!(
            f,
            "--blocks{code32} --seed {seed} --case {case}: {}\n{input}\n{listing}",
            differences.join("; ")
        )
    }
}

/// A run's result.
#[derive(Debug, Clone, Default, Serialize)]
pub struct BlockSummary {
    /// Blocks that were compared.
    pub cases: u64,
    /// Blocks that were not, since they do not end.
    pub endless: u64,
    /// Blocks that were not, since stores went astray into their code, or they have jumped into data: nobody knows what is
    /// undefined in what they made or found.
    pub astray: u64,
    /// Blocks that were not, since the host's CPU is free to run them otherwise.
    pub open: u64,
    /// Blocks that ended with an exception other than that of INT3.
    pub faulted: u64,
    /// Blocks that differ in dead flags of the last exception's frame, and in nothing else.
    pub dead_flags: u64,
    /// Blocks that differ otherwise.
    pub differ: u64,
    /// Some of those.
    pub samples: Vec<BlockMismatch>,
    /// What the compared engines have counted.
    pub counters: Counters,
}

impl BlockSummary {
    fn merge(&mut self, other: Self) {
        self.cases += other.cases;
        self.endless += other.endless;
        self.astray += other.astray;
        self.open += other.open;
        self.faulted += other.faulted;
        self.dead_flags += other.dead_flags;
        self.differ += other.differ;
        count_up(&mut self.counters, other.counters);
        self.samples.extend(other.samples);
        self.samples.sort_by_key(|sample| sample.case);
        self.samples.truncate(SAMPLES);
    }
}

/// Runs every block on `reference`, and on one of the `engines`; `progress` is told now and then how many are done. Of
/// the options, `only` and `dead_flags` mean nothing here.
pub fn run_blocks(
    reference: &dyn Engine,
    engines: &[&dyn Engine],
    options: &Options,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<BlockSummary, RunError> {
    let next = AtomicU64::new(0);
    let results: Vec<Result<BlockSummary, RunError>> = std::thread::scope(|scope| {
        let work = || work(reference, engines, options, &next, progress);
        let workers: Vec<_> = (0..options.jobs.max(1))
            .map(|i| std::thread::Builder::new().name(format!("blocks-{i}")).spawn_scoped(scope, work))
            .collect();
        workers
            .into_iter()
            .map(|w| w.map_err(RunError::Thread)?.join().map_err(|_| RunError::Panicked)?)
            .collect()
    });
    let mut summary = BlockSummary::default();
    for result in results {
        summary.merge(result?);
    }
    Ok(summary)
}

fn work(
    reference: &dyn Engine,
    engines: &[&dyn Engine],
    options: &Options,
    next: &AtomicU64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<BlockSummary, RunError> {
    let generator = Generator::new(options.model.clone());
    let world = |engine| World::new(engine, &options.model, options.code32);
    let mut first = world(reference)?;
    let others = engines.iter().map(|engine| world(*engine));
    let mut others = others.collect::<Result<Vec<_>, _>>()?;
    let mut summary = BlockSummary::default();
    loop {
        let from = next.fetch_add(BATCH, Ordering::Relaxed);
        if from >= options.cases {
            count_up(&mut summary.counters, others.iter().flat_map(World::counters));
            return Ok(summary);
        }
        progress(from);
        for case in from..(from + BATCH).min(options.cases) {
            let case = options.first + case;
            let block = generator.block(options.seed, case, options.code32);
            let other = (case % engines.len().max(1) as u64) as usize;
            if let Some(other) = others.get_mut(other) {
                compare(&block, &mut first, other, (options.seed, case), &mut summary)?;
            }
        }
    }
}

fn compare(
    block: &Block,
    first: &mut World,
    other: &mut World,
    (seed, case): (u64, u64),
    summary: &mut BlockSummary,
) -> Result<(), RunError> {
    let expected = first.run(block)?;
    if expected.endless {
        summary.endless += 1;
        return Ok(first.reset()?);
    }
    let data = code32::is_data(block, expected.frame.rip(&first.after));
    if data || !block.is_intended(code(&first.after, block)) {
        summary.astray += 1;
        return Ok(first.reset()?);
    }
    if other.native && native::is_open(block, expected.frame.rip(&first.after), expected.vector != 3) {
        summary.open += 1;
        return Ok(first.reset()?);
    }
    let found = other.run(block)?;
    let mut differences = Vec::new();
    let place = format!("exception {} at {:#x}", expected.vector, expected.frame.rip(&first.after));
    let dead = settle_flags(block, (&expected, &first.after), &found, &mut other.after);
    let mut state = found.state;
    let flags = (expected.state.rflags ^ state.rflags) & crate::dead::ALL;
    if flags & !dead == 0 {
        state.rflags ^= flags;
    }
    if other.native {
        native::settle(&expected.state, &mut state);
    }
    if expected.exit != found.exit {
        differences.push(format!("exit: {}, {}", expected.exit, found.exit));
    }
    if expected.written != found.written {
        differences.push("what was written to devices".to_owned());
    }
    if expected.state != state {
        differences.extend(states(&expected.state, &state));
    }
    differences.extend(memories(&first.after, &other.after));
    summary.cases += 1;
    summary.faulted += u64::from(expected.vector != 3);
    if !differences.is_empty() {
        differences.insert(0, place);
        summary.differ += 1;
        if summary.samples.len() < SAMPLES {
            summary.samples.push(mismatch(block, seed, case, differences));
        }
    } else if flags & !block.undefined(expected.frame.rip(&first.after)) != 0 {
        summary.dead_flags += 1;
    }
    first.reset()?;
    // Flags in the frame are taken over, so that the page counts as changed in any case.
    other.reset()?;
    Ok(())
}

/// Takes flags that need not agree out of the other engine's frame. Gives all that need not.
fn settle_flags(block: &Block, (expected, memory): (&End, &[u8]), found: &End, other: &mut [u8]) -> u64 {
    // A triple fault leaves no frame.
    let framed = expected.state.events.halted;
    let frame = expected.frame;
    let rip = if framed { frame.rip(memory) } else { expected.state.rip };
    if framed && rip != frame.rip(other) || expected.state.rip != found.state.rip {
        return 0;
    }
    let base = block.regs.rip;
    // The code as it was, and as it is at the end: the one may have made dead what is not in the other.
    let (bits, after) = (block.bitness(), code(memory, block));
    let free =
        block.undefined(rip) | dead::dead(bits, after, base, rip) | dead::dead(bits, &block.code, base, rip);
    if framed && (frame.flags(memory) ^ frame.flags(other)) & !free == 0 {
        frame.set_flags(other, memory);
    }
    free
}

/// What is where the block began, to the end of the code pages.
fn code<'a>(memory: &'a [u8], block: &Block) -> &'a [u8] {
    let start = (block.regs.rip - layout::CODE + phys::CODE) as usize;
    &memory[start..(phys::CODE + layout::CODE_LEN) as usize]
}

fn memories(a: &[u8], b: &[u8]) -> Option<String> {
    if a == b {
        return None;
    }
    let at = a.iter().zip(b).position(|(a, b)| a != b)?;
    let line = |m: &[u8]| crate::compare::bytes(&m[at..(at + 16).min(m.len())]);
    let pages = a.chunks(PAGE as usize).zip(b.chunks(PAGE as usize)).filter(|(a, b)| a != b).count();
    Some(format!("memory from {at:#x}, {pages} pages: {}, {}", line(a), line(b)))
}

fn states(a: &CpuState, b: &CpuState) -> Vec<String> {
    fn walk(path: &str, a: &Value, b: &Value, out: &mut Vec<String>) {
        match (a, b) {
            _ if a == b => {}
            (Value::Object(a), Value::Object(b)) => {
                a.iter().zip(b.values()).for_each(|((k, a), b)| walk(&format!("{path} {k}"), a, b, out));
            }
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                a.iter().zip(b).enumerate().for_each(|(i, (a, b))| walk(&format!("{path}[{i}]"), a, b, out));
            }
            _ => match (a.as_u64(), b.as_u64()) {
                (Some(a), Some(b)) => out.push(format!("{path}: {a:#x}, {b:#x}")),
                _ => out.push(format!("{path}: {a}, {b}")),
            },
        }
    }
    let json = |state| serde_json::to_value(state).unwrap_or_default();
    let mut out = Vec::new();
    walk("", &json(a), &json(b), &mut out);
    out.truncate(12);
    out
}

fn mismatch(block: &Block, seed: u64, case: u64, differences: Vec<String>) -> BlockMismatch {
    let mut formatter = GasFormatter::new();
    let mut listing = String::new();
    for insn in block.listing() {
        let at = (insn.ip() - block.regs.rip) as usize;
        let end = (at + insn.len()).min(block.code.len());
        listing += &format!("{:#x} {:<40} ", insn.ip(), crate::compare::bytes(&block.code[at..end]));
        formatter.format(&insn, &mut listing);
        listing.push('\n');
    }
    let regs = &block.regs;
    let mut input = format!(
        "kernel={} rflags={:#x} fs={:#x} gs={:#x}",
        block.kernel, regs.rflags, regs.fs_base, regs.gs_base
    );
    if let Some(Code32 { paging, limits }) = &block.code32 {
        input += &format!(" 32-bit paging={paging:?} limits={limits:x?}");
    }
    for (i, value) in regs.gpr.iter().enumerate() {
        input += &format!(" r{i}={value:#x}");
    }
    BlockMismatch { seed, case, code32: block.code32.is_some(), listing, input, differences }
}
