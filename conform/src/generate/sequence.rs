//! Sequences: what an engine does across instructions, such as flags that nobody reads, fused pairs, links between
//! blocks, and a fault in the middle of it all.

use std::collections::HashMap;

use cpu::x86::{CpuModel, rflags};
use iced_x86::{
    Code, ConditionCode, Instruction, InstructionInfoFactory, Mnemonic as M, OpAccess, OpKind, Register,
};

use super::draft::Draft;
use super::{Case, Encoder, Step, decode};
use crate::contested::{alignment_agreed, contested};
use crate::forms::{Form, forms};
use crate::input::{CODE_MAX, Input};
use crate::rng::Rng;
use crate::undefined;

/// Forms that sequences are made of, by mode.
pub(super) struct Pool {
    inner: [HashMap<M, Vec<Code>>; 2],
    inner_keys: [Vec<M>; 2],
    last: [Vec<Code>; 2],
}

impl Pool {
    pub fn new(model: &CpuModel) -> Self {
        let mut pool = Self {
            inner: [HashMap::new(), HashMap::new()],
            inner_keys: [Vec::new(), Vec::new()],
            last: [Vec::new(), Vec::new()],
        };
        for form in forms(model) {
            let mode = usize::from(form.compat);
            let mnemonic = form.code.mnemonic();
            if inner(form.code) {
                let codes = pool.inner[mode].entry(mnemonic).or_default();
                if codes.is_empty() {
                    pool.inner_keys[mode].push(mnemonic);
                }
                codes.push(form.code);
            } else if matches!(mnemonic, M::Jmp | M::Call | M::Ret) && !far(form.code)
                || form.code.is_jcc_short_or_near()
            {
                pool.last[mode].push(form.code);
            }
        }
        pool
    }

    /// Mnemonics are equally likely, however many forms they have; arithmetic and what reads flags more than others.
    pub fn pick(&self, rng: &mut Rng, compat: bool, last: bool) -> Code {
        let mode = usize::from(compat);
        if last {
            return rng.pick(&self.last[mode]);
        }
        const OFTEN: [M; 14] = [
            M::Add,
            M::Adc,
            M::Sub,
            M::Sbb,
            M::Cmp,
            M::Test,
            M::And,
            M::Xor,
            M::Inc,
            M::Dec,
            M::Mov,
            M::Shl,
            M::Sete,
            M::Cmovb,
        ];
        let mnemonic = if rng.percent(60) { rng.pick(&OFTEN) } else { rng.pick(&self.inner_keys[mode]) };
        self.inner[mode].get(&mnemonic).map_or(Code::Nopd, |codes| rng.pick(codes))
    }
}

fn far(code: Code) -> bool {
    code.is_jmp_far() || code.is_jmp_far_indirect() || code.is_call_far() || code.is_call_far_indirect()
}

fn inner(code: Code) -> bool {
    let kinds = code.op_code().op_kinds();
    use iced_x86::OpCodeOperandKind as K;
    let segment = kinds.iter().any(|k| {
        matches!(k, K::seg_reg | K::es | K::cs | K::ss | K::ds | K::fs | K::gs | K::cr_reg | K::dr_reg)
    });
    let by_cl = kinds.contains(&K::cl);
    let conditional = code.condition_code() != ConditionCode::None && !code.is_jcc_short_or_near();
    let named = matches!(
        code.mnemonic(),
        M::Add
            | M::Or
            | M::Adc
            | M::Sbb
            | M::And
            | M::Sub
            | M::Xor
            | M::Cmp
            | M::Test
            | M::Inc
            | M::Dec
            | M::Neg
            | M::Not
            | M::Mov
            | M::Movzx
            | M::Movsx
            | M::Movsxd
            | M::Lea
            | M::Bswap
            | M::Xchg
            | M::Xadd
            | M::Cmpxchg
            | M::Push
            | M::Pop
            | M::Bt
            | M::Bts
            | M::Btr
            | M::Btc
            | M::Bsf
            | M::Bsr
            | M::Lzcnt
            | M::Tzcnt
            | M::Popcnt
            | M::Imul
            | M::Mul
            | M::Cbw
            | M::Cwde
            | M::Cdqe
            | M::Cwd
            | M::Cdq
            | M::Cqo
            | M::Clc
            | M::Stc
            | M::Cmc
            | M::Lahf
            | M::Sahf
            | M::Pushf
            | M::Pushfd
            | M::Pushfq
            | M::Shl
            | M::Sal
            | M::Shr
            | M::Sar
            | M::Rol
            | M::Ror
            | M::Rcl
            | M::Rcr
            | M::Shld
            | M::Shrd
            | M::Andn
            | M::Bextr
            | M::Blsi
            | M::Blsr
            | M::Blsmsk
            | M::Bzhi
            | M::Mulx
            | M::Rorx
            | M::Sarx
            | M::Shlx
            | M::Shrx
            | M::Adcx
            | M::Adox
            | M::Crc32
            | M::Movbe
            | M::Ptest
            | M::Comiss
            | M::Ucomisd
            | M::Vptest
            | M::Movd
            | M::Movq
            | M::Paddd
            | M::Pxor
    );
    // LOOPcc and strings are no part of this.
    let plain = code.flow_control() == iced_x86::FlowControl::Next;
    (named || conditional) && plain && !segment && !by_cl
}

/// What the instructions so far have done to what is known.
struct Progress {
    bytes: Vec<u8>,
    steps: Vec<Step>,
    undefined: u64,
}

impl super::Generator {
    /// A sequence of a few instructions, perhaps with a branch over one of them, perhaps with one at the end.
    pub(super) fn sequence(&self, form: Form, seed: u64, index: u64, rng: &mut Rng) -> Option<Case> {
        let mut draft = Draft::new(form, rng);
        draft.regs.rip = crate::layout::CODE + 1024 + draft.rng.below(2048);
        let mut progress = Progress { bytes: Vec::new(), steps: Vec::new(), undefined: 0 };
        let count = 2 + draft.rng.below(6);
        for _ in 0..count {
            if progress.bytes.len() + 20 > CODE_MAX {
                break;
            }
            if draft.rng.percent(15) {
                self.skip(&mut draft, &mut progress);
            } else {
                self.append(&mut draft, &mut progress, false);
            }
        }
        if draft.rng.percent(50) && progress.bytes.len() + 16 <= CODE_MAX {
            self.append(&mut draft, &mut progress, true);
        }
        let insn = progress.steps.last()?.insn;
        let stepping = draft.rng.percent(15);
        if !progress.steps.iter().all(|s| alignment_agreed(&s.insn)) {
            draft.regs.rflags &= !rflags::AC;
        }
        let input = draft.input(&progress.bytes);
        let Progress { steps, undefined, .. } = progress;
        // Registers that later instructions wanted may have moved the operands of earlier ones.
        if steps.iter().any(|s| contested(&s.insn, &input).is_some()) {
            return None;
        }
        Some(Case { form, name: None, seed, index, insn, steps, undefined, stepping, input })
    }

    /// A conditional jump over the next instruction: flags and registers are afterwards what either path left.
    fn skip(&self, draft: &mut Draft, progress: &mut Progress) {
        let before = progress.undefined;
        let opcode = 0x70 | draft.rng.below(16) as u8;
        let at = progress.bytes.len();
        let jump = decode(draft.form, &[opcode, 0], draft.regs.rip + at as u64);
        if undefined::from_iced(jump.rflags_read()) & before != 0 {
            return;
        }
        progress.bytes.extend([opcode, 0]);
        self.append(draft, progress, false);
        progress.bytes[at + 1] = (progress.bytes.len() - at - 2) as u8;
        let insn = decode(draft.form, &progress.bytes[at..], draft.regs.rip + at as u64);
        let step = Step { insn, undefined: before };
        let place =
            progress.steps.iter().position(|s| s.insn.ip() > insn.ip()).unwrap_or(progress.steps.len());
        progress.steps.insert(place, step);
        progress.undefined |= before;
    }

    /// One more instruction, if one can be found that goes with the others.
    fn append(&self, draft: &mut Draft, progress: &mut Progress, last: bool) {
        for _ in 0..8 {
            let before = draft.snapshot();
            let code = self.pool.pick(draft.rng, draft.form.compat, last);
            let at = draft.regs.rip + progress.bytes.len() as u64;
            if let Some((insn, bytes)) = self.next(draft, code, at, progress.undefined) {
                progress.bytes.extend(bytes);
                progress.steps.push(Step { insn, undefined: progress.undefined });
                let defined = insn.rflags_written() | insn.rflags_cleared() | insn.rflags_set();
                progress.undefined &= !undefined::from_iced(defined);
                progress.undefined |= undefined::from_iced(insn.rflags_undefined());
                draft.written |= written(&insn);
                return;
            }
            draft.restore(before);
        }
    }

    pub(super) fn next(
        &self,
        draft: &mut Draft,
        code: Code,
        at: u64,
        undefined: u64,
    ) -> Option<(Instruction, Vec<u8>)> {
        draft.begin(Form { code, compat: draft.form.compat }, at);
        draft.arrange_before();
        draft.operands()?;
        draft.arrange_after();
        small_count(draft);
        draft.lock(self.split_locks);
        if draft.uses_written_target() {
            return None;
        }
        let mut encoder = Encoder::new(draft.form.bitness());
        encoder.encode(&draft.insn, at).ok()?;
        let bytes = encoder.take_buffer();
        let insn = decode(draft.form, &bytes, at);
        let fits = insn.code() == code && insn.len() == bytes.len() && bytes.len() <= 15;
        let reads_undefined = undefined::from_iced(insn.rflags_read()) & undefined != 0;
        let input: Input = draft.input(&bytes);
        (fits && !reads_undefined && contested(&insn, &input).is_none()).then_some((insn, bytes))
    }
}

/// Shift counts of 1 to 7, which change flags in all cases.
fn small_count(draft: &mut Draft) {
    let shift = matches!(
        draft.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    );
    let constant = draft.info.op_kinds().contains(&iced_x86::OpCodeOperandKind::imm8_const_1);
    let immediate = (0..draft.insn.op_count()).any(|i| draft.insn.op_kind(i) == OpKind::Immediate8);
    if shift && immediate && !constant {
        let count = 1 + draft.rng.below(7) as u8;
        draft.insn.set_immediate8(count);
    }
}

/// General registers an instruction may write: bit per register.
pub(super) fn written(insn: &Instruction) -> u16 {
    let mut factory = InstructionInfoFactory::new();
    let writes = |access| {
        matches!(
            access,
            OpAccess::Write | OpAccess::ReadWrite | OpAccess::CondWrite | OpAccess::ReadCondWrite
        )
    };
    factory
        .info(insn)
        .used_registers()
        .iter()
        .filter(|u| writes(u.access()) && u.register().full_register().is_gpr64())
        .fold(0, |mask, u| mask | 1 << (u.register().full_register() as usize - Register::RAX as usize))
}
