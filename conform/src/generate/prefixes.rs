//! Prefixes beyond what the encoder writes.

use iced_x86::FlowControl;

use crate::forms::Form;
use crate::rng::Rng;

pub(super) const LEGACY: [u8; 11] = [0x66, 0xf2, 0xf3, 0x67, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0xf0];

/// The bytes with one more prefix.
pub(super) fn with_another(rng: &mut Rng, form: Form, bytes: &[u8]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    if !form.compat && rng.percent(35) {
        // REX counts only right before the opcode.
        let at = bytes.iter().take_while(|b| LEGACY.contains(b)).count();
        let present = bytes.get(at).is_some_and(|b| (0x40..=0x4f).contains(b));
        if present && rng.percent(50) {
            changed[at] ^= 1 << rng.below(4);
        } else {
            let early = if rng.percent(20) { 0 } else { at };
            changed.insert(early, 0x40 | rng.below(16) as u8);
        }
        return changed;
    }
    changed.insert(0, rng.pick(&LEGACY));
    changed
}

/// False for prefix combinations that AMD and Intel decode differently: the operand size of near branches.
pub(super) fn vendors_agree(form: Form, bytes: &[u8]) -> bool {
    let flow = form.code.flow_control();
    let branch = !matches!(flow, FlowControl::Next | FlowControl::Interrupt | FlowControl::Exception);
    let small =
        bytes.iter().take_while(|b| LEGACY.contains(b) || (0x40..=0x4f).contains(*b)).any(|b| *b == 0x66);
    form.compat || !(branch && small)
}
