//! Cases: an instruction of a given form with operands, state and memory, all from one random stream.

mod addressing;
mod arrange;
mod block;
mod bytes;
mod code32;
mod draft;
mod fp;
mod memory;
mod operands;
mod prefixes;
mod sequence;
mod values;

use cpu::x86::{CpuModel, rflags};
use iced_x86::{Code, Decoder, DecoderOptions, Encoder, Instruction};

use crate::contested::{alignment_agreed, contested};
use crate::forms::{Form, included};
use crate::input::Input;
use crate::layout::INT3;
use crate::rng::Rng;
pub(crate) use block::Block;
pub(crate) use code32::{Code32, Paging};
use draft::Draft;
use sequence::Pool;

/// Attempts to find operands that can be encoded.
const ATTEMPTS: usize = 64;

/// A case and where it came from.
#[derive(Clone)]
pub struct Case {
    /// The form asked for.
    pub form: Form,
    /// For a case that is kept, not made.
    pub name: Option<&'static str>,
    /// Seed of the run.
    pub seed: u64,
    /// Number in the run.
    pub index: u64,
    /// The instruction as decoded from the final bytes; invalid if prefixes made it so.
    pub insn: Instruction,
    /// For a sequence: its instructions.
    pub steps: Vec<Step>,
    /// For a sequence: flags that are undefined at its end.
    pub undefined: u64,
    /// The engine is stopped after every instruction.
    pub stepping: bool,
    /// State, code and memory.
    pub input: Input,
}

/// An instruction of a sequence.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    /// The instruction, at its address.
    pub insn: Instruction,
    /// Flags that are undefined before it.
    pub undefined: u64,
}

/// Makes cases.
pub struct Generator {
    model: CpuModel,
    pool: Pool,
    /// All instructions of 64-bit and of 32-bit code behind which goes on the next.
    plain: [Vec<Code>; 2],
    /// Locked accesses across cache lines are slow or forbidden on this host.
    split_locks: bool,
}

impl Generator {
    /// For a CPU model, on this host.
    pub fn new(model: CpuModel) -> Self {
        let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let detected = ["split_lock_detect", "bus_lock_detect"].iter().any(|f| flags.contains(f));
        Self { pool: Pool::new(&model), plain: block::plain(&model), model, split_locks: !detected }
    }

    /// Case `index` of `form` in the run with `seed`; `None` if nothing can be encoded.
    pub fn case(&self, form: Form, seed: u64, index: u64) -> Option<Case> {
        let mut rng = Rng::from_parts(&[seed, index, form.code as u64, u64::from(form.compat)]);
        (0..ATTEMPTS).find_map(|_| {
            if form.is_sequence() {
                self.sequence(form, seed, index, &mut rng)
            } else if form.is_bytes() {
                self.bytes(form, seed, index, &mut rng)
            } else {
                self.attempt(form, seed, index, &mut rng)
            }
        })
    }

    fn attempt(&self, form: Form, seed: u64, index: u64, rng: &mut Rng) -> Option<Case> {
        let mut draft = Draft::new(form, rng);
        draft.arrange_before();
        draft.operands()?;
        draft.arrange_after();
        draft.lock(self.split_locks);
        let rip = draft.regs.rip;
        let mut encoder = Encoder::new(form.bitness());
        encoder.set_prevent_vex2(draft.rng.percent(30));
        encoder.set_vex_wig(draft.rng.below(2) as u32);
        encoder.set_vex_lig(draft.rng.below(2) as u32);
        encoder.encode(&draft.insn, rip).ok()?;
        let mut bytes = encoder.take_buffer();
        if decode(form, &bytes, rip).code() != form.code {
            return None;
        }
        if draft.rng.percent(20) {
            self.mutate(&mut draft, &mut bytes);
        }
        let insn = decode(form, &bytes, rip);
        // With prefixes an instruction may have become shorter, or eat into the INT3s behind it.
        if !insn.is_invalid() {
            bytes.resize(insn.len(), INT3);
        }
        if bytes.len() > 15 {
            return None;
        }
        let stepping = draft.rng.percent(25);
        if !alignment_agreed(&insn) {
            draft.regs.rflags &= !rflags::AC;
        }
        let input = draft.input(&bytes);
        if contested(&insn, &input).is_some() {
            return None;
        }
        Some(Case { form, name: None, seed, index, insn, steps: Vec::new(), undefined: 0, stepping, input })
    }

    /// Adds redundant or illegal prefixes, as long as what results is in the scope of the comparison.
    fn mutate(&self, draft: &mut Draft, bytes: &mut Vec<u8>) {
        let form = draft.form;
        for _ in 0..1 + draft.rng.below(2) {
            let changed = prefixes::with_another(draft.rng, form, bytes);
            let insn = decode(form, &changed, draft.regs.rip);
            let code = Form { code: insn.code(), compat: form.compat };
            let fine = if insn.is_invalid() {
                undefined_everywhere(form, &changed)
            } else {
                included(&self.model, code)
                    && prefixes::vendors_agree(code, &changed)
                    && draft.tolerates(&insn)
            };
            if fine && changed.len() <= 15 {
                *bytes = changed;
            }
        }
    }
}

pub(crate) fn decode(form: Form, bytes: &[u8], rip: u64) -> Instruction {
    let mut padded = [INT3; 32];
    let len = bytes.len().min(16);
    padded[..len].copy_from_slice(&bytes[..len]);
    Decoder::with_ip(form.bitness(), &padded, rip, DecoderOptions::NONE).decode()
}

/// True if no processor that iced knows executes the bytes.
fn undefined_everywhere(form: Form, bytes: &[u8]) -> bool {
    let options = [
        DecoderOptions::AMD,
        DecoderOptions::NO_INVALID_CHECK,
        DecoderOptions::UMOV | DecoderOptions::XBTS,
        DecoderOptions::CMPXCHG486A | DecoderOptions::OLD_FPU | DecoderOptions::PCOMMIT,
        DecoderOptions::MPX | DecoderOptions::CYRIX | DecoderOptions::KNC | DecoderOptions::ALTINST,
    ];
    let valid = |o: &u32| !Decoder::new(form.bitness(), bytes, *o).decode().is_invalid();
    // Without the check of LOCK anything decodes that has the prefix: those raise #UD.
    options.iter().all(|o| !valid(o) || *o == DecoderOptions::NO_INVALID_CHECK)
}

#[cfg(test)]
mod tests;
