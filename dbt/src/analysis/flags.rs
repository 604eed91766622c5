//! Liveness of the arithmetic flags. Where no flag is live an address check may use a comparison.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction, Mnemonic, OpKind, Register, RflagsBits};

use crate::frontend::code32;

/// The six arithmetic flags.
pub const ALL: u32 =
    RflagsBits::OF | RflagsBits::SF | RflagsBits::ZF | RflagsBits::AF | RflagsBits::CF | RflagsBits::PF;

/// What stands beside the flags for the x87 unit's condition bits.
pub const X87: u32 = RflagsBits::C0 | RflagsBits::C1 | RflagsBits::C2 | RflagsBits::C3;

/// Flags an instruction surely overwrites.
fn overwritten(insn: &Instruction) -> u32 {
    use Mnemonic as M;
    if matches!(
        insn.mnemonic(),
        M::Shl | M::Sal | M::Shr | M::Sar | M::Rol | M::Ror | M::Rcl | M::Rcr | M::Shld | M::Shrd
    ) {
        // A count of zero leaves all flags alone.
        let last = insn.op_count() - 1;
        let counted = insn.op_kind(last) != OpKind::Register || insn.op_register(last) != Register::CL;
        let size = if insn.op_kind(0) == OpKind::Register {
            insn.op_register(0).size()
        } else {
            insn.memory_size().size()
        };
        let mask = if size == 8 { 63 } else { 31 };
        if !counted || insn.immediate(last) & mask == 0 {
            return 0;
        }
    }
    // So does a count of zero of a repeated comparison.
    if insn.is_string_instruction() && (insn.has_rep_prefix() || insn.has_repne_prefix()) {
        return 0;
    }
    insn.rflags_modified() & ALL
}

/// Flags live before an instruction, of those live behind it.
pub fn before(insn: &Instruction, behind: u32) -> u32 {
    behind & !overwritten(insn) | insn.rflags_read() & ALL
}

/// Takes from the flags of which it is `unknown` whether they are live those that an instruction overwrites. False where
/// the look ahead ends.
fn look(insn: &Instruction, unknown: &mut u32) -> bool {
    // Reading flags is not all that shows them: system instructions and string operations may save them.
    let shows = insn.rflags_read() & *unknown != 0 || insn.is_string_instruction() || insn.is_privileged();
    let goes_on = !shows && !insn.is_invalid() && insn.flow_control() == FlowControl::Next;
    if goes_on {
        *unknown &= !overwritten(insn);
    }
    goes_on && *unknown != 0
}

/// Flags live before `insns`, by a look at them alone.
pub fn live_before(insns: &[Instruction]) -> u32 {
    let mut unknown = ALL;
    let _ = insns.iter().all(|insn| look(insn, &mut unknown));
    unknown
}

/// Flags live where `bytes` are executed, by a look ahead of a few instructions, and how many bytes that answer depends on.
pub fn live_at(bytes: &[u8], code32: bool) -> (u32, usize) {
    let mut decoder = Decoder::new(code32::bits(code32), bytes, DecoderOptions::NONE);
    let mut insn = Instruction::default();
    let (mut unknown, mut seen) = (ALL, 0);
    for _ in 0..8 {
        decoder.decode_out(&mut insn);
        let before = unknown;
        let goes_on = look(&insn, &mut unknown);
        if unknown != before {
            seen = decoder.position();
        }
        if !goes_on {
            break;
        }
    }
    (unknown, seen)
}
