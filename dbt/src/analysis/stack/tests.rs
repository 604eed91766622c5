use iced_x86::{Decoder, DecoderOptions};
use interp::core::Mode;

use super::*;
use crate::analysis::flags;
use crate::frontend::class::class;

const MODE: Mode = Mode {
    user: true,
    user_pages: false,
    sse: true,
    avx: true,
    x87: true,
    smap: false,
    bases: true,
    tsc: true,
    code32: None,
};

/// The slots of instructions behind which all flags are dead.
fn slots_of(code: &[u8]) -> Vec<Slot> {
    let insns: Vec<_> = Decoder::new(64, code, DecoderOptions::NONE).iter().collect();
    let classes: Vec<_> = insns.iter().map(|i| class(i, MODE)).collect();
    let mut live = vec![0; insns.len()];
    let mut behind = 0;
    for (slot, insn) in live.iter_mut().zip(&insns).rev() {
        behind = flags::before(insn, behind);
        *slot = behind;
    }
    slots(&insns, &classes, &live)
}

#[test]
fn a_prologue_is_checked_once() {
    // push rbp; push rbx; sub rsp, 0x28; mov [rsp+8], rax; mov rcx, [rdi]; mov rdx, [rsp+0x20]
    let slots = slots_of(&[
        0x55, 0x53, 0x48, 0x83, 0xec, 0x28, 0x48, 0x89, 0x44, 0x24, 0x08, 0x48, 0x8b, 0x0f, 0x48, 0x8b, 0x54,
        0x24, 0x20,
    ]);
    let checks: Vec<_> = slots.iter().map(|s| s.check.clone()).collect();
    assert_eq!(checks, [Some(-0x30..0), None, None, None, None, None]);
    assert!(slots.iter().all(|s| s.inside));
}

#[test]
fn a_value_of_unknown_distance_ends_a_segment() {
    // push rax; mov rsp, rbp; pop rbp
    let slots = slots_of(&[0x50, 0x48, 0x89, 0xec, 0x5d]);
    assert_eq!(slots[0].check, Some(-8..0));
    assert_eq!(slots[2].check, Some(0..8));
    assert!(slots.iter().all(|s| s.inside), "the second instruction itself has no access");
}

#[test]
fn a_check_comes_early_where_flags_are_dead() {
    // add rsp, 0x18; pop rbx; setc al: the flags of the first are live behind it
    let slots = slots_of(&[0x48, 0x83, 0xc4, 0x18, 0x5b, 0x0f, 0x92, 0xc0]);
    assert_eq!(slots[0].check, Some(0x18..0x20));
    assert_eq!(slots[1], Slot { check: None, inside: true });
}

#[test]
fn what_one_check_covers_is_bounded() {
    // mov eax, [rsp]; mov eax, [rsp+0x3fc]; mov eax, [rsp+0x3f0]; sub rsp, 0x200; mov eax, [rsp]
    let slots = slots_of(&[
        0x8b, 0x04, 0x24, 0x8b, 0x84, 0x24, 0xfc, 3, 0, 0, 0x8b, 0x84, 0x24, 0xf0, 3, 0, 0, 0x48, 0x81, 0xec,
        0, 2, 0, 0, 0x8b, 0x04, 0x24,
    ]);
    assert_eq!(slots[0].check, Some(0..0x400));
    assert_eq!(slots[4].check, Some(0..4));
}

#[test]
fn other_addresses_are_not_of_the_stack() {
    // mov eax, [rsp+rcx]; mov eax, fs:[rsp]; mov eax, [esp]; mov eax, [rsp+0x12345]
    for code in [
        &[0x8b, 0x04, 0x0c][..],
        &[0x64, 0x8b, 0x04, 0x24],
        &[0x67, 0x8b, 0x04, 0x24],
        &[0x8b, 0x84, 0x24, 0x45, 0x23, 1, 0],
    ] {
        assert_eq!(slots_of(code), [Slot::default()], "{code:x?}");
    }
}
