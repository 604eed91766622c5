//! Cases from random bytes: what decodes as an instruction by chance, and what does not and must be #UD.

use cpu::x86::rflags;
use iced_x86::FlowControl;

use super::draft::Draft;
use super::{Case, decode, prefixes, undefined_everywhere};
use crate::contested::{alignment_agreed, contested};
use crate::forms::{Form, included};
use crate::layout::{CODE, CODE_LEN, DATA, PAGE, STACK};
use crate::rng::Rng;

impl super::Generator {
    pub(super) fn bytes(&self, form: Form, seed: u64, index: u64, rng: &mut Rng) -> Option<Case> {
        let mut draft = Draft::new(form, rng);
        // Most registers point to data, so that operands do.
        for register in 0..if form.compat { 8 } else { 16 } {
            if draft.rng.percent(60) {
                draft.regs.gpr[register] = DATA + draft.rng.below(2 * PAGE);
            }
        }
        draft.regs.gpr[4] = STACK + PAGE / 2;
        draft.regs.rip = CODE + 64 + draft.rng.below(CODE_LEN - 128);
        draft.at = draft.regs.rip;
        let bytes = random(draft.rng, form);
        let insn = decode(form, &bytes, draft.at);
        let code = Form { code: insn.code(), compat: form.compat };
        let len = if insn.is_invalid() {
            if !undefined_everywhere(form, &bytes) {
                return None;
            }
            bytes.len()
        } else {
            let next = matches!(insn.flow_control(), FlowControl::Next | FlowControl::Exception);
            if !next || !included(&self.model, code) || !prefixes::vendors_agree(code, &bytes) {
                return None;
            }
            insn.len()
        };
        if insn.is_invalid() || !alignment_agreed(&insn) {
            draft.regs.rflags &= !rflags::AC;
        }
        let input = draft.input(&bytes[..len]);
        if contested(&insn, &input).is_some() {
            return None;
        }
        let stepping = draft.rng.percent(25);
        Some(Case { form, name: None, seed, index, insn, steps: Vec::new(), undefined: 0, stepping, input })
    }
}

/// Prefixes, an opcode of one of the maps, and what may follow.
fn random(rng: &mut Rng, form: Form) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..rng.below(8).saturating_sub(5) {
        bytes.push(rng.pick(&prefixes::LEGACY));
    }
    if !form.compat && rng.percent(40) {
        bytes.push(0x40 | rng.below(16) as u8);
    }
    match rng.below(16) {
        0..=3 => {}
        4..=7 => bytes.push(0x0f),
        8..=9 => bytes.extend([0x0f, 0x38]),
        10 => bytes.extend([0x0f, 0x3a]),
        11..=12 => bytes.extend([0xc5, rng.next() as u8 | 0x80]),
        13..=14 => bytes.extend([0xc4, 0xe0 | (1 + rng.below(3) as u8), rng.next() as u8 | 0x78]),
        _ => bytes.push(0xd8 + rng.below(8) as u8),
    }
    while bytes.len() < 15 {
        bytes.push(rng.next() as u8);
    }
    bytes
}
