//! What a run found, for people and for programs.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use iced_x86::{Formatter, GasFormatter, Instruction, InstructionInfoFactory, Register};
use serde::Serialize;

use crate::Form;
use crate::compare::{Difference, bytes, little_endian, vector_registers};
use crate::generate::Case;

/// Mismatches of a form that are kept in full.
const SAMPLES: usize = 3;

/// What engines have counted, by name.
pub type Counters = BTreeMap<&'static str, u64>;

/// A case whose outcomes differ.
#[derive(Debug, Clone, Serialize)]
pub struct Mismatch {
    /// Form, as `--form` takes it.
    pub form: String,
    /// Seed of the run.
    pub seed: u64,
    /// Number of the case.
    pub case: u64,
    /// The instruction's bytes in hexadecimal.
    pub bytes: String,
    /// The instruction in AT&T syntax.
    pub disassembly: String,
    /// The state it started from, as far as the instruction uses it.
    pub input: String,
    /// What differs.
    pub differences: Vec<Difference>,
}

/// A run's result.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Summary {
    /// Cases that ran.
    pub cases: u64,
    /// Forms they cover, sequences and random bytes among them.
    pub forms: u64,
    #[serde(skip)]
    seen: HashSet<Form>,
    /// Cases that ended with an exception of the instruction.
    pub faulted: u64,
    /// Cases that differ in dead flags in the frame of a fault, and in nothing else.
    pub dead_flags: u64,
    /// Mismatching cases per form.
    pub failing: BTreeMap<String, u64>,
    /// What the engine has counted.
    pub counters: Counters,
    /// Mismatches, a few per form.
    pub samples: Vec<Mismatch>,
}

impl Summary {
    /// True if host and engine agreed throughout.
    pub fn passed(&self) -> bool {
        self.failing.is_empty()
    }

    /// Counts a case.
    pub fn count(&mut self, form: Form, faulted: bool) {
        self.cases += 1;
        self.faulted += u64::from(faulted);
        self.seen.insert(form);
        self.forms = self.seen.len() as u64;
    }

    /// Adds a mismatch.
    pub fn add(&mut self, mismatch: Mismatch) {
        let count = self.failing.entry(mismatch.form.clone()).or_default();
        *count += 1;
        if *count <= SAMPLES as u64 {
            self.samples.push(mismatch);
        }
    }

    /// Joins the results of two workers.
    pub fn merge(&mut self, other: Self) {
        self.cases += other.cases;
        self.faulted += other.faulted;
        self.dead_flags += other.dead_flags;
        self.seen.extend(other.seen);
        self.forms = self.seen.len() as u64;
        for (form, count) in other.failing {
            *self.failing.entry(form).or_default() += count;
        }
        count_up(&mut self.counters, other.counters);
        for sample in other.samples {
            if self.samples.iter().filter(|s| s.form == sample.form).count() < SAMPLES {
                self.samples.push(sample);
            }
        }
    }
}

/// Adds what engines have counted.
pub(crate) fn count_up(sum: &mut Counters, counted: impl IntoIterator<Item = (&'static str, u64)>) {
    for (name, count) in counted {
        *sum.entry(name).or_default() += count;
    }
}

impl Mismatch {
    /// Describes a case.
    pub fn new(case: &Case, differences: Vec<Difference>) -> Self {
        let mut formatter = GasFormatter::new();
        let mut text = |insn: &Instruction| {
            let mut line = String::new();
            formatter.format(insn, &mut line);
            line
        };
        let disassembly = if case.steps.is_empty() {
            text(&case.insn)
        } else {
            case.steps.iter().map(|s| text(&s.insn)).collect::<Vec<_>>().join("; ")
        };
        Self {
            form: case.name.map_or_else(|| case.form.name(), str::to_owned),
            seed: case.seed,
            case: case.index,
            bytes: bytes(case.input.code()),
            disassembly,
            input: input(case),
            differences,
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Self { form, seed, case, bytes, disassembly, input, differences } = self;
        write!(f, "--form {form} --seed {seed} --case {case}: {bytes} ({disassembly}) with {input}:")?;
        for d in differences {
            write!(f, " [{}: host {}, engine {}]", d.what, d.host, d.engine)?;
        }
        Ok(())
    }
}

/// The registers the instruction reads or writes, and memory that was set.
fn input(case: &Case) -> String {
    let regs = &case.input.regs;
    let mut parts = vec![format!("rip={:#x} rflags={:#x}", regs.rip, regs.rflags)];
    let mut factory = InstructionInfoFactory::new();
    let vectors = vector_registers();
    let mut vector_state = false;
    let mut names: Vec<String> = Vec::new();
    let insns: Vec<&Instruction> = case.steps.iter().map(|s| &s.insn).chain([&case.insn]).collect();
    let used: Vec<_> = insns.iter().flat_map(|i| factory.info(i).used_registers().to_vec()).collect();
    for used in used {
        let register = used.register();
        let full = register.full_register();
        if full.is_gpr() {
            let slot = full as usize - Register::RAX as usize;
            names.push(format!("{}={:#x}", format!("{full:?}").to_lowercase(), regs.gpr[slot & 15]));
        } else if register.is_vector_register() {
            vector_state = true;
            let n = register.number();
            let value = |at: usize| little_endian(&case.input.fp[at..at + 16]);
            names.push(format!("xmm{n}={}", value(160 + n * 16)));
            if register.is_ymm() {
                names.push(format!("ymm{n}h={}", value(576 + n * 16)));
            }
        } else if register.is_st() || register.is_mm() {
            vector_state = true;
            let n = register.number();
            names.push(format!("st{n}={}", little_endian(&case.input.fp[32 + n * 16..42 + n * 16])));
        } else if matches!(register, Register::FS | Register::GS) {
            let base = if register == Register::FS { regs.fs_base } else { regs.gs_base };
            names.push(format!("{}.base={base:#x}", format!("{register:?}").to_lowercase()));
        }
    }
    if vector_state || format!("{:?}", case.insn.mnemonic()).starts_with('F') {
        for (name, at, len) in vectors.iter().take(4) {
            names.push(format!("{name}={}", little_endian(&case.input.fp[*at..at + len])));
        }
    }
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    parts.extend(names);
    for patch in case.input.patches() {
        parts.push(format!("[{:#x}]={}", patch.addr, bytes(&patch.bytes[..(patch.len as usize).min(16)])));
    }
    if case.stepping {
        parts.push("stepping".to_owned());
    }
    parts.join(" ")
}
